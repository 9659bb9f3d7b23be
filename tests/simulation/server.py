"""The providers' side: connections that give an answer's bytes in pieces, and may break."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import httpx

from ringcast.config import Provider
from ringcast.providers.credentials import Anonymous
from ringcast.providers.request import Call
from ringcast.providers.transport import BODY
from ringcast.providers.vendor import AnyRequest
from ringcast.shm.records import Cursor

from .ledger import Entry
from .loop import Sleep

READ_BYTES = 1 << 16
_LOCAL = Provider("openai-compatible", "http://simulation")


class Body:
    """A response body as `providers.upstream` uses one."""

    def __init__(self, server: Server, entry: Entry, content: bytes) -> None:
        self.entry = entry
        self._server = server
        self._content = content
        self._at = 0
        self._limit = READ_BYTES
        self.paused = False
        self._on_data: Callable[[bytes], None] = lambda chunk: None
        self._on_end: Callable[[Exception | None], None] = lambda error: None

    def start(
        self, on_data: Callable[[bytes], None], on_end: Callable[[Exception | None], None]
    ) -> None:
        """Push from now on."""
        self._on_data, self._on_end = on_data, on_end
        self._server.bodies.append(self)

    @property
    def is_read(self) -> bool:
        """Whether anything was read: the first read waits for nobody."""
        return self._at > 0

    def pause(self) -> None:
        """Read no more for now."""
        self.paused = True

    def resume(self) -> None:
        """Read on."""
        self.paused = False

    def limit_reads(self, size: int) -> None:
        """Read no more than `size` bytes at once."""
        self._limit = size

    def abort(self) -> None:
        """Close the connection."""
        if self in self._server.bodies:
            self._server.bodies.remove(self)

    def read(self, size: int) -> None:
        """Give the next bytes, or the end."""
        if self._at == len(self._content):
            self.abort()
            self._on_end(None)
            return
        begin, self._at = self._at, min(self._at + min(size, self._limit), len(self._content))
        self._on_data(self._content[begin : self._at])

    def cut(self) -> None:
        """The connection breaks."""
        self.abort()
        self.entry.breaks += 1
        self._on_end(httpx.ReadError("reset"))


class Server:
    """What is connected to one provider process. In it, `httpx.AsyncClient` and the gateways."""

    def __init__(self, entries: dict[str, Entry], draw: random.Random) -> None:
        self._entries = entries
        self._draw = draw
        self.bodies: list[Body] = []

    # httpx.AsyncClient

    async def send(self, request: str, *, stream: bool = False) -> Any:
        """Answer, sooner or later."""
        _, name, after = request.split("/")
        entry = self._entries[name]
        await Sleep(self._draw.choice((0.0, 0.0, 0.005)))
        if after == "cancel":
            entry.recalled = True
            return SimpleNamespace(status_code=200)
        entry.ask()
        content = entry.answer.body if after == "new" else entry.answer.rest(after)
        extensions = {BODY: Body(self, entry, content)}
        return SimpleNamespace(status_code=200, headers={}, extensions=extensions)

    # providers.gateway.Gateway

    credential = Anonymous()
    config = _LOCAL

    def request(self, client: Server, call: Call) -> str:
        """A request is its path."""
        return call.path

    def shape(self, model: str, request: AnyRequest) -> tuple[str, Call]:
        """A model is an answer's name."""
        return self._entries[model].answer.api, Call(f"/{model}/new")

    def reattach(self, api: str, cursor: Cursor) -> Call:
        """Ask for the rest."""
        return Call(f"/{cursor.id}/{cursor.after}", method="GET")

    def recall(self, api: str, cursor: Cursor) -> Call:
        """Have it stopped."""
        return Call(f"/{cursor.id}/cancel")
