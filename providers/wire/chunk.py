"""Chunks of OpenAI's chat and completions streams, and the fast way to many of them.

https://platform.openai.com/docs/api-reference/chat/streaming

`PlainChunk` accepts a chunk that carries one piece of text and nothing else; `Chunk` accepts all,
with `Any` where servers are sloppy: its values are for the dialect to check.
"""

from __future__ import annotations

from typing import Any, Final, Literal, TypeVar

import msgspec

from ringcast.providers.wire.payload import decode_lines

T = TypeVar("T")

_SEPARATOR: Final = b"}\n\ndata: {"


class PlainDelta(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    content: str
    role: str | None = None
    refusal: None = None


class PlainChoice(msgspec.Struct, gc=False):
    delta: PlainDelta
    index: Literal[0] = 0
    finish_reason: None = None
    logprobs: None = None
    token_ids: None = None
    usage: None = None
    error: None = None


class PlainText(msgspec.Struct, gc=False):
    text: str
    index: Literal[0] = 0
    finish_reason: None = None
    logprobs: None = None
    token_ids: None = None
    prompt_token_ids: None = None
    usage: None = None
    error: None = None


class PlainChunk(msgspec.Struct, gc=False):
    """Every field beside the one choice that would mean something must be null or missing."""

    choices: tuple[PlainChoice]
    usage: None = None
    error: None = None
    x_groq: None = None
    search_results: None = None
    citations: None = None
    web_search: None = None
    base_resp: None = None
    prompt_token_ids: None = None


class PlainCompletion(msgspec.Struct, gc=False):
    choices: tuple[PlainText]
    usage: None = None
    error: None = None


class Function(msgspec.Struct, gc=False):
    name: Any = None
    arguments: Any = None


class Custom(msgspec.Struct, gc=False):
    """A tool of free text."""

    name: Any = None
    input: Any = None


class ToolCallPiece(msgspec.Struct, gc=False):
    index: Any = None
    id: Any = None
    function: Function | None = None
    custom: Custom | None = None
    extra_content: Any = None


class ChoiceDelta(msgspec.Struct, gc=False):
    content: Any = None
    refusal: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    reasoning_details: Any = None
    reasoning_text: Any = None
    thinking_blocks: Any = None
    tool_calls: list[ToolCallPiece | None] | ToolCallPiece | None = None  # an object: old TGI
    function_call: Function | None = None
    annotations: Any = None


class Choice(msgspec.Struct, gc=False):
    delta: ChoiceDelta | None = None
    message: ChoiceDelta | None = None
    usage: Any = None
    error: Any = None
    text: Any = None
    index: Any = None
    finish_reason: Any = None
    logprobs: Any = None
    token_ids: Any = None
    prompt_token_ids: Any = None


class Chunk(msgspec.Struct, gc=False):
    choices: list[Choice] | None = None
    id: Any = None
    model: Any = None
    object: Any = None
    usage: Any = None
    error: Any = None
    message: Any = None
    type: Any = None
    code: Any = None
    x_groq: Any = None
    search_results: Any = None
    citations: Any = None
    web_search: Any = None
    base_resp: Any = None
    prompt_token_ids: Any = None


def chunks(decoder: msgspec.json.Decoder[T], body: bytes) -> list[T] | None:
    """The JSON objects of a block without its first `data: ` and its last blank line.

    Null if not every event is exactly one line with one object that `decoder` accepts. In valid
    JSON a `}` never comes before a line end and a `{`: with as many objects as lines, and no line
    end elsewhere, every line is one object.
    """
    parts = body.split(_SEPARATOR)
    lines = b"}\n{".join(parts) if len(parts) > 1 else body
    if lines.count(b"\n") >= len(parts):
        return None
    return decode_lines(decoder, lines, len(parts))
