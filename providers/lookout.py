"""Who looks at a request's clocks while something is awaited: asyncio's end of `http.clocks`."""

from __future__ import annotations

import asyncio
from types import TracebackType

from ringcast.errors import RingcastError
from ringcast.providers.http.clocks import TICK_S, Clocks, RunOut


class RanOut(RingcastError):
    """A clock has run out; `code` is an `errors.Code`, `message` names the setting."""

    def __init__(self, clock: RunOut) -> None:
        super().__init__(f"{clock.code}: {clock.message}")
        self.code = clock.code
        self.message = clock.message


class Lookout:
    """`async with Lookout(clocks):` raises `RanOut` when one of them runs out in the block.

    Between two blocks nothing is awaited, and no clock runs (`clocks`, rule 3).
    """

    def __init__(self, clocks: Clocks) -> None:
        """Once only, as `asyncio.timeout`."""
        self._run_out: RunOut | None = None
        self._clocks = clocks
        self._loop = asyncio.get_running_loop()
        self._timeout = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> None:
        now = self._loop.time()
        self._clocks.resume(now)
        if (run_out := self._clocks.run_out(now)) is not None:  # blocks may be shorter than a tick
            raise RanOut(run_out)
        await self._timeout.__aenter__()
        self._timer = self._loop.call_later(TICK_S, self._look)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None  # it holds us, and such circles wait for the collector
        self._clocks.pause(self._loop.time())
        try:
            await self._timeout.__aexit__(kind, error, traceback)
        except TimeoutError:
            assert self._run_out is not None
            raise RanOut(self._run_out) from None

    def _look(self) -> None:
        now = self._loop.time()
        self._run_out = self._clocks.run_out(now)
        if self._run_out is None:
            self._timer = self._loop.call_later(TICK_S, self._look)
        else:
            self._timeout.reschedule(now)
