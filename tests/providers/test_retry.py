"""Whether, when and where to a request is sent again, rule by rule (R1–R8)."""

from __future__ import annotations

from random import Random
from typing import Final

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringcast.config import Retry
from ringcast.errors import Code
from ringcast.providers.traffic import failure as failures
from ringcast.providers.traffic.failure import Failure
from ringcast.providers.traffic.retry import (
    LEAST_PAUSE_S,
    Again,
    Elsewhere,
    GiveUp,
    RetryBudget,
    RetryPolicy,
)
from ringcast.providers.traffic.retry_hints import retry_hints
from ringcast.providers.wire.body import Ending

SETTINGS: Final = Retry()
POLICY: Final = RetryPolicy(SETTINGS)
FAR: Final = 1e9
PASSING: Final = Failure(Code.HTTP_STATUS, "m", "provider", retryable=True, elsewhere=True)
THROTTLED: Final = msgspec.structs.replace(PASSING, code=Code.RATE_LIMITED, throttled=True)


class Highest(Random):
    """Always draws the most."""

    def random(self) -> float:
        """Return what no draw exceeds."""
        return 1.0


def decide(
    sent: int, failure: Failure, *, now: float = 0.0, deadline: float = FAR
) -> Again | Elsewhere | GiveUp:
    return POLICY.decide(sent, failure, now, deadline, RetryBudget(SETTINGS), Highest())


def alone(failure: Failure) -> Failure:
    """The same where no other provider can help."""
    return msgspec.structs.replace(failure, elsewhere=False)


def test_nothing_is_sent_after_the_deadline() -> None:  # R1
    assert decide(1, PASSING, now=5.0, deadline=5.0) == GiveUp(PASSING)


def test_what_will_not_pass_is_not_sent_again_here() -> None:  # R2, R8
    lasting = msgspec.structs.replace(PASSING, retryable=False)
    assert decide(1, lasting) == Elsewhere(lasting)
    assert decide(1, alone(lasting)) == GiveUp(alone(lasting))


def test_three_sendings_are_enough() -> None:  # R3
    assert [type(decide(sent, PASSING)) for sent in (1, 2, 3, 4)] == [
        Again,
        Again,
        Elsewhere,
        Elsewhere,
    ]
    assert decide(3, alone(PASSING)) == GiveUp(alone(PASSING))


def test_a_models_error_is_worth_one_repetition() -> None:  # R3
    failure = failures.of_ending(Ending("http", status=424))
    assert failure is not None
    assert [type(decide(sent, failure)) for sent in (1, 2)] == [Again, Elsewhere]


def test_a_pause_that_ends_too_late_is_not_begun() -> None:  # R5
    assert decide(1, PASSING, now=0.0, deadline=0.6) == Again(0.5)
    assert decide(1, PASSING, now=0.0, deadline=0.5) == Elsewhere(PASSING)
    assert decide(1, alone(PASSING), deadline=0.5) == GiveUp(alone(PASSING))


def test_pauses_double_up_to_the_longest() -> None:  # P42
    pauses = [POLICY.pause(sent, PASSING, Highest()) for sent in range(1, 12)]
    assert pauses == [0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60]
    throttled = [POLICY.pause(sent, THROTTLED, Highest()) for sent in range(1, 9)]
    assert throttled == [1, 2, 4, 8, 16, 32, 60, 60]
    assert POLICY.pause(100_000, PASSING, Highest()) == 60


def test_a_limit_without_a_hint_ends_rate_limited() -> None:  # P42
    failure = failures.of_ending(Ending("http", status=429))
    assert failure is not None
    budget, random = RetryBudget(SETTINGS), Random(42)
    first = POLICY.decide(1, failure, 0.0, FAR, budget, random)
    second = POLICY.decide(2, failure, 1.0, FAR, budget, random)
    assert isinstance(first, Again)
    assert isinstance(second, Again)
    assert first.pause_s <= 1.0
    assert second.pause_s <= 2.0
    last = POLICY.decide(3, failure, 3.0, FAR, budget, random)
    assert isinstance(last, Elsewhere)
    assert last.failure.code == Code.RATE_LIMITED


def test_pauses_are_spread_over_all_of_their_range() -> None:
    random = Random(7)
    pauses = [POLICY.pause(4, PASSING, random) for _ in range(4000)]
    assert all(LEAST_PAUSE_S <= pause <= 4 for pause in pauses)
    for quarter in range(4):
        assert 900 < sum(quarter <= pause < quarter + 1 for pause in pauses) < 1100


