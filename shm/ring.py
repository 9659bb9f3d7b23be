"""The ring: a `Writer` and a `Reader` over one piece of memory (rules in `layout`)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import msgspec

from ringcast.errors import Fenced, FrameTooLarge, RingCorrupt, RingError
from ringcast.shm import layout
from ringcast.shm.layout import (
    COMMIT,
    DATA,
    HEADER,
    PAD_BIT,
    SEQ_BITS,
    W_CONSUMER_BEAT,
    W_CONSUMER_EPOCH,
    W_CONSUMER_POISON,
    W_DATA,
    W_HEAD,
    W_NUMBER,
    W_PRODUCER_BEAT,
    W_PRODUCER_EPOCH,
    W_PRODUCER_POISON,
    W_RELEASED,
    W_SLEEPING,
    W_TAIL,
    W_WAITING,
    WORD,
    fence,
    order,
)

Buffer = bytes | bytearray | memoryview

HEAD: Final = struct.Struct("=BBHIQQ")  # kind, flags, count, stream, a, b
_pack_head = HEAD.pack_into
_unpack_head = HEAD.unpack_from
_ROUND: Final = HEADER + 7  # what a payload's size grows by before it is cut to a multiple of 8
# A record whose commit word is missing although `tail` is past it: on a weakly ordered
# machine it is on its way; after this many looks it is not, and the ring is corrupt.
PATIENCE: Final = 64


class Record(msgspec.Struct, frozen=True, gc=False):
    """One record as read. `payload` is a view into the ring until `end` is released.

    `count`, `a` and `b` mean what `records` says for each kind; `end` is the position
    after the record.
    """

    kind: int
    flags: int
    count: int
    stream: int
    a: int
    b: int
    payload: memoryview
    end: int


class Writer:
    """The producing end. `append` records, then `publish` them all at once (R6)."""

    __slots__ = (
        "_edge",
        "_epoch",
        "_limit",
        "_mask",
        "_memory",
        "_number",
        "_published",
        "_rung",
        "_tail",
        "_waits",
        "_words",
        "capacity",
        "full",
        "max_payload",
    )

    def __init__(self, memory: memoryview) -> None:
        """Take the producing end over where the last producer left it (R10).

        `publish` once, with nothing appended: the last one may have died before it rang.
        Raises what `layout.check` raises.
        """
        self.capacity = layout.check(memory)
        self.max_payload = layout.max_payload(self.capacity)
        self._mask = self.capacity - 1
        self.full = 0  # times that append found no room (R13)
        self._memory = memory
        self._words = memory[: DATA + self.capacity].cast("Q")
        self._epoch = self._words[W_PRODUCER_EPOCH]
        self._number = (self._words[W_NUMBER] + 1) & WORD
        self._words[W_NUMBER] = self._number
        self._tail = self._words[W_TAIL]
        self._published = self._tail
        self._edge = self._tail  # up to here a record needs no look at `released` or the lap
        self._look()
        self._rung = 0
        self._waits = self._words[W_WAITING]

    def append(
        self,
        kind: int,
        stream: int,
        a: int,
        b: int,
        payload: Buffer = b"",
        flags: int = 0,
        count: int = 0,
    ) -> bool:
        """Write one record behind the others; return False if there is no room (R7).

        Raises `FrameTooLarge` for a payload over `max_payload` bytes.
        """
        size = len(payload)
        tail = self._tail
        end = tail + ((size + _ROUND) & -8)
        if end > self._edge or size > self.max_payload:
            if not self._prepare(size, end - tail):
                return False
            tail = self._tail
            end = tail + ((size + _ROUND) & -8)
        at = DATA + (tail & self._mask)
        memory = self._memory
        memory[at + HEADER : at + HEADER + size] = payload
        _pack_head(memory, at + COMMIT, kind, flags, count, stream, a, b)
        self._words[at >> 3] = size + (tail << 29 & SEQ_BITS)
        self._tail = end
        return True

    def _prepare(self, size: int, need: int) -> bool:
        """Make the next `need` bytes usable: pad the lap out, look for released bytes."""
        if size > self.max_payload:
            raise FrameTooLarge(f"payload of {size} bytes, the ring takes {self.max_payload}")
        tail = self._tail
        rest = self.capacity - (tail & self._mask)
        pad = rest if need > rest else 0
        if tail + pad + need > self._limit and not self._room(pad + need):
            return False
        if pad:
            self._words[W_DATA + ((tail & self._mask) >> 3)] = pad | PAD_BIT | tail << 29 & SEQ_BITS
            tail = self._tail = tail + pad
        self._edge = min(self._limit, (tail | self._mask) + 1)
        return True

    def fits(self, *sizes: int) -> bool:
        """Say whether records with payloads of `sizes` bytes can all be appended now."""
        need = sum((size + _ROUND) & -8 for size in sizes)
        # A lap's rest may be lost to a PAD, once, and it is smaller than the largest record.
        need += min(self.capacity - (self._tail & self._mask), max(sizes) + HEADER + 8)
        return self._tail + need <= self._limit or self._room(need)

    def _look(self) -> None:
        """Read `released` again (R7), and believe only what is possible (R3)."""
        released = self._words[W_RELEASED]
        if not 0 <= self._published - released <= self.capacity:
            self._words[W_PRODUCER_POISON] = 1
            raise RingCorrupt(f"released {released} is impossible at tail {self._published}")
        self._limit = released + self.capacity

    def _room(self, need: int) -> bool:
        self._look()
        if self._tail + need <= self._limit:
            return True
        self.full += 1
        return False

    def publish(self) -> bool:
        """Make all appended records visible; return whether the doorbell must be rung (R9).

        Raises `Fenced` if another producer has taken over (R12).
        """
        words = self._words
        if words[W_PRODUCER_EPOCH] != self._epoch or words[W_NUMBER] != self._number:
            raise Fenced("another producer has taken this ring over")
        if self._tail != self._published:
            order()
            words[W_TAIL] = self._published = self._tail  # SYNC tail: pairs with Reader.poll
        fence()
        sleeping: int = words[W_SLEEPING]
        if sleeping & 1 and sleeping != self._rung:
            self._rung = sleeping
            return True
        return False

    def abandon(self) -> None:
        """Forget what was appended and not published."""
        self._tail = self._edge = self._published

    def wait(self) -> bool:
        """Say that the producer waits for room; return False if there is some by now.

        SYNC waiting: pairs with `Reader.release`.
        """
        self._waits = (self._waits + 1) & WORD
        self._words[W_WAITING] = self._waits
        fence()
        before = self._limit
        self._look()
        return self._limit == before

    def beat(self, value: int) -> None:
        """Store the producer's heartbeat."""
        self._words[W_PRODUCER_BEAT] = value

    @property
    def consumer_epoch(self) -> int:
        """Which consumer reads: one more for each hand-over of the other end."""
        epoch: int = self._words[W_CONSUMER_EPOCH]
        return epoch

    @property
    def position(self) -> int:
        """The position after the last appended record."""
        return self._tail

    @property
    def used(self) -> int:
        """Bytes appended and not released yet."""
        released: int = self._words[W_RELEASED]
        return self._tail - released

    def close(self) -> None:
        """Give the views of the memory back, so that it can be unmapped."""
        self._words.release()


