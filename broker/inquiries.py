"""Questions of clients that a provider answers: models, counts, health. Pure: no socket, no clock.

A question goes to one provider process and its answer back to the connection that asked. Until
then it waits here: a process that is replaced meanwhile is asked again, since asking changes
nothing. A broker that dies forgets them, and the clients ask its successor.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final

import msgspec

from ringcast.broker import protocol
from ringcast.errors import Code, RequestError
from ringcast.providers import commands

MAX_WAITING: Final = 64  # for one client


class _Asked(msgspec.Struct, frozen=True):
    """Who asked what, by which number of its own, and which process is to say."""

    route: bytes
    request: int
    process: int
    command: commands.Ask


class Inquiries:
    """All questions that wait for an answer."""

    def __init__(self, send: Callable[[int, commands.Command], bool], processes: int) -> None:
        """`send` gives a command to a provider process, or returns False if it is gone."""
        self._send = send
        self._processes = processes
        # A process may still answer what a predecessor asked: no two brokers count alike.
        self._number = secrets.randbits(48)
        self._waiting: dict[int, _Asked] = {}

    def ask(self, route: bytes, request: int, command: commands.Ask) -> None:
        """Pass a question on; its number becomes one of ours. Raises `RequestError` (flood)."""
        waiting = sum(one.route == route for one in self._waiting.values())
        if waiting >= MAX_WAITING:
            text = f"{MAX_WAITING} questions of yours wait for an answer"
            raise RequestError(Code.FLOOD, text, limit=MAX_WAITING)
        self._number += 1
        process = self._number % self._processes
        command = msgspec.structs.replace(command, number=self._number)
        self._waiting[self._number] = _Asked(route, request, process, command)
        self._send(process, command)  # a process that is gone will report, and is asked then

    def repeat(self, process: int) -> None:
        """Ask a process once more, for it is new."""
        for asked in self._waiting.values():
            if asked.process == process:
                self._send(process, asked.command)

    def answered(self, answer: commands.Answer) -> tuple[bytes, protocol.Frame] | None:
        """Return whom to tell what; None for an answer that nobody waits for."""
        asked = self._waiting.pop(answer.number, None)
        if asked is None:
            return None
        if answer.code:
            return asked.route, protocol.Refused(
                -1, answer.code, answer.message, answer.detail, asked.request
            )
        return asked.route, protocol.Result(asked.request, answer.data)

    def forget(self, route: bytes) -> None:
        """Whoever asked is gone."""
        gone = [number for number, asked in self._waiting.items() if asked.route == route]
        for number in gone:
            del self._waiting[number]
