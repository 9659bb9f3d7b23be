"""A provider with limits and outages, and provider processes that ask it for all it allows.

The limiters, queues and rows are the real ones; time, the network and the provider are not. The
provider has a bucket of requests and one of tokens, each of a minute's worth, which it charges
with what an answer really uses; they do not fill in an outage. Else, and all through an outage,
it answers 429 with Retry-After. There is always more to ask than it allows. What counts is its
scarcer bucket.

    python -m tests.simulation.limits --seed 1
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from ringcast.config import Config, Provider, Queue
from ringcast.providers.traffic.admission import Admission
from ringcast.providers.traffic.rate_headers import NOTHING, RateLimits, Window
from ringcast.shm.shared_words import SharedWords

OUTAGE_HINT_S = 5.0
BACKLOG = 20  # requests that wait in each process's queue
MOST_SENT = 500  # requests under way in each process: the first flood, as nothing is known
CLIENTS = [b"a", b"b", b"c"]
MEAN_TOKENS = 1000


@dataclass(frozen=True)
class Case:
    """What is simulated; rates are a minute's."""

    name: str
    processes: int = 1
    headers: bool = False
    configured: int = 0  # times what is true
    requests: int = 300
    tokens: int = 10**9
    outages: tuple[tuple[float, float], ...] = ((1200.0, 1230.0), (1800.0, 1860.0))
    minutes: int = 45
    warm_up: int = 10


@dataclass
class Result:
    """What came of it after warming up.

    `reached` is of what was allowed outside outages, `refused` the part of what was sent then;
    `in_outages` counts the refusals in them.
    """

    reached: float
    refused: float
    in_outages: int
    sent: int


