"""One HTTP/1.1 connection: an httptools parser on an `asyncio.BufferedProtocol`.

All connections of a transport read into one 64 KiB buffer: the parser copies what it keeps
before the loop can read another socket, so 1,000 streams own 64 KiB and not 64 MiB.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast

import httpx

from ringcast.config import Limits
from ringcast.providers.http.body import HEAD_READ_BYTES, READ_BYTES, Body, OnData
from ringcast.providers.http.carrier import Answer, Origin, Owner, Unprocessed
from ringcast.providers.http.http1 import CutError, ResponseParser, encode_request
from ringcast.providers.http.patience import Patience

if TYPE_CHECKING:
    from asyncio.sslproto import _SSLProtocolTransport


class Connection(asyncio.BufferedProtocol):
    """One socket; carries one exchange at a time, so that what was released is as good as taken."""

    room: Final = False

    def __init__(self, origin: Origin, buffer: memoryview, limits: Limits, owner: Owner) -> None:
        self.origin = origin
        self.kept = False
        self.sink: OnData
        self._buffer = buffer
        self._window = buffer[:HEAD_READ_BYTES]
        self._limits = limits
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self._response: ResponseParser | None = None
        self._body: Body | None = None
        self._head: asyncio.Future[None] | None = None
        self._paused = False

    @property
    def usable(self) -> bool:
        """The socket is open on our side, as far as the loop knows."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def idle(self) -> bool:
        """No exchange is under way."""
        return self._response is None

    def take(self) -> None:
        """Nothing to reserve: who has it has all of it."""

    def give_back(self) -> None:
        """It was taken from among the idle ones, where nobody puts it back."""
        self.abort()

    def retire(self) -> None:
        """Close the socket, which is idle."""
        self.abort()

    async def exchange(
        self, request: httpx.Request, content: bytes, timeout_s: float | None
    ) -> Answer:
        """See `Carrier.exchange`.

        A kept connection that dies before the first byte of an answer was closed by the server
        while idle: that is `Unprocessed`.
        """
        response = ResponseParser(self._limits, bodyless=request.method == "HEAD")
        kept, data = self.kept, encode_request(request, content)
        try:
            body = await self.send(data, response, timeout_s=timeout_s)
        except (httpx.ReadError, httpx.RemoteProtocolError) as error:
            if response.started or not kept:
                raise
            raise Unprocessed(f"the connection was closed while it was idle: {error}") from error
        return Answer(response.http_version, response.status, response.headers, body)

    async def send(self, data: bytes, response: ResponseParser, *, timeout_s: float | None) -> Body:
        """Write a request, wait until `response` has its head, and return the body to come.

        The wait is the first-byte clock. Raises `httpx.ReadTimeout`, `httpx.ReadError` (reset)
        and `httpx.RemoteProtocolError`; then, and when cancelled, the socket is closed.
        """
        if self._transport is None or self._transport.is_closing():  # nobody would tell us of it
            raise CutError("server disconnected without sending a response")
        assert self._response is None
        body = Body(self)
        head = asyncio.get_running_loop().create_future()
        self._response, self._body, self._head = response, body, head
        self.sink = body.queue
        self._window = self._buffer[:HEAD_READ_BYTES]
        self._transport.write(data)
        try:
            async with Patience(timeout_s):
                await head
        except TimeoutError:
            body.abort()
            raise httpx.ReadTimeout(
                f"no complete response head from {self.origin.address} within {timeout_s} s"
            ) from None
        except BaseException:
            # By the body: a complete response has already handed this connection on.
            body.abort()
            raise
        return body

    def abort(self) -> None:
        """Close the socket at once, unsent bytes and TLS goodbyes included."""
        self._detach()
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """As `abort`, but whoever waits for this exchange gets `httpx.CloseError`."""
        self._fail(httpx.CloseError("the transport was closed"))

    def pause_reading(self) -> None:
        """Stop reading the socket; idempotent."""
        if not self._paused and self.usable:
            self._paused = True
            cast(asyncio.Transport, self._transport).pause_reading()

    def resume_reading(self) -> None:
        """Read the socket again; idempotent."""
        if self._paused and self.usable:
            self._paused = False
            cast(asyncio.Transport, self._transport).resume_reading()

    def limit_reads(self, size: int) -> None:
        """Let no later read take more than `size` bytes."""
        self._window = self._buffer[:size]

    # the loop's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if transport.get_extra_info("ssl_object") is not None:
            # What OpenSSL may hold of a paused stream beside one raw read; 256 KiB by default.
            cast("_SSLProtocolTransport", transport).set_read_buffer_limits(READ_BYTES)
        self._owner.made(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._window

    def buffer_updated(self, nbytes: int) -> None:
        response = self._response
        if response is None:
            self.abort()  # bytes that no request asked for
            return
        failure: httpx.RemoteProtocolError | None = None
        try:
            response.feed(self._buffer[:nbytes])
        except httpx.RemoteProtocolError as error:
            failure = error
        if self._head is not None and response.head_complete:
            self._head_arrived()
        if response.pieces:
            # It may abort us; what follows then finds nobody to tell.
            self.sink(response.take())
        if failure is not None:
            self._fail(failure)
        elif response.complete:
            self._finish(response)

    def eof_received(self) -> None:
        self._end_of_input(None)

    def connection_lost(self, exc: Exception | None) -> None:
        # TLS without close_notify ends here without eof_received.
        self._end_of_input(exc)
        self._owner.lost(self)

    def _head_arrived(self) -> None:
        head, self._head = self._head, None
        if head is not None and not head.done():
            head.set_result(None)

    def _end_of_input(self, exc: Exception | None) -> None:
        response = self._response
        if response is None:
            return
        if exc is not None:
            failure = httpx.ReadError(f"connection to {self.origin.address} broke: {exc}")
            failure.__cause__ = exc
            self._fail(failure)
            return
        try:
            response.end_of_input()
        except httpx.RemoteProtocolError as error:
            self._fail(error)
        else:
            self._finish(response)

    def _finish(self, response: ResponseParser) -> None:
        body = self._detach()
        assert self._transport is not None
        self.kept = True
        # An answer that overtook its request leaves the rest of the request in the way.
        sent = self._transport.get_write_buffer_size() == 0
        if response.reusable and sent and self.usable:
            self.resume_reading()
            self._owner.release(self)
        else:
            self._transport.abort()
        if body is not None:
            body.end(None)

    def _fail(self, error: Exception) -> None:
        head, body = self._head, self._detach()
        if self._transport is not None:
            self._transport.abort()
        if head is not None and not head.done():
            head.set_exception(error)
        elif body is not None:
            body.end(error)

    def _detach(self) -> Body | None:
        body, self._body = self._body, None
        self._response = self._head = None
        return body
