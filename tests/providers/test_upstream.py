"""One request against a real socket: its clocks, its pauses, and how it gets out of the way."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
import msgspec
import pytest
from fakes.daemon import free_port, in_loop, replaying
from fakes.pipeline import ring

from ringcast.config import Config, Limits, Timeouts
from ringcast.errors import Code
from ringcast.providers.credentials import Anonymous
from ringcast.providers.flow import Flow, Outlet
from ringcast.providers.transport import Transport
from ringcast.providers.upstream import Upstream, retry_after_s
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
        self._client = client
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
        request = self._client.build_request("POST", self._url, content=body)
        return Upstream(flow, self._client, request, config, Anonymous(), self._over)

    def _over(self, _: Upstream) -> None:
        self.ended.set()

    def ending(self) -> Ending:
        """How the stream ended: its last record."""
        self.outlet.writer.publish()
        *_, last = self.reader.poll(100_000)
        assert last.kind == records.END
        return decode_ending(last.payload)


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
        late = time.monotonic() + 1000 * CONFIG.timeouts.idle_s
        upstream.began = late
        assert not upstream.overdue(late)
        upstream.progress = time.monotonic() - 1000
        upstream.flow.grant(40_000)
        upstream.adapt()
        assert not upstream.overdue(time.monotonic())
        upstream.cancel()


@pytest.mark.parametrize(
    ("model", "after_s", "code", "setting"),
    [
        ("numbered;n=9;stall_at=900", 31, Code.IDLE_TIMEOUT, "30 s (timeouts.idle_s)"),
        ("numbered;n=0;pace=100", 61, Code.TOTAL_TIMEOUT, "60 s (timeouts.total_s)"),
        ("numbered;delay_s=60", 61, Code.TOTAL_TIMEOUT, "60 s (timeouts.total_s)"),
    ],
)
@in_loop
async def test_body_clocks(model: str, after_s: float, code: Code, setting: str) -> None:
    async with bench() as it:
        upstream = it.start(model)
        await it.replay.until(lambda: bool(it.replay.seen))
        await it.until(lambda: "delay" in model or upstream.flow.sent > 0)
        now = time.monotonic()
        assert not upstream.overdue(now)
        assert upstream.overdue(now + after_s)
        ending = it.ending()
        assert ending.code == code
        assert ending.message.endswith(setting)
        await it.replay.until(lambda: it.replay.seen[0].ended in ("fin", "rst"))


@in_loop
async def test_clocks_that_are_off() -> None:
    async with bench() as it:
        off = Config(timeouts=Timeouts(idle_s=0.0, total_s=0.0))
        upstream = it.start("numbered;n=0;stall_at=900", config=off)
        assert not upstream.overdue(time.monotonic() + 1e6)
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
        assert it.transport.idle_connections == 1


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


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": " 0 "}, 0.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "315360000"}, 86400.0),
        ({"retry-after": "9" * 4000}, 86400.0),
        ({"retry-after": "1e99"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "."}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, None),
        ({"retry-after": "\u0661\u0662"}, None),
    ],
)
def test_how_long_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    assert retry_after_s(httpx.Headers(raw)) == seconds
