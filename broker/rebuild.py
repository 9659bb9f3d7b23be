"""How a new broker gets to know what its predecessor knew. Pure: no socket, no clock.

The out-rings still hold what was not released; a stream that is met there for the first time
begins, for the new broker, at the number it is met with. Every worker announces its live
streams once more, its START closing the list, and every provider process reports what it has
under way. When all have spoken the index is whole, and clients may come in again.

Lost is only what the predecessor had on its heap: tokens that a stalled reader had not taken
when the ring needed their room. Whoever asks for them is told `offset_gone`.
"""

from __future__ import annotations

from collections.abc import Callable

from ringcast.broker.log import Log
from ringcast.broker.session import Sessions
from ringcast.broker.stream import Stream
from ringcast.providers.commands import Live
from ringcast.shm import records
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
        if log.worker not in self._workers or record.kind == records.AGAIN:
            return None
        stream = self._add(record.stream, log.worker)
        if record.kind == records.TOKENS:  # what was before has left the ring
            stream.end = stream.processed = record.a
        return stream

    def _add(self, slot: int, worker: int) -> Stream:
        stream = self._sessions.streams[slot] = self._make(slot, worker)
        self.last_slot = max(self.last_slot, slot)
        return stream

    def report(self, index: int, live: list[Live], now_ns: int) -> None:
        """Take in what provider process `index` has under way."""
        self._providers.discard(index)
        for one in live:
            stream = self._sessions.streams.get(one.slot) or self._add(one.slot, one.worker)
            if not stream.id:
                stream.id, stream.provider, stream.model = one.stream, one.provider, one.model
                self._sessions.by_id[stream.id] = stream
            stream.window.told = max(stream.window.told, one.limit)
            stream.again_ns = now_ns  # an earlier end was not this connection's

    def nameless(self) -> list[Stream]:
        """Return the streams that nobody can name any more, and forget them."""
        streams = self._sessions.streams
        left = [s for s in streams.values() if not s.id and s.worker not in self._workers]
        for stream in left:
            del streams[stream.slot]
            stream.abandoned = True
        return left
