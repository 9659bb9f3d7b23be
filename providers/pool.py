"""The connections of one transport: made, kept while idle, dropped when dead."""

from __future__ import annotations

import asyncio
import ssl

import httpx

from ringcast.config import Limits
from ringcast.providers import tcp
from ringcast.providers.body import READ_BYTES
from ringcast.providers.connection import Connection, Origin


class TLSError(httpx.ConnectError):
    """The TLS handshake failed for a reason that a retry will not mend.

    `reason` is OpenSSL's own text.
    """

    def __init__(self, host: str, reason: str) -> None:
        super().__init__(f"TLS with {host} failed: {reason}")
        self.reason = reason


class Pool:
    """Open connections by origin. The most recently used idle one is taken first.

    An idle connection is closed after `keepalive_s` seconds (0: kept until the peer
    closes it), and is dropped at once when the peer closes it or sends anything.
    """

    def __init__(self, ssl_context: ssl.SSLContext, limits: Limits, keepalive_s: float) -> None:
        self._ssl_context = ssl_context
        self._limits = limits
        self._keepalive_s = keepalive_s
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._open: set[Connection] = set()
        # Dicts, not lists: insertion order is the stack, and any one can be dropped at once.
        self._idle: dict[Origin, dict[Connection, asyncio.TimerHandle | None]] = {}
        self._closed = False
        self._emptied = asyncio.Event()

    @property
    def open_connections(self) -> int:
        """Connections whose socket is open, idle ones included."""
        return len(self._open)

    @property
    def idle_connections(self) -> int:
        """Connections that wait for a request."""
        return sum(map(len, self._idle.values()))

    def take(self, origin: Origin) -> Connection | None:
        """An idle connection to `origin`, the last one used first."""
        while idle := self._idle.get(origin):
            connection = next(reversed(idle))
            self._drop(connection)
            if connection.usable:
                return connection
        return None

    async def dial(self, origin: Origin, timeout_s: float | None) -> Connection:
        """A new connection; `timeout_s` covers name, TCP and TLS together.

        Raises `httpx.ConnectTimeout`, `TLSError` and `httpx.ConnectError`, and
        `httpx.CloseError` when the pool was closed meanwhile.
        """
        try:
            async with asyncio.timeout(timeout_s):
                connection = await self._connect(origin)
        except TimeoutError:
            raise httpx.ConnectTimeout(
                f"no connection to {origin.address} within {timeout_s} s"
            ) from None
        if self._closed:
            connection.abort()
            raise httpx.CloseError("the transport was closed")
        return connection

    async def aclose(self) -> None:
        """Close every connection, in use or not, and wait until the sockets are gone."""
        self._closed = True
        for connection in list(self._open):
            connection.close()
        if self._open:
            self._emptied.clear()
            await self._emptied.wait()

    # the connections' side

    def made(self, connection: Connection) -> None:
        """The socket of `connection` is open."""
        self._open.add(connection)

    def release(self, connection: Connection) -> None:
        """`connection` has finished an exchange and may carry another."""
        expiry = None
        if self._keepalive_s > 0:
            loop = asyncio.get_running_loop()
            expiry = loop.call_later(self._keepalive_s, connection.abort)
        self._idle.setdefault(connection.origin, {})[connection] = expiry

    def lost(self, connection: Connection) -> None:
        """The socket of `connection` is closed."""
        self._drop(connection)
        self._open.discard(connection)
        if not self._open:
            self._emptied.set()

    def _drop(self, connection: Connection) -> None:
        idle = self._idle.get(connection.origin, {})
        expiry = idle.pop(connection, None)
        if expiry is not None:
            expiry.cancel()
        if not idle:
            self._idle.pop(connection.origin, None)

    async def _connect(self, origin: Origin) -> Connection:
        tls = origin.scheme == "https"
        connection = Connection(origin, self._buffer, self._limits, self)
        sock = await tcp.connect(origin.host, origin.port)
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
        return connection


def _openssl_reason(error: ssl.SSLError) -> str:
    """`certificate verify failed: self-signed certificate`, `WRONG_VERSION_NUMBER`, …"""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    return error.reason or str(error)
