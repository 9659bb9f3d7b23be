"""Bare clients, many in a process: a DEALER socket each, one ZeroMQ context for all.

The asyncio `Client` has a context of its own, which is two threads; a thousand of them
would measure the machine's scheduler. These speak the same frames over one I/O thread.
"""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Final

import zmq

from ringcast import rundir
from ringcast.broker import protocol
from ringcast.sockets import Message, Socket, make

DESCRIPTORS: Final = 16_384  # each socket has two: libzmq's own and the one that is polled
# libzmq refuses more sockets than this in a context; its default is 1,023.
SOCKETS: Final = 8_192


def context() -> zmq.Context[zmq.Socket[bytes]]:
    """Return a context for `SOCKETS` sockets, having asked the system for the descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    made: zmq.Context[zmq.Socket[bytes]] = zmq.Context(1)
    made.set(zmq.MAX_SOCKETS, SOCKETS)
    return made


class Dealer:
    """One connection. `welcome` is done when the daemon knows it.

    `pongs` counts answers to `pings`, and `answered` is set while none is due.
    """

    def __init__(
        self,
        shared: zmq.Context[zmq.Socket[bytes]],
        run_dir: Path,
        on_frame: Callable[[protocol.DaemonFrame], None],
    ) -> None:
        """Connect and say HELLO; every frame but WELCOME and PONG goes to `on_frame`."""
        dealer = make(shared, zmq.DEALER, routing_id=b"d" + os.urandom(15), sndhwm=0)
        dealer.connect(f"ipc://{run_dir / rundir.CLIENT_SOCKET}")
        self.welcome: asyncio.Future[protocol.Welcome] = asyncio.get_running_loop().create_future()
        self.pings = self.pongs = 0
        self.answered = asyncio.Event()
        self._on_frame = on_frame
        self._socket = Socket(dealer, self._on_messages)
        self.send(protocol.Hello(protocol.VERSION, "dealer", os.getpid()))

    def send(self, frame: protocol.Frame) -> None:
        """Send one frame."""
        self._socket.send([protocol.encode(frame)])

    def ping(self) -> None:
        """Say that this client lives."""
        self.pings += 1
        self.answered.clear()
        self.send(protocol.Ping())

    def close(self) -> None:
        """Leave, and say so."""
        self.send(protocol.Bye())
        self._socket.close()

    def _on_messages(self, messages: list[Message]) -> None:
        for parts in messages:
            frame = protocol.decode_daemon(parts[-1])
            if isinstance(frame, protocol.Pong):
                self.pongs += 1
                if self.pongs == self.pings:
                    self.answered.set()
            elif isinstance(frame, protocol.Welcome):
                self.welcome.set_result(frame)
            else:
                self._on_frame(frame)
