"""The worker's stage: raw records in, numbered token batches and checkpoints out. Pure.

One round takes a bounded piece of input, decodes it, and appends everything that follows
from it to the out-ring: TOKENS for each stream, and a CHECKPOINT with the decoder's state
where that changed. A single `publish` makes all of it visible, and only then is the input
released. Killed before the publish, nothing was said and the input is still there; killed
after it, a successor finds input that was dealt with, and knows it by its raw bytes: what
is not beyond those of the stream's last record is skipped.

Fragments of a large event are kept in memory, so their input is released only when the
event is complete, unless it takes more than half of the ring; a worker that dies within
such an event ends its stream with `worker_lost`.

A record that two workers in a row died at is poison: its stream ends with `poison_input`.

When another broker begins to read the out-ring, every live stream is announced to it again,
and so is what was kept back and not sent again yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeAlias

from ringcast.errors import Code
from ringcast.providers.commands import Adopted
from ringcast.providers.wire.body import Ending
from ringcast.providers.wire.portable import UNPORTABLE, portable
from ringcast.shm import records
from ringcast.shm.counters import Block
from ringcast.shm.layout import HEADER
from ringcast.shm.ring import Reader, Record, Writer
from ringcast.shm.tokens import Done, Error, StreamToken, encoder
from ringcast.workers.stream import Stream, decode_ending, split
from ringcast.workers.stream_metrics import Metrics, NoMetrics

# Records and raw bytes of one round: enough to be cheap, little enough to be prompt.
# 64 records of one paced token each decode in about 0.3 ms.
ROUND_RECORDS: Final = 64
ROUND_BYTES: Final = 64 << 10
# Raw bytes that may pass without a token before the broker is told, for the sake of credit:
# three quarters of the smallest window (1 KiB) less some, or a stream could stand still.
SILENT_BYTES: Final = 512
TEXT_CHARACTERS: Final = 8 << 10
BATCH_TOKENS: Final = 4096
POISON_DEATHS: Final = 2
KEPT_BACK: Final = 256  # failures that are told another broker, the newest


_TERMINAL: Final = (Done, Error)
_BROKEN: Final = frozenset(
    {
        Code.INTERRUPTED,
        Code.TRANSPORT,
        Code.STREAM_INCOMPLETE,
        Code.CONNECT_FAILED,
        Code.CONNECT_TIMEOUT,
        Code.FIRST_BYTE_TIMEOUT,
    }
)

_UNMEASURED: Final = NoMetrics()

# A record that waits to be appended: kind, stream, a, b, payload, flags, count.
Pending: TypeAlias = tuple[int, int, int, int, bytes, int, int]


class Stage:
    """All streams of one worker. `step` until it returns False, then sleep."""

    def __init__(
        self,
        ins: list[Reader],
        out: Writer,
        counters: Block,
        epoch: int,
        adopted: Iterable[Adopted] = (),
        told: int | None = None,
        metrics: Metrics = _UNMEASURED,
        clock: Callable[[], int] = int,
    ) -> None:
        """Go on with the `adopted` streams. `epoch` counts the worker's starts.

        `told` is the broker that knows these streams (the one that reads now, by default).
        `clock` gives what `step` is told, in ns. It is read twice a round, where the stream
        changes in it, and around transformers; by the default one nothing takes any time.
        """
        self._ins = ins
        self._out = out
        # The broker keeps a quarter of the ring free: room for two of these, a PAD included.
        self._largest = out.capacity >> 4
        self._counters = counters
        self._metrics, self._clock = metrics, clock
        now_ns = clock()
        self._streams = {left.slot: Stream.adopt(left, now_ns) for left in adopted}
        self._done_with = {slot: stream.raw for slot, stream in self._streams.items()}
        self._partial: dict[int, bytearray] = {}
        self._held: list[dict[int, int]] = [{} for _ in ins]  # where unfinished events begin
        self._holding = {slot for slot, stream in self._streams.items() if stream.transforms}
        self._told: dict[int, int] = {}
        self._touched: dict[int, list[StreamToken]] = {}
        self._epoch = epoch
        self._broker = out.consumer_epoch if told is None else told
        self._pending: list[Pending] = [self._start()]
        self._done: tuple[int, int] | None = None  # input to release: its ring, and up to where
        self._dead: set[int] = set()  # streams whose END is in this round
        self._said: set[int] = set()  # streams that have had their last token, but not their END
        self._kept_back: dict[int, Pending] = {}  # what failed, until it is sent again
        self._strangers: set[int] = set()  # streams whose input comes, and which nobody knows
        self._behind: list[tuple[int, int, bytes]] = []  # streams that can go on at a cursor
        self._tokens = self._visible = 0  # of this round: all, and those that end nothing
        self._transform_ns = 0
        self._begun_ns: list[int] = []  # how long streams waited for their first tokens
        self._gaps_ns: list[int] = []  # and the others for these, since the ones before
        self.blocked = False
        self.freed: list[int] = []  # in-rings whose producer waits for the room just made
        self.ring_out = False  # whether the broker has to be woken
        name = counters.slot
        self._c_records, self._c_bytes = name("records"), name("bytes_in")
        self._c_tokens, self._c_streams = name("tokens"), name("streams")
        self._c_errors, self._c_full = name("errors"), name("ring_full")
        self._c_oddities, self._c_removed = name("oddities"), name("removed")
        self._c_codes = {str(code): name(f"error.{code}") for code in Code}
        self._c_at = name("at")
        self._poison = _poison(counters)

    @property
    def busy(self) -> bool:
        """Whether any stream is open."""
        return bool(self._streams)

    def step(self, now_ns: int) -> bool:
        """Do one round over every in-ring; return whether there was anything to do.

        Sets `blocked` when the out-ring has no room for what was decoded.
        """
        if self._pending and not self._commit():
            return False
        if self._out.consumer_epoch != self._broker:
            self._announce()
            if not self._commit():
                return False
        if self._holding:
            self._hurry(now_ns)
            if not self._commit():
                return False
        worked = False
        for index, reader in enumerate(self._ins):
            batch = reader.poll(ROUND_RECORDS)
            if batch:
                worked = True
                self._round(index, reader, batch, now_ns)
                if not self._commit():
                    return True
        return worked

    def _hurry(self, now_ns: int) -> None:
        """Say what transformers have held back for long enough."""
        for slot in list(self._holding):
            stream = self._streams[slot]
            if tokens := stream.overdue(now_ns):
                self._touched[slot] = tokens
            if stream.transforms is None or stream.transforms.due_ns is None:
                self._holding.remove(slot)
        self._close_round(now_ns)

    def _start(self) -> Pending:
        return records.START, 0, self._epoch, self._broker, b"", records.WHOLE, 0

    def _announce(self) -> None:
        """Tell a new broker of every live stream: its OPEN may have left the ring long ago."""
        self._broker = self._out.consumer_epoch
        for slot, stream in self._streams.items():
            if not stream.body.finished:
                self._pending.append(_opened(slot, stream))
                self._checkpoint(slot, stream)
        self._pending += self._kept_back.values()  # nobody may have heard of them
        self._pending.append(self._start())

    def _round(self, index: int, reader: Reader, batch: list[Record], now_ns: int) -> None:
        size = number = position = 0
        words, at = self._counters.words, self._c_at
        streams, clock, slot = self._streams, self._clock, batch[0].stream
        began_ns = since_ns = clock()
        for record in batch:
            size += len(record.payload)
            number += 1
            position = record.end
            if record.stream != slot:
                until_ns = clock()
                if slot in streams:
                    streams[slot].work_ns += until_ns - since_ns
                slot, since_ns = record.stream, until_ns
            words[at] = position << 4 | index
            self._take(index, record, now_ns)
            if size >= ROUND_BYTES:
                reader.rewind(position)
                break
        words[at] = 0
        until_ns = clock()
        if slot in streams:
            streams[slot].work_ns += until_ns - since_ns
        self._counters.add(self._c_records, number)
        self._counters.add(self._c_bytes, size)
        self._measure(size, until_ns - began_ns)
        self._close_round(now_ns)
        self._done = (index, self._releasable(index, reader, position))

    def _measure(self, size: int, ns: int) -> None:
        """Tell the metrics of a round's input, and of the time it took to decode and transform."""
        metrics = self._metrics
        metrics.read(size)
        metrics.took("decode", ns - self._transform_ns)
        if self._transform_ns:
            metrics.took("transform", self._transform_ns)
            self._transform_ns = 0

    def _releasable(self, index: int, reader: Reader, position: int) -> int:
        """Return how far input may be released: not into an event that is incomplete."""
        held = self._held[index]
        if held:
            for slot, begin in list(held.items()):
                if position - begin > reader.capacity >> 1:
                    del held[slot]
            return max(min([position, *held.values()]), reader.released)
        return position

    def _take(self, index: int, record: Record, now_ns: int) -> None:
        kind, slot = record.kind, record.stream
        if kind == records.OPEN:
            self._open(slot, record)
            return
        stream = self._streams.get(slot)
        if self._poison >= 0 and self._poison == record.end << 4 | index:
            self._refuse(slot, stream, kind, now_ns)
            return
        if kind == records.END:
            self._end(slot, stream, record, now_ns)
            return
        if stream is None:  # it has had its end, or it was lost with a broker and a worker
            if slot not in self._strangers and slot not in self._said:
                self._strangers.add(slot)
                self._pending.append(_lost(slot, record))
            return
        if slot in self._done_with and self._is_old(stream, record):
            return
        if kind == records.DATA:
            self._touch(slot, stream, self._decode(index, stream, record), now_ns)

    def _is_old(self, stream: Stream, record: Record) -> bool:
        """Whether a predecessor dealt with it, or with a sending that was followed by another."""
        return record.b <= self._done_with[record.stream] or record.a < stream.opened_ns

    def _refuse(self, slot: int, stream: Stream | None, kind: int, now_ns: int) -> None:
        """Leave a record alone that two workers died of, and end its stream."""
        if stream is None:
            return
        if kind == records.END:
            self._dead.add(slot)
        if not stream.body.finished:
            stream.body.finished = True
            text = "two workers died of this stream's input, one after the other"
            self._touch(slot, stream, [Error(Code.POISON_INPUT, text)], now_ns)

    def _end(self, slot: int, stream: Stream | None, record: Record, now_ns: int) -> None:
        """The body has ended: say how, or that the stream can go on by another connection."""
        if stream is not None and slot in self._done_with and record.a < stream.opened_ns:
            return
        ending = decode_ending(record.payload)
        if slot in self._dead:  # another process wrote an end as well
            unsaid = not self._is_shown(slot, self._streams[slot])
            if unsaid and ending.code == Code.INTERRUPTED:
                self._behind.append((slot, record.a, b""))
            return
        final = record.flags & records.TERMINAL
        if stream is None:
            self._strangers.discard(slot)
            if ending.code == Code.INTERRUPTED:  # also of what was kept back: nobody else sends it
                self._pending.append((records.AGAIN, slot, record.a, 0, b"", records.WHOLE, 0))
            elif slot not in self._said:
                self._pending.append(_lost(slot, record))
            self._said.discard(slot)
        elif not final and _broken(ending) and (cursor := stream.body.cursor) is not None:
            self._behind.append((slot, record.a, records.encode(cursor)))
            stream.body.rejoin()
            self._drop_partial(slot)  # the provider says that event again
        elif not final and ending.code == Code.INTERRUPTED and not self._is_shown(slot, stream):
            self._pending.append((records.AGAIN, slot, record.a, 0, b"", records.WHOLE, 0))
            self._touched.pop(slot, None)
            self._forget(slot)  # at once: an OPEN or another END may follow in this round
        else:
            tokens = stream.body.end(ending)
            stream.raw = max(stream.raw, record.b)
            stream.final |= bool(final)
            self._dead.add(slot)
            self._touch(slot, stream, tokens, now_ns)

    def _is_shown(self, slot: int, stream: Stream) -> bool:
        """Whether anything was said of a stream, or will be at the end of this round."""
        tokens = self._touched.get(slot)
        return bool(stream.next_seq or (tokens and not _is_unsaid(stream, tokens)))

    def _touch(self, slot: int, stream: Stream, tokens: list[StreamToken], now_ns: int) -> None:
        if tokens and (transforms := stream.transforms) is not None:
            clock = self._clock
            began_ns = clock()
            tokens = transforms.feed(tokens, now_ns)
            if transforms.finished:  # what ends the stream ends its body
                stream.body.finished = True
            took_ns = clock() - began_ns
            stream.transform_ns += took_ns
            self._transform_ns += took_ns
        before = self._touched.get(slot)
        if before is None:
            self._touched[slot] = tokens
            if stream.transforms is not None:
                self._holding.add(slot)
        elif tokens:
            self._touched[slot] = before + tokens

    def _open(self, slot: int, record: Record) -> None:
        self._strangers.discard(slot)
        self._kept_back.pop(slot, None)
        known = self._streams.get(slot)
        if known is not None and known.opened_ns >= record.a:  # a predecessor has read it
            return
        if known is not None:  # what was kept back of it is answered by this
            self._touched.pop(slot, None)
            self._dead.discard(slot)
            self._forget(slot)
        self._done_with.pop(slot, None)
        stream = self._streams[slot] = Stream(bytes(record.payload), record.a)
        self._counters.add(self._c_streams)
        self._metrics.opened()
        self._pending.append(_opened(slot, stream))

    def _decode(self, index: int, stream: Stream, record: Record) -> list[StreamToken]:
        flags = record.flags
        if flags & records.WHOLE == records.WHOLE:
            stream.raw = record.b
            decode = stream.body.tail if flags & records.REST else stream.body.feed
            return decode(record.payload)
        slot = record.stream
        if flags & records.BEGIN:
            self._partial[slot] = bytearray()
            stride = HEADER + len(record.payload) + 7 & -8
            self._held[index][slot] = record.end - stride
        partial = self._partial.get(slot)
        if partial is None:
            return self._lost(stream, record)
        partial += record.payload
        if not flags & records.LAST:
            return []
        stream.raw = record.b
        del self._partial[slot]
        self._held[index].pop(slot, None)
        return (stream.body.tail if flags & records.REST else stream.body.feed)(bytes(partial))

    def _lost(self, stream: Stream, record: Record) -> list[StreamToken]:
        """The beginning of this event went with a worker that died."""
        stream.raw = record.b
        if stream.body.finished:
            return []
        stream.body.finished = True
        text = "the worker died within an event larger than half of rings.in_bytes"
        return [Error(Code.WORKER_LOST, text, retryable=True)]

    def _close_round(self, now_ns: int) -> None:
        """Turn what the round produced into records to append."""
        pending = self._pending
        for slot, tokens in self._touched.items():
            stream = self._streams[slot]
            first = len(pending)
            ended = bool(tokens) and type(tokens[-1]) in _TERMINAL
            if ended and _is_unsaid(stream, tokens):
                self._keep_back(slot, stream, tokens, now_ns)
            elif tokens:
                self._say(slot, stream, tokens, ended, now_ns)
            elif stream.raw - self._told.get(slot, 0) >= SILENT_BYTES:
                self._tell(slot, stream, b"\x90", 0)
            if stream.dirty and not stream.body.finished and slot not in self._dead:
                self._checkpoint(slot, stream)
            if len(pending) - first > 1:
                pending[first:-1] = map(_more, pending[first:-1])
            if ended:
                if stream.next_seq:
                    pending.append(_opened(slot, stream, records.TERMINAL))
                if slot not in self._dead:  # its END may never come, if its provider process dies
                    self._dead.add(slot)
                    self._said.add(slot)
        for slot, ended_ns, payload in self._behind:  # behind what was said before the end
            again = (records.AGAIN, slot, ended_ns, self._streams[slot].raw, payload)
            self._pending.append((*again, records.WHOLE, 0))
        self._behind = []
        self._touched = {}
        for slot in self._dead:
            self._forget(slot)
        self._dead.clear()
        self._counters.add(self._c_tokens, self._tokens)
        self._tokens = 0
        self._tell_metrics()

    def _keep_back(self, slot: int, stream: Stream, tokens: list[StreamToken], now_ns: int) -> None:
        """It failed before anything was seen: who sent it may send it again, or have this said."""
        payload = encoder.encode(stream.finish(tokens, now_ns)[0])
        flags = records.WHOLE | records.UNSAID
        again = (records.AGAIN, slot, stream.opened_ns, stream.raw, payload, flags, 0)
        self._pending.append(again)
        self._kept_back[slot] = again
        if len(self._kept_back) > KEPT_BACK:
            del self._kept_back[next(iter(self._kept_back))]

    def _tell_metrics(self) -> None:
        """Tell the metrics what tokens there were."""
        if self._visible:
            self._metrics.round(self._visible, self._begun_ns, self._gaps_ns)
            self._visible = 0
            self._begun_ns.clear()
            self._gaps_ns.clear()

    def _forget(self, slot: int) -> None:
        stream = self._streams.pop(slot)
        self._counters.add(self._c_oddities, stream.body.oddities)
        if stream.transforms is not None:
            self._counters.add(self._c_removed, stream.transforms.removed)
        self._holding.discard(slot)
        self._told.pop(slot, None)
        self._drop_partial(slot)
        self._done_with.pop(slot, None)

    def _drop_partial(self, slot: int) -> None:
        self._partial.pop(slot, None)
        for held in self._held:
            held.pop(slot, None)

    def _checkpoint(self, slot: int, stream: Stream) -> None:
        """Keep the decoder's state, in fragments if an answer that is no event stream is in it."""
        number, raw = stream.next_seq, stream.raw
        for mark, piece in self._pieces(stream.state()):
            self._pending.append((records.CHECKPOINT, slot, number, raw, piece, mark, 0))

    def _pieces(self, payload: bytes) -> Iterator[tuple[int, bytes]]:
        step = self._largest
        for start in range(0, len(payload), step):
            mark = (records.BEGIN if start == 0 else 0) | (
                records.LAST if start + step >= len(payload) else 0
            )
            yield mark, payload[start : start + step]

    def _say(
        self, slot: int, stream: Stream, tokens: list[StreamToken], ended: bool, now_ns: int
    ) -> None:
        self._tokens += len(tokens)
        if count := len(tokens) - ended:
            self._visible += count
            if stream.last_ns:
                self._gaps_ns.append(now_ns - stream.last_ns)
            else:
                self._begun_ns.append(stream.begin(now_ns))
            stream.last_ns = now_ns
        if ended:
            tokens = stream.finish(tokens, now_ns)
            if isinstance(tokens[-1], Error):
                self._count_error(tokens[-1].code)
        self._pack(slot, stream, tokens)

    def _count_error(self, code: str) -> None:
        self._metrics.failed()
        self._counters.add(self._c_errors)
        if (slot_of_code := self._c_codes.get(code)) is not None:
            self._counters.add(slot_of_code)

    def _pack(self, slot: int, stream: Stream, tokens: list[StreamToken]) -> None:
        """Encode tokens into records that fit, halving the list until they do."""
        try:
            payload = encoder.encode(tokens)
        except UNPORTABLE:  # a dialect let something pass: better a changed token than a death
            self._counters.add(self._c_oddities)
            tokens = portable(tokens)
            payload = encoder.encode(tokens)
        count = len(tokens)
        if len(payload) <= self._largest and count <= BATCH_TOKENS:
            last = type(tokens[-1]) in _TERMINAL
            self._tell(slot, stream, payload, count, records.TERMINAL if last else 0)
        elif count > 1:
            self._pack(slot, stream, tokens[: count // 2])
            self._pack(slot, stream, tokens[count // 2 :])
        elif len(pieces := split(tokens[0], TEXT_CHARACTERS)) > 1:
            self._pack(slot, stream, pieces)
        else:
            self._fragment(slot, stream, tokens[0], payload)

    def _fragment(self, slot: int, stream: Stream, token: StreamToken, payload: bytes) -> None:
        """Cut a single large token over several records; the broker joins it again."""
        flags = records.TERMINAL if isinstance(token, _TERMINAL) else 0
        number, raw = stream.next_seq, stream.raw
        for mark, piece in self._pieces(payload):
            self._pending.append((records.TOKENS, slot, number, raw, piece, mark | flags, 1))
        stream.next_seq += 1
        self._told[slot] = stream.raw

    def _tell(self, slot: int, stream: Stream, payload: bytes, count: int, flags: int = 0) -> None:
        number, flags = stream.next_seq, records.WHOLE | flags
        self._pending.append((records.TOKENS, slot, number, stream.raw, payload, flags, count))
        stream.next_seq += count
        self._told[slot] = stream.raw

    def _commit(self) -> bool:
        """Append and publish everything that waits, then release its input.

        A round that may never fit at once, since a single event can be larger than the ring,
        is published in parts.
        """
        out = self._out
        append = out.append
        for number, record in enumerate(self._pending):
            if not append(*record):
                if sum(len(one[4]) + HEADER + 7 for one in self._pending) > out.capacity >> 3:
                    self.ring_out |= out.publish()
                    del self._pending[:number]
                else:
                    out.abandon()
                self.blocked = True
                self._counters.add(self._c_full)
                return False
        self.blocked = False
        self.ring_out |= out.publish()
        self._pending = []
        if self._done is not None:
            index, position = self._done
            self._done = None
            if self._ins[index].release(position):
                self.freed.append(index)
        return True


def _more(record: Pending) -> Pending:
    """Mark a record that is not the last of its stream's step."""
    kind, slot, a, b, payload, flags, count = record
    return kind, slot, a, b, payload, flags | records.MORE, count


def _is_unsaid(stream: Stream, tokens: list[StreamToken]) -> bool:
    """Say whether what ends a stream is kept back: it may be sent again, and nothing is shown."""
    return not stream.final and not stream.next_seq and type(tokens[0]) is Error


def _opened(slot: int, stream: Stream, flags: int = 0) -> Pending:
    return records.OPEN, slot, stream.opened_ns, 0, stream.opened, records.WHOLE | flags, 0


def _lost(slot: int, record: Record) -> Pending:
    return records.AGAIN, slot, record.a, 0, b"", records.WHOLE | records.TERMINAL, 0


def _broken(ending: Ending) -> bool:
    """Say whether a body ended by the connection's fault, and not by anybody's word."""
    return ending.kind in ("eof", "reset") or ending.code in _BROKEN


def _poison(counters: Block) -> int:
    """Return the record that is not to be touched: two predecessors in a row died at it."""
    at, died_at, deaths_at = (counters.slot(name) for name in ("at", "died_at", "deaths_at"))
    died = counters.get(at)
    if died:
        again = died == counters.get(died_at)
        counters.set(deaths_at, counters.get(deaths_at) + 1 if again else 1)
        counters.set(died_at, died)
        counters.set(at, 0)
    return counters.get(died_at) if counters.get(deaths_at) >= POISON_DEATHS else -1
