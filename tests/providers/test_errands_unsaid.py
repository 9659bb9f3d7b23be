"""What becomes of a request that failed: by its worker's word, or by a fault of ours."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from fakes.daemon import in_loop
from fakes.pipeline import ring

from ringcast import fault
from ringcast.config import Config, Provider, Retry
from ringcast.errors import Code
from ringcast.providers import commands
from ringcast.providers.flow import Outlet
from ringcast.providers.process import Process
from ringcast.providers.request import Call
from ringcast.providers.traffic import course, sender
from ringcast.providers.traffic.errands import Errands
from ringcast.providers.traffic.manager import ProviderManager
from ringcast.providers.upstream import CANCELLED
from ringcast.providers.wire.body import Ending
from ringcast.shm import counters, records
from ringcast.shm.records import decode_open
from ringcast.shm.ring import Reader, Writer
from ringcast.shm.shared_words import SharedWords
from ringcast.shm.tokens import Error
from ringcast.workers.stream import decode_ending

CONFIG = Config(providers={"up": Provider("openai")}, retry=Retry(attempts=3, pause_s=0.0))
LIMITED = Config(providers={"up": Provider("openai", concurrency=1)})
SAID = {"role": "user", "content": "hi"}
ASKED = msgspec.Raw(msgspec.msgpack.encode({"model": "up/m", "messages": [SAID]}))
START = commands.Start(1, b"%016d" % 1, 0, "up", "m", ASKED, 1 << 16)
PASSING = Error(Code.EMPTY_RESPONSE, "nothing came", retryable=True)
LASTING = Error(Code.BAD_REQUEST, "never")
SOON_S = 0.15  # beyond the least pause


def shaped(model: str, asked: Any) -> tuple[str, Call]:
    """What is sent, whatever is asked."""
    return "chat", Call("/chat")


class FakeUpstream:
    """A connection that the test ends."""

    def __init__(self, flow: Any, *rest: Any) -> None:
        self.flow, self._on_end = flow, rest[4]
        self.dropped = False

    def drop(self) -> None:
        self.dropped = True

    def cancel(self) -> None:
        self.end(CANCELLED)

    def token_seen(self) -> None:
        """Nothing waits for it here."""

    def end(self, ending: Ending) -> None:
        self._on_end(self, ending)


class Bench:
    """The requests of a provider process, its in-ring, and what it tells the broker."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        shape: Callable[[str, Any], Any] = shaped,
        config: Config = CONFIG,
    ) -> None:
        self.sent: list[FakeUpstream] = []
        self.told: list[commands.Command] = []
        memory = ring(1 << 16)
        self.writer, self.reader = Writer(memory), Reader(memory)
        block = counters.Block(memoryview(bytearray(counters.BLOCK_BYTES)), 0, "provider")
        manager = ProviderManager(config, {"up": 1}, SharedWords.private())
        gateway = SimpleNamespace(
            config=CONFIG.providers["up"],
            credential=None,
            shape=shape,
            request=lambda client, call: call,
        )
        monkeypatch.setattr(sender, "Upstream", self._connect)
        client: Any = None
        gateways: Any = {"up": [gateway]}
        outlets = [Outlet(self.writer, lambda: None)]
        self.errands = Errands(
            CONFIG, manager, gateways, client, outlets, block, self.told.append, lambda *_: None
        )
        self.errands.start(START)

    def _connect(self, *given: Any) -> FakeUpstream:
        self.sent.append(FakeUpstream(*given))
        return self.sent[-1]

    def written(self) -> list[tuple[int, int]]:
        """Kind and time of all that was written to the ring since."""
        self.writer.publish()
        return [(record.kind, record.a) for record in self.reader.poll()]

    def opened(self) -> list[records.Open]:
        """What was written before each sending, and before an end without one."""
        self.writer.publish()
        polled = self.reader.poll()
        return [decode_open(one.payload) for one in polled if one.kind == records.OPEN]

    def fail(self, error: Error, opened_ns: int) -> None:
        """What the broker says when a worker has kept an error back."""
        self.errands.unsaid(commands.Unsaid(1, 0, opened_ns, error, 1 << 16))

    def stop(self, *, cancel: bool = False, ended: bool = False) -> None:
        self.errands.stop(commands.Stop(1, cancel, ended))


@in_loop
async def test_it_is_sent_again_behind_the_end_of_the_sending_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch)
    ((kind, opened_ns),) = bench.written()
    assert kind == records.OPEN
    bench.fail(PASSING, opened_ns)
    bench.fail(PASSING, opened_ns)
    assert bench.sent[0].dropped
    await asyncio.sleep(SOON_S)
    assert len(bench.sent) == 2
    end, again = bench.written()
    assert end == (records.END, opened_ns), "no broker takes so old an end for that of a process"
    assert again[0] == records.OPEN
    assert again[1] > opened_ns


@in_loop
async def test_what_is_said_of_an_earlier_sending_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch)
    ((_, opened_ns),) = bench.written()
    bench.fail(PASSING, opened_ns)
    bench.fail(PASSING, opened_ns)
    await asyncio.sleep(SOON_S)
    bench.errands.began(1)
    bench.fail(PASSING, opened_ns)
    assert commands.Spent(1) not in bench.told
    assert not bench.sent[1].dropped
    assert len(bench.errands.upstreams) == 1


