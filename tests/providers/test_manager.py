"""What the manager decides, with a clock and chances of our own and real shared words."""

from __future__ import annotations

import random
from collections import Counter

import msgspec
import pytest

from ringcast.config import (
    ROUTE,
    Breaker,
    Config,
    Price,
    Processes,
    Provider,
    Retry,
    Route,
    Usage,
)
from ringcast.errors import Code, RequestError
from ringcast.providers.inquiry import Health
from ringcast.providers.traffic.failure import Failure, of_error
from ringcast.providers.traffic.manager import ProviderManager
from ringcast.providers.traffic.plan import Plan, Send, Wait
from ringcast.providers.traffic.rate_headers import NOTHING, RateLimits, Window
from ringcast.providers.traffic.routing import Target
from ringcast.shm import tokens
from ringcast.shm.shared_words import TABLE_BYTES, NoLocks, RowBusy, SharedWords
from ringcast.shm.tokens import Error

UP = Provider("openai", base_url="http://127.0.0.1:1/v1")
ROUTES = {
    "fast": Route(["a/m", "b/m"]),
    "drawn": Route(["a/m", "b/m"], "weighted", [3.0, 1.0]),
    "swift": Route(["a/m", "b/m"], "fastest"),
}
CONFIG = Config({"a": UP, "b": UP, "keyed": UP}, routes=ROUTES, breaker=Breaker(failures=3))
KEYS = {"a": 1, "b": 1, "keyed": 3}
BROKEN = of_error(Error(Code.HTTP_STATUS, "x", retryable=True, status=500))
REFUSED = of_error(Error(Code.AUTH, "x", status=401))
BAD = of_error(Error(Code.BAD_REQUEST, "x", status=400))
TOO_MANY = of_error(Error(Code.RATE_LIMITED, "x", retryable=True, status=429, retry_after_s=7.0))
NOW, WALL = 1000.0, 1.7e9


def manager(
    config: Config = CONFIG, rows: SharedWords | None = None, process: int = 0
) -> ProviderManager:
    """One of a process; `rows` are shared with those of others."""
    return ProviderManager(
        config, KEYS, rows or SharedWords.private(), process, random.Random(process)
    )


def plan(of: ProviderManager, provider: str = "a", model: str = "m", now: float = NOW) -> Plan:
    """A request of a client that does not matter."""
    return of.plan(1, provider, model, b"client", 10, now)


def sent_to(said: Send | Wait) -> str:
    """Where it goes."""
    assert isinstance(said, Send), said
    return said.target.name


def fail(of: ProviderManager, one: Plan, failure: Failure, now: float = NOW) -> Wait | Failure:
    """Tell of a failure without headers."""
    return of.failed(one, failure, NOTHING, now)


def test_a_route_is_tried_in_order_and_then_again_after_a_pause() -> None:
    it = manager()
    one = plan(it, ROUTE, "fast")
    assert sent_to(it.next(one, NOW, WALL)) == "a/m"
    assert fail(it, one, BROKEN) == Wait(0.0, "a: http_status 500")
    assert sent_to(it.next(one, NOW, WALL)) == "b/m"
    again = fail(it, one, BROKEN)
    assert isinstance(again, Wait)
    assert again.seconds >= 0.1
    assert sent_to(it.next(one, NOW + again.seconds, WALL)) == "a/m"
    assert fail(it, one, BROKEN, NOW + again.seconds) == BROKEN
    assert one.sent == 3


def test_what_is_the_requests_own_fault_goes_nowhere_else() -> None:
    it = manager()
    one = plan(it, ROUTE, "fast")
    it.next(one, NOW, WALL)
    assert fail(it, one, BAD) == BAD


def test_who_will_not_do_better_is_not_asked_again() -> None:
    it = manager()
    one = plan(it, ROUTE, "fast")
    it.next(one, NOW, WALL)
    fail(it, one, REFUSED)
    it.next(one, NOW, WALL)
    again = fail(it, one, BROKEN)
    assert isinstance(again, Wait)
    assert sent_to(it.next(one, NOW + again.seconds, WALL)) == "b/m"


