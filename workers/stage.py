"""The worker's stage: raw records in, numbered token batches and checkpoints out. Pure.

One round takes a bounded piece of input, decodes it, and appends everything that follows
from it to the out-ring: TOKENS for each stream, a CHECKPOINT with the decoder's state where
that changed, and one CHECKPOINT with the input position. A single `publish` makes all of it
visible, and only then is the input released. Killed before the publish, nothing was said
and the input is still there; killed after it, the newest checkpoints say what to skip.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from ringcast.shm import records
from ringcast.shm.counters import Block
from ringcast.shm.layout import HEADER
from ringcast.shm.records import decode_open
from ringcast.shm.ring import Reader, Record, Writer
from ringcast.shm.tokens import Done, Error, StreamToken, encoder
from ringcast.workers.stream import Stream, decode_ending, split

# Records and raw bytes of one round: enough to be cheap, little enough to be prompt.
# 64 records of one paced token each decode in about 0.3 ms.
ROUND_RECORDS: Final = 64
ROUND_BYTES: Final = 64 << 10
# Raw bytes that may pass without a token before the broker is told, for the sake of credit:
# three quarters of the smallest window (1 KiB) less some, or a stream could stand still.
SILENT_BYTES: Final = 512
TEXT_CHARACTERS: Final = 8 << 10
BATCH_TOKENS: Final = 4096


_TERMINAL: Final = (Done, Error)

# A record that waits to be appended: kind, stream, a, b, payload, flags, count.
Pending: TypeAlias = tuple[int, int, int, int, bytes, int, int]


class Stage:
    """All streams of one worker. `step` until it returns False, then sleep."""

    def __init__(self, ins: list[Reader], out: Writer, counters: Block, epoch: int) -> None:
        """Begin with no streams. `epoch` counts the worker's starts."""
        self._ins = ins
        self._out = out
        # The broker keeps a quarter of the ring free: room for two of these, a PAD included.
        self._largest = out.capacity >> 4
        self._counters = counters
        self._streams: dict[int, Stream] = {}
        self._partial: dict[int, bytearray] = {}
        self._told: dict[int, int] = {}
        self._touched: dict[int, list[StreamToken]] = {}
        self._pending: list[Pending] = [(records.START, 0, epoch, 0, b"", records.WHOLE, 0)]
        self._done: tuple[Reader, int] | None = None
        self._dead: list[int] = []
        self._tokens = 0
        self.blocked = False
        self.freed: list[int] = []  # in-rings whose producer waits for the room just made
        self.ring_out = False  # whether the broker has to be woken
        name = counters.slot
        self._c_records, self._c_bytes = name("records"), name("bytes_in")
        self._c_tokens, self._c_streams = name("tokens"), name("streams")
        self._c_errors, self._c_full = name("errors"), name("ring_full")
        self._c_oddities = name("oddities")

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
        size = number = position = 0
        for record in batch:
            size += len(record.payload)
            number += 1
            position = record.end
            self._take(record, now_ns)
            if size >= ROUND_BYTES:
                reader.rewind(position)
                break
        self._counters.add(self._c_records, number)
        self._counters.add(self._c_bytes, size)
        self._close_round(index, position, now_ns)
        self._done = (reader, position)

    def _take(self, record: Record, now_ns: int) -> None:
        kind, slot = record.kind, record.stream
        if kind == records.OPEN:
            self._streams[slot] = Stream(decode_open(record.payload).api, record.a)
            self._counters.add(self._c_streams)
            opened = bytes(record.payload)
            self._pending.append((kind, slot, record.a, 0, opened, records.WHOLE, 0))
            return
        stream = self._streams.get(slot)
        if stream is None:  # its OPEN went to a worker that is gone
            return
        stream.raw = record.b
        if kind == records.DATA:
            tokens = self._decode(stream, record)
        elif kind != records.END:
            return
        else:
            tokens = stream.body.end(decode_ending(record.payload))
            self._dead.append(slot)
        if tokens and not stream.first_ns:
            stream.first_ns = now_ns
        before = self._touched.get(slot)
        if before is None:
            self._touched[slot] = tokens
        elif tokens:
            self._touched[slot] = before + tokens

    def _decode(self, stream: Stream, record: Record) -> list[StreamToken]:
        flags = record.flags
        if flags == records.WHOLE:
            return stream.body.feed(record.payload)
        if flags & records.WHOLE == records.WHOLE:
            return stream.body.tail(record.payload)
        partial = self._partial.setdefault(record.stream, bytearray())
        partial += record.payload
        if not flags & records.LAST:
            return []
        del self._partial[record.stream]
        return (stream.body.tail if flags & records.REST else stream.body.feed)(bytes(partial))

    def _close_round(self, index: int, position: int, now_ns: int) -> None:
        """Turn what the round produced into records to append."""
        for slot, tokens in self._touched.items():
            stream = self._streams[slot]
            if tokens:
                self._say(slot, stream, tokens, now_ns)
            elif stream.raw - self._told.get(slot, 0) >= SILENT_BYTES:
                self._tell(slot, stream, b"\x90", 0)
            if stream.body.dirty and slot not in self._dead:
                state = stream.body.state()
                if len(state) <= self._largest:  # an answer that is no event stream is kept whole
                    self._checkpoint(slot, stream.next_seq, position, state, index)
        self._touched = {}
        for slot in self._dead:
            self._counters.add(self._c_oddities, self._streams.pop(slot).body.oddities)
            self._told.pop(slot, None)
            self._partial.pop(slot, None)
        self._dead.clear()
        self._checkpoint(0, 0, position, b"", index)
        self._counters.add(self._c_tokens, self._tokens)
        self._tokens = 0

    def _checkpoint(self, slot: int, number: int, position: int, state: bytes, index: int) -> None:
        self._pending.append(
            (records.CHECKPOINT, slot, number, position, state, records.WHOLE, index)
        )

    def _say(self, slot: int, stream: Stream, tokens: list[StreamToken], now_ns: int) -> None:
        self._tokens += len(tokens)
        if isinstance(tokens[-1], _TERMINAL):
            tokens = stream.finish(tokens, now_ns)
            if isinstance(tokens[-1], Error):
                self._counters.add(self._c_errors)
        self._pack(slot, stream, tokens)

    def _pack(self, slot: int, stream: Stream, tokens: list[StreamToken]) -> None:
        """Encode tokens into records that fit, halving the list until they do."""
        payload = encoder.encode(tokens)
        count = len(tokens)
        if len(payload) <= self._largest and count <= BATCH_TOKENS:
            last = isinstance(tokens[-1], _TERMINAL)
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
        step = self._largest
        for start in range(0, len(payload), step):
            mark = (records.BEGIN if start == 0 else 0) | (
                records.LAST if start + step >= len(payload) else 0
            )
            piece = payload[start : start + step]
            self._pending.append(
                (records.TOKENS, slot, stream.next_seq, stream.raw, piece, mark | flags, 1)
            )
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
            reader, position = self._done
            self._done = None
            if reader.release(position):
                self.freed.append(self._ins.index(reader))
        return True
