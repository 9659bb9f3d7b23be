"""The daily budget, by its numbered rules, on an injected clock."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringcast.config import Config, Price, Usage
from ringcast.errors import Code, RequestError
from ringcast.providers.spending.budget import WORDS, DailyBudget
from ringcast.providers.spending.purse import Purse
from ringcast.shm.shared_words import SharedWords

BERLIN = ZoneInfo("Europe/Berlin")
DAY_S = 86_400.0


def at(text: str, zone: ZoneInfo = BERLIN) -> float:
    """Seconds since the epoch of a local time."""
    return datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()


NOON = at("2026-11-20 12:00")


def budget(
    words: list[int] | None = None, daily_usd: float = 5.0, zone: ZoneInfo = BERLIN
) -> DailyBudget:
    return DailyBudget([0] * WORDS if words is None else words, Usage(daily_usd=daily_usd), zone)


def refusal(one: DailyBudget, now: float) -> RequestError:
    with pytest.raises(RequestError) as caught:
        one.check(now)
    assert caught.value.code == Code.BUDGET_EXCEEDED
    return caught.value


def test_what_is_below_the_limit_may_be_sent() -> None:
    one = budget()
    one.add(4.99, NOON)
    one.check(NOON)


def test_what_has_reached_it_is_refused_with_the_amounts_the_setting_and_the_time() -> None:
    one = budget()
    one.add(5.21, NOON)
    error = refusal(one, at("2026-11-20 20:40"))
    assert error.message == (
        "spent $5.21 of $5.00 today (usage.daily_usd); again at midnight, in 3 h 20 min"
    )
    assert error.detail["retry_after_s"] == 200 * 60


def test_small_amounts_are_told_as_they_are() -> None:
    one = budget(daily_usd=0.03)
    one.add(0.0312, NOON)
    said = refusal(one, at("2026-11-20 23:59:30")).message
    assert said.startswith("spent $0.0312 of $0.0300 today")
    assert said.endswith("in 1 min")


def test_no_limit_refuses_nothing_and_counts_all_the_same() -> None:
    one = budget(daily_usd=0.0)
    one.add(1e6, NOON)
    one.check(NOON)
    assert one.spent(NOON) == 1e6


def test_a_new_day_begins_at_local_midnight() -> None:
    one = budget()
    one.add(6.0, NOON)
    refusal(one, at("2026-11-20 23:59:59"))
    one.check(at("2026-11-21 00:00:00"))
    assert one.spent(at("2026-11-21 00:00:00")) == 0.0


@pytest.mark.parametrize(("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25)])
def test_a_day_with_a_change_of_the_clock_is_as_long_as_it_is(day: str, hours: int) -> None:
    one = budget()
    begin = at(f"{day} 00:00")
    one.add(6.0, begin)
    assert refusal(one, begin).detail["retry_after_s"] == hours * 3600
    refusal(one, begin + hours * 3600 - 1)
    one.check(begin + hours * 3600)


def test_whoever_travels_west_keeps_what_was_spent() -> None:
    words = [0] * WORDS
    late = at("2026-11-21 00:30")
    budget(words).add(6.0, late)
    lisbon = budget(words, zone=ZoneInfo("Europe/Lisbon"))
    refusal(lisbon, late)  # there it is still the 20th
    refusal(lisbon, late + 3600)


def test_a_clock_that_was_wrong_does_not_shut_the_future() -> None:
    one = budget()
    one.add(6.0, NOON + 400 * DAY_S)
    one.check(NOON)
    assert one.spent(NOON) == 0.0


def test_a_process_that_starts_brings_what_the_file_knows_if_it_is_more() -> None:
    words = [0] * WORDS
    budget(words).begin(3.0, NOON)
    assert budget(words).spent(NOON) == 3.0
    budget(words).add(1.0, NOON)
    budget(words).begin(3.5, NOON)  # the file is behind
    assert budget(words).spent(NOON) == 4.0
    budget(words).begin(0.25, NOON + DAY_S)
    assert budget(words).spent(NOON + DAY_S) == 0.25


class Dying(list[int]):
    """Words of a process that is killed after some writes."""

    def __init__(self, words: list[int], writes: int) -> None:
        super().__init__(words)
        self.writes = writes

    def __setitem__(self, at: object, value: object) -> None:
        if self.writes == 0:
            raise KeyboardInterrupt
        self.writes -= 1
        super().__setitem__(at, value)  # type: ignore[call-overload]


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_death_at_midnight_does_not_shut_the_new_day(writes: int) -> None:
    old = [0] * WORDS
    budget(old).add(6.0, NOON)
    words = Dying(old, writes)
    with pytest.raises(KeyboardInterrupt):
        DailyBudget(words, Usage(daily_usd=5.0), BERLIN).add(1.0, NOON + DAY_S)
    survivor = budget(list(words))
    survivor.check(NOON + DAY_S)
    assert survivor.spent(NOON + DAY_S) == 0.0


@pytest.mark.parametrize("cost", [None, 0.0, -3.0, float("nan"), float("-inf")])
def test_what_is_no_amount_counts_as_nothing(cost: float | None) -> None:
    one = budget()
    one.add(cost, NOON)
    assert one.spent(NOON) == 0.0


def test_an_endless_amount_fits_into_a_word() -> None:
    words = [0] * WORDS
    one = budget(words)
    one.add(float("inf"), NOON)
    one.add(1e300, NOON)
    assert words[1] < 1 << 63
    refusal(one, NOON)


@given(st.lists(st.integers(0, 10_000_000), max_size=50))
def test_no_sum_of_millionths_drifts(costs: list[int]) -> None:
    one = budget(daily_usd=0.0)
    for micro in costs:
        one.add(micro / 1e6, NOON)
    assert one.spent(NOON) == sum(costs) / 1e6


def test_it_is_refused_from_the_limit_on_so_only_what_is_under_way_overshoots() -> None:
    """Ten at a time, a dollar each: at most ten dollars over."""
    one, under_way, sent = budget(), 0, 0
    for _ in range(100):
        try:
            one.check(NOON)
        except RequestError:
            break
        under_way, sent = under_way + 1, sent + 1
        if under_way == 10:
            one.add(1.0, NOON)
            under_way -= 1
    for _ in range(under_way):
        one.add(1.0, NOON)
    assert sent == 14
    assert one.spent(NOON) == 14.0 < 5.0 + 10.0


def test_this_machines_midnight_counts_by_default() -> None:
    one = DailyBudget([0] * WORDS, Usage(daily_usd=1.0))
    one.add(2.0, NOON)
    left = refusal(one, NOON).detail["retry_after_s"]
    assert isinstance(left, float)
    assert datetime.fromtimestamp(NOON + left).time().isoformat() == "00:00:00"


# what is under way


def test_what_is_under_way_counts_and_a_successor_forgets_what_its_predecessor_held() -> None:
    words = [0] * WORDS
    one = budget(words)
    one.add(3.0, NOON)
    one.hold(0, 1.5)
    one.hold(1, 0.25)
    one.check(NOON)
    one.hold(1, 0.5)
    error = refusal(one, NOON)
    assert error.message == (
        "spent $3.00 and, in requests under way, about $2.00 of $5.00 today (usage.daily_usd)"
    )
    assert error.detail == {"retryable": True}
    budget(words).hold(0, 0.0)
    budget(words).check(NOON)


def purse(rows: SharedWords, process: int = 0) -> Purse:
    prices = {"up/m": Price(1.0, 2.0), "free/*": Price(0.0, 0.0)}
    return Purse(rows, Config(usage=Usage(daily_usd=0.009), prices=prices), process)


def test_of_twenty_at_once_those_go_whose_estimates_fit() -> None:
    rows, sent = SharedWords.private(), 0
    purses = [purse(rows, process) for process in range(4)]
    for number in range(20):
        with suppress(RequestError):
            assert purses[number % 4].hold("up", "m", 1000, 1000, NOON) == 0.003
            sent += 1
    assert sent == 3


def test_what_was_held_is_given_back_when_its_cost_is_known() -> None:
    rows = SharedWords.private()
    one = purse(rows)
    held = [one.hold("up", "m", 1000, 1000, NOON) for _ in range(3)]
    with pytest.raises(RequestError, match="under way"):
        one.hold("up", "m", 1, 1, NOON)
    one.release(held[0])
    one.spent(0.001, NOON)
    one.check("up", "m", NOON)
    one.spent(0.002, NOON)
    with pytest.raises(RequestError, match="under way"):
        one.check("up", "m", NOON)


def test_what_costs_nothing_is_sent_when_all_is_spent_and_what_has_no_price_is_not() -> None:
    one = purse(SharedWords.private())
    one.spent(0.009, NOON)
    one.check("free", "m", NOON)
    assert one.hold("free", "m", 1000, 1000, NOON) == 0.0
    for model in ("m", "unknown"):
        with pytest.raises(RequestError, match="again at midnight"):
            one.check("up", model, NOON)
