"""How long streams were silent after a fault. Pure but for the event that all were heard."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import pairwise

import msgspec

from ringcast.errors import RingcastError


class Silent(RingcastError):
    """A stream did not go on."""


class Watch:
    """The arrivals of tokens in some lanes since the time `at`, in seconds of CLOCK_MONOTONIC.

    A lane is a place that one stream after another has. With `fresh` only streams count whose
    first token came after `at`: of the others what was under way still comes, and then their end.
    """

    def __init__(self, at: float, lanes: Iterable[int], *, fresh: bool = False) -> None:
        """Nothing has arrived yet."""
        self.at = at
        self._fresh = fresh
        self._all = [at]
        self._lanes = {lane: [at] for lane in lanes}
        self._waiting: set[int] = set()
        self._heard = asyncio.Event()
        self._heard.set()

    def arrived(self, lane: int, since: float, now: float) -> None:
        """A stream whose first token came at `since` had tokens."""
        if lane in self._lanes and (since > self.at or not self._fresh):
            self._all.append(now)
            self._lanes[lane].append(now)
            self.left(lane)

    def left(self, lane: int) -> None:
        """Wait for nothing more of a lane."""
        self._waiting.discard(lane)
        if not self._waiting:
            self._heard.set()

    async def all_heard(self, patience_s: float) -> None:
        """Wait until every lane has had a token from now on. Raises `Silent`."""
        self._waiting = set(self._lanes)
        if self._waiting:
            self._heard.clear()
        try:
            await asyncio.wait_for(self._heard.wait(), patience_s)
        except TimeoutError:
            text = f"{len(self._waiting)} streams were silent for {patience_s:g} s"
            raise Silent(text) from None

    def close(self, now: float) -> None:
        """Silence that has not ended by now ends with it."""
        for times in (self._all, *self._lanes.values()):
            times.append(now)

    @property
    def silence(self) -> float:
        """The longest time in which no stream at all had a token."""
        return _longest(self._all)

    @property
    def nexts(self) -> list[float]:
        """For each lane the time to its next token."""
        return [times[1] - times[0] for times in self._lanes.values() if len(times) > 1]

    @property
    def stalls(self) -> list[float]:
        """For each lane the longest time without a token.

        What was under way at the fault is a next token too, but ends no stall.
        """
        return [_longest(times) for times in self._lanes.values() if len(times) > 1]


def _longest(times: list[float]) -> float:
    return max((after - before for before, after in pairwise(times)), default=0.0)


class Spread(msgspec.Struct, frozen=True):
    """Median, 99th percentile and maximum, in ms."""

    p50: float
    p99: float
    max: float


def spread(seconds: list[float]) -> Spread | None:
    """Sum up measurements; None of none."""
    if not seconds:
        return None
    ordered = sorted(one * 1000 for one in seconds)
    return Spread(ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100], ordered[-1])


class Outages(msgspec.Struct):
    """What all faults of a run cost, in seconds.

    A silence and a recovery (of a whole daemon) is one a fault, the others one a stream.
    """

    silences: list[float] = []
    nexts: list[float] = []
    stalls: list[float] = []
    recoveries: list[float] = []

    def add(self, watch: Watch) -> None:
        """Add what was seen of one fault."""
        self.silences.append(watch.silence)
        self.nexts += watch.nexts
        self.stalls += watch.stalls

    def merge(self, other: Outages) -> None:
        """Add what another run has seen."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))
