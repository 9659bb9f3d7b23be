"""Where keys come from, and that nothing shows them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from ringcast.config import Key, Provider
from ringcast.errors import ConfigError
from ringcast.providers import keys
from ringcast.providers.keys import Secret

CANARY = "sk-canary-7d1e"


def resolve(key: Key | None, **environment: str) -> Secret | None:
    return keys.resolve("up", Provider("openai", key=key), environment)


def refused(key: Key, **environment: str) -> str:
    with pytest.raises(ConfigError) as caught:
        resolve(key, **environment)
    assert CANARY not in str(caught.value)
    return str(caught.value)


def revealed(key: Key, **environment: str) -> str:
    secret = resolve(key, **environment)
    assert secret is not None
    return secret.reveal()


def key_file(tmp_path: Path, data: bytes, mode: int = 0o600) -> Key:
    path = tmp_path / "key"
    path.write_bytes(data)
    path.chmod(mode)
    return Key(file=str(path))


def test_a_secret_shows_nothing() -> None:
    secret = Secret(CANARY)
    assert secret.reveal() == CANARY
    for shown in (repr(secret), str(secret), f"{secret}", f"{[secret]}"):
        assert CANARY not in shown


def test_no_key_is_needed() -> None:
    assert resolve(None) is None


@pytest.mark.parametrize("around", ["{}", "{}\n", " {}\r\n", "\ufeff{}\n"])
def test_space_around_a_key_is_trimmed(around: str, tmp_path: Path) -> None:
    value = around.format(CANARY)
    assert revealed(Key(env="K"), K=value) == CANARY
    assert revealed(key_file(tmp_path, value.encode())) == CANARY


@pytest.mark.parametrize(
    "value",
    [f'"{CANARY}"', f"'{CANARY}'", f"{CANARY} x", f"{CANARY}\r\nx: y", f"{CANARY}\u00e9"],
    ids=["double quotes", "quotes", "space", "line", "letter"],
)
def test_what_no_key_has_is_refused(value: str, tmp_path: Path) -> None:
    assert refused(Key(env="K"), K=value).startswith("K holds characters that no key has")
    assert "holds characters" in refused(key_file(tmp_path, value.encode()))


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    assert "holds characters" in refused(Key(env="K"), K=os.fsdecode(b"sk-\xff"))
    assert "holds characters" in refused(key_file(tmp_path, b"sk-\xff"))


def test_missing_and_empty_variable() -> None:
    assert refused(Key(env="K")) == "K is not set"
    assert refused(Key(env="K"), K=" \n") == "K is empty"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o606])
def test_a_file_that_others_can_open_is_refused(mode: int, tmp_path: Path) -> None:
    key = key_file(tmp_path, CANARY.encode(), mode)
    assert refused(key) == f"key file {key.file} has mode {mode:o}; run chmod 600 {key.file}"


def test_a_file_that_is_none(tmp_path: Path) -> None:
    assert (
        refused(Key(file=f"{tmp_path}/no")) == f"key file {tmp_path}/no: No such file or directory"
    )
    assert "is not a regular file" in refused(Key(file=str(tmp_path)))
    os.mkfifo(tmp_path / "fifo", 0o600)
    assert "is not a regular file" in refused(Key(file=f"{tmp_path}/fifo"))


def test_a_file_too_long_for_a_key_is_refused_and_not_cut(tmp_path: Path) -> None:
    assert "larger than 4096 bytes" in refused(key_file(tmp_path, b"k" * 10_000))


def test_a_file_in_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    key_file(tmp_path, CANARY.encode())
    assert revealed(Key(file="~/key")) == CANARY


def python(code: str) -> Key:
    return Key(command=[sys.executable, "-c", code])


def test_a_command_prints_the_key() -> None:
    assert revealed(python(f"print({CANARY!r})")) == CANARY


def test_a_command_gets_no_other_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER_API_KEY", CANARY)
    code = "import os, sys; sys.stdin.read(); print(os.environ.get('OTHER_API_KEY', 'none'))"
    assert revealed(python(code)) == "none"


def test_a_command_that_fails() -> None:
    text = refused(python(f"import sys; print({CANARY!r}, file=sys.stderr); sys.exit(3)"))
    assert text.endswith("ended with status 3")
    assert refused(python("")).endswith("is empty")
    assert refused(Key(command=["/no/such"])) == "key command /no/such: FileNotFoundError"


def test_a_command_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "COMMAND_TIMEOUT_S", 1)
    assert refused(python("input = __import__('time').sleep(60)")).endswith("TimeoutExpired")


def test_the_system_keyring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "keyring"
    program.write_text('#!/bin/sh\necho "sk-$1-$2-$3"\n')
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "needs the `keyring` command" in refused(Key(keyring="work"))
    program.chmod(0o700)
    assert revealed(Key(keyring="work")) == "sk-get-work-up"
