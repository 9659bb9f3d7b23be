"""Cancel and disconnect are two verbs: one closes the upstream now, the other after a lease.

Every test looks at the upstream's own end of the connection.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Iterator

import psutil
import pytest
from fakes.daemon import (
    Daemon,
    ask,
    canaries,
    daemon,
    free_port,
    in_loop,
    replaying,
    take,
    take_some,
    texts,
    until_async,
)

from ringcast.broker.client import Client
from ringcast.errors import Code, RequestError
from ringcast.replay.numbered import numbered_tokens
from ringcast.replay.process import Upstream
from ringcast.shm.tokens import Done, Error, Text

PORT = free_port()
CONFIG = f"""
[providers.up]
kind = "openai-compatible"
base_url = "http://127.0.0.1:{PORT}/v1"
[credit]
lease_s = 1.0
window_max_bytes = 65536
[limits]
drain_s = 0.5
"""
ENDLESS = "up/numbered;n=0;pace=200"
FLOOD = "up/numbered;n=0;pace=0"


@pytest.fixture(scope="module")
def running() -> Iterator[Daemon]:
    with daemon(CONFIG) as started:
        yield started


async def closed(upstream: Upstream, number: int = -1) -> None:
    """Wait until the upstream sees its client gone."""
    await upstream.until(lambda: bool(upstream.seen) and upstream.seen[number].ended != "open")
    assert upstream.seen[number].ended in ("fin", "rst")


async def asked(upstream: Upstream, n: int = 1) -> None:
    await upstream.until(lambda: len(upstream.seen) >= n)


def is_cancelled(token: object) -> bool:
    return isinstance(token, Error) and token.code == Code.CANCELLED


@in_loop
async def test_while_connecting(running: Daemon) -> None:
    """The upstream's queue of connections is full: the kernel answers nobody."""
    with socket.create_server(("127.0.0.1", PORT), backlog=0) as listener:
        listener.setblocking(False)
        fill = [socket.socket() for _ in range(4)]
        for one in fill:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", PORT))
        async with running.connect() as client:
            stream = await ask(client, ENDLESS)
            await stream.cancel()
            assert [is_cancelled(token) for token in await take(stream)] == [True]
        for one in fill:
            one.close()


@in_loop
async def test_before_the_head(running: Daemon) -> None:
    async with replaying(PORT) as upstream, canaries(running), running.connect() as client:
        stream = await ask(client, "up/numbered;delay_s=60")
        await upstream.until(lambda: any("delay" in seen.model for seen in upstream.seen))
        number = next(i for i, seen in enumerate(upstream.seen) if "delay" in seen.model)
        await stream.cancel()
        assert [is_cancelled(token) for token in await take(stream)] == [True]
        await closed(upstream, number)


@in_loop
async def test_in_the_body(running: Daemon) -> None:
    async with replaying(PORT) as upstream, running.connect() as client:
        stream = await ask(client, ENDLESS)
        taken = await take_some(stream, 5)
        await stream.cancel()
        taken += await take(stream)
        said = texts(taken)
        assert said == list(numbered_tokens(len(said)))
        assert is_cancelled(taken[-1])
        await closed(upstream)


@in_loop
async def test_while_the_provider_is_silent(running: Daemon) -> None:
    async with replaying(PORT) as upstream, running.connect() as client:
        stream = await ask(client, "up/numbered;n=9;stall_at=2000")
        await take_some(stream, 2)
        await stream.cancel()
        assert is_cancelled((await take(stream))[-1])
        await closed(upstream)


async def stalled(upstream: Upstream) -> int:
    """Wait until the upstream's writes have stopped; the bytes that it got rid of."""
    before = -1
    while upstream.bytes_sent != before:
        before = upstream.bytes_sent
        await asyncio.sleep(0.5)
    return before


