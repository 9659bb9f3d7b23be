"""Bedrock's InvokeModel: each model's own format inside AWS messages, told by its content."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fakes.frames import chunk, event, exception
from hypothesis import given
from hypothesis import strategies as st

from ringcast.errors import Code
from ringcast.providers.wire.body import Body, Ending, open_body
from ringcast.providers.wire.summary import decode
from ringcast.shm.tokens import (
    Citation,
    Delta,
    Done,
    Error,
    Reasoning,
    StreamToken,
    Text,
    ToolCall,
    Usage,
)

Json = dict[str, Any]

METRICS = {
    "amazon-bedrock-invocationMetrics": {
        "inputTokenCount": 7,
        "outputTokenCount": 9,
        "invocationLatency": 20,
        "firstByteLatency": 10,
    }
}

CLAUDE: list[Json] = [
    {"type": "message_start", "message": {"id": "i", "model": "c", "usage": {"input_tokens": 3}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
    {"type": "content_block_stop", "index": 0},
    {
        "type": "content_block_start",
        "index": 1,
        "content_block": {"type": "tool_use", "id": "t", "name": "f", "input": {}},
    },
    {
        "type": "content_block_delta",
        "index": 1,
        "delta": {"type": "input_json_delta", "partial_json": "{}"},
    },
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 5}},
    {"type": "message_stop"} | METRICS,
]
LEGACY: list[Json] = [
    {"completion": " Hi", "stop_reason": None, "stop": None},
    {"completion": "", "stop_reason": "stop_sequence", "stop": "\n\nHuman:"} | METRICS,
]
NOVA: list[Json] = [
    {"messageStart": {"role": "assistant"}},
    {"contentBlockDelta": {"delta": {"text": "Hi"}, "contentBlockIndex": 0}},
    {"contentBlockStop": {"contentBlockIndex": 0}},
    {
        "contentBlockStart": {
            "start": {"toolUse": {"toolUseId": "t", "name": "f"}},
            "contentBlockIndex": 1,
        }
    },
    {"contentBlockDelta": {"delta": {"toolUse": {"input": "{}"}}, "contentBlockIndex": 1}},
    {"messageStop": {"stopReason": "tool_use"}},
    {"metadata": {"usage": {"inputTokens": 3, "outputTokens": 5}}} | METRICS,
]
TITAN: list[Json] = [
    {"outputText": "Hel", "index": 0.0, "inputTextTokenCount": 3.0, "completionReason": None},
    {
        "outputText": "lo",
        "index": 0.0,
        "totalOutputTextTokenCount": 5.0,
        "completionReason": "FINISH",
    }
    | METRICS,
]
LLAMA: list[Json] = [
    {
        "generation": "Hel",
        "prompt_token_count": 3,
        "generation_token_count": 1,
        "stop_reason": None,
    },
    {
        "generation": "lo",
        "prompt_token_count": None,
        "generation_token_count": 5,
        "stop_reason": "length",
    }
    | METRICS,
]
MISTRAL: list[Json] = [
    {"outputs": [{"text": "Hel", "stop_reason": None}]},
    {"outputs": [{"text": "lo", "stop_reason": "stop"}]} | METRICS,
]
COHERE: list[Json] = [
    {"is_finished": False, "text": "Hello"},
    {"is_finished": True, "finish_reason": "MAX_TOKENS"} | METRICS,
]
CHAT: list[Json] = [
    {"choices": [{"index": 0, "delta": {"content": "Hello"}, "finish_reason": None}]},
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]} | METRICS,
]
MISTRAL_CHAT: list[Json] = [
    {"choices": [{"index": 0, "message": {"content": "Hello"}, "stop_reason": None}]},
    {"choices": [{"index": 0, "message": {"content": ""}, "stop_reason": "length"}]} | METRICS,
]
DEEPSEEK: list[Json] = [
    {"choices": [{"index": 0, "text": "Hello", "stop_reason": None}]},
    {"choices": [{"index": 0, "text": "", "stop_reason": "stop"}]} | METRICS,
]
COHERE_CHAT: list[Json] = [
    {"event_type": "stream-start", "generation_id": "g", "is_finished": False},
    {"event_type": "text-generation", "text": "Hel", "is_finished": False},
    {"event_type": "text-generation", "text": "lo", "is_finished": False},
    {
        "event_type": "stream-end",
        "is_finished": True,
        "finish_reason": "COMPLETE",
        "response": {"text": "Hello", "chat_history": [{"message": "Hello"}]},
    }
    | METRICS,
]
FORMATS = {
    "claude": CLAUDE,
    "legacy": LEGACY,
    "nova": NOVA,
    "titan": TITAN,
    "llama": LLAMA,
    "mistral": MISTRAL,
    "cohere": COHERE,
    "chat": CHAT,
    "mistral_chat": MISTRAL_CHAT,
    "deepseek": DEEPSEEK,
    "cohere_chat": COHERE_CHAT,
}


def tokens(*inner: Json) -> list[StreamToken]:
    """The same with all chunks in one block, and with a hand-over before each and at the end.

    The successor has the last state that was worth a checkpoint.
    """
    frames = [chunk(one) for one in inner]
    found = decode("invoke", [b"".join(frames)])
    assert found == decode("invoke", frames)
    body, again = open_body("invoke"), []
    state = body.state()
    for frame in frames:
        body = Body.restore("invoke", state)
        again += body.feed(frame)
        if body.dirty:
            state = body.state()
    assert again + Body.restore("invoke", state).end(Ending()) == found
    return found


def whole(answer: Json) -> list[StreamToken]:
    return decode("invoke", [json.dumps(answer).encode()])


def test_claude() -> None:
    assert tokens(*CLAUDE) == [
        Usage(3),
        Text("Hi"),
        ToolCall(0, "t", "f"),
        ToolCall(0, arguments="{}"),
        Done(
            "tool_calls",
            "tool_use",
            usage=Usage(3, 5),
            id="i",
            model="c",
            arguments_valid=True,
        ),
    ]


def test_claude_of_before() -> None:
    assert tokens(*LEGACY) == [
        Text(" Hi"),
        Usage(7, 9),
        Done("stop", "stop_sequence", usage=Usage(7, 9), stop_sequence="\n\nHuman:"),
    ]


def test_nova() -> None:
    assert tokens(*NOVA) == [
        Text("Hi"),
        ToolCall(0, "t", "f"),
        ToolCall(0, arguments="{}"),
        Usage(3, 5),
        Done("tool_calls", "tool_use", usage=Usage(3, 5), arguments_valid=True),
    ]


@pytest.mark.parametrize(
    ("name", "reason", "meaning", "counts"),
    [
        ("titan", "FINISH", "stop", (3, 5)),
        ("llama", "length", "length", (3, 5)),
        ("mistral", "stop", "stop", (7, 9)),
        ("cohere", "MAX_TOKENS", "length", (7, 9)),
        ("chat", "stop", "stop", (7, 9)),
        ("mistral_chat", "length", "length", (7, 9)),
        ("deepseek", "stop", "stop", (7, 9)),
        ("cohere_chat", "COMPLETE", "stop", (7, 9)),
    ],
)
def test_the_others(name: str, reason: str, meaning: Any, counts: tuple[int, int]) -> None:
    found = tokens(*FORMATS[name])
    assert "".join(token.content for token in found if isinstance(token, Text)) == "Hello"
    last = found[-1]
    assert isinstance(last, Done)
    assert (last.finish_reason, last.provider_reason) == (meaning, reason)
    assert last.usage == Usage(*counts)
    assert sum(isinstance(token, Usage) for token in found) == 1


@pytest.mark.parametrize("name", FORMATS)
def test_a_stream_without_its_end_is_incomplete(name: str) -> None:
    last = tokens(*FORMATS[name][:1])[-1]
    assert isinstance(last, Error)
    assert (last.code, last.retryable) == (Code.STREAM_INCOMPLETE, True)


@pytest.mark.parametrize("name", FORMATS)
def test_an_exception_ends_any(name: str) -> None:
    first = chunk(FORMATS[name][0])
    bad = exception("throttlingException", {"message": "slow down"})
    last = decode("invoke", [first + bad + first])[-1]
    assert isinstance(last, Error)
    assert (last.code, last.type) == (Code.RATE_LIMITED, "throttlingException")


def test_calls_of_mistrals_chat() -> None:
    call = {"id": "t", "function": {"name": "f", "arguments": '{"n": 1}'}}
    message = {"content": "", "tool_calls": [call]}
    assert tokens({"choices": [{"index": 0, "message": message, "stop_reason": "tool_calls"}]}) == [
        ToolCall(0, "t", "f", '{"n": 1}'),
        Done("tool_calls", "tool_calls", arguments_valid=True),
    ]


def test_calls_and_citations_of_coheres_chat() -> None:
    """A call comes in pieces and then whole, or only whole, each time with the plan for it."""
    cited = {"start": 0, "end": 4, "text": "plan", "document_ids": ["d"]}
    call = {"name": "f", "parameters": {"n": 1}}
    end = {"event_type": "stream-end", "is_finished": True, "finish_reason": "COMPLETE"}
    meta = {"tokens": {"input_tokens": 3, "output_tokens": 5}, "billed_units": {"input_tokens": 1}}
    pieces: list[Json] = [
        {"event_type": "tool-calls-chunk", "text": "plan"},
        {"event_type": "tool-calls-chunk", "tool_call_delta": {"index": 0, "name": "f"}},
        {"event_type": "tool-calls-chunk", "tool_call_delta": {"index": 0, "parameters": '{"n":'}},
        {"event_type": "tool-calls-chunk", "tool_call_delta": {"index": 0, "parameters": "1}"}},
    ]
    generated = {"event_type": "tool-calls-generation", "text": "plan", "tool_calls": [call]}
    last = Done("tool_calls", "COMPLETE", usage=Usage(3, 5), id="g", arguments_valid=True)
    after = end | {"response": {"generation_id": "g", "meta": meta, "tool_calls": [call]}}
    assert tokens(*pieces, generated, after) == [
        Text("plan"),
        ToolCall(0, None, "f"),
        ToolCall(0, arguments='{"n":'),
        ToolCall(0, arguments="1}"),
        Usage(3, 5),
        last,
    ]
    assert tokens(
        generated, {"event_type": "citation-generation", "citations": [cited]}, after
    ) == [
        Text("plan"),
        ToolCall(0, None, "f", '{"n":1}'),
        Citation(text="plan", start=0, end=4, raw=cited),
        Usage(3, 5),
        last,
    ]


def test_an_answer_in_which_a_guardrail_intervened_is_filtered() -> None:
    guarded = {"amazon-bedrock-guardrailAction": "INTERVENED"}
    found = tokens({"amazon-bedrock-trace": {}}, MISTRAL[0], MISTRAL[1] | guarded)
    assert isinstance(found[-1], Done)
    assert (found[-1].finish_reason, found[-1].provider_reason) == ("content_filter", "stop")
    passed = tokens(MISTRAL[0], MISTRAL[1] | {"amazon-bedrock-guardrailAction": "NONE"})
    assert isinstance(passed[-1], Done)
    assert passed[-1].finish_reason == "stop"
    blocked = {"outputText": "no", "index": 0.0, "inputTextTokenCount": 6.0} | guarded
    usage = Usage(6)
    done = Done("content_filter", "INTERVENED", usage=usage)
    assert tokens(blocked) == [Text("no"), usage, done]
    answer = whole({"choices": [{"text": "no", "stop_reason": "stop"}]} | guarded)
    assert answer == [Text("no"), Done("content_filter", "stop")]


def test_several_generations() -> None:
    found = tokens(
        {"text": "a", "index": 0, "is_finished": False},
        {"text": "b", "index": 1, "is_finished": False},
        {"index": 1, "is_finished": True, "finish_reason": "COMPLETE"},
        {"index": 0, "is_finished": True, "finish_reason": "MAX_TOKENS"},
    )
    assert found == [
        Text("a"),
        Delta("b", 1),
        Done("length", "MAX_TOKENS", choices=["MAX_TOKENS", "COMPLETE"]),
    ]


def test_a_generation_that_did_not_end_is_counted_as_well() -> None:
    found = tokens(
        {"text": "a", "index": 0, "is_finished": False},
        {"text": "b", "index": 1, "is_finished": False},
        {"index": 0, "is_finished": True, "finish_reason": "COMPLETE"},
    )
    assert found[-1] == Done("stop", "COMPLETE", choices=["COMPLETE", None])


def test_counts_may_come_alone() -> None:
    assert tokens(LLAMA[0], {"generation": "", "stop_reason": "stop"}, METRICS)[-1] == Done(
        "stop", "stop", usage=Usage(3, 1)
    )
    assert tokens({"outputs": [{"text": "a", "stop_reason": "stop"}]}, METRICS)[1:] == [
        Usage(7, 9),
        Done("stop", "stop", usage=Usage(7, 9)),
    ]


def test_the_end_of_cohere_needs_no_reason() -> None:
    assert tokens({"text": "a", "is_finished": False}, {"is_finished": True})[-1] == Done("other")


def test_an_error_of_claudes_own() -> None:
    said = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    last = tokens(CLAUDE[0], said)[-1]
    assert isinstance(last, Error)
    assert (last.type, last.message, last.retryable) == ("overloaded_error", "Overloaded", True)


@pytest.mark.parametrize(
    "payload", ["{}", '{"bytes": "%%%"}', '{"bytes": 1}', "no", '{"bytes": "eA=="}']
)
def test_bad_chunks(payload: str) -> None:
    good = chunk(LLAMA[0])
    found = decode("invoke", [good + event("chunk", payload) + good])
    assert found[0] == Text("Hel")
    assert [getattr(token, "code", "") for token in found[-1:]] == [Code.BAD_EVENT]


def test_other_events_are_counted() -> None:
    body = open_body("invoke")
    body.feed(event("initial-response", {}) + chunk(LLAMA[0]))
    assert body.oddities == 1
    assert Body.restore("invoke", body.state()).oddities == 1


@given(st.text(max_size=40), st.text(max_size=40))
def test_text_survives(first: str, second: str) -> None:
    found = tokens({"generation": first}, {"generation": second, "stop_reason": "stop"})
    assert "".join(t.content for t in found if isinstance(t, Text)) == first + second


WHOLE: dict[str, tuple[Json, Any]] = {
    "claude": (
        {
            "type": "message",
            "content": [{"type": "thinking", "thinking": "h", "signature": "s"}],
            "stop_reason": "end_turn",
        },
        [Reasoning("h", signature="s"), Done("stop", "end_turn")],
    ),
    "legacy": (
        {"completion": " Hi", "stop_reason": "stop_sequence", "stop": "x"},
        [Text(" Hi"), Done("stop", "stop_sequence", stop_sequence="x")],
    ),
    "nova": (
        {"output": {"message": {"content": [{"text": "Hi"}]}}, "stopReason": "end_turn"},
        [Text("Hi"), Done("stop", "end_turn")],
    ),
    "titan": (
        {
            "inputTextTokenCount": 3,
            "results": [{"tokenCount": 5, "outputText": "Hi", "completionReason": "LENGTH"}],
        },
        [Text("Hi"), Usage(3, 5), Done("length", "LENGTH", usage=Usage(3, 5))],
    ),
    "llama": (
        {
            "generation": "Hi",
            "prompt_token_count": 3,
            "generation_token_count": 5,
            "stop_reason": "stop",
        },
        [Text("Hi"), Usage(3, 5), Done("stop", "stop", usage=Usage(3, 5))],
    ),
    "mistral": (
        {"outputs": [{"text": "Hi", "stop_reason": "stop"}]},
        [Text("Hi"), Done("stop", "stop")],
    ),
    "cohere": (
        {"id": "i", "prompt": "p", "generations": [{"text": "Hi", "finish_reason": "COMPLETE"}]},
        [Text("Hi"), Done("stop", "COMPLETE")],
    ),
    "cohere_chat": (
        {"response_id": "r", "generation_id": "g", "text": "Hi", "finish_reason": "MAX_TOKENS"},
        [Text("Hi"), Done("length", "MAX_TOKENS", id="g")],
    ),
    "chat": (
        {"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]},
        [Text("Hi"), Done("stop", "stop")],
    ),
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_answers(name: str) -> None:
    answer, expected = WHOLE[name]
    assert whole(answer) == expected


def test_an_answer_of_an_unknown_model_is_none() -> None:
    (last,) = whole({"vector": [1, 2]})
    assert isinstance(last, Error)
    assert last.code == Code.NOT_EVENT_STREAM
