"""Hostile requests: whatever a client sends is shaped or refused, by every vendor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from copy import deepcopy
from itertools import product
from typing import Any, Final, get_args

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from ringcast.config import Kind, Provider
from ringcast.errors import RequestError
from ringcast.providers import request
from ringcast.providers.kinds import vendor
from ringcast.providers.request import Api, Call, Json
from ringcast.providers.vendor import AnyRequest

FUNCTION: Final = {"name": "f", "parameters": {"type": "object"}}
TOOL: Final = {"type": "function", "function": FUNCTION}
SCHEMA: Final = {"name": "s", "schema": {"type": "object"}}
USER: Final[Json] = {"role": "user", "content": "hi"}
# Models by which a kind speaks another API; for the others any name does.
MODELS: Final = {
    "bedrock": ["anthropic.claude-sonnet-4-5-v1:0", "amazon.nova-pro-v1:0", "meta.llama3-1"],
    "vertex": ["gemini-2.5-pro", "claude-sonnet-4-5"],
    "gemini": ["gemini-2.5-pro", "gemini-3-pro"],
}
CASES: Final[list[tuple[Kind, str, Api]]] = [
    (kind, model, api)
    for kind in get_args(Kind)
    for model in MODELS.get(kind, ["m"])
    for api in vendor(Provider(kind)).apis
]


def shaped(kind: Kind, model: str, asked: AnyRequest) -> Call:
    config = Provider(kind, base_url="http://x", project="p", location="l", region="r")
    named = msgspec.structs.replace(asked, model=f"{kind}/{model}")
    return vendor(config).generate(model, named)


def nested(depth: int, name: str) -> Any:
    value: Any = {"type": "text", "text": "x"}
    for _ in range(depth):
        value = {"type": "x", name: [value]} if name == "content" else {name: value}
    return value


def test_depth_is_no_danger() -> None:
    """However deep a request is, it is shaped or refused, and does not end the process."""
    objects = nested(5000, "a")
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": objects}}
    function = {"name": "f", "parameters": objects}
    fields: list[Json] = [
        {"messages": [{"role": "user", "content": [nested(5000, "content")]}]},
        {"response_format": wanted, "extra": {"response_format": wanted}},
        {"tools": [{"type": "function", "function": function, **objects}]},
        {"tool_choice": {"type": "function", "function": objects}},
        {"messages": [{"role": "assistant", "content": "x", "reasoning": [{"detail": objects}]}]},
    ]
    own = [case for case in CASES if case[0] in ("openai", "anthropic", "gemini")]
    for (kind, model, api), deep in product(own, fields):
        fields_of_one: Json = {"model": "m", "messages": [USER], "api": api} | deep
        with suppress(RequestError):
            shaped(kind, model, request.ChatRequest(**fields_of_one))


RICH: Final[Json] = {
    "messages": [
        {"role": "system", "content": [{"type": "text", "text": "s", "cache_control": {}}]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "t"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
                {"type": "file", "file": {"file_data": "data:text/plain;base64,AA=="}},
            ],
        },
        {
            "role": "assistant",
            "content": "c",
            "model": "m",
            "reasoning": [{"content": "r", "signature": "s", "detail": {"tool_call": 0}}],
            "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            ],
        },
        {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "42"}]},
    ],
    "tools": [TOOL],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "response_format": {"type": "json_schema", "json_schema": SCHEMA},
    "extra": {"a": {"b": 1}},
    "metadata": {"user_id": "u"},
}
WORDS: Final = (
    *("type", "text", "content", "function", "custom", "name", "id", "arguments", "input", "url"),
    *("image_url", "file", "file_data", "input_audio", "data", "format", "parameters", "schema"),
    *("signature", "encrypted", "detail", "block", "tool_call", "cache_control", "refusal"),
    *("data:image/png;base64,", "https://[x", "json_object", "user", "assistant", "tool", "{}"),
)
KEYS: Final = st.sampled_from(WORDS) | st.text()
ANYTHING: Final = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | KEYS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=5,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something is in nested objects and arrays."""
    inner = enumerate(value) if isinstance(value, list) else value.items()
    for key, below in inner:
        yield (*path, key)
        if isinstance(below, list | dict):
            yield from places(below, (*path, key))


@settings(max_examples=300, deadline=None)
@given(case=st.sampled_from(CASES), path=st.sampled_from(list(places(RICH))), value=ANYTHING)
def test_anything_anywhere_is_sent_or_refused(
    case: tuple[Kind, str, Api], path: tuple[Any, ...], value: Any
) -> None:
    kind, model, api = case
    fields = deepcopy(RICH)
    inner: Any = fields
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with suppress(RequestError):
        asked = request.of(model="m", api=api, drop_unsupported=True, **fields)
        call = shaped(kind, model, asked)
        assert msgspec.json.encode(call.body)
