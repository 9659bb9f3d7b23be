"""One response body's decoder: blocks of whole events in, tokens out, exactly one of them terminal.

The SSE layer is the specification to the letter; here is what language models' servers need on
top of it: `[DONE]` in any spelling, empty and null data, pings, JSON lines that lost their blank
lines, a last event without one, answers and errors in plain JSON, bodies that just stop. Blocks
in other framings (`framing`) are their dialect's alone; what is left at their end is met here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, Literal

import msgspec

from ringcast.errors import Code
from ringcast.providers.wire import roo
from ringcast.providers.wire.answer import excerpt, fault, http_error, provider_error
from ringcast.providers.wire.anthropic import Messages
from ringcast.providers.wire.complete import Complete
from ringcast.providers.wire.converse import Converse
from ringcast.providers.wire.dialect import Decoder, Recall
from ringcast.providers.wire.framing import framing
from ringcast.providers.wire.gemini import Generate
from ringcast.providers.wire.interactions import Interactions
from ringcast.providers.wire.invoke import Invoke
from ringcast.providers.wire.ollama import Native
from ringcast.providers.wire.openai import Chat, Completions
from ringcast.providers.wire.payload import is_json, loose
from ringcast.providers.wire.responses import Responses
from ringcast.providers.wire.sse import (
    MAX_EVENT_BYTES,
    MAX_LINE_BYTES,
    Bytes,
    SseEvent,
    SseParser,
    WireError,
)
from ringcast.shm.records import Cursor
from ringcast.shm.tokens import Done, Error, StreamToken

_DIALECTS: Final[dict[str, Callable[[], Decoder]]] = {
    "chat": Chat,
    "completions": Completions,
    "messages": Messages,
    "complete": Complete,
    "generate": Generate,
    "interactions": Interactions,
    "responses": Responses,
    "converse": Converse,
    "invoke": Invoke,
    "native": Native,
}
_NAMES: Final = (b"data:", b"event:", b"id:", b"retry:")
_IDLE: Final = re.compile(rb"(?:(?::[^\r\n]*)?[\r\n]|:[^\r\n]*\Z)*")
_BARE: Final = (b"\n{", b"\n[", b"\r{", b"\r[")  # 4 ns a byte; as a pattern 14
_BLANK_LINES: Final = re.compile(rb"((?:\r\n|\r(?!\n)|\n){2,})")
_NESTED: Final = re.compile(r"^[ \t]*+(?:data:[ \t]*+)++", re.MULTILINE)
_TERMINAL: Final = (Done, Error)
_BOM: Final = b"\xef\xbb\xbf"
_BLANK: Final = " \t\r\n"
_MAX_WHOLE_BYTES: Final = 16 << 20  # a body that is no event stream is kept up to this
_RETRYABLE: Final = frozenset(
    {
        Code.TRANSPORT,
        Code.CONNECT_FAILED,
        Code.CONNECT_TIMEOUT,
        Code.FIRST_BYTE_TIMEOUT,
        Code.FIRST_TOKEN_TIMEOUT,
        Code.IDLE_TIMEOUT,
        Code.AWS_TRUNCATED,
        Code.AWS_PRELUDE_CRC,
        Code.AWS_MESSAGE_CRC,
        Code.INTERRUPTED,
        Code.BACKPRESSURE_TIMEOUT,
        Code.OVERLOADED_LOCAL,
        Code.CIRCUIT_OPEN,
        Code.SHUTTING_DOWN,
    }
)


class Ending(msgspec.Struct, frozen=True, array_like=True):
    """How a body ended, as the side that reads it saw it.

    `eof`: it ended by itself. `reset`: the connection broke. `http`: the answer was no 200, and
    `body` is its beginning and `fault` what a header calls it. `failed`, `cancelled`: for the
    reason in `code` and `message`. `should_retry` is the provider's own word on asking again.
    """

    kind: Literal["eof", "reset", "http", "failed", "cancelled"] = "eof"
    code: str = ""
    message: str = ""
    status: int = 200
    content_type: str = ""
    retry_after_s: float | None = None
    body: bytes = b""
    fault: str = ""
    should_retry: bool | None = None


class _State(msgspec.Struct, array_like=True):
    """A body's memory between two blocks."""

    dialect: bytes
    begun: bool = False
    eventful: bool = False
    finished: bool = False
    whole: bytes = b""
    oddities: int = 0


