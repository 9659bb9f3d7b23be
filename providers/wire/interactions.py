"""Gemini's Interactions API, as streamed by a POST of one or by a GET of one that goes on.

https://ai.google.dev/gemini-api/docs/interactions/streaming; `interaction.Event` has the shapes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, ClassVar, Final

import msgspec

from ringcast.errors import Code
from ringcast.providers.wire.answer import provider_error
from ringcast.providers.wire.citations import interactions_citation
from ringcast.providers.wire.dialect import Dialect, Memory
from ringcast.providers.wire.finish import MAX_REASON_CHARS, finish_reason
from ringcast.providers.wire.interaction import Event, Interaction, OwnStep, Piece
from ringcast.providers.wire.numbers import position
from ringcast.providers.wire.payload import decode, decode_lines
from ringcast.providers.wire.portable import portable, string, whole_text
from ringcast.providers.wire.sse import SseEvent, WireError
from ringcast.providers.wire.step_calls import StepCalls
from ringcast.providers.wire.usage import interactions_usage
from ringcast.shm.records import Cursor
from ringcast.shm.tokens import Done, Error, Reasoning, StreamToken, Text, ToolCall

MAX_STEPS: Final = 1 << 20

_DELTAS: Final = re.compile(rb"(?:event: (?:step|content)\.delta\ndata: \{[^\r\n]*\}\n\n)+")
_DATA: Final = re.compile(rb"\ndata: ([^\n]*)\n\n")

_STATUS: Final = {  # of events that name it and need not tell it
    "interaction.completed": "completed",
    "interaction.complete": "completed",
    "interaction.requires_action": "requires_action",
    "interaction.in_progress": "in_progress",
}
_STARTS: Final = ("step.start", "content.start")
_STOPS: Final = ("step.stop", "content.stop")
_LIVE: Final = ("", "queued", "in_progress")
_ASKED: Final = ("user_input", "function_result")  # what the client has said itself
_TEXT: Final = ("text", "text_annotation_delta", "text_annotation")
_OWN: Final = ("_call", "_result")  # how the kinds of steps of Google's tools end


class _Memory(Memory, array_like=True):
    status: str = ""
    after: str = ""  # the `event_id` seen last
    calls: StepCalls = msgspec.field(default_factory=StepCalls)
    asked: int | None = None  # the step that is open and not the model's
    own: OwnStep | None = None
    failure: Error | None = None


class Interactions(Dialect[_Memory]):
    """Decodes the events of `POST /interactions` and of its resumption.

    What is neither text, thought nor call (pictures, what Google's own tools were asked and found)
    comes as empty `Reasoning` whose `detail` is the step or delta. The finish reason is the status.
    """

    _event: ClassVar[msgspec.json.Decoder[Event]] = msgspec.json.Decoder(Event)
    _interaction: ClassVar[msgspec.json.Decoder[Interaction]] = msgspec.json.Decoder(Interaction)

    def __init__(self) -> None:
        super().__init__(_Memory)

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

    @property
    def reason(self) -> str | None:
        """The status."""
        return self._seen.status or None

    def feed_block(self, block: bytes) -> list[StreamToken] | None:
        """Plain form: deltas only, each of an `event:` and a `data:` line, LF LF after each."""
        if not _DELTAS.fullmatch(block):
            return None
        found = _DATA.findall(block)
        events = decode_lines(self._event, b"\n".join(found), len(found))
        if events is None or any(event.event_type is None for event in events):
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
        """An interaction that failed or was cancelled ends with an error, whatever closes it."""
        return super().close(error or self._failure())

    def _read(self, event: SseEvent) -> list[Event]:
        """The payload's type rules, else the `event:` line's."""
        payload = decode(self._event, event.data)
        if payload.event_type is None:
            payload.event_type = event.event
        return [payload]

    def _held_back(self, error: Error | None) -> list[StreamToken]:
        """A step and arguments that no piece has told, and halves."""
        tokens: list[StreamToken] = []
        if error is None:
            self._end_own(tokens)
        for index in list(self._seen.calls.offered) if error is None else ():
            self._stop(index, tokens)
        return tokens + super()._held_back(error)

    def _done(self) -> Done:
        seen, reason = self._seen, self.reason
        return Done(finish_reason(reason), reason, usage=seen.usage, id=seen.id, model=seen.model)

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

    def _is_new(self, event_id: Any) -> bool:
        """Whether an event is not the last one once more, as a resumed stream may begin."""
        if not isinstance(event_id, str) or not event_id:
            return True
        if event_id == self._seen.after:
            self.oddities += 1
            return False
        self._seen.after = whole_text(event_id)
        self.changed = True
        return True

    def _apply(self, event: Event, tokens: list[StreamToken]) -> list[StreamToken] | None:
        if not self._is_new(event.event_id):
            return None
        if event.error is not None or event.event_type == "error":
            return self.close(provider_error({"error": event.error}))
        if event.delta is not None:
            self._delta(event.delta, _step(event.index), tokens)
        elif event.event_type in _STARTS:
            self._start(event.step or event.content or {}, _step(event.index), tokens)
        elif event.event_type in _STOPS:
            self._stop(_step(event.index), tokens)
        elif (said := _interaction(event)) is not None:
            self._introduce(said, tokens)
        else:
            self.oddities += 1
        self._count(event.usage, tokens)
        if event.metadata is not None:
            self._count(event.metadata.total_usage, tokens)
        return None

    def _introduce(self, said: Interaction, tokens: list[StreamToken]) -> None:
        seen = self._seen
        seen.id = seen.id or string(said.id)
        seen.model = seen.model or string(said.model) or string(said.agent)
        if isinstance(said.status, str):
            seen.status = whole_text(said.status)[:MAX_REASON_CHARS]
        if isinstance(said.errors, list) and said.errors:
            seen.failure = provider_error({"error": said.errors[0]})
        self.changed = True
        self._count(said.usage, tokens)

    def _start(self, piece: Piece, index: int, tokens: list[StreamToken]) -> None:
        """The beginning of a step or content, or all of one that did not stream."""
        kind = piece.get("type")
        if kind in _ASKED:
            self._seen.asked = index
            self.changed = True
        elif kind == "function_call":
            self.changed = True
            self._call(self._seen.calls.begin(piece, index), tokens)
        elif isinstance(kind, str) and kind.endswith(_OWN):
            self._end_own(tokens)
            self._seen.own, self.changed = OwnStep(index, portable(piece)), True
        elif kind == "model_output" or len(piece) > 1:
            self._say(piece, index, tokens)

    def _stop(self, index: int, tokens: list[StreamToken]) -> None:
        if self._seen.asked == index:
            self._seen.asked = None
            self.changed = True
        self._end_own(tokens)
        self.changed |= index in self._seen.calls.offered
        self._call(self._seen.calls.end(index), tokens)

    def _delta(self, delta: Piece, index: int, tokens: list[StreamToken]) -> None:
        if self._seen.asked == index:
            return
        calls, own = self._seen.calls, self._seen.own
        if own is not None and (own.index, own.said["type"]) == (index, delta.get("type")):
            self._other(own.with_delta(delta), index, tokens)
            own.told = self.changed = True
            return
        self._end_own(tokens)
        if delta.get("type") == "arguments_delta":
            self._argue(delta.get("arguments"), index, tokens)
        elif delta.get("type") == "function_call":
            self.changed = True
            self._call(calls.whole(delta, index), tokens)
        else:
            self._say(delta, index, tokens)

    def _say(self, piece: Piece, index: int, tokens: list[StreamToken]) -> None:
        """The tokens of a delta, content or step that is no call."""
        kind = piece.get("type")
        if kind in _TEXT or (kind is None and isinstance(piece.get("text"), str)):
            self._text(piece, tokens)
        elif kind == "model_output":
            for content in _pieces(piece.get("content")):
                self._say(content, index, tokens)
        elif kind == "thought_summary":
            self._think(piece.get("content"), index, tokens)
        elif kind in ("thought", "thought_signature"):
            for content in _pieces(piece.get("summary")):
                self._think(content, index, tokens)
            if signature := string(piece.get("signature")):
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
        signature = string(piece.get("signature"))
        rest = {key: value for key, value in piece.items() if key != "signature"}
        carried = portable(rest) or None
        self.oddities += carried is None
        if signature or carried:
            tokens.append(Reasoning("", 0, index, signature, detail=carried))

    def _end_own(self, tokens: list[StreamToken]) -> None:
        """Tell the open step of one of Google's tools, unless a delta did."""
        if (own := self._seen.own) is not None:
            if not own.told and len(own.said) > 1:
                self._other(own.said, own.index, tokens)
            self._seen.own, self.changed = None, True

    def _argue(self, arguments: Any, index: int, tokens: list[StreamToken]) -> None:
        calls = self._seen.calls
        if index not in calls.tools.by_index or not isinstance(arguments, str):
            self.oddities += 1
            return
        self.changed |= index in calls.offered
        self._call(calls.go_on(arguments, index), tokens)

    def _call(self, found: Iterable[ToolCall | None], tokens: list[StreamToken]) -> None:
        for call in found:
            self._called(call, tokens)

    def _count(self, usage: Any, tokens: list[StreamToken]) -> None:
        if isinstance(usage, dict):
            self._account(interactions_usage(usage), tokens)


def _interaction(event: Event) -> Interaction | None:
    """What an event says of the interaction, if it does."""
    named = _STATUS.get(event.event_type) if isinstance(event.event_type, str) else None
    said = event.interaction or Interaction(event.interaction_id, event.status)
    if not isinstance(said.status, str):
        said.status = named
    return None if event.interaction is None and said.status is None else said


def _pieces(value: Any) -> list[Piece]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _step(value: Any) -> int:
    return position(value, "step", MAX_STEPS)
