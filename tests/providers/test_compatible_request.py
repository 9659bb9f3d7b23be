"""What those are asked that speak OpenAI's API, each with its own differences."""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec
import pytest

from ringcast.config import Kind, Provider
from ringcast.errors import RequestError
from ringcast.providers import request
from ringcast.providers.kinds import vendor
from ringcast.providers.request import Call, Json
from ringcast.providers.vendor import AnyRequest, Model, Vendor

USER: Final[Json] = {"role": "user", "content": "hi"}
MARK: Final = {"cache_control": {"type": "ephemeral"}}
TOOL: Final[Json] = {"type": "function", "function": {"name": "f", "parameters": {}}}
KINDS: Final[list[Kind]] = [
    "xai",
    "openrouter",
    "groq",
    "perplexity",
    "deepseek",
    "openai-compatible",
]


def speaker(kind: Kind, base_url: str = "http://x/v1") -> Vendor:
    return vendor(Provider(kind, base_url))


def asked(model: str = "m", **fields: Any) -> AnyRequest:
    said = {} if "prompt" in fields else {"messages": [USER]}
    return request.decode(msgspec.msgpack.encode({"model": f"p/{model}"} | said | fields))


def shaped(kind: Kind, model: str = "m", **fields: Any) -> Call:
    return speaker(kind).generate(model, asked(model, **fields))


def refusal(kind: Kind, model: str = "m", **fields: Any) -> str:
    with pytest.raises(RequestError) as caught:
        shaped(kind, model, **fields)
    return caught.value.message


def listed(kind: Kind, answer: Json) -> list[Model]:
    return speaker(kind).read_models(json.dumps(answer).encode()).models


@pytest.mark.parametrize("kind", KINDS)
def test_a_chat(kind: Kind) -> None:
    call = shaped(kind, max_tokens=9, temperature=0.5)
    usage = {} if kind == "perplexity" else {"stream_options": {"include_usage": True}}
    about = {"model": "m", "messages": [USER], "stream": True, "temperature": 0.5}
    assert call == Call("/chat/completions", about | usage | {"max_tokens": 9})


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_in_one_piece(kind: Kind) -> None:
    call = shaped(kind, stream=False)
    assert call.body == {"model": "m", "messages": [USER], "stream": False}
    assert call.headers == {"accept": "application/json"}


@pytest.mark.parametrize("kind", KINDS)
def test_instructions_are_the_systems(kind: Kind) -> None:
    messages = [{"role": "developer", "content": "d"}, USER]
    first = shaped(kind, messages=messages).body["messages"][0]
    assert first == {"role": "developer" if kind == "openrouter" else "system", "content": "d"}


@pytest.mark.parametrize("kind", KINDS)
def test_marks_go_to_those_who_know_them(kind: Kind) -> None:
    marked = [{"role": "user", "content": [{"type": "text", "text": "a"} | MARK]}]
    part = shaped(kind, messages=marked).body["messages"][0]["content"][0]
    assert ("cache_control" in part) == (kind == "openrouter")


# xAI


@pytest.mark.parametrize(
    ("model", "fields", "refused"),
    [
        ("grok-4-0709", {"reasoning": {"effort": "low"}}, "reasoning"),
        ("grok-4", {"stop": "x"}, "stop"),
        ("grok-3-mini", {"presence_penalty": 0.5}, "presence_penalty"),
        ("grok-3", {"top_k": 5}, "top_k"),
        ("grok-3", {"api": "responses", "stop": "x"}, "stop"),
    ],
)
def test_what_groks_refuse(model: str, fields: Json, refused: str) -> None:
    assert refusal("xai", model, **fields).startswith(f"{refused}: ")


def test_what_groks_take() -> None:
    assert (
        shaped("xai", "grok-3-mini", reasoning={"effort": "low"}).body["reasoning_effort"] == "low"
    )
    thinking = shaped("xai", "grok-4.3", api="responses", reasoning={"effort": "low"})
    assert thinking.body["reasoning"] == {"effort": "low"}
    assert shaped("xai", "grok-3", stop="x", frequency_penalty=0.5).body["stop"] == "x"


