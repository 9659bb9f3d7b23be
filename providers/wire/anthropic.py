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
from ringcast.providers.wire.finish import MAX_REASON_CHARS, finish_reason
from ringcast.providers.wire.message import Block, BlockDelta, Event, Message, PlainEvent
from ringcast.providers.wire.numbers import whole
from ringcast.providers.wire.payload import bad_event, convert, decode, loose
from ringcast.providers.wire.sse import SseEvent, WireError
from ringcast.providers.wire.surrogates import Halves
from ringcast.providers.wire.template import Learner
from ringcast.providers.wire.tool_calls import ToolCalls, argument_text
from ringcast.providers.wire.usage import anthropic_usage, merged
from ringcast.shm.records import Cursor
from ringcast.shm.tokens import Done, Error, Reasoning, StreamToken, Text, ToolCall, Usage

T = TypeVar("T")

MAX_BLOCKS: Final = 1 << 20

# The JSON may be padded with spaces. As in `chunk.chunks`: no `}` before a line end and a `{`
# is ever inside a JSON text, so as many objects as lines means one object a line.
_DELTA: Final = re.compile(rb"event: content_block_delta\ndata: (\{[^\r\n]*\} *)\n\n")
_DELTA_FRAME: Final = len(b"event: content_block_delta\ndata: \n\n")
_TEXT_SLOT: Final = re.compile(rb'"text": ?"')
_plain: Final = msgspec.json.Decoder(PlainEvent)
_IGNORED: Final = frozenset({"ping", "content_block_stop", "vertex_event"})
_UNDECODABLE: Final = (msgspec.MsgspecError, ValueError, RecursionError, MemoryError)


class _Memory(msgspec.Struct, array_like=True):
    """What must survive a hand-over."""

    id: str | None = None
    model: str | None = None
    usage: Usage | None = None
    reason: str | None = None
    stop_sequence: str | None = None
    messages: int = 0  # gateways splice: a second message has block indexes of its own
    tools: ToolCalls = msgspec.field(default_factory=ToolCalls)
    halves: Halves = msgspec.field(default_factory=Halves)


