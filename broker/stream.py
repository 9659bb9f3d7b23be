"""Clients, streams, and the subscriptions between them. Pure: no socket, no clock."""

from __future__ import annotations

from collections import deque

import msgspec

from ringcast.broker import protocol
from ringcast.broker.credit import BackpressureController
from ringcast.errors import Code, RequestError
from ringcast.providers.commands import Adopted, Start
from ringcast.shm.records import Cursor, decode_open
from ringcast.shm.ring import Record
from ringcast.shm.tokens import Done, Error, decoder, encoder


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
        "waits",
        "window",
    )

    def __init__(
        self, client: Client, handle: int, stream: Stream, start: int, window: int
    ) -> None:
        """Read `stream` from token `start` with `window` bytes under way at most."""
        self.waits = False  # whether it is told that the request is not sent yet
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


class Unsaid(msgspec.Struct, frozen=True):
    """A stream that ended by `error` before its first token, and which of its sendings that was."""

    stream: Stream
    opened_ns: int
    error: Error


class Again(msgspec.Struct, frozen=True):
    """A stream that has no connection any more, and how it might go on: see `records`."""

    stream: Stream
    lost: bool
    cursor: Cursor | None
    raw: int
    ended_ns: int


class Stream:
    """One stream: where it comes from, what is kept of it, who reads it."""

    __slots__ = (
        "abandoned",
        "again_ns",
        "attempts",
        "base",
        "cancelled",
        "end",
        "entries",
        "failed",
        "followed",
        "heaped",
        "id",
        "model",
        "opened",
        "opened_ns",
        "paid",
        "partial",
        "process",
        "processed",
        "provider",
        "raw",
        "resumed_at",
        "slot",
        "start",
        "state",
        "stood",
        "subscriptions",
        "terminal",
        "unsaid",
        "waiting",
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
        window: BackpressureController,
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
        self.heaped = 0  # how many entries at the left wait outside of the ring
        self.end = 0  # the number after the last token
        self.raw = 0  # bytes of the body that have been decoded
        self.processed = 0  # tokens that the paying reader is done with
        self.paid = 0  # bytes of the body that these came from
        self.terminal = False
        self.stood = -1, 0.0  # what was released when it was last seen to move, and when
        self.waiting = "", 0.0  # why it is not sent yet, and until when
        self.unsaid: Error | None = None  # by which it ends if it is not sent again
        self.failed = False  # ended by the broker: its provider still knows nothing of it
        self.abandoned = False
        self.partial: bytearray | None = None  # of a payload in fragments
        # For a successor of the provider process: what may be sent again while no token of it
        # is visible.
        self.start: Start | None = None
        self.attempts = 1
        self.resumed_at = 0  # its end when it last went on by another connection
        self.again_ns = 0
        self.cancelled = False
        # For a successor of the worker: what it says of the stream with its last record.
        self.opened = b""  # its OPEN's payload, once the worker knows the stream
        self.opened_ns = 0
        self.base = (0, 0)  # the next token's number, and raw bytes dealt with
        self.state = b""
        self.followed = False  # whether this is known: from its beginning or a CHECKPOINT on

    @property
    def settled(self) -> bool:
        """Whether it has ended, and its reader is done with all of it."""
        return self.terminal and self.processed >= self.end

    @property
    def first(self) -> int:
        """The number of the oldest token kept."""
        return self.entries[0].a if self.entries else self.end

    @property
    def last_token(self) -> Done | Error | None:
        """Its terminal token, once it is here."""
        if not self.terminal or not self.entries:
            return None
        last = decoder.decode(self.entries[-1].payload)[-1]
        return last if isinstance(last, Done | Error) else None

    @property
    def api(self) -> str:
        """Its wire decoder, once the worker knows the stream."""
        return decode_open(self.opened).api if self.opened else ""

    @property
    def phase(self) -> str:
        """What `ringcast ps` shows."""
        if self.terminal:
            return "ended"
        return "streaming" if self.end else "waiting" if self.waiting[0] else "starting"

    def wanted(self, record: Record) -> bool:
        """Say whether the paying reader still needs a record."""
        return not self.abandoned and record.a + record.count > self.processed

    def stalled(self, now: float) -> float:
        """Return for how many seconds the stream has waited for its readers, at its limit."""
        window = self.window
        if (
            not self.subscriptions
            or window.acquired < window.told
            or window.released != self.stood[0]
        ):
            self.stood = window.released, now
        return now - self.stood[1]

    @property
    def adopted(self) -> Adopted | None:
        """Where a successor of the worker goes on, if that is known; or what it keeps back."""
        if self.opened:
            state = self.state if self.followed else None
        else:
            state = None if self.unsaid is None or self.end else encoder.encode(self.unsaid)
        if state is None:
            return None
        return Adopted(self.slot, self.opened, self.opened_ns, *self.base, state)

    def checkpoint(self, record: Record) -> None:
        """Keep a CHECKPOINT: where a successor of the worker can go on."""
        self.followed, self.state = True, bytes(record.payload)
        self.base, self.raw = (record.a, record.b), record.b
        if not self.entries and self.end < record.a:  # what was before has left the log
            self.end = record.a
            self.processed = max(self.processed, record.a)
            self.paid = record.b

    def check_offset(self, after: int) -> None:
        """Raise `RequestError` if it cannot be read from behind token `after`."""
        first, end, start = self.first, self.end, after + 1
        if self.terminal and start == end:
            text = f"token {after} was the stream's last"
            raise RequestError(Code.BAD_OFFSET, text, first=first, last=after)
        if not 0 <= start <= end:
            text = f"cannot attach after token {after}: the stream has {end}"
            raise RequestError(Code.BAD_OFFSET, text, first=first, last=end - 1)
        if start < first:
            text = f"token {start} is gone, the oldest kept is {first}"
            raise RequestError(Code.OFFSET_GONE, text, first=first, last=end - 1)

    def raw_before(self, number: int) -> int:
        """Return the byte of the body from which the tokens below `number` came."""
        return max((e.b for e in self.entries if e.a + e.count <= number), default=0)

    def owes(self, record: Record) -> bool:
        """Say whether a record is among those that wait outside of the ring."""
        return bool(self.heaped) and self.entries[0].a <= record.a and self.wanted(record)

    def skip_to(self, number: int) -> None:
        """Forget what waits outside of the ring: it ends before `number`, where the ring begins."""
        for _ in range(self.heaped):
            self.entries.popleft()
        self.heaped = 0
        self.end = number
        self.processed = max(self.processed, number)

    def trim(self) -> None:
        """Drop what waits outside of the ring and is no longer wanted."""
        while self.heaped and not self.wanted(self.entries[0]):
            self.entries.popleft()
            self.heaped -= 1
