"""Random faults of providers: the circuit breaker and the retry policy against plain tables.

`python -m tests.simulation.faults --runs 100000` is the long run; a seed is one history.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from random import Random
from typing import Final, TypeAlias

from ringcast.config import Breaker, Retry
from ringcast.errors import Code
from ringcast.providers.traffic.breaker import CircuitBreaker, Closed, Open, Outcome, Probe
from ringcast.providers.traffic.failure import Failure
from ringcast.providers.traffic.retry import Again, Elsewhere, GiveUp, RetryBudget, RetryPolicy

CHUNK: Final = 1000
STEPS: Final = 40
BUCKETS: Final = 6
ANY: Final = None

# What becomes of a breaker. "probing": half-open, and the probe is out. "timer": what the state
# waits for is over. "old": of a probe that is not the newest. No row: nothing changes.
NEXT: Final = {
    ("closed", "last straw"): "open",
    ("open", "timer"): "half-open",
    ("open", "old success"): "closed",
    ("half-open", "ask"): "probing",
    ("half-open", "success"): "closed",
    ("half-open", "old success"): "closed",
    ("half-open", "failure"): "open",
    ("probing", "timer"): "half-open",
    ("probing", "success"): "closed",
    ("probing", "old success"): "closed",
    ("probing", "failure"): "open",
    ("probing", "neither"): "half-open",
}

# What becomes of a request.
Row: TypeAlias = tuple[bool | None, ...]
# late, worth it here, enough sent, asks too long, pause too long, budget, worth it elsewhere
DECISIONS: Final[dict[Row, type]] = {
    (True, ANY, ANY, ANY, ANY, ANY, ANY): GiveUp,
    (False, False, ANY, ANY, ANY, ANY, True): Elsewhere,
    (False, False, ANY, ANY, ANY, ANY, False): GiveUp,
    (False, True, True, ANY, ANY, ANY, True): Elsewhere,
    (False, True, True, ANY, ANY, ANY, False): GiveUp,
    (False, True, False, True, ANY, ANY, True): Elsewhere,
    (False, True, False, True, ANY, ANY, False): GiveUp,
    (False, True, False, False, True, ANY, True): Elsewhere,
    (False, True, False, False, True, ANY, False): GiveUp,
    (False, True, False, False, False, False, True): Elsewhere,
    (False, True, False, False, False, False, False): GiveUp,
    (False, True, False, False, False, True, ANY): Again,
}


def _row(state: tuple[bool, ...]) -> type:
    """Find the decision of a state, which has exactly one row."""
    (found,) = [
        decision
        for row, decision in DECISIONS.items()
        if all(one in (ANY, other) for one, other in zip(row, state, strict=True))
    ]
    return found


OVERSPENT: Final = (False, True, False, False, False, False)
EVERY: Final = {state: _row(state) for state in product((False, True), repeat=7)}


class BreakerModel:
    """What a breaker should do; it remembers every call."""

    def __init__(self, settings: Breaker) -> None:
        self._settings = settings
        self.state = "closed"
        self.timer_us = 0
        self._calls: list[tuple[int, bool]] = []

    def go(self, event: str, now_us: int) -> None:
        """Look the event up."""
        before, self.state = self.state, NEXT.get((self.state, event), self.state)
        if self.state != before and self.state in ("open", "probing"):
            self.timer_us = now_us + round(self._settings.open_s * 1e6)
        if self.state == "closed" != before:
            self._calls = []

    def wait(self, now_us: int) -> None:
        """Let time pass."""
        if self.state in ("open", "probing") and now_us >= self.timer_us:
            self.go("timer", now_us)

    def call(self, failed: bool, now_us: int) -> None:
        """Count a call, if calls count."""
        if self.state == "closed":
            bucket = int(now_us / 1e6 / (self._settings.window_s / BUCKETS))
            self._calls.append((bucket, failed))
            if failed and self._too_often(bucket):
                self.go("last straw", now_us)

    def _too_often(self, bucket: int) -> bool:
        settings = self._settings
        row = [failed for _, failed in self._calls][-settings.failures :]
        late = [failed for when, failed in self._calls if when > bucket - BUCKETS]
        enough = len(late) >= settings.least_calls
        often = enough and sum(late) / len(late) >= settings.failure_rate
        return often or (len(row) == settings.failures and all(row))


class BreakerHistory:
    """One breaker and its model, through the same events."""

    def __init__(self, draw: Random) -> None:
        self._draw = draw
        self._settings = Breaker(
            failures=draw.randint(1, 6),
            open_s=draw.choice((0.5, 7.0, 60.0)),
            window_s=draw.choice((1.0, 30.0)),
            failure_rate=draw.choice((0.2, 0.5, 1.0)),
            least_calls=draw.choice((1, 4, 20)),
        )
        self._words = [0] * CircuitBreaker.WORDS
        self._model = BreakerModel(self._settings)
        self._now_us = draw.randrange(10**12)
        self._out: list[Probe] = []
        self._newest: Probe | None = None

    def step(self) -> str | None:
        """Do one thing; return what was wrong."""
        self._pass_time()
        self._model.wait(self._now_us)
        return self._draw.choice((self._ask, self._ask, self._plain, self._plain, self._probe))()

    def _breaker(self) -> CircuitBreaker:
        """Another process's each time: all there is to know is in the words."""
        return CircuitBreaker(self._words, self._settings)

    def _pass_time(self) -> None:
        until = max(0, self._model.timer_us - self._now_us)
        open_us = round(self._settings.open_s * 1e6)
        bucket_us = round(self._settings.window_s * 1e6 / BUCKETS)
        self._now_us += self._draw.choice((0, 0, 1, bucket_us, until, max(0, until - 1), open_us))

    def _ask(self) -> str | None:
        said = self._breaker().ask(self._now_us / 1e6)
        expected = {"closed": Closed, "half-open": Probe}.get(self._model.state, Open)
        if type(said) is not expected:
            return f"{self._model.state} but {said}"
        if isinstance(said, Open) and abs(said.until - self._model.timer_us / 1e6) > 0.005:
            return f"{said}, not until {self._model.timer_us / 1e6}"
        if isinstance(said, Probe):
            self._newest = said
            self._out.append(said)
        self._model.go("ask", self._now_us)
        return None

    def _outcome(self) -> Outcome:
        return self._draw.choice(("success", "failure", "failure", "neither"))

    def _plain(self) -> None:
        outcome = self._outcome()
        self._breaker().record(outcome, self._now_us / 1e6)
        if outcome != "neither":
            self._model.call(outcome == "failure", self._now_us)

    def _probe(self) -> None:
        if not self._out:
            return
        probe = self._out.pop(self._draw.randrange(len(self._out)))
        outcome = self._outcome()
        self._breaker().record(outcome, self._now_us / 1e6, probe)
        if self._model.state == "closed":
            if outcome != "neither":
                self._model.call(outcome == "failure", self._now_us)
            return
        newest = probe is self._newest
        self._model.go(outcome if newest else f"old {outcome}", self._now_us)
        if self._model.state == "closed":
            self._newest = None


