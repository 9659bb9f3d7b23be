"""Credit: how far a stream may run ahead of the reader that pays for it.

Theory. Two cumulative positions say everything: `acquired` (given to the producer) and
`released` (the reader is done with it). What lies between is in flight and fits into the
window, whose size `capacity` adapts. In the daemon the unit is raw bytes of the response
body, because that is what a provider process can count before anything is decoded.

C1. The producer is told absolute limits, as in QUIC (RFC 9000 §4.1): a grant may be late,
    repeated or overtaken by the next. A limit once told is never taken back; after the window
    has shrunk the limit stands still until the reader has caught up.
C2. Records are whole, so one may overshoot a limit: at most a window and a record are in flight.
C3. Small steps are not told (silly window, RFC 9293 §3.8.6.2.2), but a reader that is done
    with everything always moves the limit: no stream can stand still on both sides.
C4. The window is judged once per look: a window's worth drained, or a second. It doubles when
    it was used up and lasts the reader less than 250 ms, so that a grant's round trip of up to
    50 ms never starves it; it halves when three quarters lay unused, or when it lasts more than
    625 ms. Each step lands well inside the bounds of the others: nothing swings.
C5. All windows together keep to a `Budget`, as far as its minimum for each allows.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from ringcast.errors import Code, RingcastError

HOLD_S: Final = 0.25  # a window lasts its reader at least this long
SLOW_S: Final = 0.625  # and at most this long: 2.5 holds, so that halving cannot ask for doubling
ROUND_TRIP_S: Final = 0.05  # clients give credit every 50 ms at least
LOOK_S: Final = 1.0
INITIAL: Final = 16 << 10
MAXIMUM: Final = 256 << 10


class BackpressureError(RingcastError):
    """Permits were not given. `code`: backpressure_timeout, or shutting_down after a close."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class Budget:
    """What all live windows may hold together.

    `share` — units that each may have now: an equal part, but never below `minimum`.
    """

    __slots__ = ("_live", "_total", "minimum", "share")

    def __init__(self, total: int, minimum: int = 1024) -> None:
        """`total` and `minimum` in units. Raises `ValueError` unless 1 <= minimum <= total."""
        if not 1 <= minimum <= total:
            raise ValueError(f"a budget of {total} cannot give anyone {minimum}")
        self.minimum = minimum
        self.share = total
        self._total = total
        self._live = 0

    def open(
        self,
        maximum: int = MAXIMUM,
        *,
        initial: int = INITIAL,
        clock: Callable[[], float] = time.monotonic,
    ) -> BackpressureController:
        """Return a new controller within this budget; it leaves again when it is closed."""
        self._count(1)
        return BackpressureController(
            self.minimum, max(maximum, self.minimum), initial=initial, clock=clock, budget=self
        )

    def _count(self, change: int) -> None:
        self._live += change
        self.share = max(self.minimum, self._total // max(1, self._live))


class BackpressureController:
    """One stream's window. Permits are units; it belongs to one thread, and to no loop.

    Within a process: `acquire` and `release`. Across processes: `reached` is what the producer
    was seen to use, `processed` what the reader is done with, `told` what to tell the producer.
    """

    __slots__ = (
        "_budget", "_clock", "_closed", "_mark", "_maximum", "_minimum", "_patient", "_peak",
        "_since", "_waiters", "acquired", "capacity", "released", "told",
    )  # fmt: skip

    def __init__(
        self,
        minimum: int = 1024,
        maximum: int = MAXIMUM,
        *,
        initial: int = INITIAL,
        clock: Callable[[], float] = time.monotonic,
        budget: Budget | None = None,
    ) -> None:
        """Open a window of `initial` units that adapts within `minimum` and `maximum`.

        `clock` gives seconds. `budget` is `Budget.open`'s affair: it counts those it opens.
        Raises `ValueError` unless 1 <= minimum <= maximum.
        """
        if not 1 <= minimum <= maximum:
            raise ValueError(f"no window lies between {minimum} and {maximum}")
        self._minimum = minimum
        self._maximum = maximum
        self._clock = clock
        self._budget = budget
        self.capacity = max(minimum, min(initial, self._ceiling))
        self.acquired = 0
        self.released = 0
        self.told = self.capacity
        self._waiters: deque[tuple[asyncio.Future[None], int]] = deque()
        self._closed = False
        # The look: where and when it began, and the most that was in flight or asked for in it.
        self._mark = 0
        self._since = clock()
        self._peak = 0
        # After a slow reader growth needs a full second's look: one that drains in bursts
        # seems fast within each of them, and its window would swing.
        self._patient = False

    @property
    def in_flight(self) -> int:
        """Permits that are given and not yet released."""
        return self.acquired - self.released

    @property
    def available(self) -> int:
        """Permits that the window has room for now."""
        return max(0, self.capacity - self.in_flight)

    @property
    def limit(self) -> int:
        """The position up to which the producer may go; one that was told stays good (C1)."""
        return max(self.told, self.released + self.capacity)

    @property
    def _ceiling(self) -> int:
        budget = self._budget
        return self._maximum if budget is None else min(self._maximum, budget.share)

    # within a process

    def try_acquire(self, n: int) -> bool:
        """Take `n` permits if nobody waits and they fit; more than a window only alone.

        Raises `BackpressureError` (shutting_down) after a close, `ValueError` for n < 1.
        """
        if n < 1:
            raise ValueError(f"cannot acquire {n} permits")
        if self._closed:
            raise _closed()
        asked = self.acquired - self.released + n
        if asked > self._peak:
            self._peak = asked
        if self._waiters or (asked > self.capacity and asked != n):
            return False
        self.acquired += n
        return True

    async def acquire(self, n: int, timeout_s: float = 30.0) -> None:
        """Take `n` permits, first come, first served; more than a window only alone.

        A waiter that is cancelled or runs out of time has taken nothing. Raises
        `BackpressureError`: backpressure_timeout after `timeout_s` seconds, shutting_down.
        """
        if self.try_acquire(n):
            return
        future = asyncio.get_running_loop().create_future()
        self._waiters.append((future, n))
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except BaseException as error:
            self._withdraw(future, n)
            if not isinstance(error, TimeoutError):
                raise
            text = f"no room for {n} within {timeout_s:g} s: the reader is done with too little"
            raise BackpressureError(Code.BACKPRESSURE_TIMEOUT, text) from None

    def release(self, n: int) -> None:
        """Give `n` permits back. Raises `ValueError` for more than are in flight, or n < 1."""
        if not 1 <= n <= self.in_flight:
            raise ValueError(f"cannot release {n} permits, {self.in_flight} are in flight")
        self.processed(self.released + n)

    def close(self) -> None:
        """Refuse whoever waits or comes, and leave the budget. Permits may still come back."""
        if self._closed:
            return
        self._closed = True
        if self._budget is not None:
            self._budget._count(-1)
        while self._waiters:
            future, _ = self._waiters.popleft()
            if not future.done():
                future.set_exception(_closed())

    # across processes

    def reached(self, position: int) -> None:
        """Note that the producer was seen at `position`; a lower one is old news."""
        if position > self.acquired:
            self.acquired = position

    def processed(self, position: int) -> bool:
        """Note that the reader is done with everything below `position`; a lower one is old.

        Returns whether `told` has moved and is to be sent: by more than a quarter of the window,
        or an eighth when the producer is known to stand there. So a window costs four grants,
        at most eight, and never falls to its last few bytes.
        """
        released = self.released
        if position < released:
            return False
        if position > self.acquired:
            self.acquired = position
        if self.acquired - released > self._peak:  # it only grew since the last time
            self._peak = self.acquired - released
        self.released = position
        capacity = self.adapt_capacity(self._clock())
        limit = position + capacity
        if limit - self.told <= capacity >> (3 if self.acquired >= self.told else 2):
            return False
        self.told = limit
        return True

    def adapt_capacity(self, now: float) -> int:
        """Size the window by the look behind us (C4) and the budget (C5), and return it.

        `now` is by the controller's clock. `processed` calls it; a tick should, about once a
        second, for streams on which nothing moves. A tick that is to tell a new limit as well
        is `processed(released)`.
        """
        elapsed = now - self._since
        drained = self.released - self._mark
        if elapsed >= LOOK_S or (drained >= self.capacity and not self._patient):
            self._judge(drained, elapsed)
            self._mark = self.released
            self._since = now
            self._peak = self.acquired - self.released
        budget = self._budget
        if budget is not None and self.capacity > budget.share:
            self.capacity = budget.share
        if self._waiters:
            self._admit()
        return self.capacity

    def _judge(self, drained: int, elapsed: float) -> None:
        """Double, halve or keep the window. Rates are compared as products: time may be 0."""
        capacity = self.capacity
        # What the producer has used is seen late: as much again as the reader takes meanwhile.
        unseen = drained * ROUND_TRIP_S
        used_up = (capacity - self._peak) * elapsed <= unseen
        if used_up and capacity * elapsed < drained * HOLD_S:
            self.capacity = min(2 * capacity, self._ceiling)
            self._patient = False
        elif ((capacity >> 2) - self._peak) * elapsed > unseen:
            self.capacity = max(self._minimum, capacity >> 1)
        elif capacity * elapsed > drained * SLOW_S:
            self.capacity = max(self._minimum, capacity >> 1)
            self._patient = True

    def _admit(self) -> None:
        """Let in those who wait, in their order, as far as they fit."""
        waiters = self._waiters
        while waiters:
            future, n = waiters[0]
            if not future.done():  # else it is cancelled, and about to withdraw
                if self.in_flight and self.in_flight + n > self.capacity:
                    return
                self.acquired += n
                future.set_result(None)
            waiters.popleft()

    def _withdraw(self, future: asyncio.Future[None], n: int) -> None:
        """Take back a waiter's place, or its permits if it was let in but never ran."""
        if (future, n) in self._waiters:
            self._waiters.remove((future, n))
        elif not future.cancelled() and future.exception() is None:
            self.acquired -= n
        if self._waiters:
            self._admit()


def _closed() -> BackpressureError:
    return BackpressureError(Code.SHUTTING_DOWN, "the stream has ended, nothing more may be sent")


class Window:
    """A fixed window over one stream's body.

    `limit` — the byte up to which the provider process may write. A record may overshoot
    it (events are whole), so at most `size` plus one record is ever unprocessed.
    """

    __slots__ = ("limit", "size")

    def __init__(self, size: int) -> None:
        """Open a window of `size` bytes, from byte 0."""
        self.size = size
        self.limit = size

    def processed(self, position: int) -> bool:
        """Note that the reader is done with bytes below `position`.

        Returns whether the limit has moved enough to tell: a quarter of the window, so
        that a stream costs four grants a window and never falls to its last few bytes.
        """
        limit = position + self.size
        if limit - self.limit < self.size >> 2:
            return False
        self.limit = limit
        return True
