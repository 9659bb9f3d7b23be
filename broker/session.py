"""Streams, their log in the out-ring, and who reads them. Pure: no socket, no clock.

Theory. A worker's out-ring is also the log of its streams. The broker reads a record once,
indexes it under its stream, and passes its payload on to every subscription that has
credit; it gives the bytes back only when the ring runs short of room (`make_room`).

* A stream has subscriptions. The first of them is its *paying reader*: what it has
  processed moves the stream's window, and thereby the provider. When it leaves, the next
  one pays, from where that one is.
* What the paying reader has not processed yet (at most the window) is never lost: when its
  bytes are needed, it moves to the broker's heap. This also holds while nobody reads, so
  that a client can come back for it during the lease.
* Other readers are served from what is left; one that falls behind it is cut off with
  `slow_consumer` and the position to attach at. An attach behind it is `offset_gone`.
* A stream ends with its terminal record; later records for it are ignored. It is forgotten
  when it has ended, nobody reads it, and its bytes were needed.
"""

from __future__ import annotations

from collections import deque

import msgspec

from ringcast.broker import protocol
from ringcast.broker.credit import Window
from ringcast.errors import Code, RequestError
from ringcast.providers.commands import Adopted, Start
from ringcast.shm import records
from ringcast.shm.records import decode_open, is_whole
from ringcast.shm.ring import Reader, Record
from ringcast.shm.tokens import Error, decoder, encoder


class Client:
    """One connected client: its outbox of runs that wait for the end of the turn."""

    __slots__ = ("heard", "name", "parts", "pid", "route", "runs", "size", "subscriptions")

    def __init__(self, route: bytes, name: str, pid: int) -> None:
        """`route` is the ROUTER's name for the connection."""
        self.route = route
        self.name = name
        self.pid = pid
        self.heard = 0.0
        self.subscriptions: dict[int, Subscription] = {}
        self.parts: list[bytes] = []
        self.runs = 0
        self.size = 0

    def frame(self) -> bytes:
        """Return all waiting runs as one TOKENS frame and empty the outbox."""
        frame = protocol.tokens_frame(self.runs, self.parts)
        self.parts = []
        self.runs = self.size = 0
        return frame


class Subscription:
    """One reader of one stream. `next` is the number of the token it gets next."""

    __slots__ = (
        "acked",
        "client",
        "flight",
        "handle",
        "next",
        "outstanding",
        "prefix",
        "raw",
        "stream",
        "window",
    )

    def __init__(
        self, client: Client, handle: int, stream: Stream, start: int, window: int
    ) -> None:
        """Read `stream` from token `start` with `window` bytes under way at most."""
        self.client = client
        self.handle = handle
        self.stream = stream
        self.next = self.acked = start
        self.raw = 0  # the byte of the body up to which it is done
        self.window = window
        self.outstanding = 0
        self.flight: deque[tuple[int, int, int]] = deque()  # end, bytes, raw position
        self.prefix = b"\x93" + protocol.encode(handle)

    def push(self, record: Record) -> None:
        """Put a record's tokens into the client's outbox and count them as under way."""
        payload = bytes(record.payload)
        size = len(payload)
        client = self.client
        client.parts += (self.prefix, protocol.encode(record.a), payload)
        client.runs += 1
        client.size += size
        self.next = end = record.a + record.count
        self.outstanding += size
        self.flight.append((end, size, record.b))

    def processed(self, number: int) -> None:
        """Take an acknowledgement of all tokens below `number`.

        Raises `RequestError` if tokens are acknowledged that were never sent.
        """
        if number > self.next or number < 0:
            raise RequestError(Code.BAD_CREDIT, f"credit for token {number}, sent were {self.next}")
        if number > self.acked:
            self.acked = number
        flight = self.flight
        while flight and flight[0][0] <= number:
            _, size, self.raw = flight.popleft()
            self.outstanding -= size


