"""The connections of one transport: made, kept while idle, dropped when dead."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from typing import NamedTuple

import httpx

from ringcast.config import Limits
from ringcast.providers.http import tcp
from ringcast.providers.http.body import READ_BYTES
from ringcast.providers.http.clocks import Sleep, boottime
from ringcast.providers.http.connection import Connection, Origin
from ringcast.providers.http.host import Host
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
    """

    def __init__(
        self,
        ssl_context: ssl.SSLContext,
        limits: Limits,
        keepalive_s: float,
        boot: Callable[[], float] = boottime,
    ) -> None:
        """`boot` is read beside the monotonic clock, to tell a sleep."""
        self._ssl_context = ssl_context
        self._limits = limits
        self._keepalive_s = keepalive_s
        self._boot = boot
        self._sleep = Sleep(time.monotonic(), boot())
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._open: set[Connection] = set()
        self._hosts: dict[Origin, Host] = {}
        self._closed = False
        self._emptied = asyncio.Event()

    @property
    def gauges(self) -> Gauges:
        """What is open, idle and waiting, of all origins together."""
        hosts = self._hosts.values()
        idle = sum(len(host.idle) for host in hosts)
        return Gauges(len(self._open), idle, sum(len(host.waiting) for host in hosts))

    async def acquire(
        self, origin: Origin, timeout_s: float | None, *, fresh: bool = False
    ) -> Connection:
        """A connection for one exchange: an idle one unless it must be `fresh`, or a new one.

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
        for connection in list(self._open):
            connection.close()
        if self._open:
            self._emptied.clear()
            await self._emptied.wait()

    # the connections' side

    def made(self, connection: Connection) -> None:
        """The socket of `connection` is open."""
        self._open.add(connection)
        self._host(connection.origin).placed.add(connection)

    def release(self, connection: Connection) -> None:
        """`connection` has finished an exchange and may carry another."""
        expiry = None
        if self._keepalive_s > 0:
            loop = asyncio.get_running_loop()
            expiry = loop.call_later(self._keepalive_s, connection.abort)
        self._host(connection.origin).release(connection, expiry)

    def lost(self, connection: Connection) -> None:
        """The socket of `connection` is closed, or was never opened."""
        host = self._host(connection.origin)
        host.drop(connection)
        if host.empty:
            del self._hosts[connection.origin]
        self._open.discard(connection)
        if not self._open:
            self._emptied.set()

    # within

    def _host(self, origin: Origin) -> Host:
        if (host := self._hosts.get(origin)) is None:
            host = self._hosts[origin] = Host(self._limits.max_connections_per_host)
        return host

    async def _acquire(self, own: Connection, fresh: bool) -> Connection:
        connection = await self._host(own.origin).place(own, fresh=fresh)
        if connection is own:
            await self._connect(own)
        elif not connection.usable:  # it has died on its way to us
            return await self._acquire(own, fresh)
        if self._closed:
            connection.abort()
            raise httpx.CloseError("the transport was closed")
        return connection

    def _late(self, own: Connection, timeout_s: float | None) -> httpx.TimeoutException:
        """Say what took too long; without a place it was never begun."""
        limit, address = self._limits.max_connections_per_host, own.origin.address
        if own not in self._host(own.origin).placed:
            text = f"all {limit} connections to {address} were in use"
            return httpx.PoolTimeout(f"{text} (limits.max_connections_per_host)")
        return httpx.ConnectTimeout(f"no connection to {address} within {timeout_s} s")

    def _after_sleep(self) -> None:
        if self._sleep.slept(time.monotonic(), self._boot()):
            for host in self._hosts.values():
                while (idle := host.take()) is not None:
                    idle.abort()

    async def _connect(self, connection: Connection) -> None:
        origin = connection.origin
        tls = origin.scheme == "https"
        sock = await tcp.connect(origin.host, origin.port, origin.reach)
        try:
            # From here on the loop owns the socket, in failure too.
            await asyncio.get_running_loop().create_connection(
                lambda: connection,
                sock=sock,
                ssl=self._ssl_context if tls else None,
                server_hostname=origin.host if tls else None,
            )
        except BaseException as error:
            connection.abort()
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
