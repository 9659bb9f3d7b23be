"""Calls of Gemini's content generation, in the SDK's words and in ours."""

from __future__ import annotations

from base64 import urlsafe_b64decode
from typing import Final

from oracles.openai_calls import BOTH_CALLED, CALLED, HELLO, LOOK, ONLY, PDF, SCHEMA, SHOWN, TOOL
from oracles.writing import Case, Json
from ringcast.providers.gemini_contents import STAND_IN

HI: Final[Json] = {"role": "user", "parts": [{"text": "hi"}]}
PNG: Final[Json] = {"inline_data": {"mime_type": "image/png", "data": b"\x89PNG\r\n\x1a\n"}}
WEATHER: Final[Json] = {
    "name": "weather",
    "description": "Of a city.",
    "parameters_json_schema": SCHEMA,
}
TOOLS: Final[Json] = {"tools": [{"function_declarations": [WEATHER]}]}
CALL: Final[Json] = {"id": "call_1", "name": "weather", "args": {"city": "Bern"}}

SECOND: Final[Json] = CALL | {"id": "call_2", "args": {"city": "Oslo"}}


def _user(*parts: Json) -> Json:
    return {"role": "user", "parts": list(parts)}


def _asked(*parts: Json) -> list[Json]:
    return [{"role": "user", "content": list(parts)}]


def _case(name: str, theirs: Json, ours: Json, **differs: str) -> Case:
    return Case(name, {"contents": [HI]} | theirs, {"messages": HELLO} | ours, differs)


def _config(name: str, config: Json, ours: Json, **differs: str) -> Case:
    return _case(name, {"config": config}, ours, **differs)


def _calling(**config: object) -> Json:
    return TOOLS | {"tool_config": {"function_calling_config": config}}


def _result(**response: str) -> Json:
    said = {"id": "call_1", "name": "weather", "response": response}
    return _user({"function_response": said})