def test_a_route_goes_back_to_who_passes_when_the_others_will_not() -> None:
    it = manager()
    one = plan(it, ROUTE, "fast")
    it.next(one, NOW, WALL)
    fail(it, one, BROKEN)
    it.next(one, NOW, WALL)
    again = fail(it, one, REFUSED)
    assert isinstance(again, Wait)
    assert again.reason == "a: http_status 500"
    assert sent_to(it.next(one, NOW + again.seconds, WALL)) == "a/m"


def test_a_route_ends_by_who_may_do_better_first() -> None:
    it = manager()
    one = plan(it, ROUTE, "fast")
    it.next(one, NOW, WALL)
    fail(it, one, TOO_MANY)
    it.next(one, NOW, WALL)
    again = fail(it, one, msgspec.structs.replace(TOO_MANY, after_s=1000.0))
    assert isinstance(again, Wait)
    assert again.seconds == pytest.approx(7.5, abs=0.51)
    late = plan(it, ROUTE, "fast", now=NOW - 3599)
    late.sent, late.tried, late.target = 2, set(late.targets), late.targets[1]
    late.said = {late.targets[0]: TOO_MANY}
    said = fail(it, late, REFUSED)
    assert said == msgspec.structs.replace(TOO_MANY, message="a/m: x")


def test_who_opens_the_breaker_hears_what_it_failed_by_and_not_that_it_is_open() -> None:
    it = manager(Config({"a": UP}, breaker=Breaker(failures=2), retry=Retry(attempts=9)))
    one = plan(it)
    it.next(one, NOW, WALL)
    again = fail(it, one, BROKEN)
    assert isinstance(again, Wait)
    it.next(one, NOW + again.seconds, WALL)
    assert fail(it, one, BROKEN, NOW + again.seconds) == BROKEN


def test_of_several_that_are_left_alone_the_first_next_try_is_told() -> None:
    it = manager(Config({"a": UP, "b": UP}, routes=ROUTES, breaker=Breaker(failures=1)))
    for name, now in (("a", NOW), ("b", NOW + 30)):
        one = plan(it, name)
        it.next(one, now, WALL)
        it.failed(one, BROKEN, NOTHING, now)
    with pytest.raises(RequestError) as told:
        it.next(plan(it, ROUTE, "fast"), NOW + 31, WALL)
    assert told.value.detail["retry_after_s"] == pytest.approx(29, abs=0.005)


def test_what_is_told_of_a_refusal_is_as_long_as_it_will_take() -> None:
    it = manager()
    one = plan(it)
    it.next(one, NOW, WALL)
    again = fail(it, one, msgspec.structs.replace(TOO_MANY, after_s=None))
    assert again == Wait(1.0, "a: rate_limited 429")
    assert sent_to(it.next(one, NOW + 1.0, WALL)) == "a/m"


def test_a_provider_that_cuts_every_answer_is_left_alone() -> None:
    it = manager()
    for _ in range(3):
        one = plan(it)
        it.next(one, NOW, WALL)
        it.began(one, NOW)
        it.ended(one, None, Error(Code.TRANSPORT, "x"), NOW)
    with pytest.raises(RequestError) as told:
        it.next(plan(it), NOW, WALL)
    assert told.value.code == Code.CIRCUIT_OPEN


def test_an_answer_that_its_reader_cut_is_a_success() -> None:
    it = manager()
    for error in (Code.TRANSPORT, Code.TRANSPORT, Code.CANCELLED, Code.TRANSPORT):
        one = plan(it)
        it.next(one, NOW, WALL)
        it.began(one, NOW)
        it.ended(one, None, Error(error, "x"), NOW)
    assert sent_to(it.next(plan(it), NOW, WALL)) == "a/m"


