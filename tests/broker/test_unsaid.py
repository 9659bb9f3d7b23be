"""What the broker does with a stream that failed before any token of it was seen."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest
from fakes.pipeline import ring, worker_counters

from ringcast.broker.dispatch import ATTEMPTS, Dispatch
from ringcast.broker.log import Log
from ringcast.broker.rebuild import Rebuild
from ringcast.broker.session import Sessions
from ringcast.broker.stream import Stream
from ringcast.config import Config
from ringcast.errors import Code
from ringcast.providers import commands
from ringcast.shm import records
from ringcast.shm.records import Open, encode_open
from ringcast.shm.ring import Reader, Writer
from ringcast.shm.tokens import Error, Text, decoder, encoder
from ringcast.workers.stage import Stage

ID = b"%016d" % 1
BROKEN = Error(Code.OVERLOADED, "not now", retryable=True)
START = commands.Start(1, ID, 0, "up", "model", commands.NOTHING, 1024)
LOST = records.TERMINAL


class Bench:
    """A broker without sockets: a worker's out-ring on one side, what it commands on the other."""

    def __init__(self) -> None:
        memory = ring(1 << 16)
        self.out = Writer(memory)
        self.log = Log(Reader(memory))
        self.sessions = Sessions([self.log])
        self.sent: list[commands.Command] = []
        loop = cast(asyncio.AbstractEventLoop, SimpleNamespace(time=time.monotonic))
        self.dispatch = Dispatch(self.sessions, Config(), self._send, loop)

    def _send(self, process: int, command: commands.Command) -> bool:
        self.sent.append(command)
        return True

    def stream(self) -> Stream:
        """A stream whose request was sent."""
        stream = Stream(1, ID, "up", "model", 0, 0, self.dispatch.window())
        stream.start = START
        self.sessions.add(stream)
        return stream

    def open(self, now_ns: int, attempt: int = 1) -> None:
        opened = Open(ID, "chat", "up", "model", attempt=attempt)
        self._put(records.OPEN, now_ns, encode_open(opened))

    def unsaid(self, now_ns: int) -> None:
        self._put(records.AGAIN, now_ns, encoder.encode(BROKEN), records.UNSAID)

    def again(self, now_ns: int, flags: int = 0) -> None:
        self._put(records.AGAIN, now_ns, b"", flags)

    def fail(self, error: Error) -> None:
        payload = encoder.encode([error])
        self._put(records.TOKENS, 0, payload, records.TERMINAL, count=1)

    def say(self, text: str) -> None:
        self._put(records.TOKENS, 0, encoder.encode([Text(text)]), count=1)

    def _put(self, kind: int, a: int, payload: bytes, flags: int = 0, count: int = 0) -> None:
        assert self.out.append(kind, 1, a, 0, payload, records.WHOLE | flags, count)

    def read(self) -> list[commands.Command]:
        """Do what the broker's process does with what a ring has; return what it commands."""
        self.out.publish()
        if batch := self.log.reader.poll():
            self.sessions.ingest(self.log, batch)
        while self.sessions.again:
            self.dispatch.go_on(self.sessions.again.pop())
        while self.sessions.unsaid:
            self.dispatch.unsaid(self.sessions.unsaid.pop())
        sent, self.sent = self.sent, []
        return sent


def end_of(stream: Stream) -> Error:
    """The error that is a stream's only token."""
    (record,) = stream.entries
    (error,) = decoder.decode(record.payload)
    assert isinstance(error, Error)
    assert stream.terminal
    return error


def live(slot: int, *, over: bool = False, limit: int = 1024) -> commands.Live:
    return commands.Live(slot, b"%016d" % slot, 0, "up", "model", limit, over)


