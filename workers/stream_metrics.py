"""What streams cost and how they flow: counters and histograms in single-writer 64-bit words.

The words may be a page of shared memory or the metrics' own; one thread writes them, anybody may
read. A store is of one whole word, so a reader sees each as it was at some moment; it counts what
a histogram holds by its buckets, and divides by nothing that may be 0. Every word is a sum, so
those of several writers are added up, word by word.
"""

from __future__ import annotations

from typing import Final, Literal, Protocol, TypeAlias

import msgspec

from ringcast.shm.counters import METRICS_BYTES
from ringcast.shm.layout import WORD
from ringcast.shm.tokens import Summary
from ringcast.workers.histogram import HISTOGRAM_WORDS, Histogram, Spread

StageName: TypeAlias = Literal["decode", "transform", "deliver"]

COUNTERS: Final = ("streams", "chunks", "bytes", "tokens", "errors")
# To the first token from the request, from one token to the next, and what each stage took of a
# chunk: bytes to tokens, transformers, and the reader until it asks for more. A worker's chunk is
# a round of its records; what its reader takes it does not know.
HISTOGRAMS: Final = ("first_token", "gap", "decode", "transform", "deliver")

_STREAMS, _CHUNKS, _BYTES, _TOKENS, _ERRORS = range(len(COUNTERS))

WORDS: Final = len(COUNTERS) + len(HISTOGRAMS) * HISTOGRAM_WORDS


class Figures(msgspec.Struct, frozen=True):
    """What metrics say at one moment; averages over nothing are 0."""

    streams: int = 0
    chunks: int = 0
    bytes: int = 0
    tokens: int = 0
    errors: int = 0
    tokens_per_chunk: float = 0.0
    bytes_per_token: float = 0.0
    decode_us_per_token: float = 0.0
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

    def round(self, tokens: int, begun_ns: list[int], gaps_ns: list[int]) -> None:
        """Note `tokens` of several streams: the waits of those they are the first of, and gaps."""

    def failed(self) -> None:
        """Note a stream that ended with `Error`."""

    def snapshot(self) -> Figures:
        """Return what was noted so far."""


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
            self._gap.add_nothing(tokens - 1)

    def round(self, tokens: int, begun_ns: list[int], gaps_ns: list[int]) -> None:
        """Note tokens of several streams, of which each had some that came together."""
        self._words[_TOKENS] += tokens
        if begun_ns:
            self._first_token.add_all(begun_ns)
        if gaps_ns:
            self._gap.add_all(gaps_ns)
        if together := tokens - len(begun_ns) - len(gaps_ns):
            self._gap.add_nothing(together)

    def failed(self) -> None:
        """Note a stream that ended with `Error`."""
        self._words[_ERRORS] += 1

    def snapshot(self) -> Figures:
        """Return what was noted so far. Any process that has the words may ask."""
        streams, chunks, size, tokens, errors = self._words[: len(COUNTERS)].tolist()
        spreads = {name: one.spread() for name, one in self._histograms.items()}
        decode = spreads["decode"]
        return Figures(
            streams,
            chunks,
            size,
            tokens,
            errors,
            tokens / chunks if chunks else 0.0,
            size / tokens if tokens else 0.0,
            decode.count * decode.mean_ms / tokens * 1e3 if tokens else 0.0,
            **spreads,
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

    def round(self, tokens: int, begun_ns: list[int], gaps_ns: list[int]) -> None:
        """Do nothing."""

    def failed(self) -> None:
        """Do nothing."""

    def snapshot(self) -> Figures:
        """Return zeros."""
        return Figures()


def of_worker(page: memoryview, index: int) -> StreamMetrics:
    """Return a worker's metrics in the daemon's page of them, which a successor goes on with."""
    start = index * METRICS_BYTES
    return StreamMetrics(page[start : start + WORDS * 8].cast("Q"))


def of_all(page: memoryview) -> Figures:
    """Return what the workers of a daemon have noted, all together."""
    starts = range(0, len(page) - METRICS_BYTES + 1, METRICS_BYTES)
    parts = [page[start : start + WORDS * 8].cast("Q").tolist() for start in starts]
    words = memoryview(bytearray(WORDS * 8)).cast("Q")
    for number, word in enumerate(map(sum, zip(*parts, strict=True))):
        words[number] = word & WORD
    return StreamMetrics(words).snapshot()


class Stopwatch:
    """One stream's own times, from the request on; what it sees it tells the metrics.

    `tokens` counts those before the terminal one.
    """

    __slots__ = (
        "_decode_ns",
        "_first_ns",
        "_last_ns",
        "_metrics",
        "_opened_ns",
        "_transform_ns",
        "tokens",
    )

    def __init__(self, metrics: Metrics, opened_ns: int) -> None:
        """Begin at `opened_ns`, on the clock of all that follows."""
        # To tell those nothing that note nothing would be a third of all that a chunk takes.
        self._metrics = None if isinstance(metrics, NoMetrics) else metrics
        self._opened_ns = self._last_ns = opened_ns
        self._first_ns: int | None = None
        self._decode_ns = 0
        self._transform_ns: int | None = None
        self.tokens = 0
        metrics.opened()

    def decoded(self, ns: int, size: int = 0) -> None:
        """Note a chunk of `size` bytes, or the end, and how long decoding had with it."""
        self._decode_ns += ns
        if self._metrics is not None:
            if size:
                self._metrics.read(size)
            self._metrics.took("decode", ns)

    def transformed(self, ns: int) -> None:
        """Note how long transformers had with its tokens."""
        self._transform_ns = (self._transform_ns or 0) + ns
        if self._metrics is not None:
            self._metrics.took("transform", ns)

    def emitted(self, tokens: int, now_ns: int) -> None:
        """Note `tokens` (at least one) that come now."""
        if self._metrics is not None:
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
            decode_ms=self._decode_ns / 1e6,
            transform_ms=None if self._transform_ns is None else self._transform_ns / 1e6,
        )
