"""Gemini's interactions: both vocabularies, what can be resumed, and the fast path."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringcast.errors import Code
from ringcast.providers.wire.body import Body, Ending, open_body
from ringcast.providers.wire.summary import decode, summarize
from ringcast.shm.records import Cursor
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

Json = dict[str, Any]
COUNTS = {"total_input_tokens": 3, "total_output_tokens": 5, "total_tokens": 10}
USAGE = Usage(3, 5, 10, reasoning_tokens=2)
WORDS = {
    "new": ("interaction.created", "interaction.completed", "step", "total_thought_tokens"),
    "old": ("interaction.start", "interaction.complete", "content", "total_reasoning_tokens"),
}


def event(kind: str, **fields: Any) -> Json:
    return fields | {"event_type": kind}


def created(**fields: Any) -> Json:
    about = {"id": "v1_i", "status": "in_progress", "model": "gemini"}
    return event("interaction.created", interaction=about, **fields)


def status(word: str, **fields: Any) -> Json:
    return event("interaction.status_update", interaction_id="v1_i", status=word, **fields)


def completed(word: str = "completed", **fields: Any) -> Json:
    return event("interaction.completed", interaction={"id": "v1_i", "status": word} | fields)


def start(kind: str, index: Any = 0, **fields: Any) -> Json:
    return event("step.start", index=index, step={"type": kind} | fields)


def delta(kind: str, index: Any = 0, **fields: Any) -> Json:
    return event("step.delta", index=index, delta={"type": kind} | fields)


def text(content: str, **fields: Any) -> Json:
    return delta("text", text=content) | fields


def stop(index: int = 0) -> Json:
    return event("step.stop", index=index)


def stream(*events: Json) -> bytes:
    named = (
        f"event: {e.get('event_type', 'x')}\ndata: {json.dumps(e, ensure_ascii=False)}\n\n"
        for e in events
    )
    return "".join(named).encode()


DONE = b"event: done\ndata: [DONE]\n\n"


def tokens(*events: Json) -> list[StreamToken]:
    return decode("interactions", [stream(*events), DONE])


@pytest.mark.parametrize("words", ["new", "old"])
@pytest.mark.parametrize("last", [DONE, b""])
def test_thought_and_text_in_both_vocabularies(words: str, last: bytes) -> None:
    begun, ended, unit, thoughts = WORDS[words]
    first = {"id": "v1_i", "status": "in_progress", "model": "gemini"}
    hm = {"type": "text", "text": "hm"}
    events = [
        event(begun, interaction=first),
        status("in_progress"),
        event(f"{unit}.start", index=0, **{unit: {"type": "thought"}}),
        event(f"{unit}.delta", index=0, delta={"type": "thought_summary", "content": hm}),
        event(f"{unit}.delta", index=0, delta={"type": "thought_signature", "signature": "S"}),
        event(f"{unit}.stop", index=0),
        event(f"{unit}.start", index=1, **{unit: {"type": "text", "text": ""}}),
        event(f"{unit}.delta", index=1, delta={"type": "text", "text": "Hel"}),
        event(f"{unit}.delta", index=1, delta={"type": "text", "text": "lo"}),
        event(f"{unit}.stop", index=1),
        event(ended, interaction=first | {"status": "completed", "usage": COUNTS | {thoughts: 2}}),
    ]
    body = open_body("interactions")
    assert body.feed(stream(*events)) == [
        Reasoning("hm"),
        Reasoning("", signature="S"),
        Text("Hel"),
        Text("lo"),
        USAGE,
    ]
    found = body.feed(last) if last else body.end(Ending())
    assert found == [Done("stop", "completed", usage=USAGE, id="v1_i", model="gemini")]
    assert body.oddities == 0


def test_calls_with_streamed_arguments() -> None:
    found = tokens(
        created(),
        start("function_call", 0, id="a", name="f", arguments={}),
        delta("arguments_delta", 0, arguments='{"n":'),
        delta("arguments_delta", 0, arguments="1}"),
        stop(0),
        start("function_call", 1, id="b", name="g", arguments={"whole": 1.0}),
        stop(1),
        start("function_call", 2, id="c", name="h"),
        completed("requires_action"),
    )
    assert found == [
        ToolCall(0, "a", "f"),
        ToolCall(0, arguments='{"n":'),
        ToolCall(0, arguments="1}"),
        ToolCall(1, "b", "g"),
        ToolCall(1, arguments='{"whole":1}'),
        ToolCall(2, "c", "h"),
        ToolCall(2, arguments="{}"),
        Done("tool_calls", "requires_action", id="v1_i", model="gemini", arguments_valid=True),
    ]


def test_calls_of_the_old_vocabulary_come_whole() -> None:
    called = {"type": "function_call", "id": "a", "name": "f", "arguments": {"n": 1}}
    found = tokens(
        event("content.start", index=0, content={"type": "function_call"}),
        event("content.delta", index=0, delta=called),
        event("content.stop", index=0),
        completed(),
    )
    calls = summarize(found)["tool_calls"]
    assert calls == [{"id": "a", "name": "f", "arguments": '{"n":1}'}]


def test_pictures_and_googles_tools_are_carried() -> None:
    picture = {"type": "image", "mime_type": "image/png", "data": "AA=="}
    search = {"type": "google_search_call", "arguments": {"queries": ["q"]}}
    found = tokens(
        start("google_search_call", 0),
        delta("google_search_call", 0, arguments={"queries": ["q"]}, signature="S"),
        start("google_search_result", 1, call_id="c"),
        delta("image", 2, mime_type="image/png", data="AA=="),
        completed(),
    )
    assert found[:-1] == [
        Reasoning("", signature="S", detail=search),
        Reasoning("", block=1, detail={"type": "google_search_result", "call_id": "c"}),
        Reasoning("", block=2, detail=picture),
    ]


def test_a_step_of_googles_tools_has_the_id_of_its_start() -> None:
    step = {"type": "google_search_call", "id": "s", "arguments": {"queries": ["q"]}}
    found = tokens(
        start("google_search_call", 0, id="s", signature=""),
        delta("google_search_call", 0, arguments={"queries": ["q"]}),
        event("step.stop", index=0),
        start("google_search_result", 1, call_id="s", signature=""),
        delta("google_search_result", 1, result=[{"url": "u"}], signature="S"),
        event("step.stop", index=1),
        completed(),
    )
    result = {"type": "google_search_result", "call_id": "s", "result": [{"url": "u"}]}
    assert found[:-1] == [
        Reasoning("", detail=step),
        Reasoning("", 0, 1, "S", detail=result),
    ]


def test_a_delta_of_text_needs_no_type() -> None:
    assert tokens(event("step.delta", index=0, delta={"text": "x"}), completed())[0] == Text("x")


def test_an_event_may_tell_the_status_by_its_name() -> None:
    assert isinstance(tokens(event("interaction.completed"))[-1], Done)
    last = tokens(event("interaction.in_progress"), event("interaction.requires_action"))[-1]
    assert isinstance(last, Done)
    assert (last.finish_reason, last.provider_reason) == ("tool_calls", "requires_action")


def test_citations() -> None:
    url = {"type": "url_citation", "url": "u", "title": "t", "start_index": 1, "end_index": 2}
    file = {"type": "file_citation", "document_uri": "d", "file_name": "f"}
    old = {"source": "s", "end_index": 4}
    found = tokens(
        delta("text_annotation_delta", annotations=[url, file]),
        delta("text", text="x", annotations=[old]),
        completed(),
    )
    assert found[:-1] == [
        Citation("u", "t", None, 1, 2, 0, url),
        Citation("d", "f", raw=file),
        Text("x"),
        Citation("s", None, None, None, 4, 0, old),
    ]


def test_what_the_client_said_is_not_told_back() -> None:
    found = tokens(
        start("user_input", 0, content=[{"type": "text", "text": "asked"}]),
        delta("text", 0, text="asked"),
        stop(0),
        start("function_result", 1, call_id="c", result="found"),
        delta("function_result", 1, result="found"),
        stop(1),
        delta("text", 0, text="answered"),
        completed(),
    )
    assert found[:-1] == [Text("answered")]


@pytest.mark.parametrize(
    ("word", "meaning"),
    [
        ("completed", "stop"),
        ("incomplete", "length"),
        ("budget_exceeded", "length"),
        ("requires_continuation", "pause"),
        ("invented_tomorrow", "other"),
    ],
)
def test_statuses(word: str, meaning: Any) -> None:
    assert tokens(completed(word)) == [Done(meaning, word, id="v1_i")]
    assert tokens(status(word)) == [Done(meaning, word, id="v1_i")]


def test_what_failed_is_an_error() -> None:
    failed = tokens(text("x"), completed("failed", errors=[{"code": "c", "message": "why"}]))
    assert failed[1] == Error("provider_error", "why", provider_code="c", provider_reason="failed")
    cancelled = tokens(text("x"), completed("cancelled"))[-1]
    assert isinstance(cancelled, Error)
    assert (cancelled.code, cancelled.provider_reason) == (Code.CANCELLED, "cancelled")


@pytest.mark.parametrize("last", [DONE, b""])
def test_a_stream_that_ends_too_early(last: bytes) -> None:
    end = decode("interactions", [stream(created(), text("x")), last])[-1]
    assert isinstance(end, Error)
    assert (end.code, end.retryable, end.provider_reason) == (
        Code.STREAM_INCOMPLETE,
        True,
        "in_progress",
    )


def test_errors_in_the_stream() -> None:
    said = event("error", error={"code": "gateway_timeout", "message": "late"}, event_id="e9")
    assert tokens(text("x"), said, text("y")) == [
        Text("x"),
        Error("provider_error", "late", True, provider_code="gateway_timeout"),
    ]
    plain = decode("interactions", [b"event: error\ndata: no JSON\n\n"])
    assert plain == [Error("provider_error", "no JSON")]


def test_whole_answers() -> None:
    steps = [
        {"type": "user_input", "content": [{"type": "text", "text": "asked"}]},
        {"type": "thought", "signature": "S", "summary": [{"type": "text", "text": "hm"}]},
        {"type": "model_output", "content": [{"type": "text", "text": "x"}]},
        {"type": "function_call", "id": "a", "name": "f", "arguments": {"n": 1}},
    ]
    about = {"id": "v1_i", "model": "gemini", "status": "requires_action", "usage": COUNTS}
    said = summarize(decode("interactions", [json.dumps(about | {"steps": steps}).encode()]))
    assert (said["text"], said["reasoning"], said["signatures"]) == ("x", "hm", ["S"])
    assert said["tool_calls"] == [{"id": "a", "name": "f", "arguments": '{"n":1}'}]
    assert (said["finish_reason"], said["error"]) == ("requires_action", None)
    assert said["usage"]["output_tokens"] == 5
    outputs = [{"type": "text", "text": "x"}]
    old = about | {"status": "completed", "outputs": outputs}
    assert decode("interactions", [json.dumps(old, indent=1).encode()])[0] == Text("x")


@pytest.mark.parametrize(
    "payload",
    [
        delta("text", -1, text="x"),
        delta("text", 1 << 40, text="x"),
        event("step.delta", delta=5),
        event("interaction.created", interaction=5),
        start("function_call", "x"),
    ],
    ids=str,
)
def test_bad_events(payload: Json) -> None:
    found = tokens(text("x"), payload, text("y"))
    assert found[0] == Text("x")
    assert isinstance(found[1], Error)
    assert (found[1].code, len(found)) == (Code.BAD_EVENT, 2)


def test_unknown_events_and_deltas_pass() -> None:
    body = open_body("interactions")
    new = delta("brand_new", x=1)
    assert body.feed(stream(event("brand.new", x=1), new, delta("arguments_delta", 7))) == [
        Reasoning("", detail={"type": "brand_new", "x": 1})
    ]
    assert body.oddities == 2


def test_a_split_emoji_is_joined() -> None:
    raw = stream(text("aHIGH"), text("LOWb"), completed())
    data = raw.replace(b"HIGH", b"\\ud83d").replace(b"LOW", b"\\ude00")
    assert decode("interactions", [data])[:-1] == [Text("a"), Text("\U0001f600b")]


# Resuming: where the provider can be asked to go on, and what it then says once more.


def test_the_cursor_is_the_last_event_while_the_interaction_runs() -> None:
    body = open_body("interactions")
    seen: list[tuple[bool, Cursor | None]] = []
    events = [
        text("early", event_id="e0"),
        created(event_id="e1"),
        text("x", event_id="e2"),
        status("in_progress", event_id="e3"),
        completed() | {"event_id": "e4"},
    ]
    for one in events:
        body.state()
        body.feed(stream(one))
        seen.append((body.dirty, body.cursor))
    there = [Cursor("v1_i", after) for after in ("e1", "e2", "e3")]
    assert seen == [(True, cursor) for cursor in (None, *there, None)]


def test_without_event_ids_there_is_no_cursor_and_text_makes_no_checkpoint() -> None:
    body = open_body("interactions")
    body.feed(stream(created(), text("x")))
    body.state()
    body.feed(stream(text("y")))
    assert (body.cursor, body.dirty) == (None, False)


def test_going_on_after_a_reattach() -> None:
    first = open_body("interactions")
    begun = start("function_call", 1, id="a", name="f", arguments={"n": 1}) | {"event_id": "e3"}
    found = first.feed(stream(created(event_id="e1"), text("x", event_id="e2"), begun))
    body = Body.restore("interactions", first.state())
    assert body.cursor == Cursor("v1_i", "e3")
    again = stream(begun, stop(1) | {"event_id": "e4"}, text("y", event_id="e5"), completed())
    found += body.feed(again) + body.feed(DONE)
    assert found == [
        Text("x"),
        ToolCall(0, "a", "f"),
        ToolCall(0, arguments='{"n":1}'),
        Text("y"),
        Done("stop", "completed", id="v1_i", model="gemini", arguments_valid=True),
    ]
    assert body.oddities == 1


# The fast path: whatever it accepts, the general path must decode to the same tokens.

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["\\", '"', "}\n\nevent: step.delta\ndata: {", "\u2028", ""]
)
IDS = st.sampled_from([{}, {"event_id": "a"}, {"event_id": "b"}, {"event_id": 5}])
DELTAS = st.builds(lambda content, id: text(content) | id, TEXTS, IDS)
EVENTS = st.one_of(
    DELTAS,
    st.builds(lambda t: event("content.delta", delta={"type": "text", "text": t}), TEXTS),
    st.builds(lambda t: delta("arguments_delta", 1, arguments=t), TEXTS),
    st.sampled_from(
        [
            *(created(), created(event_id="a"), completed(), completed("failed"), stop(1)),
            *(start("function_call", 1, name="f"), start("user_input"), {}, {"delta": {}}),
            *(event("error"), event("step.delta"), delta("text", -1), status("in_progress")),
            *(start("google_search_call", n, id="s") for n in (1, 2)),
            *(delta("google_search_call", n, arguments={"queries": ["q"]}) for n in (1, 2)),
        ]
    ),
)
BLOCKS = st.lists(st.one_of(st.lists(DELTAS, max_size=5), st.lists(EVENTS, max_size=4)), max_size=6)


def decoded(blocks: list[bytes], *, fast: bool) -> list[StreamToken]:
    body = open_body("interactions")
    found: list[StreamToken] = []
    for block in blocks:
        found += body.feed(block) if fast else [] if body.finished else body._events(block)
    return found + body.end(Ending())


@given(BLOCKS)
def test_fast_paths_decode_as_the_general_one(blocks: list[list[Json]]) -> None:
    encoded = [stream(*events) for events in blocks]
    assert decoded(encoded, fast=True) == decoded(encoded, fast=False)


@given(BLOCKS)
def test_hand_over_at_every_block(blocks: list[list[Json]]) -> None:
    encoded = [stream(*events) for events in blocks]
    body, found = open_body("interactions"), []
    state = body.state()
    for block in encoded:
        body = Body.restore("interactions", state)
        found += body.feed(block)
        state = body.state() if body.dirty else state
    found += Body.restore("interactions", state).end(Ending())
    assert found == decoded(encoded, fast=True)


@given(BLOCKS, st.integers(1, 40))
def test_tokens_do_not_depend_on_the_cuts(blocks: list[list[Json]], size: int) -> None:
    data = b"".join(stream(*events) for events in blocks)
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    assert summarize(decode("interactions", pieces)) == summarize(decode("interactions", [data]))


@given(st.lists(st.binary(max_size=40), max_size=6))
def test_any_bytes_end_in_one_terminal_token(pieces: list[bytes]) -> None:
    wrapped = [b"event: step.delta\ndata: " + data + b"\n\n" for data in pieces]
    for way in (pieces, wrapped):
        found = decode("interactions", way)
        assert [isinstance(token, Done | Error) for token in found].count(True) == 1
        assert isinstance(found[-1], Done | Error)
