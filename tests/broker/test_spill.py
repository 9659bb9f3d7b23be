"""What waits outside of the out-rings: kept while it is wanted, found again by a successor."""

from __future__ import annotations

import random
from collections import deque
from pathlib import Path

import msgspec
from fakes.pipeline import ring
from hypothesis import given
from hypothesis import strategies as st

from ringcast.broker.credit import BackpressureController
from ringcast.broker.log import Log
from ringcast.broker.rebuild import Rebuild
from ringcast.broker.session import Sessions
from ringcast.broker.spill import LEAST, Spill, capacity_for
from ringcast.broker.stream import Stream
from ringcast.shm import records, segment
from ringcast.shm.reserve import Reserve
from ringcast.shm.ring import Reader, Record


class Memory:
    """A store that is no segment; it can be full."""

    def __init__(self, capacity: int = 1 << 16) -> None:
        self.memory: memoryview | None = None
        self.capacity = capacity
        self.full = False
        self.made = 0

    def find(self) -> memoryview | None:
        return self.memory

    def make(self) -> memoryview | None:
        if self.full:
            return None
        self.made += 1
        self.memory = ring(self.capacity)
        return self.memory

    def remove(self) -> None:
        self.memory = None


def make(slot: int, worker: int = 0) -> Stream:
    return Stream(slot, b"", "", "", 0, worker, BackpressureController())


def stream(slot: int) -> Stream:
    one = make(slot)
    one.id = b"%016d" % slot
    one.opened = records.encode_open(records.Open(one.id, "chat", "up", "model"))
    one.opened_ns = 7
    return one


def record(slot: int, number: int, payload: bytes, flags: int = records.WHOLE) -> Record:
    return Record(records.TOKENS, flags, 1, slot, number, number, memoryview(payload), 0)


def spill(one: Spill, whose: Stream, payload: bytes, flags: int = records.WHOLE) -> None:
    """What the log does with the oldest record of a stream that is still wanted."""
    number = whose.end
    whose.entries.append(one.keep(whose, record(whose.slot, number, payload, flags)))
    whose.heaped += 1
    whose.end = number + 1


def successor(memory: Memory) -> Sessions:
    """What a new broker finds."""
    sessions = Sessions([Log(Reader(ring(1 << 16)))])
    Rebuild(sessions, 1, make).spilled(Spill(memory), 1)
    return sessions


def owed(whose: Stream) -> list[tuple[int, bytes]]:
    return [(entry.a, bytes(entry.payload)) for entry in whose.entries]


def test_a_successor_finds_it() -> None:
    memory = Memory()
    one, first, second = Spill(memory), stream(1), stream(2)
    for number in range(10):
        spill(one, first, b"first %d" % number)
        spill(one, second, b"second %d" % number)
    spill(one, second, b"the end", records.WHOLE | records.TERMINAL)
    found = successor(memory)
    for whose in (first, second):
        left = found.by_id[whose.id]
        assert owed(left) == owed(whose)
        assert (left.end, left.processed, left.heaped) == (whose.end, 0, whose.heaped)
        assert (left.provider, left.opened_ns) == ("up", 7)
    assert [left.slot for left in found.ended] == [2]


def test_what_the_ring_begins_behind_was_not_wanted() -> None:
    """The readers were done with it, and with what followed, before the broker died."""
    memory = Memory()
    one, whose = Spill(memory), stream(1)
    for _ in range(5):
        spill(one, whose, b"x")
    found = successor(memory)
    left = found.streams[1]
    found.ingest(found.logs[0], [msgspec.structs.replace(record(1, 9, b"\x91\xa1y"), end=64)])
    assert (left.first, left.end, left.processed, left.heaped) == (9, 10, 9, 0)


def test_a_gap_in_what_is_left() -> None:
    memory = Memory()
    one, whose = Spill(memory), stream(1)
    for number in (0, 1, 2, 6, 7):
        whose.end = number
        spill(one, whose, b"%d" % number)
    assert owed(successor(memory).streams[1]) == [(6, b"6"), (7, b"7")]


def test_the_segment_goes_when_nothing_waits() -> None:
    memory = Memory()
    one, whose = Spill(memory), stream(1)
    spill(one, whose, b"x")
    one.rest(empty=False)
    assert memory.memory is not None
    whose.processed = 1
    whose.trim()
    one.rest(empty=True)
    assert memory.memory is None
    spill(one, whose, b"y")
    assert memory.made == 2
    assert owed(successor(memory).streams[1]) == [(1, b"y")]


def test_without_room_it_waits_on_the_heap() -> None:
    memory = Memory()
    memory.full = True
    one, whose = Spill(memory), stream(1)
    spill(one, whose, b"x")
    assert owed(whose) == [(0, b"x")]
    memory.full = False
    spill(one, whose, b"y")
    assert memory.made == 0  # it is not asked for with every record
    one.rest(empty=False)
    spill(one, whose, b"z")
    assert memory.made == 1
    assert owed(successor(memory).streams[1]) == [(2, b"z")]
    spill(one, whose, b"w" * (1 << 16))  # larger than any record
    assert owed(whose)[-1] == (3, b"w" * (1 << 16))


@given(seed=st.integers(0, 1 << 32), steps=st.integers(1, 1500))
def test_whatever_is_taken_meanwhile(seed: int, steps: int) -> None:
    """Streams come, are read at any pace, and go; what they are owed never changes."""
    draw = random.Random(seed)
    memory = Memory()
    one = Spill(memory)
    live: dict[int, Stream] = {}
    truth: dict[int, deque[bytes]] = {}
    for step in range(steps):
        if not live or (len(live) < 6 and draw.random() < 0.05):
            live[step + 1], truth[step + 1] = stream(step + 1), deque()
        whose = draw.choice(list(live.values()))
        if draw.random() < 0.6:
            payload = draw.randbytes(draw.choice([3, 40, 900]))
            spill(one, whose, payload)
            truth[whose.slot].append(payload)
        else:
            done = draw.randint(0, len(truth[whose.slot]))
            whose.processed = min(whose.processed + done, whose.end)
            whose.trim()
            while len(truth[whose.slot]) > len(whose.entries):
                truth[whose.slot].popleft()
        if draw.random() < 0.01:
            del live[whose.slot], truth[whose.slot]
            whose.abandoned = True
            whose.trim()
        if draw.random() < 0.05:
            one.rest(empty=not any(other.heaped for other in live.values()))
        for slot, other in live.items():
            assert [payload for _, payload in owed(other)] == list(truth[slot])
    found = successor(memory).streams
    for slot, other in live.items():
        left = dict(owed(found[slot])) if slot in found else {}
        for number, payload in owed(other):
            assert left.get(number, payload) == payload  # missing only if it was on the heap


def test_the_reserve_is_a_segment(tmp_path: Path) -> None:
    name = f"{segment.family()}-s"
    reserve = Reserve(name, capacity_for(1 << 20), "credit.budget_bytes")
    assert reserve.find() is None
    memory = reserve.make()
    assert memory is not None
    Spill(reserve).left()
    assert Reserve(name, LEAST, "").find() is not None
    memory.release()
    reserve.remove()
    assert Reserve(name, LEAST, "").find() is None


def test_a_reserve_that_was_never_finished_is_made_again() -> None:
    name = f"{segment.family()}-s"
    half = segment.create(name, 1 << 17, setting="a test")
    reserve = Reserve(name, LEAST, "")
    assert reserve.find() is None
    assert reserve.make() is not None
    reserve.remove()
    half.close()
