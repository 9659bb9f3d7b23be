"""Requests that wait, and whose turn it is (F1-F3)."""

from __future__ import annotations

import random
import tracemalloc
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from ringcast.providers.traffic.fair_queue import FairQueue


def served(queue: FairQueue, lane: str = "m") -> int:
    """Serve the head of a lane and return its ticket."""
    ticket = next(ticket for ticket, at in queue.heads() if at == lane)
    queue.serve(ticket)
    assert isinstance(ticket, int)
    return ticket


def test_f1_a_thousand_requests_of_one_client_delay_another_by_one_turn() -> None:
    queue = FairQueue(2000, 60)
    for ticket in range(1000):
        queue.push(ticket, b"busy", "m", 0)
    queue.push(1000, b"other", "m", 0)
    assert queue.ahead(1000) == 1
    assert [served(queue), served(queue), served(queue)] == [0, 1000, 1]


def test_f1_clients_take_turns_and_each_in_its_order() -> None:
    queue = FairQueue(100, 60)
    for ticket, client in enumerate([b"a", b"a", b"a", b"b", b"b", b"c"]):
        queue.push(ticket, client, "m", 0)
    assert [served(queue) for _ in range(6)] == [0, 3, 5, 1, 4, 2]
    assert not queue


def test_f2_a_turn_in_one_lane_counts_in_all() -> None:
    queue = FairQueue(100, 60)
    for ticket, lane in enumerate(["x", "y", "x", "y"]):
        queue.push(ticket, b"a", lane, 0)
    queue.push(4, b"b", "y", 0)
    assert [next(queue.heads())[0] for _ in range(2)] == [0, 0]
    assert served(queue, "x") == 0
    assert [served(queue, "y"), served(queue, "y"), served(queue, "y")] == [4, 1, 3]


def test_f2_every_lane_has_a_head() -> None:
    queue = FairQueue(100, 60)
    for ticket, lane in enumerate(["x", "x", "y", "z"]):
        queue.push(ticket, b"a", lane, 0)
    assert {lane: ticket for ticket, lane in queue.heads()} == {"x": 0, "y": 2, "z": 3}
    assert queue.occupied("z")
    queue.remove(3)
    assert not queue.occupied("z")


def test_a_full_queue_takes_no_more_until_somebody_has_left() -> None:
    queue = FairQueue(2, 60)
    assert queue.push(1, b"a", "m", 0)
    assert queue.push(2, b"b", "m", 0)
    assert not queue.push(3, b"c", "m", 0)
    queue.remove(1)
    assert queue.push(3, b"c", "m", 0)
    assert (1 in queue, 3 in queue, len(queue)) == (False, True, 2)


def test_who_has_waited_too_long_is_given_in_the_order_of_arrival() -> None:
    queue = FairQueue(100, 10)
    for ticket in range(3):
        queue.push(ticket, b"a", "m", float(ticket))
    assert queue.expires_at() == 10
    assert list(queue.expired(9.9)) == []
    assert list(queue.expired(11)) == [0, 1]
    assert queue.expires_at() == 12
    assert list(queue.expired(12)) == [2]
    assert queue.expires_at() is None


def test_f3_a_waiting_request_has_its_bound_of_memory() -> None:
    queue = FairQueue(3000, 60)
    tracemalloc.start()
    for ticket in range(3000):
        queue.push(ticket, ticket.to_bytes(8), f"model {ticket}", 0)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used / 3000 < 2048


@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 3))
def test_f1_nobody_is_passed_twice_by_one_client(seed: int, clients: int, lanes: int) -> None:
    """Each other client has at most one turn more than its own since it came."""
    dice = random.Random(seed)
    queue, owner, turns = FairQueue(1000, 60), dict[int, bytes](), Counter[bytes]()
    at_arrival: dict[int, tuple[int, Counter[bytes]]] = {}
    for ticket in range(60):
        client = b"%d" % dice.randrange(clients)
        ahead = sum(owner[one] == client for one in owner if one in queue)
        queue.push(ticket, client, f"{dice.randrange(lanes)}", 0)
        owner[ticket] = client
        at_arrival[ticket] = ahead, turns.copy()
        if dice.random() < 0.3 and queue:
            queue.remove(dice.choice([one for one in owner if one in queue]))
        while queue and dice.random() < 0.4:
            first = next(queue.heads())[0]
            assert isinstance(first, int)
            queue.serve(first)
            turns[owner[first]] += 1
            ahead, before = at_arrival[first]
            since = turns - before
            own = since.pop(owner[first])
            assert own <= ahead + lanes
            assert max(since.values(), default=0) <= own + 1
    assert len(queue) == sum(one in queue for one in owner)