class Stream:
    """One stream: where it comes from, what is kept of it, who reads it."""

    __slots__ = (
        "abandoned",
        "again_ns",
        "api",
        "attempts",
        "base",
        "cancelled",
        "end",
        "entries",
        "failed",
        "heaped",
        "id",
        "model",
        "opened_ns",
        "paid",
        "partial",
        "process",
        "processed",
        "provider",
        "raw",
        "slot",
        "start",
        "state",
        "subscriptions",
        "terminal",
        "window",
        "worker",
    )

    def __init__(
        self,
        slot: int,
        stream_id: bytes,
        provider: str,
        model: str,
        process: int,
        worker: int,
        window: Window,
    ) -> None:
        """`process` and `worker` are the indexes of the two that carry it."""
        self.slot = slot
        self.id = stream_id
        self.provider = provider
        self.model = model
        self.process = process
        self.worker = worker
        self.window = window
        self.subscriptions: list[Subscription] = []
        self.entries: deque[Record] = deque()
        self.heaped = 0  # how many entries at the left have left the ring
        self.end = 0  # the number after the last token
        self.raw = 0  # bytes of the body that have been decoded
        self.processed = 0  # tokens that the paying reader is done with
        self.paid = 0  # bytes of the body that these came from
        self.terminal = False
        self.failed = False  # ended by the broker: its provider still knows nothing of it
        self.abandoned = False
        self.partial = bytearray()
        # For a successor of the provider process: what may be sent again while no token of it
        # is visible.
        self.start: Start | None = None
        self.attempts = 1
        self.again_ns = 0
        self.cancelled = False
        # For a successor of the worker: what it says of the stream with its last record.
        self.api = ""  # the wire decoder, once the worker knows the stream
        self.opened_ns = 0
        self.base = (0, 0)  # the next token's number, and raw bytes dealt with
        self.state = b""

    @property
    def first(self) -> int:
        """The number of the oldest token kept."""
        return self.entries[0].a if self.entries else self.end

    @property
    def phase(self) -> str:
        """What `ringcast ps` shows."""
        if self.terminal:
            return "ended"
        return "streaming" if self.end else "starting"

    def wanted(self, record: Record) -> bool:
        """Say whether the paying reader still needs a record."""
        return not self.abandoned and record.a + record.count > self.processed

    def trim(self) -> None:
        """Drop what is on the heap and no longer wanted."""
        while self.heaped and not self.wanted(self.entries[0]):
            self.entries.popleft()
            self.heaped -= 1


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


def _note(stream: Stream, record: Record) -> None:
    """Keep what a successor of the worker needs; the broker itself does not."""
    if record.kind == records.OPEN:
        stream.api, stream.opened_ns = decode_open(record.payload).api, record.a
        stream.base, stream.state = (0, 0), b""  # it may be a second attempt
        stream.raw = stream.paid = 0
    elif record.kind == records.CHECKPOINT:
        stream.state = bytes(record.payload)
        stream.base = record.a, record.b


def _behind(record: Record, number: int) -> Record:
    """Return what a record holds from token `number` on."""
    rest = decoder.decode(record.payload)[number - record.a :]
    payload = memoryview(encoder.encode(rest))
    return msgspec.structs.replace(record, a=number, count=len(rest), payload=payload)


def _on_heap(record: Record) -> Record:
    return msgspec.structs.replace(record, payload=memoryview(bytes(record.payload)))


