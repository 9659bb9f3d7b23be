"""How many calls there were of late, and how many of them were of a certain sort.

A sliding window in six buckets, each of them one 64-bit word: 23 bits of the bucket's number
since the clock's zero, 20 of all calls in it, 20 of those that are `marked`. So no word depends on
another: what a process leaves behind that is killed between two stores is right.
"""

from __future__ import annotations

from typing import Final, Protocol

BUCKETS: Final = 6
_NUMBERS: Final = 1 << 23  # of buckets that are told apart: of 5 s each, 485 days
_MOST: Final = (1 << 20) - 1


class Words(Protocol):
    """64-bit words: a row of `shm.shared_words`, or a list."""

    def __getitem__(self, place: int, /) -> int: ...

    def __setitem__(self, place: int, value: int, /) -> None: ...


class SlidingCounts:
    """Counts of the last `span_s` seconds, less up to a sixth of it."""

    WORDS: Final = BUCKETS

    def __init__(self, words: Words, first: int, span_s: float) -> None:
        """Count in `words[first : first + WORDS]`, which are 0 before the first call."""
        self._words = words
        self._first = first
        self._width_s = span_s / BUCKETS

    def add(self, now: float, marked: bool) -> None:
        """Count one call at `now` (seconds). A bucket that is full is halved: the rate stays."""
        number = int(now / self._width_s)
        place = self._first + number % BUCKETS
        known, calls, of_them = _parts(self._words[place])
        if known != number % _NUMBERS:
            calls = of_them = 0
        elif calls == _MOST:
            calls, of_them = calls // 2, of_them // 2
        self._words[place] = _word(number % _NUMBERS, calls + 1, of_them + marked)

    def counts(self, now: float) -> tuple[int, int]:
        """Return how many calls there were up to `now`, and how many of them were marked."""
        number = int(now / self._width_s)
        calls = of_them = 0
        for place in range(self._first, self._first + BUCKETS):
            known, here, marked = _parts(self._words[place])
            if (number - known) % _NUMBERS < BUCKETS:
                calls += here
                of_them += marked
        return calls, of_them

    def clear(self) -> None:
        """Forget all calls."""
        for place in range(self._first, self._first + BUCKETS):
            self._words[place] = 0


def _word(number: int, calls: int, marked: int) -> int:
    return number << 40 | calls << 20 | marked


def _parts(word: int) -> tuple[int, int, int]:
    return word >> 40, word >> 20 & _MOST, word & _MOST
