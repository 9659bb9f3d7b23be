"""The log of one out-ring: whose bytes lie where, and whose turn it is to give them up."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec

from ringcast.broker.stream import Stream
from ringcast.shm.layout import HEADER
from ringcast.shm.ring import Reader, Record


class Log:
    """The streams of one out-ring, in the order in which their bytes lie there."""

    def __init__(
        self,
        reader: Reader,
        worker: int = 0,
        keep: Callable[[Stream, Record], Record] | None = None,
    ) -> None:
        """Index what `reader` reads from now on; `worker` writes it.

        `keep` moves a record out of the ring, to the heap by default.
        """
        self.reader = reader
        self.worker = worker
        self.moved = 0  # records that were moved out of the ring
        self._keep = keep or _on_heap
        self._order: deque[tuple[int, Stream | None]] = deque()
        self._held: dict[int, int] = {}  # by stream: where a payload in fragments begins

    def keep(self, stream: Stream, record: Record) -> None:
        """Index one record of `stream`."""
        stream.entries.append(record)
        self._order.append((record.end, stream))

    def skip(self, position: int) -> None:
        """Note that everything else before `position` may be released."""
        self._order.append((position, None))

    def hold(self, record: Record) -> None:
        """Keep a payload's fragments in the ring until its last one: a new broker needs them."""
        begin = record.end - (HEADER + len(record.payload) + 7 & -8)
        self._held[record.stream] = begin
        self.skip(begin)

    def let_go(self, slot: int) -> None:
        """The payload is complete, and is indexed under its last fragment."""
        self._held.pop(slot, None)

    @property
    def end(self) -> int:
        """The position up to which the ring is indexed."""
        return self._order[-1][0] if self._order else self.reader.released

    def make_room(self) -> tuple[bool, list[Stream]]:
        """Release old records while less than a quarter of the ring is free.

        Returns whether the producer waits for room, and the streams that lost records.
        """
        reader = self.reader
        capacity = reader.capacity
        if reader.free >= capacity >> 2:
            return False, []
        target = reader.position + reader.pending - (capacity >> 1) - (capacity >> 3)
        order, touched, position = self._order, {}, reader.released
        limit = self._oldest_held()
        while order and order[0][0] <= limit and (position < target or order[0][1] is None):
            position, stream = order.popleft()
            if stream is not None:
                self._give_up_oldest(stream)
                touched[stream.slot] = stream
        return reader.release(min(position, reader.position)), list(touched.values())

    def _oldest_held(self) -> int:
        """Where release must stop: a payload may hold half of the ring at most."""
        position = self.reader.position
        for slot, begin in list(self._held.items()):
            if position - begin > self.reader.capacity >> 1:
                del self._held[slot]
        return min([position, *self._held.values()])

    def _give_up_oldest(self, stream: Stream) -> None:
        """Take a stream's oldest record out of the ring, elsewhere if it is wanted."""
        index = stream.heaped
        record = stream.entries[index]
        if index or stream.wanted(record):
            stream.entries[index] = self._keep(stream, record)
            stream.heaped += 1
            self.moved += 1
        else:
            stream.entries.popleft()


def _on_heap(stream: Stream, record: Record) -> Record:
    return msgspec.structs.replace(record, payload=memoryview(bytes(record.payload)))
