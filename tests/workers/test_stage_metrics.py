"""What the stage tells its metrics: once a round, whatever the round holds."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
from fakes.pipeline import ring, worker_counters

from ringcast.errors import Code
from ringcast.providers import transform_spec
from ringcast.providers.commands import Adopted
from ringcast.providers.wire.body import Ending
from ringcast.replay.numbered import numbered_events
from ringcast.shm import records
from ringcast.shm.records import Open, encode_open
from ringcast.shm.ring import Reader, Record, Writer
from ringcast.shm.tokens import Done, Error, Summary, decoder
from ringcast.workers.stage import Stage
from ringcast.workers.stream import SAVED_NS, Stream
from ringcast.workers.stream_metrics import StreamMetrics

EVENTS = list(numbered_events("chat", 20, 0, clock=False))
MS = 1_000_000


class Clock:
    """Every look at it takes `tick` nanoseconds."""

    def __init__(self, tick: int) -> None:
        self.tick = tick
        self.now = MS
        self.looks = 0

    def __call__(self) -> int:
        self.now += self.tick
        self.looks += 1
        return self.now


class Bench:
    """A stage whose clock the test has, between a producer and a consumer that it plays."""

    def __init__(self, tick: int = 1000) -> None:
        memory, self.out_memory = ring(1 << 20), ring(1 << 18)
        self.source, self.reader = Writer(memory), Reader(memory)
        self.sink = Reader(self.out_memory)
        self.metrics = StreamMetrics()
        self.clock = Clock(tick)
        self.raw: dict[int, int] = {}
        self.begin()

    def begin(self, adopted: list[Adopted] | None = None) -> None:
        """A new worker on the same rings and words."""
        self.stage = Stage(
            [self.reader],
            Writer(self.out_memory),
            worker_counters(),
            1,
            adopted or [],
            metrics=self.metrics,
            clock=self.clock,
        )

    def open(self, slot: int, transforms: bytes = b"", since_ns: int = 0) -> None:
        said = Open(b"%016d" % slot, "chat", "p", "m", transforms=transforms, since_ns=since_ns)
        self.source.append(records.OPEN, slot, MS, 0, encode_open(said), records.WHOLE)

    def data(self, slot: int, *events: bytes) -> None:
        for event in events:
            self.raw[slot] = self.raw.get(slot, 0) + len(event)
            self.source.append(records.DATA, slot, MS, self.raw[slot], event, records.WHOLE)

    def end(self, slot: int, ending: Ending | None = None) -> None:
        payload = msgspec.msgpack.encode(ending or Ending())
        self.source.append(records.END, slot, MS, self.raw.get(slot, 0), payload, records.WHOLE)

    def step(self, now_ns: int) -> list[Record]:
        """One round; what came out."""
        self.source.publish()
        assert self.stage.step(now_ns)
        taken = []
        for record in self.sink.poll():
            copy = memoryview(bytes(record.payload))
            taken.append(msgspec.structs.replace(record, payload=copy))
            self.sink.release(record.end)
        return taken


def summaries(taken: list[Record]) -> Iterator[Summary]:
    for record in taken:
        for token in decoder.decode(record.payload) if record.kind == records.TOKENS else ():
            if isinstance(token, Done | Error):
                assert token.summary is not None
                yield token.summary


def kinds(taken: list[Record]) -> list[int]:
    return [record.kind for record in taken]


def test_figures_of_two_streams_in_three_rounds() -> None:
    bench = Bench()
    for slot in (1, 2):
        bench.open(slot)
        bench.data(slot, *EVENTS[:6])  # five tokens behind the first event
    bench.step(21 * MS)
    bench.data(1, *EVENTS[6:8])
    bench.step(31 * MS)
    bench.data(1, *EVENTS[8:])
    bench.end(1)
    bench.end(2, Ending("reset"))
    bench.step(51 * MS)
    said = bench.metrics.snapshot()
    size = sum(map(len, EVENTS)) + sum(map(len, EVENTS[:6]))
    assert (said.streams, said.chunks, said.tokens, said.errors) == (2, 3, 26, 1)
    assert said.bytes == pytest.approx(size, abs=1000)  # OPEN and END have payloads too
    assert said.first_token.count == 2
    assert said.first_token.mean_ms == 20
    assert said.gap.count == 24
    assert said.gap.max_ms == pytest.approx(20, rel=0.0625)
    assert said.gap.mean_ms * said.gap.count == pytest.approx(10 + 20)
    assert said.decode.count == 3
    assert said.decode_us_per_token > 0
    assert said.transform.count == said.deliver.count == 0


def test_the_first_token_is_waited_for_since_the_request_came() -> None:
    bench = Bench()
    bench.open(1, since_ns=MS // 2)
    bench.data(1, *EVENTS[:3])
    bench.step(10 * MS)
    assert bench.metrics.snapshot().first_token.mean_ms == 9.5


def test_an_error_is_no_token() -> None:
    bench = Bench()
    bench.open(1)
    bench.end(1, Ending("failed", Code.AUTH, "no", 401))
    (summary,) = summaries(bench.step(5 * MS))
    said = bench.metrics.snapshot()
    assert (said.tokens, said.errors, said.first_token.count, said.gap.count) == (0, 1, 0, 0)
    assert (summary.tokens, summary.first_token_ms) == (0, None)


@pytest.mark.parametrize("streams", [1, 2, 10])
def test_the_clock_is_read_at_changes_of_the_stream_and_not_for_tokens(streams: int) -> None:
    bench = Bench()
    for slot in range(1, streams + 1):
        bench.open(slot)
    bench.step(2 * MS)
    before = bench.clock.looks
    for slot in range(1, streams + 1):
        bench.data(slot, *EVENTS[:6])
    bench.step(3 * MS)
    assert bench.clock.looks - before == streams + 1


def test_work_is_told_apart_by_streams_and_transformers() -> None:
    """A record is a tick of the clock, and two more where a transformer has the one between."""
    bench, ticks = Bench(tick=5000), len(EVENTS)
    bench.open(1)
    bench.open(2, transform_spec.encoded([{"name": "think_tags"}]))
    for event in EVENTS:
        bench.data(1, event)
        bench.data(2, event)
    bench.end(1)
    bench.end(2)
    plain, split = summaries(bench.step(2 * MS))
    assert plain.transform_ms is None
    assert plain.decode_ms == pytest.approx((ticks + 2) * 0.005)
    assert split.transform_ms is not None
    spoken = round(split.transform_ms / 0.005)  # records that had tokens
    assert 20 < spoken < ticks
    assert split.transform_ms == pytest.approx(spoken * 0.005)
    assert split.decode_ms == pytest.approx((ticks + 2 + spoken) * 0.005)
    said = bench.metrics.snapshot()
    assert said.transform.mean_ms == split.transform_ms
    assert said.decode.mean_ms == pytest.approx((2 * (ticks + 2) + spoken) * 0.005)


def test_work_goes_into_a_checkpoint_now_and_then() -> None:
    bench = Bench(tick=SAVED_NS // 2)
    bench.open(1)
    bench.data(1, *EVENTS[:2])
    assert records.CHECKPOINT in kinds(bench.step(2 * MS))  # the decoder has begun
    each = []
    for event in EVENTS[2:10]:
        bench.data(1, event)
        each.append(records.CHECKPOINT in kinds(bench.step(3 * MS)))
    assert each == [False, True] * 4


def test_a_successor_adds_to_the_work_of_the_one_before() -> None:
    bench = Bench(tick=SAVED_NS)
    bench.open(1)
    bench.data(1, *EVENTS[:4])
    taken = bench.step(2 * MS)
    (opened,) = [record for record in taken if record.kind == records.OPEN]
    (saved,) = [record for record in taken if record.kind == records.CHECKPOINT]
    left = Adopted(1, bytes(opened.payload), opened.a, saved.a, saved.b, bytes(saved.payload))
    bench.begin([left])
    bench.data(1, *EVENTS[4:])
    bench.end(1)
    (summary,) = summaries(bench.step(bench.clock.now + 5 * MS))
    assert summary.decode_ms == 2 * SAVED_NS / MS
    assert summary.first_token_ms == 1
    said = bench.metrics.snapshot()
    assert (said.streams, said.tokens, said.first_token.count, said.gap.count) == (1, 21, 1, 20)
    assert said.gap.max_ms == pytest.approx(5, rel=0.0625)  # since it was taken over


def test_a_checkpoint_of_an_older_worker_has_no_work() -> None:
    first_ns, body = 5, Stream(encode_open(Open(b"i" * 16, "chat", "p", "m")), 1).body.state()
    older = msgspec.msgpack.encode([first_ns, body, None, b""])
    opened = encode_open(Open(b"i" * 16, "chat", "p", "m"))
    stream = Stream.adopt(Adopted(1, opened, 1, 3, 100, older), 9)
    assert (stream.first_ns, stream.last_ns, stream.work_ns) == (5, 9, 0)
