"""Anthropic's Messages and legacy completions, and their fast paths against the general one."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringcast.errors import Code
from ringcast.providers.wire.body import Body, Ending, open_body
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

START = {
    "type": "message_start",
    "message": {
        "id": "m1",
        "model": "c",
        "content": [],
        "usage": {"input_tokens": 3, "output_tokens": 1},
    },
}
STOP = {
    "type": "message_delta",
    "delta": {"stop_reason": "end_turn", "stop_sequence": None},
    "usage": {"output_tokens": 9, "input_tokens": None},
}
END = {"type": "message_stop"}


def delta(kind: str, index: Any = 0, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind} | fields}


def text(content: str, index: Any = 0) -> dict[str, Any]:
    return delta("text_delta", index, text=content)


def block(kind: str, index: Any = 0, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": {"type": kind} | fields}


def stream(*payloads: dict[str, Any], pad: str = "") -> bytes:
    events = (f"event: {p['type']}\ndata: {json.dumps(p)[:-1]}{pad}}}{pad}\n\n" for p in payloads)
    return "".join(events).encode()


def tokens(*payloads: dict[str, Any], api: str = "messages") -> list[StreamToken]:
    return decode(api, [stream(*payloads)])


def test_text_then_done() -> None:
    assert tokens(START, text("Hel"), {"type": "ping"}, text("lo"), STOP, END) == [
        Usage(3, 1),
        Text("Hel"),
        Text("lo"),
        Done("stop", "end_turn", usage=Usage(3, 9), id="m1", model="c"),
    ]


def test_only_message_stop_is_the_end() -> None:
    last = tokens(START, text("x"), STOP)[-1]
    assert isinstance(last, Error)
    assert (last.code, last.provider_reason, last.usage) == (
        Code.STREAM_INCOMPLETE,
        "end_turn",
        Usage(3, 9),
    )


def test_thinking_signature_and_redacted_blocks() -> None:
    found = tokens(
        block("thinking", 0, thinking="", signature=""),
        delta("thinking_delta", 0, thinking="hm"),
        delta("signature_delta", 0, signature="S"),
        block("redacted_thinking", 1, data="E"),
        block("thinking", 2, thinking="at once", signature="T"),
    )
    assert found[:-1] == [
        Reasoning("hm"),
        Reasoning("", signature="S"),
        Reasoning("", block=1, encrypted="E"),
        Reasoning("at once", block=2, signature="T"),
    ]


def test_tool_calls_of_the_model_only() -> None:
    found = tokens(
        block("server_tool_use", 0, id="s", name="web_search", input={}),
        delta("input_json_delta", 0, partial_json='{"q":1}'),
        block("tool_use", 1, id="a", name="f", input={}),
        delta("input_json_delta", 1, partial_json=""),
        delta("input_json_delta", 1, partial_json="{}"),
        block("tool_use", 2, id="b", name="g", input={}),
        delta("input_json_delta", 7, partial_json="lost"),
    )
    calls = [token for token in found if isinstance(token, ToolCall)]
    assert calls == [
        ToolCall(0, "a", "f"),
        ToolCall(0, arguments="{}"),
        ToolCall(1, "b", "g"),
    ]


def test_input_at_the_start_of_a_call_counts_unless_pieces_of_it_follow() -> None:
    def call(index: int, name: str) -> dict[str, Any]:
        return block("tool_use", index, id=name, name=name, input={"n": 1.0})

    found = tokens(
        call(0, "a"),
        {"type": "content_block_stop", "index": 0},
        call(1, "b"),
        delta("input_json_delta", 1, partial_json=""),
        delta("input_json_delta", 1, partial_json='{"n":2}'),
        {"type": "content_block_stop", "index": 1},
        call(2, "c"),
        END,
    )
    calls = summarize(found)["tool_calls"]
    assert [call["arguments"] for call in calls] == ['{"n":1}', '{"n":2}', '{"n":1}']
    assert isinstance(found[-1], Done)
    assert found[-1].arguments_valid is True


def test_a_message_may_begin_with_what_tools_have_found() -> None:
    """So do answers to results of calls that code of the provider's has made."""
    result = {"type": "code_execution_tool_result", "tool_use_id": "s", "content": {"stdout": "1"}}
    call = {"type": "tool_use", "id": "t", "name": "f", "input": {"id": "c"}}
    message = START["message"] | {"content": [result, call], "stop_reason": "tool_use"}  # type: ignore[operator]
    assert tokens({"type": "message_start", "message": message}, END) == [
        Usage(3, 1),
        Reasoning("", detail=result),
        ToolCall(0, "t", "f"),
        ToolCall(0, arguments='{"id":"c"}'),
        Done("tool_calls", "tool_use", usage=Usage(3, 1), id="m1", model="c", arguments_valid=True),
    ]


