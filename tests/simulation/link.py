"""ZeroMQ as the processes see it: ordered queues between a ROUTER and its DEALERs.

What a dead end had taken or not yet sent is lost, what the other end still kept is not: a
DEALER's queue outlives the broker and is sent to the next one once it has connected again.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence

import zmq

from ringcast.sockets import Message

Messages = list[Message]


class Link:
    """A DEALER and its connection. `up` is on its way to the broker, `down` comes from it."""

    def __init__(self, identity: bytes, address: str) -> None:
        self.identity = identity
        self.address = address
        self.connected = False
        self.up: deque[bytes] = deque()
        self.down: deque[bytes] = deque()
        self.on_messages: Callable[[Messages], None] = lambda messages: None
        self.on_connected: Callable[[], None] = lambda: None

    def connect(self, address: str) -> None:
        """The address is known since it was made."""

    def send(self, parts: Sequence[bytes]) -> bool:
        """Queue a message for the broker, whether or not it is there."""
        self.up.append(parts[-1])
        return True

    def close(self, linger_ms: int = 0) -> None:
        """Nothing more will come."""
        self.connected = False

    def hear(self, most: int) -> bool:
        """Let the peer take up to `most` messages; return whether there were any."""
        messages: Messages = [([], self.down.popleft()) for _ in range(min(most, len(self.down)))]
        if messages:
            self.on_messages(messages)
        return bool(messages)

    def broker_died(self, draw: random.Random) -> None:
        """What it had taken is lost, and what it had not sent yet."""
        if not self.connected:
            return
        self.connected = False
        for _ in range(draw.randint(0, len(self.up))):
            self.up.popleft()
        for _ in range(draw.randint(0, len(self.down))):
            self.down.pop()

    def peer_died(self, draw: random.Random) -> None:
        """What it had not sent is lost, and what it had not taken."""
        self.down.clear()
        for _ in range(draw.randint(0, len(self.up))):
            self.up.pop()


class Router:
    """The broker's end of all links to one address."""

    def __init__(self, links: dict[bytes, Link]) -> None:
        self._links = links
        self.on_messages: Callable[[Messages], None] = lambda messages: None

    def send(self, parts: Sequence[bytes]) -> bool:
        """Queue a message. Raises EHOSTUNREACH as ROUTER_MANDATORY does."""
        link = self._links.get(parts[0])
        if link is None or not link.connected:
            raise zmq.ZMQError(zmq.EHOSTUNREACH)
        link.down.append(parts[-1])
        return True

    def hear(self, link: Link, most: int) -> None:
        """Let the broker take up to `most` messages of a link."""
        number = min(most, len(link.up))
        self.on_messages([([link.identity], link.up.popleft()) for _ in range(number)])

    def close(self, linger_ms: int = 0) -> None:
        """The broker has left it."""
