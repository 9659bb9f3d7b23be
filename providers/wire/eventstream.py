"""AWS event streams (`application/vnd.amazon.eventstream`): a framer, and a reader of messages.

A message is, big-endian: its length and that of its headers (4 bytes each), a CRC-32 of these
eight, headers, payload, and a CRC-32 of all before it. The encoding, as AWS defines it for
Smithy: https://smithy.io/2.0/aws/amazon-eventstream.html

Both checksums are verified by the framer and nowhere else: what is wrong on the way must be known
before a length is believed, and behind the framer a message only moves through our own memory.
Headers are verified where they are read, by the side that decodes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import Final
from zlib import crc32

import msgspec

from ringcast.errors import Code
from ringcast.providers.wire.sse import Bytes, WireError

MAX_HEADER_BYTES: Final = 128 << 10
MAX_PAYLOAD_BYTES: Final = 24 << 20

_PRELUDE: Final = struct.Struct(">III")
_LENGTHS: Final = struct.Struct(">II")
_CRC: Final = struct.Struct(">I")
_OVERHEAD: Final = _PRELUDE.size + _CRC.size

_SIZE: Final = struct.Struct(">H")
_NUMBERS: Final = {
    2: struct.Struct(">b"),
    3: struct.Struct(">h"),
    4: struct.Struct(">i"),
    5: struct.Struct(">q"),
    8: struct.Struct(">q"),
}
_BYTES, _STRING, _UUID = 6, 7, 9
_NAMES: Final = {"exception": ":exception-type", "error": ":error-code"}
_ENVELOPES: Final = 32


class EventStreamFramer:
    """Cuts a body at message boundaries, and checks lengths and checksums on the way.

    A checksum that is wrong ends the stream: no later boundary can be trusted. A message that is
    too long is refused as soon as its first 12 bytes are there.
    """

    def __init__(self, *, max_event_bytes: int = MAX_PAYLOAD_BYTES) -> None:
        """`max_event_bytes` bounds a payload, which is never more than 24 MiB."""
        self._limit = min(max_event_bytes, MAX_PAYLOAD_BYTES)
        self._pending = bytearray()
        self._needed = _PRELUDE.size  # bytes without which there is nothing new to see

    def feed(self, chunk: Bytes) -> bytes:
        """All whole messages so far in one piece, or nothing.

        Raises `WireError` (aws_prelude_crc, aws_message_crc, aws_bad_length, aws_too_long); its
        `block` holds the good messages before the bad one.
        """
        if self._pending:
            self._pending += chunk
            if len(self._pending) < self._needed:
                return b""
            data = bytes(self._pending)
        else:
            data = bytes(chunk)
        at, view = 0, memoryview(data)
        try:
            while size := self._message(view, at):
                at += size
        except WireError as error:
            error.block = data[:at]
            raise
        finally:
            self._pending[:] = view[at:]
        return data[:at]

    def rest(self) -> bytes:
        """Nothing: a body ends with its last message. Raises `WireError` (aws_truncated)."""
        if self._pending:
            left = len(self._pending)
            text = f"the stream ended {left} bytes into a message of {self._needed} or more"
            raise WireError(Code.AWS_TRUNCATED, text)
        return b""

    def boundary(self, block: bytes, start: int, stop: int) -> int:
        """The end of the last message within `start` to `stop` of a block; `start` for none."""
        while start + _LENGTHS.size <= stop:
            end = start + int.from_bytes(block[start : start + 4], "big")
            if end > stop:
                break
            start = end
        return start

    def _message(self, view: memoryview, at: int) -> int:
        """The length of the whole, good message at `at`; 0 as long as more has to come."""
        left = len(view) - at
        if left < _PRELUDE.size:
            self._needed = _PRELUDE.size
            return 0
        total, headers, checksum = _PRELUDE.unpack_from(view, at)
        crc = crc32(view[at : at + _LENGTHS.size])
        if crc != checksum:
            raise _wrong(Code.AWS_PRELUDE_CRC, "prelude")
        self._check(total, headers)
        if left < total:
            self._needed = total
            return 0
        end = at + total - _CRC.size
        # The message's checksum begins with the bytes of the prelude's.
        if crc32(view[at + _LENGTHS.size : end], crc) != _CRC.unpack_from(view, end)[0]:
            raise _wrong(Code.AWS_MESSAGE_CRC, "message")
        return int(total)

    def _check(self, total: int, headers: int) -> None:
        payload = total - headers - _OVERHEAD
        if headers > MAX_HEADER_BYTES:
            text = f"headers of {headers} bytes, and at most {MAX_HEADER_BYTES} are allowed"
            raise WireError(Code.AWS_TOO_LONG, text)
        if payload > self._limit:
            limit = f"{self._limit} are allowed (limits.max_event_bytes, and never over 24 MiB)"
            raise WireError(Code.AWS_TOO_LONG, f"a payload of {payload} bytes, and {limit}")
        if payload < 0:
            raise bad_length(total, headers)


class Header(msgspec.Struct, frozen=True, gc=False):
    """A header's value with its type on the wire, 0 to 9; a timestamp is in ms since 1970."""

    type: int
    value: bool | int | bytes | str


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """What a message's headers say of its payload.

    `kind` is event, exception or error; `name` the event's or exception's type or the error's
    code; `message` comes with an error, which has no payload.
    """

    kind: str
    name: str
    message: str


