"""What streams cost and how they flow: counters and histograms in single-writer 64-bit words.

The words may be a page of shared memory or the metrics' own; one thread writes them, anybody may
read. A store is of one whole word, so a reader sees each as it was at some moment; it counts what
a histogram holds by its buckets, and divides by nothing that may be 0.

Histograms are as HdrHistogram's: eight buckets an octave, the first 64 ns wide and the last at an
hour, so that what is read back is within 6.25 % (or 32 ns) of what was put in.
"""

from __future__ import annotations

from typing import Final, Literal, Protocol, TypeAlias

import msgspec

from ringcast.shm.tokens import Summary

StageName: TypeAlias = Literal["decode", "transform", "deliver"]

COUNTERS: Final = ("streams", "chunks", "bytes", "tokens", "errors")
# To the first token from the request, from one token to the next, and what each stage took of a
# chunk: bytes to tokens, transformers, and the reader until it asks for more.
HISTOGRAMS: Final = ("first_token", "gap", "decode", "transform", "deliver")

_UNIT_BITS: Final = 6
_BUCKETS: Final = 8 * 33 + 8  # up to 2**42 ns, 73 minutes
_MASK: Final = 0xFFFF_FFFF_FFFF_FFFF  # a thousand waiting streams fill a word in half a year
_STREAMS, _CHUNKS, _BYTES, _TOKENS, _ERRORS = range(len(COUNTERS))

HISTOGRAM_WORDS: Final = 1 + _BUCKETS
WORDS: Final = len(COUNTERS) + len(HISTOGRAMS) * HISTOGRAM_WORDS


class Spread(msgspec.Struct, frozen=True):
    """How a duration was spread, in milliseconds; all 0 where there was none."""

    count: int = 0
    mean_ms: float = 0.0
    p50_ms: float = 0.0
    p90_ms: float = 0.0
    p99_ms: float = 0.0
    max_ms: float = 0.0


class Figures(msgspec.Struct, frozen=True):
    """What metrics say at one moment; averages over nothing are 0."""

    streams: int = 0
    chunks: int = 0
    bytes: int = 0
    tokens: int = 0
    errors: int = 0
    tokens_per_chunk: float = 0.0
    bytes_per_token: float = 0.0
    first_token: Spread = Spread()
    gap: Spread = Spread()
    decode: Spread = Spread()
    transform: Spread = Spread()
    deliver: Spread = Spread()


class Metrics(Protocol):
    """What a pipeline tells of itself; durations are in nanoseconds."""

    def opened(self) -> None:
        """Note a new stream."""

    def read(self, size: int) -> None:
        """Note a chunk of `size` bytes."""

    def took(self, stage: StageName, ns: int) -> None:
        """Note how long a stage had with one chunk."""

    def emitted(self, tokens: int, waited_ns: int, *, first: bool) -> None:
        """Note tokens (at least one) that came together, after a wait.

        The wait runs from the request if they are the `first`, else from the tokens before them.
        """

    def failed(self) -> None:
        """Note a stream that ended with `Error`."""

    def snapshot(self) -> Figures:
        """Return what was noted so far."""


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
        bucket = ns >> _UNIT_BITS
        if bucket >= 16:
            octave = bucket.bit_length() - 4
            bucket = octave * 8 + (bucket >> octave)
            if bucket >= _BUCKETS:
                bucket = _BUCKETS - 1
        words = self._words
        words[1 + bucket] += times
        words[0] = (words[0] + ns * times) & _MASK

    def spread(self) -> Spread:
        """Return the figures, of the middles of the buckets."""
        total_ns, *counts = self._words.tolist()
        count = sum(counts)
        if not count:
            return Spread()
        p50, p90, p99, most = (_rank(counts, count * q) for q in (0.5, 0.9, 0.99, 1.0))
        return Spread(count, total_ns / count / 1e6, p50, p90, p99, most)