def test_who_sent_it_is_asked_and_its_next_sending_has_a_window_of_its_own() -> None:
    bench = Bench()
    stream = bench.stream()
    before = stream.window
    bench.open(7)
    bench.unsaid(7)
    (asked,) = bench.read()
    told = stream.window.told
    assert asked == commands.Unsaid(1, 0, 7, BROKEN, told)
    assert stream.window is not before
    assert not stream.terminal
    (left,) = bench.sessions.of_worker(0)
    assert not left.opened, "its worker has forgotten it"


def test_of_an_earlier_sending_nothing_is_asked() -> None:
    bench = Bench()
    bench.stream()
    bench.open(8)
    bench.unsaid(7)
    assert bench.read() == []


def test_what_is_not_sent_again_ends_as_it_failed() -> None:
    bench = Bench()
    stream = bench.stream()
    bench.open(7)
    bench.unsaid(7)
    bench.read()
    assert not bench.sessions.errors
    bench.dispatch.spent(1)
    assert end_of(stream) == BROKEN
    assert bench.sessions.errors == [BROKEN], "nobody else has counted it"


def test_nothing_ends_that_nobody_kept_back() -> None:
    bench = Bench()
    stream = bench.stream()
    for slot in (1, 2):
        bench.dispatch.spent(slot)
    assert not stream.terminal


def test_a_cancelled_stream_ends_when_it_is_sure_not_to_be_sent_again() -> None:
    """Else a broker that dies behind the end would leave a request that goes on."""
    bench = Bench()
    stream = bench.stream()
    bench.open(7)
    bench.unsaid(7)
    bench.dispatch.cancel(stream)
    stop, asked = bench.read()
    assert isinstance(stop, commands.Stop)
    assert isinstance(asked, commands.Unsaid)
    assert not stream.terminal
    bench.dispatch.spent(1)
    assert end_of(stream).code == Code.CANCELLED


def test_what_is_left_of_a_sending_that_is_over_is_no_loss() -> None:
    """A successor of the worker finds records of it that nobody had released."""
    bench = Bench()
    stream = bench.stream()
    bench.open(7)
    bench.unsaid(7)
    bench.again(9, LOST)
    (asked,) = bench.read()
    assert isinstance(asked, commands.Unsaid)
    assert not stream.terminal
    bench.open(11)
    bench.again(12, LOST)
    bench.read()
    assert end_of(stream).code == Code.WORKER_LOST


def test_an_end_written_since_it_failed_sends_it_again() -> None:
    """The process that was to hear of it has died: its successor ends what it left."""
    bench = Bench()
    bench.stream()
    bench.open(7)
    bench.unsaid(7)
    bench.read()
    bench.again(7)
    assert bench.read() == [], "the end of that very sending"
    bench.again(9)
    (start,) = bench.read()
    assert isinstance(start, commands.Start)


def test_the_ends_of_several_dead_processes_are_one_repetition() -> None:
    bench = Bench()
    stream = bench.stream()
    bench.open(7)
    for number in range(2 * ATTEMPTS):
        bench.again(8 + number)
    assert len(bench.read()) == 1
    assert stream.attempts == 2


def test_what_was_said_of_an_earlier_sending_does_not_end_the_next() -> None:
    """A new broker reads both in the ring; of the first, somebody was asked before."""
    bench = Bench()
    stream = bench.stream()
    bench.open(7)
    bench.unsaid(7)
    bench.open(8)
    bench.say("one")
    assert bench.read() == []
    stream.unsaid = BROKEN
    bench.dispatch.spent(1)
    assert not stream.terminal


def test_an_end_alone_is_no_first_token() -> None:
    bench = Bench()
    bench.stream()
    bench.open(100)
    bench.fail(BROKEN)
    bench.read()
    assert bench.sessions.ended
    assert bench.sessions.begun == []


def test_a_successor_is_told_since_when_and_how_often_it_was_sent() -> None:
    bench = Bench()
    bench.stream().start = msgspec.structs.replace(START, since_ns=7)
    bench.open(100, 2)
    bench.again(150)
    (start,) = bench.read()
    assert isinstance(start, commands.Start)
    assert (start.since_ns, start.sent) == (7, 2)