def test_a_key_that_was_refused_comes_last_for_five_minutes_or_until_it_is_taken() -> None:
    def first(now: float) -> set[int]:
        return {plan(it, "keyed", now=now).targets[0].key for _ in range(3)}

    it = manager()
    one = plan(it, "keyed")
    it.next(one, NOW, WALL)
    assert one.target is not None
    refused = one.target.key
    fail(it, one, REFUSED)
    assert first(NOW + 299) == {0, 1, 2} - {refused}
    assert first(NOW + 300) == {0, 1, 2}
    it.next(one, NOW, WALL)
    fail(it, one, REFUSED)
    third = one.target.key
    assert len(first(NOW)) == 1
    one.begun, one.target = False, Target("keyed", third, "m")
    it.began(one, NOW)
    assert first(NOW) == {0, 1, 2} - {refused}


def test_weights_say_who_is_asked_first_how_often() -> None:
    it = manager()
    first = Counter(plan(it, ROUTE, "drawn").targets[0].name for _ in range(4000))
    assert first["a/m"] / 4000 == pytest.approx(0.75, abs=0.04)


def test_the_fastest_is_asked_first_and_one_that_is_unknown_before_it() -> None:
    it = manager()
    for name, took_s in (("a", 0.9), ("b", 0.2)):
        one = plan(it, name)
        it.next(one, NOW, WALL)
        if name == "a":
            it.began(one, NOW + took_s)
            assert plan(it, ROUTE, "swift").targets[0].name == "b/m"
        else:
            it.began(one, NOW + took_s)
    assert plan(it, ROUTE, "swift").targets[0].name == "b/m"


def test_keys_are_used_in_turn() -> None:
    it = manager()
    used = Counter(plan(it, "keyed").targets[0].key for _ in range(300))
    assert used == {0: 100, 1: 100, 2: 100}
    assert len(plan(it, "keyed").targets) == 3


def test_who_is_ill_comes_last_until_it_is_well() -> None:
    it = manager()
    it.is_well("a", Health(False))
    assert plan(it, ROUTE, "fast").targets[0].name == "b/m"
    it.is_well("a", Health(True))
    assert plan(it, ROUTE, "fast").targets[0].name == "a/m"


def test_a_breaker_that_one_process_opens_is_open_for_all() -> None:
    rows = SharedWords.private()
    first, second = manager(rows=rows), manager(rows=rows, process=1)
    for _ in range(3):
        one = plan(first)
        first.next(one, NOW, WALL)
        fail(first, one, BROKEN)
    with pytest.raises(RequestError) as told:
        second.next(plan(second), NOW + 1, WALL)
    assert told.value.code == Code.CIRCUIT_OPEN
    assert told.value.detail["retry_after_s"] == pytest.approx(59, abs=0.005)
    assert sent_to(second.next(plan(second, ROUTE, "fast"), NOW + 1, WALL)) == "b/m"
    probe = plan(second)
    assert sent_to(second.next(probe, NOW + 60, WALL)) == "a/m"
    for _ in range(1000):
        with pytest.raises(RequestError):
            first.next(plan(first), NOW + 60.5, WALL)
    second.began(probe, NOW + 61)
    assert sent_to(first.next(plan(first), NOW + 61, WALL)) == "a/m"


def test_a_probe_that_is_cancelled_lets_the_next_one_probe() -> None:
    it = manager()
    for _ in range(3):
        one = plan(it)
        it.next(one, NOW, WALL)
        fail(it, one, BROKEN)
    probe = plan(it)
    it.next(probe, NOW + 60, WALL)
    it.ended(probe, None, Error(Code.CANCELLED, "x"), NOW + 60)
    assert sent_to(it.next(plan(it), NOW + 60, WALL)) == "a/m"


def test_a_failure_in_the_middle_counts_against_the_provider_and_a_cancel_does_not() -> None:
    it = manager()
    for code in (Code.CANCELLED, Code.BACKPRESSURE_TIMEOUT, Code.TRANSPORT):
        one = plan(it)
        it.next(one, NOW, WALL)
        it.began(one, NOW)
        it.ended(one, None, Error(code, "x"), NOW)
    traffic = it.traffic("a", NOW)
    assert traffic is not None
    assert (traffic.requests, traffic.failures) == (3, 1)


