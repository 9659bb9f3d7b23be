"""Anthropic's Messages stream and its legacy text completions.

https://docs.anthropic.com/en/api/messages-streaming; the same events come from Vertex, Foundry
and gateways, sometimes without their `event:` lines: the payload's `type` decides.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, Final, TypeVar

import msgspec

from ringcast.providers.wire.answer import provider_error
from ringcast.providers.wire.citations import anthropic_citation
from ringcast.providers.wire.dialect import Dialect, Memory
from ringcast.providers.wire.finish import finish_reason, reason_word
from ringcast.providers.wire.message import Block, BlockDelta, Event, Message, PlainEvent
from ringcast.providers.wire.numbers import position
from ringcast.providers.wire.payload import convert, decode, decode_lines
from ringcast.providers.wire.portable import string, whole_text
from ringcast.providers.wire.sse import SseEvent, WireError
from ringcast.providers.wire.template import Learner
from ringcast.providers.wire.tool_calls import ToolCalls, argument_text
from ringcast.providers.wire.usage import anthropic_usage
from ringcast.shm.tokens import Done, Reasoning, StreamToken, Text

T = TypeVar("T")

MAX_BLOCKS: Final = 1 << 20

# The JSON may be padded with spaces. As in `chunk.chunks`: no `}` before a line end and a `{`
# is ever inside a JSON text, so as many objects as lines means one object a line.
_DELTA: Final = re.compile(rb"event: content_block_delta\ndata: (\{[^\r\n]*\} *)\n\n")
_DELTA_FRAME: Final = len(b"event: content_block_delta\ndata: \n\n")
_TEXT_SLOT: Final = re.compile(rb'"text": ?"')
_plain: Final = msgspec.json.Decoder(PlainEvent)
_IGNORED: Final = ("ping", "content_block_stop", "vertex_event")


class _Memory(Memory, array_like=True):
    said: str | None = None
    stop_sequence: str | None = None
    messages: int = 0  # gateways splice: a second message has block indexes of its own
    tools: ToolCalls = msgspec.field(default_factory=ToolCalls)


class Messages(Dialect[_Memory]):
    """Decodes the events of `POST /v1/messages`."""

    _event: ClassVar[msgspec.json.Decoder[Event]] = msgspec.json.Decoder(Event)
    _message: ClassVar[msgspec.json.Decoder[Message]] = msgspec.json.Decoder(Message)

    def __init__(self) -> None:
        super().__init__(_Memory)
        self._learner = Learner(_TEXT_SLOT, _texts)

    @property
    def complete(self) -> bool:
        """Never: only the end marker, message_stop, makes the answer complete."""
        return False

    @property
    def reason(self) -> str | None:
        """The `stop_reason`."""
        return self._seen.said

    def feed_block(self, block: bytes) -> list[StreamToken] | None:
        """Plain form: content_block_delta events only, each of two lines, LF LF after each."""
        texts = None if self._seen.halves.held else self._learner.texts(block)
        if texts is not None:
            return [Text(text) for text in texts if text]
        events = _events(self._event, block)
        if events is None:
            return None
        tokens = self._tokens(events)
        self._learner.expect(tokens)
        return tokens

    def whole(self, answer: bytes) -> list[StreamToken] | None:
        """A non-streamed answer: a message with content blocks."""
        try:
            message = decode(self._message, answer)
            if message.content is None:
                return None
            tokens: list[StreamToken] = []
            self._start_message(message, tokens)
            for index, block in enumerate(message.content):
                block.input = argument_text(block.input)
                self._block(index, block, tokens)
        except WireError:
            return None
        self._stop(message.stop_reason, message.stop_sequence)
        return tokens + self.close(None)

    def _read(self, event: SseEvent) -> list[Event]:
        """The payload's type rules, else the `event:` line's."""
        payload = decode(self._event, event.data)
        if payload.type is None:
            payload.type = event.event
        return [payload]

    def _done(self) -> Done:
        seen = self._seen
        return Done(
            finish_reason(seen.said),
            seen.said,
            usage=seen.usage,
            id=seen.id,
            model=seen.model,
            stop_sequence=seen.stop_sequence,
        )

    def _apply(self, event: Event, tokens: list[StreamToken]) -> list[StreamToken] | None:
        if event.type == "error" or event.error is not None:
            return self.close(provider_error({"error": event.error, "message": event.message}))
        return self.close(None) if self._is_last(event, tokens) else None

    def _is_last(self, event: Event, tokens: list[StreamToken]) -> bool:
        """Add the event's tokens; true if it is the end marker."""
        kind = event.type
        if kind == "content_block_delta" and event.delta is not None:
            self._delta(event.delta, event.index, tokens)
        elif kind == "content_block_start" and event.content_block is not None:
            self._block(event.index, event.content_block, tokens)
        elif kind == "message_start" and isinstance(event.message, dict):
            self._start_message(convert(event.message, Message), tokens)
        elif kind == "message_delta":
            if event.delta is not None:
                self._stop(event.delta.stop_reason, event.delta.stop_sequence)
            self._count(event.usage, tokens)
        elif kind not in _IGNORED:
            self.oddities += kind != "message_stop"
        return bool(kind == "message_stop")

    def _delta(self, delta: BlockDelta, index: Any, tokens: list[StreamToken]) -> None:
        kind = delta.type
        if kind == "text_delta" or (kind is None and delta.text):
            if text := self._joined("text", delta.text):
                tokens.append(Text(text))
        elif kind == "thinking_delta":
            if text := self._joined("reasoning", delta.thinking):
                tokens.append(Reasoning(text, block=_block_index(index)))
        elif kind == "signature_delta":
            if signature := string(delta.signature):
                block = _block_index(index)
                tokens.append(Reasoning("", block=block, signature=signature))
        elif kind == "input_json_delta":
            self._arguments(delta.partial_json, index, tokens)
        elif kind == "citations_delta" and isinstance(delta.citation, dict):
            tokens.append(anthropic_citation(delta.citation))
        else:
            self.oddities += kind != "compaction_delta"

    def _block(self, index: Any, block: Block, tokens: list[StreamToken]) -> None:
        if block.type == "text":
            if text := self._joined("text", block.text):
                tokens.append(Text(text))
            citations = block.citations if isinstance(block.citations, list) else []
            tokens += [anthropic_citation(c) for c in citations if isinstance(c, dict)]
        elif block.type in ("thinking", "redacted_thinking"):
            text = self._joined("reasoning", block.thinking)
            signature, data = string(block.signature), string(block.data)
            if text or signature or data:
                tokens.append(Reasoning(text, 0, _block_index(index), signature, data))
        elif block.type == "tool_use":
            # Streams send `input: {}` here and the arguments later, whole answers send all.
            key = self._tool_key(index)
            call = self._seen.tools.piece(key, block.id, block.name, block.input or None, 0)
            self.changed = True
            self._called(call, tokens)

    def _arguments(self, text: Any, index: Any, tokens: list[StreamToken]) -> None:
        """A piece of a tool call's JSON; that of tools which the provider runs is not ours."""
        key = self._tool_key(index)
        if key in self._seen.tools.by_index:
            self._called(self._seen.tools.piece(key, None, None, text, 0), tokens)

    def _tool_key(self, index: Any) -> int:
        return self._seen.messages * MAX_BLOCKS + _block_index(index)

    def _start_message(self, message: Message, tokens: list[StreamToken]) -> None:
        seen = self._seen
        self.oddities += seen.messages > 0
        seen.messages = min(seen.messages + 1, MAX_BLOCKS)
        seen.id = seen.id or string(message.id)
        seen.model = seen.model or string(message.model)
        self.changed = True
        self._count(message.usage, tokens)

    def _stop(self, reason: Any, sequence: Any) -> None:
        self._seen.said = reason_word(reason or None) or self._seen.said
        if isinstance(sequence, str):
            self._seen.stop_sequence = whole_text(sequence)
        self.changed = True

    def _count(self, usage: Any, tokens: list[StreamToken]) -> None:
        if isinstance(usage, dict):
            self._account(anthropic_usage(usage), tokens)


