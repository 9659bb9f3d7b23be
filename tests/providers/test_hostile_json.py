"""JSON that a browser accepts and others choke on, in every place of every dialect's events."""

from __future__ import annotations

import gc
import json
import pathlib
from contextlib import suppress
from typing import Any

import pytest
from fakes.frames import block
from fakes.hostile import HOSTILE, Path, check, fed, paths, put
from hypothesis import given, settings
from hypothesis import strategies as st

from ringcast.errors import Code
from ringcast.providers.wire.body import Body, Ending, open_body
from ringcast.providers.wire.framing import framer, framing
from ringcast.providers.wire.portable import MAX_DEPTH, portable, whole_text
from ringcast.providers.wire.sse import WireError
from ringcast.providers.wire.summary import decode
from ringcast.shm.tokens import (
    Citation,
    Delta,
    Done,
    Error,
    Logprob,
    Reasoning,
    StreamToken,
    ToolCall,
    Usage,
)

Json = dict[str, Any]

SAMPLES = json.loads((pathlib.Path(__file__).parent / "every_field.json").read_text())
EVENTS: dict[str, list[Json]] = {api: sample["events"] for api, sample in SAMPLES.items()}
WHOLE: dict[str, Json] = {api: sample["whole"] for api, sample in SAMPLES.items()}

SCORE = {"token": "a", "logprob": -1.0, "bytes": [97]}
CALL = {"index": 0, "id": "HALF", "function": {"name": "f", "arguments": "{}"}}


def chat(delta: Json, **fields: Any) -> Json:
    return {"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta} | fields]}


def generate(*parts: Json, **fields: Any) -> Json:
    return {"candidates": [{"content": {"parts": list(parts)}, "index": 0} | fields]}


PLACES = [
    (api, number, path)
    for api, events in EVENTS.items()
    for number, event in enumerate(events)
    for path in paths(event)
]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(PLACES), st.sampled_from(list(HOSTILE)))
def test_a_hostile_value_anywhere_in_a_stream(place: tuple[str, int, Path], name: str) -> None:
    api, number, path = place
    said = [json.dumps(event) for event in EVENTS[api]]
    said[number] = put(EVENTS[api][number], path, HOSTILE[name])
    blocks = [block(api, *both) for both in zip(EVENTS[api], said, strict=True)]
    alone, once = blocks[number], b"".join(blocks)
    check(fed(api, blocks))
    check(fed(api, [alone, alone]))
    check(fed(api, [once]))
    check(fed(api, blocks[:number], alone[:-2]))
    check(fed(api, [block(api, {"type": "error"}, said[number])]))
    check(decode(api, [once[at : at + 977] for at in range(0, len(once), 977)]))


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([(api, path) for api, answer in WHOLE.items() for path in paths(answer)]),
    st.sampled_from(list(HOSTILE)),
)
def test_a_hostile_value_anywhere_in_a_whole_answer(place: tuple[str, Path], name: str) -> None:
    api, path = place
    answer = put(WHOLE[api], path, HOSTILE[name]).encode()
    check(fed(api, [answer]))
    check(decode(api, [answer]))
    check(decode(api, [], Ending("http", status=400, body=answer)))


@pytest.mark.parametrize("api", EVENTS)
def test_the_samples_are_understood(api: str) -> None:
    """Nothing in them is odd: what `put` changes is what the decoder looks at."""
    odd, body = 0, open_body(api)
    for event in EVENTS[api]:
        body = open_body(api) if body.finished else body
        body.feed(block(api, event, json.dumps(event)))
        odd += body.oddities
    assert odd == 0
    end = decode(api, [json.dumps(WHOLE[api]).encode()], Ending())[-1]
    assert isinstance(end, Done), end


def one(api: str, event: Json) -> list[StreamToken]:
    """The tokens of one event in which HALF stands for half an emoji."""
    return open_body(api).feed(block(api, event, json.dumps(event).replace("HALF", "\\ud83d")))


def test_halves_are_replaced_where_nothing_follows() -> None:
    seal = {"type": "reasoning.encrypted", "data": "HALF", "id": "HALF"}
    assert one("chat", chat({"reasoning_details": [seal], "tool_calls": [CALL]})) == [
        Reasoning("", encrypted="\ufffd", detail={"type": "reasoning.encrypted", "id": "\ufffd"}),
        ToolCall(0, "\ufffd", "f", "{}"),
    ]
    cited = one("chat", chat({"annotations": [{"url": "HALF", "content": "HALF", "n": 2**70}]}))
    raw = {"url": "\ufffd", "content": "\ufffd", "n": None}
    assert cited == [Citation("\ufffd", None, "\ufffd", raw=raw)]
    scored = one("chat", chat({"content": "a"}, logprobs={"content": [SCORE | {"token": "HALF"}]}))
    assert scored == [Delta("a", 0, [Logprob("\ufffd", -1.0, b"a")])]


