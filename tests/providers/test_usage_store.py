"""What was used is written down: by many at once, through deaths and bad files, in nobody's way."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest

from ringcast import config
from ringcast.providers.spending import usage_file, usage_store
from ringcast.providers.spending.usage_file import Spent, UsageFile, UsageFileError, path_of, read
from ringcast.providers.spending.usage_store import MOST, UsageStore, Used, row
from ringcast.shm.tokens import Usage

ROOT = Path(__file__).parents[2]
NOON = datetime(2026, 11, 20, 12).timestamp()
USAGE = Usage(100, 20, 120, 60, 5, 7, cost=0.0125)
ONE = Used("openai", "gpt-5", USAGE, False)
PATIENCE_S = 30.0

# argv: file, requests, model. It says "go" while it writes, and at last how much it lost.
WRITER = """
import sys, time
from ringcast import config
from ringcast.providers.spending.usage_store import Used, UsageStore
from ringcast.shm.tokens import Usage

store = UsageStore(config.Usage(file=sys.argv[1]), wall=lambda: {noon})
for i in range(int(sys.argv[2])):
    store.add(Used("openai", sys.argv[3], Usage(100, 20, cost=0.001), i % 2 == 0))
    if i % 50 == 0:
        print("go", flush=True)
        time.sleep(0.005)
store.close(20)
print(store.lost, flush=True)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ringcast" / "usage.sqlite3"


@pytest.fixture
def told() -> list[str]:
    """What is said on stderr."""
    return []


@pytest.fixture
def opened(file: Path, told: list[str]) -> Iterator[Callable[..., UsageStore]]:
    stores: list[UsageStore] = []

    def opening(now: float = NOON, path: Path = file, keep: bool = True) -> UsageStore:
        settings = config.Usage(file=str(path), keep=keep)
        stores.append(UsageStore(settings, wall=lambda: now, tell=told.append))
        return stores[-1]

    yield opening
    for store in stores:
        store.close()


def writer(file: Path, requests: int, model: str = "gpt-5") -> subprocess.Popen[str]:
    code = WRITER.format(noon=NOON)
    return subprocess.Popen(
        [sys.executable, "-P", "-c", code, str(file), str(requests), model],
        env=os.environ | {"PYTHONPATH": str(ROOT / "ops")},
        stdout=subprocess.PIPE,
        text=True,
    )


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_is_added_is_in_the_file(opened: Callable[..., UsageStore], file: Path) -> None:
    store = opened()
    store.add(ONE)
    store.add(Used("openai", "gpt-5", None, True, begun=False))
    store.add(Used("lab", "llama", Usage(3, 4), False))
    store.close()
    lab = Spent("2026-11-20", "lab", "llama", 1, 0, 3, 4, unpriced=1)
    openai = Spent("2026-11-20", "openai", "gpt-5", 2, 1, 100, 20, 60, 5, 7, 12_500, 0)
    assert read(file) == [lab, openai]
    assert store.lost == 0


def test_it_is_written_while_the_process_runs(
    opened: Callable[..., UsageStore], file: Path
) -> None:
    opened().add(ONE)
    until(lambda: bool(read(file)))


def test_nothing_is_made_before_something_is_added(
    opened: Callable[..., UsageStore], file: Path
) -> None:
    store = opened()
    assert store.spent_today(NOON) == 0.0
    store.close()
    assert not file.parent.exists()
    assert "usage" not in {thread.name for thread in threading.enumerate()}


def test_keep_false_writes_nothing(opened: Callable[..., UsageStore], file: Path) -> None:
    store = opened(keep=False)
    store.add(ONE)
    store.close()
    assert not file.exists()
    assert store.spent_today(NOON) == 0.0


