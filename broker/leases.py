"""Leases: how long a stream goes on that nobody reads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from ringcast.broker.stream import Stream


class Leases:
    """The streams without readers, by slot, each with its timer."""

    def __init__(
        self, lease_s: float, over: Callable[[Stream], None], loop: asyncio.AbstractEventLoop
    ) -> None:
        """`over` is told of a stream for which nobody came back within `lease_s` seconds."""
        self._lease_s = lease_s
        self._over = over
        self._loop = loop
        self._timers: dict[int, asyncio.TimerHandle] = {}

    def __contains__(self, stream: Stream) -> bool:
        """Whether it is waited for a reader."""
        return stream.slot in self._timers

    def __iter__(self) -> Iterator[int]:
        """The slots of those that wait."""
        return iter(self._timers)

    def begin(self, stream: Stream) -> None:
        """Wait for a reader."""
        self._timers[stream.slot] = self._loop.call_later(self._lease_s, self._end, stream)

    def withdraw(self, stream: Stream) -> None:
        """Somebody reads it."""
        if (timer := self._timers.pop(stream.slot, None)) is not None:
            timer.cancel()

    def _end(self, stream: Stream) -> None:
        del self._timers[stream.slot]
        self._over(stream)
