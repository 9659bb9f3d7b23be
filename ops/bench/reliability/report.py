"""What a scenario amounts to, for people and as JSON."""

from __future__ import annotations

import msgspec

from ringcast.bench.reliability.scenario import SCENARIOS, Seen
from ringcast.bench.reliability.tally import Tally
from ringcast.bench.reliability.watch import Spread, spread


class Report(msgspec.Struct, frozen=True):
    """One scenario; times in ms, null where a scenario has none.

    `outage_ms`: the longest silence over all streams after a fault. `next_ms`: from a fault to
    the next token of a stream, which may have been under way. `stall_ms`: the longest silence
    of a stream after a fault. A stop's faults count from its SIGCONT. Of `provider` and
    `daemon` only streams count that had no token before the fault; a quarter of `provider`'s
    answer after 300 ms, which their first tokens' times contain. Of `client-stall` `next_ms`
    is the stopped client's, from its SIGCONT, the others are those of other readers meanwhile.
    `recovery_ms`: from the daemon's death until a new one answers HELLO.
    """

    scenario: str
    seed: int
    deaths: int
    tally: Tally
    outage_ms: Spread | None
    next_ms: Spread | None
    stall_ms: Spread | None
    recovery_ms: Spread | None
    seconds: float

    @property
    def faults(self) -> list[str]:
        """A line for everything that is not as it must be; no time is among them."""
        tally, lines = self.tally, list(self.tally.faults)
        if tally.lost or tally.doubled or tally.changed:
            text = f"lost {tally.lost}, doubled {tally.doubled}, changed {tally.changed}"
            lines.insert(0, text)
        if not tally.tokens or not self.deaths:
            lines.append(f"{self.deaths} strikes and {tally.tokens} tokens prove nothing")
        return lines

    @property
    def target(self) -> str:
        """The bound of this scenario and whether it is kept, in words."""
        wanted = SCENARIOS[self.scenario].target
        if wanted is None:
            return ""
        name, bound = wanted
        found: Spread | None = getattr(self, name)
        kept = found is not None and found.p99 <= bound
        return f"{name.removesuffix('_ms')} p99 <= {bound:g} ms: {'kept' if kept else 'MISSED'}"


def report(name: str, seed: int, seen: Seen, faults: list[str], seconds: float) -> Report:
    """Sum a scenario up, with what else was found wrong when the daemon had ended."""
    seen.tally.faults += faults
    found = seen.outages
    return Report(
        name,
        seed,
        seen.deaths,
        seen.tally,
        spread(found.silences),
        spread(found.nexts),
        spread(found.stalls),
        spread(found.recoveries),
        seconds,
    )


def judge(found: Report) -> None:
    """Raise AssertionError with the seed if anything was not as it must be."""
    if found.faults:
        text = "\n  ".join(found.faults[:10])
        raise AssertionError(f"{found.scenario}, seed {found.seed}:\n  {text}")


HEAD = (
    f"{'scenario':13} {'deaths':>6} {'streams':>8} {'cut':>6} {'tokens':>10} "
    f"{'lost':>4} {'dbl':>4} {'chg':>4}  {'outage ms':>18}  {'next ms':>18}  "
    f"{'stall ms':>18}  {'recovery ms':>18}  {'s':>5}"
)


def line(found: Report) -> str:
    """One row under `HEAD`; times are p50/p99/max."""
    tally = found.tally
    times = (found.outage_ms, found.next_ms, found.stall_ms, found.recovery_ms)
    return (
        f"{found.scenario:13} {found.deaths:6,} {tally.whole + tally.interrupted:8,} "
        f"{tally.interrupted:6,} {tally.tokens:10,} {tally.lost:4} {tally.doubled:4} "
        f"{tally.changed:4}  {'  '.join(f'{_times(one):>18}' for one in times)}  "
        f"{found.seconds:5.0f}  {found.target}"
    )


def _times(one: Spread | None) -> str:
    return f"{one.p50:.1f}/{one.p99:.1f}/{one.max:.1f}" if one else "-"