class Luck(Random):
    """Chance that is known beforehand."""

    share = 0.0

    def random(self) -> float:
        """Return what is drawn next."""
        return self.share


class RetryHistory:
    """Requests to a few targets, all of which fail in all ways, with their provider's budget."""

    def __init__(self, draw: Random) -> None:
        self._draw = draw
        self._settings = Retry(
            attempts=draw.randint(1, 6),
            pause_s=draw.choice((0.0, 0.5, 2.0)),
            longest_pause_s=draw.choice((1.0, 60.0)),
            budget_ratio=draw.choice((0.0, 0.2)),
            budget_least=draw.choice((0, 1, 10)),
        )
        self._policy = RetryPolicy(self._settings)
        self._budget = RetryBudget(self._settings)
        self._luck = Luck(0)
        self._now = draw.uniform(0, 1e6)
        self._sendings: list[tuple[int, bool]] = []  # bucket, again

    def step(self) -> str | None:
        """Send one request until it is given up; return what was wrong."""
        draw = self._draw
        self._now += draw.choice((0.0, 0.1, 9.0, 70.0))
        deadline = self._now + draw.choice((0.05, 3.0, 3600.0))
        targets = left = draw.randint(1, 4)
        sent = 0
        again = False
        while left:
            if not again:
                self._budget.first(self._now)
                self._note(False)
            sent += 1
            self._now += draw.choice((0.0, 0.3))
            wrong, decision = self._decide(sent, deadline)
            if wrong is not None:
                return wrong
            again = isinstance(decision, Again)
            if isinstance(decision, Again):
                self._note(True)
                self._now += decision.pause_s
            else:
                left = left - 1 if isinstance(decision, Elsewhere) else 0
        most = self._settings.attempts + targets - 1
        return f"sent {sent} times to {targets} targets" if sent > most else None

    def _note(self, again: bool) -> None:
        self._sendings.append((int(self._now / 10), again))

    def _failure(self) -> Failure:
        draw = self._draw
        return Failure(
            Code.HTTP_STATUS,
            "no",
            retryable=draw.random() < 0.8,
            elsewhere=draw.random() < 0.7,
            throttled=draw.random() < 0.4,
            once=draw.random() < 0.1,
            after_s=draw.choice((None, None, None, 0.0, 2.0, 120.0, 121.0, 3.2e8)),
        )

    def _decide(self, sent: int, deadline: float) -> tuple[str | None, Again | Elsewhere | GiveUp]:
        failure = self._failure()
        self._luck.share = self._draw.random()
        state, pause_s = self._state(sent, failure, deadline)
        expected = EVERY[state]
        decision = self._policy.decide(sent, failure, self._now, deadline, self._budget, self._luck)
        wrong = f"{decision} to {failure} after {sent}, not {expected.__name__}"
        if type(decision) is not expected:
            return wrong, decision
        if isinstance(decision, Again):
            return (wrong if abs(decision.pause_s - pause_s) > 1e-9 else None), decision
        return self._told(failure, decision, state[:-1] == OVERSPENT), decision

    def _state(
        self, sent: int, failure: Failure, deadline: float
    ) -> tuple[tuple[bool, ...], float]:
        hint = failure.after_s or 0.0
        pause_s = self._pause(sent, failure, hint)
        state = (
            self._now >= deadline,
            failure.retryable,
            sent >= self._settings.attempts or (failure.once and sent >= 2),
            hint > 120,
            self._now + pause_s >= deadline,
            self._has_budget(),
            failure.elsewhere,
        )
        return state, pause_s

    def _pause(self, sent: int, failure: Failure, hint: float) -> float:
        longest = self._settings.pause_s * (2 if failure.throttled else 1)
        for _ in range(sent - 1):
            longest *= 2
        jitter = self._luck.share * min(longest, self._settings.longest_pause_s)
        return max(0.1, min(120.0, hint + jitter) if hint else jitter)

    def _has_budget(self) -> bool:
        bucket = int(self._now / 10)
        late = [again for when, again in self._sendings if when > bucket - BUCKETS]
        share = self._settings.budget_ratio * (len(late) + 1)
        return sum(late) + 1 <= max(share, self._settings.budget_least)

    def _told(self, failure: Failure, decision: Elsewhere | GiveUp, overspent: bool) -> str | None:
        """A wait that is too long and a spent budget change what a client is told, nothing else."""
        said = decision.failure
        if overspent:
            right = said.message.startswith(f"{failure.message} (not sent again")
            return None if right else f"{said} of {failure}, without a budget"
        if said == failure:
            return None
        known = failure.after_s is not None and failure.after_s > 120
        right = said.code == Code.RATE_LIMITED and said.after_s == failure.after_s and known
        return None if right else f"{said} of {failure}"


