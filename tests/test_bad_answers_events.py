"""Broken JSON in the events of every dialect (rows J01-J21), without a daemon.

What is in every place of every event is in `providers/test_hostile_json.py`.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from fakes.hostile import check, fed
from hypothesis import given
from hypothesis import strategies as st

from ringcast.errors import Code
from ringcast.providers.wire.body import Body, open_body
from ringcast.providers.wire.dialect import MAX_CHECKED_CHARS
from ringcast.providers.wire.payload import is_json
from ringcast.providers.wire.summary import decode, summarize
from ringcast.shm.tokens import Done, Error, StreamToken, Text, ToolCall

Json = dict[str, Any]

# One piece of text in each dialect, the field that it stands in, and how the answer ends well.
TEXT: dict[str, tuple[Json, str]] = {
    "chat": ({"choices": [{"index": 0, "delta": {"content": "Hel"}}]}, "content"),
    "completions": ({"choices": [{"index": 0, "text": "Hel"}]}, "text"),
    "messages": (
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hel"}},
        "text",
    ),
    "complete": ({"type": "completion", "completion": "Hel"}, "completion"),
    "generate": ({"candidates": [{"content": {"parts": [{"text": "Hel"}]}}]}, "text"),
    "responses": ({"type": "response.output_text.delta", "delta": "Hel"}, "delta"),
    "interactions": (
        {"event_type": "step.delta", "index": 0, "delta": {"type": "text", "text": "Hel"}},
        "text",
    ),
}
LAST: dict[str, Json] = {
    "chat": {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    "completions": {"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]},
    "messages": {"type": "message_stop"},
    "complete": {"type": "completion", "completion": "", "stop_reason": "stop_sequence"},
    "generate": {"candidates": [{"index": 0, "finishReason": "STOP"}]},
    "responses": {"type": "response.completed", "response": {"status": "completed"}},
    "interactions": {"event_type": "interaction.completed", "interaction": {"status": "completed"}},
}
APIS = list(TEXT)


def event(payload: Json | str) -> bytes:
    said = payload if isinstance(payload, str) else json.dumps(payload)
    return b"data: " + said.encode() + b"\n\n"


def text(api: str, said: str = "Hel", beside: str = "") -> str:
    """The JSON of one piece of text; `said` and `beside` (a field and a comma) are JSON too."""
    payload = json.dumps(TEXT[api][0]).replace("Hel", said)
    return payload.replace("{", "{" + beside, 1)


def visible(found: list[StreamToken]) -> str:
    return "".join(token.content for token in found if isinstance(token, Text))


def whole(api: str, *payloads: Json | str) -> list[StreamToken]:
    """The tokens of a stream that ends well, and does so too with a new worker at every event."""
    blocks = [event(payload) for payload in (*payloads, LAST[api])]
    found = decode(api, blocks)
    check(found)
    assert isinstance(found[-1], Done), found[-1]
    assert fed(api, blocks) == found
    return found


def broken(api: str, payload: Json | str, after: Json | str = "") -> Error:
    """The error of an event between two pieces of text: the first one stays, the rest is lost."""
    blocks = [event(text(api)), event(payload), event(after or text(api)), event(LAST[api])]
    found = decode(api, blocks)
    assert [type(token) for token in found] == [Text, Error]
    assert found[0] == Text("Hel")
    assert fed(api, blocks) == found
    error = found[1]
    assert isinstance(error, Error)
    assert len(error.message) <= 500
    assert error.message.isprintable()
    return error


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(
    "payload", ["{bad", '{"a":1', "{} x", "{}{}", "\ufeff{}", "tru", "'a'", '{"a":"\x1b[31m']
)
def test_j01_what_is_no_json(api: str, payload: str) -> None:
    error = broken(api, payload)
    assert error.code == Code.BAD_EVENT
    where = r"truncated" if payload in ('{"a":1', "tru") else r"\(byte \d+\)"
    assert re.search(where, error.message), error.message


@pytest.mark.parametrize("api", APIS)
def test_j01_no_more_than_80_characters_are_shown(api: str) -> None:
    message = broken(api, "{" + "secret prompt " * 1000).message
    assert 80 <= len(message) < 200
    assert message.endswith("…")


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("data", ["", " ", "null"])
def test_j01_nothing_is_no_event(api: str, data: str) -> None:
    assert visible(whole(api, text(api), data, text(api))) == "HelHel"


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(
    "deep",
    [
        "[" * 100_000 + "]" * 100_000,
        '{"a":' * 100_000 + "1" + "}" * 100_000,
        '[{"a":' * 100_000 + "1" + "}]" * 100_000,
    ],
    ids=["arrays", "objects", "both"],
)
def test_j02_nesting_in_a_field_that_nobody_reads(api: str, deep: str) -> None:
    error = broken(api, text(api, beside=f'"zz":{deep},'))
    assert error.code == Code.BAD_EVENT
    assert error.message.startswith("bad event: nested too deeply: ")


@pytest.mark.parametrize("api", APIS)
def test_j03_bytes_that_are_no_utf_8(api: str) -> None:
    said = event(text(api)).replace(b"Hel", b"H\xff\xe2\x82l")
    found = decode(api, [said, event(LAST[api])])
    assert visible(found) == "H\ufffd\ufffdl"
    assert isinstance(found[-1], Done)


def test_j03_bytes_that_are_no_utf_8_in_an_answer_of_one_piece() -> None:
    answer = b'{"choices":[{"message":{"content":"H\xffl"},"finish_reason":"stop"}]}'
    assert visible(decode("chat", [answer])) == "H\ufffdl"


@pytest.mark.parametrize("api", APIS)
def test_j04_half_an_emoji_each(api: str) -> None:
    high, low = text(api, "\\ud83d"), text(api, "\\ude00")
    assert visible(whole(api, high, low)) == "\U0001f600"
    assert visible(whole(api, high)) == "\ufffd"
    assert visible(whole(api, low, high, text(api))) == "\ufffd\ufffdHel"


@pytest.mark.parametrize("api", APIS)
def test_j05_of_two_fields_of_one_name_the_last_counts(api: str) -> None:
    field = f'"{TEXT[api][1]}": '
    twice = text(api).replace(f'{field}"Hel"', f'{field}"no", {field}"yes"')
    assert visible(whole(api, twice)) == "yes"


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "01", "1.", ".5", "0x1"])
def test_j06_numbers_that_json_has_not(api: str, number: str) -> None:
    assert broken(api, text(api, beside=f'"zz":{number},')).code == Code.BAD_EVENT


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("number", ["1" + "0" * 400, "1" * 5000, "1.0", "1e3", '"3"', "null", "-1"])
def test_j07_j08_numbers_that_nobody_needs(api: str, number: str) -> None:
    """Usage and times never end a stream, whatever they are."""
    fields = ("created", "created_at", "usage", "usageMetadata", "sequence_number", "zz")
    for field in fields:
        assert visible(whole(api, text(api, beside=f'"{field}":{number},'))) == "Hel"


@pytest.mark.parametrize(
    "name", ["a\0b", "a\nb", "__proto__", "constructor", "__class__", "n" * 9999]
)
def test_j14_names_of_tools(name: str) -> None:
    call = {"index": 0, "id": "c", "function": {"name": name, "arguments": "{}"}}
    found = whole("chat", {"choices": [{"delta": {"tool_calls": [call]}}]})
    assert found[0] == ToolCall(0, "c", name[:256], "{}")


@pytest.mark.parametrize("api", APIS)
def test_j16_a_hundred_thousand_empty_pieces(api: str) -> None:
    body, block = open_body(api), event(text(api, "")) * 1000
    assert body.feed(event(text(api))) == [Text("Hel")]
    for _ in range(100):
        assert body.feed(block) == []


@pytest.mark.parametrize(
    "entries",
    [
        [{"token": "a", "logprob": -1.0}] * 100_000,
        [{"token": "a", "logprob": -(10**400)}],
        [{"token": "a"}],
        {"token": "a", "logprob": 0},
    ],
    ids=["many", "huge", "short", "no list"],
)
def test_j17_scores_that_cannot_be_read(entries: Any) -> None:
    chunk = {"choices": [{"delta": {"content": "a"}, "logprobs": {"content": entries}}]}
    assert whole("chat", chunk)[0] == Text("a")


REASONS: dict[str, Any] = {
    "chat": lambda word: {"choices": [{"index": 0, "delta": {}, "finish_reason": word}]},
    "completions": lambda word: {"choices": [{"index": 0, "text": "", "finish_reason": word}]},
    "messages": lambda word: {"type": "message_delta", "delta": {"stop_reason": word}},
    "generate": lambda word: {"candidates": [{"index": 0, "finishReason": word}]},
}


@pytest.mark.parametrize("api", REASONS)
@pytest.mark.parametrize("word", ["new-one", "n" * 999, 7, ["a"], {"b": None}])
def test_j18_finish_reasons_that_nobody_knows(api: str, word: Any) -> None:
    """They are "other", and the provider's own word is kept."""
    blocks = [event(text(api)), event(REASONS[api](word))]
    blocks += [event(LAST[api])] if api == "messages" else []
    done = decode(api, blocks)[-1]
    assert isinstance(done, Done)
    assert (done.finish_reason, done.provider_reason) == ("other", str(word)[:64])


