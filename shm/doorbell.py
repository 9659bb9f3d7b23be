"""A doorbell: one file descriptor that a producer writes to and a sleeping consumer waits on.

An eventfd on Linux (one descriptor, one counter), a non-blocking pipe elsewhere. It can be
pickled while a child process is being started, which hands the descriptors over.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from multiprocessing import reduction
from typing import Any

_ONE = (1).to_bytes(8, sys.byteorder)  # what an eventfd takes
_PIPE_BYTES = 1 << 16  # what a pipe holds at most: one read empties it


class Doorbell:
    """Rung any number of times, heard once; ringing never blocks."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        """Own both descriptors (the same one twice for an eventfd)."""
        self._read_fd = read_fd
        self._write_fd = write_fd

    @classmethod
    def create(cls) -> Doorbell:
        """Return a new doorbell. Raises `OSError` when out of descriptors."""
        if hasattr(os, "eventfd"):
            fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            return cls(fd, fd)
        read_fd, write_fd = os.pipe()
        os.set_blocking(read_fd, False)
        os.set_blocking(write_fd, False)
        return cls(read_fd, write_fd)

    def fileno(self) -> int:
        """The descriptor that becomes readable."""
        return self._read_fd

    def ring(self) -> None:
        """Wake whoever waits. A full pipe or counter already does."""
        with suppress(BlockingIOError):
            os.write(self._write_fd, _ONE)

    def clear(self) -> None:
        """Take all rings so far, so that the descriptor waits for the next."""
        with suppress(BlockingIOError):
            os.read(self._read_fd, _PIPE_BYTES)

    def close(self) -> None:
        """Close the descriptors."""
        os.close(self._read_fd)
        if self._write_fd != self._read_fd:
            os.close(self._write_fd)

    def __reduce__(self) -> tuple[Any, ...]:
        """Hand duplicates of the descriptors to a process that is being started."""
        read = reduction.DupFd(self._read_fd)
        write = read if self._write_fd == self._read_fd else reduction.DupFd(self._write_fd)
        return _received, (read, write)


def _received(read: Any, write: Any) -> Doorbell:
    read_fd = read.detach()
    return Doorbell(read_fd, read_fd if write is read else write.detach())
