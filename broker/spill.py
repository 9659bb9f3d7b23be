"""Where tokens wait that a reader has not taken when the out-ring needs their room.

A ring whose two ends are both the broker's, in a segment that outlives it: so its successor
finds what a stalled or absent reader is still owed. What is old and still wanted is written
again at the end, so that the oldest bytes can be given back; a record may be found twice
after a death between the two, but it has its number.

The segment exists only while something waits. Where it is full, or shared memory is, tokens
wait on the broker's heap, and only those would be lost with it.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Protocol

import msgspec

from ringcast.broker.stream import Stream
from ringcast.shm import records
from ringcast.shm.ring import Reader, Record, Writer

LEAST: Final = 1 << 16


def capacity_for(budget: int) -> int:
    """Return a power of two: tokens take a quarter of the raw bytes they come from, or less."""
    return max(LEAST, 1 << (budget >> 2).bit_length() - 1)


class Store(Protocol):
    """The segment behind a spill: a `shm.reserve.Reserve`."""

    def find(self) -> memoryview | None:
        """Return the memory that a predecessor has left, if it has."""

    def make(self) -> memoryview | None:
        """Return new memory, null if there is no room for it."""

    def remove(self) -> None:
        """Remove the segment: nothing refers to it any more."""


class Spill:
    """Records of streams outside of the out-rings."""

    def __init__(self, store: Store) -> None:
        """Use `store` from the first record on."""
        self._store = store
        self._writer: Writer | None = None
        self._reader: Reader
        # What lies there, oldest first: its end, whose, and the record (null for a name).
        self._order: deque[tuple[int, Stream, Record | None]] = deque()
        self._named: set[int] = set()  # streams whose OPEN lies there
        self._full = False

    def left(self) -> list[Record]:
        """Return what a predecessor has left, names (OPEN) and TOKENS, in no order."""
        memory = self._store.find()
        if memory is None:
            return []
        self._attach(memory)
        return self._reader.poll(1 << 30)

    def adopt(self, stream: Stream, record: Record) -> None:
        """Take over one record that a predecessor has left, in their order."""
        name = record.kind == records.OPEN
        if name:
            self._named.add(stream.slot)
        self._order.append((record.end, stream, None if name else record))

    def keep(self, stream: Stream, record: Record) -> Record:
        """Return `record` with its payload outside of its ring."""
        kept = self._spilled(stream, record)
        if kept is None:
            return msgspec.structs.replace(record, payload=memoryview(bytes(record.payload)))
        self._order.append((kept.end, stream, kept))
        return kept

    def rest(self, *, empty: bool) -> None:
        """Look once in a while whether the segment has room again, or is needed at all."""
        self._full = False
        while self._order and not self._owed(*self._order[0][1:]):
            end, stream, record = self._order.popleft()
            if record is None:
                self._named.discard(stream.slot)
            self._reader.release(end)
        if empty and self._writer is not None:
            self._order.clear()
            self._named.clear()
            self._reader.close()
            self._writer.close()
            self._writer = None
            self._store.remove()

    def _attach(self, memory: memoryview) -> None:
        self._writer, self._reader = Writer(memory), Reader(memory)

    def _spilled(self, stream: Stream, record: Record) -> Record | None:
        if self._full:
            return None
        if self._writer is None:
            memory = self._store.make()
            if memory is None:
                self._full = True
                return None
            self._attach(memory)
        self._clean()
        if stream.slot not in self._named and not self._name(stream):
            return None
        return self._put(record)

    def _name(self, stream: Stream) -> bool:
        """Say whose the records are: the stream's own OPEN may have left its ring."""
        if not stream.opened:  # nobody has said it, so nobody will know
            return True
        opened = memoryview(stream.opened)
        record = Record(records.OPEN, records.WHOLE, 0, stream.slot, stream.opened_ns, 0, opened, 0)
        kept = self._put(record)
        if kept is None:
            return False
        self._named.add(stream.slot)
        self._order.append((kept.end, stream, None))
        return True

    def _put(self, record: Record) -> Record | None:
        writer = self._writer
        assert writer is not None
        kind, flags, count, slot, a, b, payload, _ = msgspec.structs.astuple(record)
        if len(payload) > writer.max_payload or not writer.append(
            kind, slot, a, b, payload, flags, count
        ):
            return None
        writer.publish()
        (kept,) = self._reader.poll()
        return kept

    def _clean(self) -> None:
        """Give old bytes back while less than a quarter is free, one look at each at most."""
        reader = self._reader
        for _ in range(len(self._order)):
            if reader.free >= reader.capacity >> 2:
                return
            end, stream, record = self._order[0]
            if not self._move(stream, record):
                self._full = True
                return
            self._order.popleft()
            reader.release(end)
        self._full = reader.free < reader.capacity >> 2

    def _owed(self, stream: Stream, record: Record | None) -> bool:
        return bool(stream.heaped) if record is None else stream.owes(record)

    def _move(self, stream: Stream, record: Record | None) -> bool:
        """Write again what is still wanted; return False if there is no room for it."""
        if record is None:
            self._named.discard(stream.slot)
        if not self._owed(stream, record):
            return True
        if record is None:
            return self._name(stream)
        moved = self._put(record)
        if moved is None:
            return False
        # The stream holds this very record among its entries: it must see the new place.
        msgspec.structs.force_setattr(record, "payload", moved.payload)
        self._order.append((moved.end, stream, record))
        return True
