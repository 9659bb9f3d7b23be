"""The worker's stage: raw records in, numbered token batches and checkpoints out. Pure.

S1. A round takes a bounded piece of input, decodes it, and appends everything that follows from
    it to the out-ring: TOKENS for each stream, and a CHECKPOINT where the decoder's state changed.
S2. A single `publish` makes all of it visible, and only then is the input released. Killed before
    the publish, nothing was said and the input is still there; killed after it, a successor finds
    input that was dealt with, and knows it by its raw bytes: what is not beyond those of the
    stream's last record is skipped.
S3. Input is not released into an event that is incomplete (`fragments`). A worker that dies within
    one that is larger than half of its ring ends its stream with `worker_lost`.
S4. A record that two workers in a row died at is `poison`: its stream ends with `poison_input`.
S5. A stream is forgotten behind the round in which it ends, by its last token or by its END,
    whichever comes first. Some ENDs end nothing (`verdict`), and a failure that nothing was shown
    before is `kept_back`: both are answered with AGAIN.
S6. Input of a stream that nobody knows (it was lost with a broker and a worker) is answered once,
    as lost.
S7. When another broker begins to read the out-ring, every live stream is announced to it again,
    and so is what was kept back and not sent again yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from ringcast.errors import Code
from ringcast.providers.commands import Adopted
from ringcast.shm import records
from ringcast.shm.counters import Block
from ringcast.shm.ring import Reader, Record, Writer
from ringcast.shm.tokens import Error, StreamToken, encoder
from ringcast.workers import outbox, poison
from ringcast.workers.fragments import Fragments, Hold
from ringcast.workers.kept_back import KeptBack
from ringcast.workers.outbox import TERMINAL, Outbox, Waiting, again, opened
from ringcast.workers.stream import Stream, decode_ending
from ringcast.workers.stream_metrics import Metrics, NoMetrics
from ringcast.workers.tally import Tally
from ringcast.workers.verdict import Verdict, is_interrupted, verdict

# Records and raw bytes of one round: enough to be cheap, little enough to be prompt.
# 64 records of one paced token each decode in about 0.3 ms.
ROUND_RECORDS: Final = 64
ROUND_BYTES: Final = 64 << 10
# Raw bytes that may pass without a token before the broker is told, for the sake of credit:
# three quarters of the smallest window (1 KiB) less some, or a stream could stand still.
SILENT_BYTES: Final = 512
TEXT_CHARACTERS: Final = 8 << 10
BATCH_TOKENS: Final = 4096

_UNMEASURED: Final = NoMetrics()


class Stage:
    """All streams of one worker. `step` until it returns False, then sleep.

    After a step `blocked` says whether the out-ring has no room for what was decoded, `ring_out`
    whether the broker has to be woken, and `freed` which in-rings' producers wait for the room
    that was made. Who rings clears them.
    """

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
        self._ins, self._out = ins, out
        self._words, self._at = counters.words, counters.slot("at")
        self._poison = poison.find(counters)
        self._tally, self._clock = Tally(counters, metrics), clock
        self._epoch = epoch
        self._broker = out.consumer_epoch if told is None else told
        self.blocked = self.ring_out = False
        self.freed: list[int] = []

        now_ns = clock()
        left = list(adopted)
        self._streams = {one.slot: Stream.adopt(one, now_ns) for one in left if one.opened}
        self._done_with = {slot: stream.raw for slot, stream in self._streams.items()}
        self._holding = {slot for slot, stream in self._streams.items() if stream.transforms}
        self._told: dict[int, int] = {}  # how many raw bytes of a stream the broker knows of
        self._said: set[int] = set()  # streams that have had their last token, but not their END
        self._strangers: set[int] = set()  # streams whose input comes, and which nobody knows
        self._kept_back = KeptBack(one for one in left if not one.opened)
        self._held = [Hold() for _ in ins]
        self._partial = Fragments(self._held)

        # Of one round:
        self._touched: dict[int, list[StreamToken]] = {}
        self._dead: set[int] = set()  # streams that end in it
        self._behind: list[tuple[int, int, bytes]] = []  # ENDs answered behind what is said
        self._done: tuple[int, int] | None = None  # input to release: its ring, and up to where
        # The broker keeps a quarter of the ring free: room for two of these, a PAD included.
        largest = out.capacity >> 4
        self._pending = Outbox(largest, BATCH_TOKENS, TEXT_CHARACTERS, self._tally.odd)
        self._pending.append(self._start())

    @property
    def busy(self) -> bool:
        """Whether any stream is open."""
        return bool(self._streams)

    def step(self, now_ns: int) -> bool:
        """Do one round over every in-ring; return whether there was anything to do."""
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

    def _round(self, index: int, reader: Reader, batch: list[Record], now_ns: int) -> None:
        """Decode a piece of one in-ring's input, noting the record in which we may die (S4)."""
        size = number = position = 0
        words, at = self._words, self._at
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
        self._tally.read(number, size, until_ns - began_ns)
        self._close_round(now_ns)
        self._done = index, self._held[index].limit(reader, position)

    # What one record does

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
        if stream is None:
            self._estrange(slot, record)
            return
        if slot in self._done_with and self._is_old(stream, record):
            return
        if kind == records.DATA:
            self._touch(slot, stream, self._decode(index, stream, record), now_ns)

    def _open(self, slot: int, record: Record) -> None:
        self._strangers.discard(slot)
        self._kept_back.sent_again(slot)
        known = self._streams.get(slot)
        if known is not None and known.opened_ns >= record.a:  # a predecessor has read it
            return
        if known is not None:  # what was kept back of it is answered by this
            self._touched.pop(slot, None)
            self._dead.discard(slot)
            self._forget(slot)
        self._done_with.pop(slot, None)
        stream = self._streams[slot] = Stream(bytes(record.payload), record.a)
        self._tally.opened()
        self._pending.append(opened(slot, stream))

    def _decode(self, index: int, stream: Stream, record: Record) -> list[StreamToken]:
        flags = record.flags
        block: memoryview | bytes = record.payload
        if flags & records.WHOLE != records.WHOLE:
            if not flags & records.BEGIN and record.stream not in self._partial:
                stream.raw = record.b
                text = "the worker died within an event larger than half of rings.in_bytes"
                return stream.fail(Code.WORKER_LOST, text, retryable=True)
            event = self._partial.add(index, record)
            if event is None:
                return []
            block = event
        stream.raw = record.b
        return (stream.body.tail if flags & records.REST else stream.body.feed)(block)

    def _touch(self, slot: int, stream: Stream, tokens: list[StreamToken], now_ns: int) -> None:
        if tokens and (transforms := stream.transforms) is not None:
            clock = self._clock
            began_ns = clock()
            tokens = transforms.feed(tokens, now_ns)
            if transforms.finished:  # what ends the stream ends its body
                stream.body.finished = True
            took_ns = clock() - began_ns
            stream.transform_ns += took_ns
            self._tally.transform_ns += took_ns
        before = self._touched.get(slot)
        if before is None:
            self._touched[slot] = tokens
            if stream.transforms is not None:
                self._holding.add(slot)
        elif tokens:
            self._touched[slot] = before + tokens

    def _is_old(self, stream: Stream, record: Record) -> bool:
        """Whether a predecessor dealt with it, or with a sending that was followed by another."""
        return record.b <= self._done_with[record.stream] or record.a < stream.opened_ns

    def _estrange(self, slot: int, record: Record) -> None:
        """Nobody knows its stream: it has had its end, or it was lost (S6)."""
        if slot not in self._strangers and slot not in self._said:
            self._strangers.add(slot)
            self._pending.append(again(slot, record.a, flags=records.TERMINAL))

    def _refuse(self, slot: int, stream: Stream | None, kind: int, now_ns: int) -> None:
        """Leave a record alone that two workers died of, and end its stream (S4)."""
        if stream is None:
            return
        if kind == records.END:
            self._dead.add(slot)
        text = "two workers died of this stream's input, one after the other"
        if tokens := stream.fail(Code.POISON_INPUT, text):
            self._touch(slot, stream, tokens, now_ns)

    # How a body ends (S5)

    def _end(self, slot: int, stream: Stream | None, record: Record, now_ns: int) -> None:
        """The body has ended: say how, or that the stream can go on by another connection."""
        if stream is None:
            self._end_of_stranger(slot, record)
            return
        if slot in self._done_with and record.a < stream.opened_ns:  # of an earlier sending
            return
        ending, final = decode_ending(record.payload), bool(record.flags & records.TERMINAL)
        shown, cursor = self._is_shown(slot, stream), stream.body.cursor
        if slot in self._dead:  # another process wrote an end as well
            if is_interrupted(ending) and not shown:
                self._behind.append((slot, record.a, b""))
            return
        match verdict(ending, final=final, kept=cursor is not None, shown=shown):
            case Verdict.GO_ON:
                self._behind.append((slot, record.a, records.encode(cursor)))
                stream.body.rejoin()
                self._partial.drop(slot)  # the provider says that event again
            case Verdict.ANEW:
                self._pending.append(again(slot, record.a))
                self._touched.pop(slot, None)
                self._forget(slot)  # at once: an OPEN or another END may follow in this round
            case Verdict.OVER:
                stream.final |= final
                stream.raw = max(stream.raw, record.b)
                self._dead.add(slot)
                self._touch(slot, stream, stream.body.end(ending), now_ns)

    def _end_of_stranger(self, slot: int, record: Record) -> None:
        self._strangers.discard(slot)
        if is_interrupted(decode_ending(record.payload)):
            self._pending.append(again(slot, record.a))  # nobody else sends what was kept back
        elif slot not in self._said:
            self._pending.append(again(slot, record.a, flags=records.TERMINAL))
        self._said.discard(slot)

    def _is_shown(self, slot: int, stream: Stream) -> bool:
        """Whether anything was said of a stream, or will be at the end of this round."""
        tokens = self._touched.get(slot)
        return bool(stream.next_seq or (tokens and not _is_unsaid(stream, tokens)))

    # What a round says

    def _close_round(self, now_ns: int) -> None:
        """Turn what the round produced into records to append."""
        pending = self._pending
        for slot, tokens in self._touched.items():
            stream = self._streams[slot]
            first = len(pending)
            ended = bool(tokens) and type(tokens[-1]) in TERMINAL
            if ended and _is_unsaid(stream, tokens):
                self._keep_back(slot, stream, tokens, now_ns)
            elif tokens:
                self._say(slot, stream, tokens, ended, now_ns)
            elif stream.raw - self._told.get(slot, 0) >= SILENT_BYTES:
                pending.silence(slot, stream)
                self._told[slot] = stream.raw
            if stream.dirty and not stream.body.finished and slot not in self._dead:
                self._checkpoint(slot, stream)
            if len(pending) - first > 1:
                pending.join(first)
            if ended:
                self._close_stream(slot, stream)
        for slot, ended_ns, payload in self._behind:
            pending.append(again(slot, ended_ns, self._streams[slot].raw, payload))
        for slot in self._dead:
            self._forget(slot)
        self._touched, self._behind = {}, []
        self._dead.clear()
        self._tally.close()

    def _say(
        self, slot: int, stream: Stream, tokens: list[StreamToken], ended: bool, now_ns: int
    ) -> None:
        visible = tokens[:-1] if ended else tokens
        if visible:
            first = stream.next_seq
            self._pending.tokens(slot, stream, visible)
            self._tally.said(stream, stream.next_seq - first, now_ns)
        if ended:  # behind the others: their number is known only when they are packed
            last = stream.finish(tokens[-1], now_ns)
            self._tally.ended(last)
            self._pending.tokens(slot, stream, [last])
        self._told[slot] = stream.raw

    def _keep_back(self, slot: int, stream: Stream, tokens: list[StreamToken], now_ns: int) -> None:
        """It failed before anything was seen: who sent it may send it again, or have this said."""
        error = encoder.encode(stream.finish(tokens[-1], now_ns))
        record = again(slot, stream.opened_ns, stream.raw, error, records.UNSAID)
        self._pending.append(record)
        self._kept_back.add(slot, record)

    def _checkpoint(self, slot: int, stream: Stream) -> None:
        """Keep the decoder's state: large if an answer that is no event stream is in it."""
        self._pending.fragments(records.CHECKPOINT, slot, stream, stream.state())

    def _close_stream(self, slot: int, stream: Stream) -> None:
        """Forget it behind its last token: its END may never come, if its provider process dies."""
        if stream.next_seq:
            self._pending.append(opened(slot, stream, records.TERMINAL))
        if slot not in self._dead:
            self._dead.add(slot)
            self._said.add(slot)

    def _forget(self, slot: int) -> None:
        self._tally.forgotten(self._streams.pop(slot))
        self._holding.discard(slot)
        self._told.pop(slot, None)
        self._partial.drop(slot)
        self._done_with.pop(slot, None)

    def _hurry(self, now_ns: int) -> None:
        """Say what transformers have held back for long enough."""
        for slot in list(self._holding):
            stream = self._streams[slot]
            if tokens := stream.overdue(now_ns):
                self._touched[slot] = tokens
            if stream.transforms is None or stream.transforms.due_ns is None:
                self._holding.remove(slot)
        self._close_round(now_ns)

    def _announce(self) -> None:
        """Tell a new broker of every live stream: its OPEN may have left the ring long ago (S7)."""
        self._broker = self._out.consumer_epoch
        for slot, stream in self._streams.items():
            if not stream.body.finished:
                self._pending.append(opened(slot, stream))
                self._checkpoint(slot, stream)
        self._pending.extend(self._kept_back)
        self._pending.append(self._start())

    def _start(self) -> Waiting:
        return outbox.start(self._epoch, self._broker)

    # How it becomes visible (S2)

    def _commit(self) -> bool:
        """Append and publish everything that waits, then release its input."""
        out, pending = self._out, self._pending
        append = out.append
        for number, record in enumerate(pending):
            if not append(*record):
                self._wait_for_room(number)
                return False
        self.blocked = False
        self.ring_out |= out.publish()
        pending.clear()
        if self._done is not None:
            index, position = self._done
            self._done = None
            if self._ins[index].release(position):
                self.freed.append(index)
        return True

    def _wait_for_room(self, appended: int) -> None:
        """Take back what was appended: the whole round is tried again when there is room.

        But one that may never fit at once, since a single event can be larger than the ring, is
        published in parts.
        """
        if self._pending.size > self._out.capacity >> 3:
            self.ring_out |= self._out.publish()
            del self._pending[:appended]
        else:
            self._out.abandon()
        self.blocked = True
        self._tally.full()


def _is_unsaid(stream: Stream, tokens: list[StreamToken]) -> bool:
    """Say whether what ends a stream is kept back: it may be sent again, and nothing is shown."""
    return not stream.final and not stream.next_seq and type(tokens[0]) is Error
