"""How an API's streams are cut into events: the framer for a body, and what framers are."""

from __future__ import annotations

from typing import Final, Literal, Protocol, TypeAlias

from ringcast.providers.wire.eventstream import EventStreamFramer
from ringcast.providers.wire.ndjson import NdjsonFramer
from ringcast.providers.wire.sse import (
    MAX_EVENT_BYTES,
    MAX_LINE_BYTES,
    Bytes,
    SseFramer,
    event_too_long,
)

Framing: TypeAlias = Literal["sse", "eventstream", "ndjson"]

_FRAMING: Final[dict[str, Framing]] = {
    "converse": "eventstream",
    "invoke": "eventstream",
    "native": "ndjson",
}
# A message of less than 144 MiB begins with a byte below TAB, every text with one from there on.
_FIRST_OF_TEXT: Final = b"\t\n\r" + bytes(range(0x20, 0x7F)) + b"\xef"


class Framer(Protocol):
    """Cuts a body at event boundaries, so that what it hands on can be parsed without a past."""

    def feed(self, chunk: Bytes) -> bytes:
        """All whole events so far in one piece, or nothing.

        Raises `WireError` for a body that breaks its format or a limit, with the events before
        that in its `block`.
        """

    def rest(self) -> bytes:
        """What is left at the end of the body; `WireError` if the format allows nothing there."""

    def boundary(self, block: bytes, start: int, stop: int) -> int:
        """The end of the last event within `start` to `stop` of a block, or `start` for none."""


def framing(api: str) -> Framing:
    """How the streams of an API are framed; most are server-sent events."""
    return _FRAMING.get(api, "sse")


def framer(
    api: str, *, max_line_bytes: int = MAX_LINE_BYTES, max_event_bytes: int = MAX_EVENT_BYTES
) -> Framer:
    """A framer for a new body of an API's answer, streamed or not."""
    match framing(api):
        case "eventstream":
            return MessagesOrText(max_event_bytes)
        case "ndjson":
            return NdjsonFramer(max_line_bytes=max_line_bytes, max_event_bytes=max_event_bytes)
        case _:
            return SseFramer(max_line_bytes=max_line_bytes, max_event_bytes=max_event_bytes)


class MessagesOrText:
    """AWS messages, or an answer in JSON, or a proxy's page: the first byte tells which."""

    def __init__(self, max_event_bytes: int) -> None:
        self._messages = EventStreamFramer(max_event_bytes=max_event_bytes)
        self._max_bytes = max_event_bytes
        self._text: bytearray | None = None
        self._begun = False

    def feed(self, chunk: Bytes) -> bytes:
        """All whole messages so far; of a text nothing, since it is kept whole."""
        if not self._begun and len(chunk):
            self._begun = True
            if chunk[0] in _FIRST_OF_TEXT:
                self._text = bytearray()
        if self._text is None:
            return self._messages.feed(chunk)
        self._text += chunk
        if len(self._text) > self._max_bytes:
            raise event_too_long(self._max_bytes)
        return b""

    def rest(self) -> bytes:
        """The text, if it is one."""
        return self._messages.rest() if self._text is None else bytes(self._text)

    def boundary(self, block: bytes, start: int, stop: int) -> int:
        """The end of the last message within `start` to `stop`, or `start` for none."""
        return self._messages.boundary(block, start, stop)