class Upstream:
    """The provider. Its buckets count what is left."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.left = {"requests": float(case.requests), "tokens": float(case.tokens)}
        self.limits = dict(self.left)
        self.at = 0.0

    def ask(self, tokens: int, now: float) -> tuple[float, RateLimits]:
        """Answer with a hint (0.0: accepted) and with headers."""
        passed_s, self.at = now - self.at, now
        if self.down(now):
            return OUTAGE_HINT_S, NOTHING
        for unit, limit in self.limits.items():
            self.left[unit] = min(limit, self.left[unit] + passed_s * limit / 60)
        cost = {"requests": 1, "tokens": tokens}
        short = {unit: cost[unit] - self.left[unit] for unit in cost}
        wait_s = max(short[unit] * 60 / self.limits[unit] for unit in cost)
        if wait_s <= 0:
            for unit in cost:
                self.left[unit] -= cost[unit]
        return max(0.0, math.ceil(wait_s)), self._told()

    def down(self, now: float) -> bool:
        """Say whether there is an outage."""
        return any(since <= now < until for since, until in self.case.outages)

    def _told(self) -> RateLimits:
        if not self.case.headers:
            return NOTHING
        requests, tokens = (self._window(unit) for unit in ("requests", "tokens"))
        return RateLimits(requests, tokens)

    def _window(self, unit: str) -> Window:
        limit, left = self.limits[unit], self.left[unit]
        return Window(int(limit), int(left), (limit - left) * 60 / limit)


class World:
    """One run of a case."""

    def __init__(self, case: Case, seed: int) -> None:
        self.case = case
        self.random = random.Random(seed)
        self.upstream = Upstream(case)
        provider = Provider(
            "openai",
            requests_per_min=case.requests * case.configured,
            tokens_per_min=case.tokens * case.configured,
        )
        config = Config({"p": provider}, queue=Queue(wait_s=1e6))
        rows = SharedWords.private()
        self.processes = [Admission(rows, config, number) for number in range(case.processes)]
        self.waiting = [0] * case.processes
        self.sent = [0] * case.processes
        self.wakes = [math.inf] * case.processes
        self.tickets = count()
        self.estimates: dict[int, int] = {}
        self.events: list[tuple[float, int, Callable[[float], None]]] = []
        self.order = count()
        self.accepted, self.used, self.refused, self.in_outages = 0, 0, 0, 0

    def at(self, when: float, what: Callable[[float], None]) -> None:
        heapq.heappush(self.events, (when, next(self.order), what))

    def run(self) -> Result:
        """Run to the end; count after warming up."""
        for process in range(self.case.processes):
            self.at(0.0, lambda now, process=process: self.fill(process, now))  # type: ignore[misc]
        self._until(self.case.warm_up * 60)
        before = self._counts()
        self._until(self.case.minutes * 60)
        counts = zip(self._counts(), before, strict=True)
        accepted, used, refused, in_outages = (new - old for new, old in counts)
        down_s = sum(until - since for since, until in self.case.outages)
        allowed = self.case.minutes - self.case.warm_up - down_s / 60
        reached = max(accepted / self.case.requests, used / self.case.tokens) / allowed
        sent = accepted + refused
        return Result(reached, refused / sent, in_outages, sent + in_outages)

    def _counts(self) -> tuple[int, int, int, int]:
        return self.accepted, self.used, self.refused, self.in_outages

    def _until(self, end: float) -> None:
        while self.events[0][0] < end:
            now, _, what = heapq.heappop(self.events)
            what(now)

    def fill(self, process: int, now: float) -> None:
        """Keep the queue of a process filled, and send what may go."""
        while self.waiting[process] < BACKLOG and self.sent[process] < MOST_SENT:
            ticket, client = next(self.tickets), self.random.choice(CLIENTS)
            estimate = self.estimates[ticket] = self.random.randint(1, 2 * MEAN_TOKENS)
            if self.processes[process].ask(ticket, "p", "m", client, estimate, now):
                self.waiting[process] += 1
            else:
                self.send(process, ticket, now)
        for due, error in self.processes[process].due(now):
            assert error is None
            assert isinstance(due, int)
            self.waiting[process] -= 1
            self.send(process, due, now)
        when = self.processes[process].next_at(now)
        if when is not None and not now < self.wakes[process] <= when:
            self.wakes[process] = max(when, now + 0.001)
            self.at(self.wakes[process], lambda then: self.fill(process, then))

    def send(self, process: int, ticket: int, now: float) -> None:
        self.sent[process] += 1
        way_s = self.random.uniform(0.02, 0.5)
        self.at(now + way_s, lambda then: self.arrive(process, ticket, way_s, then))

    def arrive(self, process: int, ticket: int, way_s: float, now: float) -> None:
        estimate = self.estimates.pop(ticket)
        used = int(estimate * self.random.uniform(0.5, 1.0))
        hint_s, told = self.upstream.ask(used, now)
        if hint_s and self.upstream.down(now):
            self.in_outages += 1
        elif hint_s:
            self.refused += 1
        else:
            self.accepted += 1
            self.used += used
        self.at(now + way_s, lambda then: self.head(process, ticket, hint_s, told, used, then))

    def head(
        self, process: int, ticket: int, hint_s: float, told: RateLimits, used: int, now: float
    ) -> None:
        admission = self.processes[process]
        if hint_s:
            admission.throttled("p", "m", hint_s, now, told)
            self.end(process, ticket, 0, now)
        else:
            admission.learn("p", "m", told, now)
            ends = now + self.random.uniform(0.5, 10)
            self.at(ends, lambda then: self.end(process, ticket, used, then))

    def end(self, process: int, ticket: int, used: int, now: float) -> None:
        self.sent[process] -= 1
        self.processes[process].settle(ticket, used, now)
        self.fill(process, now)


def cases() -> list[Case]:
    """Every way of knowing the limits, scarce requests and scarce tokens, 1 and 4 processes."""
    ways = [
        ("configured", False, 1),
        ("headers", True, 0),
        ("found out", False, 0),
        ("twice configured", False, 2),
    ]
    scarce = [("requests", 300, 10**9), ("tokens", 10**6, 200_000), ("few requests", 30, 10**9)]
    return [
        Case(f"{way}, {what}", processes, headers, configured, requests, tokens)
        for way, headers, configured in ways
        for what, requests, tokens in scarce
        for processes in (1, 4)
    ]


def main() -> None:
    """Print what each case comes to."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.limits", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    seed = parser.parse_args().seed
    print(f"seed {seed}")
    print("limits, scarce                 processes  reached  refused  in outages     sent")
    for case in cases():
        result = World(case, seed).run()
        figures = f"{result.reached:8.1%} {result.refused:8.2%} {result.in_outages:11}"
        print(f"{case.name:30} {case.processes:9} {figures} {result.sent:8}", flush=True)


if __name__ == "__main__":
    main()