@in_loop
async def test_while_the_credit_is_used_up(running: Daemon) -> None:
    async with replaying(PORT) as upstream, running.connect() as client:
        stream = await ask(client, FLOOD)
        await asked(upstream)
        await stalled(upstream)
        await stream.cancel()
        await closed(upstream)
        taken = await take(stream)
        assert is_cancelled(taken[-1])
        assert texts(taken) == list(numbered_tokens(len(texts(taken))))


@in_loop
async def test_when_the_end_waits_for_credit(running: Daemon) -> None:
    """The whole body has come, but not all of it may go on; a cancel still ends the stream."""
    async with replaying(PORT) as upstream, running.connect() as client:
        stream = await ask(client, "up/numbered;n=300", window=1)
        await upstream.until(lambda: bool(upstream.seen) and upstream.seen[0].ended == "done")
        await stream.cancel()
        taken = await take(stream)
        assert isinstance(taken[-1], Done | Error)


@in_loop
async def test_after_the_end(running: Daemon) -> None:
    async with replaying(PORT), canaries(running), running.connect() as client:
        stream = await ask(client, "up/numbered;n=5")
        taken = await take(stream)
        await stream.cancel()
        await client.cancel(stream.id)
        assert isinstance(taken[-1], Done)
        again = await client.attach(stream.id)
        assert await take(again) == taken


@in_loop
async def test_twice_and_by_somebody_else(running: Daemon) -> None:
    async with replaying(PORT) as upstream, running.connect() as one, running.connect() as two:
        stream = await ask(one, ENDLESS)
        await take_some(stream, 3)
        await two.cancel(stream.id)
        await stream.cancel()
        assert sum(is_cancelled(token) for token in await take(stream)) == 1
        await closed(upstream)


@pytest.mark.parametrize("seed", range(3))
@in_loop
async def test_at_any_moment(running: Daemon, seed: int) -> None:
    """Before, while and after tokens come, at every pace: one end each, and no connection left."""
    draw = random.Random(seed)

    async def one(client: Client, number: int) -> None:
        pace = draw.choice([0, 0, 100, 1000])
        stream = await ask(client, f"up/numbered;n=400;pace={pace};seed={number}")
        taken = await take_some(stream, draw.choice([0, 1, draw.randrange(100)]))
        await stream.cancel()
        taken += await take(stream)
        said = texts(taken)
        assert said == list(numbered_tokens(400, number))[: len(said)]
        assert [token for token in taken if isinstance(token, Done | Error)] == taken[-1:]
        assert isinstance(taken[-1], Done) or is_cancelled(taken[-1])

    async with replaying(PORT) as upstream:
        async with canaries(running), running.connect() as client:
            await asyncio.gather(*(one(client, number) for number in range(80)))
        await upstream.until(lambda: not upstream.open_streams)


@in_loop
async def test_detach_is_no_cancel(running: Daemon) -> None:
    """The stream goes on for its lease; who comes back in time has lost nothing."""
    async with replaying(PORT) as upstream, running.connect() as client:
        stream = await ask(client, "up/numbered;n=300;pace=300")
        taken = await take_some(stream, 20)
        await stream.detach()
        assert upstream.seen[0].ended == "open"
        again = await client.attach(stream.id, after=stream.seq)
        taken += await take(again)
        assert texts(taken) == list(numbered_tokens(300))


@in_loop
async def test_the_lease_ends(running: Daemon) -> None:
    async with replaying(PORT) as upstream, running.connect() as client:
        stream = await ask(client, ENDLESS)
        await take_some(stream, 3)
        await stream.detach()
        await closed(upstream)
        late = await client.attach(stream.id)
        assert is_cancelled((await take(late))[-1])


@in_loop
async def test_a_client_that_vanishes(running: Daemon) -> None:
    """Its connection closes; its streams are kept for a lease, then ended."""
    async with replaying(PORT) as upstream:
        async with running.connect() as client:
            stream = await ask(client, ENDLESS)
            await take_some(stream, 3)
        await closed(upstream)


