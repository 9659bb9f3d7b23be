"""The circuit breaker, rule by rule (B1–B7); random histories are in tests/simulation/faults.py."""

from __future__ import annotations

import itertools
import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulation.faults import NEXT, found

import ringcast
from ringcast.config import Breaker
from ringcast.errors import Code
from ringcast.providers.traffic.breaker import (
    CLOSED,
    LEASE,
    NUMBER,
    UNTIL,
    CircuitBreaker,
    Open,
    Outcome,
    Probe,
)
from ringcast.providers.traffic.sliding_counts import BUCKETS, SlidingCounts

SETTINGS = Breaker(failures=3, open_s=60, window_s=30, failure_rate=0.5, least_calls=20)
HISTORIES = 2000


def breaker(settings: Breaker = SETTINGS) -> CircuitBreaker:
    return CircuitBreaker([0] * CircuitBreaker.WORDS, settings)


def tripped(now: float = 100.0) -> CircuitBreaker:
    """One that opened at `now`."""
    one = breaker()
    for _ in range(SETTINGS.failures):
        one.record("failure", now)
    return one


def probing(now: float = 160.0) -> tuple[CircuitBreaker, Probe]:
    """One that has let its probe through at `now`."""
    one = tripped(now - 60)
    probe = one.ask(now)
    assert isinstance(probe, Probe)
    return one, probe


def test_random_histories_follow_the_table() -> None:
    assert found(1, HISTORIES) == []


def test_the_table_leads_everywhere() -> None:
    assert {state for state, _ in NEXT} == {*NEXT.values()}


def test_it_opens_after_failures_in_a_row() -> None:  # B1
    one = breaker()
    outcomes: list[Outcome] = ["failure", "failure", "success", "failure", "failure"]
    for outcome in outcomes:
        one.record(outcome, 1.0)
        assert one.ask(1.0) is CLOSED
    one.record("failure", 1.0)
    assert one.ask(1.0) == Open(61.0)


def test_it_opens_when_half_of_the_calls_fail() -> None:  # B1
    one = breaker(Breaker(failures=100, failure_rate=0.5, least_calls=20, window_s=30))
    outcomes: list[Outcome] = ["failure", "success"]
    for number in range(19):
        one.record(outcomes[number % 2], number / 10)
        assert one.state(2.0) == "closed"
    one.record("failure", 2.0)
    assert one.state(2.0) == "open"


def test_failures_of_long_ago_do_not_count() -> None:  # B1
    one = breaker(Breaker(failures=100, failure_rate=0.5, least_calls=4, window_s=30))
    for now in (0.0, 40.0, 80.0, 120.0, 160.0):
        one.record("failure", now)
    assert one.state(160.0) == "closed"


def test_what_proves_nothing_counts_for_nothing() -> None:  # B1
    one = breaker()
    for _ in range(100):
        one.record("neither", 1.0)
    one.record("failure", 1.0)
    one.record("failure", 1.0)
    one.record("neither", 1.0)
    assert one.state(1.0) == "closed"
    one.record("failure", 1.0)
    assert one.state(1.0) == "open"


def test_a_refusal_tells_the_time_of_the_next_probe() -> None:  # B2, P46
    one = tripped(100.0)
    verdict = one.ask(147.6543)
    assert isinstance(verdict, Open)
    refusal = verdict.refusal("openai", 147.6543)
    assert refusal.code == Code.CIRCUIT_OPEN
    assert refusal.message == (
        "openai fails too often to be asked now; the next try is in 12.346 s"
    )
    assert refusal.detail == {"retryable": True, "retry_after_s": 12.346}
    assert verdict.refusal("openai", 1e9).detail["retry_after_s"] == 0.0


