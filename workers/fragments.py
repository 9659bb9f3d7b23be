"""Events too large for one record, while their fragments come in; and the input they hold.

1. An event's fragments are joined in memory, so that other streams' records between them are
   dealt with at once. But it is not dealt with itself: a successor has to read it again, so input
   is not released beyond the beginning of an event that is incomplete.
2. One that takes more than half of its ring holds nothing any more, or its producer would have no
   room for the rest. If the worker dies then, its beginning is lost.
"""

from __future__ import annotations

from ringcast.shm import records
from ringcast.shm.layout import HEADER
from ringcast.shm.ring import Reader, Record


class Hold:
    """Where unfinished events begin in one in-ring."""

    def __init__(self) -> None:
        self._begins: dict[int, int] = {}

    def __len__(self) -> int:
        """Count the events that hold input."""
        return len(self._begins)

    def begin(self, record: Record) -> None:
        """Hold the input from a record on."""
        stride = HEADER + len(record.payload) + 7 & -8
        self._begins[record.stream] = record.end - stride

    def let_go(self, slot: int) -> None:
        """Hold nothing more for a stream."""
        self._begins.pop(slot, None)

    def limit(self, reader: Reader, position: int) -> int:
        """Return how far input may be released of which all before `position` was read."""
        begins = self._begins
        if not begins:
            return position
        for slot, begin in list(begins.items()):
            if position - begin > reader.capacity >> 1:
                del begins[slot]
        return max(min([position, *begins.values()]), reader.released)


class Fragments:
    """The beginnings of events, by their stream, whichever in-ring they come from."""

    def __init__(self, holds: list[Hold]) -> None:
        """`holds` are those of the in-rings, in their order."""
        self._holds = holds
        self._parts: dict[int, bytearray] = {}

    def __len__(self) -> int:
        """Count the events that are incomplete."""
        return len(self._parts)

    def __contains__(self, slot: int) -> bool:
        """Say whether an event of a stream has begun."""
        return slot in self._parts

    def add(self, index: int, record: Record) -> bytes | None:
        """Take a fragment from in-ring `index`; return the event if it was the last of it.

        Raises `KeyError` if the event's beginning was never here.
        """
        slot, flags = record.stream, record.flags
        if flags & records.BEGIN:
            self._parts[slot] = bytearray()
            self._holds[index].begin(record)
        self._parts[slot] += record.payload
        if not flags & records.LAST:
            return None
        self._holds[index].let_go(slot)
        return bytes(self._parts.pop(slot))

    def drop(self, slot: int) -> None:
        """Forget what there is of a stream's event: nobody wants it, or it comes again."""
        self._parts.pop(slot, None)
        for hold in self._holds:
            hold.let_go(slot)
