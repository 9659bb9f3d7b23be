"""Server-sent events: a framer for the side that reads, a parser for the side that decodes.

Both follow WHATWG HTML 9.2.5 and 9.2.6 to the letter. They work on bytes: a line end is never
part of a UTF-8 character, so a line is decoded once it is whole, and invalid bytes become
U+FFFD instead of an exception. Leniencies towards language models' servers live in `body`.
"""

from __future__ import annotations

import re
from typing import Final, TypeAlias

import msgspec

from ringcast.errors import Code, RingcastError

Bytes: TypeAlias = bytes | bytearray | memoryview

MAX_LINE_BYTES: Final = 8 << 20
MAX_EVENT_BYTES: Final = 16 << 20
MAX_DATA_LINES: Final = 100_000

_BOM: Final = b"\xef\xbb\xbf"
_FIELDS: Final = (b"data:", b"event:", b"id:", b"retry:", b"error:")
_LONGEST_FIELD: Final = len(b"event:")
_PREFIX: Final = 16  # bytes of a line that tell its field, a BOM included
_RETRY_MAX_MS: Final = 2**53 - 1  # what a browser's number can hold exactly
_COMPACT_BYTES: Final = 64 << 10
_QUIET: Final = re.compile(rb"(?::[^\r\n]*+[\r\n]|[\r\n])*+")


class SseEvent(msgspec.Struct, frozen=True, gc=False):
    """One dispatched event. `id` is the last event ID, `retry` this block's own, in ms."""

    event: str = "message"
    data: str = ""
    id: str = ""
    retry: int | None = None


