"""Bad answers of providers: each ends its own stream with one clear line, and no other."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from fakes.daemon import (
    CANARY_KEY,
    Daemon,
    ask,
    canaries,
    daemon,
    free_port,
    in_loop,
    replaying,
    take,
    texts,
)
from fakes.raw import Script, answer, answering, events

from ringcast.errors import Code, RequestError
from ringcast.replay.numbered import numbered_tokens
from ringcast.shm.tokens import Done, Error

REPLAY, RAW, CLOSED = free_port(), free_port(), free_port()
CONFIG = f"""
[providers.up]
kind = "openai-compatible"
base_url = "http://127.0.0.1:{REPLAY}/v1"
[providers.claude]
kind = "anthropic"
base_url = "http://127.0.0.1:{REPLAY}/v1"
[providers.raw]
kind = "openai-compatible"
base_url = "http://127.0.0.1:{RAW}/v1"
key = {{ env = "CANARY" }}
[providers.closed]
kind = "openai-compatible"
base_url = "http://127.0.0.1:{CLOSED}/v1"
[providers.nowhere]
kind = "openai-compatible"
base_url = "http://no-such-host.invalid/v1"
[providers.label]
kind = "openai-compatible"
base_url = "http://{"a" * 70}.example/v1"
[providers.plain]
kind = "openai-compatible"
base_url = "https://127.0.0.1:{REPLAY}/v1"
[providers.locked]
kind = "openai"
key = {{ env = "NOT_SET_ANYWHERE" }}
[limits]
max_line_bytes = 20000
max_event_bytes = 40000
max_headers = 50
[timeouts]
first_byte_s = 2
idle_s = 2
"""
OK = b'data: {"choices":[{"index":0,"delta":{"content":"ok"},"finish_reason":null}]}\n\n'
JSON = "content-type: application/json"
HTML = "content-type: text/html"
SSE = "content-type: text/event-stream"
KEY = CANARY_KEY.encode()
CHUNKED = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)


class Case(NamedTuple):
    """What comes, and what the stream must end with."""

    script: Script
    code: Code
    message: str  # a pattern for all of it
    text: str = ""  # what was said before


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


CASES = {
    "401-openai": Case(
        Script(answer("401 Unauthorized", b'{"error":{"message":"Bad key.","type":"t"}}', JSON)),
        Code.AUTH,
        r"Bad key\.",
    ),
    "401-key-echoed": Case(
        Script(
            answer(
                "401 Unauthorized",
                b'{"error":{"message":"Incorrect API key provided: %b."}}' % KEY,
                JSON,
            )
        ),
        Code.AUTH,
        r"Incorrect API key provided: \[masked\]\.",
    ),
    "403-key-in-plain-text": Case(
        Script(answer("403 Forbidden", b"Bearer " + KEY + b" may not. x-api-key: " + KEY)),
        Code.AUTH,
        r"HTTP 403: Bearer \[masked\] may not\. x-api-key: \[masked\]",
    ),
    "500-key-in-html": Case(
        Script(answer("500 Oh", b"<pre>" + KEY * 3 + b"</pre>" + KEY * 9000, HTML)),
        Code.HTTP_STATUS,
        r"HTTP 500 \(text/html\): <pre>(\[masked\]){3}</pre>\[masked\].*",
    ),
    "404": Case(
        Script(answer("404 Not Found", b'{"error":{"message":"no model x"}}', JSON)),
        Code.MODEL_NOT_FOUND,
        "no model x",
    ),
    "400-empty": Case(Script(answer("400 Bad Request", b"")), Code.BAD_REQUEST, "HTTP 400"),
    "400-context": Case(
        Script(answer("400 Bad Request", b'{"error":{"code":"context_length_exceeded"}}', JSON)),
        Code.CONTEXT_LENGTH,
        "HTTP 400.*",
    ),
    "500-html": Case(
        Script(answer("500 Oh", b"<html>\n<b>down</b>\x1b[31m</html>", HTML)),
        Code.HTTP_STATUS,
        r"HTTP 500 \(text/html\): <html> <b>down</b>.*</html>",
    ),
    "500-utf8": Case(Script(answer("500 Oh", b"\xff\xfe\x80")), Code.HTTP_STATUS, "HTTP 500: .*"),
    "502-huge": Case(
        Script(answer("502 Oh", b"x" * 5_000_000)), Code.HTTP_STATUS, "HTTP 502: x+.*"
    ),
    "503": Case(Script(answer("503 Oh", b'{"error":"full"}', JSON)), Code.OVERLOADED, "full"),
    "999": Case(Script(answer("999 Oh", b"")), Code.HTTP_STATUS, "HTTP 999"),
    "429": Case(
        Script(answer("429 Slow", b'{"error":{"message":"wait"}}', JSON, "retry-after: 7")),
        Code.RATE_LIMITED,
        "wait",
    ),
    "redirect": Case(
        Script(answer("307 Go", b"", "location: http://169.254.169.254/")),
        Code.UNEXPECTED_REDIRECT,
        "HTTP 307",
    ),
    "500-long-type": Case(
        Script(answer("500 Oh", b"", "content-type: " + "x" * 30_000)), Code.HTTP_STATUS, ".*"
    ),
    "204": Case(Script(b"HTTP/1.1 204 No\r\n\r\n"), Code.EMPTY_RESPONSE, "HTTP 204"),
    "200-json-error": Case(
        Script(answer("200 OK", b'{"error":{"message":"no"}}', JSON)), Code.PROVIDER_ERROR, "no"
    ),
    "200-html": Case(
        Script(answer("200 OK", b"<html>login</html>", HTML)),
        Code.NOT_EVENT_STREAM,
        "HTTP 200, text/html, is no event stream: <html>login</html>",
    ),
    "200-html-long": Case(
        Script(answer("200 OK", b"<p>\n" + b"<b>login</b>\n\n" * 20_000, HTML)),
        Code.NOT_EVENT_STREAM,
        "HTTP 200, text/html, is no event stream: <p> <b>login.*",
    ),
    "200-empty": Case(
        Script(answer("200 OK", b"", SSE)), Code.EMPTY_RESPONSE, "HTTP 200: .*empty.*"
    ),
    "fin-close": Case(Script(events(OK)), Code.STREAM_INCOMPLETE, ".*complete", "ok"),
    "fin-chunked": Case(Script(CHUNKED + chunk(OK)), Code.STREAM_INCOMPLETE, ".*", "ok"),
    "fin-in-event": Case(Script(events(OK + b'data: {"cho')), Code.STREAM_INCOMPLETE, ".*", "ok"),
    "fin-length": Case(
        Script(answer("200 OK", OK + b"data:", SSE)[:-5]), Code.STREAM_INCOMPLETE, ".*", "ok"
    ),
    "reset": Case(Script(CHUNKED + chunk(OK), "rst"), Code.TRANSPORT, ".+", "ok"),
    "no-answer-fin": Case(Script(b""), Code.BAD_RESPONSE, ".*disconnected.*"),
    "no-http": Case(Script(b"SSH-2.0-OpenSSH\r\n\r\n"), Code.BAD_RESPONSE, ".+"),
    "bad-chunk": Case(
        Script(CHUNKED + chunk(OK) + b"zz\r\n"), Code.BAD_RESPONSE, "bad response: .+", "ok"
    ),
    "chunk-of-2^70": Case(
        Script(CHUNKED + b"%x\r\n" % 2**70 + OK, "hang"), Code.BAD_RESPONSE, "bad response: .+"
    ),
    "two-lengths": Case(
        Script(answer("200 OK", OK, SSE, "content-length: 5")), Code.BAD_RESPONSE, ".*Length.*"
    ),
    "nul-in-header": Case(
        Script(answer("200 OK", OK, "x: a\0b")), Code.BAD_RESPONSE, ".*header value.*"
    ),
    "escape-in-header": Case(
        Script(answer("500 Oh", OK, "content-type: \x1b[31m")), Code.BAD_RESPONSE, ".*header.*"
    ),
    "long-header": Case(
        Script(answer("200 OK", OK, "x: " + "x" * 200_000)),
        Code.BAD_RESPONSE,
        r".*limits\.max_header_bytes.*",
    ),
    "many-headers": Case(
        Script(answer("200 OK", b"", *(f"h{i}: x" for i in range(60)))),
        Code.BAD_RESPONSE,
        r".*limits\.max_headers.*",
    ),
    "bad-json": Case(Script(events(OK + b"data: {bad\n\n")), Code.BAD_EVENT, ".*{bad.*", "ok"),
    "deep-json": Case(
        Script(events(OK + b"data: " + b"[" * 5000 + b"\n\n")), Code.BAD_EVENT, ".+", "ok"
    ),
    "error-event": Case(
        Script(events(OK + b'event: error\ndata: {"error":{"message":"sorry"}}\n\n')),
        Code.PROVIDER_ERROR,
        "sorry",
        "ok",
    ),
    "long-line": Case(
        Script(events(OK + b"data: " + b"x" * 60_000), "hang"),
        Code.SSE_LINE_TOO_LONG,
        r".*20000 bytes \(limits\.max_line_bytes\)",
        "ok",
    ),
    "long-event": Case(
        Script(events(OK + b"data: xxxxxxxxxx\n" * 5000), "hang"),
        Code.SSE_EVENT_TOO_LONG,
        r".*40000 bytes \(limits\.max_event_bytes\)",
        "ok",
    ),
    "gzip": Case(
        Script(events(b"\x1f\x8b", "content-encoding: gzip")),
        Code.BAD_ENCODING,
        ".*gzip.*identity.*",
    ),
    "first-byte": Case(
        Script(b"", "hang"), Code.FIRST_BYTE_TIMEOUT, r".*2 s \(timeouts\.first_byte_s\)"
    ),
    "idle": Case(
        Script(CHUNKED + b"%x\r\n" % 2**60 + OK, "hang"),
        Code.IDLE_TIMEOUT,
        r".*2 s \(timeouts\.idle_s\)",
        "ok",
    ),
    "error-never-ends": Case(
        Script(b"HTTP/1.1 500 Oh\r\ncontent-length: 99\r\n\r\npartial", "hang"),
        Code.HTTP_STATUS,
        "HTTP 500: partial",
    ),
}


@pytest.fixture(scope="module")
def running() -> Iterator[Daemon]:
    with daemon(CONFIG, CANARY=CANARY_KEY) as started:
        yield started
        assert CANARY_KEY not in (started.directory / "state.json").read_text()
        for pid in started.pids:
            for name in ("cmdline", "environ"):
                assert KEY not in Path(f"/proc/{pid}/{name}").read_bytes()
        started.end()
        assert CANARY_KEY not in started.said


def check_error(error: Any, code: Code, message: str) -> None:
    assert isinstance(error, Error)
    assert error.code == code, error
    assert re.fullmatch(message, error.message), error.message
    assert len(error.message) <= 500
    assert error.message.isprintable()
    assert CANARY_KEY not in error.message


@pytest.mark.parametrize("name", CASES)
@in_loop
async def test_answer(running: Daemon, name: str) -> None:
    case = CASES[name]
    async with (
        replaying(REPLAY),
        answering(RAW, lambda model: CASES[model].script),
        canaries(running),
        running.connect() as client,
    ):
        tokens = await take(await ask(client, f"raw/{name}"))
        assert "".join(texts(tokens)) == case.text
        check_error(tokens[-1], case.code, case.message)
        assert sum(isinstance(token, Done | Error) for token in tokens) == 1
        again = await take(await ask(client, "up/numbered;n=3"))  # nothing is left of the fault
        assert isinstance(again[-1], Done)


@pytest.mark.parametrize(
    ("model", "code", "message"),
    [
        ("closed/x", Code.CONNECT_FAILED, ".*"),
        ("nowhere/x", Code.CONNECT_FAILED, ".*no-such-host.invalid.*"),
        ("label/x", Code.CONNECT_FAILED, ".+"),
        ("plain/x", Code.TLS_ERROR, ".*127.0.0.1.*"),
        ("up/numbered;status=401", Code.AUTH, ".+"),
        ("claude/numbered;status=401", Code.AUTH, ".+"),
        ("claude/numbered;status=529", Code.OVERLOADED, ".+"),
        ("claude/no-such-knob;x=1", Code.BAD_REQUEST, ".*no such knob.*"),
        ("up/numbered;n=50;eof_at=3000", Code.STREAM_INCOMPLETE, ".+"),
        ("up/numbered;n=50;reset_at=3000", Code.TRANSPORT, ".+"),
        ("claude/numbered;n=50;eof_at=3000;length=close", Code.STREAM_INCOMPLETE, ".+"),
    ],
)
@in_loop
async def test_way(running: Daemon, model: str, code: Code, message: str) -> None:
    async with replaying(REPLAY), canaries(running), running.connect() as client:
        tokens = await take(await ask(client, model))
        check_error(tokens[-1], code, message)


DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(events(b"data:\n\n" * 10_000 + OK + DONE), id="events-without-data"),
        pytest.param(events(b"\n" * 100_000 + OK + DONE), id="blank-lines"),
        pytest.param(events(b": hi\n\n" * 10_000 + OK + DONE), id="comments"),
        pytest.param(events(OK + DONE).replace(b"event-stream", b"plain"), id="other-type"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000 + events(OK + DONE), id="100s"),
        pytest.param(events(OK + DONE).replace(b"HTTP/1.1", b"HTTP/1.0"), id="http-1.0"),
        pytest.param(answer("200 OK", OK + DONE, SSE) + b"data: junk\n\n", id="over-length"),
        pytest.param(CHUNKED + chunk(OK + DONE) + b"0\r\nx: y\r\n\r\n", id="trailer"),
        pytest.param(CHUNKED + b"".join(chunk(b"%c" % c) for c in OK + DONE), id="1-byte-chunks"),
        pytest.param(events(OK + DONE * 2 + b"data: junk\n\n" * 100_000), id="talks-on"),
    ],
)
@in_loop
async def test_odd_but_whole(running: Daemon, data: bytes) -> None:
    """What is only odd is forgiven; behind its end nothing is read for long."""
    script = Script(data, "hang")
    async with answering(RAW, lambda _: script), running.connect() as client:
        tokens = await take(await ask(client, "raw/x"))
        assert texts(tokens) == ["ok"]
        assert isinstance(tokens[-1], Done)


@pytest.mark.parametrize("fault", ["eof_at", "reset_at"])
@pytest.mark.parametrize("provider", ["up", "claude"])
@pytest.mark.parametrize("length", ["chunked", "close"])
@in_loop
async def test_cut_anywhere(running: Daemon, fault: str, provider: str, length: str) -> None:
    """Wherever a body breaks off: what came whole is told, and the stream has one end."""
    whole = list(numbered_tokens(6))

    async def one(at: int) -> int:
        model = f"{provider}/numbered;n=6;{fault}={at};length={length}"
        tokens = await take(await ask(client, model))
        said = texts(tokens)
        assert said == whole[: len(said)]
        assert sum(isinstance(token, Done | Error) for token in tokens) == 1
        end = tokens[-1]
        if isinstance(end, Error):
            assert end.code in (Code.STREAM_INCOMPLETE, Code.TRANSPORT, Code.EMPTY_RESPONSE), end
        else:
            assert isinstance(end, Done)
            assert said == whole
        return len(said)

    async with replaying(REPLAY), running.connect() as client:
        counts = await asyncio.gather(*map(one, range(0, 2000, 23)))
    assert set(counts) >= {0, 3, 6}


@in_loop
async def test_retry_after_is_told(running: Daemon) -> None:
    async with answering(RAW, lambda model: CASES[model].script), running.connect() as client:
        error = (await take(await ask(client, "raw/429")))[-1]
        assert isinstance(error, Error)
        assert (error.retryable, error.retry_after_s, error.status) == (True, 7.0, 429)


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        ({"model": "x"}, Code.BAD_REQUEST, "model: .*PROVIDER/model"),
        ({"model": "nobody/x"}, Code.UNKNOWN_PROVIDER, "no provider 'nobody'; known are .*up.*"),
        ({"model": "locked/x"}, Code.PROVIDER_DISABLED, ".*NOT_SET_ANYWHERE is not set"),
        ({"model": "up/" + "x" * 600}, Code.BAD_REQUEST, "model: has 603 characters, .*"),
        ({"model": 5}, Code.BAD_REQUEST, "request: .*"),
        ({"model": "up/x", "window": -1}, Code.BAD_REQUEST, "window: -1 is negative"),
    ],
)
@in_loop
async def test_refused_before_it_is_a_stream(
    running: Daemon, request_: dict[str, Any], code: Code, message: str
) -> None:
    async with running.connect() as client:
        with pytest.raises(RequestError) as refused:
            await ask(client, **request_)
        assert refused.value.code == code
        assert re.fullmatch(message, refused.value.message), refused.value.message


CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{bad"}}
USER = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("provider", "fields", "named"),
    [
        ("up", {"messages": []}, "messages"),
        ("up", {"messages": None}, "messages"),
        ("up", {"messages": [{"content": "x"}]}, r"messages\[0\]\.role"),
        ("up", {"temperature": 9.0}, "temperature"),
        ("up", {"temperature": float("nan")}, "temperature"),
        ("up", {"max_tokens": -1}, "max_tokens"),
        ("up", {"n": 0}, "n"),
        ("up", {"no_such_field": 1}, ".*unknown field .no_such_field."),
        ("up", {"api": "messages"}, "api"),
        ("up", {"prompt": "x"}, "messages"),
        ("claude", {"seed": 1}, "seed"),
        ("claude", {"tools": [{"function": {}}]}, r"tools\[\]\.function"),
        ("claude", {"tools": [{"function": 5}]}, r"tools\[\]\.function"),
        ("claude", {"tool_choice": "perhaps"}, "tool_choice"),
        ("claude", {"tool_choice": {"function": {}}}, r"tool_choice\.function"),
        ("claude", {"messages": [{"role": "assistant", "tool_calls": [CALL]}]}, ".*arguments"),
        ("claude", {"messages": [{"role": "assistant", "tool_calls": [{}]}]}, ".*tool_calls"),
        ("claude", {"messages": [{"role": "assistant", "tool_calls": 7}]}, ".*tool_calls"),
        ("claude", {"messages": [{"role": "user", "content": 7}]}, ".*content"),
        ("claude", {"messages": [{"role": "user", "content": ["x"]}]}, ".*content"),
        ("claude", {"messages": [USER | {"content": [{"type": "image_url"}]}]}, r".*content\[\]"),
        ("claude", {"messages": [USER, {"role": "system", "content": 7}]}, ".*content"),
    ],
)
@in_loop
async def test_bad_request(
    running: Daemon, provider: str, fields: dict[str, Any], named: str
) -> None:
    """Nothing is sent; the stream ends with the field's name. It never hangs."""
    async with replaying(REPLAY) as upstream, running.connect() as client:
        request = {"model": f"{provider}/numbered;n=1", "messages": [USER]} | fields
        tokens = await take(await client.chat(**request))
        check_error(tokens[-1], Code.BAD_REQUEST, named + "(: .*|)")
        assert not upstream.seen


@in_loop
async def test_a_value_that_json_does_not_have(running: Daemon) -> None:
    async with replaying(REPLAY) as upstream, running.connect() as client:
        odd = msgspec.msgpack.Ext(5, b"x")
        tokens = await take(await ask(client, "up/numbered;n=1", extra={"odd": odd}))
        check_error(tokens[-1], Code.BAD_REQUEST, ".+")
        assert not upstream.seen
