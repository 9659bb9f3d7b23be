"""HTTP/2 as a client speaks it, without I/O (RFC 9113): requests become bytes, bytes events.

h2 (https://python-hyper.org/projects/h2) is the protocol; this file adds the limits, and what a
client decides.

1. Windows. A stream may send 64 KiB beyond what its reader has taken, so that one that is not
   read costs that much and no more. The connection's own window is opened again for all that
   comes: no stream that is held back takes it from the others.
2. GOAWAY: streams above the last one it names were not begun and may be sent elsewhere; the others
   go on, and no new one is opened (§6.8). h2 would end the connection, so it is not told.
3. RST_STREAM ends its stream only. REFUSED_STREAM says that it was not begun (§8.7).
4. Whatever is against the protocol ends the connection (§5.4.1): what its compression or its
   windows were agreed to be is not known any more.
5. More than `FLOOD` frames in a row that bring nothing of an answer end the connection; so do 64
   CONTINUATIONs (h2's limit), and headers beyond our limits, before they are unpacked.
6. A connection carries `MOST_REQUESTS` and is then left: h2 remembers each for ever.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple, TypeAlias

import httpx
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)
from h2.exceptions import DenialOfServiceError, H2Error
from h2.settings import SettingCodes, Settings
from hpack import HeaderTuple, NeverIndexedHeaderTuple

from ringcast.config import Limits
from ringcast.providers.http.carrier import Unprocessed
from ringcast.providers.http.frames import DATA, GOAWAY, HEAD_BYTES, SETTINGS, Frame, Frames
from ringcast.providers.http.http1 import FRAMING

# What a stream has where nothing else was agreed (§6.9.2), and what the connection gets.
STREAM_WINDOW: Final = 65_535
CONNECTION_WINDOW: Final = 16 << 20
MOST_STREAMS: Final = 1000
MOST_REQUESTS: Final = 10_000
FLOOD: Final = 1000
_ENCODER_TABLE: Final = 4096  # of headers that we sent; the server may offer any size
# What only HTTP/1.1 has (§8.2.2), and what travels as a pseudo-header.
_DROPPED: Final = FRAMING | {b"connection", b"keep-alive", b"proxy-connection", b"upgrade", b"host"}
_KEYS: Final = (b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key")
_GOODBYE: Final = struct.Struct(">II")

# hpack would tell a debug log every header, and so every key.
logging.getLogger("hpack").setLevel(logging.WARNING)


class Head(NamedTuple):
    """The head of an answer has come."""

    stream: int
    status: int
    headers: list[tuple[bytes, bytes]]


class Data(NamedTuple):
    """A piece of a body has come."""

    stream: int
    data: bytes


class End(NamedTuple):
    """A stream is over: with its answer complete, or by an error."""

    stream: int
    error: httpx.HTTPError | None


Happening: TypeAlias = Head | Data | End


def fields(request: httpx.Request, size: int) -> list[HeaderTuple]:
    """Return a checked request's header fields (§8.3.1); keys are marked as never to be indexed."""
    found = [
        HeaderTuple(b":method", request.method.encode()),
        HeaderTuple(b":scheme", request.url.scheme.encode()),
        HeaderTuple(b":authority", request.headers.get("host", "").encode() or request.url.netloc),
        HeaderTuple(b":path", request.url.raw_path),
    ]
    framed = bool(size)
    for name, value in request.headers.raw:
        lower = name.lower()
        framed = framed or lower in FRAMING
        if lower not in _DROPPED:
            field = NeverIndexedHeaderTuple if lower in _KEYS else HeaderTuple
            found.append(field(lower, value.strip()))
    if framed:
        found.append(HeaderTuple(b"content-length", b"%d" % size))
    return found


