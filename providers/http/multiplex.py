"""One HTTP/2 connection: a `Session` on an `asyncio.BufferedProtocol`, shared by many exchanges.

The socket is always read, for the windows bound what can come, and a stream that is held back
holds back itself only. Bodies of requests wait for the windows of the server, and for the socket.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast

import httpx

from ringcast.config import Limits
from ringcast.providers.http.body import READ_BYTES
from ringcast.providers.http.carrier import Answer, Origin, Owner, Unprocessed
from ringcast.providers.http.http1 import CutError
from ringcast.providers.http.http2 import Data, End, Happening, Head, Session
from ringcast.providers.http.patience import Patience
from ringcast.providers.http.stream import Stream

if TYPE_CHECKING:
    from asyncio.sslproto import _SSLProtocolTransport

# Bodies stop at the 64 KiB that a transport likes to hold. What is beyond this are requests' heads
# and answers to SETTINGS and PING that a server asks for and does not read.
MAX_UNREAD_BYTES: Final = 4 << 20


class Multiplex(asyncio.BufferedProtocol):
    """One socket; carries as many exchanges as the server allows."""

    def __init__(self, origin: Origin, buffer: memoryview, limits: Limits, owner: Owner) -> None:
        self.origin = origin
        self.kept = False
        self._buffer = buffer
        self._owner = owner
        self._session = Session(limits)
        self._streams: dict[int, Stream] = {}
        self._taken = 0  # exchanges that have room and are not begun
        self._retired = False
        self._known = False  # whether the owner was told that we know what the server allows
        self._reads = 0
        self._writable = True
        self._transport: asyncio.Transport | None = None

    # the carrier

    @property
    def usable(self) -> bool:
        """The socket is open, and neither side has said that it takes no more."""
        return self._open and not self._retired and not self._session.draining

    @property
    def room(self) -> bool:
        """Whether the server takes another request now."""
        return self.usable and len(self._streams) + self._taken < self._session.capacity

    @property
    def idle(self) -> bool:
        """Whether no exchange is under way or about to be."""
        return not self._streams and not self._taken

    @property
    def _open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def take(self) -> None:
        """Reserve room for one exchange."""
        self._taken += 1

    def give_back(self) -> None:
        """Nobody will use what was taken."""
        self._taken -= 1
        self._has_room()

    async def exchange(
        self, request: httpx.Request, content: bytes, timeout_s: float | None
    ) -> Answer:
        """See `Carrier.exchange`; a time-out or a cancel resets the stream."""
        stream = self._begin(request, content)
        try:
            async with Patience(timeout_s):
                await stream.head()
        except TimeoutError:
            stream.body.abort()
            raise httpx.ReadTimeout(
                f"no complete response head from {self.origin.address} within {timeout_s} s"
            ) from None
        except BaseException:
            stream.body.abort()
            raise
        return Answer("2", stream.status, stream.headers, stream.body)

    def retire(self) -> None:
        """Carry nothing new, and close as soon as nothing is carried."""
        self._retired = True
        self._has_room()

    def abort(self) -> None:
        """Close the socket at once."""
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """As `abort`, but whoever waits for an exchange gets `httpx.CloseError`."""
        self.abort()
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.close(httpx.CloseError("the transport was closed"))

    def _begin(self, request: httpx.Request, content: bytes) -> Stream:
        self._taken -= 1
        try:
            if not self.usable:
                raise Unprocessed("the connection was closed before the request was sent")
            number = self._session.open(request, content)
        except httpx.HTTPError:
            self._has_room()
            raise
        stream = self._streams[number] = Stream(number, self, self._reads)
        self._write()
        return stream

    def _has_room(self) -> None:
        """An exchange has ended, or the server allows more."""
        if self.room:
            self._owner.release(self)
        elif self.idle and not self.usable:
            self.abort()

    # the streams' side

    def granted(self, stream: Stream, size: int) -> None:
        """The reader of `stream` was given `size` bytes."""
        if stream.number in self._streams:
            self._session.taken(stream.number, size)

    def deliver(self, stream: Stream) -> None:
        """Give what is held of `stream`, in a turn of the loop's own."""
        stream.deliver()
        self._write()

    def cancel(self, stream: Stream) -> None:
        """Nobody reads `stream` any more; the others go on."""
        if self._streams.pop(stream.number, None) is not None and self._open:
            self._session.cancel(stream.number)
            self._write()
            self._has_room()

    # the loop's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        cast("_SSLProtocolTransport", transport).set_read_buffer_limits(READ_BYTES)
        self._owner.made(self)
        self._write()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._reads += 1
        room = self.room
        fresh: dict[Stream, None] = {}  # one delivery a read, however many frames it had
        try:
            for happening in self._session.feed(self._buffer[:nbytes]):
                self._tell(happening, fresh)
        except httpx.RemoteProtocolError as error:
            self._write()
            self._fail(error, fresh)
            return
        for stream in fresh:
            stream.deliver()
        self._write()
        if self.room != room or not self.usable:
            self._has_room()
        if self._session.greeted and not self._known:
            self._known = True
            self._owner.known(self)

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self._write()

    def eof_received(self) -> None:
        self._end_of_input(None)
        self.abort()  # asyncio's TLS would look open for some turns yet

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_of_input(exc)
        self._owner.lost(self)

    def _tell(self, happening: Happening, fresh: dict[Stream, None]) -> None:
        stream = self._streams.get(happening.stream)
        if stream is None:
            return
        match happening:
            case Data(_, data):
                stream.arrived(data)
                fresh[stream] = None
            case Head(_, status, headers):
                stream.answered(status, headers)
            case End(number, error):
                del self._streams[number]
                self.kept = self.kept or error is None
                stream.end(error)
                self._has_room()

    def _write(self) -> None:
        """Write what there is to say, and of bodies what the socket takes."""
        if not self._open:
            return
        assert self._transport is not None
        while True:
            if data := self._session.output():
                self._transport.write(data)
            if not (self._writable and self._session.pump()):
                break
        if self._transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            text = f"the server does not read what it asked for ({MAX_UNREAD_BYTES} bytes wait)"
            self._fail(httpx.RemoteProtocolError(f"bad HTTP/2: {text}"), {})

    def _end_of_input(self, exc: Exception | None) -> None:
        for stream in list(self._streams.values()):
            del self._streams[stream.number]
            stream.end(self._loss(stream, exc))

    def _loss(self, stream: Stream, exc: Exception | None) -> httpx.HTTPError:
        """Return what the connection's end means for a stream that has not ended."""
        if self.kept and stream.heard == self._reads:
            return Unprocessed("the server closed the connection while it was idle")
        if exc is None:
            return CutError("the server closed the connection before the answer was complete")
        error = httpx.ReadError(f"connection to {self.origin.address} broke: {exc}")
        error.__cause__ = exc
        return error

    def _fail(self, error: httpx.RemoteProtocolError, fresh: dict[Stream, None]) -> None:
        """What was good before is given still; then all streams end."""
        for stream in fresh:
            stream.deliver()
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.end(error)
        self.abort()
