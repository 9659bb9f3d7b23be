"""Calls written twice, by an SDK and by us, and how they differ on the wire."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, Final, TypeAlias

import httpx
import msgspec
import pytest

from ringcast.config import Provider
from ringcast.providers import request
from ringcast.providers.gateway import Gateway, open_gateway
from ringcast.providers.request import Call

Json: TypeAlias = dict[str, Any]

KEY: Final = "key-of-nobody"
_REFUSAL: Final = b'{"error": {"message": "seen"}, "message": "seen"}'


class Case(msgspec.Struct, frozen=True):
    """One call in both words, and what is written otherwise, with the reason."""

    name: str
    theirs: Json
    ours: Json
    differs: dict[str, str] = {}


def alike(name: str, **fields: Any) -> Case:
    """A call that both say in the same words."""
    return Case(name, fields, fields)


def title(case: Case) -> str:
    """What a test about a call is called."""
    return case.name


class Sent(msgspec.Struct, frozen=True):
    """A request as it is on the wire; names of headers are lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: Any


class Capture:
    """An upstream that keeps the last request, and refuses all (400) that it has no answer to."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.last: Sent | None = None
        self.answer: bytes | None = None

    def told(self, body: bytes, ask: Any, **asked: Any) -> Any:
        """What an SDK makes of `body` as the answer to what it is asked."""
        self.answer = body
        try:
            return ask(**asked)
        finally:
            self.answer = None

    def sent(self, ask: Any, refused: type[Exception], **asked: Any) -> Sent:
        """What an SDK sends when it is asked, before it raises `refused`."""
        self.last = None
        with pytest.raises(refused):
            ask(**asked)
        assert self.last is not None, "nothing was sent"
        return self.last


@contextmanager
def capturing() -> Iterator[Capture]:
    """Run one in a thread."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            said = json.loads(body) if body else None
            capture.last = Sent(self.command, self.path, headers, said)
            answer = capture.answer or _REFUSAL
            self.send_response(200 if capture.answer else 400)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *args: Any) -> None:
            """Be quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    capture = Capture(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield capture
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Ours:
    """A provider of ours at a captured upstream."""

    def __init__(self, config: Provider, **environment: str) -> None:
        """`config` says where it is."""
        self._gateway: Gateway = open_gateway("p", config, environment, KEY)
        self.vendor = self._gateway.vendor

    def generation(self, model: str, **fields: Any) -> Sent:
        """The request for a generation."""
        _, call = self._gateway.shape(model, request.of(model=f"p/{model}", **fields))
        return self._sent(call)

    def count(self, model: str, **fields: Any) -> Sent:
        """The request for a count of tokens."""
        call = self.vendor.count(model, request.of(model=f"p/{model}", **fields))
        assert call is not None
        return self._sent(call)

    def models(self, page: str = "") -> Sent:
        """The request for a list of models."""
        call = self.vendor.models(page)
        assert call is not None
        return self._sent(call)

    def _sent(self, call: Call) -> Sent:
        made = asyncio.run(self._authorized(call))
        target, body = made.url.raw_path.decode(), json.loads(made.content or b"null")
        headers = {name.lower(): value for name, value in made.headers.items()}
        return Sent(made.method, target, headers, body)

    async def _authorized(self, call: Call) -> httpx.Request:
        async with httpx.AsyncClient(transport=httpx.AsyncBaseTransport()) as client:  # asks none
            made = self._gateway.request(client, call)
            await self._gateway.credential.authorize(made, client)
            return made


def differing(theirs: Sent, ours: Sent, *headers: str) -> set[str]:
    """The names of what is written otherwise, parts of a body by their paths (`tools.0.name`).

    Of the headers only `headers` are looked at, and the media type of the body. That there shall
    be no stream need not be said.
    """
    if isinstance(ours.body, dict) and ours.body.get("stream") is False:
        theirs.body.setdefault("stream", False)
    names = {
        name for name in ("method", "path", "query") if _part(theirs, name) != _part(ours, name)
    }
    for header in ("content-type", *headers) if ours.body is not None else headers:
        if theirs.headers.get(header) != ours.headers.get(header):
            names.add(f"header {header}")
    return names | set(_paths(theirs.body, ours.body))


def _part(sent: Sent, name: str) -> Any:
    """A part of what was sent; the order of a query means nothing."""
    path, _, query = sent.target.partition("?")
    return {"method": sent.method, "path": path, "query": sorted(query.split("&"))}[name]


def _paths(one: Any, other: Any, at: str = "") -> Iterator[str]:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        pairs = [(name, one.get(name), other.get(name)) for name in one.keys() | other.keys()]
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = [(str(number), *pair) for number, pair in enumerate(zip(one, other, strict=True))]
    else:
        if one != other or isinstance(one, bool) != isinstance(other, bool):  # 40.0 is 40
            yield at
        return
    for name, mine, its in pairs:
        yield from _paths(mine, its, f"{at}.{name}" if at else name)