class WireError(RingcastError):
    """The peer broke its format or a limit. `code` is an `errors.Code`, `message` names limit and
    setting; `events`, or framed and not parsed `block`, was complete before in the same chunk."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.events: list[SseEvent] = []
        self.block = b""


def line_too_long(limit: int) -> WireError:
    """The error for a line above `limit` bytes."""
    text = f"a line of the event stream is longer than {limit} bytes (limits.max_line_bytes)"
    return WireError(Code.SSE_LINE_TOO_LONG, text)


def event_too_long(limit: int) -> WireError:
    """The error for an event above `limit` bytes."""
    text = f"an event of the stream is longer than {limit} bytes (limits.max_event_bytes)"
    return WireError(Code.SSE_EVENT_TOO_LONG, text)


class SseParser:
    """The event stream interpreter: any bytes in, events out, whatever the cuts.

    With `error_field`, a field named `error` (llama.cpp) acts as `event: error` with that data;
    the specification, and so the default, ignores it. Time is linear in the bytes. Comments and
    unknown fields are counted and dropped as they come. Limits are in bytes and lines.
    """

    def __init__(
        self,
        *,
        max_line_bytes: int = MAX_LINE_BYTES,
        max_event_bytes: int = MAX_EVENT_BYTES,
        max_data_lines: int = MAX_DATA_LINES,
        error_field: bool = False,
    ) -> None:
        self.last_event_id = ""
        self.retry: int | None = None
        self.comments = 0
        self.unknown_fields = 0
        self.replaced = 0
        self.empty_data = 0
        self.expect_bom = True
        self._max_line_bytes = max_line_bytes
        self._max_event_bytes = max_event_bytes
        self._max_data_lines = max_data_lines
        self._error_field = error_field
        self._head = b""
        self._line = bytearray()
        self._dropping = False
        self._skip_lf = False
        self._id = ""
        self._reset()

    def parse_chunk(self, chunk: Bytes) -> list[SseEvent]:
        """The events that `chunk` completes. Raises `WireError` at a limit, and nothing else."""
        data = bytes(chunk)
        if self.expect_bom:
            data = self._without_bom(data)
        if self._skip_lf and data:
            data = data[1:] if data[0] == 0x0A else data
            self._skip_lf = False
        if not data:
            return []
        if b"\r" in data:
            self._skip_lf = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = data.split(b"\n")
        rest = lines.pop()
        events: list[SseEvent] = []
        try:
            if lines:
                lines[0] = self._first_line(lines[0])
                for line in lines:
                    if line:
                        self._field(line)
                    elif (event := self._dispatch()) is not None:
                        events.append(event)
            self._keep(rest)
        except WireError as error:
            error.events = events
            raise
        return events

    def end(self) -> SseEvent | None:
        """The event that the end of the body cut short, which the specification discards."""
        line = bytes(self._line)
        self._line.clear()
        if line.startswith((b"data:", b"event:", b"error:")):
            self._field(line)
        if not self._data:
            return None
        return SseEvent(
            self._event or "message", "\n".join(self._data), self._id, self._block_retry
        )

    def _without_bom(self, data: bytes) -> bytes:
        data = self._head + data
        if len(data) < len(_BOM) and _BOM.startswith(data):
            self._head = data
            return b""
        self.expect_bom = False
        self._head = b""
        return data.removeprefix(_BOM)

    def _first_line(self, line: bytes) -> bytes:
        """The kept beginning of a line and its end; a dropped one counts as a comment's colon."""
        if self._dropping:
            self._dropping = False
            line = bytes(self._line)
        elif self._line:
            line = bytes(self._line + line)
        self._line.clear()
        return line

    def _keep(self, rest: bytes) -> None:
        """Keep an unfinished line, or only its first byte if nobody will ask for it."""
        if self._dropping or not rest:
            return
        self._line += rest
        if _unwanted(self._line[:_PREFIX]):
            self._dropping = True
            del self._line[1:]
        elif len(self._line) > self._max_line_bytes:
            raise line_too_long(self._max_line_bytes)

    def _reset(self) -> None:
        self._event = ""
        self._data: list[str] = []
        self._size = 0
        self._block_retry: int | None = None

    def _field(self, line: bytes) -> None:
        if line.startswith(b"data:"):
            self._check_line(line)
            self._add_data(self._text(line[6:] if line[5:6] == b" " else line[5:]))
            return
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"":
            self.comments += 1
        elif name == b"data":
            self._add_data("")
        elif name == b"event":
            self._check_line(line)
            self._event = self._text(value)
        elif name == b"id":
            self._check_line(line)
            if b"\0" not in value:
                self._id = self._text(value)
        elif name == b"retry":
            self._set_retry(value)
        elif name == b"error" and self._error_field:
            self._check_line(line)
            self._event = "error"
            self._add_data(self._text(value))
        else:
            self.unknown_fields += 1

    def _check_line(self, line: bytes) -> None:
        if len(line) > self._max_line_bytes:
            raise line_too_long(self._max_line_bytes)

    def _add_data(self, text: str) -> None:
        self._data.append(text)
        self._size += len(text) + 1
        if self._size > self._max_event_bytes:
            raise event_too_long(self._max_event_bytes)
        if len(self._data) > self._max_data_lines:
            raise WireError(
                Code.SSE_EVENT_TOO_LONG,
                f"an event of the stream has more than {self._max_data_lines} data lines",
            )

    def _set_retry(self, value: bytes) -> None:
        if value.isdigit():  # of bytes: ASCII digits only, as the specification wants
            self._block_retry = _RETRY_MAX_MS if len(value) > 16 else int(value)
            self.retry = self._block_retry

    def _text(self, value: bytes) -> str:
        try:
            return value.decode()
        except UnicodeDecodeError:
            self.replaced += 1
            return value.decode(errors="replace")

    def _dispatch(self) -> SseEvent | None:
        self.last_event_id = self._id
        if not self._data:
            if self._event or self._block_retry is not None:
                self._reset()
            return None
        data = self._data[0] if len(self._data) == 1 else "\n".join(self._data)
        if not data:
            self.empty_data += 1
        event = SseEvent(self._event or "message", data, self._id, self._block_retry)
        self._reset()
        return event


