"""What failed before anything was seen of it, and may be sent again: nobody has been told yet.

Whoever sent it decides, and hears of the failure by an AGAIN with UNSAID, in which the error is.
Until it has sent it again, another broker is told once more: the first may have died before it
could ask. A successor of the worker has it from the broker.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from ringcast.providers.commands import Adopted
from ringcast.shm import records
from ringcast.workers.outbox import Waiting, again

KEPT_BACK: Final = 256  # failures that are told another broker, the newest


class KeptBack:
    """The AGAINs of failures, by their stream, the oldest first."""

    def __init__(self, left: Iterable[Adopted] = ()) -> None:
        """Go on with what a predecessor has `left`."""
        self._again: dict[int, Waiting] = {}
        for one in left:
            self.add(one.slot, again(one.slot, one.opened_ns, one.raw, one.state, records.UNSAID))

    def __iter__(self) -> Iterator[Waiting]:
        """Go through what another broker has to be told."""
        return iter(self._again.values())

    def add(self, slot: int, again: Waiting) -> None:
        """Keep a failure, and forget the oldest if there are too many."""
        self._again[slot] = again
        if len(self._again) > KEPT_BACK:
            del self._again[next(iter(self._again))]

    def sent_again(self, slot: int) -> None:
        """Forget a failure: this answers it."""
        self._again.pop(slot, None)
