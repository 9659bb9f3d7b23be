"""Random walks of both ends over one ring, against a list of what was published."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ringcast.errors import Fenced, FrameTooLarge, RingError
from ringcast.shm import layout
from ringcast.shm.ring import Reader, Record, Writer, hand_over

CAPACITY = 1 << 10
LARGEST = layout.max_payload(CAPACITY)
U64 = st.integers(0, (1 << 64) - 1)
PAYLOADS = st.one_of(
    st.sampled_from([b"", b"\xff" * LARGEST, b"\x00" * LARGEST]), st.binary(max_size=LARGEST)
)


class Sent(NamedTuple):
    """A record as it was appended, and the position behind it."""

    kind: int
    flags: int
    number: int
    stream: int
    a: int
    b: int
    payload: bytes
    end: int


def seen(record: Record) -> Sent:
    r = record
    return Sent(r.kind, r.flags, r.count, r.stream, r.a, r.b, bytes(r.payload), r.end)


class RingMachine(RuleBasedStateMachine):
    """The ring beside a deque of what was published and not released."""

    @initialize(lap=st.integers(0, 5), index=st.integers(0, CAPACITY // 8 - 1), fill=st.binary())
    def start(self, lap: int, index: int, fill: bytes) -> None:
        """Begin anywhere in a lap, over the bytes of earlier ones."""
        noise = (fill or b"\x00") * (layout.size_of(CAPACITY) // max(1, len(fill)))
        self.memory = memoryview(bytearray(layout.size_of(CAPACITY)))
        self.memory[: len(noise)] = noise
        layout.initialise(self.memory, CAPACITY, pid=7)
        with self.memory[: layout.DATA].cast("Q") as words:
            for word in (layout.W_TAIL, layout.W_HEAD, layout.W_RELEASED):
                words[word] = lap * CAPACITY + index * 8
        self.kept: deque[Sent] = deque()  # published and not released
        self.read = 0  # how many of `kept` were read
        self.pending: list[Sent] = []  # appended and not published
        self.asleep = self.owed = self.waiting = False
        self.attach_writer()
        self.attach_reader()

    @rule()
    def attach_writer(self) -> None:
        """R10, R12: a successor starts at `tail`; its predecessor is fenced."""
        zombie = getattr(self, "writer", None)
        if zombie is not None:
            hand_over(self.memory, producer=True)
            with pytest.raises(Fenced):
                zombie.publish()
        self.writer, self.pending = Writer(self.memory), []
        self.owed = self.asleep  # a new producer cannot know whether the old one rang

    @rule()
    def attach_reader(self) -> None:
        """R11, R12: a successor starts at `released`; its predecessor is fenced."""
        zombie = getattr(self, "reader", None)
        if zombie is not None:
            hand_over(self.memory, consumer=True)
            with pytest.raises(Fenced):
                zombie.release(zombie.released)
        self.reader, self.read = Reader(self.memory), 0

    @rule(
        kind=st.integers(0, 255),
        flags=st.integers(0, 255),
        count=st.integers(0, 65535),
        stream=st.integers(0, (1 << 32) - 1),
        a=U64,
        b=U64,
        payload=PAYLOADS,
        times=st.integers(1, 4),
    )
    def append(
        self,
        kind: int,
        flags: int,
        count: int,
        stream: int,
        a: int,
        b: int,
        payload: bytes,
        times: int,
    ) -> None:
        """R4, R7: full is an answer, and only if the records really do not fit."""
        for _ in range(times):
            full, fits = self.writer.full, self.writer.fits(len(payload))
            self.writer.full = full
            used = self.writer.used
            done = self.writer.append(kind, stream, a, b, payload, flags, count)
            assert done or not fits
            need = (layout.HEADER + len(payload) + 7) & -8
            assert done or used + 2 * need > CAPACITY
            assert self.writer.full == full + (not done)
            if done:
                end = self.writer.position
                self.pending.append(Sent(kind, flags, count, stream, a, b, payload, end))

    @rule()
    def append_too_much(self) -> None:
        before = self.writer.position
        with pytest.raises(FrameTooLarge):
            self.writer.append(2, 1, 0, 0, bytes(LARGEST + 1))
        assert self.writer.position == before

    @rule()
    def publish(self) -> None:
        """R6, R9: all at once, and the bell for a sleeper only, and once for each sleep."""
        self.kept.extend(self.pending)
        self.pending = []
        assert self.writer.publish() == self.owed
        self.owed = False

    @rule()
    def abandon(self) -> None:
        self.writer.abandon()
        self.pending = []

    @rule(limit=st.integers(0, 9))
    def poll(self, limit: int) -> None:
        """R5, R8: what was published, in order, nothing else, `limit` at most."""
        want = list(self.kept)[self.read : self.read + limit]
        assert [seen(record) for record in self.reader.poll(limit)] == want
        self.read += len(want)

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        """R8: what was read can go, and a waiting producer is told once."""
        count = data.draw(st.integers(0, self.read))
        position = self.reader.released
        for _ in range(count):
            position = self.kept.popleft().end
        self.read -= count
        told = self.reader.release(position)
        assert told >= self.waiting
        self.waiting = False

    @rule(data=st.data())
    def rewind(self, data: st.DataObject) -> None:
        self.read = data.draw(st.integers(0, self.read))
        ends = [self.reader.released, *(sent.end for sent in self.kept)]
        self.reader.rewind(ends[self.read])

    @rule()
    def sleep(self) -> None:
        """R9: no sleep while there is something to read."""
        self.asleep = self.owed = self.reader.sleep()
        assert self.asleep == (self.reader.position == self._tail())

    @rule()
    def wake(self) -> None:
        self.reader.wake()
        self.asleep = self.owed = False

    @rule()
    def wait(self) -> None:
        """R7: the producer may wait unless bytes were released since it last looked."""
        waits = self.writer.wait()
        self.waiting = self.waiting or waits

    @precondition(lambda self: self.read < len(self.kept))
    @rule()
    def release_unread(self) -> None:
        with pytest.raises(RingError):
            self.reader.release(self.kept[self.read].end)
        with pytest.raises(RingError):
            self.reader.rewind(self.kept[self.read].end)

    @invariant()
    def positions_agree(self) -> None:
        """R3: `released <= head <= tail <= released + capacity`, all multiples of 8."""
        if not hasattr(self, "reader"):
            return
        assert layout.check(self.memory) == CAPACITY
        tail = self._tail()
        assert self.reader.pending == tail - self.reader.position
        assert self.reader.free == CAPACITY - (tail - self.reader.released)
        assert self.writer.used == self.writer.position - self.reader.released <= CAPACITY

    def _tail(self) -> int:
        with self.memory[: layout.DATA].cast("Q") as words:
            tail: int = words[layout.W_TAIL]
            return tail


TestRingMachine = RingMachine.TestCase
TestRingMachine.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


@given(
    offset=st.integers(0, CAPACITY // 8 - 1),
    batches=st.lists(st.lists(PAYLOADS, min_size=1, max_size=3), max_size=25),
)
@settings(max_examples=100, deadline=None)
def test_r4_a_lap_may_end_anywhere(offset: int, batches: list[list[bytes]]) -> None:
    """R4, R5: over several laps each record comes out whole, whatever its bytes look like."""
    memory = memoryview(bytearray(b"\xff" * layout.size_of(CAPACITY)))
    layout.initialise(memory, CAPACITY)
    with memory[: layout.DATA].cast("Q") as words:
        for word in (layout.W_TAIL, layout.W_HEAD, layout.W_RELEASED):
            words[word] = offset * 8
    writer, reader = Writer(memory), Reader(memory)
    for batch in batches:
        assert writer.fits(*map(len, batch))
        for payload in batch:
            assert writer.append(2, 1, 0, 0, payload)
        writer.publish()
        records = reader.poll()
        assert [bytes(record.payload) for record in records] == batch
        reader.release(records[-1].end)
