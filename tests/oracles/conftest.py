"""The replay upstream that the SDKs and we read from."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from oracles.answers import FOLDER
from oracles.writing import Capture, capturing
from ringcast.replay.process import spawned

# By these the SDKs are told of keys, addresses and ways to them.
_TELLING = ("ANTHROPIC_", "AWS_", "AZURE_", "GEMINI_", "GOOGLE_", "OPENAI_", "HTTP", "ALL_PROXY")


@pytest.fixture(scope="module", autouse=True)
def _told_nothing() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.upper().startswith(_TELLING)]:
            patch.delenv(name)
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            patch.setenv(name, os.devnull)
        yield


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    """Where recordings are served, each to who asks for a model of its name."""
    with spawned(folder=FOLDER, knobs="pace=0") as upstream:
        yield upstream.url


@pytest.fixture(scope="session")
def capture() -> Iterator[Capture]:
    """Where requests are looked at."""
    with capturing() as upstream:
        yield upstream