@pytest.mark.parametrize("api", APIS)
def test_j21_text_is_data(api: str) -> None:
    said = "\x1b[31m\0\u202e\u2028e" + "\u0301" * 10_000
    assert visible(whole(api, text(api, json.dumps(said)[1:-1]))) == said


# J13: what is known of arguments at the end of a stream.


def called(*pieces: str, index: int = 0) -> list[Json]:
    """The events of one call whose arguments come in pieces."""
    functions: list[Json] = [{"name": "f", "arguments": ""}, *({"arguments": p} for p in pieces)]
    calls = [{"index": index, "id": f"c{index}", "function": one} for one in functions]
    return [{"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]} for call in calls]


@pytest.mark.parametrize(
    ("events", "valid"),
    [
        ([], None),
        (called(), True),
        (called("{}"), True),
        (called('{"a": "', "b{", '"}'), True),
        (called('{"a": "', "b{"), False),
        (called("not json"), False),
        (called("{}", "{}"), False),
        ([*called("{}"), *called("{", index=1)], False),
        ([*called("{}"), *called("[1", "2]", index=1)], True),
        (called('"', *["x" * 4096] * (MAX_CHECKED_CHARS // 4096)), None),
    ],
    ids=str,
)
def test_j13_whether_arguments_became_json(events: list[Json], valid: bool | None) -> None:
    done = whole("chat", *events)[-1]
    assert isinstance(done, Done)
    assert done.arguments_valid is valid


@given(st.text(max_size=20) | st.text(st.sampled_from('{}[]:,"0 '), max_size=12), st.integers(1, 5))
def test_j13_is_what_joining_says(arguments: str, size: int) -> None:
    pieces = [arguments[at : at + size] for at in range(0, len(arguments), size)]
    found = whole("chat", *called(*pieces))
    done = found[-1]
    assert isinstance(done, Done)
    assert summarize(found)["tool_calls"][0]["arguments"] == arguments
    assert done.arguments_valid is (not arguments.strip(" \t\r\n") or is_json(arguments))


CALLS: dict[str, list[Json]] = {
    "messages": [
        {
            "type": "content_block_start",
            "index": 0,
            "content_block": {"type": "tool_use", "id": "t"},
        },
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "input_json_delta", "partial_json": '{"cut": '},
        },
    ],
    "responses": [
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": {"type": "function_call", "call_id": "c", "name": "f"},
        },
        {"type": "response.function_call_arguments.delta", "output_index": 0, "delta": '{"cut": '},
    ],
    "interactions": [
        {"event_type": "step.start", "index": 0, "step": {"type": "function_call", "id": "c"}},
        {
            "event_type": "step.delta",
            "index": 0,
            "delta": {"type": "arguments_delta", "arguments": '{"cut": '},
        },
    ],
}


@pytest.mark.parametrize(
    ("pieces", "valid"),
    [
        (['{"a": "', "b", "c", '", "b": [', "1", "]", "}"], True),
        (['{"a": "', "b", "c", '", "b": [', "1", "}", "}"], False),
        (['{"a": "' + "x" * MAX_CHECKED_CHARS, "]", '"}'], None),
    ],
    ids=["valid", "broken", "long"],
)
def test_j13_with_a_new_worker_at_every_event(pieces: list[str], valid: bool | None) -> None:
    """It finds the state that was worth a checkpoint, which may be older."""
    state = open_body("chat").state()
    for payload in called(*pieces):
        body = Body.restore("chat", state)
        body.feed(event(payload))
        if body.dirty:
            state = body.state()
    done = Body.restore("chat", state).feed(event(LAST["chat"]) + event("[DONE]"))[-1]
    assert isinstance(done, Done)
    assert done.arguments_valid is valid


@pytest.mark.parametrize("api", CALLS)
def test_j13_in_other_dialects(api: str) -> None:
    done = whole(api, *CALLS[api])[-1]
    assert isinstance(done, Done)
    assert done.arguments_valid is False


def test_j13_what_a_custom_tool_is_given_need_not_be_json() -> None:
    item = {"type": "custom_tool_call", "call_id": "c", "name": "f"}
    done = whole(
        "responses",
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.custom_tool_call_input.delta", "output_index": 0, "delta": "free"},
        {"type": "response.output_item.done", "output_index": 1, "item": item | {"input": "text"}},
    )[-1]
    assert isinstance(done, Done)
    assert done.arguments_valid is True