@given(
    st.integers(1, 50),
    st.floats(0, 120),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_a_hint_is_the_least_and_the_limit_is_the_most(
    sent: int, hint: float, throttled: bool, seed: int
) -> None:
    failure = msgspec.structs.replace(PASSING, after_s=hint, throttled=throttled)
    pause = POLICY.pause(sent, failure, Random(seed))
    assert max(hint, LEAST_PAUSE_S) <= pause <= 120


def test_who_was_refused_together_does_not_come_back_together() -> None:
    random = Random(7)
    failure = msgspec.structs.replace(THROTTLED, after_s=7.0)
    pauses = sorted(POLICY.pause(1, failure, random) for _ in range(1000))
    assert pauses[0] >= 7.0
    assert pauses[900] - pauses[100] > 0.6


@pytest.mark.parametrize(
    ("header", "decision"),
    [
        ("315360000", "provider asks to wait 315360000 s, limit 120 (retry.max_retry_after_s)"),
        ("121", "provider asks to wait 121 s, limit 120 (retry.max_retry_after_s)"),
        (
            "Fri, 31 Dec 9999 23:59:59 GMT",
            "provider asks to wait 253402300799 s, limit 120 (retry.max_retry_after_s)",
        ),
        ("120", 120.0),
        ("1e99", 1.0),
        ("-1", 1.0),
        ("nan", 1.0),
        ("\u0661\u0662", 1.0),
        ("0", 1.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 1.0),
    ],
)
def test_how_long_a_provider_may_ask_to_wait(header: str, decision: str | float) -> None:  # P43
    hints = retry_hints(httpx.Headers([(b"retry-after", header.encode())]), 0.0)
    failure = failures.of_ending(Ending("http", status=429, retry_after_s=hints.after_s))
    assert failure is not None
    made = decide(1, failure)
    if isinstance(decision, float):
        assert made == Again(decision)
    else:
        assert isinstance(made, Elsewhere)
        assert made.failure.code == Code.RATE_LIMITED
        assert made.failure.message == decision
        assert made.failure.after_s == hints.after_s


def test_no_hint_makes_a_pause_shorter_than_the_least() -> None:  # P43
    class Lowest(Random):
        def random(self) -> float:
            return 0.0

    for hint in (None, 0.0, 1e-9):
        failure = msgspec.structs.replace(PASSING, after_s=hint)
        assert POLICY.pause(1, failure, Lowest()) == LEAST_PAUSE_S


# the budget (R6)


def test_a_few_repetitions_are_always_within_the_budget() -> None:
    budget = RetryBudget(SETTINGS)
    assert [budget.take(1.0) for _ in range(12)] == [True] * 10 + [False] * 2
    assert budget.take(61.0)


def test_a_fifth_of_all_sendings_may_be_repetitions() -> None:
    budget = RetryBudget(SETTINGS)
    for _ in range(800):
        budget.first(1.0)
    assert sum(budget.take(1.0) for _ in range(1000)) == 200


def test_without_a_budget_there_is_the_next_provider_and_the_error_says_why() -> None:
    none = RetryBudget(Retry(budget_ratio=0.0, budget_least=0))
    said = POLICY.decide(1, PASSING, 0.0, FAR, none, Random(1))
    assert isinstance(said, Elsewhere)
    assert said.failure.message.startswith(f"{PASSING.message} (not sent again")
    assert "retry.budget_ratio" in said.failure.message
    assert msgspec.structs.replace(said.failure, message=PASSING.message) == PASSING


def test_processes_may_share_a_budget() -> None:
    words = [0] * RetryBudget.WORDS
    several = [RetryBudget(SETTINGS, words) for _ in range(4)]
    assert sum(one.take(1.0) for one in several for _ in range(10)) == 10


def test_a_storm_does_not_multiply() -> None:
    """All fail for five minutes, 100 a second; without a budget it would be 300 sendings."""
    budget, random = RetryBudget(SETTINGS), Random(3)
    sendings = 0
    for second in range(300):
        for _ in range(100):
            budget.first(float(second))
            sent = 1
            while isinstance(
                POLICY.decide(sent, PASSING, float(second), FAR, budget, random), Again
            ):
                sent += 1
            sendings += sent
    assert 1.2 < sendings / 30_000 < 1.27
