"""How fast a provider may be asked (L1-L5, B1-B7), against aiolimiter and on a fake clock."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Iterator
from contextlib import suppress

import pytest
from aiolimiter import AsyncLimiter
from hypothesis import given, settings
from hypothesis import strategies as st

from ringcast.providers.traffic.limiter import (
    LONGEST_HINT_S,
    PROBE_S,
    PROCESSES,
    WORDS,
    AdaptiveRateLimiter,
    RateSettings,
)
from ringcast.providers.traffic.rate_headers import NOTHING, RateLimits, Window
from ringcast.shm import segment
from ringcast.shm.shared_words import TABLE_BYTES, USER_WORDS, RowBusy, SharedWords

BURST_S = 57  # of a minute, B2


def limiter(requests: int = 0, tokens: int = 0, concurrency: int = 0) -> AdaptiveRateLimiter:
    return AdaptiveRateLimiter(RateSettings(requests, tokens, concurrency))


def flood(one: AdaptiveRateLimiter, now: float, tokens: int = 1, most: int = 5000) -> int:
    """Admit until it refuses; return how many went."""
    return next((number for number in range(most) if one.admit(tokens, now)), most)


def test_a_row_has_room_for_a_limiter() -> None:
    assert WORDS <= USER_WORDS


def test_l5_without_any_limit_a_request_goes_at_once() -> None:
    assert flood(limiter(), 100.0, tokens=10**9) == 5000


@st.composite
def arrivals(draw: st.DrawFn) -> list[tuple[float, int]]:
    """Times that grow, and tokens: dense and sparse stretches."""
    now, steps = 100.0, []
    for _ in range(draw(st.integers(1, 20))):
        gap = draw(st.sampled_from([0.0, 0.001, 0.05, 0.3, 2.0, 70.0]))
        for _ in range(draw(st.integers(1, 40))):
            now += gap
            steps.append((now, draw(st.integers(1, 50))))
    return steps


def oracle(trace: list[tuple[float, int]], rate: int) -> list[bool]:
    """What aiolimiter admits of a trace, with our burst and rate."""
    clock = [0.0]
    loop = asyncio.new_event_loop()
    loop.time = lambda: clock[0]  # type: ignore[method-assign]

    async def drive() -> list[bool]:
        theirs, admitted = AsyncLimiter(rate * BURST_S / 60, BURST_S), []
        for now, amount in trace:
            clock[0] = now
            admitted.append(theirs.has_capacity(amount))
            if admitted[-1]:
                await theirs.acquire(amount)
        return admitted

    try:
        return loop.run_until_complete(drive())
    finally:
        loop.close()


@given(arrivals(), st.sampled_from([1, 3, 10, 60, 500, 6000]))
@settings(max_examples=30, deadline=None)
def test_b1_requests_are_admitted_as_by_aiolimiter(
    trace: list[tuple[float, int]], rate: int
) -> None:
    one, trace = limiter(requests=rate), [(now, 1) for now, _ in trace]
    if rate * BURST_S < 60:
        rate = 2  # it could never admit one: B3 is ours
        one = limiter(requests=rate)
    ours = [not one.admit(1, now) for now, _ in trace]
    check(trace, ours, oracle(trace, rate), rate, 1)


@given(arrivals(), st.sampled_from([60, 500, 6000]))
@settings(max_examples=25, deadline=None)
def test_b1_tokens_are_admitted_as_by_aiolimiter(trace: list[tuple[float, int]], rate: int) -> None:
    one = limiter(tokens=rate)
    ours = [not one.admit(amount, now) for now, amount in trace]
    check(trace, ours, oracle(trace, rate), rate, 50)


def check(
    trace: list[tuple[float, int]], ours: list[bool], theirs: list[bool], rate: int, most: int
) -> None:
    """Totals are within one request all along, and no window has more than rate and burst give."""
    times = [now for now, _ in trace]
    taken = [amount * yes for (_, amount), yes in zip(trace, ours, strict=True)]
    also = [amount * yes for (_, amount), yes in zip(trace, theirs, strict=True)]
    lead = low = 0.0
    total = 0
    for now, mine, other in zip(times, taken, also, strict=True):
        lead += mine - other
        assert abs(lead) <= most
        low = min(low, total - now * rate / 60) if total else -now * rate / 60
        total += mine
        assert total - now * rate / 60 - low <= rate * BURST_S / 60 + 1e-6


@given(arrivals(), st.integers(1, 100), st.integers(1, 3000))
@settings(max_examples=30, deadline=None)
def test_l1_the_wait_is_long_enough_and_no_longer(
    trace: list[tuple[float, int]], requests: int, tokens: int
) -> None:
    one = limiter(requests, tokens)
    for now, amount in trace:
        if wait_s := one.admit(amount, now):
            assert one.wait(amount, now + wait_s + 1e-6) == 0
            if wait_s > 0.002:
                assert one.wait(amount, now + wait_s - 0.002) > 0


def test_l1_a_request_is_charged_to_all_or_none() -> None:
    one = limiter(requests=60, tokens=6000)
    assert one.admit(5000, 0.0) == 0
    for _ in range(100):
        assert one.admit(5000, 0.0) > 1
    assert flood(one, 0.0, tokens=1) == BURST_S - 1


def test_b3_a_request_above_the_whole_limit_goes_alone() -> None:
    one = limiter(tokens=1000)
    assert one.admit(3000, 0.0) == 0
    assert one.admit(1, 0.0) == pytest.approx(180 - BURST_S + 0.06)
    assert one.admit(3000, 179.0) > 0
    assert one.admit(3000, 180.1) == 0


def test_what_was_not_used_is_given_back_and_what_is_missing_taken() -> None:
    one = limiter(tokens=6000)
    assert flood(one, 0.0, tokens=1000) == 5
    one.settle(1000, 100, 0.0)
    assert one.admit(1000, 0.0) == 0
    one.settle(1000, 3000, 0.0)
    charged, burst = 5000 - 900 + 1000 + 2000, 6000 * BURST_S / 60
    assert one.admit(1000, 0.0) == pytest.approx((charged + 1000 - burst) / 100)
    one.settle(1000, None, 0.0)
    assert one.admit(1000, 0.0) == pytest.approx((charged + 1000 - burst) / 100)


def test_a_request_that_is_withdrawn_was_never_charged() -> None:
    one = limiter(60, 600, 1)
    for _ in range(1000):
        assert one.admit(500, 0.0) == 0
        one.withdraw(500, 0.0)
    assert one.admit(500, 0.0) == 0


def test_l1_concurrency_is_of_all_processes_and_a_successor_resets_its_own() -> None:
    words = memoryview(bytearray(WORDS * 8)).cast("q")
    settings_ = RateSettings(concurrency=3)
    processes = [AdaptiveRateLimiter(settings_, words, number) for number in (0, PROCESSES - 1)]
    assert [one.admit(1, 0.0) for one in (processes[0], *processes)] == [0, 0, 0]
    assert all(one.admit(1, 0.0) > 0 for one in processes)
    processes[0].settle(1, None, 1.0)
    assert processes[1].admit(1, 1.0) == 0
    assert processes[0].admit(1, 1.0) > 0
    AdaptiveRateLimiter(settings_, words, PROCESSES - 1).reset()
    assert [bool(processes[0].admit(1, 1.0)) for _ in range(3)] == [False, False, True]


def told(limit: int, remaining: int, period_s: float = 60.0) -> RateLimits:
    return RateLimits(Window(limit, remaining, 1.0, period_s))


def test_b4_the_lower_of_what_remains_counts() -> None:
    one = limiter()
    one.learn(told(600, 100), 0.0)
    assert flood(one, 0.0) == 100 - 30  # 3 s are kept
    one.learn(told(600, 500), 0.0)
    assert flood(one, 0.0) == 0
    assert flood(one, 10.0) == 100


def test_b4_a_limit_that_is_raised_is_used() -> None:
    one = limiter()
    one.learn(told(60, 0), 0.0)
    assert flood(one, 33.0) == 30
    one.learn(told(600, 570), 33.0)
    assert flood(one, 90.0) == 570


def test_b4_a_limit_of_a_day_is_one() -> None:
    one = limiter()
    one.learn(told(14400, 1000, 86400.0), 0.0)
    assert flood(one, 0.0) == 999
    assert one.admit(1, 0.0) == pytest.approx(6, abs=6)


def test_b4_what_is_told_never_lifts_what_is_configured() -> None:
    one = limiter(requests=60)
    one.learn(told(6000, 6000), 0.0)
    assert flood(one, 0.0) == BURST_S
    for second in range(1, 1000):
        one.learn(told(6000, 6000), float(second))
    assert flood(one, 1000.0) == BURST_S


def test_p44_a_window_that_lacks_its_rest_is_a_limit_all_the_same() -> None:
    one = limiter()
    one.learn(RateLimits(Window(60)), 0.0)
    assert flood(one, 0.0) == BURST_S


@pytest.mark.parametrize(
    ("hint", "pause_s"),
    [
        (None, 1.0),
        (7.5, 7.5),
        (0.0, 0.1),
        (-3.0, 1.0),
        (math.nan, 1.0),
        (1e99, LONGEST_HINT_S),
        (math.inf, LONGEST_HINT_S),
        (315_360_000.0, LONGEST_HINT_S),
    ],
)
def test_p43_nothing_goes_until_a_hint_within_bounds(hint: float | None, pause_s: float) -> None:
    one = limiter()
    one.throttled(hint, 10.0)
    assert one.admit(1, 10.0) >= pause_s - 1e-6
    assert one.admit(1, 10.0 + pause_s - 0.01) > 0
    assert one.admit(1, 10.0 + pause_s + 0.01) == 0


def test_p42_pauses_without_a_hint_double_up_to_a_minute() -> None:
    one, now, pauses = limiter(), 0.0, []
    for _ in range(9):
        one.throttled(None, now)
        one.throttled(None, now)  # another of the same moment counts for nothing
        wait_s = one.wait(0, now)
        pauses.append(one._words[0] / 1e9 - now)
        now += max(wait_s, pauses[-1])
    assert pauses == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60, 60])


def test_l3_after_a_pause_one_goes_alone_until_it_is_accepted() -> None:
    one = limiter(requests=6000)
    assert one.admit(1, 0.0) == 0
    one.throttled(5.0, 0.0)
    assert flood(one, 6.0) == 1
    assert 0 < one.admit(1, 6.5) <= 0.1
    one.learn(NOTHING, 7.0)
    assert flood(one, 7.0) > 100


def test_l3_a_refused_one_closes_again_and_a_lost_one_is_followed_by_another() -> None:
    one = limiter(requests=6000)
    one.throttled(5.0, 0.0)
    assert flood(one, 6.0) == 1
    one.throttled(5.0, 6.2)
    assert flood(one, 11.0) == 0
    assert flood(one, 12.0) == 1
    assert flood(one, 12.0 + PROBE_S - 0.1) == 0
    assert flood(one, 12.0 + PROBE_S) == 1
    one.withdraw(1, 12.0 + PROBE_S)
    assert flood(one, 12.0 + PROBE_S) == 1


def test_l4_what_was_accepted_before_says_nothing_about_now() -> None:
    one = limiter(requests=6000)
    one.throttled(5.0, 0.0)
    one.learn(NOTHING, 4.0)
    assert flood(one, 4.5) == 0
    assert flood(one, 6.0) == 1


def rate(one: AdaptiveRateLimiter) -> float:
    """Requests a minute in force."""
    return one._requests.rate() / 1000


def test_l2_refusals_that_come_together_lower_the_rate_once() -> None:
    one = limiter(requests=1000)
    for _ in range(50):
        one.throttled(2.0, 0.0)
    assert rate(one) == 900
    for second in range(10, 100, 10):  # all through an outage
        one.throttled(2.0, float(second))
    assert rate(one) == 900


def test_b5_the_rate_grows_by_a_part_a_minute_however_many_succeed() -> None:
    for successes in (2, 200):
        one = limiter(requests=1000)
        one.throttled(1.0, 0.0)
        for number in range(1, successes + 1):
            one.learn(NOTHING, 1.0 + 60 * number / successes)
        assert rate(one) == pytest.approx(900 * (1 + 61 / 60 / 32), rel=1e-3)


def test_b5_without_refusals_it_grows_faster() -> None:
    one = limiter(requests=10**6)
    one.throttled(1.0, 0.0)
    for _ in range(30):
        one._requests.refused(1, 0, begins=True, early=False)
    low = rate(one)
    for minute in range(1, 20):
        one.learn(NOTHING, 60.0 * minute)
    assert rate(one) > 4 * low


def test_b5_the_refusal_that_ends_fast_growth_undoes_most_of_it() -> None:
    one = limiter(requests=10**6)
    one.throttled(1.0, 0.0)
    for _ in range(60):
        one._requests.refused(1, 0, begins=True, early=False)
    low = rate(one)
    for minute in range(1, 16):
        one.learn(NOTHING, 60.0 * minute)
    high = rate(one)
    assert high > 2 * low
    one.throttled(1.0, 910.0)
    assert rate(one) == pytest.approx(0.6 * high, rel=1e-3)
    one.learn(NOTHING, 920.0)
    slow = rate(one)
    one.throttled(1.0, 930.0)
    assert rate(one) == pytest.approx(0.9 * slow, rel=1e-3)


def test_b6_a_first_refusal_finds_what_was_accepted_of_a_flood() -> None:
    one = limiter()
    assert flood(one, 0.0, tokens=10, most=3000) == 3000
    for _ in range(2900):
        one.throttled(1.0, 0.0)
        one.settle(10, 0, 0.0)
    assert rate(one) == pytest.approx(90)
    assert one._tokens.rate() / 1000 == pytest.approx(9000, rel=0.02)


def test_b6_one_request_and_a_refusal_are_no_limit_of_one() -> None:
    one = limiter()
    assert one.admit(1, 0.0) == 0
    one.throttled(1.0, 1.0)
    assert rate(one) == 0
    assert one.admit(1, 3.0) == 0
    one.learn(NOTHING, 3.5)
    assert flood(one, 4.0) == 5000


def test_b7_a_rate_that_has_grown_to_the_limit_is_forgotten() -> None:
    one = limiter(requests=1000)
    one.throttled(1.0, 0.0)
    for minute in range(1, 6):
        one.learn(NOTHING, 60.0 * minute)
    assert rate(one) == 1000


@given(
    st.lists(
        st.tuples(st.sampled_from("alrswx"), st.integers(0, 30), st.integers(0, 5000)),
        max_size=200,
    ),
    st.integers(1, 100),
)
@settings(max_examples=30, deadline=None)
def test_whatever_happens_no_minute_has_more_than_is_configured(
    steps: list[tuple[str, int, int]], limit: int
) -> None:
    """Not more than the burst and what fills meanwhile, and the words stay within 64 bits."""
    one, now, admitted = limiter(requests=limit), 1000.0, list[float]()
    for what, gap, number in steps:
        now += gap / 10
        match what:
            case "a":
                admitted += [now] * flood(one, now, tokens=number)
            case "l":
                one.learn(RateLimits(Window(number + 1, number), Window(10**15, number)), now)
            case "r":
                one.throttled(float(number) / 100, now)
            case "s":
                one.settle(number, 10**15, now)
            case "w" if admitted:
                one.withdraw(1, now)
                admitted.pop()
            case "x":
                one.correct(number, 0, now)
    for first, start in enumerate(admitted):
        for count, end in enumerate(admitted[first:], 1):
            assert count <= max(1, limit * BURST_S / 60) + limit * (end - start) / 60 + 1e-6


@pytest.fixture
def name() -> Iterator[str]:
    name = f"{segment.family()}-t"
    segment.create(name, TABLE_BYTES, setting="a test").close()
    yield name
    segment.remove(name)


def test_all_processes_together_keep_one_limit(name: str) -> None:
    children = []
    for process in range(4):
        pid = os.fork()
        if not pid:
            status = 255
            try:
                status = admitted_by(name, process)
            finally:
                os._exit(status)
        children.append(pid)
    counts = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    assert sum(counts) == 200 * BURST_S // 60


def admitted_by(name: str, process: int) -> int:
    """Admit what one moment allows, as one of several processes."""
    rows, count = SharedWords.attach(name), 0
    while True:
        with suppress(RowBusy), rows.row("limit:p", keep=True) as words:
            if AdaptiveRateLimiter(RateSettings(200), words, process).admit(1, 1000.0):
                return count
            count += 1
