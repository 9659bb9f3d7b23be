"""A short part of the simulation: some hundred histories, and those that once went wrong.

`python -m tests.simulation --runs 100000` is the long one.
"""

from __future__ import annotations

import pytest
from simulation.campaign import Tally, begin, failure, found_after
from simulation.seams import system

RUNS = 300
# Each was a fault of the daemon: a stream that hung, a token lost, something left behind.
ONCE_WRONG = (
    40, 145, 180, 234, 406, 567, 572, 766, 797, 2799, 3266, 4670, 4909, 5239, 5266, 5441, 5767,
    7134, 103256, 121901, 310941, 333034, 409757, 413015, 416536, 429316, 524094,
)  # fmt: skip
EASY = (
    "credit is not turned into grants",
    "what a dead provider process left is not ended",
    "a client does not join again",
    "a checkpoint does not say how far it is",
    "what was kept back is ignored",
    "an errand that waits is not cancelled",
    "a request is sent for ever",
)


def test_many_histories() -> None:
    tally = begin(1, RUNS)
    assert tally.violations == []
    assert tally.runs == RUNS
    assert set(+tally.deaths) == {"broker", "client", "provider", "worker"}
    assert tally.tokens > RUNS


def test_a_worker_and_the_broker_at_once() -> None:
    """More than is promised to be survived: tokens may be lost, but nothing hangs or lies."""
    assert begin(1, RUNS, at_once=True).violations == []


@pytest.mark.parametrize("seed", ONCE_WRONG)
def test_a_history_that_once_went_wrong(seed: int) -> None:
    assert begin(seed, 1).violations == []


def test_one_seed_is_one_history() -> None:
    told: list[list[str]] = [[], []]
    with system() as beneath:
        for lines in told:
            failure(7, beneath, trace=lines.append, tally=Tally())
    assert told[0] == told[1]
    assert len(told[0]) > 1


@pytest.mark.parametrize("mutant", EASY)
def test_a_planted_fault_is_found(mutant: str) -> None:
    assert found_after(mutant, 1, 3000) is not None
