"""Many runs, what they come to, and the shortest part of one that still fails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from .ledger import Violation
from .mutants import planted
from .seams import System, system
from .world import MOST_STEPS, World

CHUNK = 500  # runs that one process does at a time


class Tally:
    """What runs came to."""

    def __init__(self) -> None:
        self.runs = 0
        self.tokens = 0
        self.deaths: Counter[str] = Counter()
        self.violations: list[tuple[int, str]] = []

    def add(self, other: Tally) -> None:
        """Take another's figures in."""
        self.runs += other.runs
        self.tokens += other.tokens
        self.deaths += other.deaths
        self.violations += other.violations


def begin(
    seed: int,
    runs: int,
    at_once: bool = False,
    trace: Callable[[str], object] | None = None,
) -> Tally:
    """Do the runs of `runs` seeds from `seed` on."""
    tally = Tally()
    with system() as beneath:
        for number in range(seed, seed + runs):
            fault = failure(number, beneath, at_once=at_once, trace=trace, tally=tally)
            if fault is not None:
                tally.violations.append((number, fault))
    return tally


def failure(
    seed: int,
    beneath: System,
    *,
    at_once: bool = False,
    steps: int | None = None,
    trace: Callable[[str], object] | None = None,
    tally: Tally | None = None,
) -> str | None:
    """Do one run; return what was wrong with it. An exception in any process is."""
    world = None
    try:
        world = World(seed, beneath, steps=steps, at_once=at_once, trace=trace)
        world.run()
    except Violation as fault:
        return str(fault)
    except Exception as fault:
        return f"{type(fault).__name__}: {fault}"
    finally:
        if world is not None:
            world.close()
            if tally is not None:
                tally.runs += 1
                tally.tokens += world.tokens
                tally.deaths.update(world.deaths.counts())
    return None


def shrunk(seed: int, at_once: bool = False) -> int:
    """Return how many of a failing run's steps are enough to make it fail."""
    with system() as beneath:
        for steps in range(MOST_STEPS):
            if failure(seed, beneath, steps=steps, at_once=at_once) is not None:
                return steps
    return MOST_STEPS


def found_after(mutant: str, seed: int, runs: int) -> int | None:
    """Return how many runs it took to find a planted fault, None if it was not found.

    A run that fails without it as well does not count.
    """
    with system() as beneath:
        for number in range(runs):
            with planted(mutant):
                found = failure(seed + number, beneath)
            if found is not None and failure(seed + number, beneath) is None:
                return number + 1
    return None
