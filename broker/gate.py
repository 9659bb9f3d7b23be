"""The gate: who may connect, how many at once, and how often each of them may do something.

ZAP is ZeroMQ RFC 27. On an ipc socket libzmq gives the peer's kernel credentials as
`localhost:uid:gid:pid`, also without any security mechanism. Systems that give none are
guarded by the run directory.
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path
from typing import Final

import zmq
from zmq.utils.monitor import parse_monitor_message

from ringcast import rundir
from ringcast.sockets import Message, Socket

DOMAIN: Final = b"ringcast"  # sockets with this zap_domain are asked about here
WINDOW_S: Final = 1.0


class Gate:
    """Answers the questions of one ZeroMQ context about who may connect."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        """Must be made before the sockets that it guards are bound."""
        router: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
        router.linger = 0
        router.bind("inproc://zeromq.zap.01")
        self._socket = Socket(router, self._answer)

    def _answer(self, messages: list[Message]) -> None:
        for head, _ in messages:
            delimiter = head.index(b"")
            version, request, _, address = head[delimiter + 1 : delimiter + 5]
            verdict = (b"200", b"OK") if admits(address) else (b"400", b"another user's process")
            self._socket.send([*head[: delimiter + 1], version, request, *verdict, b"", b""])

    def close(self) -> None:
        """Stop answering."""
        self._socket.close()


class Door:
    """Shut to newcomers while too many are connected.

    libzmq 4.3.5 aborts its process when it accepts an ipc connection and no descriptor is
    left (ipc_listener.cpp, `accept`): it must never come to that. An unbind would end all
    connections as well, so the socket's file is moved out of the way instead.
    """

    def __init__(self, router: zmq.Socket[bytes], path: Path, rooms: int) -> None:
        """Watch `router`, to be bound to `path`: shut at `rooms` connections, open at 3/4."""
        self._rooms = rooms
        self._path = path
        self._away = path.with_name(rundir.SHUT)
        self._away.unlink(missing_ok=True)  # of one that died meanwhile
        self._inside: set[int] = set()  # by descriptor
        self._closed = False
        self._router = router
        events = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED
        self._monitor = Socket(router.get_monitor_socket(events), self._on_events)

    def _on_events(self, messages: list[Message]) -> None:
        for head, body in messages:
            said = parse_monitor_message([*head, bytes(body)])
            if said["event"] == zmq.EVENT_ACCEPTED:
                self._inside.add(said["value"])
            else:
                self._inside.discard(said["value"])
        number = len(self._inside)
        if not self._closed and number >= self._rooms:
            self._closed = True
            self._path.rename(self._away)
            text = f"{number} connections; no more until some close, for want of descriptors"
            print(f"ringcast: {text} (RLIMIT_NOFILE)", file=sys.stderr)
        elif self._closed and number < self._rooms * 3 // 4:
            self._reopen()

    def _reopen(self) -> None:
        self._closed = False
        self._away.rename(self._path)

    def close(self) -> None:
        """Stop watching; libzmq removes the file when the router is closed."""
        if self._closed:
            self._reopen()
        self._router.disable_monitor()
        self._monitor.close()


class Rate:
    """How often each peer does something, in windows of a second. Pure: no clock."""

    __slots__ = ("_counts", "_since")

    def __init__(self) -> None:
        """Nobody has done anything yet."""
        self._since = 0.0
        self._counts: dict[bytes, int] = {}

    def count(self, peer: bytes, now: float) -> int:
        """Count once more for `peer` at `now` seconds; return its number in this window."""
        if now - self._since >= WINDOW_S:
            self._since = now
            self._counts = {}  # so it never holds more than a window's peers
        number = self._counts.get(peer, 0) + 1
        self._counts[peer] = number
        return number


def admits(address: bytes) -> bool:
    """Say whether a peer with this ZAP address is ours."""
    fields = address.decode("ascii", "replace").split(":")
    return len(fields) != 4 or fields[1] == str(os.getuid())


def free_descriptors() -> int:
    """Return how many more files this process may open."""
    probe = os.open(os.devnull, os.O_RDONLY)  # the lowest that is free
    os.close(probe)
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] - probe
