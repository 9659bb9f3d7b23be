"""`ringcast chat`: what is shown, what Ctrl-C does, and the exit statuses."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pty
import signal
import subprocess
from collections.abc import Iterator

import pytest
from fakes.daemon import (
    CANARY_KEY,
    ONCE,
    PATIENCE_S,
    Daemon,
    command,
    daemon,
    environment,
    free_port,
    in_loop,
    until,
)

from ringcast import conversation
from ringcast.conversation import DIM, PLAIN, Screen
from ringcast.replay.numbered import numbered_tokens
from ringcast.replay.process import Spawned, spawned
from ringcast.shm.tokens import (
    Delta,
    Done,
    Error,
    Reasoning,
    Refusal,
    StreamToken,
    Text,
    ToolCall,
    Usage,
)


class Terminal(io.StringIO):
    """Says that it is one."""

    def isatty(self) -> bool:
        return True


def shown(*tokens: StreamToken, on: type[io.StringIO] = io.StringIO) -> str:
    out = on()
    screen = Screen(out)
    for token in tokens:
        screen.show(token)
    return out.getvalue()


def test_text_is_shown_as_it_is() -> None:
    assert shown(Text("a"), Delta("b"), Refusal("c"), Done()) == "abc\n"
    assert shown(Text("a\tb\nc\u00a0\u00e9\U0001f600")) == "a\tb\nc\u00a0\u00e9\U0001f600"


def test_only_the_first_choice_is_shown() -> None:
    assert shown(Delta("a", 0), Delta("b", 1), Refusal("c", 1)) == "a"


def test_what_is_no_text_is_not_shown() -> None:
    assert shown(Usage(1, 2), Reasoning("", signature="x")) == ""


def test_thoughts_stand_apart() -> None:
    assert shown(Reasoning("hm"), Reasoning("m"), Text("a"), Done()) == "hmm\n\na\n"
    tokens = (Reasoning("hm"), Text("a"), Done())
    assert shown(*tokens, on=Terminal) == f"{DIM}hm\n\n{PLAIN}a{PLAIN}\n"


def test_a_tool_call_has_its_own_line() -> None:
    call = (ToolCall(0, "t", "f"), ToolCall(0, arguments='{"a'), ToolCall(0, arguments='"}'))
    assert shown(Text("so"), *call, Error("x", "y")) == 'so\n[f] {"a"}\n'


@pytest.mark.parametrize("code", ["\x1b[2J", "\x1b]0;title\x07", "\x9b2J", "\x08\x7f", "\r"])
@pytest.mark.parametrize("token", [Text, Reasoning, Refusal, lambda x: ToolCall(0, None, x, x)])
def test_a_model_cannot_command_the_terminal(token: type[Text], code: str) -> None:
    assert not set("\x1b\x07\x08\x7f\x9b\r") & set(shown(token(f"a{code}b")))


# The command


@pytest.fixture(scope="module")
def upstream() -> Iterator[Spawned]:
    with spawned(knobs="pace=0") as running:
        yield running


@pytest.fixture(scope="module")
def running(upstream: Spawned) -> Iterator[Daemon]:
    config = f"""
        [providers.up]
        kind = "openai-compatible"
        base_url = "{upstream.url}/v1"
        [providers.claude]
        kind = "anthropic"
        base_url = "{upstream.url}/v1"
        [providers.closed]
        kind = "openai-compatible"
        base_url = "http://127.0.0.1:{free_port()}/v1"
        [providers.locked]
        kind = "openai"
    """
    with daemon(config + ONCE, CANARY=CANARY_KEY) as one:
        yield one


def chat(running: Daemon, model: str, *more: str, stdin: str = "") -> tuple[int, str, str]:
    """Run it to its end: exit status, output, errors."""
    done = subprocess.run(
        command("chat", "--run-dir", str(running.directory), "-m", model, *more),
        env=environment(PYTHONUTF8="1"),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def talking(running: Daemon, model: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
    """Start it."""
    return subprocess.Popen(
        command("chat", "--run-dir", str(running.directory), "-m", model, "hi"),
        env=environment(),
        stdout=stdout,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize("provider", ["up", "claude"])
def test_the_answer_goes_to_standard_output(provider: str, running: Daemon) -> None:
    text = "".join(numbered_tokens(50, 3)) + "\n"
    options = ("--max-tokens", "9", "--temperature", "0", "-s", "be brief")
    assert chat(running, f"{provider}/numbered;n=50;seed=3", *options, "hi") == (0, text, "")


def test_the_question_can_come_from_standard_input(running: Daemon) -> None:
    assert chat(running, "up/numbered;n=1", stdin="hi")[0] == 0


def test_tokens_as_json(running: Daemon) -> None:
    status, said, wrong = chat(running, "up/numbered;n=3", "--json", "hi")
    tokens = [json.loads(line) for line in said.splitlines()]
    assert (status, wrong) == (0, "")
    assert [token["token"] for token in tokens] == ["text"] * 3 + ["usage", "done"]
    assert tokens[-1]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("model", "status", "code"),
    [
        ("up/numbered;status=401", 77, "auth"),
        ("claude/numbered;status=401", 77, "auth"),
        ("up/numbered;status=429", 75, "rate_limited"),
        ("up/numbered;status=503", 75, "overloaded"),
        ("up/numbered;status=500", 69, "http_status"),
        ("up/numbered;status=400", 1, "bad_request"),
        ("up/numbered;status=404", 1, "model_not_found"),
        ("up/numbered;eof_at=2000", 69, "stream_incomplete"),
        ("closed/x", 69, "connect_failed"),
        ("nobody/x", 1, "unknown_provider"),
        ("locked/x", 1, "provider_disabled"),
        ("nothing", 1, "bad_request"),
    ],
)
def test_an_error_is_one_line_and_a_status(
    model: str, status: int, code: str, running: Daemon
) -> None:
    ended, said, wrong = chat(running, model, "hi")
    assert (ended, wrong.startswith(f"ringcast: {code}: ")) == (status, True), wrong
    assert len(wrong.splitlines()) == 1
    if code != "stream_incomplete":
        assert said.strip() == ""


def test_an_error_as_json(running: Daemon) -> None:
    status, said, wrong = chat(running, "up/numbered;status=401", "--json", "hi")
    assert (status, wrong) == (77, "")
    assert json.loads(said)["code"] == "auth"


@pytest.mark.parametrize("model", ["numbered;n=0;pace=100", "numbered;n=0;stall_at=2000"])
def test_an_interrupt_cancels_upstream(model: str, running: Daemon, upstream: Spawned) -> None:
    process = talking(running, f"up/{model}")
    assert process.stdout is not None
    assert os.read(process.stdout.fileno(), 2) == b"0:"
    assert upstream.stats().open_streams == 1
    process.send_signal(signal.SIGINT)
    _, wrong = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert wrong.startswith(b"ringcast: cancelled: ")
    assert len(wrong.splitlines()) == 1
    until(lambda: upstream.stats().open_streams == 0, "the end upstream")


def test_an_interrupt_before_the_answer_begins(running: Daemon, upstream: Spawned) -> None:
    requests = upstream.stats().requests
    process = talking(running, "up/numbered;delay_s=1000")
    until(lambda: upstream.stats().requests > requests, "the request")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    until(lambda: upstream.stats().open_streams == 0, "the end upstream")


class Cancelled:
    """A stream that notes when it is cancelled."""

    def __init__(self) -> None:
        self.seen = asyncio.Event()

    async def cancel(self) -> None:
        self.seen.set()


@in_loop
async def test_only_the_first_interrupt_is_ours() -> None:
    """A second one ends the program, as where the daemon does not answer."""
    stream = Cancelled()
    conversation.cancel_on_interrupt(stream)
    os.kill(os.getpid(), signal.SIGINT)
    await stream.seen.wait()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_output_that_is_closed_ends_it_silently(running: Daemon) -> None:
    process = talking(running, "up/numbered;n=0;pace=1000")
    assert process.stdout is not None
    assert process.stderr is not None
    os.read(process.stdout.fileno(), 1)
    process.stdout.close()
    assert process.wait(PATIENCE_S) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


def test_colours_on_a_terminal_only(running: Daemon) -> None:
    ours, theirs = pty.openpty()
    process = talking(running, "up/deepseek/chat-reasoning", stdout=theirs)
    os.close(theirs)
    said = b""
    with open(ours, "rb", buffering=0) as terminal:
        try:
            while data := terminal.read(4096):
                said += data
        except OSError:  # how Linux tells that the other side is closed
            pass
    assert process.wait(PATIENCE_S) == 0
    assert DIM.encode() in said
    process.communicate()
    assert "\x1b" not in chat(running, "up/deepseek/chat-reasoning", "hi")[1]
