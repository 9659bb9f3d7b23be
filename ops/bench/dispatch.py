"""Dispatch: from a client's OPEN to the first byte of the request at the upstream.

The upstream runs in this process, so that one clock sees both ends: the time begins before the
client encodes its OPEN, and so has the way to the broker in it, and ends when the request's first
byte is read. Connections are kept. It is compared with the same request sent by httpx alone, and
with a daemon in which all traffic rules have something to do: a route, limits of requests, tokens
and concurrency, a price, a daily budget and the usage file. One after the other, in turns.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, cast

import httpx
import uvloop

import ringcast
from ringcast.bench.e2e import daemon
from ringcast.broker.client import Client
from ringcast.shm.tokens import Done, Text

REQUESTS: Final = 1000
WARM: Final = 50
MESSAGES: Final = [{"role": "user", "content": "Where does the river go?"}]
_CHUNK: Final = (
    b'data: {"choices":[{"index":0,"delta":{"content":"Home."},"finish_reason":"stop"}]}\n\n'
    b"data: [DONE]\n\n"
)
_ANSWER: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n%b"
    % (len(_CHUNK), _CHUNK)
)


class Upstream(asyncio.Protocol):
    """One connection: notes when a request begins, and answers when it is whole."""

    def __init__(self, begun: list[int]) -> None:
        """`begun` gets monotonic nanoseconds, one a request, and is shared by all connections."""
        self._begun = begun
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        """Take a piece of a request. Raises AssertionError for one that says something else."""
        if not self._data:
            self._begun.append(time.monotonic_ns())
        self._data += data
        head, found, body = self._data.partition(b"\r\n\r\n")
        if not found:
            return
        size = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(body) == size:
            asked = json.loads(body)
            assert (asked["model"], asked["messages"]) == ("m", MESSAGES), asked
            self._data = b""
            self._transport.write(_ANSWER)


_RULES: Final = """
[routes.busy]
try = ["limited/m", "mock/m"]
order = "fastest"
[providers.limited]
kind = "openai"
base_url = "http://127.0.0.1:{port}/v1"
requests_per_min = 1000000
tokens_per_min = 1000000000
concurrency = 100
[prices."limited/m"]
input = 1.0
output = 2.0
"""
_USAGE: Final = "[usage]\nkeep = true\nfile = '{file}'\ndaily_usd = 1000.0\n"


async def _through_us(client: Client, model: str, begun: list[int]) -> int:
    asked = time.monotonic_ns()
    stream = await client.chat(model, MESSAGES)
    tokens = [token async for token in stream]
    assert tokens[0] == Text("Home."), tokens
    assert isinstance(tokens[-1], Done), tokens
    return begun[-1] - asked


async def _alone(client: httpx.AsyncClient, url: str, begun: list[int]) -> int:
    body = {"model": "m", "messages": MESSAGES, "stream": True}
    asked = time.monotonic_ns()
    response = await client.post(url, json=body)
    assert response.content == _CHUNK, response.content
    return begun[-1] - asked


async def _measure(
    plain: Path, ruled: Path, port: int, begun: list[int], number: int
) -> dict[str, list[int]]:
    taken: dict[str, list[int]] = {"ringcast": [], "with rules": [], "httpx": []}
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    async with (
        ringcast.connect(plain) as client,
        ringcast.connect(ruled) as governed,
        httpx.AsyncClient() as alone,
    ):
        for _ in range(WARM + number):
            taken["ringcast"].append(await _through_us(client, "mock/m", begun))
            taken["with rules"].append(await _through_us(governed, "busy", begun))
            taken["httpx"].append(await _alone(alone, url, begun))
    return {name: nanoseconds[WARM:] for name, nanoseconds in taken.items()}


async def _run(number: int) -> dict[str, list[int]]:
    begun: list[int] = []
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Upstream(begun), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with TemporaryDirectory(prefix="rc-") as name:
        kept = _USAGE.format(file=Path(name) / "usage.sqlite3")
        rules = _RULES.format(port=port)
        with daemon(port) as plain, daemon(port, rules, usage=kept) as ruled:
            return await _measure(plain, ruled, port, begun, number)


def run(number: int) -> dict[str, dict[str, float]]:
    """Return milliseconds at the median and at p99 for each, and differences of the medians."""
    taken = uvloop.run(_run(number))
    found = {name: _figures(nanoseconds) for name, nanoseconds in taken.items()}
    plain, ruled, alone = (found[name]["p50_ms"] for name in ("ringcast", "with rules", "httpx"))
    differences = {
        "added": {"p50_ms": round(plain - alone, 4)},
        "by rules": {"p50_ms": round(ruled - plain, 4)},
    }
    return found | differences


def _figures(nanoseconds: list[int]) -> dict[str, float]:
    cuts = statistics.quantiles(nanoseconds, n=100)
    return {"p50_ms": round(cuts[49] / 1e6, 4), "p99_ms": round(cuts[98] / 1e6, 4)}


def main(arguments: list[str] | None = None) -> None:
    """Print the figures, for people or as JSON."""
    parser = argparse.ArgumentParser(prog="ringcast bench dispatch", description=__doc__)
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    found: dict[str, Any] = run(asked.requests)
    if asked.json:
        print(json.dumps({"cores": os.cpu_count(), **found}))
        return
    for name, figures in found.items():
        print(f"{name:10}", "  ".join(f"{key} {value:.3f}" for key, value in figures.items()))


if __name__ == "__main__":
    main()
