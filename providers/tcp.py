"""A TCP connection to a name: resolve, then race the addresses (RFC 8305, Happy Eyeballs).

One dead address family is common beside an editor (home networks, VPNs); without the race
it would eat the whole connect clock. TLS is not raced: it runs on the winner only.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any, NamedTuple

import httpx

# RFC 8305 §5 recommends 250 ms between two attempts.
STAGGER_S = 0.25


class Address(NamedTuple):
    """One answer of the resolver; `sockaddr` is as the family wants it."""

    family: int
    sockaddr: tuple[Any, ...]


async def connect(host: str, port: int) -> socket.socket:
    """A connected, non-blocking socket, owned by the caller.

    Has no clock of its own. Raises `httpx.ConnectError` that names host and port; of many
    failures the first is told, as the resolver's first address is the preferred one.
    """
    addresses = await _resolve(host, port)
    try:
        return await _race(addresses)
    except ConnectionRefusedError as error:
        raise httpx.ConnectError(f"connection refused by {host}:{port}") from error
    except OSError as error:
        raise httpx.ConnectError(f"cannot connect to {host}:{port}: {error}") from error


async def _resolve(host: str, port: int) -> list[Address]:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise httpx.ConnectError(f"cannot resolve {host}: {error}") from error
    return [Address(family, sockaddr) for family, _, _, _, sockaddr in found]


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
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(connection, address.sockaddr)
    except BaseException:
        connection.close()
        raise
    return connection


def _close_loser(task: asyncio.Task[socket.socket]) -> None:
    """It may have connected in the turn in which it was cancelled."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()
