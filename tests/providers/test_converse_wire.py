"""Bedrock's Converse: events, exceptions, whole answers, and the fast path against the others."""

from __future__ import annotations

import json
import random
from typing import Any
from zlib import crc32

import pytest
from fakes.frames import PAD, error, event, exception, message
from hypothesis import given
from hypothesis import strategies as st

from ringcast.errors import Code
from ringcast.providers.wire.body import Body, open_body
from ringcast.providers.wire.summary import decode, summarize
from ringcast.shm.tokens import (
    Citation,
    Done,
    Error,
    Reasoning,
    StreamToken,
    Text,
    ToolCall,
    Usage,
)

START = event("messageStart", {"role": "assistant"})
USED = {"inputTokens": 3, "outputTokens": 5, "totalTokens": 8}
METADATA = event("metadata", {"usage": USED, "metrics": {"latencyMs": 1}})


def delta(said: dict[str, Any], index: Any = 0, pad: str = PAD) -> bytes:
    return event("contentBlockDelta", {"contentBlockIndex": index, "delta": said}, pad)


def text(content: str, pad: str = PAD) -> bytes:
    return delta({"text": content}, pad=pad)


def begin(said: dict[str, Any], index: int) -> bytes:
    return event("contentBlockStart", {"contentBlockIndex": index, "start": said})


def end(index: int) -> bytes:
    return event("contentBlockStop", {"contentBlockIndex": index})


def stop(reason: str, **fields: Any) -> bytes:
    return event("messageStop", {"stopReason": reason} | fields)


def tokens(*frames: bytes) -> list[StreamToken]:
    """The same with all frames in one block as with each in a block of its own."""
    found = decode("converse", [b"".join(frames)])
    assert found == decode("converse", frames)
    return found


def whole(content: list[dict[str, Any]], **fields: Any) -> list[StreamToken]:
    answer = {"output": {"message": {"role": "assistant", "content": content}}} | fields
    return decode("converse", [json.dumps(answer).encode()])


def test_text_then_done() -> None:
    assert tokens(START, text("Hel"), text(""), text("lo"), end(0), stop("end_turn"), METADATA) == [
        Text("Hel"),
        Text("lo"),
        Usage(3, 5, 8),
        Done("stop", "end_turn", usage=Usage(3, 5, 8)),
    ]


def test_the_end_is_the_end_of_the_body() -> None:
    assert tokens(text("a"), stop("max_tokens"))[-1] == Done("length", "max_tokens")
    last = tokens(text("a"), METADATA)[-1]
    assert isinstance(last, Error)
    assert (last.code, last.usage) == (Code.STREAM_INCOMPLETE, Usage(3, 5, 8))


@pytest.mark.parametrize(
    ("reason", "meaning"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("tool_use", "tool_calls"),
        ("model_context_window_exceeded", "length"),
        ("guardrail_intervened", "content_filter"),
        ("content_filtered", "content_filter"),
        ("malformed_model_output", "error"),
        ("malformed_tool_use", "error"),
        ("something_new", "other"),
    ],
)
def test_stop_reasons(reason: str, meaning: str) -> None:
    last = tokens(stop(reason))[-1]
    assert isinstance(last, Done)
    assert (last.finish_reason, last.provider_reason) == (meaning, reason)


def test_tool_calls_in_pieces() -> None:
    found = tokens(
        text("Let me see."),
        begin({"toolUse": {"toolUseId": "t1", "name": "f"}}, 1),
        delta({"toolUse": {"input": ""}}, 1),
        delta({"toolUse": {"input": '{"a":'}}, 1),
        delta({"toolUse": {"input": " 1}"}}, 1),
        end(1),
        begin({"toolUse": {"toolUseId": "t2", "name": "g", "type": "server_tool_use"}}, 2),
        delta({"toolUse": {"input": "{}"}}, 2),
        stop("tool_use"),
    )
    assert found == [
        Text("Let me see."),
        ToolCall(0, "t1", "f"),
        ToolCall(0, arguments='{"a":'),
        ToolCall(0, arguments=" 1}"),
        ToolCall(1, "t2", "g"),
        ToolCall(1, arguments="{}"),
        Done("tool_calls", "tool_use", arguments_valid=True),
    ]


def test_reasoning_comes_back_byte_for_byte() -> None:
    found = tokens(
        delta({"reasoningContent": {"text": "Hm\u2028, "}}, 0),
        delta({"reasoningContent": {"text": "yes"}}, 0),
        delta({"reasoningContent": {"signature": "EsAd+/=="}}, 0),
        delta({"reasoningContent": {"redactedContent": "RXRr+/=="}}, 1),
        text("Yes."),
        stop("end_turn"),
    )
    assert found[:-1] == [
        Reasoning("Hm\u2028, "),
        Reasoning("yes"),
        Reasoning("", signature="EsAd+/=="),
        Reasoning("", block=1, encrypted="RXRr+/=="),
        Text("Yes."),
    ]