class Reader:
    """The consuming end. `poll` records, use them, then `release` their bytes (R8).

    Reading and releasing are two cursors: a consumer may keep what it has read (the out-
    ring is also the log of its streams) and give it back only when room is needed.
    """

    __slots__ = (
        "_epoch",
        "_generation",
        "_head",
        "_leases",
        "_mask",
        "_memory",
        "_misses",
        "_released",
        "_woken",
        "_words",
        "capacity",
    )

    def __init__(self, memory: memoryview) -> None:
        """Take the consuming end over at `released` (R11).

        `release(released)` once: the last one may have died before it told a producer that
        waits. Raises what `layout.check` raises.
        """
        self.capacity = layout.check(memory)
        self._mask = self.capacity - 1
        self._memory = memory
        self._words = memory[: DATA + self.capacity].cast("Q")
        self._epoch = self._words[W_CONSUMER_EPOCH]
        self._head = self._released = self._words[W_RELEASED]
        self._generation = self._words[W_SLEEPING]
        self._woken = 0  # a producer may be waiting since the last consumer's time
        self._misses = 0
        self._leases = 0

    def poll(self, limit: int = 256) -> list[Record]:
        """Return the next records, `limit` at most, oldest first; empty if there are none.

        Raises `RingCorrupt` if a record contradicts the contract, `Fenced` after a hand-over.
        """
        words = self._words
        position = self._head
        tail = words[W_TAIL]  # SYNC tail: pairs with Writer.publish
        if tail == position:
            return []
        if words[W_CONSUMER_EPOCH] != self._epoch:
            raise Fenced("another consumer has taken this ring over")
        if not position < tail <= self._released + self.capacity or tail & 7:
            raise self.corrupt(f"tail {tail} is impossible at head {position}")
        order()
        memory, mask, largest = self._memory, self._mask, layout.max_payload(self.capacity)
        last = DATA + self.capacity - HEADER
        records: list[Record] = []
        append = records.append
        while position < tail and limit > 0:
            start = DATA + (position & mask)
            size = words[start >> 3] - (position << 29 & SEQ_BITS)
            if not 0 <= size <= largest:  # R5: padding, or not (yet) the record of this position
                pad = self._padding(position, size, tail)
                if not pad:
                    break
                position += pad
                continue
            end = position + ((size + _ROUND) & -8)
            if end > tail or start + size > last:
                raise self.corrupt(f"record of {size} bytes at {position} is impossible")
            kind, flags, count, stream, a, b = _unpack_head(memory, start + COMMIT)
            start += HEADER
            append(Record(kind, flags, count, stream, a, b, memory[start : start + size], end))
            position = end
            limit -= 1
        if records:
            self._misses = 0
        words[W_HEAD] = self._head = position
        return records

    def _padding(self, position: int, size: int, tail: int) -> int:
        """Return how many bytes to skip at `position`; 0 if its commit word is missing."""
        if size >> 32:
            self._missing(position)
            return 0
        pad = size ^ PAD_BIT
        if pad != self.capacity - (position & self._mask) or position + pad > tail:
            raise self.corrupt(f"record of {size} bytes at {position} is impossible")
        return pad

    def _missing(self, position: int) -> None:
        self._misses += 1
        if self._misses > PATIENCE:
            raise self.corrupt(f"no record at {position}, although the producer has passed it")

    def corrupt(self, why: str) -> RingCorrupt:
        """Poison the ring, so that nobody attaches to it again, and return the error (R17)."""
        self._words[W_CONSUMER_POISON] = 1
        return RingCorrupt(why)

    def release(self, position: int) -> bool:
        """Give the bytes before `position` back; return whether the producer waits for them.

        Raises `RingError` while a lease is open or for a position where no record that was
        read ends, `Fenced` after a hand-over: a zombie must not give unread bytes away (R12).
        """
        if self._leases:
            raise RingError(f"{self._leases} leases are still open")
        if not self._released <= position <= self._head or position & 7:
            raise RingError(f"cannot release {position}: not in {self._released}..{self._head}")
        words = self._words
        if words[W_CONSUMER_EPOCH] != self._epoch:
            raise Fenced("another consumer has taken this ring over")
        order()
        words[W_RELEASED] = self._released = position
        fence()  # SYNC waiting: pairs with Writer.wait
        waiting: int = words[W_WAITING]
        if waiting != self._woken:
            self._woken = waiting
            return True
        return False

    @contextmanager
    def lease(self, record: Record) -> Iterator[memoryview]:
        """Hold a record's payload: `release` refuses until the lease ends."""
        self._leases += 1
        try:
            yield record.payload
        finally:
            self._leases -= 1

    def sleep(self) -> bool:
        """Say that the consumer sleeps; return False if a record came meanwhile (R9)."""
        self._generation = (self._generation + 1 | 1) & WORD
        self._words[W_SLEEPING] = self._generation
        fence()
        if self._words[W_TAIL] != self._head:
            self.wake()
            return False
        return True

    def wake(self) -> None:
        """Say that the consumer is awake again, so that nobody rings for nothing."""
        self._generation = (self._generation + 1) & (WORD - 1)
        self._words[W_SLEEPING] = self._generation

    def rewind(self, position: int) -> None:
        """Read again from `position`, which must not be released yet."""
        if not self._released <= position <= self._head or position & 7:
            raise RingError(f"cannot rewind to {position}: not in {self._released}..{self._head}")
        self._words[W_HEAD] = self._head = position

    def beat(self, value: int) -> None:
        """Store the consumer's heartbeat."""
        self._words[W_CONSUMER_BEAT] = value

    @property
    def epoch(self) -> int:
        """Which consumer this is."""
        return self._epoch

    @property
    def position(self) -> int:
        """The position after the last record read."""
        return self._head

    @property
    def released(self) -> int:
        """The position up to which bytes were given back."""
        return self._released

    @property
    def pending(self) -> int:
        """Published bytes that were not read yet."""
        tail: int = self._words[W_TAIL]
        return tail - self._head

    @property
    def free(self) -> int:
        """Bytes that the producer can still use."""
        tail: int = self._words[W_TAIL]
        return self.capacity - (tail - self._released)

    def close(self) -> None:
        """Give the views of the memory back, so that it can be unmapped."""
        self._words.release()


def hand_over(memory: memoryview, *, producer: bool = False, consumer: bool = False) -> None:
    """Raise the epoch of one side or both, fencing whoever held it (R12).

    Only once the old holder is dead or stopped: between its look at the epoch and its
    store nothing can hold it back.
    """
    with memory[:DATA].cast("Q") as words:
        if producer:
            words[W_PRODUCER_EPOCH] = (words[W_PRODUCER_EPOCH] + 1) & WORD
        if consumer:
            words[W_CONSUMER_EPOCH] = (words[W_CONSUMER_EPOCH] + 1) & WORD