class Session:
    """One connection's requests and answers. After each call `output` may have bytes to write."""

    def __init__(self, limits: Limits) -> None:
        """Say hello: our settings, and the connection's window."""
        self.draining = False  # whether no request may be opened any more
        self.greeted = False  # whether the server has said what it allows
        self._limits = limits
        self._frames = Frames()
        self._useless = 0  # frames since the last one of use (rule 5)
        self._untaken: dict[int, int] = {}  # of open streams: bytes taken, the window not opened
        self._headed: set[int] = set()
        self._unsent: dict[int, memoryview] = {}
        self._h2 = H2Connection(H2Configuration(client_side=True))
        self._h2.local_settings = Settings(
            client=True,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.MAX_HEADER_LIST_SIZE: limits.max_header_bytes,
            },
        )
        self._h2.decoder.max_header_list_size = limits.max_header_bytes
        self._h2.initiate_connection()
        self._open_window()

    @property
    def capacity(self) -> int:
        """How many requests may be open at a time; one until the server's SETTINGS have come."""
        if not self.greeted:
            return 1
        return min(self._h2.remote_settings.max_concurrent_streams, MOST_STREAMS)

    def open(self, request: httpx.Request, content: bytes) -> int:
        """Begin a checked request, and return its stream.

        Raises `Unprocessed` if the server takes no more, `httpx.LocalProtocolError` for headers
        that HTTP/2 does not know.
        """
        if self.draining or len(self._untaken) >= self.capacity:
            raise Unprocessed("the server takes no more requests on this connection")
        stream = self._h2.get_next_available_stream_id()
        try:
            headers = fields(request, len(content))
            self._h2.send_headers(stream, headers, end_stream=not content)
        except H2Error:  # its text has the header's value; what was agreed on is not known now
            self.draining = True
            raise httpx.LocalProtocolError("HTTP/2 cannot send one of the headers") from None
        self.draining = stream // 2 + 1 >= MOST_REQUESTS
        self._untaken[stream] = 0
        if content:
            self._unsent[stream] = memoryview(content)
        self._useless = 0
        return stream

    def pump(self) -> bool:
        """Put one frame of a request's body into `output`; whether the windows let one through."""
        for stream, rest in self._unsent.items():
            window = self._h2.local_flow_control_window(stream)
            size = min(len(rest), window, self._h2.max_outbound_frame_size)
            if size > 0:
                del self._unsent[stream]  # to the end of the queue: all have their turn
                self._h2.send_data(stream, rest[:size], end_stream=size == len(rest))
                if size < len(rest):
                    self._unsent[stream] = rest[size:]
                self._useless = 0
                return True
        return False

    def taken(self, stream: int, size: int) -> None:
        """The reader has taken `size` bytes: when it is half a window, let as much more come."""
        if stream not in self._untaken:
            return
        self._untaken[stream] += size
        if self._untaken[stream] >= STREAM_WINDOW // 2:
            self._h2.increment_flow_control_window(self._untaken[stream], stream)
            self._untaken[stream] = 0

    def cancel(self, stream: int) -> None:
        """Tell the server that nobody waits for the rest."""
        if self._forget(stream):
            self._h2.reset_stream(stream, ErrorCodes.CANCEL)

    def output(self) -> bytes:
        """Return what is to be written, once."""
        return self._h2.data_to_send()

    def feed(self, data: memoryview) -> Iterator[Happening]:
        """Yield what one read brings; `data` may be reused when all was yielded.

        Raises `httpx.RemoteProtocolError` for what ends the connection (rule 4); `output` then has
        the words of parting.
        """
        for frame in self._frames.feed(data):
            self._judge(frame)
            if frame.kind == GOAWAY:
                yield from self._goaway(frame.octets[HEAD_BYTES:])
            else:
                for event in self._events(frame):
                    yield from self._happenings(event)
        if self._h2.inbound_flow_control_window < CONNECTION_WINDOW // 2:
            self._open_window()

    def _open_window(self) -> None:
        missing = CONNECTION_WINDOW - self._h2.inbound_flow_control_window
        self._h2.increment_flow_control_window(missing)

    def _judge(self, frame: Frame) -> None:
        if not self.greeted:  # §3.4
            if frame.kind != SETTINGS:
                raise httpx.RemoteProtocolError("bad HTTP/2: it does not begin with SETTINGS")
            self.greeted = True
        self._useless += 1
        if self._useless > FLOOD:
            text = f"{FLOOD} frames in a row brought nothing of an answer"
            raise httpx.RemoteProtocolError(f"bad HTTP/2: {text}")
        if frame.kind == DATA and len(frame.octets) > HEAD_BYTES:
            self._useless = 0

    def _events(self, frame: Frame) -> list[Event]:
        try:
            return self._h2.receive_data(frame.octets)
        except DenialOfServiceError:
            limit = self._limits.max_header_bytes
            text = f"response headers over limits.max_header_bytes ({limit})"
            raise httpx.RemoteProtocolError(text) from None
        except H2Error as error:
            raise httpx.RemoteProtocolError(f"bad HTTP/2: {error}"[:200]) from error

    def _happenings(self, event: Event) -> Iterator[Happening]:
        match event:
            case DataReceived(stream_id=stream) if stream in self._untaken:
                self.taken(stream, event.flow_controlled_length - len(event.data))  # padding
                if event.data:
                    yield Data(stream, event.data)
            case ResponseReceived(stream_id=stream) if stream in self._untaken:
                yield self._head(stream, event.headers)
            case StreamEnded(stream_id=stream):
                unsent = stream in self._unsent
                if self._forget(stream):
                    if unsent:  # the answer is complete without the rest of the request
                        self._h2.reset_stream(stream, ErrorCodes.NO_ERROR)
                    self._useless = 0
                    yield End(stream, None)
            case StreamReset(stream_id=stream):
                headed = stream in self._headed
                if self._forget(stream):
                    yield End(stream, _reset(event, headed))
            case RemoteSettingsChanged():
                encoder = self._h2.encoder
                encoder.header_table_size = min(encoder.header_table_size, _ENCODER_TABLE)

    def _head(self, stream: int, headers: Iterable[tuple[bytes, bytes]]) -> Head | End:
        # `:status` is first, and the only one of its sort (§8.3): that h2 has seen to.
        (_, status), *rest = [(bytes(name), bytes(value)) for name, value in headers]
        if error := self._fault(status, rest):
            self.cancel(stream)
            return End(stream, httpx.RemoteProtocolError(error))
        self._useless = 0
        self._headed.add(stream)
        return Head(stream, int(status), rest)

    def _fault(self, status: bytes, headers: list[tuple[bytes, bytes]]) -> str:
        """Say what is wrong with a head that h2 has nothing against."""
        if not (len(status) == 3 and status.isdigit()):
            return f"bad status: {status[:20]!r}"
        if len(headers) > self._limits.max_headers:
            return f"response headers over limits.max_headers ({self._limits.max_headers})"
        return ""

    def _goaway(self, payload: bytes) -> Iterator[Happening]:
        """Rule 2."""
        if len(payload) < _GOODBYE.size:
            raise httpx.RemoteProtocolError("bad HTTP/2: a GOAWAY that is cut short")
        self.draining = True
        last, code = _GOODBYE.unpack_from(payload)
        text = f"the server takes no more requests on this connection ({_name(code)})"
        for stream in [one for one in self._untaken if one > last & 0x7FFF_FFFF]:
            self._forget(stream)
            yield End(stream, Unprocessed(text))

    def _forget(self, stream: int) -> bool:
        """Whether the stream was still open; it is not any more."""
        self._unsent.pop(stream, None)
        self._headed.discard(stream)
        return self._untaken.pop(stream, None) is not None


def _reset(event: StreamReset, headed: bool) -> httpx.HTTPError:
    """Rule 3."""
    if not event.remote_reset:
        return httpx.RemoteProtocolError("bad HTTP/2: the stream's window overflowed")
    name = _name(event.error_code or 0)
    if event.error_code == ErrorCodes.REFUSED_STREAM and not headed:
        return Unprocessed(f"the server refused the request ({name})")
    return httpx.ReadError(f"the server reset the stream ({name})")


def _name(code: int) -> str:
    try:
        return ErrorCodes(code).name
    except ValueError:
        return f"error {code:#x}"
