"""Words that several processes write (W1-W6)."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringcast.shm import segment
from ringcast.shm.shared_words import (
    ROWS,
    TABLE_BYTES,
    USER_WORDS,
    RecordLocks,
    RowBusy,
    SharedWords,
)
from ringcast.shm.wiring import Wiring


@pytest.fixture
def name() -> Iterator[str]:
    name = f"{segment.family()}-w"
    segment.create(name, TABLE_BYTES, setting="a test").close()
    yield name
    segment.remove(name)


def child(name: str, work: Callable[[SharedWords], None]) -> int:
    """Do `work` in a process of its own; return its pid."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work(SharedWords.attach(name))
        status = 0
    finally:
        os._exit(status)


def status_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def add(words: SharedWords, row: str, amount: int = 1) -> None:
    """Add to a row's first word, however long it is busy."""
    while True:
        with suppress(RowBusy), words.row(row) as mine:
            before = mine[0]
            time.sleep(0)  # invites another process
            mine[0] = before + amount
            return


def value(words: SharedWords, row: str) -> int:
    with words.row(row) as mine:
        return int(mine[0])


def test_w1_a_new_row_is_zero_and_keeps_what_is_stored() -> None:
    words = SharedWords.private()
    with words.row("a") as row:
        assert row.tolist() == [0] * USER_WORDS
        row[0], row[USER_WORDS - 1] = -(1 << 63), (1 << 63) - 1
    with words.row("b") as row:
        assert not any(row)
    with words.row("a") as row:
        assert (row[0], row[USER_WORDS - 1]) == (-(1 << 63), (1 << 63) - 1)
    words.close()


@given(st.lists(st.tuples(st.integers(0, ROWS - 1), st.integers(1, 99)), max_size=600))
@settings(max_examples=15, deadline=None)
def test_w2_as_many_names_as_rows_are_a_dict(steps: list[tuple[int, int]]) -> None:
    words, model = SharedWords.private(), dict.fromkeys(range(ROWS), 0)
    for number, amount in steps:
        add(words, f"limit:{number}", amount)
        model[number] += amount
    assert {number: value(words, f"limit:{number}") for number in model} == model


def test_w5_a_full_table_gives_up_the_least_recently_used_that_is_not_kept() -> None:
    words = SharedWords.private()
    for number in range(ROWS):
        with words.row(str(number), keep=number < 3) as row:
            row[0] = number + 1
    assert value(words, "3") == 4  # used again, so that 4 is the oldest
    assert value(words, "new") == 0
    assert [value(words, str(number)) for number in (0, 1, 2, 3, 5)] == [1, 2, 3, 4, 6]
    assert value(words, "4") == 0


def test_w5_where_all_are_kept_the_oldest_goes() -> None:
    words = SharedWords.private()
    for number in range(ROWS + 1):
        with words.row(str(number), keep=True) as row:
            row[0] += 1
    assert value(words, "1") == 1
    assert value(words, "0") == 0


def test_w3_four_processes_lose_no_addition(name: str) -> None:
    """They make the same rows at the same time, too."""

    def work(words: SharedWords) -> None:
        for number in range(500):
            add(words, "one")
            add(words, f"many:{number % 20}")

    assert [status_of(pid) for pid in [child(name, work) for _ in range(4)]] == [0] * 4
    words = SharedWords.attach(name)
    assert value(words, "one") == 2000
    assert [value(words, f"many:{number}") for number in range(20)] == [100] * 20
    words.close()


@pytest.fixture
def holder(name: str) -> Iterator[tuple[int, SharedWords]]:
    """A process that holds the row "held" with 1 in its first word, and the table."""
    reading, writing = os.pipe()

    def hold(words: SharedWords) -> None:
        with words.row("held") as row:
            row[0] = 1
            os.write(writing, b"!")
            signal.pause()

    pid = child(name, hold)
    assert os.read(reading, 1) == b"!"
    words = SharedWords.attach(name)
    yield pid, words
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    words.close()
    os.close(reading)
    os.close(writing)


def test_w3_what_a_killed_process_held_is_free_at_once(holder: tuple[int, SharedWords]) -> None:
    pid, words = holder
    with pytest.raises(RowBusy), words.row("held"):
        pass
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert value(words, "held") == 1
    add(words, "held")
    assert value(words, "held") == 2


def test_w4_a_stopped_process_stops_nobody(holder: tuple[int, SharedWords]) -> None:
    pid, words = holder
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    for _ in range(20):
        with pytest.raises(RowBusy), words.row("held"):
            pass
        add(words, "other")
    assert time.monotonic() - began < 10
    assert value(words, "other") == 20
    os.kill(pid, signal.SIGCONT)


def test_w6_a_process_killed_at_any_moment_leaves_whole_words(name: str) -> None:
    """Both words of a pair are something that was stored, at most one addition apart."""

    def work(words: SharedWords) -> None:
        while True:
            with suppress(RowBusy), words.row("pair") as row:
                row[0] += 1
                row[1] += 1

    words, before = SharedWords.attach(name), 0
    for wait_ms in range(1, 13):
        pid = child(name, work)
        time.sleep(wait_ms / 1000)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        with words.row("pair") as row:
            assert before <= row[1] <= row[0] <= row[1] + wait_ms
            before = row[1]
    assert before
    words.close()


def test_a_lock_is_not_lost_when_another_row_is_left(name: str) -> None:
    """Record locks of one process merge: leaving one range must not free its neighbour."""
    locks = RecordLocks(name)
    for row in range(4):
        locks.take(row)
    locks.leave(1)

    def work(_: SharedWords) -> None:
        theirs = RecordLocks(name)
        theirs.take(1)
        for row in (0, 2, 3):
            with pytest.raises(RowBusy):
                theirs.take(row)

    assert status_of(child(name, work)) == 0
    locks.close()


def test_the_wiring_makes_an_empty_table() -> None:
    wiring = Wiring(1, 1, 1 << 16, 1 << 16, segment.family())
    made = wiring.create(os.getpid(), 0)
    try:
        assert wiring.traffic in [one.name for one in made]
        words = SharedWords.attach(wiring.traffic)
        assert value(words, "any") == 0
        words.close()
    finally:
        for one in made:
            one.close()
            segment.remove(one.name)
        wiring.close()
