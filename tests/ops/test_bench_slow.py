"""The bench of a slow upstream: what it takes for growth, and what it does not let pass."""

from __future__ import annotations

import pytest

from ringcast.bench.slow import DELAY_S, LATE_S, Round, growth_bytes, judge
from ringcast.soak.sequence import Tally


def rounds(*megabytes: float) -> list[Round]:
    return [Round(1000, DELAY_S, round(one * 1e6)) for one in megabytes]


def test_memory_that_settles_is_flat() -> None:
    settling = rounds(30, 34, 38, 40, 41, 40, 42, 41, 40, 41, 43, 41)
    assert 0 <= growth_bytes(settling) < 250
    judge(settling, Tally())


def test_memory_that_grows_with_every_round_is_a_leak() -> None:
    leaking = rounds(*(30 + 2 * number for number in range(12)))
    assert growth_bytes(leaking) == 2000
    with pytest.raises(AssertionError, match="grew by 2000 bytes a request"):
        judge(leaking, Tally())


@pytest.mark.parametrize(
    ("tally", "seconds", "fault"),
    [
        (Tally(failed=["stream 7 ended with None"]), DELAY_S, "stream 7 ended"),
        (Tally(lost=1), DELAY_S, "tokens are wrong"),
        (Tally(), DELAY_S + LATE_S + 1, "a round took 12.5 s"),
    ],
)
def test_what_is_not_right_is_named(tally: Tally, seconds: float, fault: str) -> None:
    with pytest.raises(AssertionError, match=fault):
        judge([*rounds(30, 30, 30, 30, 30), Round(1000, seconds, 30_000_000)], tally)
