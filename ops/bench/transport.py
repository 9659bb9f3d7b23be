"""CPU a body chunk through httpx: its own transport, httpx-aiohttp's, and ringcast's two ways.

Run it with `python ops/bench/transport.py [--json]`. The upstream is another process. *Paced*:
ten streams, each chunk in its own TCP segment and so in its own read, as tokens arrive. *Bulk*:
256 HTTP chunks a write, as after a stall. Every client first shows that it gives the right
bytes; then it is timed three times, only counting them, and the median of process CPU time
over chunks counts.
(Not `http.py`: a script's folder comes first on its path, and there it would hide the stdlib's.)
"""

from __future__ import annotations

import argparse
import asyncio
import json as stdlib_json
import multiprocessing
import ssl
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from multiprocessing.connection import Connection
from typing import Any, TypeAlias

import httpx
import uvloop

from ringcast.config import Limits
from ringcast.providers.http.transport import BODY, Body, Transport

ROUNDS = 3
STREAMS = 10
PACED_CHUNKS = 500
PACE_S = 0.003
BULK_WRITES = 400
CHUNKS_A_WRITE = 256

# 200 bytes: 256 of them, with their framing, still fit one read of 64 KiB.
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n' % (b"x" * 145)
CHUNK = b"%x\r\n%s\r\n" % (len(EVENT), EVENT)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"

OnPiece: TypeAlias = Callable[[bytes], None]
Read: TypeAlias = Callable[[httpx.Response, OnPiece], Awaitable[None]]
MakeTransport: TypeAlias = Callable[[], httpx.AsyncBaseTransport]


async def _serve(ready: Connection) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD)
        if b" /paced " in request:
            for _ in range(PACED_CHUNKS):
                await asyncio.sleep(PACE_S)
                writer.write(CHUNK)
        else:
            for _ in range(BULK_WRITES):
                writer.write(CHUNK * CHUNKS_A_WRITE)
                await writer.drain()
        writer.write(LAST)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    ready.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def _upstream(ready: Connection) -> None:
    uvloop.run(_serve(ready))


@contextmanager
def _upstream_process() -> Iterator[str]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_upstream, args=(theirs,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.terminate()
        process.join()


async def _pull(response: httpx.Response, on_piece: OnPiece) -> None:
    async for piece in response.aiter_raw():
        on_piece(piece)


async def _push(response: httpx.Response, on_piece: OnPiece) -> None:
    body: Body = response.extensions[BODY]
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_end(error: Exception | None) -> None:
        if error is None:
            ended.set_result(None)
        else:
            ended.set_exception(error)

    body.start(on_piece, on_end)
    await ended


def _aiohttp() -> httpx.AsyncBaseTransport:
    from httpx_aiohttp import AiohttpTransport

    return AiohttpTransport()


def _ours() -> httpx.AsyncBaseTransport:
    return Transport(ssl.create_default_context(), Limits(), 60)


def _clients() -> dict[str, tuple[MakeTransport, Read]]:
    """Every client that this machine has, by name."""
    clients: dict[str, tuple[MakeTransport, Read]] = {"httpx": (httpx.AsyncHTTPTransport, _pull)}
    if find_spec("httpx_aiohttp") is not None:
        clients["httpx-aiohttp"] = (_aiohttp, _pull)
    return clients | {"ringcast pull": (_ours, _pull), "ringcast push": (_ours, _push)}


async def _fetch(client: httpx.AsyncClient, url: str, read: Read, on_piece: OnPiece) -> None:
    async with client.stream("GET", url) as response:
        await read(response, on_piece)


async def _check(make: MakeTransport, read: Read, url: str, chunks: int) -> None:
    pieces: list[bytes] = []
    async with httpx.AsyncClient(transport=make(), timeout=60) as client:
        await _fetch(client, url, read, pieces.append)
    assert b"".join(pieces) == EVENT * chunks


async def _cpu_s(make: MakeTransport, read: Read, url: str, streams: int, chunks: int) -> float:
    """CPU seconds of this process for `streams` streams of `chunks` chunks each."""
    size = 0

    def count(piece: bytes) -> None:
        nonlocal size
        size += len(piece)

    async with httpx.AsyncClient(transport=make(), timeout=60) as client:
        before = time.process_time()
        await asyncio.gather(*(_fetch(client, url, read, count) for _ in range(streams)))
        spent = time.process_time() - before
    assert size == streams * chunks * len(EVENT)
    return spent


def _measure(url: str, streams: int, chunks: int) -> dict[str, float]:
    """Microseconds a chunk of each client, interleaved so that a busy minute hits them all."""
    clients = _clients()
    for make, read in clients.values():
        uvloop.run(_check(make, read, url, chunks))
    spent: dict[str, list[float]] = {name: [] for name in clients}
    for _ in range(ROUNDS):
        for name, (make, read) in clients.items():
            spent[name].append(uvloop.run(_cpu_s(make, read, url, streams, chunks)))
    return {
        name: round(statistics.median(seconds) / (streams * chunks) * 1e6, 3)
        for name, seconds in spent.items()
    }


def run(json: bool = False) -> dict[str, Any]:
    """Measure and print. Keys: `paced_us`, `bulk_us` (client -> µs a chunk), and `absent`."""
    with _upstream_process() as base:
        result: dict[str, Any] = {
            "paced_us": _measure(f"{base}/paced", STREAMS, PACED_CHUNKS),
            "bulk_us": _measure(f"{base}/bulk", 1, BULK_WRITES * CHUNKS_A_WRITE),
        }
    result["absent"] = [] if "httpx-aiohttp" in result["paced_us"] else ["httpx-aiohttp"]
    print(stdlib_json.dumps(result) if json else _table(result))
    return result


def _table(result: dict[str, Any]) -> str:
    lines = [f"{'CPU a chunk (µs)':<18}{'one a read':>12}{'256 a write':>14}"]
    for name, paced in result["paced_us"].items():
        lines.append(f"{name:<18}{paced:>12.2f}{result['bulk_us'][name]:>14.3f}")
    lines += [f"{name:<18}{'not installed':>12}" for name in result["absent"]]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Print the figures, for people or as JSON."""
    parser = argparse.ArgumentParser(prog="ringcast bench transport", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    run(parser.parse_args(arguments).json)


if __name__ == "__main__":
    main()
