"""What is done to the daemon's processes, each time at a moment that a seed has drawn.

A strike waits until every lane has had a token after it, and returns what was seen meanwhile.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from signal import SIGCONT, SIGKILL, SIGSTOP
from typing import Final, TypeAlias

from ringcast.bench.reliability.load import Load
from ringcast.bench.reliability.service import PATIENCE_S, Service, Victim
from ringcast.bench.reliability.watch import Outages, Watch
from ringcast.errors import RingcastError

PAUSE_S: Final = 0.02, 0.2  # between two strikes
STOP_S: Final = 0.05, 1.5
WATCH_S: Final = 0.3  # at least, so that a second silence is seen as well

Strike: TypeAlias = Callable[["Struck"], Awaitable[Watch]]


class Struck:
    """A daemon under load, and what strikes it."""

    def __init__(self, service: Service, load: Load, seed: str) -> None:
        """Draw moments from `seed`."""
        self.service = service
        self.load = load
        self.draw = random.Random(seed)
        self.outages = Outages()
        self.deaths = 0

    async def run(self, strike: Strike, times: int) -> None:
        """Strike so many times, or until something is wrong."""
        while self.deaths < times and self.load.tally.sound:
            await asyncio.sleep(self.draw.uniform(*PAUSE_S))
            try:
                self.outages.add(await strike(self))
            except (RingcastError, ProcessLookupError) as error:
                self.wrong(f"{type(error).__name__}: {error}")
            self.deaths += 1

    async def gone_on(self, watch: Watch) -> Watch:
        """Wait until every lane has had another token, and then until the watch is over.

        Raises `Silent`.
        """
        await watch.all_heard(PATIENCE_S)
        await asyncio.sleep(max(0.0, watch.at + WATCH_S - time.monotonic()))
        self.load.watches.discard(watch)
        return watch

    def wrong(self, text: str) -> None:
        """Note what must not happen."""
        self.load.tally.faults.append(text)


def kill(role: str) -> Strike:
    """SIGKILL the process of a role."""

    async def strike(struck: Struck) -> Watch:
        victim = struck.service.victim(role)
        struck.load.deaths += role == "provider"
        watch = struck.load.watched(time.monotonic(), fresh=role == "provider")
        victim.strike(SIGKILL)
        victim.close()
        await struck.service.replaced(role, victim.pid)
        return await struck.gone_on(watch)

    return strike


def stop(role: str) -> Strike:
    """SIGSTOP a process for a while that the supervisor must bear; watch from its SIGCONT on."""

    async def strike(struck: Struck) -> Watch:
        before, seconds = struck.service.pids, struck.draw.uniform(*STOP_S)
        victim = struck.service.victim(role)
        victim.strike(SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            watch = struck.load.watched(time.monotonic())
            victim.strike(SIGCONT)
            victim.close()
        watch = await struck.gone_on(watch)
        if struck.service.pids != before:
            struck.wrong(f"after a stop of {role} for {seconds:.3f} s there were other processes")
        return watch

    return strike


def hang(role: str) -> Strike:
    """SIGSTOP a process for good: the supervisor must find that, kill and replace it."""

    async def strike(struck: Struck) -> Watch:
        victim = struck.service.victim(role)
        watch = struck.load.watched(time.monotonic())
        victim.strike(SIGSTOP)
        if not await victim.ended():
            struck.wrong(f"{role} hung for {PATIENCE_S:g} s and was not killed")
            victim.strike(SIGCONT)
        victim.close()
        await struck.service.replaced(role, victim.pid)
        return await struck.gone_on(watch)

    return strike


async def kill_all(struck: Struck) -> Watch:
    """SIGKILL the supervisor, so that everything goes at once, and start the daemon again."""
    service, before = struck.service, struck.service.state
    family = [Victim(one.pid, before.pid) for one in before.processes]
    watch = struck.load.watched(time.monotonic(), fresh=True)
    service.kill()
    service.start()
    await service.answers()
    struck.outages.recoveries.append(time.monotonic() - watch.at)
    for one in family:
        if not await one.ended():
            struck.wrong(f"process {one.pid} outlived its supervisor")
        one.close()
    await service.complete()
    for what in service.left_of(before):
        struck.wrong(f"{what} was left behind by a daemon that was killed")
    return await struck.gone_on(watch)
