"""Ollama's own API: chat and generate, streamed and whole."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringcast.errors import Code
from ringcast.providers.wire.body import Body, open_body
from ringcast.providers.wire.summary import decode, summarize
from ringcast.shm.tokens import (
    Delta,
    Done,
    Error,
    Logprob,
    Reasoning,
    StreamToken,
    Text,
    ToolCall,
    Usage,
)

Json = dict[str, Any]


def chat(message: Json, **fields: Any) -> Json:
    return {"model": "m", "message": {"role": "assistant"} | message, "done": False} | fields


def last(reason: str | None = "stop", **fields: Any) -> Json:
    about = {"done_reason": reason} if reason else {}
    return chat({"content": ""}, done=True, **about) | fields


def stream(*lines: Json) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def tokens(*lines: Json) -> list[StreamToken]:
    """The same with all lines in one block as with each in a block of its own."""
    found = decode("native", [stream(*lines)])
    assert found == decode("native", [stream(line) for line in lines])
    return found


def test_thinking_then_text_then_done() -> None:
    assert tokens(
        chat({"content": "", "thinking": "Hm"}),
        chat({"content": "Hel"}),
        chat({"content": "lo"}),
        last(prompt_eval_count=3, eval_count=5, total_duration=2260690000),
    ) == [
        Reasoning("Hm"),
        Text("Hel"),
        Text("lo"),
        Usage(3, 5),
        Done("stop", "stop", usage=Usage(3, 5), model="m"),
    ]


def test_generate() -> None:
    assert tokens(
        {"model": "m", "response": "", "thinking": "Hm", "done": False},
        {"model": "m", "response": "Hi", "done": False},
        {"model": "m", "response": "", "done": True, "done_reason": "length", "context": [1, 2]},
    ) == [Reasoning("Hm"), Text("Hi"), Done("length", "length", model="m")]


def test_pictures_are_carried() -> None:
    assert tokens(
        {"model": "m", "completed": 1, "total": 2, "done": False},
        {"model": "m", "image": "AA==", "done": True, "done_reason": "stop"},
    ) == [Reasoning("", detail={"image": "AA=="}), Done("stop", "stop", model="m")]
    assert tokens(chat({"content": "", "images": ["AA=="]}), last())[:-1] == [
        Reasoning("", detail={"images": ["AA=="]})
    ]


def test_calls_without_ids() -> None:
    calls = [{"function": {"name": name, "arguments": {"b": 1.0, "a": "é"}}} for name in "fg"]
    found = tokens(
        chat({"content": "", "tool_calls": calls}),
        chat({"content": "", "tool_calls": [{"id": "call_1", "function": {"name": "h"}}]}),
        last(),
    )
    assert found == [
        ToolCall(0, "ollama-tool-0", "f", '{"b":1,"a":"é"}'),
        ToolCall(1, "ollama-tool-1", "g", '{"b":1,"a":"é"}'),
        ToolCall(2, "call_1", "h"),
        Done("tool_calls", "stop", model="m", arguments_valid=True),
    ]


@pytest.mark.parametrize(
    ("reason", "meaning"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("load", "pause"),
        ("unload", "pause"),
        (None, "stop"),
    ],
)
def test_done_reasons(reason: str | None, meaning: str) -> None:
    (done,) = tokens(last(reason))
    assert isinstance(done, Done)
    assert (done.finish_reason, done.provider_reason) == (meaning, reason)


def test_a_call_that_was_cut_is_too_long() -> None:
    call = {"function": {"name": "f", "arguments": {}}}
    done = tokens(chat({"tool_calls": [call]}), last("length"))[-1]
    assert isinstance(done, Done)
    assert done.finish_reason == "length"


def test_the_count_of_a_cached_prompt_is_missing() -> None:
    assert tokens(last(eval_count=5))[0] == Usage(None, 5)


def test_logprobs() -> None:
    score = {"token": "a", "logprob": -1.0, "bytes": [97]}
    found = tokens(chat({"content": "a"}, logprobs=[score]), last())
    assert found[0] == Delta("a", 0, [Logprob("a", -1.0, b"a")])


@pytest.mark.parametrize("said", ["the model ran out of memory", {"message": "m", "type": "t"}])
def test_an_error_comes_after_the_text(said: Any) -> None:
    found = tokens(chat({"content": "a"}), {"error": said}, chat({"content": "b"}))
    assert found[0] == Text("a")
    end = found[1]
    assert isinstance(end, Error)
    assert end.code == Code.PROVIDER_ERROR
    assert end.message == (said if isinstance(said, str) else "m")


def test_only_done_is_the_end() -> None:
    end = tokens(chat({"content": "a"}, done_reason="stop"))[-1]
    assert isinstance(end, Error)
    assert end.code == Code.STREAM_INCOMPLETE


def test_what_follows_is_counted() -> None:
    body = open_body("native")
    body.feed(stream(last()))
    assert body.feed(stream(chat({"content": "b"}))) == []
    assert body.oddities == 1


@pytest.mark.parametrize("bad", [b"oops", b'{"message": 1}', b'{"message": {"content"', b"[]"])
def test_a_bad_line_ends_the_stream_after_the_good(bad: bytes) -> None:
    good = stream(chat({"content": "a"}))
    found = decode("native", [good + bad + b"\n" + good])
    assert [type(token) for token in found] == [Text, Error]
    assert getattr(found[-1], "code", "") == Code.BAD_EVENT


def test_blank_lines_say_nothing() -> None:
    data = b"\r\n\n".join([stream(chat({"content": "a"})), stream(last())])
    assert decode("native", [data]) == tokens(chat({"content": "a"}), last())


def test_an_emoji_cut_in_two() -> None:
    high, low = (
        f'{{"message": {{"content": "{half}"}}}}\n'.encode() for half in ("a\\ud83d", "\\ude00b")
    )
    found = decode("native", [high, low, stream(last())])
    assert found[:2] == [Text("a"), Text("\U0001f600b")]


LINES = st.one_of(
    st.text(max_size=9).map(lambda text: chat({"content": text})),
    st.text(max_size=9).map(lambda text: chat({"content": "", "thinking": text})),
    st.text(max_size=9).map(
        lambda text: chat({"tool_calls": [{"function": {"name": "f", "arguments": {"a": text}}}]})
    ),
)


@given(st.lists(LINES, max_size=20), st.integers(0, 2**32))
def test_blocks_and_hand_overs_change_nothing(lines: list[Json], seed: int) -> None:
    lines = [*lines, last(prompt_eval_count=1)]
    rng, found, body, at = random.Random(seed), [], open_body("native"), 0
    while at < len(lines):
        size = rng.randint(1, 5)
        found += body.feed(stream(*lines[at : at + size]))
        at += size
        if body.dirty:
            body = Body.restore("native", body.state())
    assert summarize(found) == summarize(tokens(*lines))


def test_text_makes_no_checkpoint() -> None:
    body = open_body("native")
    body.feed(stream(chat({"content": "a"})))
    body.state()
    body.feed(stream(chat({"content": "b"}), chat({"thinking": "c"})))
    assert not body.dirty


@pytest.mark.parametrize(
    "line", [chat({"content": "b"}), {"message": {"tool_calls": [{"function": {"name": "f"}}]}}]
)
def test_what_a_successor_must_know_makes_a_checkpoint(line: Json) -> None:
    body = open_body("native")
    body.feed(stream({"message": {"content": "a"}}))
    body.state()
    body.feed(stream(line))
    assert body.dirty


def test_a_whole_answer() -> None:
    answer = chat({"content": "Hi", "thinking": "Hm"}, done=True, done_reason="stop", eval_count=5)
    assert decode("native", [json.dumps(answer).encode()]) == [
        Reasoning("Hm"),
        Text("Hi"),
        Usage(None, 5),
        Done("stop", "stop", usage=Usage(None, 5), model="m"),
    ]


def test_an_answer_that_is_none() -> None:
    (end,) = decode("native", [b'{"models": []}'])
    assert isinstance(end, Error)
    assert end.code == Code.NOT_EVENT_STREAM
