"""What Responses events repeat is told once, and what came without deltas is told at all."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringcast.providers.wire.body import Body, Ending, open_body
from ringcast.providers.wire.responses_told import MAX_TOLD, Told
from ringcast.providers.wire.summary import decode, summarize
from ringcast.shm.tokens import Citation, Done, Reasoning, Refusal, StreamToken, Text

Json = dict[str, Any]

CREATED = {"type": "response.created", "response": {"id": "r", "status": "in_progress"}}


def event(kind: str, index: int | None = 0, **fields: Any) -> Json:
    about = {} if index is None else {"output_index": index}
    return {"type": f"response.{kind}"} | about | fields


def stream(*events: Json) -> bytes:
    return "".join(f"data: {json.dumps(one)}\n\n" for one in (CREATED, *events)).encode()


def told(*events: Json) -> list[StreamToken]:
    found = decode("responses", [stream(*events)])
    assert isinstance(found[-1], Done)
    return found[:-1]


def delta(text: str, index: int | None = 0) -> Json:
    return event("output_text.delta", index, delta=text)


def part(text: str, **more: Any) -> Json:
    return {"type": "output_text", "text": text} | more


def message(*parts: Json, index: int = 0, step: str = "done") -> Json:
    return event(f"output_item.{step}", index, item={"type": "message", "content": list(parts)})


def thought(index: int = 0, step: str = "done", **fields: Any) -> Json:
    item = {"type": "reasoning", "id": "rs"} | fields
    return event(f"output_item.{step}", index, item=item)


def completed(*output: Json) -> Json:
    return event("completed", None, response={"status": "completed", "output": list(output)})


def test_a_text_without_deltas_is_told_from_the_end_of_its_part_once() -> None:
    done = event("output_text.done", text="hi")
    answer = [done, message(part("hi")), completed(message(part("hi"))["item"])]
    assert told(message(step="added"), *answer) == [Text("hi")]


def test_a_refusal_without_deltas_is_told_from_the_end_of_its_part_once() -> None:
    whole = {"type": "refusal", "refusal": "no"}
    said = event("refusal.done", refusal="no")
    assert told(said, message(whole), completed(message(whole)["item"])) == [Refusal("no")]


def test_an_item_without_deltas_is_told_when_it_is_finished() -> None:
    source = {"type": "url_citation", "url": "u"}
    found = told(message(part("hi", annotations=[source])), completed())
    assert found == [Text("hi"), Citation("u", raw=source)]


def test_a_thought_without_deltas_is_told_when_it_is_finished() -> None:
    summary = [{"type": "summary_text", "text": "hm"}]
    assert told(thought(summary=summary), delta("x", 1), completed()) == [
        Reasoning("hm"),
        Text("x"),
    ]


def test_an_answer_without_any_other_event_is_told_from_the_last_one() -> None:
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    output = [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        message(part("hi"))["item"],
        call,
    ]
    found = summarize(decode("responses", [stream(completed(*output))]))
    assert (found["reasoning"], found["text"]) == ("hm", "hi")
    assert found["tool_calls"] == [{"id": "c", "name": "f", "arguments": "{}"}]


def test_of_two_messages_only_the_one_without_deltas_is_told_from_its_end() -> None:
    events = [
        *(message(step="added"), delta("a"), message(part("a"))),
        *(message(index=1, step="added"), message(part("b"), index=1)),
        completed(),
    ]
    assert told(*events) == [Text("a"), Text("b")]


def test_messages_that_overlap_are_told_once() -> None:
    first, second = message(part("a")), message(part("b"), index=1)
    events = [
        *(message(step="added"), delta("a"), message(index=1, step="added"), delta("b", 1)),
        *(first, second, completed(first["item"], second["item"])),
    ]
    assert told(*events) == [Text("a"), Text("b")]


@pytest.mark.parametrize("index", [None, 0, 7])
def test_an_index_that_is_not_the_items_tells_nothing_twice(index: int | None) -> None:
    events = [thought(step="added"), thought(), message(index=1, step="added")]
    said = [delta("hi", index), event("output_text.done", index, text="hi")]
    end = message(part("hi"), index=1)
    assert told(*events, *said, end, completed(end["item"])) == [Text("hi")]


def test_an_item_that_ends_too_early_goes_on() -> None:
    early = [delta("1"), event("output_text.done", text="1"), message(part("1"))]
    assert told(*early, delta("2"), completed(message(part("12"))["item"])) == [
        Text("1"),
        Text("2"),
    ]


def test_seals_that_only_the_last_event_has_are_told() -> None:
    sealed = {"type": "reasoning", "id": "rs", "encrypted_content": "E"}
    events = [thought(step="added"), thought(), delta("x", 1), completed(sealed)]
    seal = Reasoning("", encrypted="E", detail={"type": "reasoning", "id": "rs"})
    assert told(*events) == [Text("x"), seal]


def test_seals_that_were_told_are_not_told_again() -> None:
    sealed = {"type": "reasoning", "id": "rs", "encrypted_content": "E"}
    found = told(thought(encrypted_content="E"), delta("x", 1), completed(sealed))
    assert [token for token in found if isinstance(token, Reasoning)] == [
        Reasoning("", encrypted="E", detail={"type": "reasoning", "id": "rs"})
    ]


def test_a_thought_that_is_nothing_but_its_seal_is_told_once() -> None:
    sealed = {"type": "reasoning", "id": "rs", "encrypted_content": "E"}
    seal = Reasoning("", encrypted="E", detail={"type": "reasoning", "id": "rs"})
    assert told(thought(encrypted_content="E"), completed(sealed)) == [seal]
    assert told(thought(), completed(sealed)) == [seal]


@pytest.mark.parametrize("said", ["hi", {"type": "output_text", "text": "hi"}], ids=type)
def test_older_names_of_events_are_known(said: Any) -> None:
    end = event("done", None, response={"status": "completed", "usage": {"input_tokens": 1}})
    events = [
        event("reasoning.delta", delta="h"),
        event("reasoning_summary.delta", delta={"text": "m"}),
        event("content_part.delta", 1, delta=said),
        end,
    ]
    found = decode("responses", [stream(*events)])
    assert found[:3] == [Reasoning("h"), Reasoning("m"), Text("hi")]
    last = found[-1]
    assert isinstance(last, Done)
    assert (last.provider_reason, last.usage and last.usage.input_tokens) == ("completed", 1)


@pytest.mark.parametrize(
    "output", [None, 5, {}, [5, None], [{"type": "message", "content": "hi"}], [{"content": [5]}]]
)
def test_an_output_that_is_none_ends_the_answer_all_the_same(output: Any) -> None:
    end = event("completed", None, response={"status": "completed", "output": output})
    assert told(end) == []


EVENTS = st.lists(
    st.one_of(
        st.builds(delta, st.sampled_from(["a", "b", ""]), st.sampled_from([None, 0, 1])),
        st.builds(lambda i: message(index=i, step="added"), st.integers(0, 1)),
        st.builds(lambda i: message(part("m"), index=i), st.integers(0, 1)),
        st.builds(lambda i: event("output_text.done", i, text="m"), st.integers(0, 1)),
        st.builds(lambda i: thought(i, encrypted_content="E"), st.integers(0, 1)),
    ),
    max_size=8,
)


@given(EVENTS, st.integers(0, 8))
def test_a_successor_at_any_event_tells_the_same(events: list[Json], at: int) -> None:
    """Block by block on the fast path, one by one, and from a state, all tell alike."""
    last = completed(message(part("m"))["item"])
    blocks = [stream(), *(stream(one).removeprefix(stream()) for one in (*events, last))]
    expected = decode("responses", [b"".join(blocks)])
    body = open_body("responses")
    found: list[StreamToken] = []
    for number, block in enumerate(blocks):
        found += body.feed(block)
        if number == at:
            body = Body.restore("responses", body.state())
    assert found + body.end(Ending()) == expected


def test_a_memory_of_hostile_indexes_is_bounded() -> None:
    memory = Told()
    for index in range(2 * MAX_TOLD):
        memory.tell(index)
    memory.begun = True
    assert len(memory.items) == MAX_TOLD
    assert not memory.lacks(3 * MAX_TOLD), "rather lost than told twice"
