"""What a worker counts: told once a round, with errors by their code."""

from __future__ import annotations

import pytest
from fakes.pipeline import worker_counters

from ringcast.errors import Code
from ringcast.shm.counters import Block
from ringcast.shm.records import Open, encode_open
from ringcast.shm.tokens import Done, Error
from ringcast.workers.stream import Stream
from ringcast.workers.stream_metrics import StreamMetrics
from ringcast.workers.tally import Tally

MS = 1_000_000


def said(counters: Block, name: str) -> int:
    return counters.get(counters.slot(name))


def stream() -> Stream:
    return Stream(encode_open(Open(b"i" * 16, "chat", "p", "m")), opened_ns=MS)


def test_tokens_are_told_when_the_round_closes() -> None:
    counters, metrics, its = worker_counters(), StreamMetrics(), stream()
    tally = Tally(counters, metrics)
    tally.said(its, 3, 11 * MS)
    tally.said(its, 1, 31 * MS)
    tally.ended(Done())
    assert said(counters, "tokens") == metrics.snapshot().tokens == 0
    tally.close()
    tally.close()  # a round without any
    assert said(counters, "tokens") == 5
    figures = metrics.snapshot()
    assert (figures.tokens, figures.first_token.count, figures.gap.count) == (4, 1, 3)
    assert (figures.first_token.mean_ms, its.first_ns, its.last_ns) == (10.0, 11 * MS, 31 * MS)


@pytest.mark.parametrize("code", [*Code, "of a provider"])
def test_an_error_is_counted_by_its_code_if_it_is_ours(code: str) -> None:
    counters, metrics = worker_counters(), StreamMetrics()
    Tally(counters, metrics).ended(Error(code, "why"))
    assert said(counters, "errors") == metrics.snapshot().errors == 1
    assert [one for one in Code if said(counters, f"error.{one}")] == [
        one for one in Code if one == code
    ]


def test_transformers_time_is_no_time_of_the_decoder() -> None:
    metrics = StreamMetrics()
    tally = Tally(worker_counters(), metrics)
    tally.transform_ns += 2 * MS
    tally.read(10, 4000, 5 * MS)
    tally.read(1, 100, 4 * MS)  # whose tokens nothing transforms
    figures = metrics.snapshot()
    assert (figures.decode.count, figures.decode.mean_ms) == (2, 3.5)
    assert (figures.transform.count, figures.transform.mean_ms) == (1, 2.0)
    assert figures.bytes == 4100


def test_a_successor_counts_on() -> None:
    counters = worker_counters()
    for _ in range(2):
        tally = Tally(counters, StreamMetrics())
        tally.opened()
        tally.odd()
        tally.full()
    assert [said(counters, name) for name in ("streams", "oddities", "ring_full")] == [2, 2, 2]
