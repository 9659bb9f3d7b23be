"""The HTTP transport under httpx: httpx keeps its API, ringcast owns the sockets.

CPU of this process a body chunk of 200 bytes, plain HTTP, uvloop, two busy cores
(`python ops/bench/transport.py`):

                    one chunk a read    256 chunks a write
    httpx (h11)             48 µs               7.9 µs
    httpx-aiohttp           19 µs               0.96 µs
    here, pulled            14 µs               0.18 µs
    here, pushed            10 µs               0.13 µs

Of the 10 µs 0.9 are ours; the rest is the loop's wake-up and the system's read.

transport = Transport(ssl_context, limits, keepalive_s)
client = httpx.AsyncClient(transport=transport)
async with client.stream("POST", url, content=…) as response:
    body: Body = response.extensions["ringcast.body"]
    body.start(on_data, on_end)
"""

from __future__ import annotations

import ssl
from typing import Final

import httpx

from ringcast.config import Config, Limits
from ringcast.providers.body import Body
from ringcast.providers.connection import Connection, Origin
from ringcast.providers.http1 import CutError, ResponseParser, encode_request
from ringcast.providers.pool import Pool, TLSError

__all__ = ["BODY", "Body", "CutError", "TLSError", "Transport", "open_client"]

BODY = "ringcast.body"
USER_AGENT: Final = "ringcast/0.1"


class Transport(httpx.AsyncBaseTransport):
    """HTTP/1.1 with keep-alive over one shared SSL context; redirects are httpx's affair (off).

    Of httpx's timeouts `connect` covers name, TCP and TLS, and `read` the time from the
    request to the complete response head; a body has no clock here, its reader has.
    Extra to httpx's errors: `TLSError`, a `ConnectError` that no retry mends, and `CutError`, a
    `RemoteProtocolError` for a message that was well-formed as far as it came.
    """

    def __init__(self, ssl_context: ssl.SSLContext, limits: Limits, keepalive_s: float) -> None:
        """`ssl_context` must verify (`ValueError` else); ALPN `http/1.1` is set on it."""
        if ssl_context.verify_mode != ssl.CERT_REQUIRED or not ssl_context.check_hostname:
            raise ValueError("the SSL context does not verify certificates and host names")
        ssl_context.set_alpn_protocols(["http/1.1"])
        self._limits = limits
        self._pool = Pool(ssl_context, limits, keepalive_s)

    @property
    def open_connections(self) -> int:
        """Sockets open now, idle ones included."""
        return self._pool.open_connections

    @property
    def idle_connections(self) -> int:
        """Sockets that wait for a request."""
        return self._pool.idle_connections

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request` and return when the head is there; see the class for the clocks.

        A kept connection that dies before the first byte of an answer was closed by the
        server while idle: the request is sent once more, on a fresh connection.
        """
        origin = Origin.of(request.url)
        data = encode_request(request, await request.aread())
        kept = self._pool.take(origin)
        if kept is not None:
            response = self._parser(request)
            try:
                return await self._exchange(kept, request, data, response)
            except (httpx.ReadError, httpx.RemoteProtocolError):
                if response.started:
                    raise
        fresh = await self._pool.dial(origin, _timeout_s(request, "connect"))
        return await self._exchange(fresh, request, data, self._parser(request))

    async def aclose(self) -> None:
        """Close every socket; bodies still being read end with an error."""
        await self._pool.aclose()

    def _parser(self, request: httpx.Request) -> ResponseParser:
        return ResponseParser(self._limits, bodyless=request.method == "HEAD")

    async def _exchange(
        self, connection: Connection, request: httpx.Request, data: bytes, response: ResponseParser
    ) -> httpx.Response:
        body = await connection.send(data, response, timeout_s=_timeout_s(request, "read"))
        return httpx.Response(
            response.status,
            headers=response.headers,
            stream=body,
            extensions={
                "http_version": b"HTTP/" + response.http_version.encode(),
                BODY: body,
            },
        )


def open_client(config: Config) -> httpx.AsyncClient:
    """Return a client over this transport: no proxies, no redirects, nothing compressed."""
    clocks = config.timeouts
    transport = Transport(ssl.create_default_context(), config.limits, clocks.keepalive_s)
    return httpx.AsyncClient(
        transport=transport,
        trust_env=False,
        follow_redirects=False,
        headers={"user-agent": USER_AGENT, "accept-encoding": "identity"},
        timeout=httpx.Timeout(
            None, connect=clocks.connect_s or None, read=clocks.first_byte_s or None
        ),
    )


def _timeout_s(request: httpx.Request, name: str) -> float | None:
    """httpx's own timeout of that name, in seconds; None is none."""
    timeout: float | None = request.extensions.get("timeout", {}).get(name)
    return timeout
