"""Calls of Bedrock's Converse, in the SDK's words and in ours."""

from __future__ import annotations

import json
from typing import Any, Final

from oracles.openai_calls import BOTH_CALLED, CALLED, HELLO, LOOK, ONLY, PDF, SCHEMA, SHOWN, TOOL
from oracles.writing import Case, Json

HI: Final[Json] = {"role": "user", "content": [{"text": "hi"}]}
PNG: Final[Json] = {"image": {"format": "png", "source": {"bytes": b"\x89PNG\r\n\x1a\n"}}}
WEATHER: Final[Json] = {
    "toolSpec": {"name": "weather", "description": "Of a city.", "inputSchema": {"json": SCHEMA}}
}
USE: Final[Json] = {"toolUseId": "call_1", "name": "weather", "input": {"city": "Bern"}}
SECOND: Final[Json] = USE | {"toolUseId": "call_2", "input": {"city": "Oslo"}}
MARK: Final[Json] = {"cachePoint": {"type": "default"}}
OPUS: Final = {"model": "us.anthropic.claude-opus-4-6-v1"}


def _user(*blocks: Json) -> Json:
    return {"role": "user", "content": list(blocks)}


def _asked(*parts: Json) -> list[Json]:
    return [{"role": "user", "content": list(parts)}]


def _case(name: str, theirs: Json, ours: Json, **differs: str) -> Case:
    return Case(name, {"messages": [HI]} | theirs, {"messages": HELLO} | ours, differs)


def _tools(**choice: Json) -> Json:
    return {"toolConfig": {"tools": [WEATHER]} | ({"toolChoice": choice} if choice else {})}


def _called(**more: Any) -> Json:
    result = {"toolUseId": "call_1", "content": [{"text": "sunny"}]} | more
    said = [HI, {"role": "assistant", "content": [{"toolUse": USE}]}, _user({"toolResult": result})]
    return _tools() | {"messages": said}


PROMPTS: Final = [
    _case("plain", {}, {}),
    _case(
        "system",
        {"system": [{"text": "be brief"}]},
        {"messages": [{"role": "system", "content": "be brief"}, *HELLO]},
    ),
    _case(
        "marked",
        {"system": [{"text": "be brief"}, MARK], "messages": [_user({"text": "hi"}, MARK)]},
        {
            "messages": [
                {"role": role, "content": said, "cache_control": {"type": "ephemeral"}}
                for role, said in (("system", "be brief"), ("user", "hi"))
            ]
        },
    ),
    _case(
        "image", {"messages": [_user({"text": "what is it?"}, PNG)]}, {"messages": _asked(*LOOK)}
    ),
    _case(
        "image elsewhere",
        {
            "messages": [
                _user(
                    {"image": {"format": "png", "source": {"s3Location": {"uri": "s3://a/b.png"}}}}
                )
            ]
        },
        {"messages": _asked({"type": "image_url", "image_url": {"url": "s3://a/b.png"}})},
    ),
    _case(
        "document",
        {
            "messages": [
                _user({"document": {"format": "pdf", "name": "a", "source": {"bytes": b"%PDF-"}}})
            ]
        },
        {"messages": _asked({"type": "file", "file": {"filename": "a.pdf", "file_data": PDF}})},
    ),
    _case("tools", _tools(any={}), {"tools": [TOOL], "tool_choice": "required"}),
    _case("one tool", _tools(tool={"name": "weather"}), {"tools": [TOOL], "tool_choice": ONLY}),
    _case("tool result", _called(), {"tools": [TOOL], "messages": CALLED}),
    _case(
        "two results",
        _tools()
        | {
            "messages": [
                HI,
                {
                    "role": "assistant",
                    "content": [{"text": "let me see"}, {"toolUse": USE}, {"toolUse": SECOND}],
                },
                _user(
                    {"toolResult": {"toolUseId": "call_1", "content": [{"text": "sunny"}]}},
                    {"toolResult": {"toolUseId": "call_2", "content": [{"text": "rain"}]}},
                    {"text": "and?"},
                ),
            ]
        },
        {"tools": [TOOL], "messages": BOTH_CALLED},
    ),
    _case(
        "picture found",
        _called(content=[{"text": "sunny"}, PNG]),
        {"tools": [TOOL], "messages": SHOWN},
    ),
    _case(
        "tool failed",
        _called(status="error"),
        {"tools": [TOOL], "messages": [*CALLED[:-1], CALLED[-1] | {"is_error": True}]},
    ),
    _case(
        "earlier thoughts",
        {
            "messages": [
                HI,
                {
                    "role": "assistant",
                    "content": [
                        {
                            "reasoningContent": {
                                "reasoningText": {"text": "a greeting", "signature": "Er=="}
                            }
                        },
                        {"reasoningContent": {"redactedContent": b"sealed"}},
                        {"text": "hello"},
                    ],
                },
                HI,
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
                        {"block": 1, "encrypted": "c2VhbGVk"},
                    ],
                },
                *HELLO,
            ]
        },
    ),
    _case(
        "thinking within a budget",
        {"additionalModelRequestFields": {"thinking": {"type": "enabled", "budget_tokens": 2000}}},
        {"reasoning": {"budget_tokens": 2000}},
    ),
    _case(
        "adaptive thinking",
        OPUS
        | {
            "additionalModelRequestFields": {
                "thinking": {"type": "adaptive"},
                "output_config": {"effort": "high"},
            }
        },
        OPUS | {"reasoning": {"effort": "high"}},
    ),
]
CONVERSATIONS: Final = [
    *PROMPTS,
    _case(
        "sampling",
        {
            "inferenceConfig": {"temperature": 0.5, "topP": 0.9},
            "additionalModelRequestFields": {"top_k": 40},
        },
        {"temperature": 0.5, "top_p": 0.9, "top_k": 40},
    ),
    _case(
        "limits",
        {"inferenceConfig": {"maxTokens": 50, "stopSequences": ["END"]}},
        {"max_tokens": 50, "stop": "END"},
    ),
    _case(
        "schema",
        {
            "outputConfig": {
                "textFormat": {
                    "type": "json_schema",
                    "structure": {
                        "jsonSchema": {
                            "name": "place",
                            "schema": json.dumps(SCHEMA, separators=(",", ":")),
                        }
                    },
                }
            }
        },
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "place", "schema": SCHEMA},
            }
        },
    ),
    _case("about", {"requestMetadata": {"editor": "vim"}}, {"metadata": {"editor": "vim"}}),
    _case(
        "guarded",
        {"guardrailConfig": {"guardrailIdentifier": "g1", "guardrailVersion": "1"}},
        {"extra": {"guardrailConfig": {"guardrailIdentifier": "g1", "guardrailVersion": "1"}}},
    ),
]
