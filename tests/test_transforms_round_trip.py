"""Transformers asked for by a request, through the real daemon and every process."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest
from fakes.daemon import Daemon, ask, daemon, free_port, in_loop, replaying, take, take_some, texts

from ringcast.broker.client import Client
from ringcast.errors import Code
from ringcast.replay.numbered import numbered_tokens
from ringcast.shm.tokens import Done, Error, StreamToken

UP = free_port()
CONFIG = f"""
[providers.up]
kind = "openai-compatible"
base_url = "http://127.0.0.1:{UP}/v1"
[workers]
transforms = ["of_nobody"]
"""
NUMBERED = "".join(numbered_tokens(200))
FILTER = {"name": "content_filter", "patterns": ["1[0-9]"], "replacement": "#"}


@pytest.fixture(scope="module")
def running() -> Iterator[Daemon]:
    with daemon(CONFIG) as running:
        yield running


async def said(client: Client, *transforms: dict[str, Any], pace: int = 0) -> list[StreamToken]:
    model = f"up/numbered;n=200;pace={pace}" if pace else "up/numbered;n=200"
    return await take(await ask(client, model, transforms=list(transforms)))


@in_loop
async def test_small_pieces_are_joined(running: Daemon) -> None:
    async with replaying(UP), running.connect() as client:
        tokens = await said(client, {"name": "accumulate", "min": 100, "idle_ms": 60_000})
        assert "".join(texts(tokens)) == NUMBERED
        assert {len(text) >= 100 for text in texts(tokens)[:-1]} == {True}
        assert isinstance(tokens[-1], Done)
        assert tokens[-1].summary is not None
        assert tokens[-1].summary.tokens == len(tokens) - 1


@in_loop
async def test_a_slow_stream_is_told_although_nothing_more_comes(running: Daemon) -> None:
    async with replaying(UP), running.connect() as client:
        late = {"name": "accumulate", "min": 4000, "max": 4000, "idle_ms": 20}
        stream = await ask(client, "up/numbered;n=200;pace=5", transforms=[late])
        began = time.monotonic()
        assert "".join(texts(await take_some(stream, 2))) in NUMBERED
        assert time.monotonic() - began < 20  # all of it would take 40 s
        await stream.cancel()


@in_loop
async def test_a_worker_is_killed_and_what_was_held_back_is_not_lost(running: Daemon) -> None:
    async with replaying(UP), running.connect() as client:
        join = {"name": "accumulate", "min": 30, "idle_ms": 60_000}
        stream = await ask(client, "up/numbered;n=200;pace=400", transforms=[join])
        tokens = await take_some(stream, 2)
        os.kill(running.pid("worker"), signal.SIGKILL)
        tokens += await take(stream)
        assert "".join(texts(tokens)) == NUMBERED
        assert isinstance(tokens[-1], Done)


@in_loop
async def test_what_is_wrong_is_refused_before_anything_is_sent(running: Daemon) -> None:
    """Nobody listens upstream: what is sent would be another error."""
    async with running.connect() as client:
        for transform, field in (
            ({"name": "accumulate", "min": 5, "max": 2}, "transforms[0].max"),
            ({"name": "of_nobody"}, "transforms[0].name"),
            ({"name": "of_anybody"}, "transforms[0].name"),
            (FILTER | {"patterns": ["fine", "a(b"]}, "transforms[0]"),
        ):
            (error,) = await said(client, transform)
            assert isinstance(error, Error)
            assert error.code == Code.BAD_REQUEST
            assert error.message.startswith(field), error.message


@in_loop
async def test_a_filter_or_how_to_get_it(running: Daemon) -> None:
    async with replaying(UP), running.connect() as client:
        tokens = await said(client, FILTER)
        if find_spec("re2") is None:
            (error,) = tokens
            assert isinstance(error, Error)
            assert "pip install 'ringcast[filter]'" in error.message
        else:
            import re

            assert "".join(texts(tokens)) == re.sub("1[0-9]", "#", NUMBERED)
