"""OpenAI's Responses: events, the cursor of background responses, the fast path, the requests."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringcast.config import Provider
from ringcast.errors import Code, RequestError
from ringcast.providers import request, responses
from ringcast.providers.openai import OpenAI
from ringcast.providers.request import Json
from ringcast.providers.vendor import AnyRequest
from ringcast.providers.wire.body import Body, Ending, open_body
from ringcast.providers.wire.responses import Responses
from ringcast.providers.wire.sse import SseEvent
from ringcast.providers.wire.summary import decode, summarize
from ringcast.shm.records import Cursor
from ringcast.shm.tokens import (
    Citation,
    Delta,
    Done,
    Error,
    Logprob,
    Reasoning,
    Refusal,
    StreamToken,
    Text,
    ToolCall,
    Usage,
    encoder,
)

COUNTS = {
    "input_tokens": 3,
    "input_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 0},
    "output_tokens": 2,
    "output_tokens_details": {"reasoning_tokens": 1},
    "total_tokens": 5,
}
COUNTED = Usage(3, 2, 5, 1, 0, 1)


def event(kind: str, **fields: Any) -> Json:
    return {"type": f"response.{kind}"} | fields


def answer(kind: str = "created", status: str = "in_progress", **fields: Any) -> Json:
    about = {"id": "r1", "model": "m", "status": status, "usage": None, "error": None}
    return event(kind, response=about | fields)


def text(content: Any, **fields: Any) -> Json:
    about = {"item_id": "i", "output_index": 0, "content_index": 0, "logprobs": []}
    return event("output_text.delta", delta=content, **(about | fields))


def item(kind: str, when: str = "done", index: Any = 0, **fields: Any) -> Json:
    return event(f"output_item.{when}", output_index=index, item={"type": kind} | fields)


def arguments(piece: Any, index: Any = 0, **fields: Any) -> Json:
    return event("function_call_arguments.delta", output_index=index, delta=piece, **fields)


CREATED = answer()
COMPLETED = answer("completed", "completed", usage=COUNTS)
DONE = Done("stop", "completed", usage=COUNTED, id="r1", model="m")


def stream(*payloads: Any, named: bool = True) -> bytes:
    written = []
    for payload in payloads:
        name = isinstance(payload, dict) and named and f"event: {payload['type']}\n"
        data = payload if isinstance(payload, str) else json.dumps(payload)
        written.append(f"{name or ''}data: {data}\n\n")
    return "".join(written).encode()


def tokens(*payloads: Any, named: bool = True) -> list[StreamToken]:
    return decode("responses", [stream(*payloads, named=named)])


def ended(*payloads: Any) -> Error:
    last = tokens(*payloads)[-1]
    assert isinstance(last, Error)
    return last


def calls(*payloads: Any) -> list[tuple[Any, ...]]:
    summary = summarize(tokens(*payloads, COMPLETED))
    return [tuple(call.values()) for call in summary["tool_calls"]]


# What the events say


@pytest.mark.parametrize("named", [True, False])
def test_text_then_done(named: bool) -> None:
    begun = (CREATED, answer("in_progress"), item("message", "added"))
    told = (event("output_text.done", text="Hello"), item("message", content=[{"text": "Hello"}]))
    found = tokens(*begun, text("Hel"), text("lo"), *told, COMPLETED, named=named)
    assert found == [Text("Hel"), Text("lo"), COUNTED, DONE]


def test_messages_of_several_phases_are_one_text() -> None:
    found = tokens(
        item("message", "added", 0, phase="commentary"),
        text("a"),
        item("message", "added", 1, phase="final_answer"),
        text("b", output_index=1),
    )
    assert found[:-1] == [Text("a"), Text("b")]


def test_logprobs_make_deltas() -> None:
    top = [{"token": "b", "logprob": -2.5}]
    entry = {"token": "a", "logprob": -1, "bytes": [97], "top_logprobs": top}
    assert tokens(text("a", logprobs=[entry]))[0] == Delta(
        "a", 0, [Logprob("a", -1.0, b"a", [("b", -2.5)])]
    )


@pytest.mark.parametrize("entries", [[{"token": 1}], [{"token": "a", "logprob": "x"}], 5, [None]])
def test_unreadable_logprobs_are_dropped_and_counted(entries: Any) -> None:
    body = open_body("responses")
    assert body.feed(stream(text("a", logprobs=entries))) == [Text("a")]
    assert body.oddities == 1


def test_refusal() -> None:
    told = event("refusal.done", refusal="no")
    assert tokens(event("refusal.delta", delta="no"), told)[:-1] == [Refusal("no")]


def test_reasoning_its_parts_and_its_seal() -> None:
    found = tokens(
        item("reasoning", "added", 2, encrypted_content="unfinished"),
        event("reasoning_summary_part.added", output_index=2, summary_index=0),
        event("reasoning_summary_text.delta", output_index=2, summary_index=0, delta="a"),
        event("reasoning_summary_part.added", output_index=2, summary_index=1),
        event("reasoning_summary_text.delta", output_index=2, summary_index=1, delta="b"),
        event("reasoning_summary_text.done", output_index=2, summary_index=1, text="b"),
        event("reasoning_text.delta", output_index=3, content_index=0, delta="raw"),
        item("reasoning", index=2, id="rs", encrypted_content="E", format="f"),
        item("reasoning", index=3, id="rt", encrypted_content=None),
    )
    seal = {"type": "reasoning", "id": "rs", "format": "f"}
    assert found[:-1] == [
        Reasoning("a", block=2),
        Reasoning("", block=2, detail={"type": "summary_text", "summary_index": 1}),
        Reasoning("b", block=2),
        Reasoning("raw", block=3),
        Reasoning("", block=2, encrypted="E", detail=seal),
    ]


def test_annotations() -> None:
    web = {"type": "url_citation", "url": "u", "title": "t", "start_index": 1, "end_index": 2}
    file = {"type": "file_citation", "file_id": "f1", "filename": "a.txt", "index": 7}
    found = tokens(
        event("output_text.annotation.added", annotation_index=0, annotation=web),
        event("output_text.annotation.added", annotation_index=1, annotation=file),
        event("output_text.annotation.added", annotation=None),
    )
    assert found[:-1] == [
        Citation("u", "t", None, 1, 2, 0, web),
        Citation(None, "a.txt", None, None, None, 0, file),
    ]


def test_tool_call_fragments_are_forwarded_at_once() -> None:
    begun = item("function_call", "added", 4, id="i", call_id="c", name="f", arguments="")
    told = event("function_call_arguments.done", output_index=4, arguments="{}")
    end = item("function_call", "done", 4, id="j", call_id="c", name="f", arguments="{}")
    found = tokens(begun, arguments("{", 4), arguments("", 4), arguments("}", 4), told, end)
    assert found[:-1] == [
        ToolCall(0, "c", "f"),
        ToolCall(0, None, None, "{"),
        ToolCall(0, None, None, "}"),
    ]


def test_the_first_arguments_make_a_checkpoint_and_text_in_them_none() -> None:
    body = open_body("responses")
    dirty = []
    called = item("function_call", "added", **CALL)
    for payload in (called, arguments('{"a": "'), arguments("b"), arguments('"}')):
        body = Body.restore("responses", body.state())
        body.feed(stream(payload))
        dirty.append(body.dirty)
    assert dirty == [True, True, False, True]


CALL = {"call_id": "c", "name": "f"}


@pytest.mark.parametrize(
    ("payloads", "expected"),
    [
        pytest.param(
            [
                item("function_call", "added", 0, **CALL),
                item("function_call", "added", 1, call_id="d", name="g"),
                arguments("{}", 0, item_id="x1"),
                arguments("[", 1, item_id="x2"),
                arguments("]", 1, item_id="x3"),
            ],
            [("c", "f", "{}"), ("d", "g", "[]")],
            id="interleaved, item ids that change",
        ),
        pytest.param(
            [
                item("function_call", "added", 0, arguments="", **CALL),
                event("function_call_arguments.done", output_index=0, arguments="{}"),
                item("function_call", "done", 0, arguments="{}", **CALL),
            ],
            [("c", "f", "{}")],
            id="no deltas",
        ),
        pytest.param(
            [item("function_call", "done", 0, arguments={"n": 1.0}, **CALL)],
            [("c", "f", '{"n":1}')],
            id="only the item, arguments as an object",
        ),
        pytest.param(
            [arguments("{}", 0), item("function_call", "done", 0, arguments="{}", **CALL)],
            [("c", "f", "{}")],
            id="not announced",
        ),
        pytest.param(
            [item("function_call", "added", 0, id="i", name="f"), item("function_call", id="j")],
            [("i", "f", "")],
            id="no call id",
        ),
        pytest.param(
            [
                item("function_call", "added", None, **CALL),
                arguments("1", None),
                item("function_call", "done", None, arguments="1", **CALL),
                item("function_call", "added", None, call_id="d", name="g"),
                item("function_call", "done", None, call_id="d", arguments="2"),
            ],
            [("c", "f", "1"), ("d", "g", "2")],
            id="no index",
        ),
        pytest.param(
            [
                item("function_call", "done", 0, arguments="1", **CALL),
                item("function_call", "done", 0, call_id="d", name="g", arguments="2"),
            ],
            [("c", "f", "1"), ("d", "g", "2")],
            id="index always 0",
        ),
        pytest.param(
            [
                item("custom_tool_call", "added", 0, input="", **CALL),
                event("custom_tool_call_input.delta", output_index=0, delta="free "),
                event("custom_tool_call_input.delta", output_index=0, delta="text"),
                event("custom_tool_call_input.done", output_index=0, input="free text"),
                item("custom_tool_call", "done", 0, input="free text", **CALL),
            ],
            [("c", "f", "free text")],
            id="free text",
        ),
        pytest.param(
            [item("custom_tool_call", "done", 0, input="free text", **CALL)],
            [("c", "f", "free text")],
            id="free text, only the item",
        ),
        pytest.param(
            [item("function_call", "added", 10**9, call_id="c", name="__proto__\0" + "n" * 999)],
            [("c", "__proto__\0" + "n" * 246, "")],
            id="large index, odd name",
        ),
    ],
)
def test_tool_calls(payloads: list[Json], expected: list[tuple[Any, ...]]) -> None:
    assert calls(*payloads) == expected


def test_tools_of_the_provider_are_its_own() -> None:
    body = open_body("responses")
    found = body.feed(
        stream(
            item("mcp_list_tools", "added"),
            event("mcp_list_tools.completed"),
            item("mcp_call", "added", 1, name="f", arguments=""),
            event("mcp_call_arguments.delta", output_index=1, delta="{}"),
            event("mcp_call_arguments.done", output_index=1, arguments="{}"),
            item("mcp_call", "done", 1, name="f", arguments="{}", output="x"),
            event("web_search_call.searching"),
            event("code_interpreter_call_code.delta", delta="1+1"),
            event("image_generation_call.partial_image", partial_image_b64="AA=="),
            event("content_part.added", part={"type": "output_text", "text": ""}),
            event("reasoning_part.done"),
            {"type": "keepalive"},
        )
    )
    assert found == []
    assert body.oddities == 0


def test_a_call_makes_the_reason_tool_calls() -> None:
    last = tokens(item("function_call", arguments="{}", **CALL), COMPLETED)[-1]
    assert isinstance(last, Done)
    assert (last.finish_reason, last.provider_reason) == ("tool_calls", "completed")


@pytest.mark.parametrize(
    ("kind", "fields", "expected"),
    [
        ("completed", {}, ("stop", "completed")),
        (
            "incomplete",
            {"incomplete_details": {"reason": "max_output_tokens"}},
            ("length", "incomplete:max_output_tokens"),
        ),
        (
            "incomplete",
            {"incomplete_details": {"reason": "content_filter"}},
            ("content_filter", "incomplete:content_filter"),
        ),
        ("incomplete", {"incomplete_details": None}, ("length", "incomplete")),
        ("incomplete", {"incomplete_details": {"reason": 7}}, ("other", "incomplete:7")),
        ("completed", {"status": None}, ("stop", "completed")),
        ("completed", {"status": "x" * 99}, ("other", "x" * 64)),
    ],
)
def test_how_it_ends(kind: str, fields: Json, expected: tuple[str, str]) -> None:
    last = tokens(CREATED, answer(kind, **({"status": kind} | fields)), text("late"))[-1]
    assert last == Done(*expected, id="r1", model="m")  # type: ignore[arg-type]


def test_failed_keeps_its_usage_and_reason() -> None:
    error = {"code": "server_error", "message": "boom"}
    assert tokens(text("x"), answer("failed", "failed", error=error, usage=COUNTS)) == [
        Text("x"),
        COUNTED,
        Error(
            "provider_error",
            "boom",
            True,
            provider_code="server_error",
            usage=COUNTED,
            provider_reason="failed",
        ),
    ]


def test_cancelled_is_an_error() -> None:
    error = ended(text("x"), answer("cancelled", "cancelled"))
    assert (error.code, error.provider_reason) == (Code.CANCELLED, "cancelled")
    assert ended(event("failed")).message == "the provider reported an error without a message"


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(
    ("payload", "kind", "code"),
    [
        ({"type": "error", "error": {"type": "t", "code": "c", "message": "m"}}, "t", "c"),
        ({"type": "error", "code": "c", "message": "m", "param": None}, None, "c"),
        ({"type": "error", "code": "c", "error": "m"}, None, "c"),
        ({"type": "t", "code": "c", "error": "m"}, "t", "c"),
    ],
)
def test_errors_in_the_stream(payload: Json, kind: str | None, code: str, named: bool) -> None:
    found = tokens(CREATED, text("x"), payload, answer("failed", "failed"), named=named)
    assert found == [Text("x"), Error("provider_error", "m", type=kind, provider_code=code)]


@pytest.mark.parametrize("data", ['{"error":{"message":"m"}}', "m", '"m"', '{"message":"m"}'])
def test_error_events(data: str) -> None:
    error = Responses().feed(SseEvent("error", data))[-1]
    assert isinstance(error, Error)
    assert (error.code, error.message) == (Code.PROVIDER_ERROR, "m")


def test_a_stream_without_its_last_event_is_incomplete() -> None:
    error = ended(CREATED, text("x"), event("output_text.done", text="x"), item("message"))
    assert error.code == Code.STREAM_INCOMPLETE


def test_done_of_openrouter_ends_nothing_twice() -> None:
    assert tokens(text("x"), COMPLETED, "[DONE]", named=False) == [Text("x"), COUNTED, DONE]


# What sloppy servers send


@pytest.mark.parametrize(
    "payload",
    [
        "{bad",
        '{"type":"x"} x',
        '{"type":"x"}{"type":"x"}',
        "\ufeff{}",
        "5",
        '{"x":NaN}',
        '{"usage":1e999,"delta":Infinity}',
        '{"x":' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"x":' + '{"a":' * 100_000 + "1" + "}" * 100_001,
        '{"type":"response.created","response":5}',
        '{"type":"response.output_item.done","item":[]}',
        json.dumps(arguments("{", -1)),
        json.dumps(arguments("{", "zero")),
        json.dumps(arguments("{", 2**63)),
        json.dumps(arguments("{", 0.5)),
    ],
    ids=lambda payload: payload[:30],
)
def test_bad_events_keep_the_text_and_say_where(payload: str) -> None:
    found = tokens(text("Hel"), payload, text("lo"))
    assert found[0] == Text("Hel")
    assert isinstance(found[1], Error)
    assert (found[1].code, len(found)) == (Code.BAD_EVENT, 2)
    assert len(found[1].message) < 300
    assert found[1].message.isprintable()


@pytest.mark.parametrize(
    "payload",
    [
        text(""),
        text(None),
        text([]),
        text({}),
        text(5),
        text("", logprobs=None),
        event("created"),
        answer("in_progress", usage={"input_tokens": 1}),
        answer("queued", "queued"),
        event("refusal.delta"),
        event("reasoning_text.delta", output_index=0, delta=None),
        event("function_call_arguments.done", output_index=0, arguments="") | {"x": 10**400},
        event("brand_new", x=[1]),
        item("brand_new_call", "added"),
        event("output_item.added", item=None),
        {"type": None},
        {"type": 5},
        {"type": ["x"]},
        {"type": "ping"},
    ],
    ids=str,
)
def test_what_says_nothing_gives_no_token(payload: Json) -> None:
    found = [t for t in tokens(payload, text("x"), COMPLETED) if not isinstance(t, ToolCall)]
    assert found[0] == Text("x")
    assert isinstance(found[-1], Done)


def test_unknown_events_are_counted() -> None:
    body = open_body("responses")
    body.feed(stream(event("brand_new"), {"type": 5}, event("output_item.added"), text("x")))
    assert body.oddities == 3


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"input_tokens": 1.0, "output_tokens": "2", "total_tokens": None}, Usage(1, 2)),
        ({"input_tokens": -5, "output_tokens": 10**18}, Usage(0, 10**18)),
        ({"input_tokens": 10**400, "output_tokens": 1}, Usage(None, 1)),
        ({"input_tokens_details": {"cached_tokens": 7}}, Usage(cache_read_tokens=7)),
        ({"input_tokens": 1, "cost": 0.5}, Usage(1, cost=0.5)),
        ({"input_tokens": 1, "cost_in_usd_ticks": 4_009_000}, Usage(1, cost=0.0004009)),
        ({"input_tokens": True, "input_tokens_details": 5}, None),
        ({}, None),
        ("many", None),
    ],
)
def test_usage_is_read_leniently(usage: Any, expected: Usage | None) -> None:
    found = tokens(answer("completed", "completed", usage=usage))
    assert found[-1] == Done("stop", "completed", usage=expected, id="r1", model="m")
    assert found[:-1] == ([] if expected is None else [expected])


def test_usage_with_thousands_of_digits_leaves_the_stream_alone() -> None:
    raw = json.dumps(COMPLETED).replace('"input_tokens": 3', '"input_tokens": ' + "9" * 5000)
    last = tokens(raw)[-1]
    assert isinstance(last, Done)
    assert last.usage == Usage(None, 2, 5, 1, 0, 1)


def test_too_many_tool_calls_and_too_long_arguments() -> None:
    many = [item("function_call", "added", i, call_id=str(i)) for i in range(257)]
    assert ended(*many).code == Code.TOOL_CALL_LIMIT
    assert len(tokens(text("kept"), *many)) == 1 + 256 + 1
    assert ended(*[arguments("x" * (1 << 20))] * 17).code == Code.TOOL_ARGS_LIMIT


def test_last_of_duplicate_keys_wins() -> None:
    twice = '{"type":"x","type":"response.output_text.delta","delta":"a","delta":"b"}'
    assert tokens(twice)[0] == Text("b")


def test_a_split_emoji_is_joined() -> None:
    data = stream(text("aHIGH"), text("LOWb"), arguments("HIGH"), COMPLETED)
    data = data.replace(b"HIGH", b"\\ud83d").replace(b"LOW", b"\\ude00")
    assert decode("responses", [data])[:-2] == [
        Text("a"),
        Text("\U0001f600b"),
        ToolCall(0, None, None, ""),
        COUNTED,
    ]


def test_halves_and_huge_numbers_anywhere_can_be_sent_on() -> None:
    web = {"type": "url_citation", "url": "u", "title": "HALF", "n": 2**70}
    call = {"call_id": "HALF", "name": "HALF", "arguments": "HALF"}
    data = stream(
        answer(id="HALF", model="HALF"),
        event("output_text.annotation.added", annotation=web),
        item("reasoning", id="HALF", format="HALF", encrypted_content="HALF"),
        item("function_call", **call),
        event("reasoning_text.delta", delta="HALF"),
    ).replace(b"HALF", b"\\ud83d")
    body = open_body("responses")
    assert encoder.encode(body.feed(data))
    assert Body.restore("responses", body.state()).end(Ending())
    end = answer("incomplete", "incomplete", incomplete_details={"reason": "HALF"})
    assert encoder.encode(body.feed(stream(end).replace(b"HALF", b"\\ud83d")))


# Answers in one piece


def whole(**fields: Any) -> list[StreamToken]:
    about = {"id": "r1", "model": "m", "status": "completed", "usage": COUNTS, "output": []}
    body = json.dumps(about | fields, indent=1).encode()
    return decode("responses", [body], Ending(content_type="application/json"))


def test_whole_answers() -> None:
    summary = [{"type": "summary_text", "text": t} for t in ("hm", "so")]
    web = {"type": "url_citation", "url": "u"}
    entry = {"token": "z", "logprob": -1}
    parts = [
        {"type": "output_text", "text": "x", "annotations": [web]},
        {"type": "refusal", "refusal": "no"},
        {"type": "output_text", "text": "z", "logprobs": [entry]},
    ]
    raw = [{"type": "reasoning_text", "text": "raw"}]
    assert whole(
        output=[
            {"type": "reasoning", "id": "rs", "summary": summary, "encrypted_content": "E"},
            {"type": "reasoning", "id": "rt", "summary": [], "content": raw},
            {"type": "web_search_call", "action": {}},
            {"type": "message", "content": parts},
            {"type": "function_call", "arguments": "{}", **CALL},
            {"type": "custom_tool_call", "call_id": "d", "name": "g", "input": "i"},
        ]
    ) == [
        Reasoning("hm"),
        Reasoning("", detail={"type": "summary_text", "summary_index": 1}),
        Reasoning("so"),
        Reasoning("", encrypted="E", detail={"type": "reasoning", "id": "rs"}),
        Reasoning("raw", block=1),
        Text("x"),
        Citation("u", raw=web),
        Refusal("no"),
        Delta("z", 0, [Logprob("z", -1.0)]),
        ToolCall(0, "c", "f"),
        ToolCall(0, arguments="{}"),
        ToolCall(1, "d", "g"),
        ToolCall(1, arguments="i"),
        COUNTED,
        Done("tool_calls", "completed", usage=COUNTED, id="r1", model="m", arguments_valid=True),
    ]


def test_whole_answers_that_did_not_end_well() -> None:
    failed = whole(status="failed", error={"code": "server_error", "message": "boom"}, usage=None)
    assert failed == [
        Error(
            "provider_error", "boom", True, provider_code="server_error", provider_reason="failed"
        )
    ]
    details = {"reason": "max_output_tokens"}
    cut = whole(status="incomplete", incomplete_details=details)[-1]
    assert isinstance(cut, Done)
    assert cut.finish_reason == "length"


@pytest.mark.parametrize(
    "fields",
    [
        {"status": "queued"},
        {"status": "in_progress"},
        {"output": None},
        {"output": [{"type": 5}, 5]},
    ],
    ids=str,
)
def test_what_is_no_whole_answer(fields: Json) -> None:
    last = whole(**fields)[-1]
    assert isinstance(last, Error)
    assert last.code == Code.NOT_EVENT_STREAM


# The cursor of a background response


def numbered(*payloads: Json, first: int = 0) -> list[Json]:
    return [p | {"sequence_number": n} for n, p in enumerate(payloads, first)]


BACKGROUND = answer("created", "queued", background=True)


@pytest.mark.parametrize("kind", ["created", "queued", "in_progress"])
def test_a_background_response_has_a_cursor_until_it_ends(kind: str) -> None:
    payloads = numbered(
        answer(kind, "queued", background=True), item("message", "added"), text("x"), COMPLETED
    )
    body = open_body("responses")
    cursors = []
    for payload in payloads:
        body.feed(stream(payload))
        assert body.dirty, "the cursor travels in the state"
        body = Body.restore("responses", body.state())
        cursors.append(body.cursor)
    assert cursors == [Cursor("r1", "0"), Cursor("r1", "1"), Cursor("r1", "2"), None]


def test_before_the_first_number_the_answer_can_be_asked_for_from_its_beginning() -> None:
    body = open_body("responses")
    body.feed(stream(BACKGROUND))
    assert body.cursor == Cursor("r1", "")


@pytest.mark.parametrize(
    "end",
    [
        COMPLETED,
        answer("incomplete", "incomplete"),
        answer("failed", "failed"),
        answer("cancelled", "cancelled"),
        {"type": "error", "error": {"message": "m"}},
    ],
    ids=lambda end: end["type"],
)
def test_what_has_ended_has_no_cursor(end: Json) -> None:
    dialect = Responses()
    for payload in numbered(BACKGROUND, text("x"), end):
        dialect.feed(SseEvent(payload["type"], json.dumps(payload)))
    assert dialect.cursor is None


@pytest.mark.parametrize("background", [False, None, "true", 1])
def test_other_streams_have_no_cursor_and_text_makes_no_checkpoint(background: Any) -> None:
    body = open_body("responses")
    payloads = numbered(answer(background=background), *[text("x")] * 9)
    body.feed(stream(*payloads[:2]))  # the first text makes one: it is not told again
    body.state()
    body.feed(stream(*payloads[1:]))  # the fast path
    body._events(stream(*payloads[1:]))  # the general one
    assert body.cursor is None
    assert not body.dirty
    assert body.oddities == 0, "numbers mean nothing in such a stream"


def test_after_a_reattach_repeated_events_are_dropped_and_counted() -> None:
    call = item("function_call", "added", 1, **CALL)
    payloads = numbered(BACKGROUND, text("a"), text("b"), call, arguments("{}", 1), COMPLETED)
    body = open_body("responses")
    found = body.feed(stream(*payloads[:3]))
    body = Body.restore("responses", body.state())
    found += body.feed(stream(*payloads[1:3]))  # all in the plain form
    found += body.feed(stream(*payloads[2:]))
    assert found[:-2] == [
        Text("a"),
        Text("b"),
        ToolCall(0, "c", "f"),
        ToolCall(0, None, None, "{}"),
    ]
    assert isinstance(found[-1], Done)
    assert body.oddities == 3


def test_a_reattach_at_any_event_gives_the_same_tokens() -> None:
    begun = item("function_call", "added", 1, **CALL)
    end = item("function_call", "done", 1, arguments="{}", **CALL)
    pieces = [arguments("{", 1), arguments("}", 1)]
    told = [BACKGROUND, text("a"), begun, text("é"), text("b"), *pieces, end, COMPLETED]
    payloads = numbered(*told)
    expected = tokens(*payloads)
    for cut in range(1, len(payloads)):
        body = open_body("responses")
        found = body.feed(stream(*payloads[:cut]))
        assert body.cursor is not None
        after = int(body.cursor.after)
        body = Body.restore("responses", body.state())
        found += body.feed(stream(*[p for p in payloads if p["sequence_number"] > after]))
        assert found == expected, f"cut {cut}"


@pytest.mark.parametrize("number", [2**70, -3, "x", 1.5, None])
def test_odd_numbers_leave_the_cursor_alone(number: Any) -> None:
    body = open_body("responses")
    body.feed(stream(*numbered(BACKGROUND, text("a"))))
    body.feed(stream(text("b", sequence_number=number)))
    assert Body.restore("responses", body.state()).cursor == Cursor("r1", "1")


# The fast path: whatever it accepts, the general path must decode to the same tokens.

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["\\", '"', '","', "\n\n", "}\n\nevent: response.output_text.delta\ndata: {", ""]
)
NUMBERS = st.none() | st.integers(-2, 12) | st.sampled_from(["7", 2**70, 1.0])
PLAIN = st.builds(lambda t, n: text(t, sequence_number=n), TEXTS, NUMBERS)
PAYLOADS = st.one_of(
    PLAIN,
    st.builds(lambda t: event("reasoning_text.delta", output_index=0, delta=t), TEXTS),
    st.builds(lambda t, i: arguments(t, i), TEXTS, st.sampled_from([0, 1, None, -1])),
    st.builds(lambda t: text(t, logprobs=[{"token": t, "logprob": 0}]), TEXTS),
    st.sampled_from(
        [CREATED, COMPLETED, {"type": "error"}, item("function_call", arguments="{}", **CALL)]
    ),
)
BLOCKS = st.lists(
    st.one_of(st.lists(PLAIN, max_size=6), st.lists(PAYLOADS, max_size=4)), max_size=6
)


def general(blocks: list[bytes]) -> tuple[list[StreamToken], bytes]:
    body = open_body("responses")
    found = [t for data in blocks if not body.finished for t in body._events(data)]
    return found, body._dialect.state()


def fast(blocks: list[bytes]) -> tuple[list[StreamToken], bytes]:
    body = open_body("responses")
    found = [t for data in blocks for t in body.feed(data)]
    return found, body._dialect.state()


@given(BLOCKS, st.booleans(), st.booleans())
def test_fast_path_decodes_as_the_general_one(
    blocks: list[list[Json]], named: bool, background: bool
) -> None:
    encoded = [stream(answer(background=background))]
    encoded += [stream(*payloads, named=named) for payloads in blocks]
    assert fast(encoded) == general(encoded)


NOISE = [
    *(b"\\", b'"', b"\n", b"\r", b"\n\n", b"{", b"}", b",", b"data: ", b"event: error\n", b"\xff"),
    b"event: response.output_text.delta\ndata: ",
]


@pytest.mark.parametrize("seed", range(300))
def test_fast_path_on_mutated_blocks(seed: int) -> None:
    rng = random.Random(seed)
    blocks = [stream(answer(background=rng.random() < 0.5)), stream(text("b"), text("c"))]
    for _ in range(4):
        payloads = numbered(*(text(rng.choice(["a", "\\", '"', "é"])) for _ in range(4)))
        data = bytearray(stream(*payloads, named=rng.random() < 0.8))
        for _ in range(rng.randrange(3)):
            at = rng.randrange(len(data))
            data[at : at + rng.randrange(3)] = rng.choice(NOISE)
        blocks.append(bytes(data) + b"\n\n")
    assert fast(blocks) == general(blocks), f"seed {seed}"


@pytest.mark.parametrize(
    "block",
    [
        b'data: {"type":"response.output_text.delta",\r"delta":"a"}\n\n',
        b'data: {"type":"response.output_text.delta","delta":"a",'
        b'"event: response.output_text.delta\ndata: ":1}\n\n',
        b'event: response.output_text.delta\ndata: {"delta":"a"}\n\n',
        b'data: {"delta":"a"}\n\n',
        stream(text("a"), text("b", error={"message": "m"})),
        stream(text("a"), text("b")) + b"event: ping\n\n",
        stream(text("a")).replace(b"data: ", b"data:"),
        stream(text("a")) * 2 + b"\n",
        stream(text("a", type="response.refusal.delta")),
    ],
)
@pytest.mark.parametrize("half", [b"", b"\\ud83d"])
def test_what_only_resembles_the_plain_form(block: bytes, half: bytes) -> None:
    before = stream(text("HALF")).replace(b"HALF", half)
    assert fast([before, block]) == general([before, block])


def test_a_half_waits_for_the_next_block_of_any_form() -> None:
    body = open_body("responses")
    body.feed(stream(text("HALF")).replace(b"HALF", b"\\ud83d"))
    assert body.feed(stream(text("x"))) == [Text("\ufffdx")]


def test_plain_text_takes_the_fast_path() -> None:
    for named in (True, False):
        block = stream(
            text("a"), text("b", obfuscation="xyz"), text("", logprobs=None), named=named
        )
        assert Responses().feed_block(block) == [Text("a"), Text("b")]


@given(st.lists(st.binary(max_size=60) | st.sampled_from([stream(text("x")), *NOISE])))
def test_arbitrary_bytes_end_in_exactly_one_terminal_token(chunks: list[bytes]) -> None:
    found = decode("responses", chunks)
    assert [isinstance(t, Done | Error) for t in found] == [False] * (len(found) - 1) + [True]


# Requests


def asked(**fields: Any) -> AnyRequest:
    given = {"model": "m", "api": "responses"}
    given |= {} if "prompt" in fields else {"messages": [{"role": "user", "content": "hi"}]}  # type: ignore[dict-item]
    return request.decode(msgspec.msgpack.encode(given | fields))


def shaped(model: str = "gpt-4.1", **fields: Any) -> Json:
    call = OpenAI(Provider("openai")).generate(model, asked(**fields))
    assert call.path == "/responses"
    assert call.headers == ({} if call.body["stream"] else {"accept": "application/json"})
    return call.body


def items(*messages: Json) -> list[Json]:
    given: list[Json] = shaped(messages=list(messages))["input"]
    return given


def said(role: str, content: Any) -> Json:
    return {"role": role, "content": content}


def test_a_request() -> None:
    schema = {"name": "s", "schema": {"type": "object"}, "strict": True}
    assert shaped(
        max_tokens=9,
        temperature=0.0,
        top_p=0.5,
        n=1,
        logprobs=True,
        top_logprobs=2,
        metadata={"a": "b"},
        user="me",
        cache_key="k",
        parallel_tool_calls=False,
        response_format={"type": "json_schema", "json_schema": schema},
    ) == {
        "model": "gpt-4.1",
        "input": [said("user", "hi")],
        "stream": True,
        "max_output_tokens": 9,
        "temperature": 0.0,
        "top_p": 0.5,
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 2,
        "metadata": {"a": "b"},
        "user": "me",
        "prompt_cache_key": "k",
        "parallel_tool_calls": False,
        "text": {"format": {"type": "json_schema"} | schema},
    }
    assert shaped(stream=False)["stream"] is False
    wanted = {"type": "json_object"}
    assert shaped(response_format=wanted)["text"] == {"format": wanted}


def test_what_is_not_stored_gives_its_thoughts_sealed() -> None:
    sealed = ["reasoning.encrypted_content"]
    asked = {"reasoning": {"effort": "low", "summary": "auto"}, "extra": {"store": False}}
    body = shaped("gpt-5", **asked)
    assert (body["include"], body["reasoning"]) == (sealed, asked["reasoning"])
    assert shaped("deployment", extra={"store": False})["include"] == sealed
    assert "include" not in shaped("gpt-4.1", extra={"store": False})
    assert "include" not in shaped("gpt-5")


def test_sealed_thoughts_go_back_without_their_ids_before_what_came_of_them() -> None:
    detail = {"type": "reasoning", "id": "rs_1", "format": "openai-responses-v1"}
    pieces = [
        {"content": "a"},
        {"detail": {"type": "summary_text", "summary_index": 1}},
        {"content": "b"},
        {"encrypted": "X", "detail": detail},
        {"signature": "S", "block": 1},
    ]
    summary = [{"type": "summary_text", "text": text} for text in ("a", "b")]
    assert items({"role": "assistant", "content": "so", "reasoning": pieces}) == [
        {
            "type": "reasoning",
            "summary": summary,
            "encrypted_content": "X",
            "format": "openai-responses-v1",
        },
        said("assistant", "so"),
    ]


def test_a_prompt_is_the_input_and_extra_comes_last() -> None:
    extra = {"background": True, "model": "other"}
    assert shaped(prompt="p", extra=extra) == {
        "model": "other",
        "input": "p",
        "stream": True,
        "background": True,
    }


def test_roles_and_parts() -> None:
    parts: list[Json] = [
        {"type": "text", "text": "a"},
        {"type": "image_url", "image_url": {"url": "u"}},
    ]
    pictures = [
        {"type": "image_url", "image_url": "data:image/png;base64,QUJD"},
        {"type": "image_url", "image_url": {"url": "u", "detail": "low"}},
        {"type": "file", "file": {"file_id": "f1"}},
        {"type": "input_text", "text": "own"},
    ]
    answered = [{"type": "text", "text": "b"}, {"type": "refusal", "refusal": "no"}]
    mark = {"cache_control": {"type": "ephemeral"}}
    parts[0] |= mark
    body = shaped(messages=[said("system", "a"), said("system", [parts[0]]), said("user", "hi")])
    assert (body["instructions"], body["input"]) == ("a\n\na", [said("user", "hi")])
    assert items(
        {"role": "developer", "content": "d"},
        {"role": "system", "content": "s"},
        {"role": "user", "content": parts},
        {"role": "user", "content": pictures},
        {"role": "assistant", "content": answered},
        {"role": "assistant", "content": "c", "refusal": "d"},
        {"role": "assistant", "content": None, "refusal": "e"},
        {"role": "assistant", "content": None},
        {"role": "user", "content": ""},
    ) == [
        said("developer", "d"),
        said("system", "s"),
        said(
            "user",
            [{"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": "u"}],
        ),
        said(
            "user",
            [
                {"type": "input_image", "image_url": "data:image/png;base64,QUJD"},
                {"type": "input_image", "image_url": "u", "detail": "low"},
                {"type": "input_file", "file_id": "f1"},
                {"type": "input_text", "text": "own"},
            ],
        ),
        said("assistant", [{"type": "output_text", "text": "b"}, answered[1]]),
        said(
            "assistant",
            [{"type": "output_text", "text": "c"}, {"type": "refusal", "refusal": "d"}],
        ),
        said("assistant", [{"type": "refusal", "refusal": "e"}]),
    ]


def test_calls_and_their_results() -> None:
    called = [
        {"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
        {"id": "t2", "type": "function", "function": {"name": "f", "arguments": ""}},
        {"id": "t3", "type": "custom", "custom": {"name": "g", "input": "free"}},
    ]
    picture = {"type": "image_url", "image_url": {"url": "u"}}
    assert items(
        {"role": "assistant", "content": "so", "tool_calls": called},
        {"role": "tool", "tool_call_id": "t1", "content": "42"},
        {"role": "tool", "tool_call_id": "t2", "content": [picture]},
        {"role": "tool", "tool_call_id": "t3", "content": None},
    ) == [
        said("assistant", "so"),
        {"type": "function_call", "call_id": "t1", "name": "f", "arguments": '{"a":1}'},
        {"type": "function_call", "call_id": "t2", "name": "f", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "t3", "name": "g", "input": "free"},
        {"type": "function_call_output", "call_id": "t1", "output": "42"},
        {
            "type": "function_call_output",
            "call_id": "t2",
            "output": [{"type": "input_image", "image_url": "u"}],
        },
        {"type": "custom_tool_call_output", "call_id": "t3", "output": ""},
    ]


@pytest.mark.parametrize("memory", ["previous_response_id", "conversation"])
def test_what_the_provider_remembers_is_answered_alone(memory: str) -> None:
    messages = [{"role": "tool", "tool_call_id": "t1", "content": "42"}]
    output = {"type": "function_call_output", "call_id": "t1", "output": "42"}
    assert shaped(messages=messages, extra={memory: "resp_1"})["input"] == [output]


def test_tools_are_flat_and_say_whether_they_are_strict() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    function = {"name": "f", "description": "d", "parameters": schema, "strict": True}
    own = {"type": "web_search"}
    offered = [{"type": "function", "function": f} for f in (function, {"name": "g"})]
    nothing = {"type": "object", "properties": {}}
    assert shaped(tools=[*offered, own])["tools"] == [
        {"type": "function"} | function,
        {"type": "function", "name": "g", "parameters": nothing, "strict": False},
        own,
    ]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", "auto"),
        ("none", "none"),
        ("required", "required"),
        ({"type": "function", "function": {"name": "f"}}, {"type": "function", "name": "f"}),
        ({"type": "custom", "custom": {"name": "g"}}, {"type": "custom", "name": "g"}),
        ({"type": "function", "name": "f"}, {"type": "function", "name": "f"}),
        ({"type": "web_search"}, {"type": "web_search"}),
    ],
)
def test_tool_choice(choice: Any, expected: Any) -> None:
    assert shaped(tool_choice=choice)["tool_choice"] == expected


def message(content: Any = "hi", role: str = "user", **more: Any) -> Json:
    return {"messages": [{"role": role, "content": content, **more}]}


def answered(content: Any = "42", **call: Any) -> Json:
    """A call and its result."""
    calling = {"role": "assistant", "tool_calls": [{"id": "t"} | call]}
    return {"messages": [calling, {"role": "tool", "tool_call_id": "t", "content": content}]}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"stop": "x"}, "stop"),
        ({"seed": 1}, "seed"),
        ({"n": 2}, "n"),
        (message(5), "messages[].content"),
        (message(["hi"]), "messages[].content"),
        (message([{"type": "image_url"}]), "messages[].content[]"),
        (message([{"type": "image_url", "image_url": {"url": 5}}]), "messages[].content[]"),
        (message([{"type": "file", "file": "f1"}]), "messages[].content[]"),
        (message([{"type": "file", "file": {}}]), "messages[].content[].file"),
        (message("42", "tool"), "messages[].tool_call_id"),
        (answered(5, function={"name": "f"}), "messages[].content"),
        (message(role="assistant", tool_calls=5), "messages[].tool_calls"),
        (message(role="assistant", function_call={"name": "f"}), "messages[].function_call"),
        (answered(), "messages[].tool_calls"),
        (answered(function={}), "messages[].tool_calls"),
        ({"response_format": {}}, "response_format.type"),
        ({"prompt": "p", "suffix": "s"}, "suffix"),
        *(({name: 1}, name) for name in ("top_k", "frequency_penalty", "presence_penalty")),
        ({"reasoning": {"budget_tokens": 9}}, "reasoning.budget_tokens"),
        ({"reasoning": {"effort": "low"}}, "reasoning"),
        ({"tools": [{"function": {}}]}, "tools[].function"),
        ({"tools": [{"function": None}]}, "tools[].function"),
        ({"tool_choice": "some"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": 5}}, "tool_choice.function"),
    ],
    ids=str,
)
def test_what_the_api_has_not_is_refused_by_name(fields: Json, field: str) -> None:
    with pytest.raises(RequestError) as caught:
        shaped(**fields)
    assert (caught.value.code, caught.value.detail) == (Code.BAD_REQUEST, {"field": field})


@pytest.mark.parametrize(
    ("cursor", "path", "cancel"),
    [
        (
            Cursor("resp_1", "7"),
            "/responses/resp_1?stream=true&starting_after=7",
            "/responses/resp_1/cancel",
        ),
        (Cursor("resp_1", ""), "/responses/resp_1?stream=true", "/responses/resp_1/cancel"),
        (
            Cursor("a/../b?c#é", "1&x"),
            "/responses/a%2F..%2Fb%3Fc%23%C3%A9?stream=true&starting_after=1%26x",
            "/responses/a%2F..%2Fb%3Fc%23%C3%A9/cancel",
        ),
    ],
)
def test_the_ways_back(cursor: Cursor, path: str, cancel: str) -> None:
    assert responses.reattach(cursor) == path
    assert responses.cancel_path(cursor) == cancel
