"""How a new broker comes into its predecessor's place: it asks, waits for the answers, and opens.

What is put together meanwhile, and from what, is told in `rebuild`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Final

from ringcast.broker.desk import Desk
from ringcast.broker.dispatch import Dispatch
from ringcast.broker.rebuild import Rebuild
from ringcast.broker.session import Sessions
from ringcast.broker.spill import Spill
from ringcast.broker.stream import Stream
from ringcast.providers import commands

PATIENCE_S: Final = 1.0  # how long it waits for a process that may be dead as well
LOOK_S: Final = 0.002
LATE_LOOK_S: Final = 0.02  # for who has not spoken when the clients were let in


class Takeover:
    """A broker, number `starts` of its daemon, until it knows all that the one before it knew."""

    def __init__(
        self, sessions: Sessions, dispatch: Dispatch, desk: Desk, providers: int, starts: int
    ) -> None:
        """`providers` is the number of provider processes, each of which is asked."""
        self._sessions = sessions
        self._dispatch = dispatch
        self._desk = desk
        self._providers = providers
        self._starts = starts
        self._asked: set[int] = set()  # provider processes
        self._rebuild = Rebuild(sessions, providers, self._nameless)

    @property
    def complete(self) -> bool:
        """Whether everybody has spoken."""
        return self._rebuild.complete

    def spilled(self, spill: Spill) -> None:
        """Take in what lies outside of the rings; before anything else."""
        self._rebuild.spilled(spill, len(self._sessions.logs))

    async def run(self, let_in: Callable[[], None]) -> None:
        """Ask until all have spoken; let the clients in then, or after `PATIENCE_S`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE_S
        while not self._rebuild.complete:
            self._ask()
            await asyncio.sleep(LATE_LOOK_S if self._desk.is_open else LOOK_S)
            if not self._desk.is_open and loop.time() > deadline:
                self._open(let_in)
        if not self._desk.is_open:
            self._open(let_in)

    def heard(self, ready: commands.Ready) -> bool:
        """Take a provider process's report; False if it was not meant for us, and has no news."""
        if ready.index not in self._rebuild.silent:
            return True
        if ready.nonce != self._starts:  # said to our predecessor, or at its start
            self._asked.discard(ready.index)
            return False
        self._rebuild.report(ready.index, ready.live, ready.now_ns)
        return True

    def orphans(self) -> Iterator[Stream]:
        """Give up the streams that were met too late for anybody to know of them."""
        while self._rebuild.orphans:
            yield self._rebuild.orphans.pop()

    def _ask(self) -> None:
        for index in self._rebuild.silent - self._asked:
            if self._dispatch.send(index, commands.Report(self._starts)):
                self._asked.add(index)  # else it has not reconnected yet

    def _nameless(self, slot: int, worker: int) -> Stream:
        process = (slot - 1) % self._providers
        return Stream(slot, b"", "", "", process, worker, self._dispatch.window())

    def _open(self, let_in: Callable[[], None]) -> None:
        """Settle what is known, and let the clients in."""
        openings, leases = self._desk.openings, self._desk.readers.leases
        openings.last_slot = max(openings.last_slot, self._rebuild.last_slot)
        for stream in self._rebuild.nameless():
            self._dispatch.stop(stream, cancel=True)
        for index in self._dispatch.ready:
            self._dispatch.reconcile(index)
        self._forget_answered()
        for stream in self._sessions.streams.values():
            if stream not in leases and not stream.settled:
                leases.begin(stream)
        let_in()

    def _forget_answered(self) -> None:
        """Go on with what is live: of all others our predecessor knew, or `reconcile` asks."""
        ready = self._dispatch.ready.values()
        live = {one.slot for said in ready for one in said.live if not one.over}
        again = self._sessions.again
        again[:] = [one for one in again if one.lost or one.stream.slot in live]