def test_xais_models() -> None:
    assert speaker("xai").models() == Call("/language-models", method="GET")
    about = {"id": "grok-3", "created": 1743724800, "owned_by": "xai", "prompt_text_token_price": 3}
    sides = {"input_modalities": ["text", "image"], "output_modalities": ["text"]}
    model = Model(
        "grok-3", owner="xai", created=1743724800, inputs=["text", "image"], outputs=["text"]
    )
    assert listed("xai", {"models": [about | sides]}) == [model]


def test_xai_counts_text() -> None:
    xai = speaker("xai")
    call = xai.count("m", asked(messages=[{"role": "system", "content": "s"}, USER]))
    assert call == Call("/tokenize-text", {"model": "m", "text": "s\nhi"})
    assert xai.read_count(b'{"token_ids": [{"token_id": 1}, {"token_id": 2}]}') == 2
    assert xai.count("m", asked(prompt="p")) == Call("/tokenize-text", {"model": "m", "text": "p"})
    picture = [{"type": "image_url", "image_url": "http://x/a.png"}]
    assert xai.count("m", asked(messages=[{"role": "user", "content": picture}])) is None
    assert xai.count("m", asked(tools=[TOOL])) is None


# OpenRouter


@pytest.mark.parametrize(
    ("wanted", "sent"),
    [
        ({"effort": "high"}, {"effort": "high"}),
        ({"budget_tokens": 2000}, {"max_tokens": 2000}),
        ({"budget_tokens": 0}, {"enabled": False}),
        ({"budget_tokens": -1}, {"enabled": True}),
    ],
)
def test_openrouters_reasoning(wanted: Json, sent: Json) -> None:
    assert shaped("openrouter", reasoning=wanted).body["reasoning"] == sent


def test_thoughts_go_back_to_openrouter_each_in_its_kind() -> None:
    reasoning = [
        {"content": "thought", "block": 0},
        {
            "signature": "sig",
            "block": 0,
            "detail": {"type": "reasoning.text", "format": "anthropic-claude-v1", "index": 0},
        },
        {"encrypted": "enc", "block": 1, "detail": {"type": "reasoning.encrypted", "id": "r"}},
        {"content": "in short", "block": 2},
        {"signature": "s", "block": 2, "detail": {"type": "reasoning.summary"}},
        {"content": "loose", "block": 3},
    ]
    message = {"role": "assistant", "content": "a", "reasoning": reasoning}
    said = shaped("openrouter", messages=[USER, message]).body["messages"][1]
    assert said == {
        "role": "assistant",
        "content": "a",
        "reasoning_details": [
            {
                "type": "reasoning.text",
                "format": "anthropic-claude-v1",
                "index": 0,
                "text": "thought",
                "signature": "sig",
            },
            {"type": "reasoning.encrypted", "id": "r", "data": "enc"},
            {"type": "reasoning.summary", "summary": "in short"},
        ],
    }


def test_openrouters_other_apis() -> None:
    extra = {"provider": {"order": ["a"], "allow_fallbacks": False}}
    model = "anthropic/claude-sonnet-4.5"
    call = shaped("openrouter", model, api="messages", max_tokens=9, extra=extra)
    said = {"model": model, "stream": True, "max_tokens": 9, "messages": [USER]}
    assert call == Call("/messages", said | extra)
    assert shaped("openrouter", prompt="p", top_k=3).body["top_k"] == 3
    assert shaped("openrouter", prompt="p").path == "/completions"
    assert shaped("openrouter", api="responses").path == "/responses"