@given(st.floats(0, 1e8), st.floats(0.1, 86400))
def test_the_probe_goes_at_the_time_that_was_told(now: float, open_s: float) -> None:  # B2, B3
    one = CircuitBreaker([0] * CircuitBreaker.WORDS, Breaker(failures=1, open_s=open_s))
    one.record("failure", now)
    verdict = one.ask(now)
    assert isinstance(verdict, Open)
    assert abs(verdict.until - (now + open_s)) < 0.005
    assert isinstance(one.ask(verdict.until), Probe)


def test_an_hour_of_failures_asks_once_a_minute_and_refuses_at_once() -> None:  # P46
    one, sent, asked = breaker(), 0, 0
    began = time.process_time()
    for now in range(3600):
        for _ in range(10):
            asked += 1
            verdict = one.ask(float(now))
            if not isinstance(verdict, Open):
                sent += 1
                one.record("failure", float(now), verdict if isinstance(verdict, Probe) else None)
    assert sent == SETTINGS.failures + 59
    assert (time.process_time() - began) / asked < 0.005


def test_one_of_a_thousand_callers_is_the_probe() -> None:  # B3, P46
    one = tripped(100.0)
    assert one.refusing(159.999) == Open(160.0)
    assert one.refusing(160.0) is None  # to look is not to ask
    verdicts = [one.ask(160.0) for _ in range(1000)]
    assert [type(verdict) for verdict in verdicts] == [Probe] + [Open] * 999
    assert verdicts[-1] == Open(220.0)


def test_each_of_many_processes_sees_the_same_probe() -> None:  # B3, B7
    words = [0] * CircuitBreaker.WORDS
    several = [CircuitBreaker(words, SETTINGS) for _ in range(4)]
    for one in several:
        one.record("failure", 100.0)
    verdicts = [one.ask(160.0) for one in several]
    assert sorted(type(verdict).__name__ for verdict in verdicts) == ["Open"] * 3 + ["Probe"]


def test_a_probe_that_is_not_heard_of_is_given_up() -> None:  # B3
    one, first = probing(160.0)
    assert isinstance(one.ask(219.999), Open)
    second = one.ask(220.0)
    assert isinstance(second, Probe)
    assert second != first
    assert isinstance(one.ask(220.0), Open)


def test_a_failed_probe_opens_for_as_long_as_the_first_time() -> None:  # B4
    one, probe = probing(160.0)
    for _ in range(5):
        one.record("failure", 170.0, probe)
    assert one.ask(170.0) == Open(230.0)


def test_an_old_probes_failure_says_nothing() -> None:  # B4
    one, first = probing(160.0)
    second = one.ask(220.0)
    one.record("failure", 221.0, first)
    assert one.state(221.0) == "half-open"
    assert isinstance(second, Probe)
    one.record("success", 222.0, second)
    one.record("failure", 223.0, first)
    assert one.ask(223.0) is CLOSED
    assert one.refusing(223.0) is None


def test_the_success_of_an_old_probe_closes() -> None:  # B5
    one, first = probing(160.0)
    one.ask(220.0)
    one.record("success", 250.0, first)
    assert one.ask(250.0) is CLOSED


def test_counts_begin_anew_after_a_success() -> None:  # B5
    one, probe = probing(160.0)
    one.record("success", 161.0, probe)
    for _ in range(SETTINGS.failures - 1):
        one.record("failure", 162.0)
        assert one.ask(162.0) is CLOSED


@pytest.mark.parametrize("outcome", ["success", "failure", "neither"])
def test_requests_from_before_prove_nothing(outcome: Outcome) -> None:  # B5
    one, _ = probing(160.0)
    one.record(outcome, 161.0)
    assert one.state(161.0) == "half-open"
    assert one.ask(161.0) == Open(220.0)


def test_a_probe_that_proves_nothing_is_given_back() -> None:  # B6
    one, first = probing(160.0)
    one.record("neither", 161.0, first)
    second = one.ask(161.0)
    assert isinstance(second, Probe)
    one.record("neither", 162.0, first)  # not its own any more
    assert isinstance(one.ask(162.0), Open)


class Killed(Exception):
    """The process dies."""