_state_decoder: Final = msgspec.msgpack.Decoder(_State)


class Body:
    """Decodes one body. `finished` is set with the terminal token; all that follows is counted."""

    def __init__(
        self,
        api: str,
        *,
        kind: str = "",
        compat: str = "",
        max_line_bytes: int = MAX_LINE_BYTES,
        max_event_bytes: int = MAX_EVENT_BYTES,
    ) -> None:
        self.finished = False
        self._dialect = _dialect(api, kind, compat)
        self._framing = framing(api)
        self._limits = max_line_bytes, max_event_bytes
        self._parser = self._new_parser()
        self._changed = True
        self._begun = False  # a block was fed: a BOM is no longer dropped
        self._eventful = False  # a field with data was seen: it is an event stream
        self._whole = bytearray()  # the body so far while it is none
        self._odd = 0

    def _new_parser(self) -> SseParser:
        line, event = self._limits
        parser = SseParser(max_line_bytes=line, max_event_bytes=event, error_field=True)
        parser.expect_bom = False  # one parser a body, but not from its first block on
        return parser

    def rejoin(self) -> None:
        """Another body comes, that goes on with the same answer: forget this one's last words."""
        self._odd = self.oddities - self._dialect.oddities
        self._parser = self._new_parser()
        self._begun, self._changed = False, True

    @classmethod
    def restore(
        cls,
        api: str,
        state: bytes,
        *,
        kind: str = "",
        compat: str = "",
        max_line_bytes: int = MAX_LINE_BYTES,
        max_event_bytes: int = MAX_EVENT_BYTES,
    ) -> Body:
        """The body that `state` was taken from. Raises `msgspec.MsgspecError` for other bytes."""
        saved = _state_decoder.decode(state)
        body = cls(
            api,
            kind=kind,
            compat=compat,
            max_line_bytes=max_line_bytes,
            max_event_bytes=max_event_bytes,
        )
        body._dialect.restore(saved.dialect)
        body._begun, body._eventful = saved.begun, saved.eventful
        body.finished = saved.finished
        body._whole = bytearray(saved.whole)
        body._odd = saved.oddities
        body._changed = False
        return body

    def state(self) -> bytes:
        """What a successor needs to go on at the next block: usually under 200 bytes."""
        self._changed = False
        saved = _State(
            self._dialect.state(),
            self._begun,
            self._eventful,
            self.finished,
            bytes(self._whole),
            self.oddities,
        )
        return msgspec.msgpack.encode(saved)

    @property
    def dirty(self) -> bool:
        """Whether `state` would now give other bytes that matter than when it was last taken."""
        return self._changed or self._dialect.changed

    @property
    def oddities(self) -> int:
        """How many irregularities were tolerated, of all kinds; comments are none."""
        parser = self._parser
        seen = parser.unknown_fields + parser.replaced + parser.empty_data
        return self._odd + self._dialect.oddities + seen

    @property
    def cursor(self) -> Cursor | None:
        """Where the provider can be asked to go on with this answer, if it can."""
        return None if self.finished else self._dialect.cursor

    @property
    def recall(self) -> Recall | None:
        """What gives the same tokens as `feed` for events like the last ones, until that is used.

        It gives null for all other bytes, also for those that are no whole events.
        """
        return None if self.finished else self._dialect.recall

    def feed(self, block: Bytes) -> list[StreamToken]:
        """The tokens of a block of whole events, as the API's `framing.Framer` gives them."""
        if self.finished:
            self._odd += 1
            return []
        block = block if type(block) is bytes else bytes(block)
        tokens = self._dialect.feed_block(block)
        if tokens is None:
            tokens = self._events(block)
        elif not self._eventful:
            self._begin()
        if tokens and type(tokens[-1]) in _TERMINAL:
            self._finish()
        return tokens

    def tail(self, rest: Bytes) -> list[StreamToken]:
        """The tokens of the unfinished rest at the end of the body (`framing.Framer.rest`).

        The event that has no blank line counts if it, or a line of it, is `[DONE]` or JSON; so
        does the last of many lines of JSON.
        """
        if self.finished:
            return []
        if self._framing != "sse":
            return self._last_line(bytes(rest))
        tokens = self._events(bytes(rest))
        last = self._parser.end()
        if last is not None and not self.finished:
            self._begin()
            whole = is_json(last.data)
            for data in [last.data] if whole else last.data.split("\n"):
                if not self.finished and (whole or _is_done(data) or is_json(data)):
                    self._odd += 1
                    tokens += self._event(SseEvent(last.event if whole else "message", data))
        return tokens

    def _last_line(self, rest: bytes) -> list[StreamToken]:
        if not self._eventful:
            self._remember(rest.removeprefix(_BOM))
        elif is_json(rest.decode(errors="replace")):
            self._odd += 1
            return self.feed(rest)
        return []

    def end(self, ending: Ending) -> list[StreamToken]:
        """The last tokens, with the terminal one unless it was given already."""
        if self.finished:
            return []
        self._finish()
        if ending.kind == "eof":
            return self._ended(ending)
        return self._dialect.close(last_error(ending))

    def _ended(self, ending: Ending) -> list[StreamToken]:
        if not self._eventful:
            return self._no_event_stream(ending)
        if self._dialect.complete:
            return self._dialect.close(None)
        return self._incomplete()

    def _incomplete(self) -> list[StreamToken]:
        text = "the stream ended before the provider said that the answer was complete"
        return self._dialect.close(Error(Code.STREAM_INCOMPLETE, text, retryable=True))

    def _no_event_stream(self, ending: Ending) -> list[StreamToken]:
        whole = bytes(self._whole)
        if not whole.strip():
            text = f"HTTP {ending.status}: the provider sent an empty body"
            return self._dialect.close(Error(Code.EMPTY_RESPONSE, text, True, ending.status))
        said = loose(whole.decode(errors="replace"))
        if not isinstance(said, str):
            tokens = self._dialect.whole(whole)
            if tokens is not None:
                self._odd += 1
                return tokens
            if fault(said).message is not None:
                return self._dialect.close(provider_error(said))
        elif (tokens := self._dialect.whole(whole)) is not None:  # an array that was cut
            self._odd += 1
            return tokens
        elif self._begins_as_stream(whole):
            return self._incomplete()
        kind = ending.content_type or "no content type"
        text = f"HTTP {ending.status}, {kind}, is no event stream: {excerpt(whole)}"
        return self._dialect.close(Error(Code.NOT_EVENT_STREAM, text, status=ending.status))

    def _begins_as_stream(self, body: bytes) -> bool:
        """Whether a body without any event is the beginning of a stream, cut very early."""
        if self._framing != "sse":
            return self._framing == "ndjson" and body.startswith(b"{")
        return any(body.startswith(name) or name.startswith(body) for name in _NAMES)

    def _events(self, block: bytes) -> list[StreamToken]:
        """The general path: parse, then decode event by event up to a terminal token."""
        if not self._begun:
            self._begun = self._changed = True
            block = block.removeprefix(_BOM)
        if block[:1] not in (b"{", b"[") and not any(begun in block for begun in _BARE):
            return self._parsed(block)
        parts = _BLANK_LINES.split(block)
        tokens: list[StreamToken] = []
        for said, end in zip(parts[::2], [*parts[1::2], b""], strict=True):
            bare = said.lstrip(b"\r\n")
            tokens += self._bare(bare) if self._is_bare(bare) else self._parsed(said + end)
        return tokens

    def _is_bare(self, said: bytes) -> bool:
        """Whether an event is an object or array without `data:`, in a stream that has events."""
        return (
            self._eventful and said[:1] in (b"{", b"[") and is_json(said.decode(errors="replace"))
        )

    def _bare(self, said: bytes) -> list[StreamToken]:
        """Vertex sends an error that comes late in this way, over many lines."""
        self._odd += 1
        if self.finished:
            return []
        return self._event(SseEvent("message", said.decode(errors="replace")))

    def _parsed(self, block: bytes) -> list[StreamToken]:
        tokens: list[StreamToken] = []
        try:
            events, error = self._parser.parse_chunk(block), None
        except WireError as limit:
            events, error = limit.events, Error(limit.code, limit.message)
        if events:
            self._begin()
        elif not self._eventful and error is None:
            self._remember(block)
        for event in events:
            if self.finished:
                self._odd += 1
            else:
                tokens += self._event(event)
        if error is not None and not self.finished:
            self._finish()
            tokens += self._dialect.close(error)
        return tokens

    def _event(self, event: SseEvent) -> list[StreamToken]:
        data = event.data.strip(_BLANK)
        if event.event == "ping" or not data or data == "null" or data[0] == ":":
            self._odd += event.event != "ping" and bool(event.data)
            return []
        if data.startswith("data:"):
            return self._framed_twice(event)
        if data[0] == "[" and _is_done(data):
            tokens = self._close_done(event.data)
        elif "\n" in data and event.event != "error" and not is_json(data):
            return self._line_by_line(event)
        else:
            tokens = self._dialect.feed(event)
        if tokens and type(tokens[-1]) in _TERMINAL:
            self._finish()
        return tokens

    def _framed_twice(self, event: SseEvent) -> list[StreamToken]:
        """Servers that put a whole field into one: Vertex does so with comments to keep alive."""
        self._odd += 1
        said = _NESTED.sub("", event.data)
        return self._event(SseEvent(event.event, said))

    def _close_done(self, data: str) -> list[StreamToken]:
        self._odd += data != "[DONE]"
        return self._dialect.close(None)

    def _line_by_line(self, event: SseEvent) -> list[StreamToken]:
        """Events that a server separated by one line end: each data line is one of them."""
        self._odd += 1
        tokens: list[StreamToken] = []
        for line in event.data.split("\n"):
            if not self.finished:
                tokens += self._event(SseEvent("message", line))
        return tokens

    def _remember(self, block: bytes) -> None:
        """Keep a block without events, but for comments and blank lines before all else."""
        if not self._whole and (idle := _IDLE.match(block)):
            block = block[idle.end() :]
        if block:
            self._whole += block[: _MAX_WHOLE_BYTES - len(self._whole)]
            self._changed = True

    def _begin(self) -> None:
        if not self._eventful:
            self._begun = self._eventful = self._changed = True
            self._whole.clear()

    def _finish(self) -> None:
        self.finished = self._changed = True


