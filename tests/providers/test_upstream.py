"""One request against a real socket: its clocks, its pauses, and how it gets out of the way."""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
import msgspec
import pytest
from fakes.daemon import free_port, in_loop, replaying
from fakes.pipeline import ring

from ringcast import fault
from ringcast.config import Config, Limits, Timeouts
from ringcast.errors import Code
from ringcast.providers.credentials import Anonymous
from ringcast.providers.flow import Flow, Outlet
from ringcast.providers.http.clocks import TICK_S
from ringcast.providers.http.transport import Transport
from ringcast.providers.upstream import Upstream
from ringcast.providers.wire.body import Ending
from ringcast.providers.wire.sse import SseFramer
from ringcast.replay.process import Upstream as Replay
from ringcast.shm import records
from ringcast.shm.ring import Reader, Writer
from ringcast.workers.stream import decode_ending

CONFIG = Config(timeouts=Timeouts(idle_s=30.0, total_s=60.0), limits=Limits(drain_s=0.5))


class Bench:
    """Requests to a replay upstream, and the ring that their bodies go into."""

    def __init__(self, replay: Replay, port: int, client: httpx.AsyncClient) -> None:
        self.replay = replay
        self.transport = client._transport
        self._url = f"http://127.0.0.1:{port}/v1/chat/completions"
        self.client = client
        memory = ring(1 << 20)
        self.outlet = Outlet(Writer(memory), self._moved)
        self.reader = Reader(memory)
        self.ended = asyncio.Event()
        self._news = asyncio.Event()

    def _moved(self) -> None:
        self.outlet.marked = False
        self._news.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until `holds()`; looked at whenever the flow has written something."""
        while not holds():
            self._news.clear()
            await self._news.wait()

    def start(self, model: str, limit: int = 1 << 19, config: Config = CONFIG) -> Upstream:
        flow = Flow(1, self.outlet, SseFramer(), limit)
        body = msgspec.json.encode({"model": model, "stream": True})
        request = self.client.build_request("POST", self._url, content=body)
        return Upstream(flow, self.client, request, config, Anonymous(), self.over)

    def over(self, upstream: Upstream, ending: Ending) -> None:
        upstream.flow.end(ending, time.monotonic_ns())
        self.ended.set()

    def ending(self) -> Ending:
        """How the stream ended: its last record."""
        self.outlet.writer.publish()
        *_, last = self.reader.poll(100_000)
        assert last.kind == records.END
        return decode_ending(last.payload)


class Faulty(Anonymous):
    """A credential with a fault of ours."""

    async def authorize(self, request: httpx.Request, client: httpx.AsyncClient) -> None:
        raise KeyError("x-api-key: canary")


def later(upstream: Upstream, now: float, seconds: float) -> float:
    """Look at the clocks every tick, for so long or until one has run out; return the time."""
    for _ in range(round(seconds / TICK_S)):
        now += TICK_S
        if upstream.overdue(now):
            break
    return now


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    port = free_port()
    transport = Transport(ssl.create_default_context(), CONFIG.limits, 60.0)
    async with replaying(port) as replay, httpx.AsyncClient(transport=transport) as client:
        yield Bench(replay, port, client)


@in_loop
async def test_to_the_end() -> None:
    async with bench() as it:
        upstream = it.start("numbered;n=50")
        await it.ended.wait()
        assert upstream.flow.finished
        assert it.ending().kind == "eof"


@in_loop
async def test_a_pause_of_ours_is_no_silence_of_the_providers() -> None:
    """A client that stalls for longer than `idle_s` finds its stream alive when it is back."""
    async with bench() as it:
        upstream = it.start("numbered;n=0", limit=20_000)
        await it.until(lambda: upstream.flow.held)
        now = later(upstream, time.monotonic(), 1000 * CONFIG.timeouts.idle_s)
        upstream.flow.grant(40_000)
        upstream.adapt()
        assert not upstream.overdue(now)
        upstream.cancel()


@pytest.mark.parametrize(
    ("model", "limits", "code"),
    [
        ("numbered;n=9;stall_at=900", {"idle_s": 30.0}, Code.IDLE_TIMEOUT),
        ("numbered;n=0;pace=100", {"total_s": 60.0}, Code.TOTAL_TIMEOUT),
        ("numbered;delay_s=60", {"total_s": 60.0}, Code.TOTAL_TIMEOUT),
        ("numbered;n=0;pace=100", {"first_token_s": 20.0}, Code.FIRST_TOKEN_TIMEOUT),
    ],
)
@in_loop
async def test_clocks(model: str, limits: dict[str, float], code: Code) -> None:
    """One of them at a time; the upstream sees its client go."""
    ((setting, limit_s),) = limits.items()
    async with bench() as it:
        none = Timeouts(first_token_s=0.0, idle_s=0.0, total_s=0.0)
        config = Config(timeouts=msgspec.structs.replace(none, **limits))
        upstream = it.start(model, config=config)
        await it.replay.until(lambda: bool(it.replay.seen))
        await it.until(lambda: "delay" in model or upstream.flow.sent > 0)
        now = later(upstream, time.monotonic(), limit_s - 1)
        assert not it.ended.is_set()
        later(upstream, now, 2)
        ending = it.ending()
        assert ending.code == code
        assert ending.message.endswith(f"{limit_s:g} s (timeouts.{setting})")
        await it.replay.until(lambda: it.replay.seen[0].ended in ("fin", "rst"))


@in_loop
async def test_a_token_that_was_seen_stops_the_first_token_clock() -> None:
    async with bench() as it:
        config = Config(timeouts=Timeouts(first_token_s=20.0, idle_s=0.0, total_s=0.0))
        upstream = it.start("numbered;n=0;pace=100", config=config)
        upstream.token_seen()
        later(upstream, time.monotonic(), 1000)
        assert not it.ended.is_set()
        upstream.cancel()


@in_loop
async def test_of_a_fault_of_ours_only_type_and_place_are_told(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Its text may hold anything, a header among it."""
    fault.watch(asyncio.get_running_loop())
    async with bench() as it:
        flow = Flow(1, it.outlet, SseFramer(), 1 << 19)
        request = httpx.Request("POST", "http://127.0.0.1:1/")
        Upstream(flow, it.client, request, CONFIG, Faulty(), it.over)
        await it.ended.wait()
        ending = it.ending()
        assert ending.code == Code.INTERNAL
        named = re.escape("the request could not be carried out: KeyError at ")
        assert re.fullmatch(named + r"providers/credentials\.py:\d+", ending.message)
    said = capfd.readouterr().err
    assert re.fullmatch(r"ringcast: fault: KeyError at providers/credentials\.py:\d+\n", said)


