"""What the clients are told: answers at once, tokens once a turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import zmq

from ringcast.broker import protocol
from ringcast.broker.session import Sessions
from ringcast.broker.stream import Client
from ringcast.shm.counters import Block
from ringcast.sockets import Socket


class Replies:
    """The way to the clients. `socket` is null until they are let in."""

    def __init__(self, sessions: Sessions, counters: Block, lose: Callable[[bytes], None]) -> None:
        """`lose` is told of a client that takes nothing, or is gone."""
        self._sessions = sessions
        self._counters = counters
        self._lose = lose
        self.socket: Socket | None = None

    def send(self, route: bytes, frame: protocol.Frame) -> None:
        """Tell a client something."""
        self._transmit(route, protocol.encode(frame))

    def refuse(self, route: bytes, handle: int, code: str, message: str, **detail: Any) -> None:
        """Tell why something is not done."""
        self.send(route, protocol.Refused(handle, code, message, detail))

    def flush(self) -> None:
        """Send every client what its outbox holds, one message each."""
        dirty = self._sessions.dirty
        while dirty:
            _, client = dirty.popitem()
            self.flush_client(client)

    def flush_client(self, client: Client) -> None:
        """Send one client what its outbox holds."""
        if not client.runs:
            return
        add, slot = self._counters.add, self._counters.slot
        add(slot("messages_out"))
        add(slot("bytes_out"), client.size)
        self._transmit(client.route, client.frame())

    def _transmit(self, route: bytes, frame: bytes) -> None:
        assert self.socket is not None
        try:
            if not self.socket.send((route, frame)):
                self._lose(route)  # 10,000 messages behind, although credit bounds its data
        except zmq.ZMQError:  # EHOSTUNREACH: the connection is gone
            self._lose(route)
