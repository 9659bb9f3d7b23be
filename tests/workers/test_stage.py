"""The worker's stage: one publish a round, all or nothing, and nothing it cannot say."""

from __future__ import annotations

import msgspec
import pytest
from fakes.pipeline import Pipeline, plain, ring, worker_counters

from ringcast.errors import Code
from ringcast.providers.wire.body import Ending
from ringcast.providers.wire.summary import decode
from ringcast.replay.numbered import numbered_events
from ringcast.shm import records
from ringcast.shm.layout import max_payload
from ringcast.shm.records import Open, encode_open
from ringcast.shm.ring import Reader, Record, Writer
from ringcast.shm.tokens import Done, Error, StreamToken, Text, ToolCall, decoder
from ringcast.workers.stage import SILENT_BYTES, Stage

EVENTS = list(numbered_events("chat", 20, 0, clock=False))
BODY = b"".join(EVENTS)
BEGINNING = b"".join(EVENTS[:6])  # five tokens behind the first event


class Bench:
    """A stage between a producer and a consumer that the test plays."""

    def __init__(self, in_bytes: int = 1 << 20, out_bytes: int = 1 << 16) -> None:
        self.in_memory, self.out_memory = ring(in_bytes), ring(out_bytes)
        self.source = Writer(self.in_memory)
        self.sink = Reader(self.out_memory)
        self.raw = 0
        self.begin()

    def begin(self, epoch: int = 1) -> None:
        """A new worker on the same rings."""
        self.reader = Reader(self.in_memory)
        self.stage = Stage([self.reader], Writer(self.out_memory), worker_counters(), epoch)

    def open(self, slot: int, api: str = "chat") -> None:
        payload = encode_open(Open(b"%016d" % slot, api, "fake", "model"))
        assert self.source.append(records.OPEN, slot, 0, 0, payload, records.WHOLE)

    def data(self, slot: int, block: bytes, flags: int = records.WHOLE) -> None:
        self.raw += len(block)
        assert self.source.append(records.DATA, slot, 0, self.raw, block, flags)

    def event(self, slot: int, event: bytes) -> None:
        """A single event, in as many records as it needs."""
        step = self.source.max_payload
        for start in range(0, len(event), step):
            last = records.LAST if start + step >= len(event) else 0
            self.data(slot, event[start : start + step], last | (start == 0))

    def end(self, slot: int, ending: Ending | None = None) -> None:
        payload = msgspec.msgpack.encode(ending or Ending())
        assert self.source.append(records.END, slot, 0, self.raw, payload, records.WHOLE)

    def step(self) -> bool:
        self.source.publish()
        return self.stage.step(1)

    def taken(self) -> list[Record]:
        """Everything that came out, released so that more can come."""
        taken: list[Record] = []
        while batch := self.sink.poll():
            for record in batch:
                copy = memoryview(bytes(record.payload))
                taken.append(msgspec.structs.replace(record, payload=copy))
            self.sink.release(batch[-1].end)
        return taken

    def tokens(self, slot: int) -> list[StreamToken]:
        """All tokens of a stream, to the end of what the stage can do."""
        tokens: list[StreamToken] = []
        partial = b""
        moved = True
        while moved:
            moved = self.step()
            for record in self.taken():
                moved = True
                if record.kind == records.TOKENS and record.stream == slot and record.count:
                    partial += bytes(record.payload)
                    if record.flags & records.LAST:
                        assert record.a == len(tokens)
                        tokens += decoder.decode(partial)
                        partial = b""
                        assert bool(record.flags & records.TERMINAL) == isinstance(
                            tokens[-1], Done | Error
                        )
        return tokens


def fill(memory: memoryview) -> None:
    """Leave no room in a ring, not for the smallest record."""
    filler = Writer(memory)
    for size in (1000, 0):
        while filler.append(9, 0, 0, 0, b"x" * size):
            pass
    filler.publish()


def of_kind(taken: list[Record], kind: int) -> list[Record]:
    return [record for record in taken if record.kind == kind]


def test_a_round_is_visible_at_once_or_not_at_all() -> None:
    """S1, S2."""
    bench = Bench()
    first, rest = BEGINNING, BODY[len(BEGINNING) :]
    bench.open(1)
    bench.data(1, first)
    before = bench.reader.released
    assert bench.step()
    assert bench.reader.released > before  # only once the tokens are out
    taken = bench.taken()
    kinds = [record.kind for record in taken]
    assert kinds == [records.START, records.OPEN, records.TOKENS, records.CHECKPOINT]
    (checkpoint,) = of_kind(taken, records.CHECKPOINT)
    assert (checkpoint.stream, checkpoint.a, checkpoint.b) == (1, 5, bench.raw)
    bench.data(1, rest)
    assert bench.step()
    # OPEN once more behind the end, for a broker that begins to read there.
    kinds = [record.kind for record in bench.taken()]
    assert kinds == [records.TOKENS, records.TOKENS, records.OPEN]


def test_killed_before_its_publish() -> None:
    """S2: nothing was said, the input is still there, and a successor says all of it."""
    bench = Bench(out_bytes=1 << 16)
    bench.open(1)
    bench.data(1, BODY)
    fill(bench.out_memory)
    full = bench.sink.pending
    bench.begin()
    bench.step()
    assert bench.stage.blocked
    assert bench.sink.pending == full
    assert bench.reader.released == 0
    bench.taken()
    bench.begin(epoch=2)  # the first one is dropped with what it had decoded
    assert plain(bench.tokens(1)) == plain(decode("chat", [BODY]))
    bench.end(1)
    assert bench.reader.released > 0


