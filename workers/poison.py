"""Poison: the record that a worker must not touch, since two in a row died at it.

1. A worker notes each record in its counters page before it decodes it, and 0 behind a round. The
   note is one word, position and in-ring, and outlives the worker.
2. A successor that finds a note counts one death for that record, or begins to count if its
   predecessor died at another.
3. From `POISON_DEATHS` on the record is poison: its stream is ended, and all others go on. It may
   be read more than once, as input is released late, so it stays poison until another is noted.
"""

from __future__ import annotations

from typing import Final

from ringcast.shm.counters import Block

POISON_DEATHS: Final = 2
NONE: Final = -1


def find(counters: Block) -> int:
    """Count the death that a predecessor left a note of; return what is poison, or `NONE`."""
    at, died_at, deaths_at = (counters.slot(name) for name in ("at", "died_at", "deaths_at"))
    died = counters.get(at)
    if died:
        again = died == counters.get(died_at)
        counters.set(deaths_at, counters.get(deaths_at) + 1 if again else 1)
        counters.set(died_at, died)
        counters.set(at, 0)
    return counters.get(died_at) if counters.get(deaths_at) >= POISON_DEATHS else NONE