@in_loop
async def test_a_fault_in_what_is_read_is_no_broken_connection(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(flow: Flow, chunk: bytes, now_ns: int) -> bool:
        raise ValueError(f"canary {chunk!r}")

    fault.watch(asyncio.get_running_loop())
    async with bench() as it:
        monkeypatch.setattr(Flow, "data", faulty)
        it.start("numbered;n=0;pace=100")
        await it.ended.wait()
        assert it.ending().code == Code.INTERNAL
        await it.replay.until(lambda: it.replay.seen[0].ended in ("fin", "rst"))
    said = capfd.readouterr().err
    assert said.startswith("ringcast: fault: ValueError at providers/upstream.py:")
    assert "canary" not in said


@in_loop
async def test_clocks_that_are_off() -> None:
    async with bench() as it:
        off = Config(timeouts=Timeouts(first_token_s=0.0, idle_s=0.0, total_s=0.0))
        upstream = it.start("numbered;n=0;stall_at=900", config=off)
        later(upstream, time.monotonic(), 10_000)
        upstream.cancel()
        assert it.ending().code == Code.CANCELLED


@in_loop
async def test_after_the_terminal_token_the_connection_is_kept() -> None:
    """What is left of the body is read and dropped, without credit, and the socket reused."""
    async with bench() as it:
        upstream = it.start("numbered;n=100", limit=25_000)
        await it.until(lambda: upstream.flow.held)
        upstream.finish()
        await it.ended.wait()
        assert upstream.flow.finished
        await it.replay.until(lambda: it.replay.seen[0].ended == "done")
        assert isinstance(it.transport, Transport)
        assert it.transport.gauges.idle == 1


@in_loop
async def test_after_the_terminal_token_without_end() -> None:
    """A body that never ends is read for 64 KiB, then its connection is closed."""
    async with bench() as it:
        upstream = it.start("numbered;n=0", limit=25_000)
        await it.until(lambda: upstream.flow.held)
        upstream.finish()
        await it.ended.wait()
        assert upstream.flow.finished
        await it.replay.until(lambda: it.replay.seen[0].ended in ("fin", "rst"))