def messages(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Headers and payload, both as they came, of each message in a framed block.

    Raises `WireError` (aws_bad_length) for a block that is none.
    """
    at, size = 0, len(block)
    while at < size:
        if size - at < _OVERHEAD:
            raise bad_length(size - at, 0)
        total, length = _LENGTHS.unpack_from(block, at)
        start = at + _PRELUDE.size + length
        if not start + _CRC.size <= at + total <= size:
            raise bad_length(total, length)
        yield block[at + _PRELUDE.size : start], block[start : at + total - _CRC.size]
        at += total


@lru_cache(_ENVELOPES)
def envelope(block: bytes) -> Envelope:
    """The headers of a message, which are the same bytes for every event of a type.

    Raises `WireError` (aws_headers).
    """
    found = {
        name: header.value for name, header in headers(block).items() if header.type == _STRING
    }
    kind = str(found.get(":message-type", "event"))
    field = {"exception": ":exception-type", "error": ":error-code"}.get(kind, ":event-type")
    return Envelope(kind, str(found.get(field, "")), str(found.get(":error-message", "")))


def headers(block: bytes) -> dict[str, Header]:
    """All headers of a message by name. Raises `WireError` (aws_headers)."""
    found: dict[str, Header] = {}
    at = 0
    while at < len(block):
        try:
            name, header, at = _header(block, at)
        except (IndexError, struct.error, UnicodeDecodeError) as error:
            raise _bad_headers(f"byte {at}: {error}") from None
        if not name or name in found:
            raise _bad_headers(f"{name!r} is given twice" if name else "a header without a name")
        found[name] = header
    return found


def _header(block: bytes, at: int) -> tuple[str, Header, int]:
    """Name and value of the header at `at`, and where the next one begins."""
    end = at + 1 + block[at]
    name, kind, at = block[at + 1 : end].decode(), block[end], end + 1
    if kind in (0, 1):
        return name, Header(kind, kind == 0), at
    if (number := _NUMBERS.get(kind)) is not None:
        return name, Header(kind, number.unpack_from(block, at)[0]), at + number.size
    if kind not in (_BYTES, _STRING, _UUID):
        raise _bad_headers(f"{name!r} is of the unknown type {kind}")
    size = 16
    if kind != _UUID:
        size, at = _SIZE.unpack_from(block, at)[0], at + _SIZE.size
    value = block[at : at + size]
    if len(value) < size:
        raise _bad_headers(f"{name!r} does not end within the headers")
    return name, Header(kind, value.decode() if kind == _STRING else value), at + size


def bad_length(total: int, headers: int) -> WireError:
    """The error for lengths that contradict each other."""
    text = f"a message of {total} bytes can not have headers of {headers}"
    return WireError(Code.AWS_BAD_LENGTH, text)


def _wrong(code: Code, what: str) -> WireError:
    return WireError(code, f"the checksum of a {what} in the AWS event stream is wrong")


def _bad_headers(why: str) -> WireError:
    return WireError(Code.AWS_HEADERS, f"bad headers in the AWS event stream: {why}")