@in_loop
async def test_a_sending_that_failed_by_itself_is_not_failed_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch)
    ((_, opened_ns),) = bench.written()
    bench.sent[0].end(Ending("http", status=500))
    bench.fail(PASSING, opened_ns)
    await asyncio.sleep(SOON_S)
    assert len(bench.sent) == 2


@in_loop
async def test_what_does_not_pass_is_not_sent_again_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch)
    ((_, opened_ns),) = bench.written()
    bench.fail(LASTING, opened_ns)
    bench.fail(LASTING, opened_ns)
    assert bench.told == [commands.Spent(1)] * 2
    bench.stop(ended=True)
    assert bench.errands.live == []
    assert not bench.errands._errands
    assert not bench.errands._flows


@in_loop
async def test_what_was_cancelled_behind_its_end_is_not_sent_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch)
    ((_, opened_ns),) = bench.written()
    bench.sent[0].end(Ending("eof", status=200))
    bench.stop(cancel=True)
    bench.fail(PASSING, opened_ns)
    assert bench.told == [commands.Spent(1)]


@in_loop
async def test_what_is_asked_twice_is_sent_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch)
    bench.errands.start(START)
    bench.sent[0].end(Ending("eof", status=200))
    bench.errands.start(START)
    assert len(bench.sent) == 1


@in_loop
async def test_what_a_process_that_died_had_sent_counts_on(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    since_ns = time.monotonic_ns() - 10**9
    anew = msgspec.structs.replace(START, slot=2, since_ns=since_ns, sent=2)
    bench.errands.start(anew)
    first, second = bench.opened()
    assert first.attempt == 1
    assert first.since_ns > since_ns
    assert (second.attempt, second.since_ns) == (3, since_ns)


@in_loop
async def test_what_is_refused_at_once_was_sent_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    bench.errands.start(msgspec.structs.replace(START, slot=2, provider="unknown"))
    assert [one.attempt for one in bench.opened()] == [1, 0]


@in_loop
async def test_who_waits_longer_than_told_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(course, "TOLD_AGAIN_S", 0.15)
    bench = Bench(monkeypatch, config=LIMITED)
    bench.errands.start(msgspec.structs.replace(START, slot=2))
    while len(bench.told) < 3:  # noqa: ASYNC110
        await asyncio.sleep(SOON_S)
    told = [one for one in bench.told if isinstance(one, commands.Waiting)]
    assert {(one.slot, one.reason) for one in told} == {(2, "up: concurrency")}
    assert told[0].seconds <= 0.1 < told[1].seconds < told[2].seconds
    bench.stop(ended=True, cancel=True)
    await asyncio.sleep(SOON_S)
    assert len(bench.sent) == 2
    assert bench.told[-1] == commands.Waiting(2, "", 0.0)


@in_loop
async def test_what_nobody_here_knows_is_not_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The broker has abandoned it, and hears of it by its worker."""
    bench = Bench(monkeypatch)
    bench.errands.unsaid(commands.Unsaid(2, 0, 7, PASSING, 1 << 16))
    assert bench.told == []
    assert len(bench.written()) == 1


# a fault of ours


def cited(model: str, asked: Any) -> tuple[str, Call]:
    """Break over one model, citing what may not be told."""
    if model == "broken":
        raise KeyError("x-api-key: canary")
    return shaped(model, asked)


def ended(bench: Bench) -> list[tuple[int, Ending | None]]:
    """Slot of each record since, and of ENDs how."""
    bench.writer.publish()
    return [
        (one.stream, decode_ending(one.payload) if one.kind == records.END else None)
        for one in bench.reader.poll()
    ]


@in_loop
async def test_a_fault_ends_its_own_stream_and_the_commands_behind_it_are_obeyed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    fault.watch(asyncio.get_running_loop())
    bench = Bench(monkeypatch, cited)
    process = object.__new__(Process)
    process._errands = bench.errands
    broken = msgspec.structs.replace(START, slot=2, model="broken")
    later = msgspec.structs.replace(START, slot=3)
    process._on_commands([([], commands.encode(one)) for one in (broken, later)])
    assert [one.flow.slot for one in bench.sent] == [1, 3]
    said = dict(ended(bench))
    assert said.keys() == {1, 2, 3}
    assert said[1] is said[3] is None
    assert said[2] is not None
    assert (said[2].kind, said[2].code) == ("failed", Code.INTERNAL)
    assert said[2].message.startswith("the request could not be carried out: KeyError at ")
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "canary" not in lines[0]
    bench.errands.stop(commands.Stop(2, cancel=False, ended=True))
    assert [one.slot for one in bench.errands.live] == [1, 3]


@pytest.mark.parametrize("where", ["next", "failed"])
@in_loop
async def test_a_fault_where_nobody_awaits_ends_the_stream_all_the_same(
    where: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In a timer, and in what a connection's end calls."""

    def broken(*_: object) -> None:
        raise KeyError("x-api-key: canary")

    fault.watch(asyncio.get_running_loop())
    bench = Bench(monkeypatch)
    monkeypatch.setattr(ProviderManager, where, broken)
    bench.sent[0].end(Ending("http", status=500))
    while not (said := [how for _, how in ended(bench) if how is not None]):  # noqa: ASYNC110
        await asyncio.sleep(SOON_S)
    assert [how.code for how in said] == [Code.INTERNAL]
    assert len(bench.sent) == 1
    assert "canary" not in capfd.readouterr().err
    bench.stop(ended=True)
    assert bench.errands.live == []
