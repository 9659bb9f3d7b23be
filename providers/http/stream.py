"""One exchange of a multiplex: to its body it is what a whole connection is in HTTP/1.1.

What the server sends is held here until the body's reader wants it, at most one window (64 KiB);
only what the reader has been given is granted anew. The end waits for what is held before it.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import httpx

from ringcast.providers.http.body import HEAD_READ_BYTES, Body, OnData


class Line(Protocol):
    """Who carries streams: the multiplex."""

    def granted(self, stream: Stream, size: int) -> None: ...
    def deliver(self, stream: Stream) -> None: ...
    def cancel(self, stream: Stream) -> None: ...


class Stream:
    """Between a multiplex and a `Body`, whose source it is."""

    def __init__(self, number: int, line: Line, heard: int) -> None:
        """`heard` is how often the line had been read when the request was written."""
        self.number = number
        self.heard = heard
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = Body(self)
        self.sink: OnData = self.body.queue
        self._line = line
        self._loop = asyncio.get_running_loop()
        self._head: asyncio.Future[None] = self._loop.create_future()
        self._pending = bytearray()
        self._limit = HEAD_READ_BYTES
        self._paused = False
        self._over = False
        self._error: Exception | None = None

    async def head(self) -> None:
        """Wait for the head of the answer. Raises what ended the stream before it came."""
        await self._head

    # the body's side

    def pause_reading(self) -> None:
        """Hold what comes; idempotent."""
        self._paused = True

    def resume_reading(self) -> None:
        """Go on; idempotent. What is held is given in a later turn of the loop."""
        if self._paused:
            self._paused = False
            self._loop.call_soon(self._line.deliver, self)

    def limit_reads(self, size: int) -> None:
        """Give no more than `size` bytes at a time."""
        self._limit = size

    def abort(self) -> None:
        """Tell the server that nobody reads on, and forget what is held."""
        self._pending.clear()
        self._paused = True
        self._line.cancel(self)

    # the multiplex's side

    def answered(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """The head has come."""
        self.status, self.headers = status, headers
        if not self._head.done():
            self._head.set_result(None)

    def arrived(self, data: bytes) -> None:
        """Bytes of the body have come; `deliver` gives them."""
        self._pending += data

    def end(self, error: Exception | None) -> None:
        """Nothing more will come."""
        self._over, self._error = True, error
        if not self._head.done():
            self._head.set_exception(error or httpx.RemoteProtocolError("an answer without a head"))
        else:
            self.deliver()

    def close(self, error: Exception) -> None:
        """The transport is closed: what is held is of no use any more."""
        self._pending.clear()
        self._paused = False
        self.end(error)

    def deliver(self) -> None:
        """Give what is held, as far as the reader wants it, and then the end."""
        while self._pending and not self._paused:
            piece = bytes(self._pending[: self._limit])
            del self._pending[: self._limit]
            self._line.granted(self, len(piece))
            self.sink(piece)
        if self._over and not self._paused and not self._pending:
            self._paused = True  # once
            self.body.end(self._error)
