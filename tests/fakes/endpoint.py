"""An HTTP endpoint of few lines: a function answers each request, which it sees to the letter."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
import msgspec


class Asked(msgspec.Struct, frozen=True):
    """A request as it came over the wire."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


def reply(status: int, body: bytes, **headers: str) -> bytes:
    """A whole answer; underscores in header names are dashes."""
    lines = [f"HTTP/1.1 {status} X"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    lines += [f"content-length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


@asynccontextmanager
async def serving(port: int, answer: Callable[[Asked], bytes]) -> AsyncIterator[None]:
    """Serve on `port`, with keep-alive."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                writer.write(answer(await _read(reader)))
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has hung up
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    try:
        yield
    finally:
        server.close()


async def _read(reader: asyncio.StreamReader) -> Asked:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, _ = head[0].split(" ")
    pairs = (line.partition(": ") for line in head[1:] if line)
    headers = {name.lower(): value for name, _, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Asked(method, target, headers, body)


def asked(url: str = "https://h/v1/chat") -> httpx.Request:
    """A request that nobody has proved yet."""
    return httpx.Request("POST", url, content=b"{}", headers={"content-type": "application/json"})


def client_of(answer: Callable[[Asked], bytes]) -> httpx.AsyncClient:
    """A client whose requests are answered by a fake without a socket."""

    def handle(request: httpx.Request) -> httpx.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        target = request.url.raw_path.decode()
        raw = answer(Asked(request.method, target, headers, request.content))
        head, _, body = raw.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        pairs = [line.partition(": ")[::2] for line in lines]
        return httpx.Response(int(status.split()[1]), headers=pairs, content=body)

    return httpx.AsyncClient(transport=httpx.MockTransport(handle))
