"""What Anthropic is sent for messages and legacy completions, and how its short answers read."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import msgspec
import pytest

from ringcast.config import Provider
from ringcast.errors import Code, RequestError
from ringcast.providers import request
from ringcast.providers.anthropic import Anthropic
from ringcast.providers.claude_thinking import version
from ringcast.providers.request import Call, Json
from ringcast.providers.vendor import Model, Page

USER: Json = {"role": "user", "content": "hi"}
MARK: Json = {"type": "ephemeral", "ttl": "1h"}
ANTHROPIC = Anthropic(Provider("anthropic"))
VERSION = {"anthropic-version": "2023-06-01"}


def asked(**fields: Any) -> request.ChatRequest | request.CompletionRequest:
    given = {"model": "m"} if "prompt" in fields else {"model": "m", "messages": [USER]}
    return request.decode(msgspec.msgpack.encode(given | fields))


def shaped(model: str = "claude-sonnet-4-5", **fields: Any) -> Call:
    return ANTHROPIC.generate(model, asked(**fields))


def sent(model: str = "claude-sonnet-4-5", **fields: Any) -> Json:
    return shaped(model, **fields).body


def turns(*messages: Json) -> list[Json]:
    found: list[Json] = sent(messages=list(messages))["messages"]
    return found


def said(*messages: Json) -> Any:
    """The content of the only message, or of the newest."""
    return turns(*messages)[-1]["content"]


def user(*parts: Json, **more: Any) -> Json:
    return {"role": "user", "content": list(parts), **more}


def text(text: str, **more: Any) -> Json:
    return {"type": "text", "text": text} | more


def calling(*calls: Json, **beside: Any) -> Json:
    return {"role": "assistant", "content": None, "tool_calls": list(calls)} | beside


def call(id: str = "a", name: str = "f", arguments: str = "{}") -> Json:
    return {"id": id, "function": {"name": name, "arguments": arguments}}


def answer(id: str = "a", content: Any = "42", **beside: Any) -> Json:
    return {"role": "tool", "tool_call_id": id, "content": content} | beside


def refused(model: str = "claude-sonnet-4-5", **fields: Any) -> str:
    with pytest.raises(RequestError) as caught:
        sent(model, **fields)
    assert caught.value.code == Code.BAD_REQUEST
    assert caught.value.message.startswith(f"{caught.value.detail['field']}: ")
    return caught.value.message


def test_a_message() -> None:
    call = shaped(
        max_tokens=9,
        temperature=0.5,
        top_k=5,
        stop="x",
        user="u",
        metadata={},
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True},
        },
    )
    assert call == Call(
        "/messages",
        {
            "model": "claude-sonnet-4-5",
            "max_tokens": 9,
            "messages": [USER],
            "stream": True,
            "temperature": 0.5,
            "top_k": 5,
            "stop_sequences": ["x"],
            "metadata": {"user_id": "u"},
            "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}},
        },
        VERSION,
    )


def test_an_answer_in_one_piece_is_asked_for_as_one() -> None:
    call = shaped(stream=False)
    assert call.body["stream"] is False
    assert call.headers == VERSION | {"accept": "application/json"}


def test_a_limit_is_always_sent() -> None:
    assert sent()["max_tokens"] == 4096


def test_extra_comes_last_object_into_object() -> None:
    body = sent(metadata={"user_id": "u"}, extra={"metadata": {"x": 1}, "service_tier": "auto"})
    assert body["metadata"] == {"user_id": "u", "x": 1}
    assert body["service_tier"] == "auto"


def test_system_messages_move_out() -> None:
    system = {"role": "system", "content": "a"}
    body = sent(messages=[system, USER, {"role": "developer", "content": "b"}])
    assert body["system"] == "a\n\nb"
    assert body["messages"] == [USER]


def test_marks_stay_where_they_are_and_those_of_messages_go_to_their_last_block() -> None:
    tool = {"type": "function", "function": {"name": "f"}, "cache_control": MARK}
    body = sent(
        messages=[
            {"role": "system", "content": [text("a", cache_control=MARK), text("b")]},
            {"role": "system", "content": "c", "cache_control": MARK},
            user(text("d"), text("e"), cache_control=MARK),
            calling(call()),
            answer(cache_control=MARK),
        ],
        tools=[tool],
    )
    assert body["system"] == [
        text("a", cache_control=MARK),
        text("b"),
        text("c", cache_control=MARK),
    ]
    assert body["messages"][0]["content"] == [text("d"), text("e", cache_control=MARK)]
    assert body["messages"][2]["content"][0]["cache_control"] == MARK
    assert body["tools"][0]["cache_control"] == MARK


def test_neighbours_of_one_role_are_joined_and_what_has_no_character_goes() -> None:
    assert turns(
        USER,
        user(text("")),
        user(text(" \n"), text("there")),
        {"role": "assistant", "content": ""},
        {"role": "assistant", "content": None},
    ) == [user(text("hi"), text("there"))]


def test_how_the_model_declined_is_what_it_said() -> None:
    parts = [text("a"), {"type": "refusal", "refusal": "b"}]
    assert said(
        USER,
        {"role": "assistant", "content": parts},
        {"role": "assistant", "content": None, "refusal": "c"},
    ) == [text("a"), text("b"), text("c")]


def test_tools_and_their_traffic() -> None:
    function = {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True}
    body = sent(
        messages=[
            USER,
            calling(call("t1", arguments='{"a":1}'), call("t 2", arguments=""), content="so"),
            answer("t 2", [text("no")], is_error=True),
            answer("t1"),
            {"role": "user", "content": "and?"},
        ],
        tools=[
            {"type": "function", "function": function},
            {"function": {"name": "g"}},
            {"name": "own", "input_schema": {}},
        ],
        tool_choice={"type": "function", "function": {"name": "f"}},
        parallel_tool_calls=False,
    )
    assert body["tools"] == [
        {"name": "f", "description": "d", "input_schema": {"type": "object"}, "strict": True},
        {"name": "g", "input_schema": {"type": "object", "properties": {}}},
        {"name": "own", "input_schema": {}},
    ]
    assert body["tool_choice"] == {
        "type": "tool",
        "name": "f",
        "disable_parallel_tool_use": True,
    }
    [_, assistant, results] = body["messages"]
    made = assistant["content"][2]["id"]
    assert made.startswith("call_")
    assert assistant["content"] == [
        text("so"),
        {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
        {"type": "tool_use", "id": made, "name": "f", "input": {}},
    ]
    assert results["content"] == [
        {"type": "tool_result", "tool_use_id": made, "content": [text("no")], "is_error": True},
        {"type": "tool_result", "tool_use_id": "t1", "content": "42"},
        text("and?"),
    ]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", {"type": "auto"}),
        ("required", {"type": "any"}),
        ("none", {"type": "none"}),
        ({"type": "any"}, {"type": "any"}),
    ],
)
def test_tool_choice(choice: Any, expected: Json) -> None:
    assert sent(tool_choice=choice)["tool_choice"] == expected
    off = {"disable_parallel_tool_use": True}
    assert sent(tool_choice=choice, parallel_tool_calls=False)["tool_choice"] == expected | off
    assert sent(parallel_tool_calls=False)["tool_choice"] == {"type": "auto"} | off


@pytest.mark.parametrize(
    ("image", "source"),
    [
        ({"url": "https://x/y.png"}, {"type": "url", "url": "https://x/y.png"}),
        ("https://x/y.png", {"type": "url", "url": "https://x/y.png"}),
        (
            {"url": "data:image/png;x=y;base64,QUJD", "detail": "low"},
            {"type": "base64", "media_type": "image/png", "data": "QUJD"},
        ),
    ],
)
def test_pictures(image: Any, source: Json) -> None:
    part = {"type": "image_url", "image_url": image}
    shown = {"type": "image", "source": source}
    assert said(user(part)) == [shown]
    assert said(user(part | {"cache_control": MARK})) == [shown | {"cache_control": MARK}]
    [result] = said(USER, calling(call()), answer(content=[part]))
    assert result["content"] == [shown]


@pytest.mark.parametrize(
    ("file", "document"),
    [
        (
            {"file_data": "data:application/pdf;base64,QUJD", "filename": "a.pdf"},
            {
                "source": {"type": "base64", "media_type": "application/pdf", "data": "QUJD"},
                "title": "a.pdf",
            },
        ),
        (
            {"file_data": "data:text/plain;base64," + b64encode("é".encode()).decode()},
            {"source": {"type": "text", "media_type": "text/plain", "data": "é"}},
        ),
        ({"file_url": "https://x/y"}, {"source": {"type": "url", "url": "https://x/y"}}),
        ({"file_id": "f1"}, {"source": {"type": "file", "file_id": "f1"}}),
    ],
)
def test_documents(file: Json, document: Json) -> None:
    assert said(user({"type": "file", "file": file})) == [{"type": "document"} | document]


# Tools


def test_what_a_tool_has_beside_its_function() -> None:
    beside = {"eager_input_streaming": True, "defer_loading": True, "input_examples": [{"n": 1}]}
    function = {"name": "f", "parameters": {"type": "object"}}
    tool = sent(tools=[{"type": "function", "function": function, "other": 1} | beside])["tools"][0]
    assert tool == {"name": "f", "input_schema": {"type": "object"}} | beside


# Thinking


def test_thoughts_come_first_with_their_proofs() -> None:
    pieces = [
        {"content": "h"},
        {"content": "m"},
        {"signature": "S"},
        {"encrypted": "X", "block": 1},
        {"content": "of no use without a proof", "block": 2},
        {"encrypted": "Y", "detail": {"type": "reasoning"}, "block": 3},
    ]
    earlier = calling(call(), content="so", reasoning=pieces)
    assert turns(USER, earlier, answer())[1]["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": "S"},
        {"type": "redacted_thinking", "data": "X"},
        text("so"),
        {"type": "tool_use", "id": "a", "name": "f", "input": {}},
    ]


def test_blocks_of_the_apis_own_go_back_as_they_were() -> None:
    search = {"type": "server_tool_use", "id": "s", "name": "web_search"}
    found = {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"url": "u"}]}
    details: list[Json] = [
        {"type": "compaction", "content": None},
        {"type": "compaction_delta", "content": "so "},
        {"type": "compaction_delta", "content": "far", "encrypted_content": "E"},
        search | {"input": {}},
        {"type": "input_json_delta", "partial_json": '{"q":'},
        {"type": "input_json_delta", "partial_json": '"x"}'},
        found,
        {"type": "reasoning.text"},  # another provider's
        {"type": "mcp_tool_use", "id": "m", "name": "f", "input": {}},
        {"type": "input_json_delta", "partial_json": '{"cut'},
    ]
    pieces: list[Json] = [{"content": "hm"}, {"signature": "S"}]
    pieces += [{"detail": detail, "block": number} for number, detail in enumerate(details, 1)]
    earlier = {"role": "assistant", "content": "so", "reasoning": pieces}
    assert turns(USER, earlier, USER)[1]["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": "S"},
        {"type": "compaction", "content": "so far", "encrypted_content": "E"},
        search | {"input": {"q": "x"}},
        found,
        text("so"),
    ]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("claude-3-7-sonnet-20250219", (3, 7)),
        ("claude-3-haiku-20240307", (3, 0)),
        ("claude-sonnet-4-20250514", (4, 0)),
        ("claude-sonnet-4-5@20250929", (4, 5)),
        ("us.anthropic.claude-opus-4-1-20250805-v1:0", (4, 1)),
        ("anthropic/claude-opus-4.6", (4, 6)),
        ("claude-sonnet-5", (5, 0)),
        ("claude-2.1", (2, 1)),
        ("claude-instant-1.2", (1, 2)),
        ("claude-next", (99, 0)),
    ],
)
def test_versions(model: str, expected: tuple[int, int]) -> None:
    assert version(model) == expected


@pytest.mark.parametrize(
    ("model", "fields", "expected"),
    [
        ("4-5", {"effort": "none"}, {"thinking": {"type": "disabled"}}),
        ("4-6", {"budget_tokens": 0}, {"thinking": {"type": "disabled"}}),
        ("3", {"effort": "none"}, {}),
        (
            "4-5",
            {"budget_tokens": 2000, "summary": "auto"},
            {
                "thinking": {"type": "enabled", "budget_tokens": 2000, "display": "summarized"},
                "max_tokens": 6096,
            },
        ),
        (
            "4-5",
            {"effort": "medium"},
            {"thinking": {"type": "enabled", "budget_tokens": 8192}, "max_tokens": 12_288},
        ),
        (
            "4-6",
            {"effort": "minimal"},
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}},
        ),
        (
            "4-6",
            {"effort": "max", "budget_tokens": -1, "summary": "detailed"},
            {
                "thinking": {"type": "adaptive", "display": "summarized"},
                "output_config": {"effort": "max"},
            },
        ),
        (
            "4-6",
            {"effort": "low", "budget_tokens": 2000},
            {
                "thinking": {"type": "enabled", "budget_tokens": 2000},
                "output_config": {"effort": "low"},
                "max_tokens": 6096,
            },
        ),
        ("4-6", {"summary": "auto"}, {"thinking": {"type": "adaptive", "display": "summarized"}}),
    ],
)
def test_how_much_to_think(model: str, fields: Json, expected: Json) -> None:
    plain = {"model": f"claude-sonnet-{model}", "max_tokens": 4096}
    body = sent(f"claude-sonnet-{model}", reasoning=fields)
    assert body == plain | {"messages": [USER], "stream": True} | expected


def test_a_limit_of_the_request_has_room_for_the_budget_of_an_effort() -> None:
    body = sent(reasoning={"effort": "high"}, max_tokens=5000)
    assert body["max_tokens"] == 5000
    assert body["thinking"]["budget_tokens"] == 4000


@pytest.mark.parametrize(
    ("model", "fields", "message"),
    [
        ("3-5", {"reasoning": {"effort": "low"}}, "reasoning: claude-3-5 has no such"),
        ("4-5", {"reasoning": {"budget_tokens": 1023}}, "reasoning.budget_tokens: 1023 is not in"),
        (
            "4-5",
            {"reasoning": {"budget_tokens": 2000}, "max_tokens": 2000},
            "reasoning.budget_tokens: 2000 is not in 1024..1999",
        ),
        ("4-5", {"reasoning": {"effort": "low"}, "max_tokens": 1200}, "reasoning.budget_tokens: 9"),
        ("4-5", {"reasoning": {"budget_tokens": -1}}, "reasoning.budget_tokens: claude-4-5 has no"),
        ("4-5", {"reasoning": {"summary": "auto"}}, "reasoning.summary: claude-4-5 needs an eff"),
        (
            "4-5",
            {"reasoning": {"budget_tokens": 2000, "effort": "low"}},
            "reasoning.effort: claude-4-5 with a budget has no such parameter",
        ),
        ("4-6", {"reasoning": {"effort": "low"}, "temperature": 0.5}, "temperature: claude-4-6 w"),
        ("4-6", {"reasoning": {"effort": "low"}, "top_p": 0.5}, "top_p: claude-4-6 with thinking"),
        ("4-6", {"reasoning": {"effort": "low"}, "top_k": 5}, "top_k: claude-4-6 with thinking"),
        (
            "4-6",
            {"reasoning": {"effort": "low"}, "tool_choice": "required"},
            "tool_choice: claude-4-6 with thinking has no such parameter",
        ),
        ("4-1", {"temperature": 0.5, "top_p": 0.5}, "top_p: claude-4-1 with a temperature has no"),
    ],
)
def test_what_goes_not_together(model: str, fields: Json, message: str) -> None:
    assert refused(f"claude-{model}", **fields).startswith(message)


def test_what_goes_together() -> None:
    body = sent(
        "claude-4-6", reasoning={"effort": "low"}, temperature=1, tool_choice="auto", max_tokens=9
    )
    assert body["temperature"] == 1
    assert "top_p" in sent("claude-4-6", reasoning={"effort": "low"}, top_p=0.95)
    assert sent("claude-3-5", temperature=0.5, top_p=0.5)["top_p"] == 0.5


# The legacy API


def test_legacy_complete() -> None:
    call = shaped("claude-2.1", prompt="p", api="complete", stop=["a", "b"], top_k=3, user="u")
    assert call == Call(
        "/complete",
        {
            "model": "claude-2.1",
            "prompt": "p",
            "max_tokens_to_sample": 4096,
            "stream": True,
            "top_k": 3,
            "stop_sequences": ["a", "b"],
            "metadata": {"user_id": "u"},
        },
        VERSION,
    )


def bad(content: Any = "hi", **more: Any) -> Json:
    return {"messages": [{"role": "user", "content": content} | more]}


def bad_call(**function: Any) -> Json:
    return {"messages": [USER, calling({"id": "a", "function": function}), answer()]}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        *(({name: 1}, name) for name in ("seed", "frequency_penalty", "presence_penalty")),
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"cache_key": "k"}, "cache_key"),
        ({"metadata": {"a": "b"}}, "metadata"),
        ({"metadata": {"user_id": "a"}, "user": "b"}, "user"),
        (bad(role="assistant", function_call={"name": "f"}), "messages[].function_call"),
        ({"temperature": 1.5}, "temperature"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"response_format": {"type": "x"}}, "response_format.type"),
        ({"response_format": {}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"api": "chat"}, "api"),
        ({"prompt": "p", "api": "messages"}, "prompt"),
        ({"prompt": "p", "api": "complete", "suffix": "s"}, "suffix"),
        ({"api": "complete"}, "messages"),
        ({"messages": [{"role": "system", "content": "s"}]}, "messages"),
        ({"messages": [{"role": "assistant", "content": "s"}]}, "messages"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages"),
        ({"messages": [{"role": "robot", "content": "s"}]}, "messages[].role"),
        (bad(5), "messages[].content"),
        (bad(["hi"]), "messages[].content"),
        (bad([{"type": "image_url"}]), "messages[].content[]"),
        (bad([{"type": "image_url", "image_url": {}}]), "messages[].content[]"),
        (bad([{"type": "image_url", "image_url": {"url": 5}}]), "messages[].content[]"),
        (bad([{"type": "image_url", "image_url": "data:image/png,x"}]), "messages[].content[]"),
        (bad([{"type": "input_audio"}]), "messages[].content[].type"),
        (bad([{"type": "file", "file": {}}]), "messages[].content[].file"),
        (
            bad([{"type": "file", "file": {"file_data": "data:text/plain;base64,?"}}]),
            "messages[].content[].file",
        ),
        (bad(role="assistant", tool_calls=5), "messages[].tool_calls"),
        ({"messages": [USER, calling({"id": "a"}), answer()]}, "messages[].tool_calls"),
        (bad_call(), "messages[].tool_calls"),
        (bad_call(name="f", arguments={}), "messages[].tool_calls"),
        (bad_call(name="f", arguments="{"), "messages[].tool_calls[].function.arguments"),
        (bad_call(name="f", arguments="[1]"), "messages[].tool_calls[].function.arguments"),
        (bad_call(name="f", arguments="[" * 9999), "messages[].tool_calls[].function.arguments"),
        ({"tools": [{"function": None}]}, "tools[].function"),
        ({"tools": [{"function": {}}]}, "tools[].function"),
        ({"tools": [{"function": {"name": "a.b"}}]}, "tools[].function.name"),
        ({"tool_choice": "some"}, "tool_choice"),
        ({"tool_choice": {"function": 5}}, "tool_choice.function"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_anthropic_refuses_by_name(fields: Json, field: str) -> None:
    assert refused(**fields).startswith(f"{field}: ")


# Short answers


def test_models_come_in_pages() -> None:
    assert ANTHROPIC.models() == Call("/models?limit=1000", headers=VERSION, method="GET")
    assert ANTHROPIC.health() == Call("/models?limit=1", headers=VERSION, method="GET")
    call = ANTHROPIC.models("a/b")
    assert call is not None
    assert call.path == "/models?limit=1000&after_id=a%2Fb"
    listed: list[Json] = [
        {
            "id": "claude-x",
            "display_name": "Claude X",
            "created_at": "2025-02-24T00:00:00Z",
            "max_input_tokens": 200_000,
            "max_tokens": 64_000,
        },
        {"id": "claude-y", "created_at": "1970-01-02T00:00:00"},
    ]
    models = [
        Model("claude-x", "Claude X", "anthropic", 1_740_355_200, 200_000, 64_000),
        Model("claude-y", owner="anthropic", created=86_400),
    ]
    answer = {"data": listed, "has_more": True, "last_id": "claude-y"}
    assert ANTHROPIC.read_models(json.dumps(answer).encode()) == Page(models, "claude-y")
    last = json.dumps(answer | {"has_more": False}).encode()
    assert ANTHROPIC.read_models(last) == Page(models)


def test_a_count_is_of_what_makes_the_prompt() -> None:
    system = {"role": "system", "content": "s"}
    call = ANTHROPIC.count("claude-4-6", asked(messages=[system, USER], seed=1, temperature=0.5))
    body = {"model": "claude-4-6", "system": "s", "messages": [USER]}
    assert call == Call("/messages/count_tokens", body, VERSION)
    assert ANTHROPIC.count("m", asked(prompt="p", api="complete")) is None
    assert ANTHROPIC.read_count(b'{"input_tokens":11}') == 11


@pytest.mark.parametrize("answer", [b"", b"[]", b'{"data":5}', b'{"data":[{"created_at":"x"}]}'])
def test_what_is_no_answer(answer: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        ANTHROPIC.read_models(answer)
    with pytest.raises(msgspec.MsgspecError):
        ANTHROPIC.read_count(answer)


def test_capabilities_know_the_model() -> None:
    assert not ANTHROPIC.capabilities("claude-3-5-haiku-latest").reasoning
    assert ANTHROPIC.capabilities("claude-sonnet-4-5").reasoning
