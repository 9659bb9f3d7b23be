"""Events of Anthropic's streams as typed structs, with `Any` where servers are sloppy.

https://docs.anthropic.com/en/api/messages-streaming
"""

from __future__ import annotations

from typing import Any

import msgspec


class PlainTextDelta(msgspec.Struct, gc=False, tag="text_delta", forbid_unknown_fields=True):
    """The delta of a plain event."""

    text: str


class PlainEvent(msgspec.Struct, gc=False, tag="content_block_delta"):
    """An event that carries one piece of text and nothing else."""

    delta: PlainTextDelta
    error: None = None


class BlockDelta(msgspec.Struct, gc=False):
    """`delta` of content_block_delta and of message_delta, told apart by `type`."""

    type: Any = None
    text: Any = None
    thinking: Any = None
    signature: Any = None
    partial_json: Any = None
    citation: Any = None
    content: Any = None
    encrypted_content: Any = None
    stop_reason: Any = None
    stop_sequence: Any = None


class Block(msgspec.Struct, gc=False):
    """A block of the model's own, begun or whole: text, thinking or a call of a tool."""

    type: Any = None
    text: Any = None
    thinking: Any = None
    signature: Any = None
    data: Any = None
    id: Any = None
    name: Any = None
    input: Any = None
    citations: Any = None


class Message(msgspec.Struct, gc=False):
    """`message` of message_start, or a whole answer; `Block` has the shape of most blocks."""

    id: Any = None
    model: Any = None
    content: list[dict[str, Any]] | None = None
    stop_reason: Any = None
    stop_sequence: Any = None
    usage: Any = None


class Event(msgspec.Struct, gc=False):
    """Any event of either API."""

    type: Any = None
    index: Any = None
    delta: BlockDelta | None = None
    content_block: dict[str, Any] | None = None
    message: Any = None
    usage: Any = None
    error: Any = None
    completion: Any = None
    stop_reason: Any = None
    stop: Any = None
    id: Any = None
    model: Any = None