def test_blocks_of_the_providers_own_are_carried_as_they_come() -> None:
    search = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}
    result = {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"url": "u"}]}
    found = tokens(
        START,
        {"type": "content_block_start", "index": 0, "content_block": search},
        delta("input_json_delta", 0, partial_json=""),
        delta("input_json_delta", 0, partial_json='{"q":"x"}'),
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": result},
        block("compaction", 2, content=None),
        delta("compaction_delta", 2, content="so far", encrypted_content=None),
        block("brand_new", 3, x=1),
        delta("brand_new_delta", 3, y=1),
        text("y", 4),
        END,
    )
    assert found[1:-1] == [
        Reasoning("", detail=search),
        Reasoning("", detail={"type": "input_json_delta", "partial_json": '{"q":"x"}'}),
        Reasoning("", block=1, detail=result),
        Reasoning("", block=2, detail={"type": "compaction", "content": None}),
        Reasoning("", block=2, detail={"type": "compaction_delta", "content": "so far"}),
        Reasoning("", block=3, detail={"type": "brand_new", "x": 1}),
        Text("y"),
    ]


@pytest.mark.parametrize("kind", ["tool_use", "server_tool_use"])
def test_a_block_that_is_open_survives_a_hand_over(kind: str) -> None:
    started = block(kind, 0, id="s", name="f", input={"n": 1})
    payloads = [START, started, {"type": "content_block_stop", "index": 0}, END]
    pieces = [delta("input_json_delta", 0, partial_json=piece) for piece in ('{"q', '":1}')]
    for said in (payloads, [*payloads[:2], *pieces, END]):
        body, found = open_body("messages"), list[StreamToken]()
        state = body.state()
        for payload in said:
            body = Body.restore("messages", state)
            found += body.feed(stream(payload))
            state = body.state() if body.dirty else state
        assert found == tokens(*said)


def test_openrouter_tells_what_a_message_cost() -> None:
    last = tokens(START, STOP | {"usage": {"output_tokens": 9, "cost": 0.25}}, END)[-1]
    assert isinstance(last, Done)
    assert last.usage == Usage(3, 9, cost=0.25)


def test_a_second_message_has_blocks_of_its_own() -> None:
    first, second = block("tool_use", 0, id="a", name="f"), block("tool_use", 0, name="g")
    found = tokens(START, first, START, second, delta("input_json_delta", 0, partial_json="{}"))
    assert found[1:-1] == [
        ToolCall(0, "a", "f"),
        ToolCall(1, None, "g"),
        ToolCall(1, arguments="{}"),
    ]


def test_a_message_that_is_begun_again_does_not_lose_the_call_that_is_open() -> None:
    found = tokens(
        START,
        block("tool_use", 0, id="a", name="f"),
        delta("input_json_delta", partial_json='{"n":'),
        START,
        START,
        delta("input_json_delta", partial_json="1}"),
        END,
    )
    assert summarize(found)["tool_calls"] == [{"id": "a", "name": "f", "arguments": '{"n":1}'}]


def test_citations() -> None:
    cited = {
        "type": "char_location",
        "cited_text": "x",
        "document_title": "t",
        "start_char_index": 1,
    }
    web = {"type": "web_search_result_location", "url": "u", "title": "v", "cited_text": "y"}
    found = tokens(delta("citations_delta", citation=cited), delta("citations_delta", citation=web))
    assert found[:-1] == [
        Citation(None, "t", "x", 1, None, 0, cited),
        Citation("u", "v", "y", None, None, 0, web),
    ]