def test_a_limit_of_one_model_lets_another_of_the_route_serve() -> None:
    it = manager()
    first = plan(it, ROUTE, "fast")
    it.next(first, NOW, WALL)
    assert fail(it, first, TOO_MANY) == Wait(0.0, "a: rate_limited 429")
    assert sent_to(it.next(first, NOW, WALL)) == "b/m"
    assert sent_to(it.next(plan(it, ROUTE, "fast"), NOW + 1, WALL)) == "b/m"
    waits = it.next(plan(it, now=NOW + 1), NOW + 1, WALL)
    assert isinstance(waits, Wait)
    assert waits.queued
    assert waits.seconds == pytest.approx(6, abs=0.1)


def test_who_was_queued_goes_when_the_limit_lets_it_and_is_charged_once() -> None:
    limited = Provider("openai", base_url="http://127.0.0.1:1/v1", concurrency=1)
    it = manager(Config({"a": limited, "b": UP, "keyed": UP}))
    first, second = plan(it), plan(it)
    assert sent_to(it.next(first, NOW, WALL)) == "a/m"
    assert isinstance(it.next(second, NOW, WALL), Wait)
    assert it.due(NOW + 0.2) == []
    it.ended(first, None, None, NOW + 0.3)
    assert it.due(NOW + 0.3) == [(second, None)]
    assert sent_to(it.next(second, NOW + 0.3, WALL)) == "a/m"
    it.ended(second, None, None, NOW + 0.4)
    assert sent_to(it.next(plan(it), NOW + 0.4, WALL)) == "a/m"


