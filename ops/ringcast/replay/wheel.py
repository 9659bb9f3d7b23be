"""A timer wheel: any number of timers on one of the event loop's."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable
from math import ceil
from typing import Final

_SLOT_S: Final = 0.001


class Wheel:
    """Calls back at given times, never early, in slots of one millisecond.

    A loop timer for each of 50,000 events a second would cost more than sending them; here
    those of one millisecond share it, and an idle wheel does not turn at all.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._slots: dict[int, list[Callable[[], None]]] = {}
        self._order: list[int] = []
        self._timer: asyncio.TimerHandle | None = None
        self._armed = 0

    def at(self, due: float, callback: Callable[[], None]) -> None:
        """Call `callback` once `time.monotonic()` has reached `due` (seconds)."""
        slot = ceil(due / _SLOT_S)
        if (callbacks := self._slots.get(slot)) is not None:
            callbacks.append(callback)
            return
        self._slots[slot] = [callback]
        heapq.heappush(self._order, slot)
        if self._timer is None or slot < self._armed:
            self._arm()

    def soon(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the loop has looked at its sockets once."""
        self._loop.call_soon(callback)

    def close(self) -> None:
        """Forget all that is due."""
        self._disarm()
        self._slots.clear()
        self._order.clear()

    def _arm(self) -> None:
        self._disarm()
        self._armed = self._order[0]
        # libuv counts whole milliseconds: a shorter timer would spin until the slot is due.
        delay = max(_SLOT_S, self._armed * _SLOT_S - time.monotonic())
        self._timer = self._loop.call_later(delay, self._turn)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _turn(self) -> None:
        now = self._armed = int(time.monotonic() / _SLOT_S)
        try:
            while self._order and self._order[0] <= now:
                for callback in self._slots.pop(heapq.heappop(self._order)):
                    callback()
        finally:
            self._disarm()
            if self._order:
                self._arm()
