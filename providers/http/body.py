"""The body of one response: pulled by `async for`, or pushed to two callbacks.

Pull is httpx's own way, for error bodies and short answers; at most one 64 KiB read more
than the reader has taken is held. Push is for streams: one callback a socket read, nothing
queued, and reading stops and starts with the stream's credit.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final, Protocol, TypeAlias

import httpx

OnData: TypeAlias = Callable[[bytes], None]
OnEnd: TypeAlias = Callable[[Exception | None], None]

READ_BYTES: Final = 64 << 10
# Until someone reads the body a read is small, so that what comes with the head and before
# any credit is at most 4 KiB; heads are mostly under 2 KiB.
HEAD_READ_BYTES: Final = 4 << 10


class Source(Protocol):
    """Where a body comes from: a connection, or a stream of one that is shared."""

    sink: OnData

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def limit_reads(self, size: int) -> None: ...
    def abort(self) -> None: ...


class Body(httpx.AsyncByteStream):
    """Bytes of one response, still chunk-decoded only (no Content-Encoding is undone).

    Until `start` or iteration at most 4 KiB are read ahead. When the message ends, its
    connection goes back to the pool at once and every method here becomes harmless.
    """

    def __init__(self, source: Source) -> None:
        self._source: Source | None = source
        self._queue: list[bytes] = []
        self._queued = 0
        # What may be queued before reading stops: anything at all stops it until a reader exists.
        self._high_water = 1
        self._read_limit = READ_BYTES
        self._held = False
        self._claimed = False
        self._ended = False
        self._error: Exception | None = None
        self._on_data: OnData | None = None
        self._on_end: OnEnd | None = None
        self._wakeup: asyncio.Future[None] | None = None

    # push

    def start(self, on_data: OnData, on_end: OnEnd) -> None:
        """Push from now on: `on_data` once a socket read, then `on_end` exactly once.

        `on_end` gets None, or the `httpx.ReadError` or `httpx.RemoteProtocolError` that cut
        the body. What came together with the head is delivered before `start` returns, and
        so may `on_end` be. After `abort` neither is called again.
        """
        self._claim()
        self._on_data, self._on_end = on_data, on_end
        if self._source is not None:
            self._source.sink = on_data
            self._source.limit_reads(self._read_limit)
        if not self._held:
            self._flush()

    def pause(self) -> None:
        """Stop reading; only the end of a read already made may still be told."""
        self._held = True
        if self._source is not None:
            self._source.pause_reading()

    def resume(self) -> None:
        """Read on, after delivering what was held back."""
        self._held = False
        self._flush()

    def limit_reads(self, size: int) -> None:
        """Let no later read take more than `size` bytes (1 and above; over 64 KiB is 64 KiB).

        The bytes include chunk framing, so `on_data` gets at most as many.
        """
        if size < 1:
            raise ValueError("a read takes at least one byte; pause instead")
        self._read_limit = min(size, READ_BYTES)
        if self._claimed and self._source is not None:
            self._source.limit_reads(self._read_limit)

    # pull

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield what has arrived, joined. Raises as `on_end` tells, or `httpx.StreamClosed`."""
        self._claim()
        self._high_water = READ_BYTES
        if self._source is not None:
            self._source.limit_reads(self._read_limit)
        while True:
            if self._queue:
                yield self._take()
            elif self._ended:
                break
            else:
                await self._arrival()
        if self._error is not None:
            raise self._error

    async def _arrival(self) -> None:
        if self._source is not None and not self._held:
            self._source.resume_reading()
        self._wakeup = asyncio.get_running_loop().create_future()
        try:
            await self._wakeup
        finally:
            self._wakeup = None

    # both

    def abort(self) -> None:
        """Close the socket, or reset the stream of a shared one, at once and in any state.

        A waiting reader gets `httpx.StreamClosed`.
        """
        source, self._source = self._source, None
        if source is not None:
            source.abort()
        self._on_data = self._on_end = None
        if not self._ended:
            self.end(httpx.StreamClosed())
        self._queue.clear()

    async def aclose(self) -> None:
        """`abort`, unless the response was read to its end.

        There is no await in it, so no cancellation can come between.
        """
        self.abort()

    # the source's side

    def queue(self, data: bytes) -> None:
        """Keep `data` for a reader, and stop reading when that is enough."""
        self._queue.append(data)
        self._queued += len(data)
        if self._queued >= self._high_water and self._source is not None:
            self._source.pause_reading()
        self._wake()

    def end(self, error: Exception | None) -> None:
        """The message has ended, or `error` cut it; the source is not ours any more."""
        self._source = None
        self._ended = True
        self._error = error
        self._wake()
        if self._on_end is not None and not self._queue:
            self._tell_end()

    def _claim(self) -> None:
        if self._claimed:
            raise httpx.StreamConsumed
        self._claimed = True

    def _flush(self) -> None:
        if self._queue and self._on_data is not None:
            self._on_data(self._take())
        if self._ended:
            self._tell_end()
        elif self._source is not None and not self._held and not self._queue:
            self._source.resume_reading()

    def _tell_end(self) -> None:
        on_end, self._on_data, self._on_end = self._on_end, None, None
        if on_end is not None:
            on_end(self._error)

    def _take(self) -> bytes:
        data = self._queue[0] if len(self._queue) == 1 else b"".join(self._queue)
        self._queue.clear()
        self._queued = 0
        return data

    def _wake(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)
