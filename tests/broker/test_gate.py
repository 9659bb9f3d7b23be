"""The gate lets our own user's processes in, and no other's."""

from __future__ import annotations

import asyncio
import os

import pytest
import zmq

from ringcast.broker.gate import DOMAIN, Gate, admits
from ringcast.sockets import make


@pytest.mark.parametrize(
    ("address", "ours"),
    [
        (b"localhost:%d:7:4711" % os.getuid(), True),
        (b"localhost:%d:7:4711" % (os.getuid() + 1), False),
        (b"localhost:%d0:7:4711" % (os.getuid() + 1), False),
        (b"localhost::7:4711", False),
        (b"", True),  # a system that does not tell: the run directory is the guard
    ],
)
def test_who_is_admitted(address: bytes, ours: bool) -> None:
    assert admits(address) is ours


@pytest.mark.parametrize("ours", [True, False])
def test_a_peer_is_asked_about(
    ours: bool, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A real connection over ipc; the stranger is played by another opinion of who we are."""
    place = f"ipc://{tmp_path_factory.mktemp('gate')}/s"
    if not ours:
        monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)

    async def knock() -> bool:
        with zmq.Context[zmq.Socket[bytes]](1) as context:
            gate = Gate(context)
            server = make(context, zmq.ROUTER, zap_domain=DOMAIN)
            server.bind(place)
            client = make(context, zmq.DEALER, linger=0)
            client.connect(place)
            client.send(b"hello")
            for _ in range(200 if ours else 30):
                await asyncio.sleep(0.01)
                if server.poll(0):
                    break
            heard = bool(server.poll(0))
            client.close()
            server.close()
            gate.close()
            return heard

    assert asyncio.run(knock()) is ours
