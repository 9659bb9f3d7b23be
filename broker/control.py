"""The ROUTER socket to the provider processes, the counting process, and workers that are new."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import zmq

from ringcast.providers import commands
from ringcast.shm.counters import Block
from ringcast.shm.wiring import Wiring
from ringcast.sockets import Message, Socket


class Control:
    """Says commands, and passes reports on as they come. `socket` is set once it is bound."""

    socket: Socket

    def __init__(
        self,
        counters: Block,
        wiring: Wiring,
        heard: Callable[[bytes, commands.ToBroker], None],
    ) -> None:
        """`heard` is told who says what."""
        self._counters = counters
        self._wiring = wiring
        self._heard = heard

    def on_messages(self, messages: list[Message]) -> None:
        """Take reports."""
        for head, body in messages:
            try:
                said = commands.decode_report(body)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                self._counters.add(self._counters.slot("bad_messages"))
                continue
            self._heard(head[0], said)

    def command(self, process: int, command: commands.Command) -> bool:
        """Tell a provider process something; return False if it is gone."""
        return self.answer(b"p%d" % process, command)

    def answer(self, route: bytes, command: commands.Command) -> bool:
        """Tell whoever has said something; return False if it is gone."""
        try:
            return self.socket.send((route, commands.encode(command)))
        except zmq.ZMQError:  # EHOSTUNREACH: it is being restarted, and will say so
            return False

    def count(self, question: commands.Ask) -> bool:
        """Give the counting process a question; without one, have the supervisor start it."""
        head = msgspec.structs.replace(question, request=commands.NOTHING)
        try:
            # Not copied: the page faults of fresh memory for 5 MB take 3 ms.
            text = zmq.Frame(question.request, copy=False)
            return self.socket.send((commands.COUNTER, commands.encode(head), text))
        except zmq.ZMQError:  # EHOSTUNREACH
            self._wiring.wanted.ring()
            return False
