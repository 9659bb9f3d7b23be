"""The flow: whole events into the ring, by credit and room, whatever the cuts."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from fakes.frames import message
from fakes.pipeline import ring
from hypothesis import given, settings
from hypothesis import strategies as st

from ringcast.errors import Code
from ringcast.providers.flow import Flow, Outlet
from ringcast.providers.upstream import CANCELLED
from ringcast.providers.wire.body import Ending
from ringcast.providers.wire.framing import framer
from ringcast.providers.wire.sse import SseFramer, WireError
from ringcast.shm import records
from ringcast.shm.layout import max_payload
from ringcast.shm.records import Open
from ringcast.shm.ring import Reader, Record, Writer
from ringcast.workers.stream import decode_ending

CAPACITY = 1 << 12
LARGEST = max_payload(CAPACITY)
OPENED = Open(b"0123456789abcdef", "chat", "fake", "model")


class Bench:
    """A flow, and the consumer of its ring."""

    def __init__(self, limit: int, capacity: int = CAPACITY) -> None:
        memory = ring(capacity)
        self.outlet = Outlet(Writer(memory), lambda: None)
        self.reader = Reader(memory)
        self.flow = Flow(1, self.outlet, SseFramer(), limit)
        self.flow.open(OPENED, 0)

    def taken(self) -> list[Record]:
        """What is in the ring, which is then empty; flows that wait for room go on."""
        self.outlet.writer.publish()
        taken = [(r, bytes(r.payload)) for r in self.reader.poll(10_000)]
        if taken:
            self.reader.release(taken[-1][0].end)
        waiting, self.outlet.waiting = self.outlet.waiting, {}
        for flow in waiting.values():
            flow.pump()
        return [
            Record(r.kind, r.flags, r.count, r.stream, r.a, r.b, memoryview(p), r.end)
            for r, p in taken
        ]


def payloads(taken: list[Record]) -> bytes:
    return b"".join(bytes(r.payload) for r in taken if r.kind == records.DATA)


def event(size: int, fill: bytes = b"x") -> bytes:
    return b"data: " + fill * (size - 8) + b"\n\n"


def test_credit_is_overrun_by_one_record_at_most() -> None:
    bench = Bench(limit=1000)
    bench.flow.data(event(100) * 40, 0)
    taken = bench.taken() + bench.taken() + bench.taken()
    assert bench.flow.held
    assert 1000 <= bench.flow.sent < 1000 + LARGEST
    assert len(payloads(taken)) == bench.flow.sent
    assert taken[-1].b == bench.flow.sent
    bench.flow.grant(900)  # an old message
    assert bench.taken() == []
    bench.flow.grant(10_000)
    bench.flow.grant(2000)  # another
    assert bench.flow.limit == 10_000
    rest = bench.taken() + bench.taken()
    assert payloads(taken + rest) == event(100) * 40
    assert not bench.flow.held


@pytest.mark.parametrize("size", [LARGEST, LARGEST + 1, CAPACITY, 10 * CAPACITY + 3])
def test_an_event_larger_than_record_and_ring(size: int) -> None:
    bench = Bench(limit=1)  # an event that was begun is finished, whatever the credit
    body = event(size)
    for start in range(0, size, 1000):
        bench.flow.data(body[start : start + 1000], 0)
    taken: list[Record] = []
    while batch := bench.taken():
        taken += batch
    data = [r for r in taken if r.kind == records.DATA]
    assert payloads(taken) == body
    flags = [r.flags for r in data]
    assert flags[0] & records.BEGIN
    assert flags[-1] & records.LAST
    assert sum(flag & records.BEGIN for flag in flags) == 1
    assert sum(bool(flag & records.LAST) for flag in flags) == 1
    assert bench.flow.sent == size


def test_the_end_is_last_and_only_once() -> None:
    bench = Bench(limit=500)
    bench.flow.data(event(100) * 20 + b"data: unfinished", 0)
    bench.flow.end(Ending(), 0)
    bench.flow.end(Ending("reset"), 0)
    assert bench.flow.ended
    assert not bench.flow.finished
    taken = bench.taken()
    assert records.END not in {r.kind for r in taken}
    bench.flow.grant(1 << 20)
    taken += bench.taken() + bench.taken() + bench.taken()
    assert bench.flow.finished
    assert [r.kind for r in taken].count(records.END) == 1
    *data, end = taken
    assert decode_ending(end.payload) == Ending()
    assert payloads(data) == event(100) * 20 + b"data: unfinished"
    assert data[-1].flags == records.WHOLE | records.REST


@pytest.mark.parametrize("ended", [False, True])
def test_a_cancel_drops_what_waits(ended: bool) -> None:
    """Also behind an end that waits for credit: nobody will grant any."""
    bench = Bench(limit=500)
    bench.flow.data(event(100) * 20, 0)
    if ended:
        bench.flow.end(Ending(), 0)
    bench.flow.end(CANCELLED, 0)
    taken = bench.taken()
    assert bench.flow.finished
    assert [r.kind for r in taken].count(records.END) == 1
    assert decode_ending(taken[-1].payload).code == Code.CANCELLED
    assert len(payloads(taken)) < 500 + LARGEST
    bench.flow.end(CANCELLED, 0)  # twice is harmless
    assert bench.taken() == []


def test_a_cancel_in_a_full_ring_keeps_the_opening() -> None:
    """Without its OPEN the worker would ignore the END, and the stream would never end."""
    memory = ring(CAPACITY)
    outlet = Outlet(Writer(memory), lambda: None)
    reader = Reader(memory)
    while outlet.writer.append(9, 0, 0, 0, b"x" * 100):
        pass
    while outlet.writer.append(9, 0, 0, 0, b""):
        pass
    outlet.writer.publish()
    flow = Flow(1, outlet, SseFramer(), 1000)
    flow.open(OPENED, 0)
    flow.data(event(50), 0)
    flow.end(CANCELLED, 0)
    assert outlet.waiting == {1: flow}
    reader.release(reader.poll(1000)[-1].end)
    flow.pump()
    outlet.writer.publish()
    assert [r.kind for r in reader.poll()] == [records.OPEN, records.END]


def test_an_error_body_larger_than_a_record() -> None:
    bench = Bench(limit=1000)
    bench.flow.end(Ending("http", status=500, body=b"y" * 100_000), 0)
    end = decode_ending(bench.taken()[-1].payload)
    assert end.status == 500
    assert set(end.body) == {ord("y")}
    assert LARGEST - 100 < len(end.body) < LARGEST


EVENT: dict[str, Callable[[int], bytes]] = {
    "chat": event,
    "generate": lambda size: b"data: " + b"x" * (size - 10) + b"\r\n\r\n",
    "native": lambda size: b'{"a":"' + b"x" * (size - 9) + b'"}\n',
    "converse": lambda size: message({"a": "b"}, b"x" * (size - 22)),
}


@pytest.mark.parametrize("api", EVENT)
def test_records_end_where_events_end(api: str) -> None:
    bench = Bench(limit=1 << 20)
    bench.flow.framer = framer(api)
    sizes = [LARGEST // 3 - 5 * n for n in range(9)]
    body = b"".join(EVENT[api](size) for size in sizes)
    bench.flow.data(body, 0)
    taken: list[Record] = []
    while batch := bench.taken():
        taken += [record for record in batch if record.kind == records.DATA]
    assert [len(record.payload) for record in taken] == [sum(sizes[n : n + 3]) for n in (0, 3, 6)]
    assert all(record.flags == records.WHOLE for record in taken)
    assert payloads(taken) == body


def test_good_messages_are_written_before_a_bad_one_is_told() -> None:
    bench = Bench(limit=1000)
    bench.flow.framer = framer("converse")
    good = message({"a": "b"}, b"good")
    with pytest.raises(WireError) as caught:
        bench.flow.data(good + good[:-1] + b"x", 0)
    assert caught.value.code == Code.AWS_MESSAGE_CRC
    bench.flow.end(Ending("failed", caught.value.code), 0)
    taken = bench.taken()
    assert payloads(taken) == good
    assert decode_ending(taken[-1].payload).code == Code.AWS_MESSAGE_CRC


@pytest.mark.parametrize(
    ("kind", "code"), [("eof", Code.AWS_TRUNCATED), ("reset", ""), ("failed", "idle_timeout")]
)
def test_a_cut_message_is_why_a_body_failed_if_nothing_else_is(kind: Any, code: str) -> None:
    bench = Bench(limit=1000)
    bench.flow.framer = framer("converse")
    good = message({"a": "b"}, b"good")
    bench.flow.data(good + good[:20], 0)
    bench.flow.end(Ending(kind, code="idle_timeout" if kind == "failed" else ""), 0)
    taken = bench.taken()
    assert payloads(taken) == good
    end = decode_ending(taken[-1].payload)
    assert (end.kind, end.code) == ("failed" if kind == "eof" else kind, code)


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.integers(8, 3000), max_size=30),
    rest=st.binary(max_size=700),
    ends=st.sampled_from([b"\n\n", b"\r\n\r\n", b"\r\r"]),
    seed=st.integers(0, 1 << 32),
    window=st.integers(1, 5000),
)
def test_nothing_is_lost_and_no_record_is_split_wrongly(
    sizes: list[int], rest: bytes, ends: bytes, seed: int, window: int
) -> None:
    draw = random.Random(seed)
    body = b"".join(b"data: " + b"x" * (size - 8) + ends for size in sizes) + b"data:" + rest
    bench = Bench(limit=window)
    taken: list[Record] = []
    at, overrun = 0, 0
    while not bench.flow.finished:
        if not bench.flow.held and at < len(body):
            size = draw.randint(1, 2000)
            bench.flow.data(body[at : at + size], 0)
            at += size
        elif not bench.flow.held and not bench.flow.ended:
            bench.flow.end(Ending(), 0)
        if draw.random() < 0.5:
            taken += bench.taken()
        overrun = max(overrun, bench.flow.sent - bench.flow.limit)
        if draw.random() < 0.5:
            done = sum(len(r.payload) for r in taken if r.kind == records.DATA)
            bench.flow.grant(done + window)
    taken += bench.taken()
    assert overrun <= max([LARGEST, len(rest) + 5, *sizes]) + 2000
    framer = SseFramer()
    # A read that ends in CR CR may already end an event; the LF behind it then says nothing.
    silent = b"\n" if b"\r" in ends else b""
    whole = framer.feed(body) + framer.rest()
    assert payloads(taken).translate(None, silent) == whole.translate(None, silent)
    open_ = False
    for record in taken:
        if record.kind == records.DATA:
            assert bool(record.flags & records.BEGIN) != open_
            open_ = not record.flags & records.LAST