def test_citations() -> None:
    place = {"documentChar": {"documentIndex": 0, "start": 2, "end": 7}}
    source = {"title": "t", "sourceContent": [{"text": "a"}, {"text": "b"}], "location": place}
    web = {"location": {"web": {"url": "u", "domain": "d"}}}
    assert tokens(delta({"citation": source}), delta({"citation": web}), stop("end_turn"))[:-1] == [
        Citation(None, "t", "ab", 2, 7, raw=source),
        Citation("u", raw=web),
    ]


def test_results_of_tools_that_the_service_runs_are_kept() -> None:
    result = {"toolUseId": "t1", "status": "success"}
    said = [{"json": {"exitCode": 0}}]
    assert tokens(
        begin({"toolResult": result}, 1), delta({"toolResult": said}, 1), stop("end_turn")
    )[:-1] == [
        Reasoning("", block=1, detail={"toolResult": result}),
        Reasoning("", block=1, detail={"toolResult": said}),
    ]


@pytest.mark.parametrize(
    "extra",
    [{"stop_sequence": "\n\nHuman"}, {"delta": {"stop_sequence": "\n\nHuman"}}],
    ids=["answer", "stream"],
)
def test_a_stop_sequence_and_a_routed_model(extra: dict[str, Any]) -> None:
    trace = {"promptRouter": {"invokedModelId": "arn:m"}}
    done = tokens(
        stop("stop_sequence", additionalModelResponseFields=extra),
        event("metadata", {"trace": trace}),
    )
    assert done == [Done("stop", "stop_sequence", model="arn:m", stop_sequence="\n\nHuman")]


def test_counts_of_the_cache_under_either_name() -> None:
    old = USED | {"cacheReadInputTokenCount": 1, "cacheWriteInputTokenCount": 2}
    new = old | {"cacheReadInputTokens": 6, "cacheWriteInputTokens": 7}
    for usage, read, written in ((old, 1, 2), (new, 6, 7)):
        found = tokens(stop("end_turn"), event("metadata", {"usage": usage}))
        assert found[0] == Usage(3, 5, 8, read, written)


@pytest.mark.parametrize(
    ("name", "code", "retryable", "status"),
    [
        ("throttlingException", Code.RATE_LIMITED, True, 429),
        ("ThrottlingException", Code.RATE_LIMITED, True, 429),
        ("validationException", Code.BAD_REQUEST, False, 400),
        ("internalServerException", Code.PROVIDER_ERROR, True, 500),
        ("serviceUnavailableException", Code.OVERLOADED, True, 503),
        ("modelStreamErrorException", Code.PROVIDER_ERROR, True, 424),
        ("modelTimeoutException", Code.PROVIDER_ERROR, True, 408),
        ("accessDeniedException", Code.AUTH, False, 403),
        ("futureException", Code.PROVIDER_ERROR, False, None),
    ],
)
def test_exceptions(name: str, code: Code, retryable: bool, status: int | None) -> None:
    found = tokens(text("a"), exception(name, {"message": "too much"}), text("b"))
    assert found == [Text("a"), Error(code, "too much", retryable, status, name)]


def test_an_exception_tells_the_models_own_status() -> None:
    said = {"message": "m", "originalStatusCode": 500, "originalMessage": "o"}
    (last,) = tokens(exception("modelStreamErrorException", said))
    assert last == Error(Code.PROVIDER_ERROR, "m", True, 500, "modelStreamErrorException")


def test_the_models_own_words_are_better_than_none() -> None:
    said = {"originalStatusCode": 503, "originalMessage": "the model is away"}
    name = "modelStreamErrorException"
    (last,) = tokens(exception(name, said))
    assert last == Error(Code.PROVIDER_ERROR, "the model is away", True, 503, name)


def test_a_prompt_that_is_too_long() -> None:
    said = {"message": "Input is too long for requested model."}
    (last,) = tokens(exception("validationException", said))
    assert isinstance(last, Error)
    assert last.code == Code.CONTEXT_LENGTH


def test_an_error_message_has_no_payload() -> None:
    (last,) = tokens(error("InternalError", "An internal server error occurred"))
    assert last == Error(
        Code.PROVIDER_ERROR, "An internal server error occurred", type="InternalError"
    )


def test_an_exception_after_the_stop_reason_is_one() -> None:
    last = tokens(stop("end_turn"), METADATA, exception("internalServerException", {}))[-1]
    assert isinstance(last, Error)
    assert (last.provider_reason, last.usage) == ("end_turn", Usage(3, 5, 8))
    assert last.message == "internalServerException without a message"


def test_what_is_unknown_is_counted() -> None:
    body = open_body("converse")
    strange = message({":event-type": "future"}, b"{}") + message({"x": "y"}, b"{}")
    assert body.feed(START + strange + text("a")) == [Text("a")]
    assert body.feed(event("future", {"delta": {"text": "b"}})) == []
    assert body.oddities == 3