PROMPTS: Final = [
    _case("plain", {}, {}),
    _case(
        "image", {"contents": [_user({"text": "what is it?"}, PNG)]}, {"messages": _asked(*LOOK)}
    ),
    _case(
        "image elsewhere",
        {
            "contents": [
                _user({"file_data": {"mime_type": "image/png", "file_uri": "gs://a/b.png"}})
            ]
        },
        {"messages": _asked({"type": "image_url", "image_url": {"url": "gs://a/b.png"}})},
    ),
    _case(
        "document",
        {"contents": [_user({"inline_data": {"mime_type": "application/pdf", "data": b"%PDF-"}})]},
        {"messages": _asked({"type": "file", "file": {"filename": "a.pdf", "file_data": PDF}})},
    ),
    _case(
        "sound",
        {"contents": [_user({"inline_data": {"mime_type": "audio/wav", "data": b"RIFF"}})]},
        {
            "messages": _asked(
                {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}
            )
        },
    ),
    _case(
        "answered before",
        {"contents": [HI, {"role": "model", "parts": [{"text": "hello"}]}, HI]},
        {"messages": [*HELLO, {"role": "assistant", "content": "hello"}, *HELLO]},
    ),
]
GENERATIONS: Final = [
    *PROMPTS,
    _config(
        "system",
        {"system_instruction": {"parts": [{"text": "be brief"}]}},
        {"messages": [{"role": "system", "content": "be brief"}, *HELLO]},
    ),
    _config("tools", _calling(mode="ANY"), {"tools": [TOOL], "tool_choice": "required"}),
    _config(
        "one tool",
        _calling(mode="ANY", allowed_function_names=["weather"]),
        {"tools": [TOOL], "tool_choice": ONLY},
    ),
    _config("no tools", _calling(mode="NONE"), {"tools": [TOOL], "tool_choice": "none"}),
    _config("own tool", {"tools": [{"google_search": {}}]}, {"tools": [{"googleSearch": {}}]}),
    _case(
        "tool result",
        {
            "config": TOOLS,
            "contents": [
                HI,
                {"role": "model", "parts": [{"function_call": CALL}]},
                _result(output="sunny"),
            ],
        },
        {"tools": [TOOL], "messages": CALLED},
    ),
    _case(
        "two results",
        {
            "config": TOOLS,
            "contents": [
                HI,
                {
                    "role": "model",
                    "parts": [
                        {"text": "let me see"},
                        {"function_call": CALL},
                        {"function_call": SECOND},
                    ],
                },
                _user(
                    *_result(output="sunny")["parts"],
                    {
                        "function_response": {
                            "id": "call_2",
                            "name": "weather",
                            "response": {"output": "rain"},
                        }
                    },
                    {"text": "and?"},
                ),
            ],
        },
        {"tools": [TOOL], "messages": BOTH_CALLED},
    ),
    _case(
        "picture found",
        {
            "model": "gemini-3-pro-preview",
            "config": TOOLS,
            "contents": [
                HI,
                {
                    "role": "model",
                    "parts": [
                        {
                            "function_call": CALL,
                            "thought_signature": urlsafe_b64decode(STAND_IN),
                        }
                    ],
                },
                _user(
                    {
                        "function_response": {
                            "id": "call_1",
                            "name": "weather",
                            "response": {"output": "sunny"},
                            "parts": [PNG],
                        }
                    }
                ),
            ],
        },
        {"model": "gemini-3-pro-preview", "tools": [TOOL], "messages": SHOWN},
    ),
    _case(
        "tool failed",
        {
            "config": TOOLS,
            "contents": [
                HI,
                {"role": "model", "parts": [{"function_call": CALL}]},
                _result(error="sunny"),
            ],
        },
        {"tools": [TOOL], "messages": [*CALLED[:-1], CALLED[-1] | {"is_error": True}]},
    ),
    _case(
        "signed call",
        {
            "model": "gemini-3-pro-preview",
            "config": TOOLS,
            "contents": [
                HI,
                {
                    "role": "model",
                    "parts": [{"function_call": CALL, "thought_signature": b"signed"}],
                },
                _result(output="sunny"),
            ],
        },
        {
            "model": "gemini-3-pro-preview",
            "tools": [TOOL],
            "messages": [
                HELLO[0],
                CALLED[1] | {"reasoning": [{"signature": "c2lnbmVk", "detail": {"tool_call": 0}}]},
                CALLED[2],
            ],
        },
    ),
    _config(
        "thinking within a budget",
        {"thinking_config": {"include_thoughts": True, "thinking_budget": 2000}},
        {"reasoning": {"budget_tokens": 2000}},
    ),
    _config(
        "no thinking",
        {"thinking_config": {"include_thoughts": False, "thinking_budget": 0}},
        {"reasoning": {"effort": "none"}},
    ),
    _case(
        "thinking by level",
        {
            "model": "gemini-3-pro-preview",
            "config": {"thinking_config": {"include_thoughts": True, "thinking_level": "LOW"}},
        },
        {"model": "gemini-3-pro-preview", "reasoning": {"effort": "low"}},
    ),
    _config(
        "json",
        {"response_mime_type": "application/json"},
        {"response_format": {"type": "json_object"}},
    ),
    _config(
        "schema",
        {"response_mime_type": "application/json", "response_json_schema": SCHEMA},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "place", "schema": SCHEMA},
            }
        },
    ),
    _config(
        "sampling",
        {
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": 40,
            "frequency_penalty": 0.1,
            "presence_penalty": -0.1,
            "seed": 7,
        },
        {
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": 40,
            "frequency_penalty": 0.1,
            "presence_penalty": -0.1,
            "seed": 7,
        },
    ),
    _config(
        "limits",
        {"max_output_tokens": 50, "stop_sequences": ["END"]},
        {"max_tokens": 50, "stop": "END"},
    ),
    _config(
        "several",
        {"candidate_count": 2, "response_logprobs": True, "logprobs": 3},
        {"n": 2, "logprobs": True, "top_logprobs": 3},
    ),
    _config(
        "extra",
        {"cached_content": "cachedContents/c"},
        {"extra": {"cachedContent": "cachedContents/c"}},
    ),
]
