"""What attaching believes, and what it refuses (R1-R4)."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from ringcast.errors import (
    RingCorrupt,
    RingError,
    RingNotReady,
    RingVersionMismatch,
)
from ringcast.shm import layout
from ringcast.shm.ring import PATIENCE, Reader, Writer

CAPACITY = 1 << 10
FLIPS = 100_000


def laid_out(**words: int) -> memoryview:
    """A ring in plain memory; `words` overwrite header words, named as in `layout`."""
    memory = memoryview(bytearray(layout.size_of(CAPACITY)))
    layout.initialise(memory, CAPACITY, pid=11, start_time=22)
    with memory.cast("Q") as view:
        for name, value in words.items():
            view[vars(layout)[name]] = value
    return memory


def test_r1_header() -> None:
    """R1: magic, layout, capacity, epochs, owner, ready; the rest is zero."""
    with laid_out().cast("Q") as words:
        assert list(words[:8]) == [layout.MAGIC, layout.ABI, CAPACITY, 1, 1, 11, 22, 1]
        assert not any(words[8:])
    assert layout.MAGIC.to_bytes(8, "little") == b"ringcast"


def test_r2_each_end_has_lines_of_its_own() -> None:
    """R2: header, producer, consumer and data share no 128 bytes."""
    producer = (
        layout.W_TAIL,
        layout.W_PRODUCER_BEAT,
        layout.W_NUMBER,
        layout.W_WAITING,
        layout.W_PRODUCER_POISON,
    )
    consumer = (
        layout.W_HEAD,
        layout.W_RELEASED,
        layout.W_SLEEPING,
        layout.W_CONSUMER_BEAT,
        layout.W_CONSUMER_POISON,
    )
    lines = [{word * 8 // 128 for word in words} for words in (range(8), producer, consumer)]
    assert [len(line) for line in lines] == [1, 1, 1]
    assert len(set.union(*lines)) == 3
    assert layout.DATA // 128 not in set.union(*lines)
    assert layout.DATA % 128 == 0


def test_r4_the_largest_record_is_an_eighth() -> None:
    assert layout.max_payload(CAPACITY) + layout.HEADER == CAPACITY // 8


@pytest.mark.parametrize("size", [0, 7, 384, 1407])
def test_r1_too_small(size: int) -> None:
    with pytest.raises(RingCorrupt, match=f"{size} bytes is too small"):
        layout.check(memoryview(bytearray(size)))


def test_r1_magic() -> None:
    """R1 (S01)."""
    with pytest.raises(RingCorrupt, match="not a ringcast ring"):
        layout.check(laid_out(W_MAGIC=layout.MAGIC ^ 1))
    with pytest.raises(RingCorrupt, match="not a ringcast ring"):
        layout.check(laid_out(W_MAGIC=0))


@pytest.mark.parametrize("abi", [0, layout.ABI + 1, 999])
def test_r1_both_versions_are_named(abi: int) -> None:
    """R1 (S02)."""
    with pytest.raises(RingVersionMismatch, match=rf"layout {abi}, .* {layout.ABI}$"):
        layout.check(laid_out(W_ABI=abi))


def test_r1_not_ready() -> None:
    with pytest.raises(RingNotReady):
        layout.check(laid_out(W_READY=0))
    with pytest.raises(RingNotReady):
        layout.check(memoryview(bytearray(layout.size_of(CAPACITY))))
    with pytest.raises(RingNotReady):
        layout.check(laid_out(W_READY=0, W_ABI=999))


@pytest.mark.parametrize("capacity", [0, 1, 512, 1000, 1 << 11, 1 << 31, 1 << 63, (1 << 64) - 1])
def test_r3_capacity(capacity: int) -> None:
    """R3 (S03): zero, no power of two, out of range, or larger than the segment."""
    text = f"{capacity} is not|{layout.size_of(capacity)} bytes"
    with pytest.raises(RingCorrupt, match=text):
        layout.check(laid_out(W_CAPACITY=capacity))
    with pytest.raises(RingCorrupt, match=text):
        layout.initialise(memoryview(bytearray(layout.size_of(CAPACITY))), capacity)


@pytest.mark.parametrize(
    ("released", "head", "tail"),
    [
        (8, 8, 0),
        (0, 8, 0),
        (8, 0, 8),
        (0, 0, CAPACITY + 8),
        (0, 0, 4),
        (1, 8, 8),
        (0, 2, 8),
        (1 << 63, 1 << 63, 1 << 63),
    ],
)
@pytest.mark.parametrize("end", [Writer, Reader])
def test_r3_contradictory_positions(
    released: int, head: int, tail: int, end: Callable[[memoryview], object]
) -> None:
    """R3 (S06)."""
    memory = laid_out(W_RELEASED=released, W_HEAD=head, W_TAIL=tail)
    with pytest.raises(RingCorrupt, match="contradict"):
        end(memory)


def test_a_ring_in_a_larger_segment_has_its_own_capacity() -> None:
    """R1: the capacity is the header's; a mapping may be rounded up to whole pages."""
    memory = memoryview(bytearray(4096 * 3))
    layout.initialise(memory, CAPACITY)
    assert Writer(memory).capacity == Reader(memory).capacity == CAPACITY