class BusyLocks(NoLocks):
    """Rows that another process holds every now and then."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)

    def take(self, row: int) -> None:
        """Take it, or not."""
        if self.chance.random() < 0.3:
            raise RowBusy("held by another process")


@pytest.mark.parametrize("seed", range(60))
def test_no_request_is_forgotten_however_busy_the_rows_are(seed: int) -> None:
    limited = Provider("openai", base_url="http://127.0.0.1:1/v1", concurrency=3)
    rows = SharedWords(memoryview(bytearray(TABLE_BYTES)), BusyLocks(seed))
    it = manager(Config({"a": limited, "b": UP, "keyed": UP}, routes=ROUTES), rows)
    now, sent = NOW, 0
    running: list[Plan] = []
    waiting = [(now, plan(it, *asked)) for asked in [("a", "m"), (ROUTE, "fast"), ("b", "m")] * 7]
    queued: list[Plan] = []
    for _ in range(4000):
        now += 0.01
        ready = [one for at, one in waiting if at <= now]
        waiting = [(at, one) for at, one in waiting if at > now]
        for one, refused in it.due(now):
            assert refused is None
            queued.remove(one)
            ready.append(one)
        for one in ready:
            said = it.next(one, now, WALL)
            if isinstance(said, Send):
                sent += 1
                running.append(one)
            elif said.queued:
                queued.append(one)
            else:
                waiting.append((now + said.seconds, one))
        if running and it._chance.random() < 0.5:
            it.ended(running.pop(0), None, None, now)
    assert sent == 21, f"{len(waiting)} wait, {len(queued)} in a queue"


def test_nothing_is_sent_when_the_money_of_the_day_is_spent() -> None:
    it = manager(Config({"a": UP, "b": UP, "keyed": UP}, usage=Usage(daily_usd=1.0)))
    it.spent(None, WALL, so_far=0.6)
    it.next(plan(it), NOW, WALL)
    it.spent(0.4, WALL)
    with pytest.raises(RequestError, match=r"usage\.daily_usd"):
        it.next(plan(it), NOW, WALL)
    assert sent_to(it.next(plan(it), NOW, WALL + 86_400)) == "a/m"


def test_when_all_is_spent_a_route_goes_on_where_it_costs_nothing() -> None:
    prices = {"b/*": Price(0.0, 0.0)}
    limits = Usage(daily_usd=1.0)
    it = manager(Config({"a": UP, "b": UP}, routes=ROUTES, usage=limits, prices=prices))
    it.spent(1.0, WALL)
    assert sent_to(it.next(plan(it, ROUTE, "fast"), NOW, WALL)) == "b/m"


def test_what_a_request_may_cost_is_held_until_it_has_ended() -> None:
    prices = {"a/*": Price(1.0, 2.0)}
    it = manager(Config({"a": UP}, usage=Usage(daily_usd=0.009), prices=prices))
    plans = [it.plan(1, "a", "m", b"client", 2000, NOW, made=1000) for _ in range(4)]
    for one in plans[:3]:
        it.next(one, NOW, WALL)
    with pytest.raises(RequestError, match="under way"):
        it.next(plans[3], NOW, WALL)
    assert fail(it, plans[0], BAD) == BAD
    it.next(plans[3], NOW, WALL)
    it.ended(plans[1], None, None, NOW)
    assert sent_to(it.next(plan(it), NOW, WALL)) == "a/m"


def test_a_storm_of_failures_is_not_multiplied() -> None:
    it = manager(
        Config(
            {"a": UP, "b": UP, "keyed": UP},
            retry=Retry(),
            breaker=Breaker(10**6, 60, 30, 1.0, 10**6),
        )
    )
    sendings = 0
    for number in range(600):
        now = NOW + number / 10
        one = plan(it, now=now)
        while isinstance(it.next(one, now, WALL), Send):
            sendings += 1
            if isinstance(fail(it, one, BROKEN, now), Failure):
                break
    assert sendings < 600 * 1.35


def test_the_health_is_asked_of_providers_in_use_only() -> None:
    it = manager()
    assert it.to_ask(NOW + 100) == []
    plan(it)
    assert it.to_ask(NOW + 20) == []
    assert it.to_ask(NOW + 40) == ["a"]
    assert it.to_ask(NOW + 41) == []
    asked = sum(len(it.to_ask(NOW + 40 + step)) for step in range(560))
    assert 14 <= asked <= 25
    assert it.to_ask(NOW + 700) == []


def test_what_a_provider_says_of_its_limits_is_shown() -> None:
    it = manager()
    one = plan(it)
    it.next(one, NOW, WALL)
    it.heard(one, RateLimits(Window(60, 41), Window(1000, 990)), NOW)
    it.began(one, NOW + 0.25)
    it.ended(one, tokens.Usage(input_tokens=3, output_tokens=4), None, NOW + 1)
    traffic = it.traffic("a", NOW + 1)
    assert traffic is not None
    assert (traffic.remaining_requests, traffic.remaining_tokens) == (41, 990)
    assert traffic.first_token_ms == 250.0
    assert traffic.breaker == "closed"


def test_traffic_tells_whose_it_is_what_waits_and_what_is_configured() -> None:
    bounded = msgspec.structs.replace(UP, requests_per_min=60, concurrency=1)
    config = msgspec.structs.replace(
        CONFIG, providers={"a": bounded, "b": UP}, processes=Processes(providers=3)
    )
    it = ProviderManager(config, {"a": 1, "b": 1}, process=2)
    for number in range(3):
        it.next(it.plan(number, "a", "m", b"client", 10, NOW), NOW, WALL)
    said = it.traffic("a", NOW)
    assert said is not None
    assert (said.process, said.processes, said.requests, said.queued) == (3, 3, 1, 2)
    assert (said.requests_per_min, said.tokens_per_min, said.concurrency) == (60, 0, 1)
    other = it.traffic("b", NOW)
    assert other is not None
    assert (other.queued, other.requests_per_min) == (0, 0)
    assert it.traffic("nobody", NOW) is None
