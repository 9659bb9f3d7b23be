"""The command line from outside: exit statuses, one-line errors, offline decoding."""

from __future__ import annotations

import importlib.resources
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BODIES = Path(str(importlib.resources.files("ringcast.replay"))) / "bodies"


def ringcast(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "ringcast", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT / "ops"), "PYTHONUTF8": "1"},
        input=stdin,
        capture_output=True,
        timeout=60,
        check=False,
    )


def test_version() -> None:
    done = ringcast("--version")
    assert done.returncode == 0
    assert done.stdout.startswith(b"ringcast, version ")


def test_who_gives_no_text_at_a_terminal_is_told_what_is_waited_for(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "ringcast", "chat", "-m", "p/m", "--run-dir", str(tmp_path)]
    os.write(ours, b"hello\n\x04")
    try:
        done = subprocess.run(
            command, stdin=theirs, capture_output=True, text=True, timeout=60, check=False
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.stderr.startswith("ringcast: reading the text from the terminal, until Ctrl-D\n")
    assert "no daemon" in done.stderr


def test_help_names_the_commands() -> None:
    done = ringcast("--help")
    assert done.returncode == 0
    for name in (b"serve", b"chat", b"decode", b"demo", b"doctor", b"status"):
        assert name in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-command"],
        ["chat", "hi"],
        ["demo", "--corpus", "/no/such/folder"],
        ["demo", "--pace", "fast"],
        ["decode", "--provider", "nobody", "-"],
        ["decode", "--provider", "openai", "/no/such/file"],
        ["decode", "--provider", "openai", "--cut", "0", "-"],
        ["cancel", "not-hexadecimal"],
        ["doctor", "--no-such-option"],
    ],
    ids=" ".join,
)
def test_usage_error_is_two(arguments: list[str]) -> None:
    done = ringcast(*arguments)
    assert done.returncode == 2
    assert b"Error: " in done.stderr
    assert b"Traceback" not in done.stderr
    assert done.stdout == b""


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["status", "--json"],
        ["ps", "--json"],
        ["stop"],
        ["chat", "-m", "openai/gpt-4o", "hi"],
        ["cancel", "00" * 16],
    ],
    ids=" ".join,
)
def test_not_running_is_three(arguments: list[str], tmp_path: Path) -> None:
    done = ringcast(*arguments[:1], "--run-dir", str(tmp_path / "run"), *arguments[1:])
    assert done.returncode == 3
    assert done.stderr.startswith(b"ringcast: no daemon: ")
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == b""


def test_fault_in_configuration_is_78(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("[proccesses]\nworkers = 2\n")
    done = ringcast("serve", "--config", str(path), "--run-dir", str(tmp_path / "run"))
    assert done.returncode == 78
    assert b"did you mean processes?" in done.stderr


def decoded(*arguments: str, stdin: bytes = b"") -> bytes:
    done = ringcast("decode", *arguments, stdin=stdin)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_decode_prints_a_token_a_line() -> None:
    file = BODIES / "openai-chat-text-usage.sse"
    tokens = [json.loads(line) for line in decoded("--provider", "openai", str(file)).splitlines()]
    assert {token["token"] for token in tokens} == {"text", "usage", "done"}
    assert tokens[-1]["finish_reason"] == "stop"
    assert tokens[-1]["model"] == "gpt-4o-mini-2024-07-18"
    text = "".join(token["content"] for token in tokens if token["token"] == "text")
    assert text.startswith("A ring buffer lets a producer")


@pytest.mark.parametrize("cut", [["--cut", "1"], ["--cut", "7"], ["--cut-seed", "4"]], ids=" ".join)
@pytest.mark.parametrize(
    "name", ["anthropic-tool-use.sse", "anthropic-thinking-text.sse", "deepseek-chat-reasoning.sse"]
)
def test_decode_does_not_depend_on_cuts(name: str, cut: list[str]) -> None:
    arguments = ["--provider", name.partition("-")[0], str(BODIES / name)]
    assert decoded(*cut, *arguments) == decoded(*arguments)


def test_decode_summary_of_standard_input() -> None:
    body = (BODIES / "anthropic-tool-use.sse").read_bytes()
    summary = json.loads(decoded("--provider", "anthropic", "--summary", "-", stdin=body))
    assert [call["name"] for call in summary["tool_calls"]] == ["run_command"]
    assert json.loads(summary["tool_calls"][0]["arguments"])["command"].startswith("grep ")
    assert summary["error"] is None
    assert summary["finish_reason"] == "tool_use"


def test_decode_legacy_api() -> None:
    file = BODIES / "openai-completions-legacy.sse"
    arguments = ["--provider", "openai", "--api", "completions", "--summary", str(file)]
    assert "previous, current" in json.loads(decoded(*arguments))["text"]


def test_decode_error_body() -> None:
    file = BODIES / "openai-err-401.json"
    arguments = ["--provider", "openai", "--status", "401", str(file)]
    (token,) = (json.loads(line) for line in decoded(*arguments).splitlines())
    assert token["token"] == "error"
    assert token["code"] == "auth"
    assert token["status"] == 401
