"""Questions of clients that a provider answers: models, counts, health. Pure: takes `now`.

A question goes to one provider process and its answer back to the connection that asked. Until
then it waits here: a process that is replaced meanwhile is asked again, since asking changes
nothing. A broker that dies forgets them, and the clients ask its successor.

A count takes steps, each a question with a number of its own:

| step         | who is asked                          | says                | then           |
|--------------|---------------------------------------|---------------------|----------------|
| 1 `can`      | provider process, without the text    | it cannot count     | `ranks`        |
|              |                                       | it can              | `provider`     |
| 2 `provider` | provider process                      | an estimate         | `ranks`        |
|              |                                       | the provider's      | it is answered |
| 3 `ranks`    | counting process, by way of the queue | anything            | it is answered |
|              |                                       | nothing             | `last`         |
| 4 `last`     | provider process                      | anything            | it is answered |

Where the queue does not take it, 3 is 4, or the estimate that is there. A count that it would not
take to begin with, and every other question, begins with 4. So a long text goes to a provider
process only if the provider counts, or if nothing else does: its streams wait for 5 MB for 1 ms.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

import msgspec

from ringcast.broker import protocol
from ringcast.broker.count_queue import CountQueue
from ringcast.errors import Code, RequestError
from ringcast.providers import commands, count
from ringcast.providers.commands import Ask

MAX_WAITING: Final = 64  # for one client
Step: TypeAlias = Literal["can", "provider", "ranks", "last"]


class _Asked(msgspec.Struct, frozen=True):
    """Who asked what, by which number of its own, and which process is to say."""

    route: bytes
    request: int
    process: int
    question: Ask
    step: Step


class Inquiries:
    """All questions that wait for an answer."""

    def __init__(
        self, send: Callable[[int, commands.Command], bool], processes: int, queue: CountQueue
    ) -> None:
        """`send` gives a command to a provider process, or returns False if it is gone."""
        self._send = send
        self._processes = processes
        self._queue = queue
        # A process may still answer what a predecessor asked: no two brokers count alike.
        self._number = secrets.randbits(48)
        self._waiting: dict[int, _Asked] = {}

    def ask(self, route: bytes, request: int, question: Ask, now: float) -> None:
        """Pass a question on; its number becomes one of ours. Raises `RequestError` (flood)."""
        waiting = sum(one.route == route for one in self._waiting.values())
        if waiting >= MAX_WAITING:
            text = f"{MAX_WAITING} questions of yours wait for an answer"
            raise RequestError(Code.FLOOD, text, limit=MAX_WAITING)
        step: Step = "last"
        if question.what == "count" and self._queue.takes(question, now):
            step = "can"
        process = (self._number + 1) % self._processes
        self._pose(_Asked(route, request, process, question, step), now)

    def repeat(self, process: int) -> None:
        """Ask a provider process once more, for it is new."""
        for asked in self._waiting.values():
            if asked.process == process and asked.step != "ranks":
                self._put(asked)

    def answered(self, answer: commands.Answer, now: float) -> tuple[bytes, protocol.Frame] | None:
        """Return whom to tell what; None for an answer that nobody waits for, or not yet."""
        self._queue.end(answer.number, now)
        asked = self._waiting.pop(answer.number, None)
        if asked is None:
            return None
        if answer.code:
            return asked.route, protocol.Refused(
                -1, answer.code, answer.message, answer.detail, asked.request
            )
        step = self._after(asked, answer.data, now)
        if step is None:
            return asked.route, protocol.Result(asked.request, answer.data)
        self._pose(msgspec.structs.replace(asked, step=step), now)
        return None

    def recount(self, now: float) -> None:
        """The counting process is new."""
        self._give_up(self._queue.restart(now), now)

    def look(self, now: float) -> None:
        """See to counts that take too long."""
        self._give_up(self._queue.look(now), now)

    def forget(self, route: bytes) -> None:
        """Whoever asked is gone."""
        gone = [number for number, asked in self._waiting.items() if asked.route == route]
        for number in gone:
            del self._waiting[number]
            self._queue.forget(number)

    def _after(self, asked: _Asked, said: msgspec.Raw, now: float) -> Step | None:
        """Return the step behind an answer, None if that is what was asked for."""
        if asked.step == "can" and msgspec.msgpack.decode(said, type=bool):
            return "provider"
        if asked.step == "can":
            return "ranks" if self._queue.takes(asked.question, now) else "last"
        if asked.step == "provider" and count.decode(said).accuracy == "estimate":
            return "ranks" if self._queue.takes(asked.question, now) else None
        return None

    def _pose(self, asked: _Asked, now: float) -> None:
        """Take a step, under a new number."""
        self._number += 1
        question = msgspec.structs.replace(asked.question, number=self._number)
        asked = msgspec.structs.replace(asked, question=question)
        self._waiting[self._number] = asked
        if asked.step == "ranks":
            self._queue.add(question, now)
        else:
            self._put(asked)  # a process that is gone will report, and is asked then

    def _put(self, asked: _Asked) -> None:
        question = asked.question
        if asked.step == "can":
            question = msgspec.structs.replace(question, what="can_count", request=commands.NOTHING)
        self._send(asked.process, question)

    def _give_up(self, numbers: list[int], now: float) -> None:
        for number in numbers:
            if (asked := self._waiting.pop(number, None)) is not None:
                self._pose(msgspec.structs.replace(asked, step="last"), now)
