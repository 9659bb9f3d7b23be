"""Where a pipeline's bytes come from: chunk by chunk as they are asked for, or read ahead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from types import TracebackType
from typing import Final, Protocol, Self

STALL_S: Final = 30.0


class Window(Protocol):
    """Permits for bytes that are read and not yet dealt with; `BackpressureController` is one."""

    async def acquire(self, n: int, timeout_s: float = STALL_S) -> None:
        """Take `n` permits. Raises a `RingcastError` with a `code` after `timeout_s` seconds."""

    def release(self, n: int) -> None:
        """Give `n` permits back."""


class InStep:
    """Reads a chunk when it is asked for one. To be entered once; at its exit all is closed."""

    def __init__(self, chunks: AsyncIterable[bytes]) -> None:
        self._chunks = aiter(chunks)
        # The chunk that somebody asked for who ran out of patience.
        self._waiting: asyncio.Task[bytes | None] | None = None

    async def __aenter__(self) -> Self:
        """Begin."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave nothing running or open."""
        if self._waiting is not None:
            await _stop(self._waiting)
        await _close(self._chunks)

    async def take(self, patience_s: float | None = None) -> bytes | None:
        """Return the next chunk, or None at the end; raise what its origin raises.

        After `patience_s` seconds without one return nothing, `b""`; then one may ask again.
        """
        if patience_s is None and self._waiting is None:
            return await self._next()
        task = self._waiting = self._waiting or asyncio.create_task(self._next())
        if not (await asyncio.wait([task], timeout=patience_s))[0]:
            return b""
        self._waiting = None
        return task.result()

    def done(self, size: int) -> None:
        """Do nothing: who asks for the next is done with the last."""

    async def _next(self) -> bytes | None:
        return await anext(self._chunks, None)


class ReadAhead:
    """Reads in a task of its own, as far as a window allows. Entered once, like `InStep`."""

    def __init__(
        self, chunks: AsyncIterable[bytes], window: Window, stall_s: float = STALL_S
    ) -> None:
        """Wait `stall_s` seconds at most for room in the window: then the reader has stalled."""
        self._chunks = aiter(chunks)
        self._window = window
        self._stall_s = stall_s
        self._held = 0  # permits that are taken
        self._ready: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        """Begin to read."""
        self._task = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop reading and give every permit back."""
        await _stop(self._task)
        await _close(self._chunks)
        self.done(self._held)

    async def take(self, patience_s: float | None = None) -> bytes | None:
        """Return the next chunk, or None at the end; raise what its origin or the window raises.

        After `patience_s` seconds without one return nothing, `b""`; then one may ask again.
        """
        try:
            async with asyncio.timeout(patience_s if self._ready.empty() else None):
                chunk = await self._ready.get()
        except TimeoutError:
            return b""
        if chunk is None:
            await self._task
        return chunk

    def done(self, size: int) -> None:
        """Give the permits of a chunk of `size` bytes back."""
        if size:
            self._held -= size
            self._window.release(size)

    async def _read(self) -> None:
        try:
            async for chunk in self._chunks:
                if chunk:
                    await self._window.acquire(len(chunk), self._stall_s)
                    self._held += len(chunk)
                    self._ready.put_nowait(chunk)
        finally:
            self._ready.put_nowait(None)
            await _close(self._chunks)  # who stalls may not come back for long


async def _stop(task: asyncio.Task[bytes | None] | asyncio.Task[None]) -> None:
    """Cancel a task and see its end; what it raised nobody asked for any more."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()


async def _close(chunks: AsyncIterator[bytes]) -> None:
    """Close a generator; other iterators have nothing to close."""
    if isinstance(chunks, AsyncGenerator):
        await chunks.aclose()
