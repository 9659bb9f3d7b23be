"""Answers that their provider keeps: a stream goes on where its connection was lost."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator
from typing import Any

import pytest
from fakes.daemon import (
    Daemon,
    daemon,
    free_port,
    in_loop,
    replaying,
    take,
    take_some,
    texts,
    until,
)

from ringcast.broker.client import Client, ClientStream
from ringcast.errors import Code
from ringcast.replay.numbered import numbered_tokens
from ringcast.replay.upstream import Upstream
from ringcast.shm.tokens import Done, Error

PORT = free_port()
CONFIG = f"""
[providers.up]
kind = "openai"
base_url = "http://127.0.0.1:{PORT}/v1"
key = {{ env = "KEY" }}
[providers.google]
kind = "gemini"
base_url = "http://127.0.0.1:{PORT}/v1beta"
key = {{ env = "KEY" }}
[processes]
restarts = 1000
"""
# provider, api, what the client asks for, and the path of the first request
KINDS = {
    "responses": ("up", {"extra": {"background": True}}, "/v1/responses"),
    "interactions": ("google", {}, "/v1beta/interactions"),
}


@pytest.fixture(scope="module")
def running() -> Iterator[Daemon]:
    with daemon(CONFIG, KEY="a-key") as started:
        yield started


async def ask(client: Client, api: str, knobs: str, **options: Any) -> ClientStream:
    provider, usual, _ = KINDS[api]
    message = {"role": "user", "content": "hi"}
    return await client.chat(
        f"{provider}/numbered;{knobs}", [message], api=api, **(usual | options)
    )


def posts(upstream: Upstream) -> list[str]:
    """Paths at which answers were asked for: one that costs money each."""
    return [one.path for one in upstream.seen if one.path in [kind[2] for kind in KINDS.values()]]


def reattached(upstream: Upstream) -> list[str]:
    return [one.path for one in upstream.seen if "/kept_" in one.path]


@pytest.mark.parametrize("api", KINDS)
@in_loop
async def test_a_killed_provider_process_loses_nothing(api: str, running: Daemon) -> None:
    seed = int.from_bytes(os.urandom(4))
    print(f"seed {seed}")
    draw = random.Random(seed)
    async with replaying(PORT) as upstream, running.connect() as client:
        streams = [await ask(client, api, f"n=500;pace=250;seed={i}") for i in range(6)]
        takers = [asyncio.ensure_future(take(stream)) for stream in streams]
        for _ in range(4):
            await asyncio.sleep(draw.uniform(0.1, 0.4))
            before = running.pid("provider")
            running.kill("provider")
            until(lambda before=before: running.pid("provider") != before, "a successor")  # type: ignore[misc]
        said = await asyncio.gather(*takers)
        assert len(posts(upstream)) == len(streams)  # never asked, nor billed, twice
        assert reattached(upstream)
    for number, tokens in enumerate(said):
        assert texts(tokens) == list(numbered_tokens(500, number))
        assert isinstance(tokens[-1], Done)
        assert tokens[-1].usage is not None
        assert tokens[-1].usage.output_tokens == 500


@pytest.mark.parametrize("api", KINDS)
@pytest.mark.parametrize("fault", ["reset_at=9000", "eof_at=7777", "eof_at=2000;length=close"])
@in_loop
async def test_a_connection_that_breaks_again_and_again(
    fault: str, api: str, running: Daemon
) -> None:
    async with replaying(PORT) as upstream, running.connect() as client:
        tokens = await take(await ask(client, api, f"n=200;pace=0;seed=3;{fault}"))
        assert len(posts(upstream)) == 1
        assert len(reattached(upstream)) >= 2
    assert texts(tokens) == list(numbered_tokens(200, 3)), tokens[-1]
    assert isinstance(tokens[-1], Done)


@pytest.mark.parametrize("api", KINDS)
@in_loop
async def test_a_provider_that_is_gone_for_a_while(api: str, running: Daemon) -> None:
    async with running.connect() as client:
        async with replaying(PORT):
            stream = await ask(client, api, "n=300;pace=200;seed=5")
            tokens = await take_some(stream, 5)
        await asyncio.sleep(0.3)
        async with replaying(PORT) as upstream:
            tokens += await take(stream)
            assert not posts(upstream)
    assert texts(tokens) == list(numbered_tokens(300, 5))
    assert isinstance(tokens[-1], Done)


@pytest.mark.parametrize("api", KINDS)
@in_loop
async def test_a_worker_and_a_broker_die_on_the_way(api: str, running: Daemon) -> None:
    """Who goes on with the stream knows the cursor as well."""
    async with replaying(PORT) as upstream, running.connect() as client:
        taking = asyncio.ensure_future(take(await ask(client, api, "n=600;pace=200")))
        for role in ("worker", "provider", "broker", "provider", "worker"):
            await asyncio.sleep(0.3)
            before = running.pid(role)
            running.kill(role)
            until(
                lambda role=role, before=before: running.pid(role) != before,  # type: ignore[misc]
                "a successor",
            )
        tokens = await taking
        assert len(posts(upstream)) == 1
    assert texts(tokens) == list(numbered_tokens(600, 0))
    assert isinstance(tokens[-1], Done)


@in_loop
async def test_no_progress_is_given_up(running: Daemon) -> None:
    """The provider is gone for good: the text so far is kept."""
    async with running.connect() as client:
        async with replaying(PORT):
            stream = await ask(client, "responses", "n=0;pace=200")
            tokens = await take_some(stream, 5)
        tokens += await take(stream)
    last = tokens[-1]
    assert texts(tokens) == list(numbered_tokens(len(texts(tokens))))
    assert isinstance(last, Error)
    assert last.code == Code.INTERRUPTED
    assert last.retryable


@in_loop
async def test_without_background_there_is_nothing_to_go_on_with(running: Daemon) -> None:
    async with replaying(PORT), running.connect() as client:
        stream = await ask(client, "responses", "n=0;pace=200", extra={})
        tokens = await take_some(stream, 5)
        running.kill("provider")
        tokens += await take(stream)
    assert isinstance(tokens[-1], Error)
    assert tokens[-1].code == Code.INTERRUPTED
    assert texts(tokens) == list(numbered_tokens(len(texts(tokens))))


@pytest.mark.parametrize("api", KINDS)
@in_loop
async def test_a_cancelled_answer_is_recalled(api: str, running: Daemon) -> None:
    """Closing the stream does not stop what is made in the background, and billed."""
    async with replaying(PORT) as upstream, running.connect() as client:
        stream = await ask(client, api, "n=0;pace=200")
        await take_some(stream, 5)
        await stream.cancel()
        tokens = await take(stream)
        await upstream.until(lambda: any(p.endswith("/cancel") for p in reattached(upstream)))
    assert isinstance(tokens[-1], Error)
    assert tokens[-1].code == Code.CANCELLED
