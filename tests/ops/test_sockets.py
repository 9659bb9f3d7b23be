"""Sockets in an event loop, and the ports of tests."""

from __future__ import annotations

import asyncio
import socket
import tracemalloc
from pathlib import Path

import pytest
import zmq
from fakes.daemon import free_port, in_loop

from ringcast.sockets import LARGE, Message, Socket, make


async def _through(path: Path, parts: list[bytes]) -> Message:
    """Send one message from a DEALER to a ROUTER; return what that hears."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(1)
    router, dealer = make(context, zmq.ROUTER), make(context, zmq.DEALER, routing_id=b"c")
    router.bind(f"ipc://{path}/s")
    dealer.connect(f"ipc://{path}/s")
    heard: asyncio.Future[list[Message]] = asyncio.get_running_loop().create_future()
    ends = Socket(router, heard.set_result), Socket(dealer, lambda _: None)
    ends[1].send(parts)
    [message] = await heard
    for end in ends:
        end.close()
    context.term()
    return message


@in_loop
async def test_a_message_is_its_last_part_and_those_before(tmp_path: Path) -> None:
    assert await _through(tmp_path, [b"frame"]) == ([b"c"], b"frame")
    assert await _through(tmp_path, [b"head", b"frame"]) == ([b"c", b"head"], b"frame")


@in_loop
async def test_a_large_part_is_not_copied(tmp_path: Path) -> None:
    """Fresh memory for 5 MB would stop every stream for 3 ms."""
    large = b"x" * (LARGE + 1)
    tracemalloc.start()
    try:
        head, body = await _through(tmp_path, [large])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (head, body) == ([b"c"], large)
    assert peak < LARGE


def test_a_port_that_is_taken_for_a_test_is_nobody_elses() -> None:
    """Else a server of another test, beside this one, answers where nobody should."""
    port = free_port()
    with socket.socket() as other:
        with pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
        with pytest.raises(ConnectionRefusedError):
            other.connect(("127.0.0.1", port))
