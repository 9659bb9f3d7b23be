"""The providers' side: connections that give an answer's bytes in pieces, and may break."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import httpx

from ringcast.config import Provider
from ringcast.providers.credentials import Anonymous
from ringcast.providers.http.pool import Gauges
from ringcast.providers.http.transport import BODY
from ringcast.providers.request import Call
from ringcast.providers.vendor import AnyRequest
from ringcast.shm.records import Cursor

from .failure import Failure
from .ledger import Entry
from .loop import Sleep

READ_BYTES = 1 << 16
_LOCAL = Provider("openai-compatible", "http://simulation")
_RESET = httpx.ReadError("reset")


class Body:
    """A response body as `providers.upstream` uses one."""

    def __init__(
        self, server: Server, entry: Entry, content: bytes, failure: Failure | None = None
    ) -> None:
        """`failure` comes in the answer's place, and `content` is its body."""
        self.entry = entry
        self._server = server
        self._content = content
        self._failure = failure
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

    def most_granted(self, window: int) -> int:
        """The raw byte up to which it may be written."""
        if self._failure is not None:  # what makes no token needs no reader
            return len(self._content) + 2 * window
        return self.entry.most_granted(window)

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
            self._on_end(_RESET if self._failure and self._failure.broken else None)
            return
        begin, self._at = self._at, min(self._at + min(size, self._limit), len(self._content))
        self._on_data(self._content[begin : self._at])

    def cut(self) -> None:
        """The connection breaks."""
        self.abort()
        self.entry.breaks += 1
        self._on_end(_RESET)


class Refusal:
    """A response that is no 200, as `providers.upstream` reads one."""

    has_redirect_location = False

    def __init__(self, failure: Failure) -> None:
        self.status_code = failure.status
        self.headers = httpx.Headers({"content-type": "application/json", **failure.headers})
        self.extensions = {BODY: None}
        self._body = failure.body

    async def aiter_raw(self) -> AsyncIterator[bytes]:
        """All at once."""
        yield self._body

    async def aclose(self) -> None:
        """It is read."""


class Server:
    """What is connected to one provider process. It is its client and its gateways."""

    def __init__(
        self,
        entries: dict[str, Entry],
        draw: random.Random,
        check: Callable[[Server, Entry], None],
    ) -> None:
        """`check` raises `Violation` if a request may not be sent now."""
        self._entries = entries
        self._draw = draw
        self._check = check
        self.bodies: list[Body] = []

    # providers.transport.Client

    transport = SimpleNamespace(gauges=Gauges(0, 0, 0))

    async def send(self, request: str, *, stream: bool = False) -> Any:
        """Answer, sooner or later."""
        _, name, after = request.split("/")
        entry = self._entries[name]
        await Sleep(self._draw.choice((0.0, 0.0, 0.005)))
        if after == "cancel":
            entry.recalled = True
            return SimpleNamespace(status_code=200)
        if after != "new":
            entry.ask()
            return _answered(Body(self, entry, entry.answer.rest(after)))
        self._check(self, entry)
        failure = entry.send()
        if failure is None:
            return _answered(Body(self, entry, entry.answer.body))
        if failure.status != 200:
            return Refusal(failure)
        return _answered(Body(self, entry, failure.body, failure))

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


def _answered(body: Body) -> Any:
    return SimpleNamespace(status_code=200, headers={}, extensions={BODY: body})
