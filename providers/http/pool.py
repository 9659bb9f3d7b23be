"""The connections of one transport: made, kept while idle, dropped when dead."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import httpx

from ringcast.config import Limits
from ringcast.providers.http import tcp
from ringcast.providers.http.body import READ_BYTES
from ringcast.providers.http.carrier import Carrier, Origin
from ringcast.providers.http.clocks import Sleep, boottime
from ringcast.providers.http.connection import Connection
from ringcast.providers.http.host import Host
from ringcast.providers.http.offer import Greeting, Offer
from ringcast.providers.http.patience import Patience


class TLSError(httpx.ConnectError):
    """The TLS handshake failed for a reason that a retry will not mend.

    `reason` is OpenSSL's own text.
    """

    def __init__(self, host: str, reason: str) -> None:
        super().__init__(f"TLS with {host} failed: {reason}")
        self.reason = reason


class Gauges(NamedTuple):
    """Connections now: sockets `open`, those of them that are `idle`, and requests `waiting`."""

    open: int
    idle: int
    waiting: int


class Pool:
    """Connections by origin, at most `limits.max_connections_per_host` to each.

    An idle connection is closed after `keepalive_s` seconds (0: kept until the peer closes it),
    and is dropped at once when the peer closes it or sends anything. After the machine was
    suspended none is used again: its peer has forgotten it, and would say so only in an answer.
    Where HTTP/2 was agreed a connection carries many exchanges, and is idle when it carries none.
    """

    def __init__(
        self,
        ssl_context: ssl.SSLContext,
        limits: Limits,
        keepalive_s: float,
        boot: Callable[[], float] = boottime,
        offer: Offer | None = None,
    ) -> None:
        """`boot` is read beside the monotonic clock, to tell a sleep."""
        self._ssl_context = ssl_context
        self._limits = limits
        self._keepalive_s = keepalive_s
        self._boot = boot
        self._offer = offer
        self._sleep = Sleep(time.monotonic(), boot())
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._open: set[Carrier] = set()
        self._hosts: dict[Origin, Host] = {}
        self._closed = False
        self._emptied = asyncio.Event()

    @property
    def gauges(self) -> Gauges:
        """What is open, idle and waiting, of all origins together."""
        hosts = self._hosts.values()
        idle = sum(host.idle for host in hosts)
        return Gauges(len(self._open), idle, sum(len(host.waiting) for host in hosts))

    async def acquire(
        self, origin: Origin, timeout_s: float | None, *, fresh: bool = False
    ) -> Carrier:
        """A connection for one exchange: one with room, unused if it must be `fresh`, or a new one.

        `timeout_s` covers waiting for a place, name, TCP and TLS together. Raises
        `httpx.PoolTimeout` for the first of these, `httpx.ConnectTimeout` for the others,
        `TLSError`, `httpx.ConnectError`, and `httpx.CloseError` when the pool was closed.
        """
        self._after_sleep()
        own = Connection(origin, self._buffer, self._limits, self)
        try:
            async with Patience(timeout_s):
                return await self._acquire(own, fresh)
        except TimeoutError:
            raise self._late(own, timeout_s) from None
        finally:
            if own not in self._open:
                self.lost(own)

    async def aclose(self) -> None:
        """Close every connection, in use or not, and wait until the sockets are gone."""
        self._closed = True
        for host in self._hosts.values():
            host.close()
        for carrier in list(self._open):
            carrier.close()
        if self._open:
            self._emptied.clear()
            await self._emptied.wait()

    # the connections' side

    def made(self, carrier: Carrier) -> None:
        """The socket of `carrier` is open."""
        self._open.add(carrier)
        self._host(carrier.origin).made(carrier)

    def known(self, carrier: Carrier) -> None:
        """`carrier` has been told how many exchanges it may carry."""
        self._host(carrier.origin).known(carrier)

    def release(self, carrier: Carrier) -> None:
        """`carrier` may carry another exchange."""
        expiry = None
        if self._keepalive_s > 0 and carrier.idle:
            loop = asyncio.get_running_loop()
            expiry = loop.call_later(self._keepalive_s, carrier.abort)
        self._host(carrier.origin).release(carrier, expiry)

    def lost(self, carrier: Carrier) -> None:
        """The socket of `carrier` is closed, or was never opened."""
        host = self._host(carrier.origin)
        host.drop(carrier)
        if host.empty:
            del self._hosts[carrier.origin]
        self._open.discard(carrier)
        if not self._open:
            self._emptied.set()

    # within

    def _host(self, origin: Origin) -> Host:
        if (host := self._hosts.get(origin)) is None:
            sharing = self._offer is not None and self._offer.to(origin)
            host = Host(self._limits.max_connections_per_host, sharing=sharing)
            self._hosts[origin] = host
        return host

    async def _acquire(self, own: Connection, fresh: bool) -> Carrier:
        carrier = await self._host(own.origin).place(own, fresh=fresh)
        if carrier is own:
            carrier = await self._connect(own)
            carrier.take()
            if carrier.room:
                self.release(carrier)
        elif not carrier.usable:  # it has died on its way to us
            carrier.give_back()
            return await self._acquire(own, fresh)
        if self._closed:
            carrier.abort()
            raise httpx.CloseError("the transport was closed")
        return carrier

    def _late(self, own: Connection, timeout_s: float | None) -> httpx.TimeoutException:
        """Say what took too long; without a place it was never begun."""
        limit, address = self._limits.max_connections_per_host, own.origin.address
        host = self._host(own.origin)
        if own not in host.placed and host.full:
            text = f"all {limit} connections to {address} were in use"
            return httpx.PoolTimeout(f"{text} (limits.max_connections_per_host)")
        return httpx.ConnectTimeout(f"no connection to {address} within {timeout_s} s")

    def _after_sleep(self) -> None:
        if self._sleep.slept(time.monotonic(), self._boot()):
            for host in self._hosts.values():
                host.retire()

    async def _connect(self, own: Connection) -> Carrier:
        """Make `own`, or what speaks HTTP/2 in its stead."""
        origin, offer = own.origin, self._offer
        sock = await tcp.connect(origin.host, origin.port, origin.reach)
        if offer is None or not offer.to(origin):
            tls = self._ssl_context if origin.scheme == "https" else None
            await self._open_transport(own, origin, sock, tls)
            return own
        greeting = Greeting(own, partial(offer.speak, origin, self._buffer, self._limits, self))
        await self._open_transport(greeting, origin, sock, offer.context)
        return greeting.carrier

    async def _open_transport(
        self,
        protocol: Connection | Greeting,
        origin: Origin,
        sock: socket.socket,
        tls: ssl.SSLContext | None,
    ) -> None:
        try:
            # From here on the loop owns the socket, in failure too.
            await asyncio.get_running_loop().create_connection(
                lambda: protocol,
                sock=sock,
                ssl=tls,
                server_hostname=origin.host if tls else None,
            )
        except BaseException as error:
            protocol.abort()
            if isinstance(error, ssl.SSLError):
                raise TLSError(origin.host, _openssl_reason(error)) from error
            if isinstance(error, OSError):
                raise httpx.ConnectError(f"TLS with {origin.address} broke: {error}") from error
            raise


def _openssl_reason(error: ssl.SSLError) -> str:
    """`certificate verify failed: self-signed certificate`, `WRONG_VERSION_NUMBER`, …"""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    return error.reason or str(error)
