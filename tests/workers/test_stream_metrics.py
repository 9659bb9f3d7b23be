"""Metrics: figures are what was noted, within the buckets' width; words may be shared."""

from __future__ import annotations

import mmap
import multiprocessing

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ringcast.shm.counters import METRICS_BYTES
from ringcast.workers.histogram import HISTOGRAM_WORDS, Histogram, Spread
from ringcast.workers.stream_metrics import (
    WORDS,
    Figures,
    NoMetrics,
    Stopwatch,
    StreamMetrics,
    of_all,
    of_worker,
)

HOUR_NS = 3600 * 10**9
NS = st.integers(0, HOUR_NS) | st.integers(0, 10**6)


def histogram() -> Histogram:
    return Histogram(memoryview(bytearray(HISTOGRAM_WORDS * 8)).cast("Q"))


@given(NS)
@example(0)
@example(511)
@example(512)
@example(1023)
@example(1024)
@example(HOUR_NS)
def test_a_duration_is_read_back_within_a_bucket(ns: int) -> None:
    one = histogram()
    one.add(ns)
    spread = one.spread()
    assert spread.mean_ms == pytest.approx(ns / 1e6)
    assert abs(spread.max_ms * 1e6 - ns) <= max(32, ns * 0.0625)


@given(st.lists(NS, min_size=1, max_size=60))
def test_percentiles_are_those_of_the_list(durations: list[int]) -> None:
    one = histogram()
    for ns in durations:
        one.add(ns)
    spread, ordered = one.spread(), sorted(durations)
    assert spread.count == len(durations)
    for got, q in ((spread.p50_ms, 0.5), (spread.p90_ms, 0.9), (spread.p99_ms, 0.99)):
        right = next(ns for i, ns in enumerate(ordered, 1) if i >= q * len(ordered))
        assert abs(got * 1e6 - right) <= max(32, right * 0.0625)


@given(st.lists(st.integers(-5, 1 << 50) | NS | st.integers(7_000_000, 9_000_000), max_size=60))
@example([(8 << 20) - 1, 8 << 20, (4096 << 20) - 1, 4096 << 20])
def test_many_at_once_are_in_the_buckets_that_each_would_be_in(durations: list[int]) -> None:
    one, all_ = histogram(), histogram()
    for ns in durations:
        one.add(max(ns, 0))
    all_.add_all([max(ns, 0) for ns in durations])
    assert one.spread() == all_.spread()
    all_.add_all([-1])  # of clocks that disagree
    assert all_.spread().count == len(durations) + 1


def test_what_is_out_of_range_is_kept_in_the_last_bucket_or_the_first() -> None:
    one = histogram()
    one.add(1 << 50)
    one.add(-5)
    spread = one.spread()
    assert spread.count == 2
    assert spread.p50_ms < 1e-3
    assert spread.max_ms > HOUR_NS / 1e6


def test_the_figures_of_two_streams() -> None:
    metrics = StreamMetrics()
    for size, error in ((1000, False), (200, True)):
        watch = Stopwatch(metrics, opened_ns=0)
        metrics.read(size)
        watch.emitted(3, 10_000_000)
        watch.emitted(1, 40_000_000)
        metrics.took("decode", 5_000)
        if error:
            metrics.failed()
    said = metrics.snapshot()
    assert (said.streams, said.chunks, said.bytes, said.tokens, said.errors) == (2, 2, 1200, 8, 1)
    assert (said.tokens_per_chunk, said.bytes_per_token) == (4.0, 150.0)
    assert (said.first_token.count, said.gap.count, said.decode.count) == (2, 6, 2)
    assert said.first_token.mean_ms == 10.0
    assert said.gap.mean_ms == 10.0  # two of three came with another
    assert said.gap.p50_ms < 1e-3
    assert said.gap.p99_ms == pytest.approx(30, rel=0.0625)
    assert said.transform == Spread()


def test_nothing_is_no_division() -> None:
    assert StreamMetrics().snapshot() == NoMetrics().snapshot() == Figures()


def test_a_stream_sums_itself_up() -> None:
    watch = Stopwatch(NoMetrics(), opened_ns=1_000_000)
    said = watch.summary(3_000_000, 2)
    assert (said.tokens, said.first_token_ms, said.tokens_per_s) == (0, None, None)
    watch.emitted(10, 5_000_000)
    watch.emitted(10, 9_000_000)
    said = watch.summary(15_000_000, 2)
    assert (said.tokens, said.first_token_ms, said.total_ms) == (20, 4.0, 14.0)
    assert (said.tokens_per_s, said.oddities) == (2000.0, 2)


def _write(page: mmap.mmap) -> None:
    metrics = StreamMetrics(memoryview(page).cast("Q"))
    for _ in range(1000):
        metrics.read(7)
        metrics.emitted(2, 1000, first=False)


def test_another_process_reads_what_one_writes() -> None:
    page = mmap.mmap(-1, WORDS * 8)
    writer = multiprocessing.get_context("fork").Process(target=_write, args=(page,))
    writer.start()
    reader = StreamMetrics(memoryview(page).cast("Q"))
    seen = 0
    while writer.is_alive():
        said = reader.snapshot()
        assert said.tokens >= seen
        seen = said.tokens
    writer.join()
    said = reader.snapshot()
    assert (writer.exitcode, said.chunks, said.bytes, said.tokens) == (0, 1000, 7000, 2000)
    assert said.gap.count == 2000


def test_a_successor_goes_on_with_the_words() -> None:
    words = memoryview(bytearray(WORDS * 8)).cast("Q")
    StreamMetrics(words).read(5)
    StreamMetrics(words).read(6)
    assert StreamMetrics(words).snapshot().bytes == 11


def test_words_of_another_layout_are_refused() -> None:
    with pytest.raises(ValueError, match=f"take {WORDS} words, not 12"):
        StreamMetrics(memoryview(bytearray(96)).cast("Q"))


def test_a_round_is_noted_as_its_streams_would_be_one_by_one() -> None:
    one, each = StreamMetrics(), StreamMetrics()
    one.round(9, [10_000_000], [20_000_000, 0])
    each.emitted(3, 10_000_000, first=True)
    each.emitted(5, 20_000_000, first=False)
    each.emitted(1, 0, first=False)
    assert one.snapshot() == each.snapshot()


def test_the_workers_of_a_daemon_are_added_up() -> None:
    page = memoryview(bytearray(2 * METRICS_BYTES))
    assert of_all(page) == Figures()
    for index in (0, 1):
        for _ in range(2):  # a successor goes on
            its = of_worker(page, index)
            its.opened()
            its.read(100)
            its.took("decode", 3_000_000)
            its.round(2, [10_000_000], [])
    said = of_all(page)
    assert (said.streams, said.bytes, said.tokens) == (4, 400, 8)
    assert (said.first_token.count, said.first_token.mean_ms, said.gap.count) == (4, 10.0, 4)
    assert (said.decode.mean_ms, said.decode_us_per_token) == (3.0, 1500.0)
    assert of_all(page[:METRICS_BYTES]).streams == 2


def test_a_workers_room_holds_its_words_and_little_more() -> None:
    assert 0 <= METRICS_BYTES - WORDS * 8 < 128