class Complete(Messages):
    """Decodes the legacy `POST /v1/complete`, whose end marker is a `stop_reason`."""

    def feed_block(self, block: bytes) -> list[StreamToken] | None:
        """There is no plain form: nobody streams much through this API any more."""
        return None

    def whole(self, answer: bytes) -> list[StreamToken] | None:
        """A non-streamed completion."""
        try:
            event = decode(self._event, answer)
        except WireError:
            return None
        text = isinstance(event.completion, str)
        return self._ended(self._tokens([event])) if text else None

    def _is_last(self, event: Event, tokens: list[StreamToken]) -> bool:
        if text := self._joined("text", event.completion):
            tokens.append(Text(text))
        if self._seen.id is None and (name := string(event.id)):
            self._seen.id, self._seen.model, self.changed = name, string(event.model), True
        if event.stop_reason:
            self._stop(event.stop_reason, event.stop)
        return bool(event.stop_reason)


def _events(decoder: msgspec.json.Decoder[T], block: bytes) -> list[T] | None:
    """The events of a block in the plain form, null for any other block."""
    found = _DELTA.findall(block)
    lines = b"\n".join(found)
    if not found or len(lines) - len(found) + 1 + _DELTA_FRAME * len(found) != len(block):
        return None
    return decode_lines(decoder, lines, len(found))


def _texts(block: bytes) -> list[str] | None:
    """The texts of a block in which every event is one piece of text, else null."""
    events = _events(_plain, block)
    return None if events is None else [event.delta.text for event in events]


def _block_index(value: Any) -> int:
    return position(value, "block", MAX_BLOCKS)
