"""HTTP/1.1 messages without I/O: a request becomes bytes, bytes become a response.

RFC 9112 is the source. The response side is llhttp (httptools), which is strict by
default; this file adds what it leaves out: limits of the head, interim responses, the end
of a body at EOF, and the verdict whether the connection may carry another request.
"""

from __future__ import annotations

import re

import httptools
import httpx

from ringcast.config import Limits

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_UNSAFE_IN_VALUE = re.compile(rb"[\r\n\0]")
_UNSAFE_IN_TARGET = re.compile(rb"[\x00-\x20\x7f]")
FRAMING = frozenset((b"content-length", b"transfer-encoding"))


def check_request(request: httpx.Request) -> None:
    """Raise `httpx.LocalProtocolError` for what would end its line early, in either version.

    That is a header, method or target of request smuggling (RFC 9112 §11.1, RFC 9113 §10.3). The
    text never shows a value: it may be a key.
    """
    if not _TOKEN.fullmatch(request.method.encode()) or _UNSAFE_IN_TARGET.search(
        request.url.raw_path
    ):
        raise httpx.LocalProtocolError("the method or the target would break the request line")
    for name, value in request.headers.raw:
        if not _TOKEN.fullmatch(name):
            raise httpx.LocalProtocolError(f"header name {name!r} is not a token")
        if _UNSAFE_IN_VALUE.search(value):
            raise httpx.LocalProtocolError(f"header {name.decode()!r} contains CR, LF or NUL")


def encode_request(request: httpx.Request, body: bytes) -> bytes:
    """Head and body of a checked request in one piece, framed by Content-Length (RFC 9112 §6.2)."""
    lines = [b"%s %s HTTP/1.1\r\n" % (request.method.encode(), request.url.raw_path)]
    framed = bool(body)
    for name, value in request.headers.raw:
        if name.lower() in FRAMING:
            framed = True
        else:
            lines.append(b"%s: %s\r\n" % (name, value))
    if framed:
        lines.append(b"Content-Length: %d\r\n" % len(body))
    return b"".join((*lines, b"\r\n", body))


class CutError(httpx.RemoteProtocolError):
    """The peer closed the connection before the message was complete."""


class _SurplusError(Exception):
    """Bytes follow the message: stop the parser before it takes them for another response."""


class ResponseParser:
    """One response: feed it what the socket gives, then look at its attributes.

    `status`, `headers` and `http_version` are valid once `head_complete`; `pieces` holds the
    body parts of the last feed until `take`; `complete` says that the message has ended,
    and only then `reusable` says that the connection may carry another request.
    """

    def __init__(self, limits: Limits, *, bodyless: bool) -> None:
        """`bodyless`: the request was HEAD, whose answer ends with its head."""
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.http_version = ""
        self.head_complete = False
        self.complete = False
        self.reusable = False
        self.started = False
        self.pieces: list[bytes] = []
        # llhttp hands every chunk to this; a bound list.append is the cheapest of callbacks.
        self.on_body = self.pieces.append
        self._limits = limits
        self._bodyless = bodyless
        self._interim = False
        self._chunked = False
        self._length: int | None = None
        self._received = 0
        # Bytes since the last body byte: the head, then chunk extensions and trailers.
        self._overhead = 0
        self._header_bytes = 0
        self._parser = httptools.HttpResponseParser(self)
        # Both framings at once: chunked wins (RFC 9112 §6.3), and `reusable` stays False.
        self._parser.set_dangerous_leniencies(lenient_chunked_length=True)

    def feed(self, data: memoryview) -> None:
        """Parse one read; `data` may be reused afterwards.

        Raises `httpx.RemoteProtocolError`; `pieces` then still holds what was good before.
        """
        self.started = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            raise httpx.RemoteProtocolError("the server switched protocols (101)") from None
        except httptools.HttpParserError as error:
            if not self.complete:
                raise _as_protocol_error(error) from error
            self.reusable = False
        if self.pieces:
            self._overhead = 0
            if self._bodyless:
                self.pieces.clear()
        elif not self.complete:
            self._overhead += len(data)
            self._check(self._overhead, self._limits.max_header_bytes, "max_header_bytes")

    def take(self) -> bytes:
        """The body bytes of the last feed, joined; a single piece is not copied."""
        pieces = self.pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._received += len(data)
        return data

    def end_of_input(self) -> None:
        """The peer sends nothing more: completes a body that EOF ends (RFC 9112 §6.3 rule 8).

        Raises `CutError` when the message is not complete.
        """
        if not self.started:
            raise CutError("server disconnected without sending a response")
        if not self.head_complete:
            raise CutError("server disconnected inside the response head")
        if self._chunked:
            raise CutError(_CUT + "(incomplete chunked read)")
        if self._length is not None:
            raise CutError(f"{_CUT}(received {self._received} bytes, expected {self._length})")
        self.complete = True

    # llhttp's callbacks

    def on_message_begin(self) -> None:
        if self.complete:
            raise _SurplusError

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.head_complete:
            return  # a trailer: nobody needs it, `_overhead` bounds it
        self._header_bytes += len(name) + len(value) + 4
        self._check(self._header_bytes, self._limits.max_header_bytes, "max_header_bytes")
        self.headers.append((name, value))
        self._check(len(self.headers), self._limits.max_headers, "max_headers")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            self._interim = True
            self.headers.clear()
            return
        self.http_version = self._parser.get_http_version()
        if status < 100 or self.http_version not in ("1.0", "1.1"):
            raise httpx.RemoteProtocolError(f"bad status line: HTTP/{self.http_version} {status}")
        self.status = status
        self._read_framing()
        self.head_complete = True
        self.complete = self._bodyless

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
            return
        self.complete = True
        both = self._chunked and self._length is not None
        self.reusable = not both and not self._bodyless and self._parser.should_keep_alive()

    def _read_framing(self) -> None:
        for name, value in self.headers:
            match name.lower():
                case b"transfer-encoding" if value.strip().lower() != b"chunked":
                    raise httpx.RemoteProtocolError(f"unsupported Transfer-Encoding {value[:40]!r}")
                case b"transfer-encoding":
                    self._chunked = True
                case b"content-length":
                    self._length = int(value)

    def _check(self, value: int, limit: int, setting: str) -> None:
        if value > limit:
            raise httpx.RemoteProtocolError(f"response headers over limits.{setting} ({limit})")


_CUT = "peer closed connection without sending complete message body "


def _as_protocol_error(error: httptools.HttpParserError) -> httpx.RemoteProtocolError:
    """What a callback raised, or llhttp's own reason."""
    cause = error.__context__
    if isinstance(cause, httpx.RemoteProtocolError):
        return cause
    return httpx.RemoteProtocolError(f"bad response: {error}")
