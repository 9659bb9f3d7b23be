"""The command: many runs on several cores, or one again, or the planted faults."""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from .campaign import CHUNK, Tally, begin, found_after, shrunk
from .mutants import MUTANTS

FIRST_FOUND = 10  # violations that are told at length
MUTANT_RUNS = 20_000


def main() -> int:
    """Run what the arguments say; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1, help="of the first run")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--at-once", action="store_true", help="worker and broker may die together")
    parser.add_argument("--trace", action="store_true", help="tell what happens")
    parser.add_argument("--mutants", action="store_true", help="plant faults, one after the other")
    asked = parser.parse_args()
    if asked.mutants:
        return _mutants(asked.seed)
    if asked.trace:
        tally = begin(asked.seed, asked.runs, asked.at_once, trace=print)
        return _report(tally, asked.at_once)
    return _campaign(asked)


def _campaign(asked: argparse.Namespace) -> int:
    began = time.monotonic()
    firsts = range(asked.seed, asked.seed + asked.runs, CHUNK)
    sizes = [min(CHUNK, asked.seed + asked.runs - first) for first in firsts]
    tally = Tally()
    with ProcessPoolExecutor(asked.jobs) as pool:
        for part in pool.map(partial(begin, at_once=asked.at_once), firsts, sizes):
            tally.add(part)
    elapsed_s = time.monotonic() - began
    last = asked.seed + asked.runs - 1
    print(f"seeds {asked.seed}..{last}: {tally.runs} runs in {elapsed_s:.1f} s", end=", ")
    print(f"{tally.runs / elapsed_s:.0f} runs/s; {tally.tokens} tokens taken")
    return _report(tally, asked.at_once)


def _report(tally: Tally, at_once: bool) -> int:
    died = ", ".join(f"{number} {kind}" for kind, number in sorted(tally.deaths.items()))
    print(f"died: {died}; violations: {len(tally.violations)}")
    for seed, what in tally.violations[:FIRST_FOUND]:
        steps = shrunk(seed, at_once)
        print(f"  --seed {seed} (the first {steps} steps are enough): {what}")
    return 1 if tally.violations else 0


def _mutants(seed: int) -> int:
    lived = 0
    for name in MUTANTS:
        runs = found_after(name, seed, MUTANT_RUNS)
        lived += runs is None
        print(f"{'NOT FOUND' if runs is None else f'{runs:5} runs'}  {name}", flush=True)
    return 1 if lived else 0


if __name__ == "__main__":
    sys.exit(main())
