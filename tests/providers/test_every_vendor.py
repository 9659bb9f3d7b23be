"""What holds for every vendor: nothing that is asked gets lost, and no promise is too great."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringcast.config import Kind, Provider
from ringcast.errors import Code, RequestError
from ringcast.providers import request
from ringcast.providers.kinds import vendor
from ringcast.providers.request import Call, Json
from ringcast.providers.vendor import AnyRequest, Vendor

FUNCTION: Final = {"name": "f", "parameters": {"type": "object"}}
TOOL: Final = {"type": "function", "function": FUNCTION}
SCHEMA: Final = {"name": "s", "schema": {"type": "object"}}
# A value of each field that asks for something; a name with a point is within another.
COMMON: Final[Json] = {
    "max_tokens": 5000,
    "temperature": 0.5,
    "top_p": 0.96,
    "top_k": 7,
    "frequency_penalty": 0.5,
    "presence_penalty": 0.25,
    "stop": ["x"],
    "seed": 7,
    "n": 2,
    "logprobs": True,
    "metadata": {"user_id": "u"},
    "user": "me",
    "cache_key": "k",
    "stream": False,
    "extra": {"more": 1},
}
CHAT: Final[Json] = COMMON | {
    "tools": [TOOL],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "parallel_tool_calls": False,
    "response_format": {"type": "json_schema", "json_schema": SCHEMA},
    "reasoning.effort": "high",
    "reasoning.budget_tokens": 2048,
    "reasoning.summary": "auto",
}
PROMPT: Final[Json] = COMMON | {"suffix": "end"}
MODELS: Final[dict[Kind, list[str]]] = {
    "openai": ["gpt-4.1", "gpt-5", "o1-mini", "deployment"],
    "anthropic": ["claude-3-5-haiku-latest", "claude-sonnet-4-5", "claude-opus-4-6", "other"],
    "gemini": ["gemini-2.0-flash", "gemini-2.5-pro", "gemini-3-pro"],
    "bedrock": [
        "us.anthropic.claude-3-7-sonnet-20250219-v1:0",
        "anthropic.claude-opus-4-6-v1",
        "anthropic.claude-instant-v1",
        "amazon.nova-pro-v1:0",
        "amazon.titan-text-express-v1",
        "meta.llama2-13b-chat-v1",
        "us.meta.llama3-2-1b-instruct-v1:0",
        "meta.llama4-scout-17b-instruct-v1:0",
        "mistral.mistral-7b-instruct-v0:2",
        "mistral.pixtral-large-2502-v1:0",
        "cohere.command-light-text-v14",
        "openai.gpt-oss-120b-1:0",
        "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abcdef123456",
    ],
    "azure": ["deployment"],
    "vertex": ["gemini-2.0-flash", "gemini-2.5-pro", "gemini-3-pro", "claude-sonnet-4-5@20250929"],
    "xai": ["grok-3", "grok-3-mini", "grok-4-0709", "grok-4.3"],
    "openrouter": ["anthropic/claude-sonnet-4.5", "openai/gpt-5"],
    "groq": ["openai/gpt-oss-120b"],
    "perplexity": ["sonar"],
    "deepseek": ["deepseek-chat"],
    "ollama": ["qwen3"],
    "openai-compatible": ["m"],
}


NAMED: Final = [(kind, model) for kind, models in MODELS.items() for model in models]


def spoken(kind: Kind) -> Vendor:
    return vendor(Provider(kind, "http://x", project="p", location="l"))


def ask(model: str, api: str, names: set[str], *, prompted: bool, drop: bool = False) -> AnyRequest:
    """A request with the named fields."""
    values = PROMPT if prompted else CHAT
    asked: Json = {"model": f"p/{model}", "api": api, "drop_unsupported": drop}
    asked |= {name: values[name] for name in names if "." not in name}
    within = {n.partition(".")[2]: values[n] for n in names if n.startswith("reasoning.")}
    asked |= {"reasoning": within} if within else {}
    messages = [{"role": "user", "content": "hi"}]
    said: Json = {"prompt": "p"} if prompted else {"messages": messages}
    return request.decode(msgspec.msgpack.encode(asked | said))


def takes(kind: Kind, model: str, api: str, prompted: bool) -> bool:
    """Whether an API takes a prompt, or messages; if not, it says so."""
    refused = refused_field(kind, model, ask(model, api, set(), prompted=prompted))
    assert refused in (None, "prompt", "messages", "model", "api")
    return refused is None


def shaped(kind: Kind, model: str, asked: AnyRequest) -> Call:
    speaker = spoken(kind)
    speaker.api(asked)
    return speaker.generate(model, asked)


def refused_field(kind: Kind, model: str, asked: AnyRequest) -> str | None:
    try:
        shaped(kind, model, asked)
    except RequestError as error:
        refused = error
    else:
        return None
    assert refused.code == Code.BAD_REQUEST
    return str(refused.detail["field"])


CASES: Final = [
    (kind, model, api, prompted)
    for kind, models in MODELS.items()
    for model in models
    for api in spoken(kind).apis
    for prompted in (True, False)
    if takes(kind, model, api, prompted)
]


def test_every_api_of_every_kind_takes_one_of_both() -> None:
    found = {(kind, api) for kind, _, api, _ in CASES}
    assert found == {(kind, api) for kind in MODELS for api in spoken(kind).apis}


@pytest.mark.parametrize(("kind", "model", "api", "prompted"), CASES)
def test_a_field_changes_what_is_sent_or_is_refused(
    kind: Kind, model: str, api: str, prompted: bool
) -> None:
    def one(*names: str, drop: bool = False) -> AnyRequest:
        return ask(model, api, set(names), prompted=prompted, drop=drop)

    nothing = shaped(kind, model, one())
    for name in PROMPT if prompted else CHAT:
        refused = refused_field(kind, model, one(name))
        if refused is None:
            assert shaped(kind, model, one(name)) != nothing, name
        else:
            assert name.startswith(refused)
            assert shaped(kind, model, one(name, drop=True)) == nothing, name


@pytest.mark.parametrize("prompted", [True, False])
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_dropping_is_the_same_as_taking_out_what_is_refused(
    prompted: bool, data: st.DataObject
) -> None:
    kind, model, api, _ = data.draw(
        st.sampled_from([case for case in CASES if case[3] == prompted])
    )
    names = data.draw(st.sets(st.sampled_from(sorted(PROMPT if prompted else CHAT))))
    names -= {"reasoning.budget_tokens"} if "reasoning.effort" in names else set()

    def asked(drop: bool) -> AnyRequest:
        return ask(model, api, names, prompted=prompted, drop=drop)

    dropped = shaped(kind, model, asked(drop=True))
    while (refused := refused_field(kind, model, asked(drop=False))) is not None:
        gone = {name for name in names if name.startswith(refused)}
        assert gone
        names -= gone
    assert shaped(kind, model, asked(drop=False)) == dropped


# What is promised, and the field that asks for it.
PROMISES: Final = {
    "tools": "tools",
    "parallel_tool_calls": "parallel_tool_calls",
    "json_schema": "response_format",
    "reasoning": "reasoning.effort",
    "logprobs": "logprobs",
    "several": "n",
    "seed": "seed",
}


@pytest.mark.parametrize(("kind", "model"), NAMED)
def test_what_is_promised_can_be_asked_and_what_is_not_can_not(kind: Kind, model: str) -> None:
    promised = spoken(kind).capabilities(model)
    for promise, field in PROMISES.items():
        granted = any(
            refused_field(kind, model, ask(model, api, {field}, prompted=False)) is None
            for of, name, api, prompted in CASES
            if (of, name, prompted) == (kind, model, False)
        )
        # These have APIs that are one for all models, and refuse then by themselves.
        beyond = granted and kind in ("bedrock", "gemini")
        assert granted == getattr(promised, promise) or beyond, promise


@pytest.mark.parametrize("kind", MODELS)
def test_models_and_health_are_asked_for_with_a_get(kind: Kind) -> None:
    speaker = spoken(kind)
    for call in (speaker.models(), speaker.health()):
        assert call is not None
        assert (call.method, call.body) == ("GET", {})
    assert speaker.capabilities().models


@pytest.mark.parametrize("kind", MODELS)
def test_no_answer_to_a_question_is_an_error_of_its_own(kind: Kind) -> None:
    speaker = spoken(kind)
    with pytest.raises(msgspec.MsgspecError):
        speaker.read_models(b'{"models": 1, "data": 1, "modelSummaries": 1, "publisherModels": 1}')
    with pytest.raises(msgspec.MsgspecError):
        speaker.read_count(b"[]")


def promise_of_count(kind: Kind, model: str, **fields: Any) -> bool:
    asked = request.decode(msgspec.msgpack.encode({"model": f"p/{model}"} | fields))
    return spoken(kind).count(model, asked) is not None


@pytest.mark.parametrize(("kind", "model"), NAMED)
def test_who_counts_is_asked(kind: Kind, model: str) -> None:
    messages = [{"role": "user", "content": "hi"}]
    counts = promise_of_count(kind, model, messages=messages)
    assert spoken(kind).capabilities(model).count == ("provider" if counts else "estimate")
