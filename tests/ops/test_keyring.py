"""Key variables on their way: all that providers name, nothing else, and no trace of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ringcast import keyring
from ringcast.config import Config, Key, Provider, complete

CONFIG = Config(
    {
        "a": Provider("openai", key=Key(env="A_KEY")),
        "b": Provider("openai", key=Key(env="B_KEY")),
        "c": Provider("openai", key=Key(file="/c")),
        "d": Provider("openai"),
    }
)


@contextmanager
def packed(environment: dict[str, str]) -> Iterator[int]:
    fd = keyring.pack(CONFIG, environment)
    try:
        yield fd
    finally:
        os.close(fd)


def test_only_what_providers_name_is_taken() -> None:
    environment = {"A_KEY": "sk-a", "PATH": "/bin", "C_KEY": "sk-c"}
    with packed(environment) as fd:
        assert keyring.unpack(fd) == {"A_KEY": "sk-a"}
        assert keyring.unpack(fd) == {"A_KEY": "sk-a"}  # the next process needs them too
        assert os.get_inheritable(fd)
    assert keyring.without(CONFIG, environment) == {"PATH": "/bin", "C_KEY": "sk-c"}


def test_what_the_tools_of_aws_and_azure_know_is_taken_too() -> None:
    secrets = {"AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "t", "AZURE_OPENAI_API_KEY": "k"}
    environment = secrets | {"AWS_REGION": "us-east-1"}
    fd = keyring.pack(complete(Config()), environment)
    try:
        assert keyring.unpack(fd) == secrets
    finally:
        os.close(fd)
    assert keyring.without(complete(Config()), environment) == {"AWS_REGION": "us-east-1"}


def test_a_value_that_is_no_text_survives() -> None:
    value = os.fsdecode(b"sk-\xff")
    with packed({"B_KEY": value}) as fd:
        assert keyring.unpack(fd) == {"B_KEY": value}


def test_without_memfd_it_is_an_unlinked_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with packed({"A_KEY": "sk-a"}) as fd:
        assert keyring.unpack(fd) == {"A_KEY": "sk-a"}
        assert os.fstat(fd).st_nlink == 0
    assert list(tmp_path.iterdir()) == []
