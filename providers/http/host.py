"""The places for connections to one origin: how many there are, and who waits for one.

1. A connection has a place from before it is made until its socket is gone, idle or not.
2. Of those with room the last used is taken first: its peer is the least likely to have left.
3. Who finds no place waits, first come, first served: what becomes free is handed over, so nobody
   who comes later can take it. A handed-over connection had room, or is the waiter's own to make.
4. Who is handed something and is gone by then hands it on.
5. Where connections may turn out to be shared (HTTP/2), only one is made at a time, until it is
   known how much it can carry: it may have room for all who wait.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import httpx

from ringcast.providers.http.carrier import Carrier


class Waiting(NamedTuple):
    """Somebody who would make `own`; one with room will do as well, unless it must be `fresh`."""

    own: Carrier
    fresh: bool


class Host:
    """Places, connections with room and waiters of one origin. No clock: who waits has one."""

    def __init__(self, limit: int, *, sharing: bool = False) -> None:
        """At most `limit` connections at a time; `sharing` is rule 5."""
        self.placed: set[Carrier] = set()
        # Dicts, not lists: insertion order is the stack or the queue, and any one can be dropped.
        self.free: dict[Carrier, asyncio.TimerHandle | None] = {}
        self.waiting: dict[asyncio.Future[Carrier], Waiting] = {}
        self._making: set[Carrier] = set()
        self._limit = limit
        self._sharing = sharing

    @property
    def empty(self) -> bool:
        """Whether nothing is left to remember."""
        return not self.placed and not self.waiting

    @property
    def full(self) -> bool:
        """Whether all places are taken."""
        return len(self.placed) >= self._limit

    @property
    def idle(self) -> int:
        """How many connections carry nothing."""
        return sum(carrier.idle for carrier in self.free)

    def take(self, *, fresh: bool = False) -> Carrier | None:
        """A connection with room, the last one used first; `fresh` is one not used before."""
        for carrier in reversed(self.free):
            if carrier.usable and not (fresh and carrier.kept):
                self._withdraw(carrier)
                carrier.take()
                if carrier.room:
                    self.free[carrier] = None
                return carrier
        return None

    async def place(self, own: Carrier, *, fresh: bool) -> Carrier:
        """Return `own` once it has a place and may be made, or one with room in its stead."""
        if (free := self.take(fresh=fresh)) is not None:
            return free
        waiter: asyncio.Future[Carrier] = asyncio.get_running_loop().create_future()
        self.waiting[waiter] = Waiting(own, fresh)
        self.serve()
        try:
            return await waiter
        except asyncio.CancelledError:
            self._leave(waiter, own)
            raise

    def made(self, carrier: Carrier) -> None:
        """The socket of `carrier` is open; one that can be shared is not `known` yet."""
        self.placed.add(carrier)
        self._sharing = carrier.room
        if self._sharing:
            self._making.add(carrier)
        else:
            self._making.discard(carrier)
        self.serve()

    def known(self, carrier: Carrier) -> None:
        """How much `carrier` can carry is known, and it was released if that is more."""
        self._making.discard(carrier)
        self.serve()

    def release(self, carrier: Carrier, expiry: asyncio.TimerHandle | None) -> None:
        """`carrier` has room; if it is idle, it is closed by `expiry`."""
        self._withdraw(carrier)
        self.free[carrier] = expiry
        self.serve()

    def drop(self, carrier: Carrier) -> None:
        """`carrier` is gone, or was never made; once is enough."""
        self._withdraw(carrier)
        self._making.discard(carrier)
        self.placed.discard(carrier)
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

    def retire(self) -> None:
        """Use none of the connections again."""
        for carrier in list(self.free):
            self._withdraw(carrier)
            carrier.retire()

    def close(self) -> None:
        """Tell all who wait that nothing will come."""
        for waiter in self.waiting:
            if not waiter.done():
                waiter.set_exception(httpx.CloseError("the transport was closed"))
        self.waiting.clear()

    def _free(self, own: Carrier, fresh: bool) -> Carrier | None:
        if (free := self.take(fresh=fresh)) is not None:
            return free
        if self._sharing and self._making:
            return None
        if not self.full:
            self.placed.add(own)
            self._making.add(own)
            return own
        if (idle := next((one for one in self.free if one.idle), None)) is not None:
            self._withdraw(idle)
            idle.abort()  # its place comes free when its socket is gone
        return None

    def _withdraw(self, carrier: Carrier) -> None:
        expiry = self.free.pop(carrier, None)
        if expiry is not None:
            expiry.cancel()

    def _leave(self, waiter: asyncio.Future[Carrier], own: Carrier) -> None:
        """Rule 4, for one with room; a place is given back by who asked for it."""
        self.waiting.pop(waiter, None)
        handed = waiter.done() and not waiter.cancelled() and waiter.exception() is None
        if handed and (given := waiter.result()) is not own:
            given.give_back()
