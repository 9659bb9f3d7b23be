"""The verdict of a soak: what was lost, what grew, and by how much."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from ringcast.soak.gauge import Sample
from ringcast.soak.sequence import Tally
from ringcast.soak.trend import BLOCKS, Trend, trend

WARM_UP: Final = 0.2  # of the run, while caches, pools and allocators fill
# Growth in bytes a million tokens that is let pass: 64 a thousand, a page in 64,000 tokens.
ALLOWANCE: Final = 64_000.0


class Growth(msgspec.Struct, frozen=True):
    """A process's memory after the warm-up, with 95 % confidence intervals.

    The verdict is on `anonymous`, in bytes a million tokens: what of USS was allocated. The
    rest are pages that the fork shared and one side has written to since, and pages of our
    segments, whose sizes are fixed and counted by themselves.
    """

    uss_bytes: int
    kib_per_hour: Trend
    bytes_per_million_tokens: Trend
    anonymous: Trend
    cpu_us_per_token: float
    allowance: float = ALLOWANCE

    @property
    def flat(self) -> bool:
        """Whether no growth can be told from none, or it is below the allowance."""
        grown = self.anonymous
        return grown.low <= 0 <= grown.high or grown.high < self.allowance


class Count(msgspec.Struct, frozen=True):
    """Something that must not grow: its maxima in the run's quarters, and with no client.

    `varies` with the streams that are open just then, as descriptors do, and the segment for
    what slow readers are owed: the maxima of two quarters may differ either way, and only at
    rest is there nothing to excuse.
    """

    first_quarter: int
    last_quarter: int
    rest_before: int
    rest_after: int
    varies: bool = False

    @property
    def steady(self) -> bool:
        """Whether it is back where it was, and if it does not vary never was elsewhere."""
        back = self.rest_after <= self.rest_before
        return back and (self.varies or self.last_quarter <= self.first_quarter)


class Report(msgspec.Struct, frozen=True):
    """Everything a soak found. `deaths` counts processes of the daemon that were replaced."""

    seed: int
    seconds: float
    tokens_per_s: float
    clients_killed: int
    deaths: int
    tally: Tally
    growth: dict[str, Growth]
    counts: dict[str, Count]
    samples: list[Sample]

    @property
    def faults(self) -> list[str]:
        """A line for everything that is not as it must be."""
        tally = self.tally
        lines = [f"a visit failed: {line}" for line in tally.failed]
        if tally.wrong:
            lines.append(f"lost {tally.lost}, doubled {tally.doubled}, changed {tally.changed}")
        if self.deaths:
            lines.append(f"{self.deaths} processes of the daemon died")
        if not self.growth:
            lines.append("the run was too short to tell growth from noise")
        lines += [f"{role} grows" for role, growth in self.growth.items() if not growth.flat]
        lines += [
            f"{name} rose from {count.first_quarter} to {count.last_quarter} in the run, "
            f"from {count.rest_before} to {count.rest_after} at rest"
            for name, count in self.counts.items()
            if not count.steady
        ]
        return lines


def growth(samples: Sequence[Sample], allowance: float = ALLOWANCE) -> dict[str, Growth]:
    """Fit every process's USS over time; nothing if the run was too short for that.

    `allowance` — bytes a million tokens that are let pass.
    """
    first, last = samples[0], samples[-1]
    warm = [s for s in samples if s.at >= first.at + WARM_UP * (last.at - first.at)]
    if len(warm) < BLOCKS:
        return {}
    seconds, tokens = last.at - warm[0].at, last.tokens - warm[0].tokens
    found = {}
    for role, end in last.processes.items():
        a_second = trend([(s.at, s.processes[role].uss) for s in warm])
        allocated = trend([(s.at, s.processes[role].anonymous) for s in warm])
        cpu_s = end.cpu_s - warm[0].processes[role].cpu_s
        found[role] = Growth(
            end.uss,
            a_second.times(3600 / 1024),
            a_second.times(seconds / tokens * 1e6),
            allocated.times(seconds / tokens * 1e6),
            cpu_s / tokens * 1e6,
            allowance,
        )
    return found


def counts(samples: Sequence[Sample], before: Sample, after: Sample) -> dict[str, Count]:
    """Compare descriptors, threads and shared memory of a run, and around it."""
    rows = [sample.counts for sample in samples]
    quarter = max(1, len(rows) // 4)
    return {
        name: Count(
            max(row[name] for row in rows[:quarter]),
            max(row[name] for row in rows[-quarter:]),
            before.counts[name],
            after.counts[name],
            varies=name.endswith("fds") or name in ("segments", "shm_bytes"),
        )
        for name in rows[0]
    }
