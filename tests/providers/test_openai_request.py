"""What OpenAI is sent for chats and legacy completions, and how its short answers read."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from ringcast.config import Kind, Provider
from ringcast.errors import Code, RequestError
from ringcast.providers import request
from ringcast.providers.kinds import vendor
from ringcast.providers.openai import OpenAI
from ringcast.providers.request import Call, Json
from ringcast.providers.vendor import Model, Page

USER: Json = {"role": "user", "content": "hi"}
OPENAI = OpenAI(Provider("openai"))


def asked(**fields: Any) -> request.ChatRequest | request.CompletionRequest:
    given = {"model": "m"} if "prompt" in fields else {"model": "m", "messages": [USER]}
    return request.decode(msgspec.msgpack.encode(given | fields))


def shaped(model: str = "gpt-4o", **fields: Any) -> Call:
    return OPENAI.generate(model, asked(**fields))


def sent(model: str = "gpt-4o", **fields: Any) -> Json:
    return shaped(model, **fields).body


def messages(*messages: Json, model: str = "gpt-4o") -> list[Json]:
    said: list[Json] = sent(model, messages=list(messages))["messages"]
    return said


def test_a_chat() -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    wanted = {"type": "json_object"}
    call = shaped(
        max_tokens=9,
        temperature=0.0,
        top_p=0.5,
        frequency_penalty=1,
        presence_penalty=-1,
        stop="x",
        seed=3,
        n=2,
        logprobs=True,
        top_logprobs=0,
        metadata={"a": "b"},
        user="me",
        cache_key="k",
        tools=[tool | {"cache_control": {"type": "ephemeral"}}],
        tool_choice="auto",
        parallel_tool_calls=True,
        response_format=wanted,
    )
    assert call == Call(
        "/chat/completions",
        {
            "model": "gpt-4o",
            "messages": [USER],
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_completion_tokens": 9,
            "temperature": 0.0,
            "top_p": 0.5,
            "frequency_penalty": 1.0,
            "presence_penalty": -1.0,
            "stop": "x",
            "seed": 3,
            "n": 2,
            "logprobs": True,
            "top_logprobs": 0,
            "metadata": {"a": "b"},
            "user": "me",
            "prompt_cache_key": "k",
            "tools": [tool],
            "tool_choice": "auto",
            "parallel_tool_calls": True,
            "response_format": wanted,
        },
    )


def test_an_answer_in_one_piece_is_asked_for_as_one() -> None:
    call = shaped(stream=False)
    assert call.headers == {"accept": "application/json"}
    assert call.body == {"model": "gpt-4o", "messages": [USER], "stream": False}


def test_extra_comes_last() -> None:
    body = sent(temperature=0.5, extra={"verbosity": "low", "temperature": 1})
    assert (body["verbosity"], body["temperature"]) == ("low", 1)


@pytest.mark.parametrize("model", ["o3", "o4-mini", "gpt-5", "gpt-5.1-codex", "ft:o4-mini:me"])
def test_models_that_think(model: str) -> None:
    body = sent(model, messages=[{"role": "system", "content": "s"}], reasoning={"effort": "low"})
    assert body["messages"] == [{"role": "developer", "content": "s"}]
    assert body["reasoning_effort"] == "low"
    with pytest.raises(RequestError, match=f"temperature: openai's {model} has no such"):
        sent(model, temperature=1)
    assert "temperature" not in sent(model, temperature=1, drop_unsupported=True)
    calm = sent(model, temperature=1, logprobs=True, reasoning={"effort": "none"})
    assert (calm["temperature"], calm["logprobs"]) == (1.0, True)


@pytest.mark.parametrize("model", ["gpt-4.1", "gpt-3.5-turbo", "chatgpt-4o", "gpt-5-chat-latest"])
def test_models_that_do_not(model: str) -> None:
    body = sent(model, messages=[{"role": "system", "content": "s"}], temperature=1)
    assert body["messages"] == [{"role": "system", "content": "s"}]
    with pytest.raises(RequestError, match="reasoning: openai's"):
        sent(model, reasoning={"effort": "low"})
    assert "reasoning_effort" not in sent(model, reasoning={"effort": "none"})


def test_the_first_that_thought_take_no_instructions() -> None:
    system = {"role": "system", "content": "s"}
    assert messages(system, USER, model="o1-mini") == [{"role": "user", "content": "s"}, USER]
    with pytest.raises(RequestError, match="reasoning: openai's o1-mini"):
        sent("o1-mini", reasoning={"effort": "low"})


def test_of_other_models_nothing_is_known() -> None:
    body = sent("mine", temperature=1, reasoning={"effort": "low"})
    assert (body["temperature"], body["reasoning_effort"]) == (1.0, "low")


def test_what_is_of_no_use_to_this_api_is_left_out_of_messages() -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    part = {"type": "text", "text": "hi"}
    call = {"id": "c" * 41, "type": "function", "function": {"name": "f", "arguments": ""}}
    said = messages(
        {"role": "user", "content": [part | mark], "name": "me"} | mark,
        {
            "role": "assistant",
            "tool_calls": [call],
            "reasoning": [{"signature": "S"}],
            "model": "x",
        },
        {"role": "tool", "tool_call_id": "c" * 41, "content": None, "is_error": True},
    )
    id = said[1]["tool_calls"][0]["id"]
    assert len(id) <= 40
    assert said == [
        {"role": "user", "content": [part], "name": "me"},
        {"role": "assistant", "tool_calls": [call | {"id": id}]},
        {"role": "tool", "tool_call_id": id, "content": ""},
    ]


def test_legacy_completions() -> None:
    call = shaped("davinci-002", prompt="p", suffix="s", api="completions", max_tokens=9, user="u")
    assert call == Call(
        "/completions",
        {
            "model": "davinci-002",
            "prompt": "p",
            "suffix": "s",
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": 9,
            "user": "u",
        },
    )


@pytest.mark.parametrize(
    ("fields", "logprobs"),
    [({"logprobs": True}, 0), ({"logprobs": True, "top_logprobs": 3}, 3), ({}, None)],
)
def test_legacy_log_probabilities_are_a_number(fields: Json, logprobs: int | None) -> None:
    assert sent(prompt="p", api="completions", **fields).get("logprobs") == logprobs


PICTURE: Json = {"type": "image_url", "image_url": {"url": "u"}}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"prompt": "p", "api": "chat"}, "prompt"),
        ({"api": "completions"}, "messages"),
        ({"api": "messages"}, "api"),
        ({"top_k": 5}, "top_k"),
        ({"reasoning": {"budget_tokens": 5}}, "reasoning.budget_tokens"),
        ({"tools": [{"function": {"name": "a b"}}]}, "tools[].function.name"),
        ({"tools": [{"function": {}}]}, "tools[].function"),
    ],
)
def test_openai_refuses_by_name(fields: Json, field: str) -> None:
    with pytest.raises(RequestError) as caught:
        sent(**fields)
    assert (caught.value.code, caught.value.detail) == (Code.BAD_REQUEST, {"field": field})


def test_results_are_text() -> None:
    call = {"id": "a", "function": {"name": "f", "arguments": "{}"}}
    answer = {"role": "tool", "tool_call_id": "a", "content": [PICTURE]}
    with pytest.raises(RequestError, match=r"messages\[\]\.content: "):
        messages({"role": "assistant", "tool_calls": [call]}, answer)


# Other servers


@pytest.mark.parametrize("kind", ["groq", "deepseek", "xai", "openrouter", "openai-compatible"])
def test_compatible_servers_know_the_old_limit(kind: Kind) -> None:
    call = vendor(Provider(kind, base_url="http://x")).generate(
        "m", asked(api="chat", max_tokens=9)
    )
    assert call.body["max_tokens"] == 9
    assert "max_completion_tokens" not in call.body


# Short answers


def test_models() -> None:
    assert OPENAI.models() == OPENAI.health() == Call("/models", method="GET")
    listed = [{"id": "a", "created": 5.0, "owned_by": "o", "object": "model"}, {"id": "b"}]
    answer = json.dumps({"object": "list", "data": listed}).encode()
    models = [Model("a", owner="o", created=5), Model("b")]
    assert OPENAI.read_models(answer) == Page(models)


def test_a_count_is_of_what_makes_the_prompt() -> None:
    system = {"role": "system", "content": "s"}
    call = OPENAI.count("gpt-4o", asked(messages=[system, USER], seed=1, max_tokens=5))
    body = {"model": "gpt-4o", "instructions": "s", "input": [USER]}
    assert call == Call("/responses/input_tokens", body)
    assert OPENAI.count("m", asked(prompt="p", api="completions")) is None
    assert OPENAI.read_count(b'{"object":"response.input_tokens","input_tokens":11}') == 11


@pytest.mark.parametrize(
    "answer", [b"", b"[]", b'{"data":5}', b'{"data":[{}]}', b'{"input_tokens":"x"}']
)
def test_what_is_no_answer(answer: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        OPENAI.read_models(answer)
    with pytest.raises(msgspec.MsgspecError):
        OPENAI.read_count(answer)


def test_capabilities_know_the_model() -> None:
    thinking, plain = OPENAI.capabilities("o3"), OPENAI.capabilities("gpt-4o")
    assert (thinking.reasoning, thinking.logprobs) == (True, False)
    assert (plain.reasoning, plain.logprobs) == (False, True)
    assert plain.apis == ["chat", "completions", "responses"]
