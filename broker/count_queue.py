"""Counts that wait for the counting process, which has one of them at a time. Pure: takes `now`.

It is started when it is needed, and may die or hang over any text:

| event               | nothing under way            | a count under way                        |
|---------------------|------------------------------|------------------------------------------|
| added               | 1. it is sent                | 2. it waits                              |
| ended               |                              | 3. the next is sent                      |
| a new process       | 1. the first is sent         | 4. sent once more; then given up         |
| nobody takes it     | 5. all are given up          |                                          |
| no end              |                              | 6. all are given up, and none is taken   |

2. Of so many, and so many bytes. 5. Within `START_S`: there may be none, and none to come. 6.
Within `COUNT_S`, and then for as long, unless a new process reports: a hung one would be dead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from ringcast.providers.commands import Ask

LENGTH: Final = 256
BYTES: Final = 192 << 20  # 30 clients with 5 MB each
MAX_TEXT: Final = 16 << 20  # beyond 8 M characters a count would not be exact
SENDINGS: Final = 2
START_S: Final = 2.0
COUNT_S: Final = 20.0  # the worst text takes 4 s of a core


def _size(ask: Ask) -> int:
    return memoryview(ask.request).nbytes


class CountQueue:
    """All counts for the counting process."""

    def __init__(self, send: Callable[[Ask], bool], usable: Callable[[], bool]) -> None:
        """`send` gives the process a count, or has it started and returns False.

        `usable` says whether there is anything to count with.
        """
        self._send = send
        self._usable = usable
        self._waiting: deque[Ask] = deque()
        self._bytes = 0
        self._under_way: Ask | None = None
        self._sendings = 0
        self._since = 0.0  # when it was sent, or none could be
        self._paused_until = 0.0

    def takes(self, ask: Ask, now: float) -> bool:
        """Return whether a count may be added."""
        return (
            now >= self._paused_until
            and len(self._waiting) < LENGTH
            and _size(ask) <= MAX_TEXT
            and self._bytes + _size(ask) <= BYTES
            and self._usable()
        )

    def add(self, ask: Ask, now: float) -> None:
        """Have something counted."""
        if self._idle:
            self._since = now
        self._waiting.append(ask)
        self._bytes += _size(ask)
        self._go_on(now)

    def end(self, number: int, now: float) -> None:
        """The process has counted what was asked by this number."""
        if self._under_way is not None and self._under_way.number == number:
            self._under_way, self._since = None, now
            self._go_on(now)

    def forget(self, number: int) -> None:
        """Nobody waits for it any more; what is under way goes on."""
        for ask in [one for one in self._waiting if one.number == number]:
            self._waiting.remove(ask)
            self._bytes -= _size(ask)

    def restart(self, now: float) -> list[int]:
        """There is a new process. Returns what is given up, by its number."""
        lost, self._under_way, self._paused_until = self._under_way, None, 0.0
        again = lost and self._sendings < SENDINGS and self._sent(lost, now, self._sendings + 1)
        self._go_on(now)
        return [lost.number] if lost and not again else []

    def look(self, now: float) -> list[int]:
        """Return what is given up because it takes too long, by its number."""
        self._go_on(now)
        if self._idle or now - self._since <= (COUNT_S if self._under_way else START_S):
            return []
        given_up = [ask.number for ask in self._waiting]
        if self._under_way is not None:
            given_up.append(self._under_way.number)
            self._paused_until = now + COUNT_S
        self._waiting.clear()
        self._bytes = 0
        self._under_way = None
        return given_up

    @property
    def _idle(self) -> bool:
        return self._under_way is None and not self._waiting

    def _go_on(self, now: float) -> None:
        """Send the first that waits, if nothing is under way."""
        if self._under_way is None and self._waiting and self._sent(self._waiting[0], now, 1):
            self._bytes -= _size(self._waiting.popleft())

    def _sent(self, ask: Ask, now: float, sendings: int) -> bool:
        if not self._send(ask):
            return False
        self._under_way, self._sendings, self._since = ask, sendings, now
        return True
