"""An upstream with short answers: a table of what each method and path gives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

REVOKED = "sk-revoked"  # a key that is not taken


class Reply(msgspec.Struct, frozen=True):
    """What is answered; `data` is JSON unless it is bytes. With `hang` nothing is, for ever."""

    data: Any = None
    status: int = 200
    hang: bool = False


class Rest:
    """Answers by `METHOD path?query`; what was asked stands in `seen`, with the body."""

    def __init__(self, replies: dict[str, Reply]) -> None:
        self.replies = replies
        self.seen: list[tuple[str, dict[str, str], Any]] = []
        self.asked = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection's requests, one after the other."""
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                lines = (line.partition(": ") for line in head[1:] if line)
                headers = {name.lower(): value for name, _, value in lines}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                asked = head[0].removesuffix(" HTTP/1.1")
                self.seen.append((asked, headers, msgspec.json.decode(body) if body else None))
                self.asked.set()
                reply = self.replies.get(asked, Reply({"error": {"message": asked}}, 404))
                if headers.get("authorization") == f"Bearer {REVOKED}":
                    reply = Reply({"error": {"message": "revoked"}}, 401)
                if reply.hang:
                    await reader.read()
                    return
                writer.write(_answer(reply))
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def _answer(reply: Reply) -> bytes:
    data = reply.data if isinstance(reply.data, bytes) else msgspec.json.encode(reply.data)
    head = f"HTTP/1.1 {reply.status} X\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(data)}\r\n\r\n".encode() + data


@asynccontextmanager
async def resting(port: int, replies: dict[str, Reply]) -> AsyncIterator[Rest]:
    """Serve `replies` on `port`."""
    rest = Rest(replies)
    server = await asyncio.start_server(rest.serve, "127.0.0.1", port)
    try:
        yield rest
    finally:
        server.close()
