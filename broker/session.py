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
from collections.abc import Callable

import msgspec

from ringcast.broker.log import Log
from ringcast.broker.runs import fitted, rescued, run_of
from ringcast.broker.stream import Again, Client, Stream, Subscription, Unsaid
from ringcast.errors import Code, RequestError
from ringcast.providers.commands import Adopted
from ringcast.shm import records
from ringcast.shm.ledger import LEDGER_BYTES, NOBODY, Ledger
from ringcast.shm.records import decode_cursor, decode_open, is_whole
from ringcast.shm.ring import Record
from ringcast.shm.tokens import Error, decode_error


class Sessions:
    """All streams and clients of the daemon."""

    def __init__(self, logs: list[Log], ledger: Ledger | None = None) -> None:
        """`logs` has one log for each worker; in `ledger` a successor finds what is done with."""
        self.logs = logs
        self.ledger = ledger or Ledger(memoryview(bytearray(LEDGER_BYTES)))
        self.streams: dict[int, Stream] = {}
        self.by_id: dict[bytes, Stream] = {}
        self.clients: dict[bytes, Client] = {}
        self.dirty: dict[bytes, Client] = {}  # clients with something in their outbox
        self.ended: list[Stream] = []  # streams whose terminal record was just read
        self.behind: list[Subscription] = []  # readers whose next token is gone
        self.granted: list[Stream] = []  # streams whose provider is to be told a new limit
        self.again: list[Again] = []  # streams that could go on with another connection
        self.unsaid: list[Unsaid] = []  # streams that failed before anything was seen of them
        self.begun: list[Stream] = []  # streams whose first token was just read
        self.errors: list[Error] = []  # by which streams ended that no worker ended
        self.tokens = 0
        self.strange: Callable[[Log, Record], Stream | None] = lambda log, record: None

    def add(self, stream: Stream) -> None:
        """Make a stream known."""
        self.streams[stream.slot] = stream
        self.by_id[stream.id] = stream

    def ingest(self, log: Log, batch: list[Record]) -> None:
        """Index a batch of records and pass each on to whoever has credit for it."""
        streams, dirty, kind = self.streams, self.dirty, records.TOKENS
        for record in batch:
            stream = streams.get(record.stream) or self.strange(log, record)
            if stream is None or (stream.terminal and stream.id):
                continue
            if not is_whole(record.flags):
                whole = self._join(log, stream, record)
                if whole is None:
                    continue
                record = whole
            if record.kind != kind:
                self._note(stream, record)
                continue
            stream.raw = record.b
            stream.window.reached(record.b)
            if not record.flags & records.MORE:
                stream.base = record.a + record.count, record.b
            if not record.count:  # bytes that made no token
                self._settle(stream)
                continue
            if record.a > stream.end:  # of what was between, a broker that died had no need
                stream.skip_to(record.a)
                self._leave_behind(stream)
            elif record.a < stream.end:
                news = fitted(record, stream.end)
                if news is None:
                    continue
                record = news
            log.keep(stream, record)
            self.tokens += record.count
            self._deliver(stream, record, dirty)
        log.skip(batch[-1].end)

    def _note(self, stream: Stream, record: Record) -> None:
        """Keep what a successor of the worker needs, and who could go on."""
        if record.kind == records.OPEN:
            self.opened(stream, record)
            stream.followed |= not stream.end
        elif record.kind == records.CHECKPOINT:
            stream.checkpoint(record)
        elif record.kind == records.AGAIN and not stream.terminal:
            self._again(stream, record)

    def _again(self, stream: Stream, record: Record) -> None:
        if record.flags & records.UNSAID:
            if record.a >= stream.opened_ns:
                stream.opened, stream.followed = b"", False  # its worker has forgotten it
                stream.opened_ns = record.a
                error = decode_error(record.payload)
                self.unsaid.append(Unsaid(stream, record.a, error))
            return
        lost = bool(record.flags & records.TERMINAL)
        if lost and stream.opened_ns and not stream.opened:  # the rest of a sending that is over
            return
        if lost or record.a > stream.again_ns:
            stream.again_ns = max(stream.again_ns, record.a)
            cursor = decode_cursor(record.payload) if record.payload else None
            self.again.append(Again(stream, lost, cursor, record.b, record.a))

    def opened(self, stream: Stream, record: Record) -> None:
        """Take in what an OPEN says of a stream."""
        if not stream.id:
            said = decode_open(record.payload)
            stream.id, stream.provider, stream.model = said.id, said.provider, said.model
            self.by_id[stream.id] = stream
        if not stream.opened or stream.opened_ns != record.a:
            if stream.opened_ns:  # a second attempt
                stream.base, stream.state = (0, 0), b""
                stream.raw = stream.paid = 0
            if not stream.end:  # maybe elsewhere
                said = decode_open(record.payload)
                stream.provider, stream.model = said.provider, said.model
            stream.opened, stream.opened_ns = bytes(record.payload), record.a

    def _deliver(self, stream: Stream, record: Record, dirty: dict[bytes, Client]) -> None:
        first = record.a
        alone = record.flags & records.TERMINAL and record.count == 1
        if not stream.end and not alone:  # an end without a token is no first token
            self.begun.append(stream)
        stream.end = first + record.count
        stream.start = None
        if record.flags & records.TERMINAL:
            self.end(stream)
        for subscription in stream.subscriptions:
            if subscription.next == first and subscription.outstanding < subscription.window:
                subscription.push(record)
                client = subscription.client
                dirty[client.route] = client

    def end(self, stream: Stream) -> None:
        """Its terminal token is here: nothing can follow."""
        stream.terminal = True
        stream.window.close()
        self.ended.append(stream)

    def _settle(self, stream: Stream) -> None:
        """Count what the paying reader is done with, and grant as much again."""
        if stream.subscriptions:
            payer = stream.subscriptions[0]
            if payer.acked > stream.processed:
                stream.processed, stream.paid = payer.acked, payer.raw
                self.ledger.note(stream.slot, payer.acked)
                if stream.heaped:
                    stream.trim()
                    self._leave_behind(stream)
        # Who is done with all tokens is done with the silent bytes behind them as well.
        raw = stream.raw if stream.processed == stream.end else stream.paid
        if not stream.terminal and stream.window.processed(raw):
            self.granted.append(stream)

    def of_worker(self, worker: int) -> list[Adopted]:
        """Return where a worker's live streams are, for the one that stands in for it."""
        live = (s for s in self.streams.values() if s.worker == worker and not s.terminal)
        return [adopted for stream in live if (adopted := stream.adopted) is not None]

    def _join(self, log: Log, stream: Stream, record: Record) -> Record | None:
        """Join the fragments of a large payload; the last of them gives the whole record."""
        if record.flags & records.BEGIN:
            stream.partial = bytearray()
            log.hold(record)
        elif stream.partial is None:  # its beginning went with an earlier broker
            self._torn(stream, record)
            return None
        stream.partial += record.payload
        if not record.flags & records.LAST:
            return None
        payload = memoryview(bytes(stream.partial))
        stream.partial = None
        log.let_go(stream.slot)
        return msgspec.structs.replace(record, payload=payload)

    def _torn(self, stream: Stream, record: Record) -> None:
        """The beginning of this token is gone: go on behind it, for whoever has it already."""
        if record.kind != records.TOKENS or not record.flags & records.LAST:
            return
        if stream.terminal or record.a < stream.end:
            return
        stream.skip_to(record.a)
        if record.flags & records.TERMINAL:
            text = "the broker died within a token larger than half of rings.out_bytes"
            self.fail(stream, Error(Code.INTERRUPTED, text, retryable=True))
        else:
            stream.skip_to(record.a + 1)
            self._leave_behind(stream)

    def fail(self, stream: Stream, error: Error) -> None:
        """End a stream from the broker's side, behind everything it has said so far."""
        if stream.terminal:
            return
        stream.failed = True
        self.errors.append(error)
        log = self.logs[stream.worker]
        record = run_of(error, stream.slot, stream.end, stream.raw, log.end)
        log.keep(stream, record)
        self._deliver(stream, record, self.dirty)

    def condemn(self, worker: int, error: Error) -> None:
        """End a worker's streams: its ring cannot be believed any more.

        What the paying readers have not processed yet moves to the heap, as far as it decodes.
        """
        for stream in list(self.streams.values()):
            if stream.worker == worker:
                stream.partial = None
                stream.entries = deque(rescued(filter(stream.wanted, stream.entries)))
                stream.heaped = len(stream.entries)
                self._leave_behind(stream)
                self.fail(stream, error)
                self._forget(stream)

    def renew(self, log: Log) -> None:
        """Go on with another ring in the place of a condemned one of the same worker."""
        self.logs[log.worker] = log
        for stream in self.streams.values():
            if stream.worker == log.worker:
                stream.heaped = len(stream.entries)

    def subscribe(
        self, client: Client, handle: int, stream: Stream, after: int, window: int
    ) -> Subscription:
        """Attach a reader behind token `after` (-1: from the first) and serve what is kept.

        Raises `RequestError`: duplicate_request, bad_offset, offset_gone.
        """
        if handle in client.subscriptions:
            raise RequestError(Code.DUPLICATE_REQUEST, f"handle {handle} is in use")
        stream.check_offset(after)
        subscription = Subscription(client, handle, stream, after + 1, window)
        subscription.raw = stream.raw_before(after + 1)
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
        self.ledger.note(stream.slot, NOBODY)
        stream.trim()
        self._forget(stream)

    def _forget(self, stream: Stream) -> None:
        if stream.terminal and not stream.entries and not stream.subscriptions:
            self.streams.pop(stream.slot, None)
            self.by_id.pop(stream.id, None)