def failure_of(seed: int) -> str | None:
    """Go through the histories of one seed; return what was wrong."""
    draw = Random(seed)
    breaker, retry = BreakerHistory(draw), RetryHistory(draw)
    steps: list[Callable[[], str | None]] = [breaker.step] * STEPS + [retry.step] * 3
    for number, step in enumerate(steps):
        if (wrong := step()) is not None:
            return f"--seed {seed}, step {number}: {wrong}"
    return None


def found(first: int, runs: int) -> list[str]:
    """Return what was wrong in the histories of `runs` seeds from `first` on."""
    faults = map(failure_of, range(first, first + runs))
    return [fault for fault in faults if fault is not None]


def main() -> int:
    """Run what the arguments say; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.faults", description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1, help="of the first run")
    parser.add_argument("--jobs", type=int, default=2)
    asked = parser.parse_args()
    began, last = time.monotonic(), asked.seed + asked.runs
    firsts = range(asked.seed, last, CHUNK)
    faults: list[str] = []
    with ProcessPoolExecutor(asked.jobs) as pool:
        for some in pool.map(partial(_chunk, last), firsts):
            faults += some
    print(
        f"seeds {asked.seed}..{last - 1} in {time.monotonic() - began:.1f} s: {len(faults)} wrong"
    )
    for fault in faults[:10]:
        print(fault)
    return 1 if faults else 0


def _chunk(last: int, first: int) -> list[str]:
    return found(first, min(CHUNK, last - first))


if __name__ == "__main__":
    sys.exit(main())
