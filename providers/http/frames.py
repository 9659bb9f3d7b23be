"""HTTP/2 frames: where one ends and the next begins (RFC 9113 §4.1). Pure.

    +-----------------------------------------------+
    |                 Length (24)                   |
    +---------------+---------------+---------------+
    |   Type (8)    |   Flags (8)   |
    +-+-------------+---------------+-------------------------------+
    |R|                 Stream Identifier (31)                      |
    +=+=============================================================+
    |                   Frame Payload (0...)                      ...
    +---------------------------------------------------------------+

h2 would find the frames itself. They are cut here so that what was good before a bad one is not
lost with it, that a length is refused before the bytes come, and that GOAWAY can be kept from h2.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import httpx

HEAD_BYTES: Final = 9
# SETTINGS_MAX_FRAME_SIZE where nothing else was agreed, and we ask for nothing else (§6.5.2).
MAX_FRAME_BYTES: Final = 16_384

DATA: Final = 0x0
SETTINGS: Final = 0x4
GOAWAY: Final = 0x7


class Frame(NamedTuple):
    """One whole frame; `octets` with its head."""

    kind: int
    octets: bytes


class Frames:
    """Cuts what a socket gives into frames; the unfinished one waits here, at most 16 KiB."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: memoryview) -> Iterator[Frame]:
        """Yield the frames that are complete now; `data` may be reused afterwards.

        Raises `httpx.RemoteProtocolError` at a frame that is longer than it may be.
        """
        self._rest += data
        start = 0
        while (end := self._end_of(start)) <= len(self._rest):
            yield Frame(self._rest[start + 3], bytes(self._rest[start:end]))
            start = end
        del self._rest[:start]

    def _end_of(self, start: int) -> int:
        head = self._rest[start : start + HEAD_BYTES]
        if len(head) < HEAD_BYTES:
            return start + HEAD_BYTES
        size = int.from_bytes(head[:3], "big")
        if size > MAX_FRAME_BYTES:
            raise httpx.RemoteProtocolError(
                f"bad HTTP/2: a frame of {size} bytes, at most {MAX_FRAME_BYTES} are allowed"
            )
        return start + HEAD_BYTES + size