class Messages:
    """Decodes the events of `POST /v1/messages`. See `dialect.Dialect`."""

    _event: ClassVar[msgspec.json.Decoder[Event]] = msgspec.json.Decoder(Event)
    _message: ClassVar[msgspec.json.Decoder[Message]] = msgspec.json.Decoder(Message)
    _memory: ClassVar[msgspec.msgpack.Decoder[_Memory]] = msgspec.msgpack.Decoder(_Memory)

    def __init__(self) -> None:
        self.changed = True
        self.oddities = 0
        self._seen = _Memory()
        self._expect_plain = True  # a guess from the block before; never part of the state
        self._learner = Learner(_TEXT_SLOT, _text_of)

    @property
    def cursor(self) -> Cursor | None:
        """Nothing of such an answer is kept by its provider."""
        return None

    @property
    def complete(self) -> bool:
        """Never: only the end marker, message_stop, makes the answer complete."""
        return False

    def feed(self, event: SseEvent) -> list[StreamToken]:
        """The tokens of one event; the payload's type rules, else the `event:` line's."""
        if event.event == "error":
            return self.close(provider_error(loose(event.data)))
        try:
            payload = decode(self._event, event.data)
        except WireError as error:
            return self.close(Error(error.code, error.message))
        if payload.type is None:
            payload.type = event.event
        return self._tokens([payload])

    def feed_block(self, block: bytes) -> list[StreamToken] | None:
        """Plain form: content_block_delta events only, each of two lines, LF LF after each."""
        plain = self._expect_plain and not self._seen.halves.held
        if plain and (texts := self._learner.texts(block)) is not None:
            return [Text(text) for text in texts if text]
        found = _DELTA.findall(block)
        lines = b"\n".join(found)
        if len(lines) - len(found) + 1 + _DELTA_FRAME * len(found) != len(block):
            return None
        if plain and (texts := _texts(lines, len(found))) is not None:
            self._learner.missed(block)
            return [Text(text) for text in texts if text]
        events = _objects(self._event, lines, len(found))
        if events is None:
            return None
        tokens = self._tokens(events)
        self._expect_plain = bool(tokens) and type(tokens[-1]) is Text
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

    def close(self, error: Error | None) -> list[StreamToken]:
        """What was held back, then the terminal token with what is known."""
        seen = self._seen
        held = seen.halves.flush()
        self.changed = True
        if error is not None:
            ended = msgspec.structs.replace(error, usage=seen.usage, provider_reason=seen.reason)
            return [*held, ended]
        done = Done(
            finish_reason(seen.reason),
            seen.reason,
            usage=seen.usage,
            id=seen.id,
            model=seen.model,
            stop_sequence=seen.stop_sequence,
        )
        return [*held, done]

    def state(self) -> bytes:
        """The memory as msgpack, about a hundred bytes."""
        self.changed = False
        return msgspec.msgpack.encode(self._seen)

    def restore(self, state: bytes) -> None:
        """Go on from `state`. Raises `msgspec.MsgspecError` if it is none."""
        self._seen = self._memory.decode(state)
        self.changed = False

    def _tokens(self, events: list[Event]) -> list[StreamToken]:
        """The tokens of all events, up to the first that ends the stream."""
        tokens: list[StreamToken] = []
        try:
            for event in events:
                if event.type == "error" or event.error is not None:
                    said = {"error": event.error, "message": event.message}
                    return tokens + self.close(provider_error(said))
                if self._is_last(event, tokens):
                    return tokens + self.close(None)
        except WireError as error:
            tokens += self.close(Error(error.code, error.message))
        return tokens

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
            self._account(event.usage, tokens)
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
            if isinstance(delta.signature, str) and delta.signature:
                block = _block_index(index)
                tokens.append(Reasoning("", block=block, signature=delta.signature))
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
            signature, data = _string(block.signature), _string(block.data)
            if text or signature or data:
                tokens.append(Reasoning(text, 0, _block_index(index), signature, data))
        elif block.type == "tool_use":
            # Streams send `input: {}` here and the arguments later, whole answers send all.
            key = self._tool_key(index)
            call = self._seen.tools.piece(key, block.id, block.name, block.input or None, 0)
            self.changed = True
            if call is not None:
                tokens.append(call)

    def _arguments(self, text: Any, index: Any, tokens: list[StreamToken]) -> None:
        """A piece of a tool call's JSON; that of tools which the provider runs is not ours."""
        key = self._tool_key(index)
        if key not in self._seen.tools.by_index:
            return
        call = self._seen.tools.piece(key, None, None, text, 0)
        if call is not None:
            arguments = self._joined(f"tool.{call.index}", call.arguments)
            tokens.append(ToolCall(call.index, arguments=arguments))

    def _tool_key(self, index: Any) -> int:
        return self._seen.messages * MAX_BLOCKS + _block_index(index)

    def _start_message(self, message: Message, tokens: list[StreamToken]) -> None:
        seen = self._seen
        self.oddities += seen.messages > 0
        seen.messages = min(seen.messages + 1, MAX_BLOCKS)
        seen.id = seen.id or _string(message.id)
        seen.model = seen.model or _string(message.model)
        self.changed = True
        self._account(message.usage, tokens)

    def _stop(self, reason: Any, sequence: Any) -> None:
        if reason:
            self._seen.reason = str(reason)[:MAX_REASON_CHARS]
        if isinstance(sequence, str):
            self._seen.stop_sequence = sequence
        self.changed = True

    def _account(self, usage: Any, tokens: list[StreamToken]) -> None:
        if not isinstance(usage, dict):
            return
        before = self._seen.usage
        after = merged(before or Usage(), anthropic_usage(usage))
        if after == (before or Usage()):
            return
        self._seen.usage = after
        self.changed = True
        if before is None:
            tokens.append(after)

    def _joined(self, kind: str, text: Any) -> str:
        if not isinstance(text, str):
            return ""
        if text.isascii() and not self._seen.halves.held:
            return text
        before = self._seen.halves.held.copy()
        joined = self._seen.halves.join(kind, 0, text)
        self.changed |= before != self._seen.halves.held
        return joined


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
        return self._tokens([event]) if isinstance(event.completion, str) else None

    def _is_last(self, event: Event, tokens: list[StreamToken]) -> bool:
        if text := self._joined("text", event.completion):
            tokens.append(Text(text))
        if self._seen.id is None and (name := _string(event.id)):
            self._seen.id, self._seen.model, self.changed = name, _string(event.model), True
        if event.stop_reason:
            self._stop(event.stop_reason, event.stop)
        return bool(event.stop_reason)


def _objects(decoder: msgspec.json.Decoder[T], lines: bytes, count: int) -> list[T] | None:
    try:
        objects = decoder.decode_lines(lines)
    except _UNDECODABLE:
        return None
    return objects if len(objects) == count else None


def _texts(lines: bytes, count: int) -> list[str] | None:
    events = _objects(_plain, lines, count)
    return None if events is None else [event.delta.text for event in events]


def _text_of(event: bytes) -> str | None:
    """The text of one event in the plain form, else null."""
    found = _DELTA.fullmatch(event)
    texts = _texts(found[1], 1) if found else None
    return texts[0] if texts else None


def _block_index(value: Any) -> int:
    """A block's index; a missing one is 0. Raises `WireError` if it is no small number."""
    index = 0 if value is None else whole(value)
    if index is None or not 0 <= index < MAX_BLOCKS:
        raise bad_event("block index out of range", repr(value))
    return index


def _string(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