class Mortal(list[int]):
    """Words whose writer is killed before a certain store."""

    left = 1 << 62

    def __setitem__(self, place: int, value: int) -> None:  # type: ignore[override]
        if self.left == 0:
            raise Killed
        self.left -= 1
        super().__setitem__(place, value)


@pytest.mark.parametrize("outcome", ["success", "failure", "neither"])
@pytest.mark.parametrize("stores", range(12))
def test_a_writer_killed_between_two_stores_blocks_nobody(  # B7
    outcome: Outcome, stores: int
) -> None:
    words = Mortal([0] * CircuitBreaker.WORDS)
    one = CircuitBreaker(words, SETTINGS)
    for _ in range(SETTINGS.failures):
        one.record("failure", 100.0)
    words.left = stores
    with suppress(Killed):
        verdict = one.ask(160.0)
        assert isinstance(verdict, Probe)
        one.record(outcome, 161.0, verdict)
    words.left = 1 << 62
    probes = [one.ask(161.0) for _ in range(9)]
    assert sum(isinstance(probe, Probe) for probe in probes) <= 1
    last = one.ask(161.0 + 2 * SETTINGS.open_s)  # a lease and an opening later at most
    if isinstance(last, Probe):
        one.record("success", 300.0, last)
    assert one.ask(300.0) is CLOSED
    assert words[UNTIL] == 0


def test_the_words_are_64_bits_wide() -> None:  # B7
    words = memoryview(bytearray(8 * CircuitBreaker.WORDS)).cast("q")
    one = CircuitBreaker(words, Breaker(failures=1, open_s=86400))
    now = 3e9  # 95 years
    for _ in range(3):
        one.record("failure", now)
        now += 86400
        probe = one.ask(now)
        assert isinstance(probe, Probe)
        one.record("success", now, probe)
    assert words[NUMBER] == 6
    assert words[LEASE] == 0


def test_it_is_public() -> None:
    assert ringcast.CircuitBreaker is CircuitBreaker


# the window


def test_a_window_counts_the_last_calls() -> None:
    counts = SlidingCounts([0] * 8, 1, 60.0)
    for now in range(120):
        counts.add(float(now), now % 4 == 0)
    assert counts.counts(119.0) == (60, 15)
    assert counts.counts(129.0) == (50, 12)
    assert counts.counts(180.0) == (0, 0)


def test_a_window_touches_no_other_words() -> None:
    words = [7] + [0] * BUCKETS + [7]
    counts = SlidingCounts(words, 1, 60.0)
    for now in range(0, 600, 3):
        counts.add(float(now), True)
    counts.clear()
    assert words == [7] + [0] * BUCKETS + [7]


def test_a_full_bucket_keeps_the_rate() -> None:
    words = [0] * BUCKETS
    counts = SlidingCounts(words, 0, 60.0)
    words[0] = (1 << 20) - 1 << 20 | 1 << 18
    counts.add(0.0, True)
    calls, failed = counts.counts(0.0)
    assert calls == 1 << 19
    assert failed == (1 << 17) + 1


@given(st.lists(st.tuples(st.floats(0, 20), st.booleans()), max_size=60), st.floats(0, 1e7))
def test_a_window_forgets_and_nothing_else(calls: list[tuple[float, bool]], start: float) -> None:
    counts = SlidingCounts([0] * BUCKETS, 0, 30.0)
    times = list(itertools.accumulate((gap for gap, _ in calls), initial=start))[1:]
    for now, (_, marked) in zip(times, calls, strict=True):
        counts.add(now, marked)
    now = times[-1] if times else start
    late = [m for at, (_, m) in zip(times, calls, strict=True) if at > now - 25 + 1e-6]
    ever = [m for at, (_, m) in zip(times, calls, strict=True) if at > now - 30 - 1e-6]
    seen, of_them = counts.counts(now)
    assert len(late) <= seen <= len(ever)
    assert sum(late) <= of_them <= sum(ever)
