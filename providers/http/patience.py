"""`asyncio.timeout` for a process that may be stopped: such time does not count."""

from __future__ import annotations

import asyncio
from types import TracebackType

from ringcast.providers.http.clocks import TICK_S, Elapsed


class Patience:
    """`async with Patience(5.0):` raises `TimeoutError` when the block has run for 5 seconds.

    `asyncio.timeout` alone would end every wait of a process that is continued after a stop,
    before the loop looks at what has come meanwhile (`clocks`, rule 4).
    """

    def __init__(self, limit_s: float | None) -> None:
        """None is no limit."""
        self._limit_s = limit_s
        self._loop = asyncio.get_running_loop()
        self._timeout = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()
        if self._limit_s is not None:
            self._elapsed = Elapsed(self._loop.time())
            self._look_after(self._limit_s)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None  # it holds us, and such circles wait for the collector
        await self._timeout.__aexit__(kind, error, traceback)

    def _look_after(self, left_s: float) -> None:
        self._timer = self._loop.call_later(min(left_s, TICK_S), self._look)

    def _look(self) -> None:
        assert self._limit_s is not None
        now = self._loop.time()
        left_s = self._limit_s - self._elapsed.look(now)
        if left_s > 0:
            self._look_after(left_s)
        else:
            self._timeout.reschedule(now)