def test_halves_in_arguments_keep_their_escapes() -> None:
    found = one("generate", generate({"functionCall": {"name": "f", "args": {"text": "HALF"}}}))
    assert found == [ToolCall(0, None, "f", '{"text":"\\ud83d"}')]


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**400, -(2**70)])
def test_integers_that_nobody_can_carry_become_null(number: int) -> None:
    body = open_body("chat")
    event = {"choices": [], "usage": {"prompt_tokens": number, "completion_tokens": 1},
             "search_results": [{"n": number, "m": 2**64 - 1}]}  # fmt: skip
    for _ in range(2):  # the second time nothing is new
        body.state()
        found = body.feed(block("chat", event, json.dumps(event)))
    assert (found, body.dirty) == ([], False)
    end = body.end(Ending("failed", Code.INTERNAL))[-1]
    assert isinstance(end, Error)
    assert end.usage == Usage(None, 1)
    assert Body.restore("chat", body.state()).finished
    done = decode("chat", [block("chat", event, json.dumps(event)), b"data: [DONE]\n\n"])[-1]
    assert isinstance(done, Done)
    assert done.sources == [{"n": None, "m": 2**64 - 1}]


def test_a_half_in_the_path_of_an_argument_survives_a_hand_over() -> None:
    piece = {"jsonPath": "$['\\ud83d']", "stringValue": "x"}
    event = generate({"functionCall": {"name": "f", "partialArgs": [piece], "willContinue": True}})
    found = fed("generate", [block("generate", event, json.dumps(event))])
    assert found[:2] == [ToolCall(0, None, "f"), ToolCall(0, arguments='{"\ufffd":"x')]


def test_what_is_handed_on_is_of_some_depth() -> None:
    def depth(value: Any) -> int:
        return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0

    deep: list[Any] = []
    for _ in range(3 * MAX_DEPTH):
        deep = [deep]
    assert depth(portable(deep)) == MAX_DEPTH
    event = chat({"annotations": [{"url": "u", "deep": deep}]})
    check(fed("chat", [block("chat", event, json.dumps(event))]))


@given(st.text(st.characters(codec=None) | st.characters(categories=["Cs"])))
def test_whole_text_is_what_a_text_decoder_makes_of_it(text: str) -> None:
    found = whole_text(text)
    assert found.encode().decode("utf-8") == found
    assert found == text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


@pytest.mark.parametrize("api", [api for api in EVENTS if framing(api) == "sse"])
def test_a_blank_line_alone_is_a_block(api: str) -> None:
    for blank in (b"\n", b"\r\n", b"\r", b"\n\n"):
        body = open_body(api)
        assert body.feed(blank) == []
        assert [type(token) for token in body.end(Ending())] == [Error]


ENDINGS = {
    "eof": b"",
    "an error": b'event: error\ndata: {"error": {"message": "m"}}\n\n',
    "bad json": b"data: {]\n\n",
    "bad nesting": b'data: {"choices": ' + b"[" * 2000 + b"\n\n",
    "a line too long": b"data: " + b"x" * (9 << 20) + b"\n\n",
}


@pytest.mark.parametrize("last", ENDINGS)
@pytest.mark.parametrize("api", EVENTS)
def test_an_ended_decoder_is_no_garbage(api: str, last: str) -> None:
    """Reference counting frees it; what a cycle holds waits for a collection that may be far."""
    said = [event for event in EVENTS[api] if "error" not in str(event)]
    good = [block(api, event, json.dumps(event)) for event in said]
    gc.collect()
    gc.disable()
    try:
        frames, body = framer(api, max_line_bytes=16 << 20), open_body(api)
        with suppress(WireError):
            for piece in (good[0], good[0], b"".join(good), ENDINGS[last]):
                body.feed(frames.feed(piece))
        body = Body.restore(api, body.state())
        with suppress(WireError):
            body.tail(frames.rest())
        body.end(Ending())
        del frames, body
        assert gc.collect() == 0
    finally:
        gc.enable()