def test_stop_sequence_and_pause() -> None:
    stopped = {
        "type": "message_delta",
        "delta": {"stop_reason": "stop_sequence", "stop_sequence": "Q"},
    }
    last = tokens(stopped, END)[-1]
    assert last == Done("stop", "stop_sequence", stop_sequence="Q")
    paused = tokens({"type": "message_delta", "delta": {"stop_reason": "pause_turn"}}, END)[-1]
    assert paused == Done("pause", "pause_turn")


def test_wrong_order_unknown_types_and_early_deltas_are_tolerated() -> None:
    body = open_body("messages")
    found = body.feed(
        stream(
            text("early"),
            START,
            {"type": "content_block_stop", "index": 9},
            {"type": "content_block_stop", "index": 9},
            {"type": "brand_new", "x": [1]},
            delta("brand_new_delta", x=1),
            START,
            text("late", index=None),
        )
    )
    assert found == [Text("early"), Usage(3, 1), Text("late")]
    assert body.oddities == 3


def test_type_of_the_payload_rules_and_else_the_event_line() -> None:
    nameless = b"".join(f"data: {json.dumps(p)}\n\n".encode() for p in (START, text("x"), END))
    assert [type(t) for t in decode("messages", [nameless])] == [Usage, Text, Done]
    untyped = b'event: content_block_delta\ndata: {"delta":{"type":"text_delta","text":"x"}}\n\n'
    assert decode("messages", [untyped])[0] == Text("x")


@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        ({"type": "overloaded_error", "message": "Overloaded"}, True),
        ({"type": "invalid_request_error", "message": "Overloaded"}, False),
    ],
)
def test_errors_in_the_stream(error: dict[str, str], retryable: bool) -> None:
    last = tokens(START, text("x"), {"type": "error", "error": error}, text("y"))
    assert last[1:] == [
        Text("x"),
        Error("provider_error", "Overloaded", retryable, type=error["type"], usage=Usage(3, 1)),
    ]


@pytest.mark.parametrize(
    "payload",
    [
        delta("input_json_delta", -1, partial_json="{"),
        block("tool_use", 1 << 40),
        {"type": "content_block_delta", "delta": 5},
        {"type": "content_block_start", "content_block": []},
        {"type": "message_start", "message": {"content": 5}},
    ],
    ids=lambda payload: str(payload["type"]),
)
def test_bad_events(payload: dict[str, Any]) -> None:
    found = tokens(text("x"), payload, text("y"))
    assert found[0] == Text("x")
    assert isinstance(found[1], Error)
    assert (found[1].code, len(found)) == (Code.BAD_EVENT, 2)


def test_a_split_emoji_is_joined() -> None:
    raw = stream(text("aHIGH"), text("LOWb"), END)
    data = raw.replace(b"HIGH", b"\\ud83d").replace(b"LOW", b"\\ude00")
    assert decode("messages", [data])[:-1] == [Text("a"), Text("\U0001f600b")]


def test_whole_answers() -> None:
    answer = {
        "id": "m1",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": "S"},
            {"type": "text", "text": "x", "citations": [{"url": "u"}]},
            {"type": "tool_use", "id": "a", "name": "f", "input": {"n": 1}},
            {"type": "tool_use", "id": "b", "name": "g", "input": {}},
        ],
        "stop_reason": "tool_use",
        "usage": {"input_tokens": 1},
    }
    body = json.dumps(answer, indent=1).encode()
    summary = summarize(decode("messages", [body], Ending(content_type="application/json")))
    assert summary["text"] == "x"
    assert summary["reasoning"] == "hm"
    assert summary["signatures"] == ["S"]
    assert summary["tool_calls"] == [
        {"id": "a", "name": "f", "arguments": '{"n":1}'},
        {"id": "b", "name": "g", "arguments": "{}"},
    ]
    assert summary["finish_reason"] == "tool_use"
    assert summary["annotations"] == 1
    assert summary["error"] is None


