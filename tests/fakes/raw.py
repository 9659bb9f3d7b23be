"""An upstream that answers with whatever bytes a test wants, to the letter."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Literal

import msgspec

End = Literal["fin", "rst", "hang"]


class Script(msgspec.Struct, frozen=True):
    """What to write after a request, and how to end: close, reset, or wait for the peer."""

    data: bytes
    end: End = "fin"


class _Body(msgspec.Struct):
    model: str


def answer(status: str, body: bytes, *headers: str) -> bytes:
    """A whole answer with its length."""
    lines = [f"HTTP/1.1 {status}", *headers, f"content-length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def events(body: bytes, *headers: str) -> bytes:
    """An event stream that ends with its connection."""
    lines = ["HTTP/1.1 200 OK", "content-type: text/event-stream", "connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


@asynccontextmanager
async def answering(port: int, script: Callable[[str], Script]) -> AsyncIterator[None]:
    """Serve on `port`; `script` is asked with the request's model."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            size = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
            model = msgspec.json.decode(await reader.readexactly(size), type=_Body).model
            await _act(script(model), reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the daemon has seen enough of a bad answer
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    try:
        yield
    finally:
        server.close()


async def _act(script: Script, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(script.data)
    await writer.drain()
    if script.end == "hang":
        await reader.read()
    elif script.end == "rst":
        await asyncio.sleep(0.05)  # a reset discards what the peer has not read yet
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
