"""The log of one out-ring: whose bytes lie where, and whose turn it is to give them up."""

from __future__ import annotations

from collections import deque

import msgspec

from ringcast.broker.stream import Stream
from ringcast.shm.ring import Reader, Record


class Log:
    """The streams of one out-ring, in the order in which their bytes lie there."""

    def __init__(self, reader: Reader) -> None:
        """Index what `reader` reads from now on."""
        self.reader = reader
        self.moved = 0  # records that were moved to the heap
        self._order: deque[tuple[int, Stream | None]] = deque()

    def keep(self, stream: Stream, record: Record) -> None:
        """Index one record of `stream`."""
        stream.entries.append(record)
        self._order.append((record.end, stream))

    def skip(self, position: int) -> None:
        """Note that everything else before `position` may be released."""
        self._order.append((position, None))

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
        while order and (order[0][0] <= target or order[0][1] is None):
            position, stream = order.popleft()
            if stream is not None:
                self._give_up_oldest(stream)
                touched[stream.slot] = stream
        return reader.release(min(position, reader.position)), list(touched.values())

    def _give_up_oldest(self, stream: Stream) -> None:
        """Take a stream's oldest record out of the ring: to the heap if it is wanted."""
        index = stream.heaped
        record = stream.entries[index]
        if index or stream.wanted(record):
            stream.entries[index] = _on_heap(record)
            stream.heaped += 1
            self.moved += 1
        else:
            stream.entries.popleft()


def _on_heap(record: Record) -> Record:
    return msgspec.structs.replace(record, payload=memoryview(bytes(record.payload)))
