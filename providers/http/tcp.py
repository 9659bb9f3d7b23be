"""A TCP connection to a name: resolve, then race the addresses (RFC 8305, Happy Eyeballs).

One dead address family is common beside an editor (home networks, VPNs); without the race
it would eat the whole connect clock. TLS is not raced: it runs on the winner only.

A peer that is gone without a word (a laptop that was closed, a NAT that forgot) is noticed within
35 s, by probes while nothing is sent and by a limit for what is sent and not acknowledged.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Any, Final, NamedTuple

import httpx

from ringcast.providers.http.reach import AddressRefused, Reach, refusal

# RFC 8305 §5 recommends 250 ms between two attempts.
STAGGER_S = 0.25
# tcp(7): 20 s of silence, then a probe every 5 s, and the third without an answer ends it. The
# first option is Linux's name, the second macOS's; what a system has not is left out.
_LIVENESS: Final = (
    ("TCP_KEEPIDLE", 20),
    ("TCP_KEEPALIVE", 20),
    ("TCP_KEEPINTVL", 5),
    ("TCP_KEEPCNT", 3),
    ("TCP_USER_TIMEOUT", 35_000),  # milliseconds
)


# What a machine runs out of that is no word of the peer's.
_OURS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL)


class Shortage(httpx.ConnectError):
    """This machine has no descriptor, port or memory left for a connection."""


class Address(NamedTuple):
    """One answer of the resolver; `sockaddr` is as the family wants it."""

    family: int
    sockaddr: tuple[Any, ...]


async def connect(host: str, port: int, reach: Reach) -> socket.socket:
    """A connected, non-blocking socket, owned by the caller.

    Has no clock of its own. Raises `httpx.ConnectError` that names host and port, `Shortage` if it
    is we who lack something, and `AddressRefused` if all of the host's addresses are beyond
    `reach`; of many failures the first is told, as the resolver's first address is preferred.
    """
    addresses = _within(reach, host, await _resolve(host, port))
    try:
        return await _race(addresses)
    except ConnectionRefusedError as error:
        raise httpx.ConnectError(f"connection refused by {host}:{port}") from error
    except OSError as error:
        kind = Shortage if error.errno in _OURS else httpx.ConnectError
        raise kind(f"cannot connect to {host}:{port}: {error}") from error


async def _resolve(host: str, port: int) -> list[Address]:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise httpx.ConnectError(f"cannot resolve {host}: {error}") from error
    return [Address(family, sockaddr) for family, _, _, _, sockaddr in found]


def _within(reach: Reach, host: str, addresses: list[Address]) -> list[Address]:
    refusals = [refusal(host, address.sockaddr[0], reach) for address in addresses]
    if all(refusals):
        raise AddressRefused(refusals[0])
    return [address for address, why in zip(addresses, refusals, strict=True) if not why]


async def _race(addresses: list[Address]) -> socket.socket:
    """The first socket to connect; each address starts when the one before fails or dawdles."""
    failures: list[OSError] = []
    racing: set[asyncio.Task[socket.socket]] = set()
    waiting = addresses[::-1]
    try:
        while waiting or racing:
            if waiting:
                racing.add(asyncio.create_task(_attempt(waiting.pop())))
            done, _ = await asyncio.wait(
                racing,
                timeout=STAGGER_S if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in done:
                error = task.exception()
                if error is None:
                    racing.discard(task)
                    return task.result()
                racing.discard(task)
                if not isinstance(error, OSError):
                    raise error
                failures.append(error)
    finally:
        for task in racing:
            task.cancel()
            task.add_done_callback(_close_loser)
    raise failures[0]


async def _attempt(address: Address) -> socket.socket:
    connection = socket.socket(address.family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        connection.setblocking(False)
        _tune(connection)
        await asyncio.get_running_loop().sock_connect(connection, address.sockaddr)
    except BaseException:
        connection.close()
        raise
    return connection


def _tune(connection: socket.socket) -> None:
    """Send small writes at once (an ACK may take 40 ms), and notice a peer that is gone."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _LIVENESS:
        if (option := getattr(socket, name, None)) is not None:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


def _close_loser(task: asyncio.Task[socket.socket]) -> None:
    """It may have connected in the turn in which it was cancelled."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()