@pytest.mark.parametrize("payload", ["", "no json", '{"delta": 1}', "[]", '{"delta": {"text":'])
def test_a_bad_payload_ends_the_stream_after_the_good(payload: str) -> None:
    for good in ([text("a")], [text("a"), delta({"text": "b", "x": 1})]):
        last = tokens(*good, event("contentBlockDelta", payload), text("c"))
        assert [type(token) for token in last] == [Text] * len(good) + [Error]
        assert getattr(last[-1], "code", "") == Code.BAD_EVENT


def test_line_ends_inside_a_payload_do_not_mix_events_up() -> None:
    two = '{"delta": {"text": "x"}}\n{"delta": {"text": "y"}}'
    found = tokens(text("a"), event("contentBlockDelta", two), event("contentBlockDelta", ""))
    assert [type(token) for token in found] == [Text, Error]
    split = event("contentBlockDelta", '{"delta":\n{"text": "b"}}')
    assert tokens(text("a"), split, stop("end_turn"))[:2] == [Text("a"), Text("b")]


def test_an_emoji_cut_in_two() -> None:
    high, low = (
        event("contentBlockDelta", f'{{"delta": {{"text": "{half}"}}}}')
        for half in ("a\\ud83d", "\\ude00b")
    )
    assert tokens(high, low, stop("end_turn"))[:-1] == [Text("a"), Text("\U0001f600b")]
    assert tokens(high, text("b"), stop("end_turn"))[:-1] == [Text("a"), Text("\ufffdb")]


def test_bad_utf8_becomes_replacements() -> None:
    bad = event("contentBlockDelta", {"delta": {"text": "a?b"}}).replace(b"?", b"\xff")
    inner = bad[:-4]
    found = tokens(inner + crc32(inner).to_bytes(4, "big"), stop("end_turn"))
    assert found[0] == Text("a\ufffdb")


PIECES = st.one_of(
    st.text(max_size=9).map(lambda t: delta({"text": t}, pad=PAD[: len(t)])),
    st.text(max_size=9).map(lambda t: delta({"reasoningContent": {"text": t}}, 1)),
    st.text(max_size=9).map(lambda t: delta({"toolUse": {"input": t}}, 2)),
    st.just(begin({"toolUse": {"toolUseId": "t", "name": "f"}}, 2)),
    st.just(METADATA),
    st.just(end(0)),
)


@given(st.lists(PIECES, max_size=30), st.integers(0, 2**32))
def test_blocks_and_hand_overs_change_nothing(frames: list[bytes], seed: int) -> None:
    frames = [*frames, stop("end_turn")]
    rng, found, body = random.Random(seed), [], open_body("converse")
    at = 0
    while at < len(frames):
        size = rng.randint(1, 7)
        found += body.feed(b"".join(frames[at : at + size]))
        at += size
        if body.dirty:
            body = Body.restore("converse", body.state())
    one = decode("converse", frames)
    assert summarize(found + decode("converse", [b"".join(frames)])[-1:]) == summarize(one)
    assert decode("converse", [b"".join(frames)]) == one


def test_text_makes_no_checkpoint() -> None:
    body = open_body("converse")
    body.feed(START)
    body.state()
    body.feed(text("a") + text("b"))
    assert not body.dirty
    assert len(body.state()) < 60


@pytest.mark.parametrize(
    "frame",
    [
        begin({"toolUse": {"toolUseId": "t", "name": "f"}}, 0),
        stop("end_turn"),
        METADATA,
        event("metadata", {"trace": {"promptRouter": {"invokedModelId": "m"}}}),
    ],
)
def test_what_a_successor_must_know_makes_a_checkpoint(frame: bytes) -> None:
    body = open_body("converse")
    body.feed(text("a") + delta({"toolUse": {"input": "{}"}}))
    body.state()
    body.feed(frame)
    assert body.dirty


def test_a_whole_answer() -> None:
    found = whole(
        [
            {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "s"}}},
            {"reasoningContent": {"redactedContent": "cmVk"}},
            {"text": "Hello"},
            {"citationsContent": {"content": [{"text": "!"}], "citations": [{"title": "t"}]}},
            {"toolUse": {"toolUseId": "t1", "name": "f", "input": {"a": 1.0, "b": "é"}}},
        ],
        stopReason="tool_use",
        usage=USED,
    )
    assert found == [
        Reasoning("hm", signature="s"),
        Reasoning("", block=1, encrypted="cmVk"),
        Text("Hello"),
        Text("!"),
        Citation(title="t", raw={"title": "t"}),
        ToolCall(0, "t1", "f", '{"a":1,"b":"é"}'),
        Usage(3, 5, 8),
        Done("tool_calls", "tool_use", usage=Usage(3, 5, 8), arguments_valid=True),
    ]


def test_a_whole_answer_without_content() -> None:
    assert whole([], stopReason="content_filtered") == [Done("content_filter", "content_filtered")]
