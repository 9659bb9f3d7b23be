"""Events in fragments: joined whatever lies between them, and their input is held for so long."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import pytest
from fakes.pipeline import ring
from hypothesis import given
from hypothesis import strategies as st

from ringcast.shm import records
from ringcast.shm.ring import Reader, Record, Writer
from ringcast.workers.fragments import Fragments, Hold

CAPACITY = 1 << 16


@dataclass
class Piece:
    """A fragment of a stream's event."""

    slot: int
    block: bytes
    flags: int


def pieces(slot: int, event: bytes, number: int) -> list[Piece]:
    """An event of `slot` in so many fragments."""
    step = -(-len(event) // number)
    blocks = [event[at : at + step] for at in range(0, len(event), step)]
    marks = [0] * len(blocks)
    marks[0] |= records.BEGIN
    marks[-1] |= records.LAST
    return [Piece(slot, block, mark) for block, mark in zip(blocks, marks, strict=True)]


def polled(reader: Reader, writer: Writer, piece: Piece) -> Record:
    assert writer.append(records.DATA, piece.slot, 0, 0, piece.block, piece.flags)
    writer.publish()
    (record,) = reader.poll()
    return record


@given(st.lists(st.tuples(st.binary(min_size=8, max_size=90), st.integers(2, 8))), st.randoms())
def test_events_of_any_streams_come_out_whole(
    events: list[tuple[bytes, int]], draw: Random
) -> None:
    """Rule 1: no input from the oldest unfinished event on is released."""
    memory = ring(CAPACITY)
    writer, reader, hold = Writer(memory), Reader(memory), Hold()
    fragments = Fragments([hold])
    left = {slot: pieces(slot, *event) for slot, event in enumerate(events, 1)}
    begins: dict[int, int] = {}
    while left:
        slot = draw.choice(list(left))
        position = writer.position
        piece = left[slot].pop(0)
        record = polled(reader, writer, piece)
        if piece.flags & records.BEGIN:
            begins[slot] = position
        event = fragments.add(0, record)
        if piece.flags & records.LAST:
            assert event == events[slot - 1][0]
            del left[slot], begins[slot]
        else:
            assert event is None
        assert hold.limit(reader, record.end) == min([record.end, *begins.values()])
        assert len(fragments) == len(hold) == len(begins)


def test_an_event_over_half_of_its_ring_holds_nothing() -> None:
    """Rule 2."""
    memory = ring(CAPACITY)
    writer, reader, hold = Writer(memory), Reader(memory), Hold()
    fragments = Fragments([hold])
    held = []
    for piece in pieces(1, b"x" * 40_000, 10):
        record = polled(reader, writer, piece)
        fragments.add(0, record)
        held.append(hold.limit(reader, record.end) == 0)
    assert held == [True] * 8 + [False] * 2
    assert len(fragments) == 0


def test_what_was_released_is_not_held_again() -> None:
    memory = ring(CAPACITY)
    writer, reader, hold = Writer(memory), Reader(memory), Hold()
    first, *_ = pieces(1, b"x" * 1000, 2)
    record = polled(reader, writer, first)
    reader.release(record.end)
    hold.begin(record)
    assert hold.limit(reader, record.end) == record.end


def test_what_is_dropped_holds_nothing_and_may_begin_again() -> None:
    memory = ring(CAPACITY)
    writer, reader, holds = Writer(memory), Reader(memory), [Hold(), Hold()]
    fragments = Fragments(holds)
    first, last = pieces(5, b"old event", 2)
    fragments.add(1, polled(reader, writer, first))
    assert 5 in fragments
    assert len(holds[1]) == 1
    fragments.drop(5)
    assert 5 not in fragments
    assert len(holds[1]) == 0
    with pytest.raises(KeyError):
        fragments.add(1, polled(reader, writer, last))
    new, rest = pieces(5, b"the event", 2)
    assert fragments.add(0, polled(reader, writer, new)) is None
    assert fragments.add(0, polled(reader, writer, rest)) == b"the event"
