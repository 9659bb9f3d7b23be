"""Interactions with Gemini, in the SDK's words and in ours."""

from __future__ import annotations

from typing import Final

from oracles.openai_calls import BOTH_CALLED, CALLED, HELLO, LOOK, ONLY, PDF, SCHEMA, SHOWN, TOOL
from oracles.writing import Case, Json

WEATHER: Final[Json] = {
    "type": "function",
    "name": "weather",
    "description": "Of a city.",
    "parameters": SCHEMA,
}
CALL: Final[Json] = {
    "type": "function_call",
    "id": "call_1",
    "name": "weather",
    "arguments": {"city": "Bern"},
}
RESULT: Final[Json] = {
    "type": "function_result",
    "call_id": "call_1",
    "name": "weather",
    "result": "sunny",
}

PNG: Final[Json] = {"type": "image", "mime_type": "image/png", "data": "iVBORw0KGgo="}


def _step(kind: str, *content: Json) -> Json:
    return {"type": kind, "content": list(content)}


def _text(text: str) -> Json:
    return {"type": "text", "text": text}


HI: Final = _step("user_input", _text("hi"))


def _case(name: str, theirs: Json, ours: Json) -> Case:
    return Case(name, {"input": [HI]} | theirs, {"messages": HELLO} | ours)


def _config(name: str, config: Json, ours: Json) -> Case:
    return _case(name, {"generation_config": config}, ours)


INTERACTIONS: Final = [
    _case("plain", {}, {}),
    _case("text", {"input": "once"}, {"messages": None, "prompt": "once"}),
    _case("stream", {"stream": True}, {"stream": True}),
    _case(
        "system",
        {"system_instruction": "be brief"},
        {"messages": [{"role": "system", "content": "be brief"}, *HELLO]},
    ),
    _case(
        "image",
        {
            "input": [
                _step(
                    "user_input",
                    _text("what is it?"),
                    PNG | {"resolution": "low"},
                )
            ]
        },
        {"messages": [{"role": "user", "content": LOOK}]},
    ),
    _case(
        "document",
        {
            "input": [
                _step(
                    "user_input",
                    {"type": "document", "mime_type": "application/pdf", "data": "JVBERi0="},
                )
            ]
        },
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "file", "file": {"filename": "a.pdf", "file_data": PDF}}],
                }
            ]
        },
    ),
    _case(
        "tools",
        {"tools": [WEATHER], "generation_config": {"tool_choice": "any"}},
        {"tools": [TOOL], "tool_choice": "required"},
    ),
    _case(
        "one tool",
        {
            "tools": [WEATHER],
            "generation_config": {
                "tool_choice": {"allowed_tools": {"mode": "any", "tools": ["weather"]}}
            },
        },
        {"tools": [TOOL], "tool_choice": ONLY},
    ),
    _case(
        "own tool", {"tools": [{"type": "google_search"}]}, {"tools": [{"type": "google_search"}]}
    ),
    _case(
        "tool result",
        {"tools": [WEATHER], "input": [HI, CALL, RESULT]},
        {"tools": [TOOL], "messages": CALLED},
    ),
    _case(
        "two results",
        {
            "tools": [WEATHER],
            "input": [
                HI,
                _step("model_output", _text("let me see")),
                CALL,
                CALL | {"id": "call_2", "arguments": {"city": "Oslo"}},
                RESULT,
                RESULT | {"call_id": "call_2", "result": "rain"},
                _step("user_input", _text("and?")),
            ],
        },
        {"tools": [TOOL], "messages": BOTH_CALLED},
    ),
    _case(
        "picture found",
        {"tools": [WEATHER], "input": [HI, CALL, RESULT | {"result": [_text("sunny"), PNG]}]},
        {"tools": [TOOL], "messages": SHOWN},
    ),
    _case(
        "tool failed",
        {"tools": [WEATHER], "input": [HI, CALL, RESULT | {"is_error": True}]},
        {"tools": [TOOL], "messages": [*CALLED[:-1], CALLED[-1] | {"is_error": True}]},
    ),
    _case(
        "earlier thoughts",
        {
            "input": [
                HI,
                {"type": "thought", "summary": [_text("a greeting")], "signature": "Er=="},
                _step("model_output", _text("hello")),
                HI,
            ]
        },
        {
            "messages": [
                *HELLO,
                {
                    "role": "assistant",
                    "content": "hello",
                    "reasoning": [{"content": "a greeting", "signature": "Er=="}],
                },
                *HELLO,
            ]
        },
    ),
    _config(
        "thinking",
        {"thinking_level": "low", "thinking_summaries": "auto"},
        {"reasoning": {"effort": "low", "summary": "auto"}},
    ),
    _config(
        "sampling",
        {"temperature": 0.5, "top_p": 0.9, "seed": 7},
        {"temperature": 0.5, "top_p": 0.9, "seed": 7},
    ),
    _config(
        "limits",
        {"max_output_tokens": 50, "stop_sequences": ["END"]},
        {"max_tokens": 50, "stop": "END"},
    ),
    _case(
        "schema",
        {"response_format": {"type": "text", "mime_type": "application/json", "schema": SCHEMA}},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "place", "schema": SCHEMA},
            }
        },
    ),
    _case(
        "background",
        {"background": True, "previous_interaction_id": "i1"},
        {"extra": {"background": True, "previous_interaction_id": "i1"}},
    ),
]
