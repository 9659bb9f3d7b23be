"""A server whose every connection runs a script, and a client of our transport to it."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeAlias

import httpx

from ringcast.config import Limits
from ringcast.providers.http.clocks import boottime
from ringcast.providers.http.transport import Transport

OK = b"HTTP/1.1 200 OK\r\n"
HELLO = OK + b"Content-Length: 5\r\n\r\nhello"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
LIMIT_S = 5.0
READ_BYTES = 64 << 10

Run: TypeAlias = Callable[[Coroutine[Any, Any, None]], None]


class Peer:
    """The server's end of one connection; `number` counts connections from 0."""

    def __init__(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.number = number
        self._reader, self._writer = reader, writer

    async def request(self) -> bytes:
        """One whole request. Raises `asyncio.IncompleteReadError` when the client is gone."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                return head + await self._reader.readexactly(int(line[15:]))
        return head

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def gone(self) -> None:
        """Wait for the client's FIN or RST."""
        try:
            while await self._reader.read(READ_BYTES):
                pass
        except ConnectionError:
            pass

    def reset(self) -> None:
        """RST."""
        linger = struct.pack("ii", 1, 0)
        self._writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, linger
        )
        self._writer.transport.abort()

    async def close(self) -> None:
        """FIN."""
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


Script: TypeAlias = Callable[[Peer], Awaitable[None]]


class Upstream:
    """Runs `script` for each connection; `url` leads to it."""

    def __init__(self, script: Script) -> None:
        self.connections = 0
        self.requests: list[bytes] = []
        self.left = asyncio.Event()
        self._script = script
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Upstream:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await asyncio.wait_for(asyncio.gather(*self._tasks), LIMIT_S)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        peer = Peer(self.connections, reader, writer)
        self.connections += 1
        try:
            await self._script(peer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            await peer.close()
            self.left.set()


def answers(*messages: bytes) -> Script:
    """Each connection answers its requests with the messages in turn, the last one for ever."""

    async def script(peer: Peer) -> None:
        turn = 0
        while True:
            await peer.request()
            await peer.send(messages[min(turn, len(messages) - 1)])
            turn += 1

    return script


def once(message: bytes) -> Script:
    """One answer, then FIN."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(message)

    return script


@asynccontextmanager
async def client_of(
    limits: Limits | None = None,
    keepalive_s: float = 60.0,
    timeout_s: float | None = LIMIT_S,
    boot: Callable[[], float] = boottime,
) -> AsyncIterator[tuple[httpx.AsyncClient, Transport]]:
    """A client that leaves nothing open, and its transport."""
    transport = Transport(ssl.create_default_context(), limits or Limits(), keepalive_s, boot)
    async with httpx.AsyncClient(transport=transport, timeout=timeout_s) as client:
        yield client, transport
    assert transport.gauges == (0, 0, 0)


async def eventually(condition: Callable[[], bool]) -> None:
    """Let the loop turn until `condition` holds."""
    async with asyncio.timeout(LIMIT_S):
        while not condition():  # noqa: ASYNC110 - sockets die without telling the test
            await asyncio.sleep(0.001)


@asynccontextmanager
async def blackhole() -> AsyncIterator[str]:
    """A port whose SYNs are dropped: its accept queue is full and nobody accepts."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        await asyncio.sleep(0.05)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            for filler in fillers:
                filler.close()


class Names:
    """Stands in for the running loop's resolver: `two.internal` is at the ports of `urls`."""

    def __init__(self, *urls: str) -> None:
        self._ports = [httpx.URL(url).port for url in urls]
        self._resolve = asyncio.get_running_loop().getaddrinfo

    async def __call__(self, host: str, port: int, **hints: Any) -> list[tuple[Any, ...]]:
        if host != "two.internal":  # uvloop's sock_connect asks about its literal address again
            return list(await self._resolve(host, port, **hints))
        kind = (socket.AF_INET, socket.SOCK_STREAM, 0, "")
        return [(*kind, ("127.0.0.1", port)) for port in self._ports]