class SseFramer:
    """Cuts a body at event boundaries, so that what it hands on can be parsed without a past.

    A boundary is a blank line, that is one of the byte pairs LF LF, LF CR, CR CR (CR LF CR LF
    holds the second). Every byte is looked at once; long comments and unknown fields are dropped
    as they come, and so are blocks of comments and blank lines alone, but for the first: what comes
    out says something. A body that begins with `{` or `[` is an answer in JSON and kept whole.
    """

    def __init__(
        self, *, max_line_bytes: int = MAX_LINE_BYTES, max_event_bytes: int = MAX_EVENT_BYTES
    ) -> None:
        self._max_line_bytes = max_line_bytes
        self._max_event_bytes = max_event_bytes
        self._pending = bytearray()
        self._line = 0  # length of the unfinished line at the end of `_pending`
        self._compact_at = _COMPACT_BYTES
        self._compacted = 0  # bytes at the beginning of `_pending`: whole lines, all of fields
        self._skip_lf = False
        self._json: bool | None = None
        self._begun = False

    def feed(self, chunk: Bytes) -> bytes:
        """All whole events so far in one piece, or nothing. Raises `WireError` at a limit."""
        data = chunk if type(chunk) is bytes else bytes(chunk)
        if self._skip_lf and data:
            data = data[1:] if data[0] == 0x0A else data
            self._skip_lf = False
        if self._json is None:
            self._sniff(data)
        if not self._pending and data.endswith(b"\n\n"):
            return self._audible(data)
        end = self._boundary(data)
        if not end:
            self._append(data)
            return b""
        self._skip_lf = end == len(data) and data[-1] == 0x0D
        block = b"".join((self._pending, data[:end])) if self._pending else data[:end]
        self._pending[:] = data[end:]
        self._line = _last_line(self._pending)
        self._compact_at, self._compacted = _COMPACT_BYTES, 0
        return self._audible(block)

    def rest(self) -> bytes:
        """What is left at the end of the body: an unfinished event, or no events at all."""
        rest = bytes(self._pending)
        self._pending.clear()
        return rest

    def boundary(self, block: bytes, start: int, stop: int) -> int:
        """The end of the last event within `start` to `stop` of a block; `start` for none."""
        lines = ((block.rfind(line, start, stop), len(line)) for line in (b"\n\n", b"\r\n\r\n"))
        return max((at + size for at, size in lines if at >= 0), default=start)

    def _sniff(self, data: bytes) -> None:
        if head := (self._pending[:64] + data[:64]).removeprefix(_BOM).lstrip():
            self._json = head[0] in b"{["

    def _audible(self, block: bytes) -> bytes:
        """`block`, or nothing if it only keeps the connection alive.

        The first one always passes: a byte order mark is one only at the very beginning.
        """
        if block[0] in b":\r\n" and self._begun and _QUIET.fullmatch(block):
            return b""
        self._begun = True
        return block

    def _boundary(self, data: bytes) -> int:
        """The end of the last blank line in `data`, or 0."""
        end = data.rfind(b"\n\n") + 2
        if b"\r" in data:
            end = max(end, data.rfind(b"\n\r") + 2, data.rfind(b"\r\r") + 2)
        if end < 2:
            across = bytes(self._pending[-1:]) + data[:1]
            end = 1 if across in (b"\n\n", b"\n\r", b"\r\r") else 0
        if end and data[end - 1] == 0x0D and data[end : end + 1] == b"\n":
            end += 1
        return end

    def _append(self, data: bytes) -> None:
        line = _last_line(data)
        self._line = line if line < len(data) else self._line + line
        self._pending += data
        if not self._json and len(self._pending) > self._compact_at:
            self._compact()
        if self._line > self._max_line_bytes:
            self._pending.clear()  # nobody wants the rest of it
            raise line_too_long(self._max_line_bytes)
        if len(self._pending) > self._max_event_bytes:
            self._pending.clear()
            raise event_too_long(self._max_event_bytes)

    def _compact(self) -> None:
        """Drop comments and unknown fields; of an unfinished one keep the first byte."""
        if self._pending[-1] == 0x0D:  # the LF that may follow belongs to this line: wait for it
            return
        pending, last = self._pending, len(self._pending) - self._line
        if _unwanted(pending[last : last + _PREFIX]):
            del pending[last + 1 :]
            self._line = len(pending) - last
        # Kept lines end in LF now: behind CR, the LF of a blank line would look like a half CRLF.
        lines = bytes(pending[self._compacted : last]).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        kept = b"".join(line for line in lines.splitlines(keepends=True) if _is_field(line))
        pending[self._compacted : last] = kept
        self._compacted += len(kept)
        self._compact_at = len(pending) + _COMPACT_BYTES


def _unwanted(line: bytes | bytearray) -> bool:
    """Whether a line, of which this is the beginning, can not be a field that is read."""
    line = line.removeprefix(_BOM)
    known = line.startswith(_FIELDS) or len(line) < _LONGEST_FIELD
    return line.startswith(b":") or not known


def _is_field(line: bytes) -> bool:
    """Whether a whole line is a field that is read."""
    return line.removeprefix(_BOM).rstrip(b"\n").partition(b":")[0] + b":" in _FIELDS


def _last_line(data: bytes | bytearray) -> int:
    """The length of the unfinished line at the end of `data`."""
    return len(data) - 1 - max(data.rfind(b"\n"), data.rfind(b"\r"))
