"""Cohere's chat, as Command R speaks it through Bedrock: events that are told by `event_type`.

https://docs.cohere.com/v1/docs/streaming. The last event repeats the whole answer, and so does the
one that follows a call's pieces; a call has no id.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from ringcast.providers.wire.citations import cohere_citation
from ringcast.providers.wire.dialect import Dialect, Memory
from ringcast.providers.wire.finish import finish_reason, reason_word
from ringcast.providers.wire.payload import decode
from ringcast.providers.wire.portable import string
from ringcast.providers.wire.sse import SseEvent, WireError
from ringcast.providers.wire.tool_calls import ToolCalls
from ringcast.providers.wire.usage import cohere_usage
from ringcast.shm.tokens import Done, FinishReason, StreamToken, Text


class Call(msgspec.Struct, gc=False):
    """A whole call, whose parameters are an object, or a piece of one, where they are text."""

    index: Any = None
    name: Any = None
    parameters: Any = None


class Response(msgspec.Struct, gc=False):
    """A whole answer, or what the last event says of one."""

    text: Any = None
    generation_id: Any = None
    finish_reason: Any = None
    tool_calls: list[Call] | None = None
    citations: list[dict[str, Any]] | None = None
    meta: Any = None


class Event(msgspec.Struct, gc=False):
    """Any event."""

    event_type: Any = None
    generation_id: Any = None
    text: Any = None
    citations: list[dict[str, Any]] | None = None
    tool_call_delta: Call | None = None
    tool_calls: list[Call] | None = None
    finish_reason: Any = None
    response: Response | None = None
    is_finished: Any = None


class _Memory(Memory, array_like=True):
    said: str | None = None
    spoke: bool = False
    tools: ToolCalls = msgspec.field(default_factory=ToolCalls)


class CohereChat(Dialect[_Memory]):
    """Decodes the events of a chat."""

    _event: ClassVar[msgspec.json.Decoder[Event]] = msgspec.json.Decoder(Event)
    _response: ClassVar[msgspec.json.Decoder[Response]] = msgspec.json.Decoder(Response)

    def __init__(self) -> None:
        super().__init__(_Memory)

    @property
    def complete(self) -> bool:
        """Whether a reason was given."""
        return self._seen.said is not None

    @property
    def reason(self) -> str | None:
        """The `finish_reason`."""
        return self._seen.said

    def feed_block(self, block: bytes) -> list[StreamToken] | None:
        """There is no framing but InvokeModel's, which is `invoke`'s."""
        return None

    def whole(self, answer: bytes) -> list[StreamToken] | None:
        """The answer of `POST /model/ID/invoke`."""
        try:
            said = decode(self._response, answer)
        except WireError:
            return None
        if not isinstance(said.text, str) and not said.tool_calls:
            return None
        told = Event(text=said.text, tool_calls=said.tool_calls, citations=said.citations)
        end = Event(event_type="stream-end", finish_reason=said.finish_reason, response=said)
        return self._ended(self._tokens([told, end]))

    def _read(self, event: SseEvent) -> list[Event]:
        return [decode(self._event, event.data)]

    def _done(self) -> Done:
        seen = self._seen
        return Done(self._meaning(), seen.said, usage=seen.usage, id=seen.id)

    def _meaning(self) -> FinishReason:
        """Calls end with COMPLETE as well."""
        meaning = finish_reason(self._seen.said)
        return "tool_calls" if meaning == "stop" and self._seen.tools.calls else meaning

    def _apply(self, event: Event, tokens: list[StreamToken]) -> list[StreamToken] | None:
        if self._seen.id is None and (name := string(event.generation_id)):
            self._seen.id, self.changed = name, True
        if not (event.tool_calls and self._seen.spoke) and event.event_type != "stream-end":
            self._say(event.text, tokens)
        tokens += [cohere_citation(citation) for citation in event.citations or ()]
        if event.tool_call_delta is not None:
            self._call(event.tool_call_delta, event.tool_call_delta.index, tokens)
        if not self._seen.tools.calls:
            for index, call in enumerate(event.tool_calls or ()):
                self._call(call, index, tokens)
        if event.is_finished is True or event.event_type == "stream-end":
            self._end(event, event.response or Response(), tokens)
        return None

    def _say(self, said: Any, tokens: list[StreamToken]) -> None:
        if text := self._joined("text", said):
            tokens.append(Text(text))
            self.changed |= not self._seen.spoke
            self._seen.spoke = True

    def _call(self, call: Call, index: Any, tokens: list[StreamToken]) -> None:
        self.changed = True
        self._called(self._seen.tools.piece(index, None, call.name, call.parameters, 0), tokens)

    def _end(self, event: Event, answer: Response, tokens: list[StreamToken]) -> None:
        if self._seen.id is None:
            self._seen.id = string(answer.generation_id)
        reason = event.finish_reason or answer.finish_reason or "COMPLETE"
        self._seen.said, self.changed = reason_word(reason), True
        if isinstance(answer.meta, dict):
            self._account(cohere_usage(answer.meta), tokens)