def test_openrouters_models() -> None:
    answer = {
        "id": "openai/gpt-5",
        "name": "OpenAI: GPT-5",
        "created": 1754587413,
        "context_length": 400000,
        "architecture": {"input_modalities": ["text"], "output_modalities": ["text"]},
        "pricing": {"prompt": "0.00000125", "completion": "0.00001"},
        "top_provider": {"max_completion_tokens": 128000},
    }
    assert listed("openrouter", {"data": [answer, {"id": "a/b"}]}) == [
        Model(
            "openai/gpt-5",
            name="OpenAI: GPT-5",
            owner="openai",
            created=1754587413,
            context_tokens=400000,
            output_tokens=128000,
            inputs=["text"],
            outputs=["text"],
        ),
        Model("a/b", owner="a"),
    ]


def test_openrouters_health_is_that_of_the_key() -> None:
    assert speaker("openrouter").health() == Call("/key", method="GET")


# Groq


def test_groq() -> None:
    said = shaped("groq", reasoning={"effort": "low"}, extra={"reasoning_format": "parsed"}).body
    assert (said["reasoning_effort"], said["reasoning_format"]) == ("low", "parsed")
    assert refusal("groq", n=2).startswith("n: ")
    assert refusal("groq", logprobs=True).startswith("logprobs: ")


def test_groqs_models_are_those_that_are_served() -> None:
    served = {"id": "a", "owned_by": "Meta", "context_window": 8192, "max_completion_tokens": 1024}
    model = Model("a", owner="Meta", context_tokens=8192, output_tokens=1024)
    assert listed("groq", {"data": [served, {"id": "b", "active": False}]}) == [model]


# Perplexity


def test_perplexity_hears_instructions_first_and_both_sides_in_turn() -> None:
    part = {"type": "text", "text": "c"}
    said = shaped(
        "perplexity",
        top_k=5,
        messages=[
            {"role": "user", "content": "a"},
            {"role": "system", "content": "s"},
            {"role": "user", "content": "b"},
            {"role": "user", "content": [part]},
            {"role": "assistant", "content": "d"},
            {"role": "developer", "content": "t"},
            {"role": "user", "content": "e"},
        ],
    ).body
    text = {"type": "text", "text": "a\n\nb"}
    assert said["messages"] == [
        {"role": "system", "content": "s\n\nt"},
        {"role": "user", "content": [text, part]},
        {"role": "assistant", "content": "d"},
        {"role": "user", "content": "e"},
    ]
    assert said["top_k"] == 5


def test_perplexity_has_neither_prompts_nor_tools() -> None:
    assert refusal("perplexity", prompt="p") == "prompt: perplexity takes messages"
    assert refusal("perplexity", tools=[TOOL]).startswith("tools: ")
    called = {"id": "c", "function": {"name": "f", "arguments": "{}"}}
    talk = [
        USER,
        {"role": "assistant", "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "c", "content": "r"},
    ]
    assert refusal("perplexity", messages=talk).startswith("messages[].tool_calls: ")
    assert refusal("perplexity", messages=[{"role": "assistant", "content": "a"}, USER]).startswith(
        "messages: "
    )


# DeepSeek


@pytest.mark.parametrize(
    ("effort", "sent"),
    [
        ("none", {"thinking": {"type": "disabled"}}),
        ("high", {"thinking": {"type": "enabled"}, "reasoning_effort": "high"}),
    ],
)
def test_deepseeks_thinking(effort: str, sent: Json) -> None:
    said = shaped("deepseek", reasoning={"effort": effort}).body
    names = ("thinking", "reasoning_effort")
    assert {name: said[name] for name in names if name in said} == sent


def test_deepseek_gets_the_thoughts_that_led_to_calls() -> None:
    called = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    thinking = {"role": "assistant", "content": "", "reasoning": [{"content": "so"}]}
    result = {"role": "tool", "tool_call_id": "c", "content": "r"}
    talk = [USER, thinking | {"tool_calls": [called]}, result, thinking, USER]
    said = shaped("deepseek", messages=talk).body["messages"]
    assert [message.get("reasoning_content") for message in said] == [None, "so", None, None, None]


def test_deepseek_makes_json_to_no_schema() -> None:
    wanted = {"type": "json_object"}
    assert shaped("deepseek", response_format=wanted).body["response_format"] == wanted
    strict = {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}}
    assert refusal("deepseek", response_format=strict).startswith("response_format: ")


