"""Requests: what is refused, and what each provider's API is sent."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ringcast.config import Kind, Provider
from ringcast.errors import Code, RequestError
from ringcast.providers import request
from ringcast.providers.gateway import vendor
from ringcast.providers.request import Call, Json
from ringcast.providers.vendor import AnyRequest

USER: Json = {"role": "user", "content": "hi"}


def asked(**fields: Any) -> AnyRequest:
    given = {"model": "m"} if "prompt" in fields else {"model": "m", "messages": [USER]}
    return request.decode(msgspec.msgpack.encode(given | fields))


def shaped(kind: Kind, model: str, asked: AnyRequest) -> Call:
    return vendor(Provider(kind)).generate(model, asked)


def refusal(**fields: Any) -> str:
    """The message that a request is refused with."""
    with pytest.raises(RequestError) as caught:
        asked(**fields)
    assert caught.value.code == Code.BAD_REQUEST
    return caught.value.message


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"messages": None}, "messages: give either messages or prompt"),
        ({"messages": [USER], "prompt": "hi"}, "messages: give either messages or prompt"),
        ({"messages": []}, "messages: must not be empty"),
        ({"messages": [USER, {}]}, "messages[1].role: must be a string"),
        ({"messages": [{"role": 1}]}, "messages[0].role: must be a string"),
        ({"temperature": 1e308}, "temperature: 1e+308 is not in 0.0..2.0"),
        ({"temperature": float("nan")}, "temperature: nan is not in 0.0..2.0"),
        ({"top_p": -0.1}, "top_p: -0.1 is not in 0.0..1.0"),
        ({"max_tokens": -1}, "max_tokens: -1 is not positive"),
        ({"n": 0}, "n: 0 is not positive"),
        ({"model": "m\r\nx: y"}, "model: must not contain control characters"),
    ],
)
def test_what_no_provider_can_be_asked(fields: Json, message: str) -> None:
    assert refusal(**fields) == message


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"base_url": "http://169.254.169.254/"}, "`base_url`"),
        ({"api_key": "x"}, "`api_key`"),
        ({"max_tokens": "5"}, "`$.max_tokens`"),
        ({"messages": ["hi"]}, "`$.messages[0]`"),
        ({"api": "telepathy"}, "'telepathy'"),
    ],
)
def test_unknown_fields_and_wrong_types_are_named(fields: Json, part: str) -> None:
    assert part in refusal(**fields)


def test_null_is_as_good_as_absent() -> None:
    assert asked(prompt="p", messages=None, tools=None) == asked(prompt="p")
    assert asked(prompt=None, messages=[USER], max_tokens=None) == asked()


@pytest.mark.parametrize("raw", [b"", b"\xc1", b"\x91\x01", b"\x81\xa1\xff\x01", b"\x91" * 100_000])
def test_what_is_no_request(raw: bytes) -> None:
    with pytest.raises(RequestError, match=r"^bad_request: request: "):
        request.decode(raw)


# OpenAI


def test_chat() -> None:
    call = shaped("openai", "gpt-4o", asked(max_tokens=9, temperature=0.0, stop="x", n=2))
    assert call == Call(
        "/chat/completions",
        {
            "model": "gpt-4o",
            "messages": [USER],
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0.0,
            "stop": "x",
            "n": 2,
            "max_completion_tokens": 9,
        },
    )


@pytest.mark.parametrize("kind", ["groq", "deepseek", "xai", "openrouter", "openai-compatible"])
def test_compatible_servers_know_the_old_limit(kind: Kind) -> None:
    body = shaped(kind, "m", asked(max_tokens=9)).body
    assert body["max_tokens"] == 9
    assert "max_completion_tokens" not in body


def test_perplexity_has_no_stream_options() -> None:
    assert "stream_options" not in shaped("perplexity", "m", asked()).body


def test_extra_comes_last() -> None:
    extra = {"reasoning_effort": "low", "temperature": 1}
    body = shaped("openai", "m", asked(temperature=0.5, extra=extra)).body
    assert body["reasoning_effort"] == "low"
    assert body["temperature"] == 1


def test_legacy_completions() -> None:
    call = shaped("openai", "m", asked(prompt="p", api="completions", max_tokens=9))
    assert call.path == "/completions"
    assert call.body == {"model": "m", "prompt": "p", "stream": True, "max_tokens": 9}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"prompt": "p"}, "prompt"),
        ({"api": "completions"}, "messages"),
        ({"api": "completions", "prompt": "p", "tools": []}, "tools"),
        ({"api": "messages"}, "api"),
    ],
)
def test_openai_refuses_by_name(fields: Json, field: str) -> None:
    with pytest.raises(RequestError) as caught:
        shaped("openai", "m", asked(**fields))
    assert (caught.value.code, caught.value.detail) == (Code.BAD_REQUEST, {"field": field})


# Anthropic


def messages(*given: Json, **fields: Any) -> Json:
    """The body of a call with these messages."""
    call = shaped("anthropic", "claude", asked(messages=list(given), **fields))
    assert call.path == "/messages"
    assert call.headers == {"anthropic-version": "2023-06-01"}
    return call.body


def test_messages() -> None:
    assert messages(USER, max_tokens=9, stop="x", top_p=0.5) == {
        "model": "claude",
        "max_tokens": 9,
        "messages": [USER],
        "stream": True,
        "top_p": 0.5,
        "stop_sequences": ["x"],
    }


def test_a_limit_is_always_sent() -> None:
    assert messages(USER)["max_tokens"] == 4096


def test_system_messages_move_out() -> None:
    body = messages({"role": "system", "content": "a"}, USER, {"role": "developer", "content": "b"})
    assert body["system"] == "a\n\nb"
    assert body["messages"] == [USER]


def test_system_parts_stay_parts() -> None:
    cached = {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}
    system = messages({"role": "system", "content": [cached]}, USER)["system"]
    assert system == [cached]


def test_neighbours_of_one_role_are_joined_and_empty_ones_go() -> None:
    body = messages(
        USER,
        {"role": "user", "content": [{"type": "text", "text": ""}]},
        {"role": "user", "content": "there"},
        {"role": "assistant", "content": ""},
        {"role": "assistant", "content": None},
    )
    text = [{"type": "text", "text": "hi"}, {"type": "text", "text": "there"}]
    assert body["messages"] == [{"role": "user", "content": text}]


def test_tools_and_their_traffic() -> None:
    function = {"name": "f", "description": "d", "parameters": {"type": "object"}}
    called = {"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    body = messages(
        USER,
        {"role": "assistant", "content": "so", "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "t1", "content": "42"},
        {"role": "user", "content": "and?"},
        tools=[{"type": "function", "function": function}, {"name": "own", "input_schema": {}}],
        tool_choice={"type": "function", "function": {"name": "f"}},
    )
    assert body["tools"] == [
        {"name": "f", "description": "d", "input_schema": {"type": "object"}},
        {"name": "own", "input_schema": {}},
    ]
    assert body["tool_choice"] == {"type": "tool", "name": "f"}
    use = {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}
    assert body["messages"][1]["content"] == [{"type": "text", "text": "so"}, use]
    assert body["messages"][2] == {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "t1", "content": "42"},
            {"type": "text", "text": "and?"},
        ],
    }


def test_a_call_without_arguments_has_an_empty_object() -> None:
    called = {"id": "t", "function": {"name": "f", "arguments": ""}}
    body = messages(USER, {"role": "assistant", "tool_calls": [called]})
    assert body["messages"][1]["content"][0]["input"] == {}


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
    assert messages(USER, tool_choice=choice)["tool_choice"] == expected


@pytest.mark.parametrize(
    ("image", "source"),
    [
        ({"url": "https://x/y.png"}, {"type": "url", "url": "https://x/y.png"}),
        ("https://x/y.png", {"type": "url", "url": "https://x/y.png"}),
        (
            {"url": "data:image/png;base64,QUJD", "detail": "low"},
            {"type": "base64", "media_type": "image/png", "data": "QUJD"},
        ),
    ],
)
def test_pictures(image: Any, source: Json) -> None:
    part = {"type": "image_url", "image_url": image}
    body = messages({"role": "user", "content": [part]})
    assert body["messages"][0]["content"] == [{"type": "image", "source": source}]


def test_pictures_in_a_tool_result() -> None:
    part = {"type": "image_url", "image_url": {"url": "https://x/y.png"}}
    body = messages({"role": "tool", "tool_call_id": "t", "content": [part]})
    assert body["messages"][0]["content"][0]["content"] == [
        {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}
    ]


def test_legacy_complete() -> None:
    call = shaped("anthropic", "claude", asked(prompt="p", api="complete", stop=["a", "b"]))
    assert call.path == "/complete"
    assert call.body == {
        "model": "claude",
        "prompt": "p",
        "max_tokens_to_sample": 4096,
        "stream": True,
        "stop_sequences": ["a", "b"],
    }


def said(content: Any = "hi", **more: Any) -> Json:
    return {"messages": [{"role": "assistant", "content": content, **more}]}


def tool_call(**function: Any) -> Json:
    return said(tool_calls=[{"id": "t", "function": function}])


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"seed": 1}, "seed"),
        ({"n": 2}, "n"),
        ({"api": "chat"}, "api"),
        ({"prompt": "p"}, "prompt"),
        ({"api": "complete"}, "messages"),
        ({"messages": [{"role": "system", "content": "s"}]}, "messages"),
        (said(5), "messages[].content"),
        (said(["hi"]), "messages[].content"),
        (said([{"type": "image_url"}]), "messages[].content[]"),
        (said([{"type": "image_url", "image_url": {}}]), "messages[].content[]"),
        (said([{"type": "image_url", "image_url": {"url": 5}}]), "messages[].content[]"),
        (said([{"type": "image_url", "image_url": "data:image/png,x"}]), "messages[].content[]"),
        (said(tool_calls=5), "messages[].tool_calls"),
        (said(tool_calls=[{}]), "messages[].tool_calls"),
        (said(tool_calls=[{"id": "t"}]), "messages[].tool_calls"),
        (tool_call(), "messages[].tool_calls"),
        (tool_call(name="f", arguments={}), "messages[].tool_calls"),
        (tool_call(name="f", arguments="{"), "messages[].tool_calls[].function.arguments"),
        (tool_call(name="f", arguments="[1]"), "messages[].tool_calls[].function.arguments"),
        (tool_call(name="f", arguments="[" * 9999), "messages[].tool_calls[].function.arguments"),
        ({"tools": [{"function": None}]}, "tools[].function"),
        ({"tools": [{"function": {}}]}, "tools[].function"),
        ({"tool_choice": "some"}, "tool_choice"),
        ({"tool_choice": {"function": 5}}, "tool_choice.function"),
    ],
    ids=str,
)
def test_anthropic_refuses_by_name(fields: Json, field: str) -> None:
    with pytest.raises(RequestError) as caught:
        shaped("anthropic", "claude", asked(**fields))
    assert (caught.value.code, caught.value.detail) == (Code.BAD_REQUEST, {"field": field})
