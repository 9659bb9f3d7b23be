"""The out-rings: reads what the workers say, in turns, and gives the room back that is not needed.

A ring that cannot be believed is condemned: nothing more of it is read, and its worker finds
itself fenced when it next publishes. The supervisor then makes another ring, and the worker's
successor asks where its streams are; by that we know to look for the other ring.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from ringcast.broker.log import Log
from ringcast.broker.session import Sessions
from ringcast.broker.stream import Stream
from ringcast.errors import Code, Fenced, RingCorrupt
from ringcast.shm import segment
from ringcast.shm.ring import Reader, Record, hand_over
from ringcast.shm.tokens import Error
from ringcast.shm.wiring import Line

POLL: Final = 256  # records a turn


class Intake:
    """All out-rings, each with its log."""

    def __init__(
        self,
        lines: Sequence[Line],
        keep: Callable[[Stream, Record], Record],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """Attach to the rings; `keep` moves a record out of one."""
        self._lines = lines
        self._keep = keep
        self._loop = loop
        self._segments = [segment.attach(line.name) for line in lines]
        self._readers = [Reader(one.memory) for one in self._segments]
        self._condemned: set[int] = set()  # rings that are not read any more
        self.logs = [Log(reader, worker, keep) for worker, reader in enumerate(self._readers)]

    def start(self, sessions: Sessions, follow_up: Callable[[], None]) -> None:
        """Read into `sessions`; `follow_up` is called after each turn."""
        self._sessions = sessions
        self._follow_up = follow_up
        for number, (line, reader) in enumerate(zip(self._lines, self._readers, strict=True)):
            reader.release(reader.released)
            self._loop.add_reader(line.bell.fileno(), self._on_bell, number)
            self._loop.call_soon(self.drain, number)
            line.room.ring()  # a predecessor may have died before it did, or we are new to it

    def _on_bell(self, number: int) -> None:
        self._lines[number].bell.clear()
        self.drain(number)

    def drain(self, number: int) -> None:
        """Read what a ring has, a turn's worth at a time, then sleep on its doorbell."""
        if number in self._condemned:
            return
        reader, sessions = self._readers[number], self._sessions
        reader.wake()
        try:
            batch = reader.poll(POLL)
            if batch:
                sessions.ingest(sessions.logs[number], batch)
                self._make_room(number)
        except (RingCorrupt, Fenced, msgspec.DecodeError, UnicodeDecodeError) as error:
            self._condemn(number, str(error))
            return
        if batch:
            self._follow_up()
        if len(batch) == POLL or not reader.sleep():
            self._loop.call_soon(self.drain, number)

    def _make_room(self, number: int) -> None:
        if self._sessions.make_room(self._sessions.logs[number]):
            self._lines[number].room.ring()

    def look(self) -> None:
        """Read what nobody rang for: wake-ups may be lost (layout, R9)."""
        for number, reader in enumerate(self._readers):
            if reader.pending:
                self.drain(number)

    def hand_over(self, number: int) -> None:
        """Read all that a worker has said that is replaced, then attach to another ring, if any."""
        while number not in self._condemned and self._readers[number].pending:
            self.drain(number)
        self._look_again(number)

    def _look_again(self, number: int) -> None:
        fresh = segment.attach(self._lines[number].name)
        if fresh.inode == self._segments[number].inode:
            fresh.close()
            return
        if number not in self._condemned:
            self._condemn(number, "another ring is in its place")
        self._segments[number], self._readers[number] = fresh, Reader(fresh.memory)
        self._sessions.renew(Log(self._readers[number], number, self._keep))
        self._condemned.discard(number)
        self._loop.call_soon(self.drain, number)

    def _condemn(self, number: int, why: str) -> None:
        """Believe nothing more that a ring says, and have its worker replaced."""
        self._condemned.add(number)
        print(f"ringcast: out-ring of worker {number}: {why}", file=sys.stderr)
        self._readers[number].corrupt(why)
        hand_over(self._segments[number].memory, producer=True)
        text = "shared memory was written over, and what came from it cannot be believed"
        self._sessions.condemn(number, Error(Code.RING_CORRUPT, text, retryable=True))
        self._follow_up()