@in_loop
async def test_second_reader_from_anywhere(running: Daemon) -> None:
    async with replaying(PORT), running.connect() as one, running.connect() as two:
        stream = await ask(one, "up/numbered;n=400;pace=400")
        first = await take_some(stream, 50)
        from_start = await two.attach(stream.id)
        from_middle = await two.attach(stream.id, after=30)
        rest, all_, some = await asyncio.gather(take(stream), take(from_start), take(from_middle))
        first += rest
        assert texts(first) == list(numbered_tokens(400))
        assert all_ == first
        assert some == first[31:]
        late = await two.attach(stream.id, after=len(first) - 3)
        assert await take(late) == first[-2:]
        for after in (-2, len(first), 10**9):
            with pytest.raises(RequestError, match="bad_offset"):
                await two.attach(stream.id, after=after)
        with pytest.raises(RequestError, match="unknown_stream"):
            await two.attach(b"x" * 16)


@in_loop
async def test_the_payer_leaves_and_another_pays(running: Daemon) -> None:
    """The second reader has all there is when the credit is gone; the stream goes on for it."""
    async with replaying(PORT) as upstream, running.connect() as one, running.connect() as two:
        stream = await ask(one, "up/numbered;n=2000")
        await asked(upstream)
        other = await two.attach(stream.id)
        taken = [await anext(other)]
        reading = asyncio.ensure_future(take(other))
        await stalled(upstream)
        assert not reading.done()
        await stream.detach()
        taken += await reading
        assert texts(taken) == list(numbered_tokens(2000))


@in_loop
async def test_who_comes_back_with_everything(running: Daemon) -> None:
    """It had taken all that was sent, but was lost before it said so; then it attaches."""
    async with replaying(PORT) as upstream:
        async with running.connect() as client:
            stream = await ask(client, "up/numbered;n=2000")
            await asked(upstream)
            await stalled(upstream)
            has = stream._inbox.next - 1  # received, never taken
            taken = [token for batch in stream._inbox.batches for token in batch]
        async with running.connect() as client:
            stream = await client.attach(stream.id, after=has)
            taken += await take(stream)
        assert texts(taken) == list(numbered_tokens(2000))


def memory(running: Daemon) -> int:
    """Private bytes of all the daemon's processes."""
    pids = [running.state.pid, *(one.pid for one in running.state.processes)]
    return sum(int(psutil.Process(pid).memory_full_info().uss) for pid in pids)


async def live(client: Client) -> int:
    return sum(stream["state"] != "ended" for stream in (await client.status())["streams"])


@in_loop
async def test_a_client_that_stops_reading(running: Daemon) -> None:
    """Its provider is slowed by TCP, the daemon's memory stays, and nothing is lost."""
    count = 60_000  # 17 MB of body
    async with replaying(PORT) as upstream, running.connect() as slow:
        await take(await ask(slow, "up/numbered;n=20000"))  # warm
        before = memory(running)
        sent_before = upstream.bytes_sent
        stream = await ask(slow, f"up/numbered;n={count}")
        first = await take_some(stream, 10)
        sent = await stalled(upstream) - sent_before
        async with canaries(running):
            pass
        assert upstream.seen[1].ended == "open"
        assert sent < 8 << 20  # what the kernel's buffers take, and a window
        assert memory(running) - before < 3 << 20
        taken = first + await take(stream)
        assert texts(taken) == list(numbered_tokens(count))
        assert isinstance(taken[-1], Done)


@in_loop
async def test_streams_leave_no_trace(running: Daemon) -> None:
    """Readers that stop at the terminal token, as most do, do not pile up in the daemon."""
    async with replaying(PORT), running.connect() as client:
        for _ in range(5):
            stream = await ask(client, "up/numbered;n=3")
            async for token in stream:
                if not isinstance(token, Text):
                    break
                last = token
            assert isinstance(last, Text)

        async def unread() -> bool:
            status = await client.status()
            return not sum(stream["readers"] for stream in status["streams"])

        await until_async(unread, "the end of all subscriptions")
        assert await live(client) == 0
