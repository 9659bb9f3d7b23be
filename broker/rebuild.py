"""How a new broker gets to know what its predecessor knew. Pure: no socket, no clock.

The out-rings still hold what was not released; a stream that is met there for the first time
begins, for the new broker, at the number it is met with. Every worker announces its live
streams once more, its START closing the list, and every provider process reports what it has
under way. When all have spoken the index is whole, and clients may come in again.

What a stalled reader had not taken when the ring needed the room lies in the spill, and how
far the readers were in the ledger. Lost is only what found no place in the spill; whoever
asks for it is told `offset_gone`.
"""

from __future__ import annotations

from collections.abc import Callable

from ringcast.broker.log import Log
from ringcast.broker.session import Sessions
from ringcast.broker.spill import Spill
from ringcast.broker.stream import Again, Stream
from ringcast.providers.commands import Live
from ringcast.shm import records
from ringcast.shm.ledger import NOBODY
from ringcast.shm.ring import Record


class Rebuild:
    """The index of `sessions` while it is put together."""

    def __init__(self, sessions: Sessions, providers: int, make: Callable[[int, int], Stream]):
        """`make` gives a nameless stream for a slot and its worker."""
        self._sessions = sessions
        self._make = make
        self._workers = {log.worker for log in sessions.logs}  # of whom no START was read
        self._providers = set(range(providers))  # who have not reported
        self.last_slot = 0
        self._lost: dict[int, int] = {}  # what no worker knows either: slot, and when it said so
        self._over: dict[int, Live] = {}  # what has ended, and may be sent again
        self.orphans: list[Stream] = []  # met too late for anybody to know of them
        sessions.strange = self._strange

    @property
    def complete(self) -> bool:
        """Whether everybody has spoken."""
        return not self._workers and not self._providers

    @property
    def silent(self) -> set[int]:
        """The provider processes that have not reported."""
        return self._providers

    def _strange(self, log: Log, record: Record) -> Stream | None:
        """Take in a record of a stream that is not known."""
        if record.kind == records.START:
            if record.b == log.reader.epoch:
                self._workers.discard(log.worker)
            return None
        if record.kind == records.OPEN and record.flags & records.TERMINAL:
            return None  # all that it said has left the ring
        if record.kind == records.AGAIN and not record.flags & records.UNSAID:
            if record.flags & records.TERMINAL:
                self._lost[record.stream] = record.a
            return None
        if self.complete and record.kind != records.OPEN:
            return None
        stream = self._add(record.stream, log.worker)
        if (over := self._over.get(stream.slot)) is not None:
            self._name(stream, over)
        if self.complete:  # its provider process wrote this and died before it could report
            self.orphans.append(stream)
        if record.kind == records.TOKENS:  # what was before has left the ring
            stream.end = record.a
            stream.processed = max(stream.processed, record.a)
        return stream

    def _add(self, slot: int, worker: int) -> Stream:
        stream = self._sessions.streams[slot] = self._make(slot, worker)
        stream.processed = self._sessions.ledger.find(slot)
        stream.abandoned = stream.processed == NOBODY
        self.last_slot = max(self.last_slot, slot)
        return stream

    def report(self, index: int, live: list[Live], now_ns: int) -> None:
        """Take in what provider process `index` has under way."""
        self._providers.discard(index)
        for one in live:
            known = self._sessions.streams.get(one.slot)
            if one.over:  # what its worker said of it is in the ring, or was dealt with
                self._over[one.slot] = one
                if known is not None:
                    self._name(known, one)
                continue
            stream = known or self._add(one.slot, one.worker)
            self._name(stream, one)
            if stream.window.told > one.limit:  # granted before the process was there to hear it
                self._sessions.granted.append(stream)
            stream.window.told = max(stream.window.told, one.limit)
            stream.again_ns = max(stream.again_ns, now_ns)  # an earlier end was not this one's
            if one.slot in self._lost and not stream.terminal:
                lost = Again(stream, True, None, 0, self._lost.pop(one.slot))
                self._sessions.again.append(lost)
        slots = {one.slot for one in live if not one.over}
        again = self._sessions.again
        again[:] = [a for a in again if a.lost or a.stream.slot not in slots or a.ended_ns > now_ns]

    def _name(self, stream: Stream, live: Live) -> None:
        if not stream.id:
            stream.id, stream.provider, stream.model = live.stream, live.provider, live.model
            self._sessions.by_id[stream.id] = stream

    def spilled(self, spill: Spill, workers: int) -> None:
        """Take in what the predecessor had moved out of the rings; before anything else."""
        found: dict[int, dict[int, Record]] = {}
        for record in spill.left():
            slot = record.stream
            stream = self._sessions.streams.get(slot) or self._add(slot, slot % workers)
            spill.adopt(stream, record)
            if record.kind == records.OPEN:
                self._sessions.opened(stream, record)
            else:
                found.setdefault(slot, {})[record.a] = record
        for slot, kept in found.items():
            self._owe(self._sessions.streams[slot], [kept[number] for number in sorted(kept)])

    def _owe(self, stream: Stream, kept: list[Record]) -> None:
        """Let a stream begin with the last run of records that has no gap."""
        stream.end = kept[0].a
        for record in kept:
            if record.a != stream.end:
                stream.entries.clear()
            stream.entries.append(record)
            stream.end = record.a + record.count
        stream.heaped = len(stream.entries)
        stream.processed, stream.raw = max(stream.processed, stream.first), kept[-1].b
        stream.trim()
        if kept[-1].flags & records.TERMINAL:
            self._sessions.end(stream)

    def nameless(self) -> list[Stream]:
        """Return the streams that nobody can name any more, and forget them."""
        streams = self._sessions.streams
        left = [s for s in streams.values() if not s.id and s.worker not in self._workers]
        for stream in left:
            del streams[stream.slot]
            stream.abandoned = True
        return left
