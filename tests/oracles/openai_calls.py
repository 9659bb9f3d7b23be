"""Calls of OpenAI's three APIs, in the SDK's words and in ours."""

from __future__ import annotations

from typing import Any, Final

from oracles.writing import Case, Json, alike

HELLO: Final[list[Json]] = [{"role": "user", "content": "hi"}]
PIXEL: Final = "data:image/png;base64,iVBORw0KGgo="
PDF: Final = "data:application/pdf;base64,JVBERi0="
SCHEMA: Final[Json] = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER: Final[Json] = {"name": "weather", "description": "Of a city.", "parameters": SCHEMA}
TOOL: Final[Json] = {"type": "function", "function": WEATHER}
ONLY: Final[Json] = {"type": "function", "function": {"name": "weather"}}
CALL: Final[Json] = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city":"Bern"}'},
}
CALLED: Final[list[Json]] = [
    *HELLO,
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
]
_SECOND: Final[Json] = {
    "id": "call_2",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city":"Oslo"}'},
}
BOTH_CALLED: Final[list[Json]] = [
    *HELLO,
    {"role": "assistant", "content": "let me see", "tool_calls": [CALL, _SECOND]},
    {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    {"role": "tool", "tool_call_id": "call_2", "content": "rain"},
    {"role": "user", "content": "and?"},
]
FORMAT: Final[Json] = {"name": "place", "schema": SCHEMA, "strict": True}
PICTURE: Final[Json] = {"type": "image_url", "image_url": {"url": PIXEL}}
# A tool that has found a picture.
SHOWN: Final[list[Json]] = [
    *CALLED[:-1],
    CALLED[-1] | {"content": [{"type": "text", "text": "sunny"}, PICTURE]},
]
LOOK: Final[list[Json]] = [
    {"type": "text", "text": "what is it?"},
    {"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}},
]


def _asked(*parts: Json) -> list[Json]:
    return [{"role": "user", "content": list(parts)}]


def _chat(name: str, theirs: Json, ours: Json, **differs: str) -> Case:
    return Case(name, {"messages": HELLO} | theirs, {"messages": HELLO} | ours, differs)


CHAT: Final = [
    alike("plain", messages=HELLO),
    alike("system", messages=[{"role": "system", "content": "be brief"}, *HELLO]),
    alike("developer", messages=[{"role": "developer", "content": "be brief"}, *HELLO]),
    alike("image", messages=_asked(*LOOK)),
    alike(
        "file",
        messages=_asked({"type": "file", "file": {"filename": "a.pdf", "file_data": PDF}}),
    ),
    alike(
        "audio",
        messages=_asked(
            {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}
        ),
    ),
    alike("tools", messages=HELLO, tools=[TOOL], tool_choice="required"),
    alike("one tool", messages=HELLO, tools=[TOOL], tool_choice=ONLY, parallel_tool_calls=False),
    alike("tool result", messages=CALLED, tools=[TOOL]),
    alike("two results", messages=BOTH_CALLED, tools=[TOOL]),
    alike(
        "free tool",
        model="gpt-5",
        messages=HELLO,
        tools=[{"type": "custom", "custom": {"name": "sql", "description": "A query."}}],
        tool_choice={"type": "custom", "custom": {"name": "sql"}},
    ),
    alike(
        "refused before",
        messages=[*HELLO, {"role": "assistant", "content": None, "refusal": "no"}, *HELLO],
    ),
    alike("json", messages=HELLO, response_format={"type": "json_object"}),
    alike("schema", messages=HELLO, response_format={"type": "json_schema", "json_schema": FORMAT}),
    alike(
        "sampling",
        messages=HELLO,
        temperature=0.5,
        top_p=0.9,
        frequency_penalty=0.1,
        presence_penalty=-0.1,
        seed=7,
    ),
    alike("stop", messages=HELLO, stop=["\n", "END"]),
    alike("several", messages=HELLO, n=2, logprobs=True, top_logprobs=3),
    alike("who", messages=HELLO, metadata={"editor": "vim"}, user="u1"),
    _chat("limit", {"max_completion_tokens": 50}, {"max_tokens": 50}),
    _chat("cache", {"prompt_cache_key": "k"}, {"cache_key": "k"}),
    _chat(
        "thinking",
        {"model": "gpt-5", "reasoning_effort": "low"},
        {"model": "gpt-5", "reasoning": {"effort": "low"}},
    ),
    _chat(
        "stream",
        {"stream": True, "stream_options": {"include_usage": True}},
        {"stream": True},
    ),
    _chat("extra", {"extra_body": {"verbosity": "low"}}, {"extra": {"verbosity": "low"}}),
]

COMPLETIONS: Final = [
    alike("plain", prompt="once"),
    alike("insertion", prompt="once", suffix="ever after", max_tokens=20, stop="\n"),
    alike("sampling", prompt="once", temperature=0.5, top_p=0.9, seed=7, n=2, user="u1"),
    Case(
        "logprobs",
        {"prompt": "once", "logprobs": 3},
        {"prompt": "once", "logprobs": True, "top_logprobs": 3},
    ),
    Case(
        "stream",
        {"prompt": "once", "stream": True, "stream_options": {"include_usage": True}},
        {"prompt": "once", "stream": True},
    ),
]

_FLAT: Final = {"type": "function"} | WEATHER | {"strict": False}


def _response(name: str, theirs: Json, ours: Json, **differs: str) -> Case:
    return Case(name, {"input": HELLO} | theirs, {"messages": HELLO} | ours, differs)


def _items(*items: Any) -> Json:
    return {"input": list(items)}


RESPONSES: Final = [
    _response("plain", {}, {}),
    _response(
        "instructions",
        {"instructions": "be brief"},
        {"messages": [{"role": "system", "content": "be brief"}, *HELLO]},
    ),
    _response(
        "image",
        _items(
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "what is it?"},
                    {"type": "input_image", "image_url": PIXEL, "detail": "low"},
                ],
            }
        ),
        {"messages": _asked(*LOOK)},
    ),
    _response(
        "file",
        _items(
            {
                "role": "user",
                "content": [{"type": "input_file", "filename": "a.pdf", "file_data": PDF}],
            }
        ),
        {"messages": _asked({"type": "file", "file": {"filename": "a.pdf", "file_data": PDF}})},
    ),
    _response(
        "tools",
        {"tools": [_FLAT], "tool_choice": "required"},
        {"tools": [TOOL], "tool_choice": "required"},
    ),
    _response(
        "one tool",
        {
            "tools": [_FLAT],
            "tool_choice": {"type": "function", "name": "weather"},
            "parallel_tool_calls": False,
        },
        {"tools": [TOOL], "tool_choice": ONLY, "parallel_tool_calls": False},
    ),
    _response("own tool", {"tools": [{"type": "web_search"}]}, {"tools": [{"type": "web_search"}]}),
    _response(
        "tool result",
        _items(
            *HELLO,
            {
                "type": "function_call",
                "call_id": "call_1",
                "name": "weather",
                "arguments": '{"city":"Bern"}',
            },
            {"type": "function_call_output", "call_id": "call_1", "output": "sunny"},
        ),
        {"messages": CALLED},
    ),
    _response(
        "two results",
        _items(
            *HELLO,
            {"role": "assistant", "content": "let me see"},
            {
                "type": "function_call",
                "call_id": "call_1",
                "name": "weather",
                "arguments": '{"city":"Bern"}',
            },
            {
                "type": "function_call",
                "call_id": "call_2",
                "name": "weather",
                "arguments": '{"city":"Oslo"}',
            },
            {"type": "function_call_output", "call_id": "call_1", "output": "sunny"},
            {"type": "function_call_output", "call_id": "call_2", "output": "rain"},
            {"role": "user", "content": "and?"},
        ),
        {"messages": BOTH_CALLED},
    ),
    _response(
        "picture found",
        _items(
            *HELLO,
            {
                "type": "function_call",
                "call_id": "call_1",
                "name": "weather",
                "arguments": '{"city":"Bern"}',
            },
            {
                "type": "function_call_output",
                "call_id": "call_1",
                "output": [
                    {"type": "input_text", "text": "sunny"},
                    {"type": "input_image", "image_url": PIXEL},
                ],
            },
        ),
        {"messages": SHOWN},
    ),
    _response(
        "free tool",
        {
            "tools": [{"type": "custom", "name": "sql", "description": "A query."}],
            "tool_choice": {"type": "custom", "name": "sql"},
        },
        {
            "tools": [{"type": "custom", "custom": {"name": "sql", "description": "A query."}}],
            "tool_choice": {"type": "custom", "custom": {"name": "sql"}},
        },
    ),
    _response(
        "answered before",
        _items(
            *HELLO,
            {"role": "assistant", "content": [{"type": "output_text", "text": "hello"}]},
            *HELLO,
        ),
        {
            "messages": [
                *HELLO,
                {"role": "assistant", "content": [{"type": "text", "text": "hello"}]},
                *HELLO,
            ]
        },
    ),
    _response(
        "sealed thoughts",
        {
            "model": "gpt-5",
            "store": False,
            "include": ["reasoning.encrypted_content"],
            "input": [
                *HELLO,
                {
                    "type": "reasoning",
                    "summary": [{"type": "summary_text", "text": "a greeting"}],
                    "encrypted_content": "gAAA",
                },
                {"role": "assistant", "content": "hello"},
                *HELLO,
            ],
        },
        {
            "model": "gpt-5",
            "extra": {"store": False},
            "messages": [
                *HELLO,
                {
                    "role": "assistant",
                    "content": "hello",
                    "reasoning": [
                        {
                            "content": "a greeting",
                            "encrypted": "gAAA",
                            "detail": {"type": "reasoning"},
                        }
                    ],
                },
                *HELLO,
            ],
        },
    ),
    _response(
        "thinking",
        {"model": "gpt-5", "reasoning": {"effort": "low", "summary": "auto"}},
        {"model": "gpt-5", "reasoning": {"effort": "low", "summary": "auto"}},
    ),
    _response(
        "json",
        {"text": {"format": {"type": "json_object"}}},
        {"response_format": {"type": "json_object"}},
    ),
    _response(
        "schema",
        {"text": {"format": {"type": "json_schema"} | FORMAT}},
        {"response_format": {"type": "json_schema", "json_schema": FORMAT}},
    ),
    _response("sampling", {"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5, "top_p": 0.9}),
    _response(
        "logprobs",
        {"include": ["message.output_text.logprobs"], "top_logprobs": 3},
        {"logprobs": True, "top_logprobs": 3},
    ),
    _response(
        "who",
        {"metadata": {"editor": "vim"}, "user": "u1", "prompt_cache_key": "k"},
        {"metadata": {"editor": "vim"}, "user": "u1", "cache_key": "k"},
    ),
    _response("limit", {"max_output_tokens": 50}, {"max_tokens": 50}),
    _response("stream", {"stream": True}, {"stream": True}),
    _response(
        "background",
        {"background": True, "stream": True},
        {"extra": {"background": True}, "stream": True},
    ),
    _response("text", {"input": "once"}, {"messages": None, "prompt": "once"}),
]

COUNTS: Final = [
    case
    for case in RESPONSES
    if case.name
    in (
        "plain",
        "instructions",
        "image",
        "tools",
        "one tool",
        "tool result",
        "thinking",
        "schema",
        "text",
    )
]
