"""Newline-delimited JSON, as Ollama streams it: one object a line, each ended by LF.

https://github.com/ndjson/ndjson-spec
"""

from __future__ import annotations

from typing import Final

from ringcast.errors import Code
from ringcast.providers.wire.sse import (
    MAX_EVENT_BYTES,
    MAX_LINE_BYTES,
    Bytes,
    WireError,
    event_too_long,
)

_BOM: Final = b"\xef\xbb\xbf"


class NdjsonFramer:
    """Cuts a body at its line ends.

    A body whose first line is no object in braces (a page of HTML, indented JSON) is no stream of
    lines, and kept whole. Every byte is looked at once.
    """

    def __init__(
        self, *, max_line_bytes: int = MAX_LINE_BYTES, max_event_bytes: int = MAX_EVENT_BYTES
    ) -> None:
        self._max_line_bytes = max_line_bytes
        self._max_event_bytes = max_event_bytes
        self._pending = bytearray()
        self._lines: bool | None = None  # whether it is a stream of lines, once that is known

    def feed(self, chunk: Bytes) -> bytes:
        """All whole lines so far in one piece, or nothing. Raises `WireError` at a limit."""
        data = bytes(chunk)
        end = data.rfind(b"\n") + 1
        if self._lines is None and end:
            data = self._sniffed(data)
            end = data.rfind(b"\n") + 1
        if not end or not self._lines:
            self._keep(data)
            return b""
        block = bytes(self._pending + data[:end]) if self._pending else data[:end]
        self._pending[:] = data[end:]
        return block

    def rest(self) -> bytes:
        """What is left at the end of the body: a line without its end, or no lines at all."""
        rest = bytes(self._pending)
        self._pending.clear()
        return rest

    def boundary(self, block: bytes, start: int, stop: int) -> int:
        """The end of the last line within `start` to `stop` of a block; `start` for none."""
        return max(start, block.rfind(b"\n", start, stop) + 1)

    def _sniffed(self, data: bytes) -> bytes:
        """The body so far from its first line on, which is looked at once it is whole."""
        body = (self._pending + data).removeprefix(_BOM).lstrip()
        self._pending.clear()
        line, end, _ = body.partition(b"\n")
        if end:
            line = line.rstrip()
            self._lines = line.startswith(b"{") and line.endswith(b"}")
        return bytes(body)

    def _keep(self, data: bytes) -> None:
        self._pending += data
        if self._lines is False:
            if len(self._pending) > self._max_event_bytes:
                raise event_too_long(self._max_event_bytes)
        elif len(self._pending) > self._max_line_bytes:
            limit = f"{self._max_line_bytes} bytes (limits.max_line_bytes)"
            text = f"a line of the stream is longer than {limit}"
            raise WireError(Code.NDJSON_LINE_TOO_LONG, text)
