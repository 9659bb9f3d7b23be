"""A process killed with SIGKILL at each store of its end, and its successor (R10, R11).

The child arms itself: its words and its memory count stores and kill at the numbered one.
"""

from __future__ import annotations

import mmap
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from ringcast.shm import layout, ring
from ringcast.shm.ring import HEAD, Reader, Writer

CAPACITY = 1 << 10
AT = 5 * CAPACITY - 136  # the second batch meets the lap's end
BATCHES = [[b"a" * 8, b"b" * 40], [b"c" * 96, b"", b"d" * 17]]
MORE = [b"after", b"the death" * 9]


class Bomb:
    """Kills this process before the numbered store."""

    def __init__(self, store: int) -> None:
        self.left = store

    def count(self) -> None:
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1


class Armed:
    """A `memoryview` (of bytes or words) whose stores are counted; a payload is torn in two."""

    def __init__(self, view: memoryview, bomb: Bomb) -> None:
        self.view, self.bomb = view, bomb

    def __getitem__(self, key: Any) -> Any:
        part = self.view[key]
        return Armed(part, self.bomb) if isinstance(part, memoryview) else part

    def __setitem__(self, key: Any, value: Any) -> None:
        self.bomb.count()
        if isinstance(key, slice) and len(value) > 1:
            middle = len(value) // 2
            self.view[key.start : key.start + middle] = value[:middle]
            self.bomb.count()
        self.view[key] = value

    def cast(self, code: Any) -> Armed:
        return Armed(self.view.cast(code), self.bomb)

    def __len__(self) -> int:
        return len(self.view)

    def __bytes__(self) -> bytes:
        return bytes(self.view)

    def __enter__(self) -> Armed:
        return self

    def __exit__(self, *_: object) -> None: ...


@pytest.fixture
def memory() -> Iterator[memoryview]:
    """A ring in shared anonymous memory, near its lap's end, over stale commit words."""
    mapping = mmap.mmap(-1, layout.size_of(CAPACITY))
    view = memoryview(mapping)
    layout.initialise(view, CAPACITY)
    words = view.cast("Q")
    for word in (layout.W_TAIL, layout.W_HEAD, layout.W_RELEASED):
        words[word] = AT
    for place in range(AT - CAPACITY, AT, 8):
        words[layout.W_DATA + place % CAPACITY // 8] = 8 | place << 29 & layout.SEQ_BITS
    yield view
    words.release()
    view.release()


def killed_at(store: int, memory: memoryview, end: Callable[[memoryview], None]) -> bool:
    """Run `end` in a child armed for `store`; return whether it was killed."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            bomb = Bomb(store)

            def pack_head(view: Armed, at: int, *fields: int) -> None:
                view[at : at + HEAD.size] = HEAD.pack(*fields)

            def unpack_head(view: Armed, at: int) -> tuple[Any, ...]:
                return HEAD.unpack_from(view.view, at)

            vars(ring).update(_pack_head=pack_head, _unpack_head=unpack_head)
            end(cast(memoryview, Armed(memory, bomb)))
            status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), status
    return status != 0


def payloads(reader: Reader) -> list[bytes]:
    return [bytes(record.payload) for record in reader.poll()]


def produce(memory: memoryview) -> None:
    writer = Writer(memory)
    for batch in BATCHES:
        for payload in batch:
            assert writer.append(2, 1, 0, 0, payload)
        writer.publish()


def test_r10_a_producer_killed_at_each_store(memory: memoryview) -> None:
    """R10: whole batches are there or not at all; a successor goes on behind them."""
    start, store = bytes(memory), 0
    counts = []
    while killed_at(store, memory, produce):
        published = payloads(Reader(memory))
        assert published in ([], BATCHES[0])
        counts.append(len(published))
        writer = Writer(memory)
        for payload in MORE:
            assert writer.append(2, 1, 0, 0, payload)
        writer.publish()
        assert payloads(Reader(memory)) == published + MORE
        memory[:] = start
        store += 1
    # Epoch, two records of 5 stores, tail; then PAD, records of 5, 4 and 5, tail.
    assert counts == [0] * (1 + 10 + 1) + [2] * (1 + 14 + 1)
    assert payloads(Reader(memory)) == BATCHES[0] + BATCHES[1]


def consume(memory: memoryview) -> None:
    reader = Reader(memory)
    while records := reader.poll(2):
        reader.release(records[-1].end)
    if reader.sleep():
        reader.wake()


def test_r11_a_consumer_killed_at_each_store(memory: memoryview) -> None:
    """R11: its successor reads again what was not released, and nothing twice that was."""
    produce(memory)
    start, store, sent = bytes(memory), 0, BATCHES[0] + BATCHES[1]
    lengths = []
    while killed_at(store, memory, consume):
        reader = Reader(memory)
        rest = payloads(reader)
        assert rest == sent[len(sent) - len(rest) :]
        lengths.append(len(rest))
        reader.release(reader.position)
        writer = Writer(memory)
        assert writer.append(2, 1, 0, 0, MORE[0])
        assert reader.sleep()
        assert writer.publish()
        assert payloads(reader) == MORE[:1]
        memory[:] = start
        store += 1
    assert lengths == [5, 5, 3, 3, 1, 1, 0, 0]  # head, released, three times; asleep, awake
