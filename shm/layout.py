"""Layout of a ring in shared memory, and the rules that both of its ends keep.

One ring has one producer and one consumer (SPSC). Everything below holds for any piece of
memory, a `bytearray` in a test as well as a mapped segment. Tests cite the rules by number.

R1   The header is `magic | abi, flags | capacity | producer epoch | consumer epoch |
     owner pid | owner start time | ready`, one 8-byte word each. `ready` is stored last.
     Attaching refuses anything else: `RingNotReady`, `RingVersionMismatch`, `RingCorrupt`.
R2   The producer's words (`tail`, `heartbeat`, `number`, `waiting`, `poison`) and the
     consumer's (`head`, `released`, `sleeping`, `heartbeat`, `poison`) lie on 128-byte lines of
     their own, and each word has one writer.
R3   Positions are bytes and only ever grow; the index is `position & (capacity - 1)`, the
     capacity a power of two. `0 <= tail - released <= capacity` is checked on attach.
R4   A record is a commit word, a 24-byte header and a payload, 8-aligned, and never wraps:
     what is left of a lap becomes a PAD record. The largest record is capacity / 8; what
     is larger is cut into fragments marked BEGIN and END.
R5   The commit word is the payload's size (lower half; bit 31 marks a PAD) and the record's
     position / 8 (upper half, modulo 2**32). A record is accepted only if its upper half is
     the position it was found at, so that stale bytes of an earlier lap are never taken for
     a record and no byte has to be zeroed.
R6   Publishing is payload, header, commit word of each record, and then one store of
     `tail` for the whole batch. That store is the transaction boundary.
R7   The producer keeps a copy of `released` and reads the word again only when the copy
     says that the ring is full. Full is an answer (`False`), never a wait.
R8   Payloads are handed out as views that are valid until `release`; `release` refuses
     while a lease is open.
R9   A doorbell is rung only for a consumer that said it sleeps: it sets `sleeping`, fences,
     looks at `tail` again, and sleeps 20 ms at most (250 ms while no stream is open). The
     producer stores `tail`, fences, and looks at `sleeping`. The word is odd during a sleep
     and only ever grows, across hand-overs too: each sleep is rung for once, and none is
     taken for an earlier one.
R10  A dead producer leaves at most unpublished bytes after `tail`; a successor starts there.
R11  A dead consumer's successor starts at `released`.
R12  Every hand-over of a side raises its epoch; who finds a foreign one stops (`Fenced`). So
     does a producer that finds another one's number: each that attaches takes the next.
R13  Nothing is dropped: a full ring stops its producer, and how often is counted.
R14  Ring code does no I/O and knows no clock; it is given memory and returns values.
R15  Segments are called `rc-<uid>-<random>-<n>` (30 characters at most, macOS allows 31), have
     mode 0600, and get their pages before use.
R16  Counters live in a page of single-writer words, so that figures cross no socket.
R17  Who finds a word or a record that contradicts these rules stores `poison` and raises
     `RingCorrupt`. Nobody attaches to a poisoned ring: its owner makes another in its place.

Ordering: every cursor and commit word is one aligned 8-byte store through
`memoryview.cast("Q")`, which CPython compiles to a single move. x86-64 keeps stores in
order, so R6 needs nothing more there; elsewhere `fence` stands before the store of `tail`
and after its load. The store-then-load of R9 needs a fence on every machine.
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable
from typing import Final

from ringcast.errors import RingCorrupt, RingNotReady, RingVersionMismatch

MAGIC: Final = int.from_bytes(b"ringcast", "little")
ABI: Final = 1

# word offsets (8 bytes each)
W_MAGIC: Final = 0
W_ABI: Final = 1
W_CAPACITY: Final = 2
W_PRODUCER_EPOCH: Final = 3
W_CONSUMER_EPOCH: Final = 4
W_OWNER_PID: Final = 5
W_OWNER_START: Final = 6
W_READY: Final = 7
# 128 and not 64: adjacent-line prefetch pairs two lines, and Apple's lines are 128 bytes.
W_TAIL: Final = 16
W_PRODUCER_BEAT: Final = 17
W_NUMBER: Final = 18
W_WAITING: Final = 19
W_PRODUCER_POISON: Final = 20
W_HEAD: Final = 32
W_RELEASED: Final = 33
W_SLEEPING: Final = 34
W_CONSUMER_BEAT: Final = 35
W_CONSUMER_POISON: Final = 36
DATA: Final = 384
W_DATA: Final = DATA // 8

COMMIT: Final = 8
HEADER: Final = 32
WORD: Final = 0xFFFF_FFFF_FFFF_FFFF
PAD_BIT: Final = 0x8000_0000
SEQ_BITS: Final = 0xFFFF_FFFF_0000_0000
MIN_CAPACITY: Final = 1 << 10
MAX_CAPACITY: Final = 1 << 30

STRONG_ORDER: Final = platform.machine().lower() in {"x86_64", "amd64", "i686", "i386"}

_barrier = threading.Lock()


def fence() -> None:
    """Order all earlier loads and stores before all later ones.

    Taking and leaving a lock is a locked instruction on x86-64 (111 ns); elsewhere two
    rounds keep an earlier store from meeting a later one inside the critical section.
    """
    with _barrier:
        pass
    if not STRONG_ORDER:
        with _barrier:
            pass


def _nothing() -> None:
    """Stand in for a fence where the processor keeps the order by itself."""


order: Callable[[], None] = _nothing if STRONG_ORDER else fence
"""Order stores among themselves and loads among themselves (free on x86-64)."""


def size_of(capacity: int) -> int:
    """Return the bytes of memory that a ring of `capacity` bytes needs."""
    return DATA + capacity


def max_payload(capacity: int) -> int:
    """Return the largest payload of one record (R4)."""
    return capacity // 8 - HEADER


def initialise(memory: memoryview, capacity: int, *, pid: int = 0, start_time: int = 0) -> None:
    """Lay an empty ring out in `memory`, storing `ready` last (R1).

    Raises `RingCorrupt` if `capacity` is no power of two in range or `memory` is too small.
    """
    _check_capacity(capacity, len(memory))
    words = memory[: len(memory) & -8].cast("Q")
    words[W_READY] = 0
    order()
    for word in range(W_DATA):
        words[word] = 0
    words[W_MAGIC] = MAGIC
    words[W_ABI] = ABI
    words[W_CAPACITY] = capacity
    words[W_PRODUCER_EPOCH] = 1
    words[W_CONSUMER_EPOCH] = 1
    words[W_OWNER_PID] = pid
    words[W_OWNER_START] = start_time
    order()
    words[W_READY] = 1
    words.release()


def check(memory: memoryview) -> int:
    """Return the capacity of the ring in `memory`, or say why it is none (R1, R3)."""
    if len(memory) < DATA + MIN_CAPACITY:
        raise RingCorrupt(f"segment of {len(memory)} bytes is too small for a ringcast ring")
    with memory[:DATA].cast("Q") as words:
        ready = words[W_READY]
        order()  # what was stored before `ready` is read after it
        magic, abi, capacity = words[W_MAGIC], words[W_ABI], words[W_CAPACITY]
        # The other end may be at work: read its positions against the order it stores them in.
        released = words[W_RELEASED]
        order()
        head = words[W_HEAD]
        order()
        tail = words[W_TAIL]
        poison = words[W_PRODUCER_POISON] | words[W_CONSUMER_POISON]
    if magic not in (0, MAGIC) or (ready and not magic):
        raise RingCorrupt("segment is not a ringcast ring (wrong magic)")
    if not ready:
        raise RingNotReady("ring is not ready yet: its creator has not finished it")
    if abi != ABI:
        raise RingVersionMismatch(f"ring has layout {abi}, this ringcast has {ABI}")
    _check_capacity(capacity, len(memory))
    _check_positions(released, head, tail, capacity)
    if poison:
        raise RingCorrupt("ring was found corrupt before, and is to be replaced")
    return capacity


def _check_positions(released: int, head: int, tail: int, capacity: int) -> None:
    # A position of 63 bits is not reached in centuries; one beyond cannot be added to.
    aligned = not (released | head | tail) & 7
    if not (aligned and released <= head <= tail <= released + capacity and tail >> 63 == 0):
        raise RingCorrupt(
            f"ring positions contradict each other: released {released}, head {head}, tail {tail}"
        )


def _check_capacity(capacity: int, available: int) -> None:
    if capacity & (capacity - 1) or not MIN_CAPACITY <= capacity <= MAX_CAPACITY:
        raise RingCorrupt(
            f"ring capacity {capacity} is not a power of two in {MIN_CAPACITY}..{MAX_CAPACITY}"
        )
    if size_of(capacity) > available:
        raise RingCorrupt(f"ring needs {size_of(capacity)} bytes, the segment has {available}")