def test_blocked_until_there_is_room() -> None:
    bench = Bench()
    fill(bench.out_memory)
    bench.begin()
    bench.open(1)
    bench.data(1, BODY)
    bench.end(1)
    for _ in range(3):
        assert not bench.step() or bench.stage.blocked
    assert bench.stage.blocked
    assert {record.kind for record in bench.taken()} == {9}
    assert plain(bench.tokens(1)) == plain(decode("chat", [BODY]))
    assert not bench.stage.blocked


@pytest.mark.parametrize("size", [10, 8 << 10, 9000, 100_000, 3_000_000])
def test_a_long_text_is_split(size: int) -> None:
    text = "".join(chr(0x4E00 + i % 5000) for i in range(size))
    chunk = {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": "stop"}]}
    bench = Bench(in_bytes=1 << 24)
    bench.open(1)
    bench.event(1, b"data: " + msgspec.json.encode(chunk) + b"\n\n")
    bench.end(1)
    *tokens, end = bench.tokens(1)
    assert all(isinstance(token, Text) for token in tokens)
    assert "".join(token.content for token in tokens if isinstance(token, Text)) == text
    assert isinstance(end, Done)
    assert end.summary is not None
    assert end.summary.tokens == len(tokens)  # as they were split


@pytest.mark.parametrize("size", [10, 9000, 100_000, 3_000_000])
def test_another_large_token_stays_one(size: int) -> None:
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": "y" * size}}
    chunk = {"choices": [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": "stop"}]}
    bench = Bench(in_bytes=1 << 24)
    bench.open(1)
    bench.event(1, b"data: " + msgspec.json.encode(chunk) + b"\n\n")
    bench.end(1)
    token, end = bench.tokens(1)
    assert token == ToolCall(0, "c", "f", "y" * size)
    assert isinstance(end, Done)


def test_silent_bytes_are_told_for_credit() -> None:
    bench = Bench()
    bench.open(1)
    quiet = b'data: {"choices":[]}\n\n'
    times = SILENT_BYTES // len(quiet) + 1
    for _ in range(times):
        bench.data(1, quiet)
        bench.step()
    (told,) = of_kind(bench.taken(), records.TOKENS)
    assert (told.count, told.a, told.b) == (0, 0, bench.raw)
    assert decoder.decode(told.payload) == []


def test_slots_that_nobody_opened_are_ignored() -> None:
    """S6."""
    bench = Bench()
    bench.data(7, BODY)
    bench.end(7)
    bench.open(1)
    bench.data(1, BODY)
    bench.end(1)
    bench.data(1, BODY)  # behind its end
    bench.source.append(200, 1, 0, 0, b"of a later version")
    assert plain(bench.tokens(1)) == plain(decode("chat", [BODY]))
    assert bench.tokens(7) == []


@pytest.mark.parametrize("kind", ["reset", "failed", "cancelled", "http"])
def test_endings(kind: str) -> None:
    ending = msgspec.convert([kind, "transport", "why", 500], Ending)
    bench = Bench()
    bench.open(1)
    bench.data(1, BODY[: BODY.index(b"\n\n") + 2])
    bench.end(1, ending)
    end = bench.tokens(1)[-1]
    assert isinstance(end, Error)
    assert end.summary is not None


def test_an_answer_that_is_no_event_stream_and_large() -> None:
    """It is kept whole to be shown; its state is larger than any record."""
    pipeline = Pipeline()
    inbox = pipeline.connect(b"client")
    page = [b"<p>\n" + b"x" * 2000 + b"\n\n"] * 200
    stream = pipeline.open(1, "chat", page, 1 << 16)
    pipeline.attach(inbox, 1, stream, -1, 1 << 16)
    pipeline.run()
    (end,) = inbox.tokens[1]
    assert isinstance(end, Error)
    assert end.code == "not_event_stream"
    assert max_payload(1 << 16) < sum(map(len, page))


def test_two_ends_of_one_stream_in_a_round() -> None:
    """S5: a provider process died behind its END, and its successor wrote another."""
    bench = Bench()
    bench.open(1)
    bench.data(1, BODY)
    bench.end(1)
    bench.end(1, Ending("failed", Code.INTERRUPTED, "died"))
    bench.open(2)
    bench.end(2, Ending("failed", Code.INTERRUPTED, "died"))
    bench.end(2, Ending("failed", Code.INTERRUPTED, "died"))
    assert bench.step()
    taken = bench.taken()
    said = [record for record in of_kind(taken, records.TOKENS) if record.count]
    assert {record.stream for record in said} == {1}
    tokens = [token for record in said for token in decoder.decode(record.payload)]
    assert plain(tokens) == plain(decode("chat", [BODY]))
    assert {record.stream for record in of_kind(taken, records.AGAIN)} == {2}
    assert not bench.stage.busy


def test_several_in_rings_have_their_turn() -> None:
    memories = [ring(1 << 16) for _ in range(3)]
    out = ring(1 << 16)
    stage = Stage([Reader(memory) for memory in memories], Writer(out), worker_counters(), 1)
    for slot, memory in enumerate(memories, 1):
        writer = Writer(memory)
        payload = encode_open(Open(b"%016d" % slot, "chat", "fake", "model"))
        writer.append(records.OPEN, slot, 0, 0, payload, records.WHOLE)
        writer.append(records.DATA, slot, 0, len(BEGINNING), BEGINNING, records.WHOLE)
        writer.publish()
    assert stage.step(1)
    taken = Reader(out).poll()
    assert {record.stream for record in of_kind(taken, records.TOKENS)} == {1, 2, 3}
    assert {record.stream for record in of_kind(taken, records.CHECKPOINT)} == {1, 2, 3}
