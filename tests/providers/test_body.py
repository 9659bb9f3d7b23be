"""Bodies: every leniency, every ending, exactly one terminal token, and hand-over at any event."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringcast.errors import Code
from ringcast.providers.wire.answer import http_error
from ringcast.providers.wire.body import Body, Ending, open_body
from ringcast.providers.wire.printable import printable
from ringcast.providers.wire.sse import SseFramer
from ringcast.providers.wire.summary import decode, summarize
from ringcast.shm.tokens import Done, Error, StreamToken, Text, decoder, encoder

CONFORMANCE = Path(__file__).parents[1] / "conformance"
LENIENT: list[dict[str, Any]] = json.loads((CONFORMANCE / "llm-lenient.json").read_text())
APIS = {"openai": "chat", "anthropic": "messages"}

HELLO = b'data: {"id":"c","model":"m","choices":[{"index":0,"delta":{"content":"Hello"}}]}\n\n'
FINISH = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"


def cuts(data: bytes, seed: int) -> list[bytes]:
    rng = random.Random(seed)
    ends = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(1, 12)))
    return [data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True)]


def last(data: bytes, ending: Ending | None = None, api: str = "chat") -> Done | Error:
    found = decode(api, [data], ending)[-1]
    assert isinstance(found, Done | Error)
    return found


def code(data: bytes, ending: Ending | None = None) -> str | None:
    end = last(data, ending)
    return end.code if isinstance(end, Error) else None


@pytest.mark.parametrize("vector", LENIENT, ids=lambda v: v["id"])
def test_lenient_vector_at_every_kind_of_cut(vector: dict[str, Any]) -> None:
    data = base64.b64decode(vector["input"])
    ending = Ending(vector["then"], content_type=vector.get("content_type", "text/event-stream"))
    ways = [[data], [data[i : i + 1] for i in range(len(data))]]
    for way in ways + [cuts(data, seed) for seed in range(20)]:
        tokens = decode(APIS[vector["dialect"]], way, ending)
        summary = summarize(tokens)
        end = tokens[-1]
        got = {
            "text": summary["text"],
            "end": "error" if isinstance(end, Error) else "done",
            "code": end.code if isinstance(end, Error) else None,
        }
        assert got == vector["expected"], way


@pytest.mark.parametrize(
    ("data", "odd"),
    [
        (HELLO + FINISH + b"data: [done]\n\n", 1),
        (HELLO + FINISH + b"data:  [DONE] \t\n\n", 1),
        (HELLO + FINISH + b"data: [DONE]", 1),
        (HELLO + b"data:\n\n" + FINISH + DONE, 1),
        (HELLO + b"data: null\n\n" + FINISH + DONE, 1),
        (HELLO + b"event: ping\ndata: {}\n\n" + FINISH + DONE, 0),
        (HELLO + b"Data: x\n\n" + FINISH + DONE, 1),
        (HELLO[:-1] + FINISH[:-1] + DONE, 1),
        (HELLO[:-1] + FINISH[:-1] + DONE[:-2], 3),
        (HELLO + FINISH + DONE + HELLO, 1),
        (HELLO + FINISH + DONE + DONE, 1),
        (HELLO + FINISH, 0),
        (b": keep-alive\n\n" + HELLO + FINISH + DONE, 0),
    ],
)
def test_each_leniency_is_counted(data: bytes, odd: int) -> None:
    framer, body = SseFramer(), open_body("chat")
    tokens = body.feed(framer.feed(data)) + body.tail(framer.rest()) + body.end(Ending())
    assert [type(token) for token in tokens] == [Text, Done]
    assert body.oddities == odd


def test_content_between_finish_reason_and_done_is_delivered() -> None:
    assert decode("chat", [FINISH + HELLO + DONE])[0] == Text("Hello")


def test_an_unfinished_line_is_never_half_parsed() -> None:
    rest = HELLO[:-1] + FINISH[:-30]
    assert [type(t) for t in decode("chat", [rest])] == [Text, Error]
    assert code(rest) == Code.STREAM_INCOMPLETE


@pytest.mark.parametrize(
    "error", ["x", 5, {"message": "m"}, ["a"], True, {"a": {"b": 1}}, "<html>"]
)
def test_any_error_but_null_ends_the_stream(error: Any) -> None:
    data = HELLO + b"data: " + json.dumps({"error": error}).encode() + b"\n\n" + HELLO
    assert [type(t) for t in decode("chat", [data])] == [Text, Error]
    assert code(data) == Code.PROVIDER_ERROR
    named = HELLO + b"event: error\ndata: " + json.dumps(error).encode() + b"\n\n"
    assert code(named) == Code.PROVIDER_ERROR


def test_error_event_with_a_page() -> None:
    end = last(HELLO + b"event: error\ndata: <html>\ndata: 502</html>\n\n")
    assert isinstance(end, Error)
    assert (end.code, end.message) == (Code.PROVIDER_ERROR, "<html>\\n502</html>")


def test_error_field_of_llama_cpp() -> None:
    end = last(HELLO + b'error: {"error":{"message":"m"}}\n\n')
    assert isinstance(end, Error)
    assert (end.code, end.message) == (Code.PROVIDER_ERROR, "m")


@pytest.mark.parametrize("size", [1, 100, 1 << 20])
def test_whole_answer_to_a_streaming_request(size: int) -> None:
    call = {"id": "a", "function": {"name": "f", "arguments": {"x": 1.5}}}
    message = {"content": "Hello", "reasoning": "hm", "tool_calls": [call]}
    answer = {"id": "c", "choices": [{"message": message, "finish_reason": "tool_calls"}]}
    data = json.dumps(answer, indent=2).replace("\n", "\n\n").encode() + b"\n"
    chunks = [data[i : i + size] for i in range(0, len(data), size)]
    summary = summarize(decode("chat", chunks, Ending(content_type="application/json")))
    assert (summary["text"], summary["reasoning"]) == ("Hello", "hm")
    assert summary["tool_calls"] == [{"id": "a", "name": "f", "arguments": '{"x":1.5}'}]
    assert summary["finish_reason"] == "tool_calls"
    assert summary["error"] is None


def test_whole_completion() -> None:
    data = json.dumps({"choices": [{"text": "x", "finish_reason": "stop"}]}).encode()
    assert decode("completions", [data]) == [Text("x"), Done("stop", "stop")]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", Code.EMPTY_RESPONSE),
        (b"\r\n\r\n", Code.EMPTY_RESPONSE),
        (b": only comments\n\n", Code.EMPTY_RESPONSE),
        (b"<html>\n\nlogin</html>", Code.NOT_EVENT_STREAM),
        (b"\x1f\x8b\x08garbage\xff", Code.NOT_EVENT_STREAM),
        (b'{"choices":[]}\n{"choices":[]}\n', Code.NOT_EVENT_STREAM),
        (b'{"unknown":1}', Code.NOT_EVENT_STREAM),
        (b'{"error":{"message":"m"}}', Code.PROVIDER_ERROR),
        (b'\xef\xbb\xbf{"error":"m"}', Code.PROVIDER_ERROR),
        (b'[{"error":{"message":"m","status":"NOT_FOUND"}}]', Code.PROVIDER_ERROR),
        (b'{"detail":"m"}', Code.PROVIDER_ERROR),
        (b"data: {\n\n", Code.BAD_EVENT),
        (b"data", Code.STREAM_INCOMPLETE),
        (b"event: message_start\n", Code.STREAM_INCOMPLETE),
    ],
)
def test_bodies_that_are_no_stream(body: bytes, expected: Code) -> None:
    for way in ([body], [body[i : i + 1] for i in range(len(body))]):
        end = decode("chat", way, Ending(content_type="text/html"))[-1]
        assert isinstance(end, Error)
        assert end.code == expected


def test_message_of_a_page_names_status_and_type_and_no_secret() -> None:
    page = b"<html>\x1b[31m key sk-abcdefghijklmnop " + b"x" * 1000
    end = last(page, Ending(status=200, content_type="text/html"))
    assert isinstance(end, Error)
    assert "HTTP 200, text/html" in end.message
    assert "sk-abc" not in end.message
    assert "\\x1b" in end.message
    assert len(end.message) < 300


@pytest.mark.parametrize(
    ("ending", "expected", "retryable"),
    [
        (Ending("reset"), Code.TRANSPORT, True),
        (Ending("reset", message="RST"), Code.TRANSPORT, True),
        (Ending("cancelled"), Code.CANCELLED, False),
        (Ending("failed", Code.IDLE_TIMEOUT, "300 s without a byte"), Code.IDLE_TIMEOUT, True),
        (Ending("failed", Code.TLS_ERROR, "expired"), Code.TLS_ERROR, False),
        (Ending("http", status=429, body=b"{}", retry_after_s=2.0), Code.RATE_LIMITED, True),
    ],
)
def test_endings(ending: Ending, expected: Code, retryable: bool) -> None:
    tokens = decode("chat", [HELLO], ending)
    end = tokens[-1]
    assert tokens[0] == Text("Hello")
    assert isinstance(end, Error)
    assert (end.code, end.retryable) == (expected, retryable)
    assert end.retry_after_s == ending.retry_after_s
    assert [*decode("chat", [HELLO, FINISH, DONE], ending)][-1] == Done(
        "stop", "stop", id="c", model="m"
    ), "the provider's end marker came first"


def test_limits_end_the_stream_with_their_code() -> None:
    body = open_body("chat", max_line_bytes=1000)
    tokens = body.feed(HELLO + b"data: " + b"x" * 1001 + b"\n\n" + HELLO)
    assert [type(token) for token in tokens] == [Text, Error]
    assert isinstance(tokens[-1], Error)
    assert tokens[-1].code == Code.SSE_LINE_TOO_LONG
    assert body.finished
    found = decode("chat", [HELLO, b"data: ", *[b"x" * (1 << 20)] * 9])
    assert isinstance(found[-1], Error)
    assert found[-1].code == Code.SSE_LINE_TOO_LONG


def test_nothing_follows_the_terminal_token() -> None:
    body = open_body("chat")
    assert body.feed(HELLO + FINISH + DONE)[-1] == Done("stop", "stop", id="c", model="m")
    assert body.finished
    assert body.feed(HELLO) == []
    assert body.tail(HELLO) == []
    assert body.end(Ending("reset")) == []
    assert body.oddities == 1


def test_plain_text_makes_no_checkpoint() -> None:
    body = open_body("chat")
    body.feed(HELLO)
    assert body.dirty
    assert len(body.state()) < 200
    for block in (
        HELLO,
        HELLO * 20,
        HELLO.replace(b"Hello", b"\xc3\xa9"),
        HELLO.replace(b'":', b'": '),
    ):
        body.feed(block)
        assert not body.dirty
    body.feed(FINISH)
    assert body.dirty


def test_only_a_state_can_be_restored() -> None:
    with pytest.raises(msgspec.MsgspecError):
        Body.restore("chat", b"\x00")
    with pytest.raises(KeyError):
        open_body("telepathy")


# Exactly one terminal token for any bytes, at any cut, and the same ones after any hand-over.

WORDS = [
    *(b"data: ", b"data:", b"event: ", b"error: ", b": ", b"id: 1", b"\n", b"\r\n", b"\r", b"\n\n"),
    *(
        HELLO,
        FINISH,
        DONE,
        b"[DONE]",
        b"null",
        b'{"error":"x"}',
        b"error",
        b"ping",
        b"\xff",
        b"\xef\xbb\xbf",
    ),
    *(
        b"message_start",
        b'{"type":"message_stop"}',
        b'{"choices":[{"index":1,"delta":{"content":"\\ud83d"}}]}',
    ),
    b'{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":{"a":1}}}]}}]}',
    b'{"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"a","name":"f"}}',
    b'{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"x"}}',
    b'{"type":"completion","completion":"x","stop_reason":"stop"}',
    b'{"usage":{"prompt_tokens":1},"search_results":[{"a":1}],"choices":[{"finish_reason":"length"}]}',
]
BODIES = st.one_of(
    st.binary(max_size=100), st.lists(st.sampled_from(WORDS), max_size=20).map(b"".join)
)
ENDINGS = st.builds(
    Ending,
    st.sampled_from(["eof", "reset", "http", "failed", "cancelled"]),
    status=st.integers(0, 999),
    body=st.binary(max_size=50),
)


def handed_over(api: str, chunks: list[bytes], ending: Ending) -> list[StreamToken]:
    """As `decode`, but with a new body, made from the state, before every block."""
    framer, body = SseFramer(), open_body(api)
    tokens: list[StreamToken] = []
    for chunk in chunks:
        if block := framer.feed(chunk):
            body = Body.restore(api, body.state())
            tokens += body.feed(block)
    body = Body.restore(api, body.state())
    if ending.kind == "eof":
        tokens += body.tail(framer.rest())
        body = Body.restore(api, body.state())
    return tokens + body.end(ending)


@settings(max_examples=500)
@given(
    BODIES,
    st.sampled_from(["chat", "completions", "messages", "complete"]),
    ENDINGS,
    st.integers(0, 2**32),
)
def test_any_body_ends_once_and_can_be_handed_over(
    data: bytes, api: str, ending: Ending, seed: int
) -> None:
    tokens = decode(api, [data], ending)
    assert [isinstance(token, Done | Error) for token in tokens] == [False] * (len(tokens) - 1) + [
        True
    ]
    pieces = cuts(data, seed)
    assert decode(api, pieces, ending) == tokens
    assert handed_over(api, pieces, ending) == tokens
    assert decoder.decode(encoder.encode(tokens)) == tokens
    assert json.dumps(summarize(tokens))


@given(st.integers(0, 999), st.binary(max_size=300), st.text(max_size=20))
def test_http_errors_never_raise(status: int, body: bytes, content_type: str) -> None:
    error = http_error(status, body, content_type=content_type)
    assert len(error.message) <= 500
    assert error.message.isprintable()
    assert error.code in set(Code)


@pytest.mark.parametrize(
    ("status", "body", "expected", "retryable"),
    [
        (
            400,
            {"error": {"message": "x", "code": "context_length_exceeded"}},
            Code.CONTEXT_LENGTH,
            False,
        ),
        (
            400,
            {"error": {"message": "prompt is too long: 9 tokens > 8 maximum"}},
            Code.CONTEXT_LENGTH,
            False,
        ),
        *(
            (400, {"error": {"message": message}}, Code.CONTEXT_LENGTH, False)
            for message in (
                "The input token count (2) exceeds the maximum number of tokens allowed (1).",
                "the input token count is 2 but model only supports up to 1",
                "input length and `max_tokens` exceed context limit: 2 + 1 > 2",
                "This model's maximum prompt length is 1 but the request contains 2 tokens.",
                "Please reduce the length of the messages or completion.",
                "Prompt contains 2 tokens, too large for model with 1 maximum context length",
            )
        ),
        (400, {"code": "x", "error": "Incorrect API key provided: xa***"}, Code.AUTH, False),
        (400, {"error": {"message": "x", "code": "content_filter"}}, Code.BAD_REQUEST, False),
        (401, {"error": {"message": "x"}}, Code.AUTH, False),
        (402, {"error": {"message": "x"}}, Code.BILLING, False),
        (403, {"error": "Your team has used all available credits"}, Code.BILLING, False),
        (403, {"message": "x"}, Code.AUTH, False),
        (404, {"error": {"type": "not_found_error", "message": "x"}}, Code.MODEL_NOT_FOUND, False),
        (408, "", Code.HTTP_STATUS, True),
        (413, "<html>", Code.BAD_REQUEST, False),
        (422, {"detail": [{"loc": ["a"], "msg": "x", "type": "t"}]}, Code.BAD_REQUEST, False),
        (429, {"error": {"message": "x", "code": "insufficient_quota"}}, Code.BILLING, False),
        (429, {"error": {"message": "x", "code": 429}}, Code.RATE_LIMITED, True),
        (500, {"error": {"message": "x"}}, Code.HTTP_STATUS, True),
        (503, "", Code.OVERLOADED, True),
        (529, {"error": {"message": "x"}}, Code.OVERLOADED, True),
        (307, "", Code.UNEXPECTED_REDIRECT, False),
        (204, "", Code.EMPTY_RESPONSE, False),
        (999, "", Code.HTTP_STATUS, False),
    ],
)
def test_http_errors(status: int, body: Any, expected: Code, retryable: bool) -> None:
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    error = http_error(status, data)
    assert (error.code, error.retryable, error.status) == (expected, retryable, status)


RETRY_INFO = "type.googleapis.com/google.rpc.RetryInfo"


@pytest.mark.parametrize(
    ("details", "expected"),
    [
        ([{"@type": "x"}, {"@type": RETRY_INFO, "retryDelay": "48.9s"}], 48.9),
        ([{"@type": RETRY_INFO, "retryDelay": "48s"}], 48.0),
        ([{"@type": RETRY_INFO, "retryDelay": "0.000000001s"}], 1e-9),
        ([{"@type": RETRY_INFO, "retryDelay": "-1s"}], None),
        ([{"@type": RETRY_INFO, "retryDelay": "nans"}], None),
        ([{"@type": RETRY_INFO, "retryDelay": "1" * 400 + "s"}], None),
        ([{"@type": RETRY_INFO, "retryDelay": {"seconds": 5}}], None),
        ([{"@type": [], "retryDelay": "5s"}, 5, None], None),
        ({"@type": RETRY_INFO, "retryDelay": "5s"}, None),
        ("5s", None),
    ],
    ids=str,
)
def test_googles_retry_info(details: Any, expected: float | None) -> None:
    payload = {"error": {"code": 429, "message": "m", "status": "S", "details": details}}
    for said in (payload, [payload]):
        data = json.dumps(said).encode()
        assert http_error(429, data).retry_after_s == expected
        assert http_error(429, data, retry_after_s=7.0).retry_after_s == 7.0
    late = decode("generate", [b"data: " + json.dumps(payload).encode() + b"\n\n"])[-1]
    assert isinstance(late, Error)
    assert late.retry_after_s == expected


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ({"error": {"message": "m", "type": "t", "code": "c"}}, ("m", "t", "c")),
        ({"type": "error", "error": {"type": "t", "message": "m"}}, ("m", "t", None)),
        ([{"error": {"code": 429, "message": "m", "status": "S"}}], ("m", "S", 429)),
        ({"__type": "t", "Message": "m"}, ("m", "t", None)),
        ({"code": "c", "error": "m"}, ("m", None, "c")),
        ({"object": "error", "message": "m", "type": "t", "code": 400}, ("m", "t", 400)),
        ({"detail": [{"msg": "a"}, {"msg": "b"}]}, ("a; b", None, None)),
        ({"error": {"message": "m", "code": 10**30}}, ("m", None, 1e30)),
    ],
    ids=str,
)
def test_error_shapes(payload: Any, expected: tuple[Any, ...]) -> None:
    error = http_error(500, json.dumps(payload).encode())
    assert (error.message, error.type, error.provider_code) == expected


@pytest.mark.parametrize(
    "secret",
    [
        "sk-proj-abcdefgh12345678",
        "sk_live_abcdefgh12345678",
        "gsk_abcdefgh12345678",
        "AIzaSyA-abcdefgh12345678",
        "AKIAABCDEFGH12345678",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln",
    ],
)
@pytest.mark.parametrize(
    "around", ["{}", "key {}.", '{{"k":"{}"}}', "Bearer {}", "https://h/?key={}&x"]
)
def test_keys_are_masked(secret: str, around: str) -> None:
    shown = printable(around.format(secret))
    assert secret[:12] not in shown
    assert "[masked]" in shown


@pytest.mark.parametrize("mask", [lambda s: f"Bearer {s}", lambda s: f"?key={s}"])
def test_unknown_keys_are_masked_where_they_stand(mask: Callable[[str], str]) -> None:
    assert "hunter2" not in printable(mask("hunter2"))


def test_harmless_words_are_not_masked() -> None:
    text = "skeletonization of the task-oriented pkgconfiguration failed"
    assert printable(text) == text
    assert printable("x" * 1000) == "x" * 499 + "…"