def test_deepseek_fills_a_gap() -> None:
    call = shaped("deepseek", prompt="a", suffix="c", max_tokens=9)
    usage = {"stream_options": {"include_usage": True}}
    said = {"model": "m", "prompt": "a", "suffix": "c", "stream": True, "max_tokens": 9}
    assert call == Call("/beta/completions", said | usage)


# Any other


def test_any_server_is_asked_for_what_it_may_know() -> None:
    extra = {"return_token_ids": True}
    said = shaped("openai-compatible", "gpt-5", top_k=5, temperature=0.5, n=2, extra=extra).body
    assert (said["top_k"], said["temperature"], said["n"]) == (5, 0.5, 2)
    assert said["return_token_ids"] is True


def test_models_of_vllm_and_of_llama_cpp() -> None:
    vllm = {"id": "a", "created": 1.5, "owned_by": "vllm", "max_model_len": 4096, "permission": []}
    llama = {"id": "b", "meta": {"n_ctx_train": 8192, "n_params": 1}}
    assert listed("openai-compatible", {"data": [vllm, llama, {"id": "c"}]}) == [
        Model("a", owner="vllm", created=1, context_tokens=4096),
        Model("b", context_tokens=8192),
        Model("c"),
    ]


def test_one_question_counts_with_vllm_and_llama_cpp() -> None:
    local = speaker("openai-compatible", "http://127.0.0.1:8000/v1")
    call = local.count("m", asked(messages=[USER | MARK]))
    said = {"model": "m", "messages": [USER], "content": "hi"}
    assert call == Call("http://127.0.0.1:8000/tokenize", said)
    prompted = local.count("m", asked(prompt="p"))
    assert prompted is not None
    assert prompted.body == {"model": "m", "prompt": "p", "content": "p"}
    assert local.read_count(b'{"count": 3, "max_model_len": 9, "tokens": [1, 2, 3]}') == 3
    assert local.read_count(b'{"tokens": [1, 2]}') == 2
    assert local.may_not_count


def returned(reasoning: list[Json], **call: Any) -> Json:
    """How an assistant's message with two calls is sent back to any compatible server."""
    calls = [{"id": i, "type": "function", "function": {"name": i}} | call for i in "ab"]
    said: Json = {"role": "assistant", "tool_calls": calls, "reasoning": reasoning}
    results = [{"role": "tool", "tool_call_id": i, "content": ""} for i in "ab"]
    body = shaped("openai-compatible", messages=[USER, said, *results]).body
    sent: Json = body["messages"][1]
    return sent


def test_googles_signature_goes_back_beside_its_call() -> None:
    signed = {"content": "", "signature": "S", "detail": {"tool_call": 1}}
    first, second = returned([signed])["tool_calls"]
    assert "extra_content" not in first
    assert second["extra_content"] == {"google": {"thought_signature": "S"}}


def test_a_signature_that_is_beside_its_call_already_stays() -> None:
    signed = {"content": "", "signature": "S", "detail": {"tool_call": 1}}
    assert returned([signed], extra_content=5)["tool_calls"][1]["extra_content"] == 5


@pytest.mark.parametrize("number", [2, -1, "1", None])
def test_a_signature_of_no_call_goes_nowhere(number: Any) -> None:
    sent = returned([{"content": "", "signature": "S", "detail": {"tool_call": number}}])
    assert not any("extra_content" in call for call in sent["tool_calls"])
    assert "thinking_blocks" not in sent


def test_claudes_thoughts_go_back_as_litellm_gives_them() -> None:
    pieces = [
        {"content": "h"},
        {"content": "m", "signature": "S"},
        {"content": "", "encrypted": "E"},
    ]
    assert returned(pieces)["thinking_blocks"] == [
        {"type": "thinking", "thinking": "hm", "signature": "S"},
        {"type": "redacted_thinking", "data": "E"},
    ]
    assert "thinking_blocks" not in returned([{"content": "hm"}])
