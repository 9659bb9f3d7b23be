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
from ringcast.providers.http.carrier import Carrier, Origin, Unprocessed
from ringcast.providers.http.clocks import boottime
from ringcast.providers.http.http1 import CutError, check_request
from ringcast.providers.http.offer import HTTP2, Offer, offer_of
from ringcast.providers.http.pool import Gauges, Pool, TLSError
from ringcast.providers.http.reach import REACH, Reach

__all__ = ["BODY", "Body", "CutError", "TLSError", "Transport", "open_client"]

BODY = "ringcast.body"
USER_AGENT: Final = "ringcast/0.1"


class Transport(httpx.AsyncBaseTransport):
    """HTTP/1.1 with keep-alive over one shared SSL context; redirects are httpx's affair (off).

    Of httpx's timeouts `connect` covers waiting for a place, name, TCP and TLS, and `read` the
    time from the request to the complete response head; a body has no clock here, its reader has.
    Where a request may go is its extension `REACH`. HTTP/2 is spoken where it is offered and the
    server wants it, never without TLS; elsewhere a stream has a connection of its own.
    Extra to httpx's errors: `TLSError`, a `ConnectError` that no retry mends, `Unprocessed`, a
    `ReadError`, and `CutError`, a `RemoteProtocolError` for a message that was well-formed as far
    as it came.
    """

    def __init__(
        self,
        ssl_context: ssl.SSLContext,
        limits: Limits,
        keepalive_s: float,
        boot: Callable[[], float] = boottime,
        offer: Offer | None = None,
    ) -> None:
        """The SSL contexts must verify (`ValueError` else); their ALPN is set here."""
        _prepare(ssl_context, ["http/1.1"])
        if offer is not None:
            _prepare(offer.context, ["h2", "http/1.1"])
        self._pool = Pool(ssl_context, limits, keepalive_s, boot, offer)

    @property
    def gauges(self) -> Gauges:
        """How many sockets are open, wait for a request, and how many requests wait for one."""
        return self._pool.gauges

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request` and return when the head is there; see the class for the clocks.

        What a server has not begun with (it closed a kept connection while that was idle, or says
        so) is sent once more; not on that connection if it is gone, nor on another kept one.
        """
        said = request.extensions
        http2 = said.get(HTTP2, False)
        origin = Origin.of(request.url, said.get(REACH, Reach.PUBLIC), http2=http2)
        check_request(request)
        content = await request.aread()
        connect_s = _timeout_s(request, "connect")
        carrier = await self._pool.acquire(origin, connect_s)
        try:
            return await _exchange(carrier, request, content)
        except Unprocessed:
            pass
        # Who only refused may be asked again; where one has died, those beside it may be dead too.
        carrier = await self._pool.acquire(origin, connect_s, fresh=not carrier.usable)
        return await _exchange(carrier, request, content)

    async def aclose(self) -> None:
        """Close every socket; bodies still being read end with an error."""
        await self._pool.aclose()


def _prepare(context: ssl.SSLContext, versions: list[str]) -> None:
    if context.verify_mode != ssl.CERT_REQUIRED or not context.check_hostname:
        raise ValueError("the SSL context does not verify certificates and host names")
    context.set_alpn_protocols(versions)


async def _exchange(carrier: Carrier, request: httpx.Request, content: bytes) -> httpx.Response:
    answer = await carrier.exchange(request, content, _timeout_s(request, "read"))
    version = b"HTTP/" + answer.version.encode()
    return httpx.Response(
        answer.status,
        headers=answer.headers,
        stream=answer.body,
        extensions={"http_version": version, BODY: answer.body},
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
    """Return a client with the configuration's limits and clocks.

    Raises `ConfigError` where HTTP/2 is asked for and its library is missing.
    """
    clocks = config.timeouts
    transport = Transport(
        ssl.create_default_context(), config.limits, clocks.keepalive_s, offer=offer_of(config)
    )
    connect_s, first_byte_s = clocks.connect_s or None, clocks.first_byte_s or None
    return Client(transport, httpx.Timeout(None, connect=connect_s, read=first_byte_s))


def _timeout_s(request: httpx.Request, name: str) -> float | None:
    """httpx's own timeout of that name, in seconds; None is none."""
    timeout: float | None = request.extensions.get("timeout", {}).get(name)
    return timeout
