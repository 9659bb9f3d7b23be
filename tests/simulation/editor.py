"""A client of the simulation: a connection, and somebody who reads, stalls and leaves."""

from __future__ import annotations

import random
from typing import Any

import msgspec

from ringcast.broker import protocol
from ringcast.broker.client_stream import ClientStream
from ringcast.broker.connection import Connection
from ringcast.broker.inbox import Inbox
from ringcast.errors import Code, RequestError
from ringcast.shm.tokens import Done, Error

from .ledger import Deaths, Entry, Violation
from .link import Link
from .loop import Loop

HEARTBEAT_S = 0.1
_MESSAGES = [{"role": "user", "content": "go"}]
_GONE = (Code.SLOW_CONSUMER, Code.OFFSET_GONE)


class Reading:
    """One reader of one stream."""

    def __init__(self, entry: Entry, stream: ClientStream, inbox: Inbox, opens: bool) -> None:
        self.entry = entry
        self.stream = stream
        self.inbox = inbox
        self.opens = opens
        self.over = False
        self.waits = False  # it has taken all there was

    @property
    def is_idle(self) -> bool:
        """Whether nothing has come since it last waited."""
        inbox = self.inbox
        return self.waits and not (inbox.batches or inbox.ended or inbox.failure)


class Editor:
    """One client process."""

    def __init__(self, name: bytes, loop: Loop, deaths: Deaths) -> None:
        """To be told HELLO once it runs in its loop: `greet`."""
        self.loop = loop
        self.deaths = deaths
        self.link = Link(name, "client.sock")
        self.readings: list[Reading] = []
        self.stalled = False
        self.dead = False
        connection = self.connection = Connection("editor", loop)  # type: ignore[arg-type]
        self.link.on_messages = connection.on_messages
        self.link.on_connected = lambda: connection.on_connected([([], b"")])

    def greet(self) -> None:
        """Say HELLO and keep alive."""
        self.connection.start(self.link)  # type: ignore[arg-type]

    def step(self, draw: random.Random) -> bool:
        """Hear some messages, make a turn, read a little."""
        if self.stalled or self.dead:
            return False
        moved = self.link.hear(draw.randint(1, 4))
        moved |= self.loop.turn()
        for reading in self.readings:
            if not reading.over and draw.random() < 0.7:
                moved |= self._read(reading, draw.choice((1, 5, 99)))
        return moved

    def settle(self) -> bool:
        """Hear and read all there is."""
        if self.dead:
            return False
        moved = self.link.hear(1 << 20) | self.loop.turn()
        for reading in self.readings:
            if not (reading.over or reading.is_idle):
                moved |= self._read(reading, 1 << 20)
        return moved

    @property
    def is_welcome(self) -> bool:
        """Whether a broker has ever answered it: nothing is asked before."""
        return bool(self.connection.daemon)

    @property
    def open_handles(self) -> list[Reading]:
        """Readers that have not come to their end."""
        return [reading for reading in self.readings if not reading.over]

    # what a user does: as `Client._open`, `attach`, without waiting for the answer

    def open(self, entry: Entry, window: int, identity: bytes) -> None:
        """Start a stream."""
        request = {"model": f"local/{entry.answer.name}", "messages": _MESSAGES}
        entry.id = identity
        raw = msgspec.Raw(protocol.encode(request))
        inbox = Inbox(self.connection.exchange.number(), -1, window)
        self._ask(entry, inbox, protocol.Open(inbox.handle, raw, window, entry.id), True)

    def attach(self, entry: Entry, after: int, window: int) -> None:
        """Read a stream from behind token `after`."""
        entry.acked = max(entry.acked, after + 1)
        inbox = Inbox(self.connection.exchange.number(), after, window)
        frame = protocol.Attach(inbox.handle, entry.id, after, window)
        self._ask(entry, inbox, frame, False)

    def _ask(self, entry: Entry, inbox: Inbox, frame: Any, opens: bool) -> None:
        stream = ClientStream(self.connection.exchange, inbox)
        self.readings.append(Reading(entry, stream, inbox, opens))
        self.connection.exchange.request(inbox, frame)

    def cancel(self, reading: Reading) -> None:
        """End its stream for everybody."""
        if reading.stream.id:
            reading.entry.cancelled = True
            _ran(reading.stream.cancel())

    def detach(self, reading: Reading) -> None:
        """Stop reading; the rest is somebody else's."""
        reading.over = True
        reading.entry.leave()
        _ran(reading.stream.detach())

    def die(self) -> None:
        """The process is gone."""
        self.dead = True
        self.link.close()
        self.loop.die()
        for reading in self.open_handles:
            reading.entry.leave()

    def _read(self, reading: Reading, most: int) -> bool:
        """Take up to `most` tokens. Raises `Violation`."""
        stream, inbox, entry = reading.stream, reading.inbox, reading.entry
        moved = within = reading.waits = False
        for _ in range(most):
            within = True
            step = stream.__anext__()
            try:
                step.send(None)
            except StopIteration as taken:
                entry.see(stream.seq, taken.value)
                moved = True
                if isinstance(taken.value, Done | Error) and inbox.batches:
                    raise Violation(f"{entry.answer.name}: more after the end") from None
                continue
            except StopAsyncIteration:
                reading.over = True
                moved = True
            except RequestError as error:
                self._cut(reading, error)
                moved = True
            else:
                step.close()
                reading.waits = True
            within = False
            break
        # It gives credit when it asks for another batch, for all before that.
        entry.acked = max(entry.acked, stream.seq + 1 - within * stream._index)
        if inbox.ended and not inbox.batches:
            entry.acked = max(entry.acked, inbox.next)
        return moved

    def _cut(self, reading: Reading, error: RequestError) -> None:
        """The reader was refused, or cut off. Raises `Violation` if it should not have been."""
        entry, inbox = reading.entry, reading.inbox
        reading.over = True
        refused = not inbox.id
        number = inbox.next
        if error.code in _GONE and entry.is_lost(number):
            return
        if error.code == Code.UNKNOWN_STREAM and refused:
            return  # it was asked for too early, or too late
        if error.code == Code.INTERRUPTED and refused and reading.opens and self.deaths.provider:
            entry.cancelled = True  # there was never such a stream
            return
        raise Violation(f"{entry.answer.name}: reader at {number}: {error.code}: {error.message}")


def _ran(coroutine: Any) -> None:
    """Run a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise Violation("it waits")
