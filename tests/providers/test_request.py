"""Requests: what is refused, and that no field is dropped in silence by anyone."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ringcast.errors import Code, RequestError
from ringcast.providers import request
from ringcast.providers.request import Json, Reasoning, laid_over, without
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