def test_a_first_token_is_told_once() -> None:
    bench = Bench()
    stream = bench.stream()
    bench.open(7)
    bench.say("one")
    bench.read()
    bench.dispatch.began(bench.sessions.begun)
    assert bench.sent == [commands.Began([1])]
    assert stream.end == 1


# a new broker


class Successor(Bench):
    """A broker that knows nothing yet."""

    def __init__(self) -> None:
        super().__init__()
        self.rebuild = Rebuild(self.sessions, 1, self._make)

    def _make(self, slot: int, worker: int) -> Stream:
        return Stream(slot, b"", "", "", 0, worker, self.dispatch.window())


@pytest.mark.parametrize("report_first", [False, True])
def test_a_new_broker_asks_for_what_the_ring_still_has(report_first: bool) -> None:
    bench = Successor()
    if report_first:
        bench.rebuild.report(0, [live(1, over=True)], 20)
    bench.unsaid(7)
    (asked,) = bench.read()
    if not report_first:
        bench.rebuild.report(0, [live(1, over=True)], 20)
    assert isinstance(asked, commands.Unsaid)
    assert asked.opened_ns == 7
    assert bench.sessions.by_id[ID].slot == 1


def test_what_was_kept_back_outlives_its_worker_and_then_the_broker() -> None:
    """The worker's successor has it from the broker, and the broker's from that one."""
    bench = Bench()
    bench.stream()
    bench.open(7)
    bench.unsaid(7)
    bench.read()
    adopted = bench.sessions.of_worker(0)
    bench = Successor()  # with a ring in which nothing of it is left
    stage = Stage([], bench.out, worker_counters(), 2, adopted, bench.out.consumer_epoch + 1)
    stage.step(10)
    stage.step(11)
    (asked,) = bench.read()
    assert isinstance(asked, commands.Unsaid)
    assert (asked.opened_ns, asked.error) == (7, BROKEN)
    bench.dispatch.spent(1)
    assert end_of(bench.sessions.streams[1]) == BROKEN


@pytest.mark.parametrize("how", ["sent again", "said"])
def test_what_is_kept_back_no_more_is_left_to_no_successor(how: str) -> None:
    bench = Bench()
    bench.stream()
    bench.open(7)
    bench.unsaid(7)
    bench.read()
    if how == "said":
        bench.dispatch.spent(1)
        assert bench.sessions.of_worker(0) == []
    else:
        bench.open(8)
        bench.read()
        assert [one.opened_ns for one in bench.sessions.of_worker(0) if one.opened] == [8]


def test_a_new_broker_takes_what_is_over_for_no_stream() -> None:
    bench = Successor()
    bench.rebuild.report(0, [live(1, over=True), live(2)], 20)
    assert list(bench.sessions.streams) == [2]


def test_a_new_broker_abandons_nothing_that_is_over() -> None:
    bench = Successor()
    bench.unsaid(7)
    bench.read()
    ready = commands.Ready(0, 1, {}, [live(1, over=True)], 20)
    bench.rebuild.report(0, ready.live, ready.now_ns)
    bench.dispatch.ready[0] = ready
    bench.dispatch.reconcile(0)
    assert bench.sent == []
    bench.dispatch.ready[0] = msgspec.structs.replace(ready, live=[])
    bench.dispatch.reconcile(0)
    assert bench.sent == [commands.Abandon([(1, 0)])]


def test_what_was_granted_to_nobody_is_granted_again() -> None:
    """The process had not connected yet when the ring was read."""
    bench = Successor()
    bench.open(7)
    bench.read()
    stream = bench.sessions.streams[1]
    bench.rebuild.report(0, [live(1, limit=stream.window.told - 1)], 20)
    assert bench.sessions.granted == [stream]
    bench.sessions.granted.clear()
    bench.rebuild.report(0, [live(1, limit=stream.window.told)], 20)
    assert bench.sessions.granted == []
