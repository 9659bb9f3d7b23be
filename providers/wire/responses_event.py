"""Events of OpenAI's Responses stream as typed structs, with `Any` where servers are sloppy.

https://platform.openai.com/docs/api-reference/responses-streaming
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from ringcast.providers.wire.chunk import chunks

_NAMED: Final = b"event: response.output_text.delta\ndata: "
_BARE: Final = b"data: "
_END: Final = b"\n\n"


class PlainTextDelta(msgspec.Struct, gc=False):
    """An event that carries one piece of text and nothing else that would mean something."""

    type: Literal["response.output_text.delta"]
    delta: str
    output_index: int | None = None
    sequence_number: int | None = None
    logprobs: tuple[()] | None = None
    error: None = None


class Part(msgspec.Struct, gc=False):
    """A part of a message's or a reasoning item's content, or of a summary, in a whole answer."""

    type: Any = None
    text: Any = None
    refusal: Any = None
    logprobs: Any = None
    annotations: Any = None


class Item(msgspec.Struct, gc=False):
    """`item` of response.output_item.added and .done, or one of a whole answer's `output`."""

    type: Any = None
    id: Any = None
    call_id: Any = None
    name: Any = None
    arguments: Any = None
    input: Any = None
    content: Any = None
    summary: Any = None
    encrypted_content: Any = None
    format: Any = None


class Answer(msgspec.Struct, gc=False):
    """`response` of the events that begin and end an answer; mostly its output was streamed."""

    id: Any = None
    model: Any = None
    status: Any = None
    background: Any = None
    incomplete_details: Any = None
    error: Any = None
    usage: Any = None
    output: Any = None


class WholeAnswer(Answer, gc=False):
    """An answer that was not streamed."""

    output: list[Item] | None = None


class Event(msgspec.Struct, gc=False):
    """Any event."""

    type: Any = None
    sequence_number: Any = None
    output_index: Any = None
    summary_index: Any = None
    delta: Any = None
    text: Any = None
    refusal: Any = None
    logprobs: Any = None
    arguments: Any = None
    input: Any = None
    annotation: Any = None
    item: Item | None = None
    response: Answer | None = None
    error: Any = None
    message: Any = None
    code: Any = None


_plain: Final = msgspec.json.Decoder(PlainTextDelta)


def text_deltas(block: bytes) -> list[PlainTextDelta] | None:
    """The events of a block of text deltas alone, null for any other block.

    Each is one line `data: {…}`, after its `event:` line (OpenAI) or without one (OpenRouter).
    A name right after a blank line begins an event; without these the block is as of a chat.
    """
    start = _NAMED if block.startswith(_NAMED) else _BARE
    if not block.startswith(start) or not block.endswith(_END) or b"\r" in block:
        return None
    return chunks(_plain, block[len(start) : -len(_END)].replace(_END + _NAMED, _END + _BARE))
