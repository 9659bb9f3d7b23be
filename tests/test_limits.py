"""A short part of the simulation of limits; `python -m tests.simulation.limits` is the whole."""

from __future__ import annotations

from dataclasses import replace

import pytest
from simulation.limits import Case, World

SEED = 1
SHORT = Case("short", requests=120, outages=((540.0, 560.0),), minutes=15, warm_up=5)


@pytest.mark.parametrize("processes", [1, 4])
@pytest.mark.parametrize(
    "case",
    [
        replace(SHORT, name="configured", configured=1),
        replace(SHORT, name="headers", headers=True),
        replace(SHORT, name="headers, tokens", headers=True, requests=10**6, tokens=120_000),
        replace(SHORT, name="found out", minutes=30),
        replace(SHORT, name="configured too high", configured=2),
    ],
    ids=lambda case: case.name,
)
def test_what_is_allowed_is_used_with_hardly_a_refusal(case: Case, processes: int) -> None:
    result = World(replace(case, processes=processes), SEED).run()
    assert result.reached >= 0.95
    assert result.refused <= 0.01
    assert 1 <= result.in_outages <= 12


def test_one_seed_is_one_history() -> None:
    case = replace(SHORT, minutes=7)
    assert World(case, 3).run() == World(case, 3).run()
