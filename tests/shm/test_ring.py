"""The ring rule by rule, in one process on a `bytearray` (R14)."""

from __future__ import annotations

import ast
import inspect
import struct

import pytest

from ringcast.errors import Fenced, FrameTooLarge, RingCorrupt, RingError
from ringcast.shm import layout, ring
from ringcast.shm.layout import DATA, HEADER, PAD_BIT, W_DATA, W_RELEASED, W_TAIL
from ringcast.shm.ring import Reader, Writer, hand_over

CAPACITY = 1 << 10


@pytest.fixture
def memory() -> memoryview:
    view = memoryview(bytearray(layout.size_of(CAPACITY)))
    layout.initialise(view, CAPACITY)
    return view


@pytest.fixture
def writer(memory: memoryview) -> Writer:
    return Writer(memory)


@pytest.fixture
def reader(memory: memoryview) -> Reader:
    return Reader(memory)


def word(memory: memoryview, number: int) -> int:
    value: int = struct.unpack_from("=Q", memory, number * 8)[0]
    return value


def fill(writer: Writer, size: int = 96) -> int:
    """Append until the ring is full; return how many records fitted."""
    count = 0
    while writer.append(2, count, 0, 0, bytes([count]) * size):
        count += 1
    return count


def test_r4_r5_a_record_as_bytes(memory: memoryview, writer: Writer) -> None:
    """R4, R5: size and position in the commit word, then the header, then the payload."""
    writer.append(2, 7, 11, 13, b"first")
    writer.append(3, 0xAABBCCDD, 1 << 63, 5, b"second!", flags=9, count=517)
    second = DATA + 40
    assert word(memory, second // 8) == 7 | (40 // 8) << 32
    header = memory[second + 8 : second + HEADER]
    assert struct.unpack("=BBHIQQ", header) == (3, 9, 517, 0xAABBCCDD, 1 << 63, 5)
    assert bytes(memory[second + HEADER : second + HEADER + 7]) == b"second!"
    assert writer.position == 80


def test_r4_a_record_never_wraps(memory: memoryview, writer: Writer, reader: Reader) -> None:
    """R4: the rest of the lap becomes a PAD, and the record starts the next lap."""
    for _ in range(7):
        writer.append(2, 1, 0, 0, bytes(96))
    writer.publish()
    reader.release(reader.poll()[-1].end)
    writer.append(2, 1, 0, 0, bytes(8))  # 40 of the last 128 bytes
    writer.append(2, 1, 0, 0, b"next lap" * 12)
    writer.publish()
    assert word(memory, W_DATA + (7 * 128 + 40) // 8) == 88 | PAD_BIT | (7 * 128 + 40) // 8 << 32
    first, second = reader.poll()
    assert (first.end, second.end) == (7 * 128 + 40, CAPACITY + 128)
    assert bytes(second.payload) == b"next lap" * 12


def test_a_pad_is_no_record_of_the_limit(writer: Writer, reader: Reader) -> None:
    """`poll(1)` beside a PAD returns the record behind it: empty means that there is none."""
    for size in [*[96] * 7, 8]:
        writer.append(2, 1, 0, 0, bytes(size))
    writer.publish()
    reader.release(reader.poll()[-1].end)
    writer.append(2, 1, 0, 0, bytes(96))
    writer.publish()
    assert len(reader.poll(1)) == 1


def test_r4_too_large_is_the_callers_fault(writer: Writer) -> None:
    assert writer.max_payload == 96
    assert writer.append(2, 1, 0, 0, bytes(96))
    with pytest.raises(FrameTooLarge, match="97 bytes, the ring takes 96"):
        writer.append(2, 1, 0, 0, bytes(97))
    assert writer.position == 128


def test_r6_nothing_is_seen_before_publish(writer: Writer, reader: Reader) -> None:
    writer.append(2, 1, 0, 0, b"one")
    writer.append(2, 2, 0, 0, b"two")
    assert reader.poll() == []
    writer.publish()
    assert [record.stream for record in reader.poll()] == [1, 2]


def test_r7_released_is_read_only_when_the_copy_says_full(
    memory: memoryview, writer: Writer, reader: Reader
) -> None:
    """R7, R13: full is an answer and is counted; the copy may be old, not wrong."""
    assert fill(writer) == CAPACITY // 128
    assert writer.full == 1
    writer.publish()
    records = reader.poll()
    memory[W_RELEASED * 8 : W_RELEASED * 8 + 8] = records[1].end.to_bytes(8, "little")
    assert [writer.append(2, 1, 0, 0, bytes(96)) for _ in range(3)] == [True, True, False]
    assert writer.full == 2


def test_r3_an_impossible_released_is_not_believed(memory: memoryview, writer: Writer) -> None:
    """R3 (S06): else the producer would write over what nobody has read."""
    fill(writer)
    writer.publish()
    memory[W_RELEASED * 8 : W_RELEASED * 8 + 8] = (1 << 40).to_bytes(8, "little")
    with pytest.raises(RingCorrupt, match="released"):
        writer.append(2, 1, 0, 0, b"")
    with pytest.raises(RingCorrupt, match="released"):
        writer.wait()


def test_r3_an_impossible_tail_is_not_believed(memory: memoryview, reader: Reader) -> None:
    """R3 (S06)."""
    for tail in (4, CAPACITY + 8, 1 << 63):
        memory[W_TAIL * 8 : W_TAIL * 8 + 8] = tail.to_bytes(8, "little")
        with pytest.raises(RingCorrupt, match="tail"):
            reader.poll()
    assert reader.position == 0


def test_r8_release_refuses_while_a_lease_is_open(writer: Writer, reader: Reader) -> None:
    writer.append(2, 1, 0, 0, b"held")
    writer.publish()
    (record,) = reader.poll()
    with reader.lease(record) as payload:
        assert bytes(payload) == b"held"
        with pytest.raises(RingError, match="1 leases"):
            reader.release(record.end)
    assert reader.release(record.end) is False


def test_r8_only_what_was_read_is_released_or_read_again(writer: Writer, reader: Reader) -> None:
    for number in range(3):
        writer.append(2, number, 0, 0)
    writer.publish()
    records = reader.poll(2)
    reader.release(records[0].end)
    for position in (0, records[0].end + 4, records[1].end + 32):
        with pytest.raises(RingError):
            reader.release(position)
        with pytest.raises(RingError):
            reader.rewind(position)
    reader.rewind(records[0].end)
    assert [record.stream for record in reader.poll()] == [1, 2]


def test_r9_each_sleep_is_rung_for_once(writer: Writer, reader: Reader) -> None:
    """R9: not awake, not twice, again for the next sleep, and not with records pending."""
    assert not writer.publish()
    for _ in range(3):
        assert reader.sleep()
        writer.append(2, 1, 0, 0)
        assert [writer.publish(), writer.publish()] == [True, False]
        assert not reader.sleep()
        reader.poll()
    assert reader.sleep()
    reader.wake()
    writer.append(2, 1, 0, 0)
    assert not writer.publish()


def test_r9_a_new_consumers_sleep_is_not_an_earlier_one(memory: memoryview, writer: Writer) -> None:
    """R9, R11: sleeps are counted on across hand-overs."""
    for _ in range(3):
        reader = Reader(memory)
        assert reader.sleep()
        assert writer.publish()
        reader.wake()


def test_r7_who_waits_for_room_is_told_once(writer: Writer, reader: Reader) -> None:
    fill(writer)
    writer.publish()
    records = reader.poll()
    assert not reader.release(records[0].end)
    assert not writer.wait(), "there is room by now"
    assert fill(writer) == 1
    assert writer.wait()
    assert [reader.release(records[1].end), reader.release(records[2].end)] == [True, False]


def test_r11_a_new_consumer_tells_who_was_waiting_before(
    memory: memoryview, writer: Writer, reader: Reader
) -> None:
    """R11: the last one may have died between its release and the bell."""
    fill(writer)
    writer.publish()
    assert writer.wait()
    assert reader.release(reader.poll()[0].end)
    successor = Reader(memory)
    assert successor.release(successor.released)


def test_r10_r12_a_fenced_producer_stops(memory: memoryview, writer: Writer) -> None:
    """R10, R12: its unpublished records are nowhere, the successor's are."""
    writer.append(2, 1, 0, 0, b"zombie's")
    hand_over(memory, producer=True)
    successor = Writer(memory)
    with pytest.raises(Fenced):
        writer.publish()
    successor.append(2, 2, 0, 0, b"new")
    successor.publish()
    assert [bytes(record.payload) for record in Reader(memory).poll()] == [b"new"]


def test_r12_a_fenced_consumer_neither_reads_nor_releases(
    memory: memoryview, writer: Writer, reader: Reader
) -> None:
    for number in range(4):
        writer.append(2, number, 0, 0)
    writer.publish()
    end = reader.poll(2)[-1].end
    hand_over(memory, consumer=True)
    with pytest.raises(Fenced):
        reader.poll()
    with pytest.raises(Fenced):
        reader.release(end)
    assert word(memory, W_RELEASED) == 0
    assert len(Reader(memory).poll()) == 4


def test_r12_epochs_belong_to_one_side(memory: memoryview, writer: Writer, reader: Reader) -> None:
    hand_over(memory, consumer=True)
    writer.append(2, 1, 0, 0)
    writer.publish()
    hand_over(memory, producer=True)
    assert len(Reader(memory).poll()) == 1
    with pytest.raises(Fenced):
        reader.poll()


def test_r13_all_that_fits_is_read_and_nothing_else(writer: Writer, reader: Reader) -> None:
    """R13: a full ring keeps every record, and the one refused is the producer's still."""
    count = fill(writer, 5)
    writer.publish()
    records = reader.poll(1000)
    assert [bytes(r.payload) for r in records] == [bytes([n]) * 5 for n in range(count)]


def test_abandoned_records_leave_no_trace(writer: Writer, reader: Reader) -> None:
    """R6: also those past a lap's end, after which the lap must be seen to end again."""
    for _ in range(7):
        writer.append(2, 1, 0, 0, bytes(96))
    writer.publish()
    reader.release(reader.poll()[-1].end)
    writer.append(2, 1, 0, 0, bytes(40))
    writer.append(2, 1, 0, 0, bytes(96))
    writer.abandon()
    sent = [bytes([n]) * 72 for n in range(4)]
    for payload in sent:
        assert writer.append(2, 1, 0, 0, payload)
    writer.publish()
    assert [bytes(record.payload) for record in reader.poll()] == sent


def test_r14_the_ring_knows_no_clock_and_no_files() -> None:
    """R14: what `ring` and `layout` import can neither wait nor talk."""
    allowed = {"__future__", "collections.abc", "contextlib", "msgspec", "platform", "struct"}
    allowed |= {"threading", "typing", "ringcast.errors", "ringcast.shm", "ringcast.shm.layout"}
    for module in (ring, layout):
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.Import):
                assert {name.name for name in node.names} <= allowed
            elif isinstance(node, ast.ImportFrom):
                assert node.module in allowed


def test_closing_gives_every_view_back() -> None:
    """R8 (S16): afterwards the memory can be resized, which Python refuses for a viewed one."""
    block = bytearray(layout.size_of(CAPACITY))
    memory = memoryview(block)
    layout.initialise(memory, CAPACITY)
    writer, reader = Writer(memory), Reader(memory)
    hand_over(memory, producer=True)
    writer.beat(1)
    reader.beat(2)
    with pytest.raises(BufferError):
        block.append(0)
    writer.close()
    reader.close()
    memory.release()
    block.append(0)
    assert block[layout.W_PRODUCER_BEAT * 8] == 1
    assert block[layout.W_CONSUMER_BEAT * 8] == 2
