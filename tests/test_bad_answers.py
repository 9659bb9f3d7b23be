"""Bad bodies through the real daemon: floods, stutters, errors and broken events of every dialect.

The names of the cases begin with their rows; `test_bad_input` has the table.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fakes.daemon import (
    ONCE,
    Daemon,
    ask,
    canaries,
    daemon,
    free_port,
    in_loop,
    no_descriptor_left,
    replaying,
    take,
)
from fakes.raw import (
    CHUNKED,
    Case,
    Script,
    answer,
    answering,
    chunk,
    ended,
    events,
    said,
)

from ringcast.errors import Code
from ringcast.shm.tokens import Done, ToolCall

Json = dict[str, Any]

CANARIES = 8
REPLAY, RAW = free_port(), free_port()
CONFIG = f"""
[providers.up]
kind = "openai-compatible"
base_url = "http://127.0.0.1:{REPLAY}/v1"
[providers.raw]
kind = "openai-compatible"
base_url = "http://127.0.0.1:{RAW}/v1"
[providers.claude]
kind = "anthropic"
base_url = "http://127.0.0.1:{RAW}/v1"
[providers.gemini]
kind = "gemini"
base_url = "http://127.0.0.1:{RAW}/v1beta"
[limits]
max_line_bytes = 2000000
max_event_bytes = 4000000
[timeouts]
idle_s = 10
"""
FLOOD = 65_536  # bytes of one write of a flood
JSON = "content-type: application/json"


def stream(*payloads: Json | str) -> bytes:
    """Events of one `data:` line each, as OpenAI sends them."""
    lines = (one if isinstance(one, str) else json.dumps(one) for one in payloads)
    return b"".join(b"data: " + line.encode() + b"\n\n" for line in lines)


def named(*payloads: Json) -> bytes:
    """Events with their names, as Anthropic sends them."""
    return b"".join(b"event: " + one["type"].encode() + b"\n" + stream(one) for one in payloads)


def delta(**fields: Any) -> Json:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": None}]}


def text_delta(text: str) -> Json:
    return {
        "type": "content_block_delta",
        "index": 0,
        "delta": {"type": "text_delta", "text": text},
    }


def generated(text: str, **fields: Any) -> Json:
    return {"candidates": [{"content": {"parts": [{"text": text}]}, "index": 0} | fields]}


def called(index: Any, **function: Any) -> Json:
    return {"tool_calls": [{"index": index, "id": f"c{index}", "function": function}]}


OK, DONE = stream(delta(content="ok")), stream("[DONE]")
STOP: Json = {"type": "message_stop"}
CLAUDE = named({"type": "message_start", "message": {"id": "m"}}, text_delta("ok"))
FINISH = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
MANY_CALLS = b"".join(stream(delta(**called(i, name="f"))) for i in range(300))


def bad(body: bytes, code: Code, message: str, text: str = "ok", **more: Any) -> Case:
    """A body that goes wrong behind its first words."""
    return Case(Script(events(body), **more), code, message, text)


def error_event(data: str, message: str) -> Case:
    return bad(OK + b"event: error\n" + stream(data), Code.PROVIDER_ERROR, message)


LINE = r".* 2000000 bytes \(limits\.max_line_bytes\)"
EVENT = r".* 4000000 bytes \(limits\.max_event_bytes\)"
BAD = {
    "P50-endless-line": bad(OK + b"data: ", Code.SSE_LINE_TOO_LONG, LINE, again=b"x" * FLOOD),
    "P50-line-in-1-byte-chunks": Case(
        Script(CHUNKED + chunk(OK + b"data: ") + chunk(b"x") * 300_000, again=chunk(b"x" * FLOOD)),
        Code.SSE_LINE_TOO_LONG,
        LINE,
        "ok",
    ),
    "P51-endless-event": bad(
        OK, Code.SSE_EVENT_TOO_LONG, EVENT, again=(b"data: " + b"x" * 249 + b"\n") * 256
    ),
    "P51-many-data-lines": bad(
        OK + b"data: x\n" * 150_000 + b"\n", Code.SSE_EVENT_TOO_LONG, ".* 100000 data lines"
    ),
    "P59-object": error_event('{"error": {"message": "sorry", "code": 7}}', "sorry"),
    "P59-string": error_event('"sorry"', "sorry"),
    "P59-number": error_event("5", "5"),
    "P59-nested": error_event('[{"error": {"message": {"deep": ["sorry"]}}}]', ".*sorry.*"),
    "P59-html": error_event("<html>\x1b[31msorry</html>", r"<html>\\x1b\[31msorry</html>"),
    "P59-in-data": bad(OK + stream({"error": "sorry"}) + OK, Code.PROVIDER_ERROR, "sorry"),
    "P61-array-cut-off": Case(
        Script(events(b"[" + json.dumps(generated("ok")).encode())),
        Code.STREAM_INCOMPLETE,
        "the array of chunks was cut",
        "ok",
    ),
    "J01-no-json": bad(OK + stream("{bad"), Code.BAD_EVENT, r"bad event: .*\(byte 1\): \{bad"),
    "J01-two-objects": bad(OK + stream("{}{}"), Code.BAD_EVENT, r"bad event: .*\{\}\{\}"),
    "J02-arrays": bad(
        OK + stream('{"zz":' + "[" * 100_000), Code.BAD_EVENT, "bad event: nested too deeply: .*"
    ),
    "J02-objects": bad(
        OK + stream('{"a":' * 100_000 + "1" + "}" * 100_000),
        Code.BAD_EVENT,
        "bad event: nested too deeply: .*",
    ),
    "J09-many-choices": bad(
        OK + stream({"choices": [{}] * 10_000}), Code.BAD_EVENT, ".*more than 128 choices.*"
    ),
    "J10-choice-index": bad(
        OK + stream({"choices": [{"index": 10**9}]}),
        Code.BAD_EVENT,
        ".*choice index out of range, 0 to 127: 1000000000",
    ),
    "J11-call-index": bad(
        OK + stream(delta(**called(-1))), Code.BAD_EVENT, ".*tool call index -1 out of range"
    ),
    "J12-many-calls": bad(OK + MANY_CALLS, Code.TOOL_CALL_LIMIT, "more than 256 tool calls"),
    "J12-long-arguments": bad(
        OK,
        Code.TOOL_ARGS_LIMIT,
        ".*longer than 16777216 characters",
        again=stream(delta(**called(0, arguments="x" * 1_000_000))),
    ),
}


class Odd(NamedTuple):
    """What is odd, and all the same a whole answer with this text."""

    script: Script
    text: str = "ok"
    provider: str = "raw"


def odd(body: bytes, text: str = "ok", provider: str = "raw", **more: Any) -> Odd:
    return Odd(Script(events(body), **more), text, provider)


ODD = {
    "P52-comment": odd(OK + b": " + b"x" * 3_000_000 + b"\n" + DONE),
    "P52-unknown-field": odd(OK + b"unknown-field: " + b"x" * 3_000_000 + b"\n" + DONE),
    "P53-blank-lines": odd(b"\n" * 1_000_000 + OK + b"\r\n" * 1_000_000 + DONE),
    "P53-events-without-data": odd(
        b"event: x\n" * 300_000 + b"\n" + OK + b"event:\n\n" * 300_000 + DONE
    ),
    "P54-empty-events": odd(OK + b"data:\n\n" * 300_000 + DONE),
    "P57-after-done": odd(OK + DONE, again=OK * 500),
    "P57-after-message-stop": odd(CLAUDE + named(STOP), provider="claude", again=CLAUDE * 500),
    "P58-two-dones": odd(OK + DONE + DONE),
    "P58-two-message-stops": odd(CLAUDE + named(STOP, STOP), provider="claude"),
    "P58-content-behind-the-reason": odd(OK + stream(FINISH) + OK + DONE, "okok"),
    "P59-null": odd(
        OK + b"event: error\ndata: null\n\n" + stream({"error": None}) + OK + DONE, "okok"
    ),
    "P61-array": Odd(
        Script(
            answer(
                "200 OK",
                json.dumps([generated("o"), generated("k", finishReason="STOP")]).encode(),
                JSON,
            )
        ),
        provider="gemini",
    ),
    "J03-utf-8": odd(OK.replace(b"ok", b"o\xffk\xe2\x82") + DONE, "o\ufffdk\ufffd"),
    "J04-half-an-emoji-each": odd(
        stream('{"choices":[{"delta":{"content":"\\ud83d"}}]}') * 2
        + stream('{"choices":[{"delta":{"content":"\\ude00"}}]}')
        + DONE,
        "\ufffd\U0001f600",
    ),
    "J15-a-megabyte-at-once": odd(
        stream(delta(content="word " * 300_000)) + DONE, "word " * 300_000
    ),
    "J16-empty-deltas": odd(stream(delta(content="")) * 100_000 + OK + DONE),
    "J16-one-character-each": odd(stream(delta(content="x")) * 50_000 + DONE, "x" * 50_000),
    "J21-controls": odd(
        stream(delta(content="\x1b[31m\0\u202e" + "e" + "\u0301" * 10_000)) + DONE,
        "\x1b[31m\0\u202e" + "e" + "\u0301" * 10_000,
    ),
}


def script_of(name: str) -> Script:
    """What the raw upstream does when it is asked for a case."""
    return BAD[name].script if name in BAD else ODD[name].script


@pytest.fixture(scope="module")
def running() -> Iterator[Daemon]:
    with daemon(CONFIG + ONCE) as started, no_descriptor_left(started, REPLAY):
        yield started


@pytest.mark.parametrize("name", BAD)
@in_loop
async def test_bad(running: Daemon, name: str) -> None:
    """One error, behind all that was said; the connection is closed, and others go on."""
    case = BAD[name]
    provider = "gemini" if name.startswith("P61") else "raw"
    async with (
        replaying(REPLAY),
        answering(RAW, script_of) as raw,
        canaries(running, count=CANARIES),
        running.connect() as client,
    ):
        tokens = await take(await ask(client, f"{provider}/{name}"))
        assert said(tokens) == case.text
        ended(tokens, case.code, case.message)
        await raw.until_left()


@pytest.mark.parametrize("name", ODD)
@in_loop
async def test_odd_but_whole(running: Daemon, name: str) -> None:
    """It is read to its end and not beyond."""
    case = ODD[name]
    async with (
        replaying(REPLAY),
        answering(RAW, script_of) as raw,
        canaries(running, count=CANARIES),
        running.connect() as client,
    ):
        tokens = await take(await ask(client, f"{case.provider}/{name}"))
        assert said(tokens) == case.text
        assert [isinstance(token, Done) for token in tokens][-2:] == [False, True]
        await raw.until_left()


@in_loop
async def test_j13_arguments_that_never_become_json(running: Daemon) -> None:
    """They are passed on as they are; at the end it is said."""
    cut = [delta(**called(0, name="f", arguments='{"a"')), delta(**called(0, arguments=": [1,"))]
    body = stream(*cut, FINISH) + DONE
    async with answering(RAW, lambda _: Script(events(body))), running.connect() as client:
        *calls, done = await take(await ask(client, "raw/x"))
        assert calls == [ToolCall(0, "c0", "f", '{"a"'), ToolCall(0, arguments=": [1,")]
        assert isinstance(done, Done)
        assert done.arguments_valid is False


FLOODS = (
    "P50-endless-line",
    "P51-endless-event",
    "P52-comment",
    "P57-after-done",
    "J12-long-arguments",
)
GROWTH_KIB = 12 << 10


def forget_peak(pid: int) -> None:
    """Let `peak_kib` begin anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_kib(pid: int) -> int:
    """The most memory that a process had resident since `forget_peak`."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


@in_loop
async def test_floods_are_not_kept(running: Daemon) -> None:
    """No process grows by more than three of the largest events that are allowed."""
    for pid in running.pids:
        forget_peak(pid)
    before = {pid: peak_kib(pid) for pid in running.pids}
    async with answering(RAW, script_of) as raw, running.connect() as client:
        for name in FLOODS:
            await take(await ask(client, f"raw/{name}"))
            await raw.until_left()
    grown = {pid: peak_kib(pid) - kib for pid, kib in before.items()}
    assert max(grown.values()) < GROWTH_KIB, grown