def open_body(
    api: str,
    *,
    kind: str = "",
    compat: str = "",
    max_line_bytes: int = MAX_LINE_BYTES,
    max_event_bytes: int = MAX_EVENT_BYTES,
) -> Body:
    """A decoder for a new body. Raises `KeyError` for an API without a dialect.

    With `compat` "roo" its tokens are what Roo-Code shows of a provider of this `kind`.
    """
    return Body(
        api,
        kind=kind,
        compat=compat,
        max_line_bytes=max_line_bytes,
        max_event_bytes=max_event_bytes,
    )


def _dialect(api: str, kind: str, compat: str) -> Decoder:
    compatible = roo.handler(kind, api) if compat == "roo" else None
    return (compatible or _DIALECTS[api])()


def _is_done(data: str) -> bool:
    return data.strip(_BLANK).upper() == "[DONE]"


def cut_short(ending: Ending, error: WireError) -> Ending:
    """The ending of a body whose end its format does not allow."""
    return msgspec.structs.replace(ending, kind="failed", code=error.code, message=error.message)


def last_error(ending: Ending) -> Error:
    """The token for a body that did not end by itself."""
    error = _refused(ending) if ending.kind == "http" else _interrupted(ending)
    if ending.should_retry is None:
        return error
    return msgspec.structs.replace(error, retryable=ending.should_retry)


def _refused(ending: Ending) -> Error:
    return http_error(
        ending.status,
        ending.body,
        content_type=ending.content_type,
        retry_after_s=ending.retry_after_s,
        type=ending.fault,
    )


def _interrupted(ending: Ending) -> Error:
    if ending.kind == "reset":
        code, text = Code.TRANSPORT, "the connection to the provider broke"
    elif ending.kind == "cancelled":
        code, text = Code.CANCELLED, "cancelled"
    else:
        code, text = Code.INTERNAL, "the request failed"
    word = ending.code or code
    return Error(
        word,
        ending.message or text,
        retryable=word in _RETRYABLE,
        status=None if ending.status == 200 else ending.status,
        retry_after_s=ending.retry_after_s,
    )