class StreamMetrics:
    """Metrics over any number of streams, in `WORDS` words."""

    def __init__(self, words: memoryview | None = None) -> None:
        """Go on with what `words` (format Q) hold, or begin with memory of our own.

        Raises `ValueError` for another number of words.
        """
        if words is None:
            words = memoryview(bytearray(WORDS * 8)).cast("Q")
        if len(words) != WORDS:
            raise ValueError(f"metrics take {WORDS} words, not {len(words)}")
        self._words = words
        starts = range(len(COUNTERS), WORDS, HISTOGRAM_WORDS)
        parts = [Histogram(words[start : start + HISTOGRAM_WORDS]) for start in starts]
        self._histograms = dict(zip(HISTOGRAMS, parts, strict=True))
        self._first_token, self._gap = parts[:2]

    def opened(self) -> None:
        """Note a new stream."""
        self._words[_STREAMS] += 1

    def read(self, size: int) -> None:
        """Note a chunk of `size` bytes."""
        words = self._words
        words[_CHUNKS] += 1
        words[_BYTES] += size

    def took(self, stage: StageName, ns: int) -> None:
        """Note how long a stage had with one chunk."""
        self._histograms[stage].add(ns)

    def emitted(self, tokens: int, waited_ns: int, *, first: bool) -> None:
        """Note tokens that came together: there is no gap between them, only before them."""
        self._words[_TOKENS] += tokens
        (self._first_token if first else self._gap).add(waited_ns)
        if tokens > 1:
            self._gap.add(0, tokens - 1)

    def failed(self) -> None:
        """Note a stream that ended with `Error`."""
        self._words[_ERRORS] += 1

    def snapshot(self) -> Figures:
        """Return what was noted so far. Any process that has the words may ask."""
        streams, chunks, size, tokens, errors = self._words[: len(COUNTERS)].tolist()
        return Figures(
            streams,
            chunks,
            size,
            tokens,
            errors,
            tokens / chunks if chunks else 0.0,
            size / tokens if tokens else 0.0,
            *(histogram.spread() for histogram in self._histograms.values()),
        )


class NoMetrics:
    """Notes nothing, for nothing."""

    def opened(self) -> None:
        """Do nothing."""

    def read(self, size: int) -> None:
        """Do nothing."""

    def took(self, stage: StageName, ns: int) -> None:
        """Do nothing."""

    def emitted(self, tokens: int, waited_ns: int, *, first: bool) -> None:
        """Do nothing."""

    def failed(self) -> None:
        """Do nothing."""

    def snapshot(self) -> Figures:
        """Return zeros."""
        return Figures()


class Stopwatch:
    """One stream's own times, from the request on; what it sees it tells the metrics.

    `tokens` counts those before the terminal one.
    """

    __slots__ = ("_first_ns", "_last_ns", "_metrics", "_opened_ns", "tokens")

    def __init__(self, metrics: Metrics, opened_ns: int) -> None:
        """Begin at `opened_ns`, on the clock of all that follows."""
        self._metrics = metrics
        self._opened_ns = self._last_ns = opened_ns
        self._first_ns: int | None = None
        self.tokens = 0
        metrics.opened()

    def emitted(self, tokens: int, now_ns: int) -> None:
        """Note `tokens` (at least one) that come now."""
        self._metrics.emitted(tokens, now_ns - self._last_ns, first=self._first_ns is None)
        if self._first_ns is None:
            self._first_ns = now_ns
        self._last_ns = now_ns
        self.tokens += tokens

    def summary(self, now_ns: int, oddities: int) -> Summary:
        """Return what the stream took if it ends now."""
        first_ns = self._first_ns
        streaming_ns = 0 if first_ns is None else now_ns - first_ns
        return Summary(
            tokens=self.tokens,
            first_token_ms=None if first_ns is None else (first_ns - self._opened_ns) / 1e6,
            total_ms=(now_ns - self._opened_ns) / 1e6,
            tokens_per_s=self.tokens / streaming_ns * 1e9 if streaming_ns > 0 else None,
            oddities=oddities,
        )


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
