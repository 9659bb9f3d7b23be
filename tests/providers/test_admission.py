"""Which request goes and which waits: limiters and queues together, on a fake clock."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringcast.config import Config, Provider, Queue
from ringcast.errors import Code, RequestError
from ringcast.providers.traffic.admission import AT_ONCE, ENDED, Admission
from ringcast.providers.traffic.pace import Pace
from ringcast.providers.traffic.rate_headers import NOTHING, RateLimits, Window
from ringcast.shm.shared_words import TABLE_BYTES, NoLocks, RowBusy, SharedWords


def config(
    requests: int = 0, tokens: int = 0, concurrency: int = 0, length: int = 1000, wait_s: float = 60
) -> Config:
    provider = Provider(
        "openai", requests_per_min=requests, tokens_per_min=tokens, concurrency=concurrency
    )
    return Config({"p": provider, "free": Provider("openai")}, queue=Queue(length, wait_s))


def admission(
    requests: int = 0, tokens: int = 0, concurrency: int = 0, length: int = 1000, wait_s: float = 60
) -> Admission:
    settings_ = config(requests, tokens, concurrency, length, wait_s)
    return Admission(SharedWords.private(), settings_, 0)


def went(one: Admission, now: float) -> list[object]:
    """The tickets that `due` lets go; none of them is too late."""
    due = one.due(now)
    assert all(error is None for _, error in due)
    return [ticket for ticket, _ in due]


def drain(one: Admission, now: float, most: int = 10_000) -> list[tuple[float, object, bool]]:
    """Call `due` when it asks for it until nothing waits: when, who, whether it may go."""
    gone: list[tuple[float, object, bool]] = []
    for _ in range(most):
        when = one.next_at(now)
        if when is None:
            return gone
        now = max(when, now + 0.001)
        gone += [(now, ticket, error is None) for ticket, error in one.due(now)]
    raise AssertionError("it never ends")


def test_without_limits_everything_goes_at_once() -> None:
    one = admission()
    waits = [one.ask(ticket, "free", "m", b"c", 10**6, 0.0) for ticket in range(3000)]
    assert not any(waits)
    assert one.next_at(0.0) is None


def test_p15_of_3000_requests_at_once_what_fits_goes_and_waits_and_is_refused() -> None:
    one = admission(requests=100, length=1000)
    sent, refused = [], []
    for ticket in range(3000):
        try:
            if not one.ask(ticket, "p", "m", b"c", 1, 0.0):
                sent.append(ticket)
        except RequestError as error:
            refused.append(error)
    assert (len(sent), len(refused)) == (95, 1905)
    assert {error.code for error in refused} == {Code.OVERLOADED_LOCAL}
    assert "1000 requests wait" in refused[0].message
    assert "1000 may (queue.length)" in refused[0].message
    gone = drain(one, 0.0)
    assert sum(may for _, _, may in gone) == pytest.approx(100, abs=1)
    assert len(gone) == 1000
    assert max(when for when, _, _ in gone) <= 60.001


def test_who_waits_for_too_long_is_told_the_setting() -> None:
    one = admission(tokens=60, wait_s=30)
    assert one.ask(1, "p", "m", b"c", 57, 0.0) == 0
    assert one.ask(2, "p", "m", b"c", 57, 0.0) == pytest.approx(57)
    assert one.due(29.9) == []
    ((ticket, error),) = one.due(30.0)
    assert ticket == 2
    assert error is not None
    assert error.code == Code.OVERLOADED_LOCAL
    assert error.message.startswith("p (tokens_per_min) left no room")
    assert "30 s (queue.wait_s)" in error.message
    assert error.detail["retry_after_s"] == pytest.approx(27)
    assert one.next_at(30.0) is None


@pytest.mark.parametrize("why", ["requests_per_min", "the pause after a refusal"])
def test_who_cannot_go_in_time_is_refused_at_once_with_the_time(why: str) -> None:
    one = admission(requests=1, wait_s=20)
    if why == "requests_per_min":
        one.ask(1, "p", "m", b"c", 1, 0.0)
    else:
        one.throttled("p", "m", 60.0, 0.0)
    with pytest.raises(RequestError, match=why) as told:
        one.ask(2, "p", "m", b"c", 1, 0.0)
    assert told.value.code == Code.OVERLOADED_LOCAL
    assert told.value.detail["retry_after_s"] == pytest.approx(60)
    assert one.next_at(0.0) is None


def test_the_limit_that_holds_is_named() -> None:
    for one, why in [
        (admission(requests=60), "p: requests_per_min"),
        (admission(tokens=6000), "p: tokens_per_min"),
        (admission(concurrency=1), "p: concurrency"),
    ]:
        tickets = iter(range(100))
        while not one.ask(ticket := next(tickets), "p", "m", b"c", 1000, 0.0):
            pass
        assert one.reason(ticket) == why
    one = admission()
    one.learn("p", "m", RateLimits(Window(60, 0)), 0.0)
    one.ask(1, "p", "m", b"c", 1, 0.0)
    assert one.reason(1) == "p: its own requests_per_min"


def test_a_client_with_a_thousand_requests_delays_another_by_one() -> None:
    one = admission(requests=600)
    for ticket in range(1000):
        one.ask(ticket, "p", "m", b"busy", 1, 0.0)
    one.ask("other", "p", "m", b"other", 1, 0.0)
    order = [ticket for _, ticket, _ in drain(one, 0.0)]
    assert order.index("other") == 1


def test_a_queue_that_may_go_does_so_in_parts() -> None:
    one = admission(requests=6000)
    one.throttled("p", "m", 10.0, 0.0)
    for ticket in range(3 * AT_ONCE):
        one.ask(ticket, "p", "m", b"c", 1, 0.0)
    assert went(one, 10.0) == [0]
    one.learn("p", "m", NOTHING, 10.1)
    assert len(went(one, 10.1)) == AT_ONCE
    assert one.next_at(10.1) == 10.1
    assert len(went(one, 10.1)) == AT_ONCE


def test_nobody_overtakes_who_waits() -> None:
    one = admission(tokens=6000)
    assert one.ask(1, "p", "m", b"c", 5000, 0.0) == 0
    assert one.ask(2, "p", "m", b"c", 5000, 0.0) > 0
    assert one.ask(3, "p", "m", b"c", 1, 0.0) > 0
    assert one.ask(4, "p", "other", b"c", 1, 0.0) > 0  # it is the provider that has no room
    assert [ticket for _, ticket, _ in drain(one, 0.0)] == [2, 3, 4]


def test_the_head_of_one_model_does_not_block_another() -> None:
    one = admission(requests=6000)
    one.throttled("p", "m", 30.0, 0.0)
    assert one.ask(1, "p", "m", b"c", 1, 0.0) >= 30
    assert one.ask(2, "p", "other", b"c", 1, 0.0) == 0
    assert one.ask(3, "p", "m", b"c", 1, 0.0) >= 30
    assert one.ask(4, "free", "m", b"c", 1, 0.0) == 0
    assert went(one, 29.0) == []
    assert one.next_at(29.0) == pytest.approx(30)
    assert went(one, 30.1) == [1]  # alone
    one.learn("p", "m", NOTHING, 30.2)
    assert went(one, 31.0) == [3]


def test_what_a_model_tells_holds_for_it_alone() -> None:
    one = admission()
    one.learn("p", "m", RateLimits(Window(60, 0)), 0.0)
    assert one.ask(1, "p", "m", b"c", 1, 0.0) > 0
    assert one.ask(2, "p", "other", b"c", 1, 0.0) == 0


def test_a_request_that_its_model_refuses_is_not_charged_to_the_provider() -> None:
    one = admission(requests=60)
    one.throttled("p", "m", 30.0, 0.0)
    for ticket in range(100):
        one.ask(ticket, "p", "m", b"c", 1, 0.0)
    assert sum(not one.ask(ticket, "p", "other", b"c", 1, 0.0) for ticket in range(200, 300)) == 57


def test_processes_share_one_limit_and_each_ends_its_own_requests() -> None:
    rows = SharedWords.private()
    processes = [Admission(rows, config(concurrency=4), number) for number in range(2)]
    waits = [one.ask(number, "p", "m", b"c", 1, 0.0) for number in range(4) for one in processes]
    assert sum(not wait for wait in waits) == 4
    processes[0].settle(0, None, 1.0)
    assert went(processes[1], 1.2) == [2]
    Admission(rows, config(concurrency=4), 1)  # a successor: the three it had are gone
    assert went(processes[0], 1.4) == [2, 3]


def test_what_was_not_used_lets_the_next_one_go() -> None:
    one = admission(tokens=6000)
    assert one.ask(1, "p", "m", b"c", 5000, 0.0) == 0
    assert one.ask(2, "p", "m", b"c", 5000, 0.0) > 40
    one.settle(1, 100, 1.0)
    assert one.next_at(1.0) == 1.0
    assert went(one, 1.0) == [2]


def test_usage_may_come_after_the_end_and_twice_counts_once() -> None:
    one = admission(tokens=6000)
    one.ask(1, "p", "m", b"c", 5000, 0.0)
    one.settle(1, None, 1.0)
    assert one.ask(2, "p", "m", b"c", 5000, 1.0) > 40
    one.settle(1, 0, 2.0)
    one.settle(1, 0, 2.0)
    assert went(one, 2.0) == [2]
    assert one.ask(3, "p", "m", b"c", 5000, 2.0) > 40


def test_usage_that_never_comes_takes_no_memory() -> None:
    one = admission()
    for ticket in range(ENDED + 10):
        one.ask(ticket, "p", "m", b"c", 1, 0.0)
        one.settle(ticket, None, 0.0)
    assert len(one._ended) == ENDED
    assert not one._sent


def test_models_that_nobody_waits_for_take_no_memory() -> None:
    one = admission(requests=1, length=5)
    for ticket in range(1000):
        one.throttled("free", f"m{ticket}", 5.0, float(ticket))
        one.ask(ticket, "free", f"m{ticket}", b"c", 1, float(ticket))
        one.withdraw(ticket, float(ticket))
        one.due(float(ticket))
    assert one._lines["free"].lanes == {}


def test_a_withdrawn_request_leaves_nothing() -> None:
    one = admission(requests=60)
    for ticket in range(1000):
        assert one.ask(ticket, "p", "m", b"c", 1, 0.0) == 0
        one.withdraw(ticket, 0.0)
    for ticket in range(100):
        one.ask(ticket, "p", "m", b"c", 1, 0.0)
    assert one.wait_of(70, 0.0) > 0
    for ticket in range(57, 100):
        one.withdraw(ticket, 0.0)
    one.withdraw("unknown", 0.0)
    assert one.wait_of(70, 0.0) == 0
    assert one.next_at(0.0) is None


def test_the_expected_wait_is_about_what_it_becomes() -> None:
    one, now = admission(requests=600, wait_s=1000), 0.0
    for ticket in range(700):
        one.ask(ticket, "p", "m", b"c", 1, now)
    while one.wait_of(600, now):
        now = max(one.next_at(now) or now, now + 0.001)
        one.due(now)
    expected = {ticket: now + one.wait_of(ticket, now) for ticket in (650, 699)}
    came = {ticket: when for when, ticket, _ in drain(one, now) if ticket in expected}
    assert came == pytest.approx(expected, rel=0.1)


def test_of_a_limit_of_concurrency_nothing_is_told_that_was_not_seen() -> None:
    one = admission(concurrency=100)
    waits = [one.ask(ticket, "p", "m", b"c", 1, 0.0) for ticket in range(600)]
    assert waits.count(0.0) == 100
    assert max(waits) <= 0.1
    for round_ in range(1, 4):
        now = 0.07 * round_
        for ticket in range(100 * (round_ - 1), 100 * round_):
            one.settle(ticket, 1, now)
        while went(one, now):
            pass
    assert one.wait_of(599, 0.21) == pytest.approx(0.14, abs=0.02)


def test_who_waits_behind_one_that_runs_is_told_how_long_such_took() -> None:
    one = admission(concurrency=1)
    one.ask(1, "p", "m", b"c", 1, 0.0)
    one.ask(2, "p", "m", b"c", 1, 0.0)
    assert one.wait_of(2, 0.8) == pytest.approx(0.8), "nothing was seen: as long again"
    one.settle(1, 1, 1.0)
    assert went(one, 1.0) == [2]
    assert one.ask(3, "p", "m", b"c", 1, 1.0) == pytest.approx(1.0)
    assert one.ask(4, "p", "m", b"c", 1, 1.0) == pytest.approx(2.0)


def test_a_queue_that_was_left_by_all_says_nothing_of_the_next() -> None:
    one = admission(concurrency=1)
    for ticket in range(3):
        one.ask(ticket, "p", "m", b"c", 1, 0.0)
    one.settle(0, 1, 2.0)
    assert went(one, 2.0) == [1]
    one.withdraw(2, 3.0)
    one.ask(3, "p", "m", b"c", 1, 500.0)
    assert one.wait_of(3, 500.0) == pytest.approx(2.0), "what the one that has ended took"


def test_the_pace_of_a_long_queue_follows_what_it_is_now() -> None:
    pace = Pace()
    pace.waits(0.0, first=True)
    for number in range(1, 1001):
        pace.served(number * 1.0, last=False)
    for number in range(1, 1001):
        pace.served(1000.0 + number * 0.1, last=False)
    assert pace.seen(1100.0) == pytest.approx(0.1, rel=0.2)
    pace.served(1100.1, last=True)
    assert pace.seen(1100.1) is None


class Busy(SharedWords):
    """Rows of which some are held by another process."""

    def __init__(self) -> None:
        super().__init__(memoryview(bytearray(TABLE_BYTES)), NoLocks())
        self.held: set[str] = set()

    @contextmanager
    def row(self, name: str, *, keep: bool = False) -> Iterator[memoryview]:
        if name in self.held:
            raise RowBusy(name)
        with super().row(name, keep=keep) as words:
            yield words


@pytest.mark.parametrize("held", ["limit:p", "limit:p/m"])
def test_a_busy_row_is_asked_for_again_in_10_ms(held: str) -> None:
    rows = Busy()
    one = Admission(rows, config(requests=60), 0)
    rows.held = {held}
    assert one.ask(1, "p", "m", b"c", 1, 5.0) == pytest.approx(0.01)
    assert one.next_at(5.0) == pytest.approx(5.01)
    assert went(one, 5.02) == []
    rows.held = set()
    assert went(one, 5.04) == [1]
    assert sum(not one.ask(ticket, "p", "m", b"c", 1, 5.04) for ticket in range(2, 99)) == 56


def test_changes_of_a_busy_row_are_stored_in_order_and_hold_up_no_other() -> None:
    rows = Busy()
    one = Admission(rows, config(requests=60, concurrency=1), 0)
    assert one.ask(1, "p", "m", b"c", 1, 0.0) == 0
    rows.held = {"limit:p/m"}
    one.throttled("p", "m", 1.0, 0.0)
    one.learn("p", "m", NOTHING, 2.0)
    one.settle(1, 1, 2.0)
    assert one.ask(2, "p", "other", b"c", 1, 2.0) == 0  # its end is stored in the provider's row
    assert one.next_at(2.0) == 2.0
    one.due(2.0)
    assert one.next_at(2.0) == pytest.approx(2.01)
    rows.held = set()
    one.due(2.02)
    assert one.next_at(2.02) is None
    one.settle(2, 1, 2.1)
    assert one.ask(3, "p", "m", b"c", 1, 2.2) == 0  # accepted after its refusal


def test_a_predecessors_requests_are_forgotten_when_the_row_is_free() -> None:
    rows = Busy()
    assert Admission(rows, config(concurrency=1), 0).ask(1, "p", "m", b"c", 1, 0.0) == 0
    rows.held = {"limit:p"}
    one = Admission(rows, config(concurrency=1), 0)
    rows.held = set()
    assert one.ask(1, "p", "m", b"c", 1, 0.0) > 0
    assert went(one, 0.2) == [1]


@given(st.integers(0, 2**32), st.integers(1, 600), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_whatever_happens_every_ticket_gets_one_answer(
    seed: int, limit: int, concurrency: int
) -> None:
    """No ticket is lost or answered twice, and what `next_at` says leads to an end."""
    dice = random.Random(seed)
    one = admission(limit, limit * 10, concurrency, length=20, wait_s=20)
    waiting, running, now = set[object](), set[object](), 0.0
    for ticket in range(150):
        now += dice.choice([0, 0, 0.01, 0.5])
        match dice.randrange(6):
            case 0 if running:
                ended = running.pop()
                one.settle(ended, dice.choice([None, 0, 5, 100]), now)
            case 1:
                one.throttled("p", dice.choice("xy"), dice.choice([None, 0.5]), now)
            case 2:
                one.learn("p", dice.choice("xy"), RateLimits(Window(limit, limit // 2)), now)
            case 3 if waiting | running:
                left = dice.choice(sorted(waiting | running, key=str))
                one.withdraw(left, now)
                waiting.discard(left)
                running.discard(left)
            case _:
                try:
                    wait = one.ask(
                        ticket, "p", dice.choice("xy"), dice.choice([b"1", b"2"]), 5, now
                    )
                except RequestError as refused:
                    told = refused.message
                    assert len(waiting) == 20 or "has no room for" in told
                else:
                    (waiting if wait else running).add(ticket)
        for due, error in one.due(now):
            waiting.remove(due)
            if error is None:
                running.add(due)
    for _, due, may in drain(one, now):
        waiting.remove(due)
        if may:
            running.add(due)
    assert not waiting
