"""A reader that takes nothing: its provider is held, then let go, and nothing else is touched."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

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
    until,
)

from ringcast.errors import Code
from ringcast.replay.numbered import numbered_tokens
from ringcast.shm.tokens import Done, Error

PORT = free_port()
CONFIG = f"""
[providers.up]
kind = "openai-compatible"
base_url = "http://127.0.0.1:{PORT}/v1"
[credit]
stall_s = 1.5
"""
COUNT = 60_000  # tokens: 17 MB of body, more than the kernel's buffers and any window take
STREAM = f"up/numbered;n={COUNT};pace=0"


@pytest.fixture(scope="module")
def running() -> Iterator[Daemon]:
    with daemon(CONFIG) as started:
        yield started


@in_loop
async def test_who_takes_nothing_is_told_so(running: Daemon) -> None:
    """The provider's connection is closed; what was read of the answer is still to be had."""
    async with replaying(PORT) as upstream, running.connect() as client, canaries(running):
        stream = await ask(client, STREAM)
        tokens = await take_some(stream, 10)
        ours = next(one for one in upstream.seen if f"n={COUNT}" in one.model)  # not a canary's
        await upstream.until(lambda: ours.ended in ("fin", "rst"))
        tokens += await take(stream)
    last = tokens[-1]
    assert isinstance(last, Error)
    assert last.code == Code.BACKPRESSURE_TIMEOUT
    assert last.retryable
    assert "credit.stall_s" in last.message
    assert texts(tokens) == list(numbered_tokens(COUNT))[: len(texts(tokens))]
    assert len(texts(tokens)) > 100


@in_loop
async def test_slow_is_not_stalled(running: Daemon) -> None:
    async with replaying(PORT), running.connect() as client:
        stream = await ask(client, STREAM)
        tokens = []
        for _ in range(8):
            tokens += await take_some(stream, 300)
            await asyncio.sleep(0.5)
        tokens += await take(stream)
    assert texts(tokens) == list(numbered_tokens(COUNT))
    assert isinstance(tokens[-1], Done)


@in_loop
async def test_a_stream_that_nobody_reads_has_its_lease(running: Daemon) -> None:
    """Who has left may come back, for longer than one who sits there and takes nothing."""
    async with replaying(PORT), running.connect() as client:
        stream = await ask(client, STREAM)
        tokens = await take_some(stream, 10)
        await stream.detach()
        await asyncio.sleep(3)
        tokens += await take(await client.attach(stream.id, after=stream.seq))
    assert texts(tokens) == list(numbered_tokens(COUNT))
    assert isinstance(tokens[-1], Done)


@in_loop
async def test_what_a_reader_is_owed_outlives_the_broker(running: Daemon) -> None:
    """Its tokens had to leave the out-ring, which others needed, and then the broker was killed."""
    async with replaying(PORT), running.connect() as client:
        stream = await ask(client, "up/numbered;n=3000;pace=0;seed=9")
        tokens = await take_some(stream, 10)
        await stream.detach()
        for seed in range(5):
            flood = await take(await ask(client, f"up/numbered;n=40000;pace=0;seed={seed}"))
            assert texts(flood) == list(numbered_tokens(40_000, seed))
        before = running.pid("broker")
        running.kill("broker")
        until(lambda: running.pid("broker") != before, "a successor")
        tokens += await take(await client.attach(stream.id, after=stream.seq))
    assert texts(tokens) == list(numbered_tokens(3000, 9))
    assert isinstance(tokens[-1], Done)
