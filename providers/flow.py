"""One stream's way from a response body into an in-ring. Pure: no socket, no clock.

The framer cuts the body at event boundaries; whole events go into the ring as long as
there is credit and room. What does not fit waits here, and reading has to stop meanwhile
(`held`): at most one socket read of 64 KiB is ever kept, plus the unfinished event.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import msgspec

from ringcast.providers.wire.body import Ending, cut_short
from ringcast.providers.wire.framing import Framer
from ringcast.providers.wire.liveness import keeps_alive
from ringcast.providers.wire.sse import WireError
from ringcast.shm import records
from ringcast.shm.ring import Writer

encode_ending = msgspec.msgpack.Encoder().encode


class Outlet:
    """One in-ring's producing end, shared by all flows of this process to one worker."""

    def __init__(self, writer: Writer, wake: Callable[[], None]) -> None:
        """`wake` is called when something waits to be published, or for room."""
        self.writer = writer
        self.marked = False
        self.waiting: dict[int, Flow] = {}  # flows that wait for room, by slot
        self._wake = wake

    def mark(self) -> None:
        """Ask for a publish soon."""
        if not self.marked:
            self.marked = True
            self._wake()


class Flow:
    """A stream's records in order, with the credit that they need.

    `limit` is the raw byte up to which records may be written; one record may overshoot it,
    and an event that was begun is always finished. OPEN, END and a cancel need no credit.
    """

    __slots__ = ("_queue", "ended", "framer", "limit", "outlet", "sent", "slot")

    def __init__(
        self, slot: int, outlet: Outlet, framer: Framer, limit: int, sent: int = 0
    ) -> None:
        """Begin a flow that may write up to raw byte `limit`, behind `sent` earlier ones.

        `framer` may be replaced until the first byte of the body.
        """
        self.slot = slot
        self.outlet = outlet
        self.limit = limit
        self.sent = sent
        self.ended = False
        self.framer = framer
        # kind, flags, stamp, payload, raw bytes of the body in it
        self._queue: deque[tuple[int, int, int, bytes | memoryview, int]] = deque()

    def follow(self, earlier: Flow) -> None:
        """Write first what an earlier flow of the same stream could not write yet."""
        self._queue.extend(earlier._queue)

    @property
    def untouched(self) -> bool:
        """Whether nothing of a body was taken."""
        return not self.sent and all(item[0] != records.DATA for item in self._queue)

    def open(self, opened: records.Open, now_ns: int) -> None:
        """Write the OPEN record."""
        self._put(records.OPEN, records.WHOLE, now_ns, records.encode_open(opened), 0)

    def data(self, chunk: bytes, now_ns: int) -> bool:
        """Take bytes of the body; return whether they complete an event that is no keep-alive.

        Raises `WireError` for what is bad, once the good is written.
        """
        try:
            block = self.framer.feed(chunk)
        except WireError as error:
            self._write(error.block, now_ns)
            raise
        self._write(block, now_ns)
        return bool(block) and not keeps_alive(block)

    def _write(self, block: bytes, now_ns: int) -> None:
        if not block:
            return
        writer = self.outlet.writer
        size = len(block)
        if not self._queue and self.sent < self.limit and size <= writer.max_payload:
            raw = self.sent + size
            if writer.append(records.DATA, self.slot, now_ns, raw, block, records.WHOLE):
                self.sent = raw
                self.outlet.mark()
                return
        for flags, piece in _pieces(block, writer.max_payload, self.framer):
            self._queue.append((records.DATA, flags, now_ns, piece, len(piece)))
        self.pump()

    def end(self, ending: Ending, now_ns: int, *, final: bool = False) -> None:
        """Write what is left of the body and how it ended; nothing may follow.

        Only a cancel still changes an end that waits for credit or room. After a `final` end
        the stream cannot go on by another connection.
        """
        cancelled = ending.kind == "cancelled"
        if self.finished or (self.ended and not cancelled):
            return
        self.ended = True
        if cancelled:  # what nobody will read must not delay the end
            self._queue = deque(item for item in self._queue if item[0] == records.OPEN)
        else:
            ending = self._rest(ending, now_ns)
        payload = _encoded(ending, self.outlet.writer.max_payload)
        flags = records.WHOLE | (records.TERMINAL if final else 0)
        self._put(records.END, flags, now_ns, payload, 0)

    def _rest(self, ending: Ending, now_ns: int) -> Ending:
        """Queue what is left of the body; how it ended, in view of that."""
        try:
            rest = self.framer.rest()
        except WireError as error:
            return ending if ending.kind != "eof" else cut_short(ending, error)
        for flags, piece in _cut(rest, self.outlet.writer.max_payload):
            self._queue.append((records.DATA, flags | records.REST, now_ns, piece, len(piece)))
        return ending

    def grant(self, limit: int) -> None:
        """Raise the limit (a lower one is an old message) and go on writing."""
        if limit > self.limit:
            self.limit = limit
            self.pump()

    @property
    def held(self) -> bool:
        """Whether reading has to stop: something waits, or the credit is used up."""
        return bool(self._queue) or self.sent >= self.limit

    @property
    def finished(self) -> bool:
        """Whether the END record is in the ring."""
        return self.ended and not self._queue

    def _put(self, kind: int, flags: int, now_ns: int, payload: bytes, raw: int) -> None:
        self._queue.append((kind, flags, now_ns, payload, raw))
        self.pump()

    def pump(self) -> None:
        """Write what credit and room allow; wait with the outlet when the ring is full."""
        queue, outlet = self._queue, self.outlet
        while queue:
            kind, flags, now_ns, payload, raw = queue[0]
            begins = kind == records.DATA and flags & records.BEGIN
            if begins and self.sent >= self.limit:
                return
            sent = self.sent + raw
            if not outlet.writer.append(kind, self.slot, now_ns, sent, payload, flags):
                outlet.waiting[self.slot] = self
                outlet.mark()
                return
            outlet.mark()
            self.sent = sent
            queue.popleft()


def _encoded(ending: Ending, limit: int) -> bytes:
    """Encode an ending in at most `limit` bytes: an error body gives way, its end first."""
    payload = encode_ending(ending)
    if (excess := len(payload) - limit) <= 0:
        return payload
    kept = ending.body[: max(0, len(ending.body) - excess)]
    return encode_ending(msgspec.structs.replace(ending, body=kept))


def _pieces(block: bytes, limit: int, framer: Framer) -> Iterator[tuple[int, bytes | memoryview]]:
    """Cut whole events into records: between two events if possible, else in fragments."""
    start, view = 0, memoryview(block)
    while len(block) - start > limit:
        end = framer.boundary(block, start, start + limit)
        if end == start:
            break
        yield records.WHOLE, view[start:end]
        start = end
    if start < len(block):
        yield from _cut(view[start:], limit)


def _cut(data: bytes | memoryview, limit: int) -> Iterator[tuple[int, bytes | memoryview]]:
    """Cut bytes into fragments marked BEGIN and LAST."""
    for start in range(0, len(data), limit):
        flags = (records.BEGIN if start == 0 else 0) | (
            records.LAST if start + limit >= len(data) else 0
        )
        yield flags, data[start : start + limit]
