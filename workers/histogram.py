"""How durations are spread, in 64-bit words that may be shared: as HdrHistogram has it.

Eight buckets an octave, the first 64 ns wide and the last at an hour, so that what is read back is
within 6.25 % (or 32 ns) of what was put in. Every word is a sum, so histograms are added word by
word; how many durations one holds is counted by its buckets, which a reader sees at one moment.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ringcast.shm.layout import WORD

_UNIT_BITS: Final = 6
_BUCKETS: Final = 8 * 33 + 8  # up to 2**42 ns, 73 minutes

HISTOGRAM_WORDS: Final = 1 + _BUCKETS


def _bucket(ns: int) -> int:
    """Return the number of the bucket, from 0, that a duration belongs to."""
    bucket = ns >> _UNIT_BITS
    if bucket < 16:
        return bucket if bucket > 0 else 0
    octave = bucket.bit_length() - 4
    bucket = octave * 8 + (bucket >> octave)
    return bucket if bucket < _BUCKETS else _BUCKETS - 1


# From 8 ms to 4 s, where most gaps are, a bucket is at least a mebi-nanosecond wide.
_COARSE_BITS: Final = 20
_COARSE_FROM: Final = 8 << _COARSE_BITS
_COARSE_TO: Final = 4096 << _COARSE_BITS
_COARSE: Final = bytes(_bucket(ms << _COARSE_BITS) for ms in range(4096))


class Spread(msgspec.Struct, frozen=True):
    """How a duration was spread, in milliseconds; all 0 where there was none."""

    count: int = 0
    mean_ms: float = 0.0
    p50_ms: float = 0.0
    p90_ms: float = 0.0
    p99_ms: float = 0.0
    max_ms: float = 0.0


class Histogram:
    """Durations in nanoseconds, in `HISTOGRAM_WORDS` words: their sum, then the buckets."""

    __slots__ = ("_words",)

    def __init__(self, words: memoryview) -> None:
        """`words` has the format Q."""
        self._words = words

    def add(self, ns: int, times: int = 1) -> None:
        """Note `times` durations. One below 0, by clocks that disagree, counts as 0."""
        if ns < 0:
            ns = 0
        words = self._words
        words[1 + _bucket(ns)] += times
        # A thousand waiting streams fill the sum in half a year.
        words[0] = (words[0] + ns * times) & WORD

    def add_all(self, durations_ns: list[int]) -> None:
        """Note durations as `add` does: gaps between tokens in 0.11 µs each, and not in 0.33."""
        words, coarse = self._words, _COARSE
        for ns in durations_ns:
            if _COARSE_FROM <= ns < _COARSE_TO:
                words[1 + coarse[ns >> _COARSE_BITS]] += 1
            else:
                words[1 + _bucket(ns)] += 1
        words[0] = (words[0] + sum(durations_ns)) & WORD

    def add_nothing(self, times: int) -> None:
        """Note `times` durations of 0."""
        self._words[1] += times

    def spread(self) -> Spread:
        """Return the figures, of the middles of the buckets."""
        total_ns, *counts = self._words.tolist()
        count = sum(counts)
        if not count:
            return Spread()
        p50, p90, p99, most = (_rank(counts, count * q) for q in (0.5, 0.9, 0.99, 1.0))
        return Spread(count, total_ns / count / 1e6, p50, p90, p99, most)


def _middle_ms(bucket: int) -> float:
    """Return the middle of the bucket of that number, from 0."""
    octave = max(0, bucket // 8 - 1)
    low = bucket - octave * 8 << octave
    return (low + (1 << octave) / 2) * (1 << _UNIT_BITS) / 1e6


def _rank(counts: list[int], rank: float) -> float:
    """Return the duration, in ms, that `rank` of the counted are not above."""
    seen = 0
    for bucket, count in enumerate(counts):
        seen += count
        if count and seen >= rank:
            return _middle_ms(bucket)
    raise AssertionError("there are fewer than were counted")
