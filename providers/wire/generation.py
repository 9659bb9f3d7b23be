"""Chunks of Gemini's generateContent streams as typed structs, with `Any` where servers differ.

https://ai.google.dev/api/generate-content#v1beta.GenerateContentResponse
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal, TypeAlias, TypeVar

import msgspec

from ringcast.providers.wire.payload import decode_lines
from ringcast.shm.tokens import Usage

T = TypeVar("T")
_Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None

_START: Final = b"data: "
_ENDS: Final = (b"\r\n\r\n", b"\n\n")
_BETWEEN: Final = "[, \t\r\n"
_object: Final = json.JSONDecoder()


class PlainUsage(msgspec.Struct, gc=False, rename="camel"):
    """Counts as Google sends them: whole, and never negative."""

    prompt_token_count: _Count = None
    candidates_token_count: _Count = None
    total_token_count: _Count = None
    cached_content_token_count: _Count = None
    thoughts_token_count: _Count = None


class PlainPart(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A part that is a piece of visible text and nothing else."""

    text: str


class PlainContent(msgspec.Struct, gc=False):
    """Exactly one such part."""

    parts: tuple[PlainPart]


class PlainCandidate(msgspec.Struct, gc=False, rename="camel"):
    """A candidate of which nothing but its text is new."""

    content: PlainContent
    index: Literal[0] = 0
    finish_reason: None = None
    citation_metadata: None = None
    grounding_metadata: None = None
    url_context_metadata: None = None
    logprobs_result: None = None


class PlainChunk(msgspec.Struct, gc=False, rename="camel"):
    """A chunk with one piece of text, and with usage."""

    candidates: tuple[PlainCandidate]
    usage_metadata: PlainUsage | None = None
    prompt_feedback: None = None
    error: None = None


class FunctionCall(msgspec.Struct, gc=False, rename="camel"):
    """A whole call, or with `partial_args` and `will_continue` a piece of one."""

    name: Any = None
    id: Any = None
    args: Any = None
    partial_args: Any = None
    will_continue: Any = None


class PartialArgument(msgspec.Struct, gc=False, rename="camel"):
    """A value, or a piece of a string, at a path."""

    json_path: str
    string_value: str | msgspec.UnsetType = msgspec.UNSET
    number_value: float | int | msgspec.UnsetType = msgspec.UNSET
    bool_value: bool | msgspec.UnsetType = msgspec.UNSET
    null_value: Any = msgspec.UNSET


class Content(msgspec.Struct, gc=False):
    parts: list[dict[str, Any]] | None = None


class Candidate(msgspec.Struct, gc=False, rename="camel"):
    content: Content | None = None
    index: Any = None
    finish_reason: Any = None
    citation_metadata: Any = None
    grounding_metadata: Any = None
    url_context_metadata: Any = None
    logprobs_result: Any = None


class Chunk(msgspec.Struct, gc=False, rename="camel"):
    """Any chunk, which is also what a non-streamed answer is.

    Google's doors for its own tools (Code Assist) put each into a `response`.
    """

    candidates: list[Candidate] | None = None
    prompt_feedback: Any = None
    usage_metadata: Any = None
    model_version: Any = None
    response_id: Any = None
    error: Any = None
    response: Chunk | None = None


def elements(array: str) -> tuple[list[str], bool]:
    """The whole objects of an array that was cut, and whether nothing but its end is missing."""
    found: list[str] = []
    at = _next(array, 0)
    while array.startswith("{", at):
        try:
            _, end = _object.raw_decode(array, at)
        except (ValueError, RecursionError):
            break
        found.append(array[at:end])
        at = _next(array, end)
    return found, at == len(array)


def _next(array: str, at: int) -> int:
    while at < len(array) and array[at] in _BETWEEN:
        at += 1
    return at


def latest(counts: list[PlainUsage]) -> Usage:
    """The same as merging what `usage.gemini_usage` gives of each: the last that is not null."""
    last = counts[::-1]
    return Usage(
        next((n for c in last if (n := c.prompt_token_count) is not None), None),
        next((n for c in last if (n := c.candidates_token_count) is not None), None),
        next((n for c in last if (n := c.total_token_count) is not None), None),
        next((n for c in last if (n := c.cached_content_token_count) is not None), None),
        None,
        next((n for c in last if (n := c.thoughts_token_count) is not None), None),
    )


def chunks(decoder: msgspec.json.Decoder[T], block: bytes) -> list[T] | None:
    """The chunks of a block in which every event is one line `data: {…}`, else null.

    A line end inside JSON is never inside a string, so lines that are left whole are whole events.
    """
    end = next((end for end in _ENDS if block.endswith(end)), None)
    if end is None or not block.startswith(_START):
        return None
    parts = block[len(_START) : -len(end)].split(end + _START)
    lines = b"\n".join(parts)
    if lines.count(b"\n") >= len(parts) or b"\r" in lines:
        return None
    return decode_lines(decoder, lines, len(parts))
