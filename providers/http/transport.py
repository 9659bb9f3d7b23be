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
from collections.abc import Callable
from typing import Final

import httpx

from ringcast.config import Config, Limits
from ringcast.providers.http.body import Body
from ringcast.providers.http.clocks import boottime
from ringcast.providers.http.connection import Connection, Origin
from ringcast.providers.http.http1 import CutError, ResponseParser, encode_request
from ringcast.providers.http.pool import Gauges, Pool, TLSError
from ringcast.providers.http.reach import REACH, Reach

__all__ = ["BODY", "Body", "CutError", "TLSError", "Transport", "open_client"]

BODY = "ringcast.body"
USER_AGENT: Final = "ringcast/0.1"


class Transport(httpx.AsyncBaseTransport):
    """HTTP/1.1 with keep-alive over one shared SSL context; redirects are httpx's affair (off).

    Of httpx's timeouts `connect` covers waiting for a place, name, TCP and TLS, and `read` the
    time from the request to the complete response head; a body has no clock here, its reader has.
    Where a request may go is its extension `REACH`. HTTP/2 is not spoken: a stream that stalls
    would hold up the others of its connection, and to a few hosts connections are cheap.
    Extra to httpx's errors: `TLSError`, a `ConnectError` that no retry mends, and `CutError`, a
    `RemoteProtocolError` for a message that was well-formed as far as it came.
    """

    def __init__(
        self,
        ssl_context: ssl.SSLContext,
        limits: Limits,
        keepalive_s: float,
        boot: Callable[[], float] = boottime,
    ) -> None:
        """`ssl_context` must verify (`ValueError` else); ALPN `http/1.1` is set on it."""
        if ssl_context.verify_mode != ssl.CERT_REQUIRED or not ssl_context.check_hostname:
            raise ValueError("the SSL context does not verify certificates and host names")
        ssl_context.set_alpn_protocols(["http/1.1"])
        self._limits = limits
        self._pool = Pool(ssl_context, limits, keepalive_s, boot)

    @property
    def gauges(self) -> Gauges:
        """How many sockets are open, wait for a request, and how many requests wait for one."""
        return self._pool.gauges

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request` and return when the head is there; see the class for the clocks.

        A kept connection that dies before the first byte of an answer was closed by the
        server while idle: the request is sent once more, on a fresh connection.
        """
        origin = Origin.of(request.url, request.extensions.get(REACH, Reach.PUBLIC))
        data = encode_request(request, await request.aread())
        connect_s = _timeout_s(request, "connect")
        connection = await self._pool.acquire(origin, connect_s)
        if connection.kept:
            response = self._parser(request)
            try:
                return await self._exchange(connection, request, data, response)
            except (httpx.ReadError, httpx.RemoteProtocolError):
                if response.started:
                    raise
            connection = await self._pool.acquire(origin, connect_s, fresh=True)
        return await self._exchange(connection, request, data, self._parser(request))

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


class Client(httpx.AsyncClient):
    """httpx's client over `transport`."""

    def __init__(self, transport: Transport, timeout: httpx.Timeout) -> None:
        """No proxies, no redirects, nothing compressed."""
        super().__init__(
            transport=transport,
            trust_env=False,
            follow_redirects=False,
            headers={"user-agent": USER_AGENT, "accept-encoding": "identity"},
            timeout=timeout,
        )
        self.transport = transport


def open_client(config: Config) -> Client:
    """Return a client with the configuration's limits and clocks."""
    clocks = config.timeouts
    transport = Transport(ssl.create_default_context(), config.limits, clocks.keepalive_s)
    connect_s, first_byte_s = clocks.connect_s or None, clocks.first_byte_s or None
    return Client(transport, httpx.Timeout(None, connect=connect_s, read=first_byte_s))


def _timeout_s(request: httpx.Request, name: str) -> float | None:
    """httpx's own timeout of that name, in seconds; None is none."""
    timeout: float | None = request.extensions.get("timeout", {}).get(name)
    return timeout
