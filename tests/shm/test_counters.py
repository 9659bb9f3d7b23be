"""The counters page (R16)."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringcast.errors import Code
from ringcast.shm import counters
from ringcast.shm.counters import BLOCK, BLOCK_BYTES, NAMES, Block, read


@pytest.fixture
def page() -> memoryview:
    return memoryview(bytearray(4 * BLOCK_BYTES))


def test_every_role_fits_its_block() -> None:
    assert set(NAMES) == set(counters.ROLES)
    for names in NAMES.values():
        assert len(set(names)) == len(names) <= BLOCK - 4


def test_r16_one_writes_everybody_reads(page: memoryview) -> None:
    """R16: only claimed blocks are listed, in order, each with its role's names."""
    worker, broker = Block(page, 2, "worker", pid=42), Block(page, 0, "broker", pid=41)
    worker.add(worker.slot("tokens"), 5)
    worker.add(worker.slot("tokens"))
    worker.beat(123)
    broker.set(broker.slot("clients"), 7)
    first, second = read(page)
    assert (first["role"], first["pid"], first["clients"]) == ("broker", 41, 7)
    assert second == {
        "role": "worker",
        "pid": 42,
        "heartbeat_ns": 123,
        "starts": 1,
        **{name: 0 for name in NAMES["worker"] if not name.startswith("error.")},
        "tokens": 6,
    }


def test_a_successor_counts_on(page: memoryview) -> None:
    for starts in (1, 2):
        block = Block(page, 1, "provider", pid=starts)
        block.add(block.slot("requests"), 10)
        block.close()
    (row,) = read(page)
    assert (row["requests"], row["starts"], row["pid"]) == (20, 2, 2)


def test_a_counter_wraps(page: memoryview) -> None:
    block = Block(page, 0, "worker")
    slot = block.slot("tokens")
    block.set(slot, (1 << 64) - 1)
    block.add(slot, 3)
    assert read(page)[0]["tokens"] == 2


def test_foreign_roles_and_odd_pages_are_skipped(page: memoryview) -> None:
    """A page of another version or cut short is no reason to fall over."""
    Block(page, 0, "worker")
    with page.cast("Q") as words:
        words[BLOCK] = len(counters.ROLES)
    assert [row["role"] for row in read(page)] == ["worker"]
    assert [row["role"] for row in read(page[: BLOCK_BYTES + 9])] == ["worker"]
    assert read(page[:9]) == []


def test_closing_gives_the_page_back() -> None:
    page = bytearray(BLOCK_BYTES)
    with memoryview(page) as view:
        Block(view, 0, "worker").close()
        read(view)
    page.append(0)


ROOT = Path(__file__).parents[2]
HOMES = {
    "supervisor": "ops/ringcast",
    "provider": "providers",
    "worker": "workers",
    "broker": "broker",
}


@pytest.mark.parametrize("role", HOMES)
def test_every_counter_is_counted_by_somebody(role: str) -> None:
    """One that nobody writes would say 0 for ever, which is worse than not to be there."""
    source = "".join(path.read_text() for path in (ROOT / HOMES[role]).rglob("*.py"))
    counted = {f"error.{code}" for code in Code if 'f"error.{code}"' in source}
    assert [name for name in NAMES[role] if f'"{name}"' not in source and name not in counted] == []


def test_errors_are_listed_once_they_have_happened(page: memoryview) -> None:
    worker = Block(page, 0, "worker")
    worker.add(worker.slot("error.auth"))
    (row,) = read(page)
    assert [name for name in row if name.startswith("error.")] == ["error.auth"]
