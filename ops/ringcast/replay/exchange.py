"""A client's connection to the replay upstream: requests in, answers out, one after the other."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from typing import Final, Protocol, cast

import httptools

from ringcast.replay.answer import Answer, Ending, Reply, Seen
from ringcast.replay.wheel import Wheel

# A reader that stops is noticed after so many bytes: these, and the kernel's send buffer.
_WRITE_BUFFER: Final = 16 << 10
_MAX_REQUEST: Final = 32 << 20
_SECRETS: Final = frozenset(
    {"authorization", "proxy-authorization", "x-api-key", "x-goog-api-key", "api-key", "cookie"}
)
_BAD_REQUEST: Final = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class Request:
    """A request, complete once `Upstream` gets to see it. Names of headers are lower case."""

    def __init__(self) -> None:
        self.method = ""
        self.target = b""
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.http11 = True
        self.keep_alive = True

    @property
    def path(self) -> str:
        """The target without its query (which may carry Gemini's key)."""
        return self.target.partition(b"?")[0].decode("latin-1")

    @property
    def query(self) -> str:
        """What stands behind the path."""
        return self.target.partition(b"?")[2].decode("latin-1")

    def carries(self, key: str) -> bool:
        """Whether `key` is in one of the headers that providers take it from."""
        bearer = self.headers.get("authorization", "").partition(" ")[2]
        return key in (bearer, *(self.headers.get(h) for h in ("x-api-key", "x-goog-api-key")))

    def seen(self, model: str = "") -> Seen:
        """The request as tests may look at it, without keys."""
        headers = {h: "***" if h in _SECRETS else value for h, value in self.headers.items()}
        return Seen(self.path, model, headers, bytes(self.body))


class Server(Protocol):
    """The upstream as a connection sees it."""

    wheel: Wheel
    connections: set[Connection]

    def reply_to(self, request: Request) -> tuple[Reply, Seen]:
        """Decide on the answer, and begin to watch it."""

    def sent(self, seen: Seen, size: int) -> None:
        """So many bytes of the body are written."""

    def ended(self, seen: Seen, ended: Ending) -> None:
        """The answer is over."""


class Connection(asyncio.Protocol):
    """The asyncio protocol; httptools calls its `on_` methods back, `Answer` the lower ones."""

    def __init__(self, server: Server) -> None:
        self.paused = False
        self._server = server
        self._parser = httptools.HttpRequestParser(self)
        self._reading = Request()
        self._waiting: deque[Request] = deque()
        self._answer: Answer | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no asyncio.Transport, but all that one is.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_WRITE_BUFFER)
        self._server.connections.add(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.write(_BAD_REQUEST)
            self._transport.close()
        else:
            self._serve()

    def eof_received(self) -> None:
        self._over("fin")

    def connection_lost(self, exc: Exception | None) -> None:
        self._over("fin" if exc is None else "rst")
        self._server.connections.discard(self)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        if self._answer is not None and self._answer.parked:
            self._answer.go_on()

    def on_message_begin(self) -> None:
        self._reading = Request()

    def on_url(self, url: bytes) -> None:
        self._reading.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._reading.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._reading.body += body
        if len(self._reading.body) > _MAX_REQUEST:
            self._transport.abort()

    def on_message_complete(self) -> None:
        request = self._reading
        request.method = self._parser.get_method().decode("latin-1")
        request.http11 = self._parser.get_http_version() != "1.0"
        request.keep_alive = self._parser.should_keep_alive()
        self._waiting.append(request)

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    def finish(self, *, keep_alive: bool) -> None:
        self._over("done")
        if keep_alive:
            self._serve()
        else:
            self._transport.close()

    def reset(self) -> None:
        self._over("done")
        # socket(7): a close that lingers for zero seconds discards and sends RST.
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def abort(self) -> None:
        """Drop the connection and what is buffered for it."""
        self._over("done")
        self._transport.abort()

    def _serve(self) -> None:
        if self._answer is not None or not self._waiting or self._transport.is_closing():
            return
        request = self._waiting.popleft()
        reply, seen = self._server.reply_to(request)
        self._answer = Answer(
            reply,
            seen,
            self,
            self._server.wheel,
            self._server.sent,
            http11=request.http11,
            keep_alive=request.keep_alive,
        )
        self._answer.start()

    def _over(self, ended: Ending) -> None:
        if self._answer is not None:
            seen, self._answer = self._answer.seen, None
            self._server.ended(seen, ended)
