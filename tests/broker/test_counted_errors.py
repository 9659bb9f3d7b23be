"""Errors are counted once each by who says them: workers, and the broker for what was kept back."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from fakes.daemon import Daemon, ask, daemon, free_port, in_loop, take

from ringcast.shm.tokens import Done, Error

PORT = free_port()
CONFIG = f"""
[providers.up]
kind = "openai"
base_url = "http://127.0.0.1:{PORT}/v1"
[retry]
attempts = 3
pause_s = 0.02
[breaker]
failures = 1_000_000
least_calls = 1_000_000
[health]
interval_s = 0
"""
TEXT = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"hello"}}]}\n\n'
END = (
    b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    b"data: [DONE]\n\n"
)


def fault(kind: str) -> bytes:
    return b'data: {"error":{"message":"not so","type":"%s"}}\n\n' % kind.encode()


# By model: what a 200 holds. The errors come first in it, or behind a token.
BODIES = {
    "well": TEXT + END,
    "bad": fault("invalid_request_error"),  # it would fail again: said from what was kept back
    "busy": fault("overloaded_error"),  # sent three times, of which the last is not kept back
    "late": TEXT + fault("overloaded_error"),  # a token was seen
}


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        asked = re.search(rb'"model": ?"(\w+)"', await reader.readexactly(length))
        assert asked is not None
        body = BODIES[asked[1].decode()]
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n")
        writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()
    finally:
        writer.close()


@pytest.fixture(scope="module")
def running() -> Iterator[Daemon]:
    with daemon(CONFIG, OPENAI_API_KEY="x") as one:
        yield one


def counted(status: dict[str, Any]) -> tuple[int, int, Counter[str]]:
    """The errors of all streams, of all processes, and those by their codes."""
    rows = status["counters"]
    codes = Counter[str]()
    for row in rows:
        codes.update({n.removeprefix("error."): v for n, v in row.items() if "error." in n})
    return status["metrics"]["errors"], sum(row.get("errors", 0) for row in rows), codes


@in_loop
async def test_every_stream_that_ends_by_an_error_is_counted_once(running: Daemon) -> None:
    said = Counter[str]()
    async with (
        await asyncio.start_server(_serve, "127.0.0.1", PORT),
        running.connect() as client,
    ):
        for model in (*BODIES, "bad"):
            last = (await take(await ask(client, f"up/{model}")))[-1]
            if isinstance(last, Error):
                said[last.code] += 1
            else:
                assert isinstance(last, Done)
        streams, processes, codes = counted(await client.status())
    assert said.total() == 4, said
    assert (streams, processes, codes) == (4, 4, said)


@in_loop
async def test_what_the_broker_says_is_counted_by_the_broker(running: Daemon) -> None:
    async with (
        await asyncio.start_server(_serve, "127.0.0.1", PORT),
        running.connect() as client,
    ):
        before = {row["role"]: row for row in (await client.status())["counters"]}
        (last,) = await take(await ask(client, "up/bad"))
        after = {row["role"]: row for row in (await client.status())["counters"]}
    assert isinstance(last, Error)
    name = f"error.{last.code}"
    assert after["broker"]["errors"] == before["broker"]["errors"] + 1
    assert after["broker"][name] == before["broker"].get(name, 0) + 1
    assert after["worker"]["errors"] == before["worker"]["errors"]
