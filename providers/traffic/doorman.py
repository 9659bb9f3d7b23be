"""The queues' doorman: lets requests go when their turn has come, now and whenever that is next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ringcast.errors import RequestError
from ringcast.providers.traffic.manager import ProviderManager
from ringcast.providers.traffic.plan import Plan


class Doorman:
    """Looks after the queues of one process's providers."""

    def __init__(
        self,
        manager: ProviderManager,
        let_go: Callable[[Plan, RequestError | None], None],
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
    ) -> None:
        """`let_go` is told who may go, or has waited for too long; `clock` is monotonic."""
        self._manager = manager
        self._let_go = let_go
        self._loop = loop
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None

    def look(self) -> None:
        """See who may go, and come again when the next may."""
        now = self._clock()
        for plan, refused in self._manager.due(now):
            self._let_go(plan, refused)
        if self._timer is not None:
            self._timer.cancel()
        at = self._manager.next_at(now)
        self._timer = None if at is None else self._loop.call_later(max(at - now, 0.0), self.look)