def used_ring(rng: random.Random) -> memoryview:
    """A ring with three released records, five published ones, and a lap's end between."""
    at = 7 * CAPACITY + rng.randrange(0, CAPACITY, 8)
    memory = laid_out(W_TAIL=at, W_HEAD=at, W_RELEASED=at)
    writer, reader = Writer(memory), Reader(memory)
    for count in (3, 5):
        for number in range(count):
            assert writer.append(2, number, 1, 2, rng.randbytes(rng.randrange(97)))
        writer.publish()
        if count == 3:
            reader.release(reader.poll()[-1].end)
    return memory


def exercise(memory: memoryview) -> None:
    """Do what both ends do with a ring, once round."""
    reader = Reader(memory)
    for record in reader.poll():
        assert len(record.payload) <= layout.max_payload(CAPACITY)
        assert bytes(record.payload) is not None
    reader.release(reader.position)
    if reader.sleep():
        reader.wake()
    writer = Writer(memory)
    writer.wait()
    for _ in range(12):
        writer.append(2, 1, 0, 0, b"next")
    writer.publish()
    reader.poll()


def flip(memory: memoryview, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 2, 8))):
        end = rng.choice((64, layout.DATA, len(memory)))
        memory[rng.randrange(end)] ^= 1 << rng.randrange(8)


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bits_are_refused_or_harmless(seed: int) -> None:
    """R1, R3-R5 (S06, S08, S10): typed errors only, bounded reads, before and after attaching."""
    rng = random.Random(seed)
    pristine = bytes(used_ring(rng))
    memory = memoryview(bytearray(pristine))
    refused = 0
    for _ in range(FLIPS // 4):
        memory[:] = pristine
        reader, writer = Reader(memory), Writer(memory)
        flip(memory, rng)
        try:
            reader.poll()
            reader.release(reader.position)
            for _ in range(3):
                writer.append(2, 1, 0, 0, bytes(96))
            writer.publish()
            exercise(memory)
        except RingError:
            refused += 1
    assert 0 < refused < FLIPS // 4


def test_r5_a_record_that_never_comes_is_an_error_in_the_end() -> None:
    """R5: looks are bounded (S08): a tail that passed a missing record is corruption."""
    memory = laid_out(W_TAIL=64)
    reader = Reader(memory)
    with memory.cast("Q") as words:
        words[layout.W_DATA] = 1 << 32
    for _ in range(PATIENCE):
        assert reader.poll() == []
        assert not reader.sleep()
    with pytest.raises(RingCorrupt, match="no record at 0"):
        reader.poll()


@pytest.mark.parametrize("size", [97, 0x7FFF_FFFF, 0x8000_0008, 0xFFFF_FFFF, 0x8000_0000])
def test_r4_an_impossible_size_is_refused(size: int) -> None:
    """R4 (S08): larger than a record may be, than the ring, than what was published."""
    memory = laid_out(W_TAIL=64)
    with memory.cast("Q") as words:
        words[layout.W_DATA] = size
    with pytest.raises(RingCorrupt, match="impossible"):
        Reader(memory).poll()
