"""Counts that wait for the counting process, by the rules of `broker.count_queue`."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringcast.broker.count_queue import BYTES, COUNT_S, LENGTH, MAX_TEXT, START_S, CountQueue
from ringcast.providers.commands import Ask


def ask(number: int, size: int = 10) -> Ask:
    return Ask(number, "count", "up", "m", msgspec.Raw(b"\xc0" * size))


class Counter:
    """The counting process as the queue sees it."""

    def __init__(self) -> None:
        self.there = True
        self.usable = True
        self.sent: list[int] = []
        self.queue = CountQueue(self.send, lambda: self.usable)

    def send(self, question: Ask) -> bool:
        if self.there:
            self.sent.append(question.number)
        return self.there


@pytest.fixture
def counter() -> Counter:
    return Counter()


def test_rules_1_to_3_one_at_a_time_in_order(counter: Counter) -> None:
    queue = counter.queue
    for number in (1, 2, 3):
        queue.add(ask(number), 0.0)
    assert counter.sent == [1]
    queue.end(9, 0.1)
    assert counter.sent == [1]
    queue.end(1, 0.1)
    queue.end(2, 0.2)
    assert counter.sent == [1, 2, 3]


def test_rule_1_what_waits_is_sent_when_the_process_is_there(counter: Counter) -> None:
    counter.there = False
    counter.queue.add(ask(1), 0.0)
    assert counter.queue.look(1.0) == []
    counter.there = True
    assert counter.queue.restart(1.1) == []
    assert counter.sent == [1]


@pytest.mark.parametrize(("number", "size"), [(LENGTH, 1), (BYTES // MAX_TEXT, MAX_TEXT)])
def test_rule_2_so_many_wait_and_so_many_bytes(counter: Counter, number: int, size: int) -> None:
    queue, text = counter.queue, ask(0, size).request
    for n in range(number + 1):  # one is under way
        assert queue.takes(Ask(n, "count", "up", "m", text), 0.0)
        queue.add(Ask(n, "count", "up", "m", text), 0.0)
    assert not queue.takes(ask(99), 0.0)
    queue.forget(1)
    assert queue.takes(ask(99), 0.0)
    queue.end(0, 0.0)
    assert counter.sent == [0, 2]


def test_what_is_too_long_or_cannot_be_counted_is_not_taken(counter: Counter) -> None:
    assert counter.queue.takes(ask(1, MAX_TEXT), 0.0)
    assert not counter.queue.takes(ask(1, MAX_TEXT + 1), 0.0)
    counter.usable = False
    assert not counter.queue.takes(ask(1), 0.0)


def test_rule_4_a_count_that_two_processes_die_of_is_given_up(counter: Counter) -> None:
    queue = counter.queue
    queue.add(ask(1), 0.0)
    queue.add(ask(2), 0.0)
    assert queue.restart(1.0) == []
    assert queue.restart(2.0) == [1]
    assert counter.sent == [1, 1, 2]
    assert queue.restart(3.0) == []  # the next has two sendings of its own
    assert counter.sent == [1, 1, 2, 2]


def test_rule_5_without_a_process_nothing_waits_for_long(counter: Counter) -> None:
    counter.there = False
    counter.queue.add(ask(1), 0.0)
    counter.queue.add(ask(2), START_S - 0.5)
    assert counter.queue.look(START_S) == []
    assert counter.queue.look(START_S + 0.1) == [1, 2]
    assert counter.queue.takes(ask(3), START_S + 0.1)  # another may be started


def test_rule_6_a_count_that_does_not_end_is_given_up(counter: Counter) -> None:
    queue = counter.queue
    queue.add(ask(1), 0.0)
    queue.add(ask(2), 0.0)
    assert queue.look(COUNT_S) == []
    assert queue.look(COUNT_S + 0.1) == [2, 1]
    assert not queue.takes(ask(3), COUNT_S + 0.2)
    assert queue.takes(ask(3), 2 * COUNT_S + 0.2)
    assert queue.restart(COUNT_S + 0.3) == []
    assert queue.takes(ask(3), COUNT_S + 0.3)


def test_each_count_has_its_own_time(counter: Counter) -> None:
    queue = counter.queue
    for number in (1, 2):
        queue.add(ask(number), 0.0)
    queue.end(1, COUNT_S - 1)
    assert queue.look(2 * COUNT_S - 2) == []


steps = st.sampled_from(["add", "end", "die", "die at rest", "forget", "leave", "come", "wait"])


@given(st.lists(steps, max_size=60))
def test_every_count_ends_once_and_one_is_under_way(said: list[str]) -> None:
    """Whatever happens: each is ended, forgotten or given up, and no bytes are left over."""
    counter, now, added, over = Counter(), 0.0, 0, list[int]()
    queue = counter.queue
    for step in said:
        now += 0.5
        if step == "add" and queue.takes(ask(added + 1), now):
            added += 1
            queue.add(ask(added), now)
        elif step == "end" and queue._under_way is not None and counter.there:
            over.append(queue._under_way.number)
            queue.end(over[-1], now)
        elif step == "forget" and queue._waiting:
            over.append(queue._waiting[-1].number)
            queue.forget(over[-1])
        elif step in ("die", "die at rest"):
            counter.there = step == "die"
            over += queue.restart(now)
            counter.there = True
        elif step in ("leave", "come"):
            counter.there = step == "come"
        elif step == "wait":
            now += COUNT_S + 1
        over += queue.look(now)
        assert (queue._under_way is not None) + len(queue._waiting) + len(over) == added
    for _ in range(2):  # what waited may be sent by the first
        now += COUNT_S + 1
        over += queue.look(now)
    assert sorted(over) == list(range(1, added + 1))
    assert queue._bytes == 0
