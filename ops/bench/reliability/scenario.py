"""The scenarios: what is struck, how often, and how streams may end."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from ringcast.bench.reliability.load import Load, Shape
from ringcast.bench.reliability.party import Party
from ringcast.bench.reliability.service import Service
from ringcast.bench.reliability.strike import Strike, Struck, hang, kill, kill_all, stop
from ringcast.bench.reliability.tally import Promise, Tally
from ringcast.bench.reliability.watch import Outages

PARTIES: Final = 2  # of clients that are struck at the same time
OWN: Final = 100  # lanes from here on are read by one client only


class Scenario(msgspec.Struct, frozen=True):
    """`kills` strikes by default and `short` in a short run; `target` bounds a figure, in ms."""

    kills: int
    short: int
    strike: Strike | None = None
    promise: Promise = "whole"
    target: tuple[str, float] | None = None


SCENARIOS: Final = {
    "worker": Scenario(1000, 15, kill("worker"), target=("stall_ms", 50)),
    "broker": Scenario(200, 10, kill("broker"), target=("stall_ms", 250)),
    "provider": Scenario(200, 10, kill("provider"), "kept"),
    "stop-worker": Scenario(100, 5, stop("worker")),
    "stop-provider": Scenario(100, 5, stop("provider")),
    "stop-broker": Scenario(100, 5, stop("broker")),
    "hang-worker": Scenario(5, 1, hang("worker")),
    "hang-broker": Scenario(5, 1, hang("broker")),
    "client-kill": Scenario(500, 10),
    "client-stall": Scenario(500, 6),
    "daemon": Scenario(50, 3, kill_all, "gone", ("recovery_ms", 1000)),
}


class Seen(msgspec.Struct, frozen=True):
    """What a run of a scenario has shown."""

    deaths: int
    tally: Tally
    outages: Outages


async def run(service: Service, name: str, times: int, seed: str, shape: Shape) -> Seen:
    """Run a scenario against a daemon. Raises what went wrong in the bench itself."""
    service.start()
    await service.complete()
    if name == "client-kill":
        return await _clients_killed(service, times, seed, shape)
    if name == "client-stall":
        return await _clients_stalled(service, times, seed, shape)
    scenario = SCENARIOS[name]
    assert scenario.strike is not None
    load = Load(service.run_dir, f"{seed}/load", shape, scenario.promise)
    struck = Struck(service, load, f"{seed}/strikes")
    async with asyncio.TaskGroup() as tasks:
        ready = asyncio.Event()
        loading = tasks.create_task(load.run(ready))
        await ready.wait()
        await struck.run(scenario.strike, times)
        await load.finish(loading)
    return Seen(struck.deaths, load.tally, struck.outages)


def _parties(service: Service, seed: str, lanes: int, tokens: int) -> list[Party]:
    """Parties that share `lanes`."""
    starts = range(OWN, OWN + lanes, lanes // PARTIES)
    return [
        Party(service.run_dir, f"{seed}/{at}", range(at, at + lanes // PARTIES), tokens)
        for at in starts
    ]


def _shares(times: int) -> list[int]:
    return [times // PARTIES + (number < times % PARTIES) for number in range(PARTIES)]


def _seen(parties: list[Party], tally: Tally) -> Seen:
    outages = Outages()
    for party in parties:
        tally.add(party.tally)
        outages.merge(party.outages)
    return Seen(sum(party.strikes for party in parties), tally, outages)


async def _clients_killed(service: Service, times: int, seed: str, shape: Shape) -> Seen:
    parties = _parties(service, seed, shape.lanes, shape.tokens)
    async with asyncio.TaskGroup() as tasks:
        for party, share in zip(parties, _shares(times), strict=True):
            tasks.create_task(party.kill(share))
    return _seen(parties, Tally())


async def _clients_stalled(service: Service, times: int, seed: str, shape: Shape) -> Seen:
    """Stop clients that read all the load's streams along, and a few of their own."""
    load = Load(service.run_dir, f"{seed}/load", shape, "whole")
    parties = _parties(service, seed, 2 * PARTIES, shape.tokens)
    load.opened = lambda opened: parties[opened.lane % PARTIES].read_along(opened)
    async with asyncio.TaskGroup() as outer:
        loading = outer.create_task(load.run(asyncio.Event()))
        async with asyncio.TaskGroup() as tasks:
            for party, share in zip(parties, _shares(times), strict=True):
                tasks.create_task(party.stall(share, load))
        await load.finish(loading)
    return _seen(parties, load.tally)
