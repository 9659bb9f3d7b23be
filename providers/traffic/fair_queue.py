"""Requests that wait for one provider: clients take turns, models do not wait for one another.

F1   Every client has a stamp, the number of its last turn. Whose stamp is least is next; to be
     served is to get the newest one. So a client waits for one turn of each other, however many
     requests they have waiting.
F2   Requests stand in lanes, one for each model, as one model may have to wait where another
     need not. In each lane clients stand in the order of their stamps, and a turn in one lane
     counts in all. A client that comes new stands last, in each lane.
F3   A request costs an entry in two tables, and at worst a client's line and a lane of its own:
     1.2 KB, whatever it asks for. Every operation takes the same time at any length, times the
     lanes.
F4   A client's own requests go in the order they came, in whatever lanes they are.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from operator import itemgetter
from typing import NamedTuple


class Waiting(NamedTuple):
    """A request in the queue. `number` counts its client's requests in this lane."""

    client: bytes
    lane: str
    since: float
    number: int
    order: int


class _Line:
    """One client's requests in one lane, in the order they came."""

    __slots__ = ("number", "stamp", "tickets")

    def __init__(self, stamp: int) -> None:
        self.stamp = stamp
        self.number = 0  # of the last request
        self.tickets: OrderedDict[Hashable, int] = OrderedDict()


class FairQueue:
    """Up to `length` requests, by ticket, each for at most `wait_s` seconds."""

    def __init__(self, length: int, wait_s: float) -> None:
        """An empty queue."""
        self.length = length
        self.wait_s = wait_s
        self._lanes: dict[str, OrderedDict[bytes, _Line]] = {}
        self._waiting: OrderedDict[Hashable, Waiting] = OrderedDict()  # by arrival
        self._turn = 0
        self._order = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, ticket: Hashable) -> bool:
        return ticket in self._waiting

    def push(self, ticket: Hashable, client: bytes, lane: str, now: float) -> bool:
        """Add a request at the end of its client's line; return False if the queue is full."""
        if len(self._waiting) >= self.length:
            return False
        lines = self._lanes.setdefault(lane, OrderedDict())
        line = lines.get(client)
        if line is None:
            self._turn += 1
            line = lines[client] = _Line(self._turn)
        line.number += 1
        line.tickets[ticket] = line.number
        self._order += 1
        self._waiting[ticket] = Waiting(client, lane, now, line.number, self._order)
        return True

    def occupied(self, lane: str) -> bool:
        """Say whether anybody waits in a lane."""
        return lane in self._lanes

    def heads(self) -> Iterator[tuple[Hashable, str]]:
        """Give the next ticket of each lane, the one whose turn it is first (F1, F4)."""
        first = []
        for lane, lines in self._lanes.items():
            line = next(iter(lines.values()))
            ticket = next(iter(line.tickets))
            first.append((line.stamp, self._waiting[ticket].order, ticket, lane))
        first.sort(key=itemgetter(0, 1))
        return ((ticket, lane) for _, _, ticket, lane in first)

    def serve(self, ticket: Hashable) -> None:
        """Take a request out as its client's turn."""
        client = self._waiting[ticket].client
        self.remove(ticket)
        self._turn += 1
        for lines in self._lanes.values():
            if (line := lines.get(client)) is not None:
                line.stamp = self._turn
                lines.move_to_end(client)

    def remove(self, ticket: Hashable) -> None:
        """Take a request out that is not wanted any more. Raises `KeyError`."""
        waiting = self._waiting.pop(ticket)
        lines = self._lanes[waiting.lane]
        line = lines[waiting.client]
        del line.tickets[ticket]
        if not line.tickets:
            del lines[waiting.client]
        if not lines:
            del self._lanes[waiting.lane]

    def expired(self, now: float) -> Iterator[Hashable]:
        """Take out and give whoever has waited for too long."""
        while self._waiting:
            ticket, waiting = next(iter(self._waiting.items()))
            if now < waiting.since + self.wait_s:
                return
            self.remove(ticket)
            yield ticket

    def expires_at(self) -> float | None:
        """Return when the first request has waited for too long."""
        first = next(iter(self._waiting.values()), None)
        return None if first is None else first.since + self.wait_s

    def ahead(self, ticket: Hashable) -> int:
        """Return how many requests are served before one, at most. Raises `KeyError`."""
        waiting = self._waiting[ticket]
        lines = self._lanes[waiting.lane]
        line = lines[waiting.client]
        place = waiting.number - next(iter(line.tickets.values()))
        return min((place + 1) * len(lines), len(self._waiting)) - 1
