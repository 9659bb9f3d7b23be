"""Gemini's Interactions API, as streamed by a POST of one or by a GET of one that goes on.

https://ai.google.dev/gemini-api/docs/interactions/streaming; `interaction.Event` has the shapes.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, Final

import msgspec

from ringcast.errors import Code
from ringcast.providers.wire.answer import provider_error
from ringcast.providers.wire.citations import interactions_citation
from ringcast.providers.wire.finish import MAX_REASON_CHARS, finish_reason
from ringcast.providers.wire.interaction import Event, Interaction, Piece
from ringcast.providers.wire.numbers import whole
from ringcast.providers.wire.opaque import opaque
from ringcast.providers.wire.partial_arguments import json_text
from ringcast.providers.wire.payload import bad_event, decode, loose
from ringcast.providers.wire.sse import SseEvent, WireError
from ringcast.providers.wire.surrogates import Halves
from ringcast.providers.wire.tool_calls import ToolCalls
from ringcast.providers.wire.usage import interactions_usage, merged
from ringcast.shm.records import Cursor
from ringcast.shm.tokens import Done, Error, Reasoning, StreamToken, Text, ToolCall, Usage

MAX_STEPS: Final = 1 << 20

_DELTAS: Final = re.compile(rb"(?:event: (?:step|content)\.delta\ndata: \{[^\r\n]*\}\n\n)+")
_DATA: Final = re.compile(rb"\ndata: ([^\n]*)\n\n")
_UNDECODABLE: Final = (msgspec.MsgspecError, ValueError, RecursionError, MemoryError)

_ENDS: Final = frozenset({"interaction.completed", "interaction.complete"})
_STARTS: Final = frozenset({"step.start", "content.start"})
_STOPS: Final = frozenset({"step.stop", "content.stop"})
_LIVE: Final = frozenset({"", "queued", "in_progress"})
_ASKED: Final = frozenset({"user_input", "function_result"})  # what the client has said itself


class _Memory(msgspec.Struct, array_like=True):
    """What must survive a hand-over; `after` is the `event_id` seen last."""

    id: str | None = None
    model: str | None = None
    status: str = ""
    after: str = ""
    usage: Usage | None = None
    tools: ToolCalls = msgspec.field(default_factory=ToolCalls)
    offered: dict[int, str] = {}  # by step: arguments told at its start, unless pieces follow
    asked: int | None = None  # the step that is open and not the model's
    failure: Error | None = None
    halves: Halves = msgspec.field(default_factory=Halves)


class Interactions:
    """Decodes the events of `POST /interactions` and of its resumption. See `dialect.Dialect`.

    What is neither text, thought nor call (pictures, what Google's own tools were asked and found)
    comes as empty `Reasoning` whose `detail` is the step or delta. The finish reason is the status.
    """

    _event: ClassVar[msgspec.json.Decoder[Event]] = msgspec.json.Decoder(Event)
    _interaction: ClassVar[msgspec.json.Decoder[Interaction]] = msgspec.json.Decoder(Interaction)
    _memory: ClassVar[msgspec.msgpack.Decoder[_Memory]] = msgspec.msgpack.Decoder(_Memory)

    def __init__(self) -> None:
        self.changed = True
        self.oddities = 0
        self._seen = _Memory()

    @property
    def cursor(self) -> Cursor | None:
        """The interaction and its last event, while it runs and its events have ids.

        An `event_id` is documented as the token to resume the stream from. Google sends it for
        what it keeps and goes on with by itself: `background: true`, which `store: false` forbids.
        Without one a stream could only be had from its beginning, and all be told twice.
        https://ai.google.dev/gemini-api/docs/background-execution
        """
        seen = self._seen
        if not (seen.id and seen.after) or self.complete:
            return None
        return Cursor(seen.id, seen.after)

    @property
    def complete(self) -> bool:
        """Whether the status is one that lasts; `[DONE]` follows, but the body may end as well."""
        return self._seen.status not in _LIVE

    def feed(self, event: SseEvent) -> list[StreamToken]:
        """The tokens of one event; the payload's type rules, else the `event:` line's."""
        try:
            payload = decode(self._event, event.data)
        except WireError as error:
            if event.event == "error":
                return self.close(provider_error(loose(event.data)))
            return self.close(Error(error.code, error.message))
        if payload.event_type is None:
            payload.event_type = event.event
        return self._tokens([payload])

    def feed_block(self, block: bytes) -> list[StreamToken] | None:
        """Plain form: deltas only, each of an `event:` and a `data:` line, LF LF after each."""
        if not _DELTAS.fullmatch(block):
            return None
        found = _DATA.findall(block)
        try:
            events = self._event.decode_lines(b"\n".join(found))
        except _UNDECODABLE:
            return None
        if len(events) != len(found) or any(event.event_type is None for event in events):
            return None
        return self._tokens(events)

    def whole(self, answer: bytes) -> list[StreamToken] | None:
        """A non-streamed interaction, with steps or with the older outputs."""
        try:
            said = decode(self._interaction, answer)
            pieces = said.steps if said.steps is not None else said.outputs
            if pieces is None or not isinstance(said.status, str):
                return None
            tokens: list[StreamToken] = []
            for index, piece in enumerate(pieces):
                self._start(piece, index, tokens)
                self._stop(index, tokens)
            self._introduce(said, tokens)
        except WireError:
            return None
        return tokens + self.close(None)

    def close(self, error: Error | None) -> list[StreamToken]:
        """What was held back, then the terminal token with what is known.

        An interaction that failed or was cancelled ends with an error, whatever closes it.
        """
        seen = self._seen
        tokens: list[StreamToken] = []
        error = error or self._failure()
        if error is None:
            for index in list(seen.offered):
                self._stop(index, tokens)
        tokens += seen.halves.flush()
        self.changed = True
        reason = seen.status or None
        if error is not None:
            ended = msgspec.structs.replace(error, usage=seen.usage, provider_reason=reason)
            return [*tokens, ended]
        done = Done(finish_reason(reason), reason, usage=seen.usage, id=seen.id, model=seen.model)
        return [*tokens, done]

    def state(self) -> bytes:
        """The memory as msgpack, some hundred bytes; the ids of Google are long."""
        self.changed = False
        return msgspec.msgpack.encode(self._seen)

    def restore(self, state: bytes) -> None:
        """Go on from `state`. Raises `msgspec.MsgspecError` if it is none."""
        self._seen = self._memory.decode(state)
        self.changed = False

    def _failure(self) -> Error | None:
        """What a status other than success amounts to."""
        seen = self._seen
        if seen.status == "failed":
            return seen.failure or Error(Code.PROVIDER_ERROR, "the interaction failed")
        if seen.status == "cancelled":
            return Error(Code.CANCELLED, "the interaction was cancelled at its provider")
        if not self.complete:
            text = f"the stream ended while the interaction was {seen.status or 'not begun'}"
            return Error(Code.STREAM_INCOMPLETE, text, retryable=True)
        return None

    def _tokens(self, events: list[Event]) -> list[StreamToken]:
        """The tokens of all events, up to the first that is an error or not to be understood."""
        tokens: list[StreamToken] = []
        try:
            for event in events:
                if self._is_new(event.event_id):
                    if event.error is not None or event.event_type == "error":
                        return tokens + self.close(provider_error({"error": event.error}))
                    self._apply(event, tokens)
        except WireError as error:
            tokens += self.close(Error(error.code, error.message))
        return tokens

    def _is_new(self, event_id: Any) -> bool:
        """Whether an event is not the last one once more, as a resumed stream may begin."""
        if not isinstance(event_id, str) or not event_id:
            return True
        if event_id == self._seen.after:
            self.oddities += 1
            return False
        self._seen.after = event_id
        self.changed = True
        return True

    def _apply(self, event: Event, tokens: list[StreamToken]) -> None:
        kind = event.event_type
        if event.delta is not None:
            self._delta(event.delta, _index(event.index), tokens)
        elif kind in _STARTS:
            self._start(event.step or event.content or {}, _index(event.index), tokens)
        elif kind in _STOPS:
            self._stop(_index(event.index), tokens)
        elif event.interaction is not None or isinstance(event.status, str):
            said = event.interaction or Interaction(event.interaction_id, event.status)
            if kind in _ENDS and not isinstance(said.status, str):
                said.status = "completed"
            self._introduce(said, tokens)
        else:
            self.oddities += 1
        self._account(event.usage, tokens)
        if event.metadata is not None:
            self._account(event.metadata.total_usage, tokens)

    def _introduce(self, said: Interaction, tokens: list[StreamToken]) -> None:
        seen = self._seen
        seen.id = seen.id or _string(said.id)
        seen.model = seen.model or _string(said.model) or _string(said.agent)
        if isinstance(said.status, str):
            seen.status = said.status[:MAX_REASON_CHARS]
        if isinstance(said.errors, list) and said.errors:
            seen.failure = provider_error({"error": said.errors[0]})
        self.changed = True
        self._account(said.usage, tokens)

    def _start(self, piece: Piece, index: int, tokens: list[StreamToken]) -> None:
        """The beginning of a step or content, or all of one that did not stream."""
        kind = piece.get("type")
        if kind in _ASKED:
            self._seen.asked = index
            self.changed = True
        elif kind == "function_call":
            self._call(piece, None, index, tokens)
            self._seen.offered[index] = json_text(piece.get("arguments") or {})
        elif kind == "model_output" or len(piece) > 1:
            self._say(piece, index, tokens)

    def _stop(self, index: int, tokens: list[StreamToken]) -> None:
        if self._seen.asked == index:
            self._seen.asked = None
            self.changed = True
        if arguments := self._seen.offered.get(index):
            self._argue(arguments, index, tokens)

    def _delta(self, delta: Piece, index: int, tokens: list[StreamToken]) -> None:
        if self._seen.asked == index:
            return
        if delta.get("type") == "arguments_delta":
            self._argue(delta.get("arguments"), index, tokens)
        elif delta.get("type") == "function_call":
            self._seen.offered.pop(index, None)
            self._call(delta, json_text(delta.get("arguments") or {}), index, tokens)
        else:
            self._say(delta, index, tokens)

    def _say(self, piece: Piece, index: int, tokens: list[StreamToken]) -> None:
        """The tokens of a delta, content or step that is no call."""
        kind = piece.get("type")
        if kind in ("text", "text_annotation_delta", "text_annotation"):
            self._text(piece, tokens)
        elif kind == "model_output":
            for content in _pieces(piece.get("content")):
                self._say(content, index, tokens)
        elif kind == "thought_summary":
            self._think(piece.get("content"), index, tokens)
        elif kind in ("thought", "thought_signature"):
            for content in _pieces(piece.get("summary")):
                self._think(content, index, tokens)
            if signature := _string(piece.get("signature")):
                tokens.append(Reasoning("", block=index, signature=signature))
        else:
            self._other(piece, index, tokens)

    def _text(self, piece: Piece, tokens: list[StreamToken]) -> None:
        if text := self._joined("text", piece.get("text")):
            tokens.append(Text(text))
        tokens += [interactions_citation(a) for a in _pieces(piece.get("annotations"))]

    def _think(self, content: Any, index: int, tokens: list[StreamToken]) -> None:
        if not isinstance(content, dict):
            return
        if content.get("type") not in (None, "text"):
            self._other(content, index, tokens)
        elif text := self._joined("reasoning", content.get("text")):
            tokens.append(Reasoning(text, block=index))

    def _other(self, piece: Piece, index: int, tokens: list[StreamToken]) -> None:
        signature = _string(piece.get("signature"))
        rest = {key: value for key, value in piece.items() if key != "signature"}
        carried = opaque(rest) or None
        self.oddities += carried is None
        if signature or carried:
            tokens.append(Reasoning("", 0, index, signature, detail=carried))

    def _call(
        self, piece: Piece, arguments: str | None, index: int, tokens: list[StreamToken]
    ) -> None:
        call = self._seen.tools.piece(index, piece.get("id"), piece.get("name"), arguments, 0)
        self.changed = True
        if call is not None:
            tokens.append(call)

    def _argue(self, arguments: Any, index: int, tokens: list[StreamToken]) -> None:
        """A piece of a call's arguments, after which those of its start no longer count."""
        tools = self._seen.tools
        if index not in tools.by_index or not isinstance(arguments, str):
            self.oddities += 1
            return
        if arguments and self._seen.offered.pop(index, None) is not None:
            self.changed = True
        call = tools.piece(index, None, None, arguments, 0)
        if call is not None:
            text = self._joined(f"tool.{call.index}", call.arguments)
            tokens.append(ToolCall(call.index, arguments=text))

    def _joined(self, kind: str, text: Any) -> str:
        if not isinstance(text, str):
            return ""
        if text.isascii() and not self._seen.halves.held:
            return text
        before = self._seen.halves.held.copy()
        joined = self._seen.halves.join(kind, 0, text)
        self.changed |= before != self._seen.halves.held
        return joined

    def _account(self, usage: Any, tokens: list[StreamToken]) -> None:
        if not isinstance(usage, dict):
            return
        before = self._seen.usage
        after = merged(before or Usage(), interactions_usage(usage))
        if after == (before or Usage()):
            return
        self._seen.usage = after
        self.changed = True
        if before is None:
            tokens.append(after)


def _pieces(value: Any) -> list[Piece]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _index(value: Any) -> int:
    """A step's index; a missing one is 0. Raises `WireError` if it is no small number."""
    index = 0 if value is None else whole(value)
    if index is None or not 0 <= index < MAX_STEPS:
        raise bad_event("step index out of range", repr(value))
    return index


def _string(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
