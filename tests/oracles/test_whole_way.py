"""What an SDK gets of an upstream, a provider in this process and the whole daemon get too.

A stream, one with calls and a whole answer of each API; the other tests here read all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pytest
from fakes.daemon import Daemon, daemon, in_loop

from oracles.answers import RECORDINGS, Json, differing, name, of_tokens, ours, parsed
from ringcast.config import Kind
from ringcast.config import Provider as Section
from ringcast.providers.provider import Provider
from ringcast.replay.recording import Recording

# Who has an API: the kind, and where its paths begin.
PLACES: Final[dict[str, tuple[Kind, str]]] = {
    "chat": ("openai-compatible", "/v1"),
    "completions": ("openai-compatible", "/v1"),
    "responses": ("openai-compatible", "/v1"),
    "messages": ("anthropic", "/v1"),
    "complete": ("anthropic", "/v1"),
    "generate": ("gemini", "/v1beta"),
    "converse": ("bedrock", ""),
}
SDKS: Final = {
    "openai-compatible": "oracles.openai_sdk",
    "anthropic": "oracles.anthropic_sdk",
    "gemini": "oracles.google_sdk",
    "bedrock": "oracles.aws_sdk",
}


def picked() -> Iterator[Recording]:
    """A few of each API, whose names say nothing else to a provider."""
    for api in PLACES:
        good = [r for r in RECORDINGS if r.api == api and r.status == 200]
        told = [(r, ours(r)["choices"][0]["tool_calls"]) for r in good if r.streamed]
        yield from [r for r, calls in told if not calls][:1]
        yield from [r for r, calls in told if calls][:1]
        yield from [r for r in good if not r.streamed][:1]


PICKED: Final = list(picked())


@pytest.fixture(scope="module")
def started(url: str) -> Iterator[Daemon]:
    """A daemon with a provider of each kind at the upstream."""
    sections = [
        f'[providers.{kind}]\nkind = "{kind}"\nbase_url = "{url}{path}"\nkey = {{ env = "KEY" }}\n'
        for kind, path in dict(PLACES.values()).items()
    ]
    with daemon("".join(sections), KEY="key-of-nobody", AWS_REGION="us-east-1") as running:
        yield running


def theirs(recording: Recording, url: str) -> Json:
    sdk: Any = pytest.importorskip(SDKS[PLACES[recording.api][0]])
    answer: Json = sdk.Reader(url).read(recording)
    return answer


def asked(recording: Recording) -> tuple[str, Json]:
    """The model to ask for, and how."""
    model = f"{PLACES[recording.api][0]}/{recording.name}"
    how: Json = {"api": recording.api, "stream": recording.streamed}
    if recording.api in ("completions", "complete"):
        return model, how | {"prompt": "hi"}
    return model, how | {"messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize("recording", PICKED, ids=name)
@in_loop
async def test_in_this_process(recording: Recording, url: str) -> None:
    kind, path = PLACES[recording.api]
    model, how = asked(recording)
    section = Section(kind, base_url=url + path, region="us-east-1" if kind == "bedrock" else "")
    async with Provider(kind, section, key="key-of-nobody") as provider:
        ask = provider.complete_stream if "prompt" in how else provider.chat_stream
        own = of_tokens([token async for token in ask(model.partition("/")[2], **how)])
    assert not differing(parsed(theirs(recording, url)), parsed(own))


@pytest.mark.parametrize("recording", PICKED, ids=name)
@in_loop
async def test_through_the_daemon(recording: Recording, url: str, started: Daemon) -> None:
    model, how = asked(recording)
    async with started.connect() as client:
        ask = client.complete if "prompt" in how else client.chat
        own = of_tokens([token async for token in await ask(model, **how)])
    assert not differing(parsed(theirs(recording, url)), parsed(own))
