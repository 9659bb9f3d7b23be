"""Anthropic's Messages stream.

https://docs.anthropic.com/en/api/messages-streaming; the same events come from Vertex, Foundry
and gateways, sometimes without their `event:` lines: the payload's `type` decides.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, Final, TypeVar

import msgspec

from ringcast.providers.wire.answer import provider_error
from ringcast.providers.wire.citations import anthropic_citation
from ringcast.providers.wire.dialect import Dialect, Memory, Recall
from ringcast.providers.wire.finish import finish_reason, reason_word
from ringcast.providers.wire.message import Block, BlockDelta, Event, Message, PlainEvent
from ringcast.providers.wire.numbers import position
from ringcast.providers.wire.payload import convert, decode, decode_lines
from ringcast.providers.wire.portable import portable, string, whole_text
from ringcast.providers.wire.sse import SseEvent, WireError
from ringcast.providers.wire.template import Learner
from ringcast.providers.wire.tool_calls import ToolCalls, argument_text
from ringcast.providers.wire.usage import anthropic_usage
from ringcast.shm.tokens import Done, Error, Reasoning, StreamToken, Text

T = TypeVar("T")

MAX_BLOCKS: Final = 1 << 20

# The JSON may be padded with spaces. As in `chunk.chunks`: no `}` before a line end and a `{`
# is ever inside a JSON text, so as many objects as lines means one object a line.
_DELTA: Final = re.compile(rb"event: content_block_delta\ndata: (\{[^\r\n]*\} *)\n\n")
_DELTA_FRAME: Final = len(b"event: content_block_delta\ndata: \n\n")
_TEXT_SLOT: Final = re.compile(rb'"text": ?"')
_plain: Final = msgspec.json.Decoder(PlainEvent)
_IGNORED: Final = ("ping", "message_stop", "vertex_event")
_MODELS_OWN: Final = ("text", "thinking", "redacted_thinking", "tool_use")
_CARRIED: Final = ("type", "partial_json", "content", "encrypted_content")


class _Memory(Memory, array_like=True):
    said: str | None = None
    stop_sequence: str | None = None
    messages: int = 0  # gateways splice: a second message has block indexes of its own
    tools: ToolCalls = msgspec.field(default_factory=ToolCalls)
    # By block: the call that began there last, since messages are begun anew without any end.
    calls: dict[int, int] = msgspec.field(default_factory=dict)
    # By block: input that was told at a call's start, unless pieces of it follow.
    offered: dict[int, str] = msgspec.field(default_factory=dict)
    own: int | None = None  # the block of the provider's own that is open


class Messages(Dialect[_Memory]):
    """Decodes the events of `POST /v1/messages`.

    Blocks of the provider's own (calls of its tools and what they found, summaries of compacted
    turns) come as empty `Reasoning` whose `detail` is the block as it starts, or a delta of it.
    """

    _event: ClassVar[msgspec.json.Decoder[Event]] = msgspec.json.Decoder(Event)
    _message: ClassVar[msgspec.json.Decoder[Message]] = msgspec.json.Decoder(Message)

    def __init__(self) -> None:
        super().__init__(_Memory)
        self._learner = Learner(_TEXT_SLOT, _texts)

    @property
    def recall(self) -> Recall | None:
        """Nothing but text, while no half waits."""
        return None if self._seen.halves.held else self._learner.recall

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
        if self.recall is not None and (said := self._learner.tokens(block)) is not None:
            return said
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
        except WireError:
            return None
        return tokens + self.close(None)

    def _read(self, event: SseEvent) -> list[Event]:
        """The payload's type rules, else the `event:` line's."""
        payload = decode(self._event, event.data)
        if payload.type is None:
            payload.type = event.event
        return [payload]

    def _held_back(self, error: Error | None) -> list[StreamToken]:
        """Input of calls that have not ended, if the answer has, and halves."""
        tokens: list[StreamToken] = []
        for number in [*self._seen.offered] if error is None else ():
            self._input(number, tokens)
        return tokens + super()._held_back(error)

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
            self._start(event.index, event.content_block, tokens)
        elif kind == "content_block_stop":
            self._input(_block_index(event.index), tokens)
        elif kind == "message_start" and isinstance(event.message, dict):
            self._start_message(convert(event.message, Message), tokens)
        elif kind == "message_delta":
            if event.delta is not None:
                self._stop(event.delta.stop_reason, event.delta.stop_sequence)
            self._count(event.usage, tokens)
        elif kind not in _IGNORED:
            self.oddities += 1
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
        elif kind == "input_json_delta" and _block_index(index) in self._seen.calls:
            self._arguments(delta.partial_json, _block_index(index), tokens)
        elif kind == "citations_delta" and isinstance(delta.citation, dict):
            tokens.append(anthropic_citation(delta.citation))
        else:
            self._more(delta, _block_index(index), tokens)

    def _start(self, index: Any, block: dict[str, Any], tokens: list[StreamToken]) -> None:
        number = _block_index(index)
        self._input(number, tokens)
        self._seen.calls.pop(number, None)
        if block.get("type") in _MODELS_OWN:
            self._block(index, convert(block, Block), tokens)
            return
        tokens.append(Reasoning("", block=number, detail=portable(block)))
        self._seen.own, self.changed = number, True

    def _more(self, delta: BlockDelta, number: int, tokens: list[StreamToken]) -> None:
        """A piece of the provider's own block, or nothing that is known."""
        known = delta.type in ("input_json_delta", "compaction_delta") and number == self._seen.own
        said = {name: value for name in _CARRIED if (value := getattr(delta, name))}
        if known and len(said) > 1:
            tokens.append(Reasoning("", block=number, detail=portable(said)))
        self.oddities += not known

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
            # Most streams send `input: {}` here and the arguments later, some the other way round.
            number = _block_index(index)
            key = self._seen.calls[number] = self._seen.messages * MAX_BLOCKS + number
            self._called(self._seen.tools.piece(key, block.id, block.name, None, 0), tokens)
            if block.input:
                self._seen.offered[number] = whole_text(argument_text(block.input))
            self.changed = True

    def _arguments(self, text: Any, number: int, tokens: list[StreamToken]) -> None:
        """A piece of a tool call's JSON, after which the input of its start no longer counts."""
        if text and self._seen.offered.pop(number, None) is not None:
            self.changed = True
        call = self._seen.tools.piece(self._seen.calls[number], None, None, text, 0)
        self._called(call, tokens)

    def _input(self, number: int, tokens: list[StreamToken]) -> None:
        """The input that a call had at its start, if no pieces of it came."""
        if arguments := self._seen.offered.pop(number, None):
            self._arguments(arguments, number, tokens)
            self.changed = True

    def _start_message(self, message: Message, tokens: list[StreamToken]) -> None:
        seen = self._seen
        self.oddities += seen.messages > 0
        seen.messages = min(seen.messages + 1, MAX_BLOCKS)
        seen.id = seen.id or string(message.id)
        seen.model = seen.model or string(message.model)
        self.changed = True
        self._count(message.usage, tokens)
        for index, block in enumerate(message.content or ()):
            self._whole_block(index, block, tokens)
        if message.stop_reason:
            self._stop(message.stop_reason, message.stop_sequence)

    def _whole_block(self, index: int, block: dict[str, Any], tokens: list[StreamToken]) -> None:
        """A block of a whole message, or of one that begins with what its tools have found."""
        if block.get("type") == "tool_use":
            block = block | {"input": argument_text(block.get("input"))}
        self._start(index, block, tokens)
        self._input(index, tokens)

    def _stop(self, reason: Any, sequence: Any) -> None:
        self._seen.said = reason_word(reason or None) or self._seen.said
        if isinstance(sequence, str):
            self._seen.stop_sequence = whole_text(sequence)
        self.changed = True

    def _count(self, usage: Any, tokens: list[StreamToken]) -> None:
        if isinstance(usage, dict):
            self._account(anthropic_usage(usage), tokens)


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
