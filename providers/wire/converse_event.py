"""Payloads of Converse as typed structs, with `Any` where models are sloppy.

https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStreamOutput.html; the
padding `p` of random length is in all of them, and read by nobody.
"""

from __future__ import annotations

from typing import Any

import msgspec


class PlainDelta(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """The delta of a plain event."""

    text: str


class PlainEvent(msgspec.Struct, gc=False):
    """A contentBlockDelta that carries one piece of text and nothing else."""

    delta: PlainDelta


class ToolUse(msgspec.Struct, gc=False, rename="camel"):
    """A call, or in a delta a piece of its input; `type` tells who runs it."""

    tool_use_id: Any = None
    name: Any = None
    input: Any = None


class ReasoningText(msgspec.Struct, gc=False):
    text: Any = None
    signature: Any = None


class ReasoningContent(msgspec.Struct, gc=False, rename="camel"):
    """A delta has text or signature of its own, a whole block has both in `reasoning_text`."""

    text: Any = None
    signature: Any = None
    redacted_content: Any = None
    reasoning_text: ReasoningText | None = None


class Cited(msgspec.Struct, gc=False):
    """`citationsContent`: text of a whole answer, and where it is from."""

    content: list[dict[str, Any]] | None = None
    citations: list[dict[str, Any]] | None = None


class Block(msgspec.Struct, gc=False, rename="camel"):
    """A piece of a block (`delta`), the start of one, or a whole one: the one field that is set."""

    text: Any = None
    reasoning_content: ReasoningContent | None = None
    tool_use: ToolUse | None = None
    citation: Any = None
    citations_content: Cited | None = None
    tool_result: Any = None
    image: Any = None


class Event(msgspec.Struct, gc=False, rename="camel"):
    """Any event; its name is in the message's headers."""

    content_block_index: Any = None
    start: Block | None = None
    delta: Block | None = None
    stop_reason: Any = None
    additional_model_response_fields: Any = None
    usage: Any = None
    trace: Any = None


class NovaEvent(msgspec.Struct, gc=False, rename="camel"):
    """The same in the name's own field, as Nova sends it through InvokeModel."""

    message_start: Event | None = None
    content_block_start: Event | None = None
    content_block_delta: Event | None = None
    content_block_stop: Event | None = None
    message_stop: Event | None = None
    metadata: Event | None = None


class Message(msgspec.Struct, gc=False):
    content: list[Block] | None = None


class Output(msgspec.Struct, gc=False):
    message: Message | None = None


class Answer(msgspec.Struct, gc=False, rename="camel"):
    """A whole answer."""

    output: Output | None = None
    stop_reason: Any = None
    additional_model_response_fields: Any = None
    usage: Any = None
    trace: Any = None
