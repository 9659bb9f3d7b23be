"""What a worker counts: its words in the counters page, and the daemon's stream metrics.

Both are written once a round, since a store into shared words costs more than an addition here:
what happens for each stream is gathered, and told by `close`.
"""

from __future__ import annotations

from ringcast.errors import Code
from ringcast.shm.counters import Block
from ringcast.shm.tokens import Done, Error
from ringcast.workers.stream import Stream
from ringcast.workers.stream_metrics import Metrics


class Tally:
    """Gathers the figures of one round after the other.

    `transform_ns` is what transformers took of the present round; they add to it themselves.
    """

    def __init__(self, counters: Block, metrics: Metrics) -> None:
        """`counters` go on from where a predecessor left them."""
        self._counters, self._metrics = counters, metrics
        self.transform_ns = 0
        self._visible = self._ends = 0  # tokens that end nothing, and those that do
        self._begun_ns: list[int] = []  # how long streams waited for their first tokens
        self._gaps_ns: list[int] = []  # and the others for these, since the ones before
        name = counters.slot
        self._c_records, self._c_bytes = name("records"), name("bytes_in")
        self._c_tokens, self._c_streams = name("tokens"), name("streams")
        self._c_errors, self._c_full = name("errors"), name("ring_full")
        self._c_oddities, self._c_removed = name("oddities"), name("removed")
        self._c_codes = {str(code): name(f"error.{code}") for code in Code}

    def opened(self) -> None:
        """Count a new stream."""
        self._counters.add(self._c_streams)
        self._metrics.opened()

    def read(self, number: int, size: int, took_ns: int) -> None:
        """Count a round's records and their bytes, and the time they took."""
        self._counters.add(self._c_records, number)
        self._counters.add(self._c_bytes, size)
        metrics = self._metrics
        metrics.read(size)
        metrics.took("decode", took_ns - self.transform_ns)
        if self.transform_ns:
            metrics.took("transform", self.transform_ns)
            self.transform_ns = 0

    def said(self, stream: Stream, tokens: int, now_ns: int) -> None:
        """Count tokens of a stream that do not end it, and note in it that they are said now."""
        self._visible += tokens
        if stream.last_ns:
            self._gaps_ns.append(now_ns - stream.last_ns)
        else:
            self._begun_ns.append(stream.begin(now_ns))
        stream.last_ns = now_ns

    def ended(self, last: Done | Error) -> None:
        """Count a stream's last token, and the error if it is one."""
        self._ends += 1
        if isinstance(last, Error):
            self._metrics.failed()
            self._counters.add(self._c_errors)
            if (slot := self._c_codes.get(last.code)) is not None:
                self._counters.add(slot)

    def forgotten(self, stream: Stream) -> None:
        """Count what was odd in a stream, and what was removed from it."""
        self._counters.add(self._c_oddities, stream.body.oddities)
        if stream.transforms is not None:
            self._counters.add(self._c_removed, stream.transforms.removed)

    def odd(self) -> None:
        """Count an oddity of no body: tokens that could not be encoded."""
        self._counters.add(self._c_oddities)

    def full(self) -> None:
        """Count a time that the out-ring had no room."""
        self._counters.add(self._c_full)

    def close(self) -> None:
        """Tell what tokens there were in the round."""
        self._counters.add(self._c_tokens, self._visible + self._ends)
        if self._visible:
            self._metrics.round(self._visible, self._begun_ns, self._gaps_ns)
            self._begun_ns.clear()
            self._gaps_ns.clear()
        self._visible = self._ends = 0