class Sessions:
    """All streams and clients of the daemon."""

    def __init__(self, logs: list[Log]) -> None:
        """`logs` has one log for each worker."""
        self.logs = logs
        self.streams: dict[int, Stream] = {}
        self.by_id: dict[bytes, Stream] = {}
        self.clients: dict[bytes, Client] = {}
        self.dirty: dict[bytes, Client] = {}  # clients with something in their outbox
        self.ended: list[Stream] = []  # streams whose terminal record was just read
        self.behind: list[Subscription] = []  # readers whose next token is gone
        self.granted: list[Stream] = []  # streams whose provider is to be told a new limit
        self.again: list[Stream] = []  # streams whose request may be sent once more
        self.tokens = 0

    def add(self, stream: Stream) -> None:
        """Make a stream known."""
        self.streams[stream.slot] = stream
        self.by_id[stream.id] = stream

    def ingest(self, log: Log, batch: list[Record]) -> None:
        """Index a batch of records and pass each on to whoever has credit for it."""
        streams, dirty, kind = self.streams, self.dirty, records.TOKENS
        for record in batch:
            stream = streams.get(record.stream)
            if stream is None or stream.terminal:
                continue
            if not is_whole(record.flags):
                whole = self._join(stream, record)
                if whole is None:
                    log.skip(record.end)  # it is on the heap until the rest comes
                    continue
                record = whole
            if record.kind != kind:
                if record.kind == records.AGAIN and record.a > stream.again_ns:
                    stream.again_ns = record.a
                    self.again.append(stream)
                _note(stream, record)
                continue
            stream.raw = record.b
            if not record.flags & records.MORE:
                stream.base = record.a + record.count, record.b
            if not record.count:  # bytes that made no token
                self._settle(stream)
                continue
            if record.a < stream.end:  # a successor of the worker says again what it must
                if record.a + record.count <= stream.end:
                    continue
                record = _behind(record, stream.end)
            log.keep(stream, record)
            self.tokens += record.count
            self._deliver(stream, record, dirty)
        log.skip(batch[-1].end)

    def _deliver(self, stream: Stream, record: Record, dirty: dict[bytes, Client]) -> None:
        first = record.a
        stream.end = first + record.count
        stream.start = None
        if record.flags & records.TERMINAL:
            stream.terminal = True
            self.ended.append(stream)
        for subscription in stream.subscriptions:
            if subscription.next == first and subscription.outstanding < subscription.window:
                subscription.push(record)
                client = subscription.client
                dirty[client.route] = client

    def _settle(self, stream: Stream) -> None:
        """Count what the paying reader is done with, and grant as much again."""
        if stream.subscriptions:
            payer = stream.subscriptions[0]
            if payer.acked > stream.processed:
                stream.processed, stream.paid = payer.acked, payer.raw
                if stream.heaped:
                    stream.trim()
                    self._leave_behind(stream)
        # Who is done with all tokens is done with the silent bytes behind them as well.
        raw = stream.raw if stream.processed == stream.end else stream.paid
        if not stream.terminal and stream.window.processed(raw):
            self.granted.append(stream)

    def of_worker(self, worker: int) -> list[Adopted]:
        """Return where a worker's live streams are, for the one that stands in for it."""
        return [
            Adopted(s.slot, s.api, s.opened_ns, *s.base, s.state)
            for s in self.streams.values()
            if s.worker == worker and s.api and not s.terminal
        ]

    def _join(self, stream: Stream, record: Record) -> Record | None:
        if record.flags & records.BEGIN:
            stream.partial.clear()
        stream.partial += record.payload
        if not record.flags & records.LAST:
            return None
        payload = memoryview(bytes(stream.partial))
        stream.partial = bytearray()
        return msgspec.structs.replace(record, payload=payload)

    def fail(self, stream: Stream, error: Error) -> None:
        """End a stream from the broker's side, behind everything it has said so far."""
        if stream.terminal:
            return
        stream.failed = True
        payload = memoryview(encoder.encode([error]))
        flags = records.WHOLE | records.TERMINAL
        log = self.logs[stream.worker]
        number, slot = stream.end, stream.slot
        record = Record(records.TOKENS, flags, 1, slot, number, stream.raw, payload, log.end)
        log.keep(stream, record)
        self._deliver(stream, record, self.dirty)

    def subscribe(
        self, client: Client, handle: int, stream: Stream, after: int, window: int
    ) -> Subscription:
        """Attach a reader behind token `after` (-1: from the first) and serve what is kept.

        Raises `RequestError`: duplicate_request, bad_offset, offset_gone.
        """
        if handle in client.subscriptions:
            raise RequestError(Code.DUPLICATE_REQUEST, f"handle {handle} is in use")
        start = after + 1
        if not 0 <= start <= stream.end:
            raise RequestError(
                Code.BAD_OFFSET,
                f"cannot attach after token {after}: the stream has {stream.end}",
                first=stream.first,
                last=stream.end - 1,
            )
        if start < stream.first:
            raise RequestError(
                Code.OFFSET_GONE,
                f"token {start} is gone, the oldest kept is {stream.first}",
                first=stream.first,
                last=stream.end - 1,
            )
        subscription = Subscription(client, handle, stream, start, window)
        client.subscriptions[handle] = subscription
        stream.subscriptions.append(subscription)
        self._settle(stream)
        self.pump(subscription)
        return subscription

    def pump(self, subscription: Subscription) -> None:
        """Serve a reader from the log while it has credit."""
        stream = subscription.stream
        if not stream.first <= subscription.next < stream.end:
            return
        for record in stream.entries:
            if subscription.outstanding >= subscription.window:
                break
            if record.a + record.count > subscription.next:
                subscription.push(record)
        self.dirty[subscription.client.route] = subscription.client

    def credit(self, client: Client, handle: int, processed: int) -> None:
        """Take a reader's credit, and serve it on.

        Credit for a handle that is gone is ignored: it may have crossed the end.
        Raises `RequestError` (bad_credit).
        """
        subscription = client.subscriptions.get(handle)
        if subscription is None:
            return
        subscription.processed(processed)
        stream = subscription.stream
        if stream.subscriptions[0] is subscription:
            self._settle(stream)
        if subscription.next < stream.end:
            self.pump(subscription)
        elif stream.terminal and processed >= stream.end:
            self.unsubscribe(client, handle)

    def unsubscribe(self, client: Client, handle: int) -> Stream | None:
        """Take a reader off; return the stream if that was its last."""
        subscription = client.subscriptions.pop(handle, None)
        if subscription is None:
            return None
        stream = subscription.stream
        stream.subscriptions.remove(subscription)
        if stream.subscriptions:
            self._settle(stream)
            return None
        self._forget(stream)
        return stream

    def make_room(self, log: Log) -> bool:
        """Make room in a log; return whether its producer waits for it."""
        waiting, touched = log.make_room()
        for stream in touched:
            self._leave_behind(stream)
            self._forget(stream)
        return waiting

    def _leave_behind(self, stream: Stream) -> None:
        first = stream.first
        self.behind += [s for s in stream.subscriptions if s.next < first]

    def abandon(self, stream: Stream) -> None:
        """Stop keeping a stream for a reader who will not come back."""
        stream.abandoned = True
        stream.trim()
        self._forget(stream)

    def _forget(self, stream: Stream) -> None:
        if stream.terminal and not stream.entries and not stream.subscriptions:
            self.streams.pop(stream.slot, None)
            self.by_id.pop(stream.id, None)
