"""Requests: what is refused, and that no field is dropped in silence by anyone."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringcast.config import Kind, Provider
from ringcast.errors import Code, RequestError
from ringcast.providers import request
from ringcast.providers.gateway import vendor
from ringcast.providers.request import Call, Json, Reasoning, laid_over, without
from ringcast.providers.vendor import AnyRequest

USER: Json = {"role": "user", "content": "hi"}


def asked(**fields: Any) -> AnyRequest:
    given = {"model": "m"} if "prompt" in fields else {"model": "m", "messages": [USER]}
    return request.decode(msgspec.msgpack.encode(given | fields))


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
        ({"prompt": "hi", "tools": []}, "tools: goes with messages, not with a prompt"),
        ({"temperature": 1e308}, "temperature: 1e+308 is not in 0.0..2.0"),
        ({"temperature": float("nan")}, "temperature: nan is not in 0.0..2.0"),
        ({"top_p": -0.1}, "top_p: -0.1 is not in 0.0..1.0"),
        ({"presence_penalty": 3}, "presence_penalty: 3.0 is not in -2.0..2.0"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs: 21 is not in 0..20"),
        ({"top_logprobs": 2}, "top_logprobs: goes with logprobs"),
        ({"max_tokens": -1}, "max_tokens: -1 is not positive"),
        ({"n": 0}, "n: 0 is not positive"),
        ({"top_k": 0}, "top_k: 0 is not positive"),
        (
            {"reasoning": {"budget_tokens": -2}},
            "reasoning.budget_tokens: must be positive, 0 for none or -1 for any",
        ),
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
        ({"reasoning": {"effort": "some"}}, "'some'"),
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


# Fields that somebody does not know


def test_a_field_that_is_not_known_is_refused_by_name() -> None:
    with pytest.raises(RequestError) as caught:
        without(asked(seed=1), ("n", "seed"), "nobody")
    assert caught.value.message == "seed: nobody has no such parameter"
    assert caught.value.detail == {"field": "seed"}


def test_or_left_out_on_request_alone_or_from_within_another() -> None:
    thought = {"effort": "low", "budget_tokens": 5}
    given = asked(seed=1, top_k=2, reasoning=thought, drop_unsupported=True)
    left = without(given, ("seed", "reasoning.budget_tokens", "suffix"), "nobody")
    assert left == msgspec.structs.replace(given, seed=None, reasoning=Reasoning(effort="low"))


def test_what_would_be_so_anyway_is_no_matter() -> None:
    given = asked(n=1, logprobs=False, parallel_tool_calls=True, reasoning={"effort": "none"})
    fields = ("n", "logprobs", "parallel_tool_calls", "reasoning")
    assert without(given, fields, "nobody") == asked()


def test_extra_comes_last_object_into_object() -> None:
    body = {"a": {"b": 1, "c": {"d": 2}}, "e": [1], "f": {}}
    extra = {"a": {"c": {"x": 3}}, "e": [2], "f": 4, "g": 5}
    merged = {"a": {"b": 1, "c": {"d": 2, "x": 3}}, "e": [2], "f": 4, "g": 5}
    assert laid_over(body, extra) == merged
    assert body["a"] == {"b": 1, "c": {"d": 2}}


# Every field

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
}


def shaped(kind: Kind, model: str, asked: AnyRequest) -> Call:
    return vendor(Provider(kind)).generate(model, asked)


PROMPTED: Final = ("completions", "responses", "complete", "interactions")
CASES: Final = [
    (kind, model, api, prompted)
    for kind, models in MODELS.items()
    for model in models
    for api in vendor(Provider(kind)).apis
    for prompted in (True, False)
    if (api in PROMPTED if prompted else api not in ("completions", "complete"))
]
every_case = pytest.mark.parametrize(("kind", "model", "api", "prompted"), CASES)


def fields_of(*, prompted: bool) -> Json:
    return PROMPT if prompted else CHAT


def ask(api: str, names: set[str], *, prompted: bool, drop: bool = False) -> AnyRequest:
    """A request with the named fields."""
    values = fields_of(prompted=prompted)
    given: Json = {"api": api, "drop_unsupported": drop}
    given |= {name: values[name] for name in names if "." not in name}
    within = {n.partition(".")[2]: values[n] for n in names if n.startswith("reasoning.")}
    given |= {"reasoning": within} if within else {}
    return asked(**given, **({"prompt": "p"} if prompted else {}))


def refused_field(kind: Kind, model: str, asked: AnyRequest) -> str | None:
    try:
        shaped(kind, model, asked)
    except RequestError as error:
        refused = error
    else:
        return None
    assert refused.code == Code.BAD_REQUEST
    return str(refused.detail["field"])


@every_case
def test_a_field_changes_what_is_sent_or_is_refused(
    kind: Kind, model: str, api: str, prompted: bool
) -> None:
    nothing = shaped(kind, model, ask(api, set(), prompted=prompted))
    for name in fields_of(prompted=prompted):
        one = ask(api, {name}, prompted=prompted)
        refused = refused_field(kind, model, one)
        if refused is None:
            assert shaped(kind, model, one) != nothing, name
        else:
            assert name.startswith(refused)
            dropped = ask(api, {name}, prompted=prompted, drop=True)
            assert shaped(kind, model, dropped) == nothing, name


@pytest.mark.parametrize("prompted", [True, False])
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_dropping_is_the_same_as_taking_out_what_is_refused(
    prompted: bool, data: st.DataObject
) -> None:
    cases = [case for case in CASES if case[3] == prompted]
    kind, model, api, _ = data.draw(st.sampled_from(cases))
    names = data.draw(st.sets(st.sampled_from(sorted(fields_of(prompted=prompted)))))
    names -= {"reasoning.budget_tokens"} if "reasoning.effort" in names else set()
    dropped = shaped(kind, model, ask(api, names, prompted=prompted, drop=True))
    while (refused := refused_field(kind, model, ask(api, names, prompted=prompted))) is not None:
        gone = {name for name in names if name.startswith(refused)}
        assert gone
        names = names - gone
    assert shaped(kind, model, ask(api, names, prompted=prompted)) == dropped


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


@pytest.mark.parametrize(
    ("kind", "model"), [(k, m) for k, models in MODELS.items() for m in models]
)
def test_what_is_promised_can_be_asked_and_what_is_not_can_not(kind: Kind, model: str) -> None:
    promised = vendor(Provider(kind)).capabilities(model)
    main = vendor(Provider(kind)).apis[0]
    for promise, field in PROMISES.items():
        refused = refused_field(kind, model, ask(main, {field}, prompted=False))
        assert (refused is None) == getattr(promised, promise), promise
