"""Words that several processes write: rows, each behind a lock that dies with its holder.

W1   The table is 256 rows of 64 signed 64-bit words, and one more row for itself. A row starts
     with the hash of its name (0: free) and the stamp of its last use; the rest is its user's.
W2   A row is looked for from `hash % 256` on, up to itself or a free row. Rows never become
     free again, so that no search ends too early.
W3   Who wants a row holds a record lock (fcntl, POSIX) on the row's own bytes in the segment's
     file. The kernel keeps it for the process and releases it when that dies, however it does;
     there is nothing to mend. An flock could not: it has no ranges, so each of 256 rows would
     need a file, and a fork shares it. Nobody may rely on a lock within one process.
W4   A lock is tried for 5 times, 50 µs apart, and never waited for: a holder that was stopped
     (SIGSTOP) must not stop another one's loop. Then it is `RowBusy`.
W5   A new row is made under the lock of the table's own row. In a full table it takes the place
     of the least recently used one; those that are kept come last.
W6   A process that is killed within a row leaves some words stored and others not. So each
     word must mean something by itself, and a new row's hash is stored last.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from hashlib import blake2b
from typing import Final, Protocol

from ringcast.errors import RingError
from ringcast.shm import segment

ROWS: Final = 256
ROW: Final = 64
ROW_BYTES: Final = ROW * 8
TABLE_BYTES: Final = (ROWS + 1) * ROW_BYTES
USER_WORDS: Final = ROW - 2
_TABLE: Final = ROWS  # the row that belongs to the table: its first word counts uses
_KEPT: Final = 1 << 62
_ATTEMPTS: Final = 5
_PAUSE_S: Final = 50e-6


class RowBusy(RingError):
    """Another process holds the row; ask again in some milliseconds."""


class Locks(Protocol):
    """Locks by number, one for each row and one for the table."""

    def take(self, row: int) -> None:
        """Take the lock of `row`. Raises `RowBusy`."""

    def leave(self, row: int) -> None:
        """Release it."""

    def close(self) -> None:
        """Give back what the locks are made of."""


class RecordLocks:
    """Record locks on the rows' bytes of a segment's file (W3)."""

    def __init__(self, name: str) -> None:
        """Open the file of the segment `name`, which exists. Raises `OSError`."""
        self._fd = os.open(segment.DIRECTORY / name, os.O_RDWR | os.O_CLOEXEC)

    def take(self, row: int) -> None:
        """Take the lock of `row`. Raises `RowBusy` (W4)."""
        for _ in range(_ATTEMPTS):
            try:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, ROW_BYTES, row * ROW_BYTES)
            except (BlockingIOError, PermissionError):  # POSIX leaves the choice to the system
                time.sleep(_PAUSE_S)
            else:
                return
        raise RowBusy(f"row {row} is held by another process")

    def leave(self, row: int) -> None:
        """Release the lock of `row`."""
        fcntl.lockf(self._fd, fcntl.LOCK_UN, ROW_BYTES, row * ROW_BYTES)

    def close(self) -> None:
        """Close the file, and with it all locks."""
        os.close(self._fd)


class NoLocks:
    """For a table that one process has to itself."""

    def take(self, row: int) -> None:
        """Nobody else is there."""

    def leave(self, row: int) -> None:
        """Nobody waits for it."""

    def close(self) -> None:
        """Nothing is held."""


class SharedWords:
    """The table in `memory`, zeroed before its first use, of `TABLE_BYTES`."""

    def __init__(self, memory: memoryview, locks: Locks) -> None:
        """Use `attach` for the daemon's own table, `private` for one without other processes."""
        self._words = memory[:TABLE_BYTES].cast("q")
        self._locks = locks
        self._segment: segment.Segment | None = None

    @classmethod
    def attach(cls, name: str) -> SharedWords:
        """Use the table in the segment `name`. Raises `SegmentRefused`."""
        attached = segment.attach(name)
        words = cls(attached.memory, RecordLocks(name))
        words._segment = attached
        return words

    @classmethod
    def private(cls) -> SharedWords:
        """Return an empty table on the heap."""
        return cls(memoryview(bytearray(TABLE_BYTES)), NoLocks())

    @contextmanager
    def row(self, name: str, *, keep: bool = False) -> Iterator[memoryview]:
        """Hold the row of `name`: `USER_WORDS` words ("q"), all 0 in a new one.

        It is only lent. A row to `keep` is given up after all others. Rows of several names may
        be held at once. Raises `RowBusy`, and then nothing is held.
        """
        row = self._take(_hash(name), keep)
        try:
            with self._words[row * ROW + 2 : (row + 1) * ROW] as words:
                yield words
        finally:
            self._locks.leave(row)

    def _take(self, key: int, keep: bool) -> int:
        """Lock the row of `key`, made if need be, and note its use."""
        words = self._words
        row = self._find(key)
        if row is None:
            row = self._make(key)
        else:
            self._locks.take(row)
            if words[row * ROW] != key:  # given up for another between the look and the lock
                self._locks.leave(row)
                row = self._make(key)
        # Two processes may count the same use: of two stamps one is the younger, or neither.
        use = words[_TABLE * ROW] = (words[_TABLE * ROW] + 1) % _KEPT
        stamp = row * ROW + 1
        words[stamp] = use | (_KEPT if keep or words[stamp] & _KEPT else 0)
        return row

    def _find(self, key: int) -> int | None:
        """Return the row of `key`, if there is one (W2)."""
        words = self._words
        for step in range(key, key + ROWS):
            found = words[step % ROWS * ROW]
            if found == key:
                return step % ROWS
            if not found:
                return None
        return None

    def _make(self, key: int) -> int:
        """Lock a row for `key` that another process may have made meanwhile (W5)."""
        self._locks.take(_TABLE)
        try:
            row = self._find(key)
            if row is None:
                row = self._room(key)
                self._locks.take(row)
                self._clear(row, key)
            else:
                self._locks.take(row)
            return row
        finally:
            self._locks.leave(_TABLE)

    def _room(self, key: int) -> int:
        """Return the first free row for `key`, else the least recently used one."""
        words = self._words
        for step in range(key, key + ROWS):
            if not words[step % ROWS * ROW]:
                return step % ROWS
        return min(range(ROWS), key=lambda row: words[row * ROW + 1])

    def _clear(self, row: int, key: int) -> None:
        words = self._words
        for word in range(row * ROW + 1, (row + 1) * ROW):
            words[word] = 0
        words[row * ROW] = key

    def close(self) -> None:
        """Give everything back; no row may be held."""
        self._words.release()
        self._locks.close()
        if self._segment is not None:
            self._segment.close()


@lru_cache(1024)
def _hash(name: str) -> int:
    """Return 64 bits for a name, the same in every process, and never 0."""
    digest = blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True) or 1