def test_the_file_and_its_folder_are_their_owners_only(
    opened: Callable[..., UsageStore], file: Path
) -> None:
    before = os.umask(0)
    try:
        store = opened()
        store.add(ONE)
        until(lambda: bool(file.exists() and read(file)))
    finally:
        os.umask(before)
    for one in (file, file.with_name(f"{file.name}-wal"), file.with_name(f"{file.name}-shm")):
        assert stat.S_IMODE(one.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_each_day_has_a_row_and_only_today_counts_as_spent(
    opened: Callable[..., UsageStore],
) -> None:
    midnight = datetime(2026, 11, 21).timestamp()
    for now in (midnight - 1, midnight, midnight + 1):
        store = opened(now)
        store.add(ONE)
        store.close()
    assert opened().spent_today(midnight - 1) == 0.0125
    assert opened().spent_today(midnight) == 0.025
    assert opened().spent_today(midnight + 86_400) == 0.0


def test_processes_that_write_at_once_lose_nothing(file: Path) -> None:
    writers = [writer(file, 600) for _ in range(3)]
    for one in writers:
        said, _ = one.communicate(timeout=PATIENCE_S)
        assert said.split()[-1] == "0"
    (spent,) = read(file)
    assert (spent.requests, spent.errors) == (1800, 900)
    assert (spent.input, spent.output, spent.cost) == (180_000, 36_000, 1.8)


def test_a_killed_writer_leaves_a_sound_file_without_half_a_request(file: Path) -> None:
    for kill in range(4):
        one = writer(file, 10**9)
        assert one.stdout is not None
        for _ in range(2 + 5 * kill):
            one.stdout.readline()
        os.kill(one.pid, signal.SIGKILL)
        one.wait()
        one.stdout.close()
    last = writer(file, 10)
    last.communicate(timeout=PATIENCE_S)
    (spent,) = read(file)
    assert spent.requests >= 10
    assert spent.input == 100 * spent.requests
    assert spent.cost_micro == 1000 * spent.requests
    with sqlite3.connect(file) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_file_that_another_holds_is_waited_for(
    opened: Callable[..., UsageStore],
    file: Path,
    told: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(usage_file, "BUSY_S", 0.02)
    monkeypatch.setattr(usage_store, "RETRY_S", 0.02)
    with closing(UsageFile(file)) as written:
        written.add([Spent("2026-11-20", "openai", "gpt-5", 1)])
    holder = sqlite3.connect(file, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    store = opened()
    for _ in range(3):
        store.add(ONE)
        time.sleep(0.05)
    assert read(file)[0].requests == 1
    holder.execute("ROLLBACK")
    holder.close()
    store.close()
    assert read(file)[0].requests == 4
    assert (told, store.lost) == ([], 0)


def test_closing_does_not_wait_for_ever_and_tells_what_is_lost(
    opened: Callable[..., UsageStore],
    file: Path,
    told: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(usage_file, "BUSY_S", 0.02)
    with closing(UsageFile(file)) as written:
        written.add([Spent("2026-11-20", "openai", "gpt-5", 1)])
    holder = sqlite3.connect(file, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    store = opened()
    store.add(ONE)
    began = time.monotonic()
    store.close(0.1)
    assert time.monotonic() - began < PATIENCE_S
    assert told == [f"usage is lost (requests: 1): {file} did not take it"]
    holder.close()


def test_a_budget_whose_file_cannot_be_read_says_that_it_begins_at_nothing(
    file: Path, told: list[str]
) -> None:
    bad_file(file)
    settings = config.Usage(file=str(file), daily_usd=1.0)
    assert UsageStore(settings, tell=told.append).spent_today(NOON) == 0.0
    (said,) = told
    assert said.endswith("file is not a database; usage.daily_usd counts from 0")


def test_a_folder_is_called_no_file(file: Path) -> None:
    a_folder(file)
    with pytest.raises(UsageFileError, match="not a regular file"):
        read(file)


def bad_file(file: Path) -> None:
    file.parent.mkdir(parents=True)
    file.write_bytes(b"this is no database, " * 100)


def newer_file(file: Path) -> None:
    file.parent.mkdir(parents=True)
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA user_version = 2")


def a_folder(file: Path) -> None:
    file.mkdir(parents=True)


def no_folder(file: Path) -> None:
    file.parent.parent.mkdir(parents=True)
    file.parent.write_bytes(b"")


def a_table_of_another_form(file: Path) -> None:
    file.parent.mkdir(parents=True)
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE spent (what TEXT)")
        connection.execute("PRAGMA user_version = 1")


@pytest.mark.parametrize(
    "spoil", [bad_file, newer_file, a_folder, no_folder, a_table_of_another_form]
)
def test_a_file_that_cannot_be_used_is_told_once_and_counted(
    spoil: Callable[[Path], None], opened: Callable[..., UsageStore], file: Path, told: list[str]
) -> None:
    spoil(file)
    store = opened()
    for lost in range(1, 4):
        store.add(ONE)
        until(lambda lost=lost: store.lost == lost)  # type: ignore[misc]
    assert store.spent_today(NOON) == 0.0
    store.close()
    said, at_last = told
    assert str(file) in said
    assert at_last == f"usage is lost (requests: 3): {file} did not take it"
    assert ("newer ringcast (version 2, this one knows 1)" in said) == (spoil is newer_file)


def test_a_file_of_a_newer_version_is_refused_and_left_alone(file: Path) -> None:
    newer_file(file)
    with pytest.raises(UsageFileError, match="newer ringcast"):
        read(file)
    before = file.read_bytes()
    with pytest.raises(UsageFileError, match=r"usage\.file"):
        UsageFile(file).add([Spent("2026-11-20", "a", "b", 1)])
    assert file.read_bytes()[100:] == before[100:]  # the head says WAL now


def test_a_file_that_is_taken_away_is_made_anew(
    opened: Callable[..., UsageStore], file: Path
) -> None:
    store = opened()
    store.add(ONE)
    until(lambda: bool(read(file)))
    for one in file.parent.iterdir():
        one.unlink()
    store.add(ONE)
    store.close()
    assert read(file)[0].requests == 1


def test_more_than_can_wait_is_counted_and_does_not_block(
    opened: Callable[..., UsageStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage_store, "WAITING", 5)
    monkeypatch.setattr(usage_store, "GATHER_S", 0.2)
    store = opened()
    for _ in range(20):
        store.add(ONE)
    assert store.lost >= 14  # one or none was taken by the thread
    store.close()


def test_adding_costs_the_loop_little(opened: Callable[..., UsageStore]) -> None:
    store = opened()
    began = time.process_time()
    for _ in range(5000):
        store.add(ONE)
    assert time.process_time() - began < 2.0


HUGE = 2**63 - 1


@pytest.mark.parametrize(
    "used",
    [
        Used("p", "m", Usage(HUGE, HUGE, HUGE, HUGE, HUGE, HUGE, cost=1e300), False),
        Used("p", "m", Usage(-1, -1, -1, -1, -1, -1, cost=-1e300), False),
        Used("p", "m", Usage(cost=float("nan")), False),
        Used("p", "m", Usage(cost=float("inf")), False),
        Used("p\ud800", "m\udfff" * 1000, None, False),
        Used("", "", None, True),
    ],
)
def test_whatever_a_provider_says_fits_into_the_file(
    used: Used, opened: Callable[..., UsageStore], file: Path, told: list[str]
) -> None:
    for _ in range(2):
        store = opened()
        store.add(used)
        store.close()
    (spent,) = read(file)
    assert spent.requests == 2
    assert 0 <= spent.cost_micro <= 2 * MOST
    assert len(spent.model) <= 200
    assert told == []


def test_only_what_may_have_cost_something_counts_as_unpriced() -> None:
    day = "2026-11-20"
    assert row(Used("p", "m", Usage(1, 2), False), day).unpriced == 1
    assert row(Used("p", "m", Usage(1, 2), True), day).unpriced == 1
    assert row(Used("p", "m", None, False), day).unpriced == 1
    assert row(Used("p", "m", None, True, begun=False), day).unpriced == 0
    assert row(Used("p", "m", None, False, begun=False), day).unpriced == 0
    assert row(Used("p", "m", None, True), day).unpriced == 1
    assert row(Used("p", "m", Usage(1, 2, cost=-1.0), False), day).unpriced == 1
    assert row(Used("p", "m", Usage(1, 2, cost=0.0), False), day).unpriced == 0


def test_the_file_stands_where_the_configuration_or_xdg_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert path_of("") == Path("/state/ringcast/usage.sqlite3")
    monkeypatch.delenv("XDG_STATE_HOME")
    assert path_of("") == Path("/home/me/.local/state/ringcast/usage.sqlite3")
    assert path_of("~/used.sqlite3") == Path("/home/me/used.sqlite3")


def test_sqlite_is_loaded_only_by_who_writes() -> None:
    code = "import ringcast.providers.spending.usage_store, sys; print('sqlite3' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT / "ops")},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == "False\n"
