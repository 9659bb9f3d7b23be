"""The gate: lets only our own user's processes connect (ZAP, ZeroMQ RFC 27).

On an ipc socket libzmq gives the peer's kernel credentials as `localhost:uid:gid:pid`, also
without any security mechanism. Systems that give none are guarded by the run directory.
"""

from __future__ import annotations

import os
from typing import Final

import zmq

from ringcast.sockets import Message, Socket

DOMAIN: Final = b"ringcast"  # sockets with this zap_domain are asked about here


class Gate:
    """Answers the questions of one ZeroMQ context about who may connect."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        """Must be made before the sockets that it guards are bound."""
        router: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
        router.linger = 0
        router.bind("inproc://zeromq.zap.01")
        self._socket = Socket(router, self._answer)

    def _answer(self, messages: list[Message]) -> None:
        for parts in messages:
            delimiter = parts.index(b"")
            version, request, _, address = parts[delimiter + 1 : delimiter + 5]
            verdict = (b"200", b"OK") if admits(address) else (b"400", b"another user's process")
            self._socket.send([*parts[: delimiter + 1], version, request, *verdict, b"", b""])

    def close(self) -> None:
        """Stop answering."""
        self._socket.close()


def admits(address: bytes) -> bool:
    """Say whether a peer with this ZAP address is ours."""
    fields = address.decode("ascii", "replace").split(":")
    return len(fields) != 4 or fields[1] == str(os.getuid())