def test_legacy_completions() -> None:
    piece = {"type": "completion", "id": "c", "completion": " x", "stop_reason": None, "model": "m"}
    last = piece | {"completion": "", "stop_reason": "stop_sequence", "stop": "\n\nHuman:"}
    assert tokens(piece, last, piece, api="complete") == [
        Text(" x"),
        Done("stop", "stop_sequence", id="c", model="m", stop_sequence="\n\nHuman:"),
    ]
    cut = tokens(piece, api="complete")[-1]
    assert isinstance(cut, Error)
    assert cut.code == Code.STREAM_INCOMPLETE
    assert decode("complete", [json.dumps(last).encode()])[-1] == Done(
        "stop", "stop_sequence", id="c", model="m", stop_sequence="\n\nHuman:"
    )


# The fast paths: whatever they accept, the general path must decode to the same tokens.

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["\\", '"', '","', "\n\n", "}\n\nevent: content_block_delta\ndata: {", ""]
)
PAYLOADS = st.one_of(
    st.builds(text, TEXTS),
    st.builds(text, TEXTS, st.sampled_from([0, 1, None, -1, "x"])),
    st.builds(lambda t: delta("thinking_delta", thinking=t), TEXTS),
    st.builds(lambda t: delta("input_json_delta", partial_json=t), TEXTS),
    st.sampled_from([START, STOP, END, {"type": "ping"}, {"type": "error"}, block("tool_use")]),
)
PLAIN = st.builds(text, TEXTS)
BLOCKS = st.lists(
    st.one_of(st.lists(PLAIN, max_size=6), st.lists(PAYLOADS, max_size=4)), max_size=6
)


def general(blocks: list[bytes]) -> list[StreamToken]:
    body = open_body("messages")
    return [token for data in blocks for token in body._events(data)]


def fast(blocks: list[bytes]) -> list[StreamToken]:
    body = open_body("messages")
    return [token for data in blocks for token in body.feed(data)]


@given(BLOCKS, st.sampled_from(["", " ", "     "]))
def test_fast_paths_decode_as_the_general_one(blocks: list[list[Any]], pad: str) -> None:
    encoded = [stream(*payloads, pad=pad) for payloads in blocks]
    assert fast(encoded) == general(encoded)


SAID = st.sampled_from(
    [
        *(START, STOP, text("x"), delta("thinking_delta", thinking="h")),
        *(block("tool_use", number, id=f"t{number}", name="f", input={}) for number in (0, 1)),
        *(block("tool_use", number, name="g", input={"n": number}) for number in (0, 1)),
        *(block("server_tool_use", number, id="s", name="w", input={}) for number in (0, 1)),
        block("web_search_tool_result", 1, tool_use_id="s", content=[]),
        *(delta("input_json_delta", number, partial_json='{"a":1}') for number in (0, 1)),
        *({"type": "content_block_stop", "index": number} for number in (0, 1)),
    ]
)


@given(st.lists(SAID, max_size=12))
def test_hand_over_at_every_event(payloads: list[dict[str, Any]]) -> None:
    """The successor has the last state that was worth a checkpoint."""
    body, found = open_body("messages"), list[StreamToken]()
    state = body.state()
    for payload in [*payloads, END]:
        body = Body.restore("messages", state)
        found += body.feed(stream(payload))
        state = body.state() if body.dirty else state
    assert found == tokens(*payloads, END)


NOISE = [
    b"\\",
    b'"',
    b"\n",
    b"\r",
    b"\n\n",
    b"{",
    b"}",
    b",",
    b"data: ",
    b"event: error\n",
    b"\xff",
]


@pytest.mark.parametrize("seed", range(300))
def test_fast_paths_on_mutated_blocks(seed: int) -> None:
    rng = random.Random(seed)
    blocks = [stream(text("a")), stream(text("b"), text("c"))]
    for _ in range(4):
        data = bytearray(stream(*(text(rng.choice(["a", "\\", '"', "é"])) for _ in range(4))))
        for _ in range(rng.randrange(3)):
            at = rng.randrange(len(data))
            data[at : at + rng.randrange(3)] = rng.choice(NOISE)
        blocks.append(bytes(data) + b"\n\n")
    assert fast(blocks) == general(blocks), f"seed {seed}"
