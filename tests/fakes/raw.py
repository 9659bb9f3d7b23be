"""An upstream that answers with whatever bytes a test wants, to the letter."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Literal, NamedTuple

import msgspec

from ringcast.errors import Code
from ringcast.shm.tokens import Delta, Done, Error, StreamToken, Text

End = Literal["fin", "rst", "hang"]


class Script(msgspec.Struct, frozen=True):
    """What to write after a request, and how to end: close, reset, or wait for the peer.

    `again` is written over and over before that, every `pause_s` seconds, until the peer is gone.
    """

    data: bytes
    end: End = "fin"
    again: bytes = b""
    pause_s: float = 0.0


class Case(NamedTuple):
    """What comes, and what the stream must end with."""

    script: Script
    code: Code
    message: str  # a pattern for all of it
    text: str = ""  # what was said before


class _Body(msgspec.Struct):
    model: str = ""  # Gemini has it in its path


def answer(status: str, body: bytes, *headers: str) -> bytes:
    """A whole answer with its length."""
    lines = [f"HTTP/1.1 {status}", *headers, f"content-length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def events(body: bytes, *headers: str) -> bytes:
    """An event stream that ends with its connection."""
    lines = ["HTTP/1.1 200 OK", "content-type: text/event-stream", "connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


CHUNKED = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class Raw:
    """What came to an upstream of bytes."""

    def __init__(self, script: Callable[[str], Script]) -> None:
        self.models: list[str] = []  # one for each request
        self._script = script
        self._open: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read one request, and act."""
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        task.add_done_callback(self._open.discard)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            size = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            body = msgspec.json.decode(await reader.readexactly(size), type=_Body)
            path = head.partition(b"/models/")[2].partition(b":")[0].decode()
            self.models.append(body.model or path)
            await _act(self._script(self.models[-1]), reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the daemon has seen enough of a bad answer
        finally:
            writer.close()

    async def until_left(self) -> None:
        """Wait until the daemon, or our script, has closed every connection."""
        if self._open:
            await asyncio.wait(self._open)


@asynccontextmanager
async def answering(
    port: int, script: Callable[[str], Script], tls: ssl.SSLContext | None = None
) -> AsyncIterator[Raw]:
    """Serve on `port`; `script` is asked with the request's model."""
    raw = Raw(script)
    server = await asyncio.start_server(raw.serve, "127.0.0.1", port, ssl=tls)
    try:
        yield raw
    finally:
        server.close()


@asynccontextmanager
async def greeting(port: int, data: bytes) -> AsyncIterator[None]:
    """A peer that says `data` to everybody, and reads what they say until they leave."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        with suppress(ConnectionError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    try:
        yield
    finally:
        server.close()


@asynccontextmanager
async def blackhole(port: int) -> AsyncIterator[None]:
    """A port whose SYNs are dropped: its queue of connections is full, and nobody accepts."""
    with socket.create_server(("127.0.0.1", port), backlog=0):
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        try:
            yield
        finally:
            for filler in fillers:
                filler.close()


async def _act(script: Script, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(script.data)
    await writer.drain()
    while script.again:
        writer.write(script.again)
        await writer.drain()
        await asyncio.sleep(script.pause_s)
    if script.end == "hang":
        await reader.read()
    elif script.end == "rst":
        await asyncio.sleep(0.05)  # a reset discards what the peer has not read yet
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()


def said(tokens: list[StreamToken]) -> str:
    """All the visible text."""
    return "".join(token.content for token in tokens if isinstance(token, Text | Delta))


def ended(tokens: list[StreamToken], code: Code, message: str, *secrets: str) -> Error:
    """The one terminal token, an error of `code` whose text is fit to be shown.

    `message` is a pattern for all of it; none of `secrets` may be in it.
    """
    assert [isinstance(token, Done | Error) for token in tokens[:-1]] == [False] * (len(tokens) - 1)
    error = tokens[-1]
    assert isinstance(error, Error), error
    assert error.code == code, error
    assert re.fullmatch(message, error.message), error.message
    assert len(error.message) <= 500
    assert error.message.isprintable()
    assert not any(secret in error.message for secret in secrets)
    return error
