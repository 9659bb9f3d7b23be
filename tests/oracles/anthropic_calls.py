"""Calls of Anthropic's Messages, in the SDK's words and in ours."""

from __future__ import annotations

from typing import Final

from oracles.openai_calls import BOTH_CALLED, CALLED, HELLO, LOOK, ONLY, PDF, SCHEMA, SHOWN, TOOL
from oracles.writing import Case, Json

MARK: Final = {"type": "ephemeral"}
PNG: Final = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
WEATHER: Final[Json] = {"name": "weather", "description": "Of a city.", "input_schema": SCHEMA}
USE: Final[Json] = {
    "type": "tool_use",
    "id": "call_1",
    "name": "weather",
    "input": {"city": "Bern"},
}


def _user(*blocks: Json) -> Json:
    return {"role": "user", "content": list(blocks)}


def _result(**more: object) -> Json:
    return _user({"type": "tool_result", "tool_use_id": "call_1", "content": "sunny"} | more)


def _text(text: str) -> Json:
    return {"type": "text", "text": text}


def _second(use: Json) -> Json:
    return use | {"id": "call_2", "input": {"city": "Oslo"}}


def _case(name: str, theirs: Json, ours: Json, **differs: str) -> Case:
    return Case(name, {"messages": HELLO} | theirs, {"messages": HELLO} | ours, differs)


_ASKS: Final = [
    _case("plain", {}, {}),
    _case(
        "system",
        {"system": "be brief"},
        {"messages": [{"role": "system", "content": "be brief"}, *HELLO]},
    ),
    _case(
        "marked",
        {
            "system": [{"type": "text", "text": "be brief", "cache_control": MARK}],
            "tools": [WEATHER | {"cache_control": MARK}],
            "messages": [_user({"type": "text", "text": "hi", "cache_control": MARK})],
        },
        {
            "tools": [TOOL | {"cache_control": MARK}],
            "messages": [
                {"role": "system", "content": "be brief", "cache_control": MARK},
                {"role": "user", "content": "hi", "cache_control": MARK},
            ],
        },
    ),
    _case(
        "image",
        {
            "messages": [
                _user({"type": "text", "text": "what is it?"}, {"type": "image", "source": PNG})
            ]
        },
        {"messages": [_user(*LOOK)]},
    ),
    _case(
        "image elsewhere",
        {"messages": [_user({"type": "image", "source": {"type": "url", "url": "https://a.b/c"}})]},
        {"messages": [_user({"type": "image_url", "image_url": {"url": "https://a.b/c"}})]},
    ),
    _case(
        "document",
        {
            "messages": [
                _user(
                    {
                        "type": "document",
                        "title": "a.pdf",
                        "source": {
                            "type": "base64",
                            "media_type": "application/pdf",
                            "data": "JVBERi0=",
                        },
                    }
                )
            ]
        },
        {"messages": [_user({"type": "file", "file": {"filename": "a.pdf", "file_data": PDF}})]},
    ),
    _case(
        "tools",
        {"tools": [WEATHER], "tool_choice": {"type": "any"}},
        {"tools": [TOOL], "tool_choice": "required"},
    ),
    _case(
        "one tool at a time",
        {
            "tools": [WEATHER],
            "tool_choice": {"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
        },
        {"tools": [TOOL], "tool_choice": ONLY, "parallel_tool_calls": False},
    ),
    _case(
        "no tools",
        {"tools": [WEATHER], "tool_choice": {"type": "none"}},
        {"tools": [TOOL], "tool_choice": "none"},
    ),
    _case(
        "own tool",
        {"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 2}]},
        {"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 2}]},
    ),
    _case(
        "tool result",
        {
            "tools": [WEATHER],
            "messages": [*HELLO, {"role": "assistant", "content": [USE]}, _result()],
        },
        {"tools": [TOOL], "messages": CALLED},
    ),
    _case(
        "two results",
        {
            "tools": [WEATHER],
            "messages": [
                *HELLO,
                {"role": "assistant", "content": [_text("let me see"), USE, _second(USE)]},
                _user(
                    *_result()["content"],
                    {"type": "tool_result", "tool_use_id": "call_2", "content": "rain"},
                    _text("and?"),
                ),
            ],
        },
        {"tools": [TOOL], "messages": BOTH_CALLED},
    ),
    _case(
        "picture found",
        {
            "tools": [WEATHER],
            "messages": [
                *HELLO,
                {"role": "assistant", "content": [USE]},
                _result(content=[_text("sunny"), {"type": "image", "source": PNG}]),
            ],
        },
        {"tools": [TOOL], "messages": SHOWN},
    ),
    _case(
        "tool failed",
        {
            "tools": [WEATHER],
            "messages": [*HELLO, {"role": "assistant", "content": [USE]}, _result(is_error=True)],
        },
        {"tools": [TOOL], "messages": [*CALLED[:-1], CALLED[-1] | {"is_error": True}]},
    ),
    _case(
        "earlier thoughts",
        {
            "messages": [
                *HELLO,
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "a greeting", "signature": "Er=="},
                        {"type": "redacted_thinking", "data": "Em=="},
                        {"type": "text", "text": "hello"},
                    ],
                },
                *HELLO,
            ]
        },
        {
            "messages": [
                *HELLO,
                {
                    "role": "assistant",
                    "content": "hello",
                    "reasoning": [
                        {"content": "a greeting", "signature": "Er=="},
                        {"block": 1, "encrypted": "Em=="},
                    ],
                },
                *HELLO,
            ]
        },
    ),
    _case(
        "thinking within a budget",
        {"max_tokens": 4000, "thinking": {"type": "enabled", "budget_tokens": 2000}},
        {"max_tokens": 4000, "reasoning": {"budget_tokens": 2000}},
    ),
    _case(
        "adaptive thinking",
        {
            "model": "claude-opus-4-6",
            "thinking": {"type": "adaptive"},
            "output_config": {"effort": "high"},
        },
        {"model": "claude-opus-4-6", "reasoning": {"effort": "high"}},
    ),
    _case(
        "no thinking",
        {"thinking": {"type": "disabled"}},
        {"reasoning": {"effort": "none"}},
    ),
    _case(
        "schema",
        {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "place", "schema": SCHEMA, "strict": True},
            }
        },
    ),
]
# A count of tokens has no use for the others.
MESSAGES: Final = [
    *_ASKS,
    _case("sampling", {"temperature": 0.5, "top_k": 40}, {"temperature": 0.5, "top_k": 40}),
    _case("stop", {"stop_sequences": ["\n", "END"]}, {"stop": ["\n", "END"]}),
    _case("who", {"metadata": {"user_id": "u1"}}, {"user": "u1"}),
    _case("stream", {"stream": True}, {"stream": True}),
    _case("extra", {"service_tier": "auto"}, {"extra": {"service_tier": "auto"}}),
]
COUNTS: Final = _ASKS

_TURNS: Final = "\n\nHuman: hi\n\nAssistant:"
COMPLETIONS: Final = [
    Case("plain", {"prompt": _TURNS}, {"prompt": _TURNS}),
    Case(
        "all",
        {
            "prompt": _TURNS,
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": 40,
            "stop_sequences": ["END"],
            "metadata": {"user_id": "u1"},
            "stream": True,
        },
        {
            "prompt": _TURNS,
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": 40,
            "stop": "END",
            "user": "u1",
            "stream": True,
        },
    ),
]
