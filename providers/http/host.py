"""The places for connections to one origin: how many there are, and who waits for one.

1. A connection has a place from before it is made until its socket is gone, idle or not.
2. Of the idle ones the last used is taken first: its peer is the least likely to have left.
3. Who finds no place waits, first come, first served: what becomes free is handed over, so nobody
   who comes later can take it. A handed-over connection was idle, or is the waiter's own to make.
4. Who is handed something and is gone by then hands it on.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import httpx

from ringcast.providers.http.connection import Connection


class Waiting(NamedTuple):
    """Somebody who would make `own`; an idle one will do as well, unless it must be `fresh`."""

    own: Connection
    fresh: bool


class Host:
    """Places, idle connections and waiters of one origin. No clock: who waits has one."""

    def __init__(self, limit: int) -> None:
        """At most `limit` connections at a time."""
        self.placed: set[Connection] = set()
        # Dicts, not lists: insertion order is the stack or the queue, and any one can be dropped.
        self.idle: dict[Connection, asyncio.TimerHandle | None] = {}
        self.waiting: dict[asyncio.Future[Connection], Waiting] = {}
        self._limit = limit

    @property
    def empty(self) -> bool:
        """Whether nothing is left to remember."""
        return not self.placed and not self.waiting

    def take(self) -> Connection | None:
        """An idle connection whose socket is open, the last one used first."""
        while self.idle:
            connection, expiry = self.idle.popitem()
            if expiry is not None:
                expiry.cancel()
            if connection.usable:
                return connection
        return None

    async def place(self, own: Connection, *, fresh: bool) -> Connection:
        """Return `own` once it has a place and may be made, or an idle connection in its stead."""
        if not fresh and (idle := self.take()) is not None:
            return idle
        waiter: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        self.waiting[waiter] = Waiting(own, fresh)
        self.serve()
        try:
            return await waiter
        except asyncio.CancelledError:
            self._leave(waiter)
            raise

    def release(self, connection: Connection, expiry: asyncio.TimerHandle | None) -> None:
        """`connection` is idle, and closed by `expiry`."""
        self.idle[connection] = expiry
        self.serve()

    def drop(self, connection: Connection) -> None:
        """`connection` is gone, or was never made; once is enough."""
        expiry = self.idle.pop(connection, None)
        if expiry is not None:
            expiry.cancel()
        self.placed.discard(connection)
        self.serve()

    def serve(self) -> None:
        """Hand over what is free."""
        while self.waiting:
            waiter, (own, fresh) = next(iter(self.waiting.items()))
            given = None if waiter.done() else self._free(own, fresh)
            if given is not None:
                waiter.set_result(given)
            elif not waiter.done():
                return
            del self.waiting[waiter]

    def close(self) -> None:
        """Tell all who wait that nothing will come."""
        for waiter in self.waiting:
            if not waiter.done():
                waiter.set_exception(httpx.CloseError("the transport was closed"))
        self.waiting.clear()

    def _free(self, own: Connection, fresh: bool) -> Connection | None:
        if not fresh and (idle := self.take()) is not None:
            return idle
        if len(self.placed) < self._limit:
            self.placed.add(own)
            return own
        if (idle := self.take()) is not None:
            idle.abort()  # its place comes free when its socket is gone
        return None

    def _leave(self, waiter: asyncio.Future[Connection]) -> None:
        """Rule 4, for an idle connection; a place is given back by who asked for it."""
        self.waiting.pop(waiter, None)
        handed = waiter.done() and not waiter.cancelled() and waiter.exception() is None
        if handed and (given := waiter.result()).kept:
            given.abort()
            self.drop(given)
