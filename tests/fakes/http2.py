"""An HTTP/2 server over TLS (h2 is its protocol) whose every request runs a script."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeAlias

import httpx
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import H2Error
from h2.settings import SettingCodes

from fakes.certificate import server_context
from fakes.scripted import LIMIT_S, READ_BYTES
from ringcast.config import Limits
from ringcast.providers.http.clocks import boottime
from ringcast.providers.http.multiplex import Multiplex
from ringcast.providers.http.offer import HTTP2, Offer
from ringcast.providers.http.transport import Transport


class Call:
    """The server's side of one request."""

    def __init__(self, peer: Peer, stream: int, headers: dict[bytes, bytes]) -> None:
        self.peer = peer
        self.stream = stream
        self.headers = headers
        self.content = b""
        self.reset: int | None = None  # the code with which the client left
        self.left = asyncio.Event()

    @property
    def path(self) -> str:
        return self.headers[b":path"].decode()

    async def head(self, status: int = 200, *more: tuple[str, str], end: bool = False) -> None:
        fields = [(":status", str(status)), *more]
        self.peer.h2.send_headers(self.stream, fields, end_stream=end)
        await self.peer.flush()

    async def data(self, data: bytes, *, end: bool = False) -> None:
        """Send as the client's windows allow."""
        while data and self.reset is None:
            room = self.peer.h2.local_flow_control_window(self.stream)
            size = min(room, self.peer.h2.max_outbound_frame_size, len(data))
            if not size:
                self.peer.opened.clear()
                await self.peer.opened.wait()
                continue
            self.peer.h2.send_data(self.stream, data[:size], end and size == len(data))
            data = data[size:]
            await self.peer.flush()

    async def answer(self, content: bytes = b"hello") -> None:
        await self.head()
        await self.data(content, end=True)

    async def refuse(self, code: ErrorCodes) -> None:
        self.peer.h2.reset_stream(self.stream, code)
        await self.peer.flush()


Script: TypeAlias = Callable[[Call], Awaitable[None]]


class Peer:
    """The server's end of one connection; `number` counts connections from 0."""

    def __init__(self, number: int, server: Http2Server, writer: asyncio.StreamWriter) -> None:
        self.number = number
        self.calls: dict[int, Call] = {}
        self.opened = asyncio.Event()
        self.h2 = H2Connection(H2Configuration(client_side=False))
        self._server = server
        self._writer = writer
        self._tasks: set[asyncio.Task[None]] = set()

    async def flush(self) -> None:
        self._writer.write(self.h2.data_to_send())
        await self._writer.drain()

    async def write(self, octets: bytes) -> None:
        """Bytes that h2 would not send."""
        self._writer.write(self.h2.data_to_send() + octets)
        await self._writer.drain()

    def cut(self) -> None:
        self._writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader) -> None:
        self.h2.initiate_connection()
        if self._server.streams is not None:
            self.h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: self._server.streams})
        await self.flush()
        try:
            while data := await reader.read(READ_BYTES):
                for event in self.h2.receive_data(data):
                    self._take(event)
                await self.flush()
        finally:
            for call in self.calls.values():
                call.left.set()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _take(self, event: Event) -> None:
        match event:
            case RequestReceived(stream_id=stream):
                self.calls[stream] = Call(self, stream, dict(event.headers))
                self._server.calls.append(self.calls[stream])
                if self._server.early:
                    self._run(self.calls[stream])
            case DataReceived(stream_id=stream):
                self.calls[stream].content += event.data
                if self._server.reading:
                    size = event.flow_controlled_length
                    self.h2.acknowledge_received_data(size, stream)
            case StreamEnded(stream_id=stream) if not self._server.early:
                self._run(self.calls[stream])
            case StreamReset(stream_id=stream):
                self.calls[stream].reset = event.error_code
                self.calls[stream].left.set()
                self.opened.set()
            case WindowUpdated():
                self.opened.set()

    def _run(self, call: Call) -> None:
        self._tasks.add(asyncio.ensure_future(self._scripted(call)))

    async def _scripted(self, call: Call) -> None:
        with suppress(ConnectionError, H2Error, KeyError):
            await self._server.script(call)


class Http2Server:
    """Runs `script` when a request is complete, or `early`, with its head."""

    def __init__(
        self,
        script: Script,
        certificate: Path,
        *,
        streams: int | None = None,
        early: bool = False,
        reading: bool = True,
        port: int = 0,
    ) -> None:
        self.script = script
        self.streams = streams
        self.early = early
        self.reading = reading
        self.port = port
        self.peers: list[Peer] = []
        self.calls: list[Call] = []
        self._context = server_context(certificate, ["h2"])
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Http2Server:
        server = asyncio.start_server(self._accept, "127.0.0.1", self.port, ssl=self._context)
        self._server = await server
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"https://localhost:{self.port}/"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for peer in self.peers:
            peer.cut()
        await asyncio.wait_for(asyncio.gather(*self._tasks), LIMIT_S)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        peer = Peer(len(self.peers), self, writer)
        self.peers.append(peer)
        with suppress(ConnectionError, ssl.SSLError, H2Error):
            await peer.serve(reader)
        peer.cut()


@asynccontextmanager
async def client_to(
    port: int,
    certificate: Path,
    limits: Limits | None = None,
    keepalive_s: float = 60.0,
    boot: Callable[[], float] = boottime,
) -> AsyncIterator[tuple[httpx.AsyncClient, Transport]]:
    """A client that offers HTTP/2 to `localhost:port` only, and leaves nothing open."""

    async def offering(request: httpx.Request) -> None:
        request.extensions[HTTP2] = request.url.port == port

    plain, offered = (ssl.create_default_context(cafile=certificate) for _ in range(2))
    offer = Offer(offered, Multiplex)
    transport = Transport(plain, limits or Limits(), keepalive_s, boot, offer)
    async with httpx.AsyncClient(
        transport=transport, timeout=LIMIT_S, event_hooks={"request": [offering]}
    ) as client:
        yield client, transport
    assert transport.gauges == (0, 0, 0)
