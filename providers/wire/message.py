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
    stop_reason: Any = None
    stop_sequence: Any = None


class Block(msgspec.Struct, gc=False):
    """`content_block` of content_block_start, or a block of a whole message."""

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
    """`message` of message_start, or a whole answer."""

    id: Any = None
    model: Any = None
    content: list[Block] | None = None
    stop_reason: Any = None
    stop_sequence: Any = None
    usage: Any = None


class Event(msgspec.Struct, gc=False):
    """Any event of either API."""

    type: Any = None
    index: Any = None
    delta: BlockDelta | None = None
    content_block: Block | None = None
    message: Any = None
    usage: Any = None
    error: Any = None
    completion: Any = None
    stop_reason: Any = None
    stop: Any = None
    id: Any = None
    model: Any = None
