"""What servers that speak OpenAI's chat do otherwise: thoughts, calls, counts, errors, ends."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from ringcast.errors import Code
from ringcast.providers.wire.body import Ending, open_body
from ringcast.providers.wire.summary import decode, summarize
from ringcast.shm.tokens import Delta, Done, Error, Logprob, Reasoning, StreamToken, Text

Json = dict[str, Any]

STOP: Json = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


def chunk(**delta: Any) -> Json:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


def stream(*payloads: Any) -> bytes:
    texts = [p if isinstance(p, str) else json.dumps(p) for p in payloads]
    return "".join(f"data: {text}\n\n" for text in texts).encode()


def tokens(*payloads: Any, api: str = "chat") -> list[StreamToken]:
    """The tokens of a stream, which are the same byte by byte."""
    body = stream(*payloads, "[DONE]")
    found = decode(api, [body])
    assert summarize(found) == summarize(decode(api, [bytes([b]) for b in body]))
    return found


def summary(*payloads: Any, api: str = "chat") -> Json:
    return summarize(tokens(*payloads, api=api))


def calls(*deltas: Sequence[Json | None] | Json) -> list[tuple[Any, ...]]:
    found = summary(*(chunk(tool_calls=delta) for delta in deltas), STOP)
    return [tuple(call.values()) for call in found["tool_calls"]]


def tool(name: str | None = None, arguments: str | None = None, **fields: Any) -> Json:
    return {"function": {"name": name, "arguments": arguments}} | fields


# Thoughts


@pytest.mark.parametrize(
    "thought",
    [
        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
        {"type": "thinking", "thinking": "hm"},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
    ],
    ids=str,
)
def test_parts_of_a_content_that_are_thoughts_are_no_text(thought: Json) -> None:
    said = chunk(content=[thought, {"type": "text", "text": "a"}])
    assert tokens(said, chunk(content="b"), STOP)[:-1] == [Reasoning("hm"), Text("a"), Text("b")]


def test_the_signature_of_a_thought_in_a_content_goes_along() -> None:
    part = {"type": "reasoning", "summary": [{"text": "hm", "signature": "S"}]}
    about = {"type": "reasoning_summary"}
    assert tokens(chunk(content=[part]), STOP)[0] == Reasoning("hm", signature="S", detail=about)


@pytest.mark.parametrize("part", [{"type": "thinking"}, {"type": "thinking", "thinking": [5]}])
def test_a_thought_that_says_nothing_gives_no_token(part: Json) -> None:
    assert tokens(chunk(content=[part, 5, None]), chunk(content="x"), STOP)[0] == Text("x")


def test_thinking_blocks_prove_what_was_told_beside_them() -> None:
    told = {"type": "thinking", "thinking": "hm", "signature": None}
    proof = {"type": "thinking", "thinking": "", "signature": "S"}
    sealed = {"type": "redacted_thinking", "data": "E"}
    assert tokens(
        chunk(reasoning_content="hm", thinking_blocks=[told]),
        chunk(reasoning_content="", thinking_blocks=[proof, sealed]),
        chunk(thinking_blocks=[{"type": "thinking", "thinking": "so"}]),
        STOP,
    )[:-1] == [
        Reasoning("hm"),
        Reasoning("", signature="S"),
        Reasoning("", encrypted="E"),
        Reasoning("so"),
    ]


def test_a_thought_that_has_three_names_is_told_once() -> None:
    names = ("reasoning_content", "reasoning", "reasoning_text")
    assert tokens(chunk(**dict.fromkeys(names, "hm")), STOP)[0] == Reasoning("hm")
    assert [tokens(chunk(**{name: "hm"}), STOP)[0] for name in names] == [Reasoning("hm")] * 3


# Calls


def test_a_tool_of_free_text_is_a_call_whose_arguments_need_not_be_json() -> None:
    first = {"index": 0, "id": "a", "type": "custom", "custom": {"name": "f", "input": "x = "}}
    found = tokens(
        chunk(tool_calls=[first]), chunk(tool_calls=[first | {"custom": {"input": "1"}}])
    )
    assert summarize(found)["tool_calls"] == [{"id": "a", "name": "f", "arguments": "x = 1"}]
    last = found[-1]
    assert isinstance(last, Done)
    assert last.arguments_valid is None


def test_a_call_without_its_list_is_one() -> None:
    assert calls(tool("f", "{", index=0, id=""), tool(None, "}", index=0)) == [(None, "f", "{}")]


def test_pieces_that_say_nothing_make_no_call() -> None:
    assert calls([None, {}], {}, [tool("f", "{}", index=0, id="a"), None]) == [("a", "f", "{}")]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["edit_", "file"], "edit_file"),
        (["edit_file", "edit_file"], "edit_file"),
        (["edit_", "edit_file"], "edit_file"),
        (["edit_file", ""], "edit_file"),
        (["", "edit_file"], "edit_file"),
    ],
    ids=str,
)
def test_a_name_in_pieces_grows_and_one_that_is_repeated_does_not(
    names: list[str], expected: str
) -> None:
    pieces = [[tool(name, "", index=0, id="a")] for name in names]
    assert calls(*pieces, [tool(None, "{}", index=0)]) == [("a", expected, "{}")]


def test_another_name_after_arguments_is_another_call() -> None:
    begun, more = tool("f", "{", index=0), tool("f", "}", index=0)
    assert calls([begun], [more]) == [(None, "f", "{}")]
    assert calls([begun, more], [tool("g", "{}", index=0)]) == [
        (None, "f", "{}"),
        (None, "g", "{}"),
    ]
    renamed = tool("g", "}", index=0, id="a")
    assert calls([begun | {"id": "a"}], [renamed]) == [("a", "g", "{}")]


def test_several_pieces_without_index_or_id_go_on_with_the_last_calls_in_their_order() -> None:
    begun = [tool("f", "", id="a"), tool("g", "", id="b"), tool("h", "", id="c")]
    more = [tool(None, "1"), tool(None, "2")]
    assert calls(begun, more) == [("a", "f", ""), ("b", "g", "1"), ("c", "h", "2")]
    assert calls(begun[:1], [tool(None, "1"), *begun[1:2]]) == [("a", "f", "1"), ("b", "g", "")]
    assert calls(begun[:1], [tool(None, "1"), tool(None, "2")]) == [("a", "f", "12")]


def test_googles_signature_of_a_call_goes_along() -> None:
    signed = {"google": {"thought_signature": "S"}}
    first = tool("f", "{}", index=0, id="a")
    second = tool("g", "{}", index=1, id="b", extra_content=signed)
    proof = Reasoning("", signature="S", detail={"tool_call": 1})
    assert tokens(chunk(tool_calls=[first, second]), STOP)[2] == proof


@pytest.mark.parametrize("extra", [5, {}, {"google": 5}, {"google": {"thought_signature": 5}}])
def test_what_is_no_signature_is_none(extra: Any) -> None:
    said = chunk(tool_calls=[tool("f", "{}", index=0, id="a", extra_content=extra)])
    assert not any(isinstance(token, Reasoning) for token in tokens(said, STOP))


# Counts


def test_counts_in_a_choice_count_unless_the_chunk_has_its_own() -> None:
    counts = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    end = {"choices": [{"delta": {}, "finish_reason": "stop", "usage": counts}]}
    other = {"usage": {"prompt_tokens": 7}}
    assert summary(chunk(content="x"), end)["usage"]["total_tokens"] == 5
    assert summary(chunk(content="x"), end | other)["usage"]["input_tokens"] == 7


def test_counts_beside_plain_text_are_seen_in_a_block_of_many() -> None:
    text = {"choices": [{"index": 0, "delta": {"content": "x"}, "usage": {"prompt_tokens": 3}}]}
    assert summary(chunk(content="x"), *[text] * 5, STOP)["usage"]["input_tokens"] == 3


@pytest.mark.parametrize(
    "counts",
    [
        {"cached_tokens": 1},
        {"num_cached_tokens": 1},
        {"prompt_cache_hit_tokens": 1},
        {"cache_read_input_tokens": 1},
        {"prompt_token_details": {"cached_tokens": 1}},
        {"prompt_tokens_details": {"cached_tokens": 1}, "cached_tokens": 9},
    ],
    ids=str,
)
def test_what_a_cache_gave_has_many_names(counts: Json) -> None:
    usage = {"prompt_tokens": 3} | counts
    found = summary(STOP, {"choices": [], "usage": usage})["usage"]
    assert (found["input_tokens"], found["cache_read_tokens"]) == (3, 1)


def test_what_a_cache_took_has_claudes_name_too() -> None:
    usage = {"prompt_tokens": 3, "cache_creation_input_tokens": 2}
    assert summary(STOP, {"choices": [], "usage": usage})["usage"]["cache_write_tokens"] == 2


@pytest.mark.parametrize("name", ["search_results", "citations", "web_search"])
def test_sources_have_many_names(name: str) -> None:
    found = [{"title": "t", "link": "u"}]
    text = chunk(content="x")
    last = tokens(text, text, text | {name: found}, text, STOP)[-1]
    assert isinstance(last, Done)
    assert last.sources == found


# Errors


@pytest.mark.parametrize(
    "payload",
    [
        {"choices": [{"delta": {}, "finish_reason": "error", "error": {"message": "boom"}}]},
        {"choices": [], "x_groq": {"id": "r", "error": "boom"}},
        {"type": "error", "message": "boom"},
        {"code": 500, "message": "boom"},
        {"code": "InternalError", "message": "boom", "request_id": "r"},
    ],
    ids=str,
)
def test_an_error_ends_the_stream_wherever_it_is_told(payload: Json) -> None:
    *said, last = tokens(chunk(content="x"), payload, chunk(content="y"))
    assert said == [Text("x")]
    assert isinstance(last, Error)
    assert (last.code, last.message) == (Code.PROVIDER_ERROR, "boom")


@pytest.mark.parametrize(
    "fields",
    [
        {"error": ""},
        {"error": False},
        {"code": 0, "message": ""},
        {"code": 200, "message": "ok"},
        {"x_groq": {"id": "r", "error": None}},
    ],
    ids=str,
)
def test_what_is_no_error_costs_no_text(fields: Json) -> None:
    assert summary(chunk(content="x") | fields, STOP)["text"] == "x"


@pytest.mark.parametrize(
    "answer",
    [
        {"result": None, "success": False, "errors": [{"code": 7009, "message": "boom"}]},
        {"code": 7009, "msg": "boom", "success": False},
        {"errors": [], "message": "boom", "code": 7009},
    ],
    ids=str,
)
def test_gateways_errors_instead_of_a_stream_are_read(answer: Json) -> None:
    body = json.dumps(answer).encode()
    last = decode("chat", [body], Ending(content_type="application/json"))[-1]
    assert isinstance(last, Error)
    assert (last.message, last.provider_code) == ("boom", 7009)
    refused = decode("chat", [], Ending("http", status=400, body=body))[-1]
    assert isinstance(refused, Error)
    assert refused.message == "boom"


@pytest.mark.parametrize("nothing", [[], [[]], [None], 5, {}, [{"errors": [[]]}]], ids=str)
def test_errors_that_are_none_are_read_to_their_end(nothing: Any) -> None:
    body = json.dumps({"errors": nothing}).encode()
    refused = decode("chat", [], Ending("http", status=400, body=body))[-1]
    assert isinstance(refused, Error)
    assert refused.message == f"HTTP 400: {body.decode()}"


# Ends, and streams that are none


@pytest.mark.parametrize(
    ("reason", "meaning"),
    [
        ("eos", "stop"),
        ("eos_token", "stop"),
        ("end", "stop"),
        ("model_length", "length"),
        ("tool_call", "tool_calls"),
        ("sensitive", "content_filter"),
        ("network_error", "error"),
        ("abort", "error"),
    ],
)
def test_reasons_of_other_servers_have_a_meaning(reason: str, meaning: str) -> None:
    last = tokens({"choices": [{"delta": {}, "finish_reason": reason}]})[-1]
    assert isinstance(last, Done)
    assert (last.finish_reason, last.provider_reason) == (meaning, reason)


def test_a_whole_answer_as_the_only_event_is_told() -> None:
    choice = {"message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
    whole = {"object": "chat.completion", "choices": [choice], "usage": {"prompt_tokens": 1}}
    found = summary(whole)
    assert (found["text"], found["finish_reason"]) == ("hi", "stop")
    assert found["usage"]["input_tokens"] == 1


def test_a_whole_answer_after_its_deltas_is_not_told_again() -> None:
    choice = {"message": {"content": "hi"}, "finish_reason": "stop"}
    whole = {"object": "chat.completion", "choices": [choice]}
    assert summary(chunk(content="hi"), whole)["text"] == "hi"


def test_completions_may_come_as_chunks_of_a_chat() -> None:
    assert summary(chunk(content="x"), STOP, api="completions")["text"] == "x"


def test_completions_may_have_the_log_probabilities_of_a_chat() -> None:
    entry = {"token": "x", "logprob": -1}
    scored = {"choices": [{"text": "x", "index": 0, "logprobs": {"content": [entry]}}]}
    assert tokens(scored, api="completions")[0] == Delta("x", 0, [Logprob("x", -1.0)])
    body = open_body("completions")
    body.feed(stream(scored))
    assert body.oddities == 0


def event(payload: Json, prefix: str = "data: ") -> str:
    return f"{prefix}{json.dumps(payload)}\n\n"


def raw(*events: str) -> Json:
    """The summary of a body as it is, which is the same byte by byte."""
    body = "".join(events).encode()
    found = summarize(decode("chat", [body]))
    assert found == summarize(decode("chat", [bytes([b]) for b in body]))
    return found


def test_a_comment_as_data_only_keeps_alive() -> None:
    alive = "data: : keepalive\n\n"
    found = raw(alive, event(chunk(content="x")), alive, event(STOP), alive)
    assert (found["text"], found["error"]) == ("x", None)


@pytest.mark.parametrize("end", ["\n\n", "\ndata:\ndata:\n\n"], ids=repr)
def test_a_field_framed_twice_is_read(end: str) -> None:
    events = [event(p, "data: data: ").replace("\n\n", end) for p in (chunk(content="x"), STOP)]
    found = raw(*events, "data: data: [DONE]" + end)
    assert (found["text"], found["finish_reason"]) == ("x", "stop")


@pytest.mark.parametrize("field", ["data:", "data:  ", "data:\ndata: \t"])
def test_a_field_framed_ten_thousand_times_is_one_event(field: str) -> None:
    body = f"data: {field * 10_000}{json.dumps(chunk(content='x'))}\n\n".encode()
    assert decode("chat", [body, stream(STOP)])[0] == Text("x")


@pytest.mark.parametrize("between", ["", "\n", "\r\n"], ids=repr)
def test_an_error_without_its_field_is_one_behind_any_line_ends(between: str) -> None:
    bare = json.dumps({"error": {"message": "boom"}})
    found = raw(event(chunk(content="x")), between, bare, "\n")
    assert (found["text"], found["error"]["message"]) == ("x", "boom")
