"""What Ollama is asked, in its own API and in OpenAI's."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import pytest

from ringcast.config import Provider
from ringcast.errors import Code, RequestError
from ringcast.providers import request
from ringcast.providers.ollama import Ollama
from ringcast.providers.request import Call, Json
from ringcast.providers.vendor import Model

OLLAMA: Final = Ollama(Provider("ollama", "http://127.0.0.1:11434"))
USER: Final[Json] = {"role": "user", "content": "hi"}
TOOL: Final[Json] = {"type": "function", "function": {"name": "f", "parameters": {}}}
MARK: Final = {"cache_control": {"type": "ephemeral"}}


def shaped(**fields: Any) -> Call:
    said = {} if "prompt" in fields else {"messages": [USER]}
    asked = request.decode(msgspec.msgpack.encode({"model": "ollama/m"} | said | fields))
    return OLLAMA.generate("m", asked)


def refusal(**fields: Any) -> str:
    with pytest.raises(RequestError) as caught:
        shaped(**fields)
    assert caught.value.code == Code.BAD_REQUEST
    return caught.value.message


def test_a_chat() -> None:
    call = shaped(
        max_tokens=9,
        temperature=0.5,
        top_p=0.9,
        top_k=3,
        frequency_penalty=0.1,
        presence_penalty=0.2,
        seed=1,
        stop="x",
        logprobs=True,
        top_logprobs=2,
        extra={"options": {"num_ctx": 8192}, "keep_alive": "5m"},
    )
    assert call == Call(
        "/api/chat",
        {
            "model": "m",
            "stream": True,
            "options": {
                "num_predict": 9,
                "temperature": 0.5,
                "top_p": 0.9,
                "top_k": 3,
                "frequency_penalty": 0.1,
                "presence_penalty": 0.2,
                "stop": ["x"],
                "seed": 1,
                "num_ctx": 8192,
            },
            "logprobs": True,
            "top_logprobs": 2,
            "messages": [USER],
            "keep_alive": "5m",
        },
        {"accept": "application/x-ndjson"},
    )


def test_an_answer_in_one_piece() -> None:
    call = shaped(stream=False)
    assert call.headers == {"accept": "application/json"}
    assert call.body["stream"] is False  # left out it would stream


def test_a_prompt() -> None:
    call = shaped(api="native", prompt="p", suffix="s", max_tokens=9)
    options = {"options": {"num_predict": 9}}
    about = {"model": "m", "prompt": "p", "suffix": "s", "stream": True}
    assert (call.path, call.body) == ("/api/generate", about | options)


def test_messages() -> None:
    call = {"id": "c1", "function": {"name": "f", "arguments": '{"a": [1]}'}}
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aW1n"}}
    said = shaped(
        tools=[TOOL | MARK],
        messages=[
            {"role": "developer", "content": "d", **MARK},
            {"role": "user", "content": [{"type": "text", "text": "a"}, picture]},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [call],
                "reasoning": [{"content": "so"}, {"content": " it is"}],
            },
            {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "r"}]},
        ],
    ).body
    assert said["tools"] == [TOOL]
    assert said["messages"] == [
        {"role": "system", "content": "d"},
        {"role": "user", "content": "a", "images": ["aW1n"]},
        {
            "role": "assistant",
            "content": "",
            "thinking": "so it is",
            "tool_calls": [{"function": {"name": "f", "arguments": {"a": [1]}}}],
        },
        {"role": "tool", "content": "r", "tool_name": "f"},
    ]


@pytest.mark.parametrize(
    ("reasoning", "think"),
    [
        ({}, None),
        ({"effort": "none"}, False),
        ({"effort": "high"}, "high"),
        ({"budget_tokens": 0}, False),
        ({"budget_tokens": -1}, True),
    ],
)
def test_thinking(reasoning: Json, think: Any) -> None:
    assert shaped(reasoning=reasoning).body.get("think") == think


@pytest.mark.parametrize(
    ("wanted", "format"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, "json"),
        ({"type": "json_schema", "json_schema": {"name": "n", "schema": {"a": 1}}}, {"a": 1}),
    ],
)
def test_formats(wanted: Json, format: Any) -> None:
    assert shaped(response_format=wanted).body.get("format") == format


def test_a_choice_of_tools() -> None:
    assert shaped(tools=[TOOL], tool_choice="auto").body["tools"] == [TOOL]
    assert "tools" not in shaped(tools=[TOOL], tool_choice="none").body
    assert refusal(tools=[TOOL], tool_choice="required").startswith("tool_choice: ")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"reasoning": {"effort": "minimal"}}, "reasoning.effort: "),
        ({"reasoning": {"budget_tokens": 5}}, "reasoning.budget_tokens: "),
        ({"n": 2}, "n: "),
        ({"api": "chat", "top_k": 2}, "top_k: "),
        (
            {"messages": [{"role": "user", "content": [{"type": "file"}]}]},
            "messages[].content[].type: 'file' is none of text, image_url",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": "http://x"}]}
                ]
            },
            "messages[].content[].image_url: ollama fetches nothing",
        ),
    ],
)
def test_refusals(fields: Json, message: str) -> None:
    assert refusal(**fields).startswith(message)


def test_openais_apis() -> None:
    said = shaped(api="chat", max_tokens=9, reasoning={"effort": "low"})
    usage = {"stream_options": {"include_usage": True}}
    about = {"model": "m", "messages": [USER], "stream": True, "max_tokens": 9}
    assert said.body == about | usage | {"reasoning_effort": "low"}
    assert said.path == "/v1/chat/completions"
    assert shaped(api="completions", prompt="p").path == "/v1/completions"


def test_models() -> None:
    assert OLLAMA.models() == Call("/api/tags", method="GET")
    tags = b'{"models": [{"name": "qwen3:8b", "model": "qwen3:8b", "size": 1, "details": {}}]}'
    assert OLLAMA.read_models(tags).models == [Model("qwen3:8b")]
