"""Shared-memory segments: created and unlinked by their owner, attached by everybody else.

They are made with the C half of `multiprocessing.shared_memory`. Its Python half would tell
a resource tracker: a process of 7 MB that, before Python 3.13, also unlinks a segment when
some other process that attached to it exits. What a killed owner leaves is removed by the
next start instead. Pages are allocated before use, because a segment larger than the free
shared memory can be created and then kills its user with SIGBUS (R15).
"""

from __future__ import annotations

import _posixshmem
import errno
import mmap
import os
import secrets
import stat
from pathlib import Path
from typing import Final

from ringcast.errors import SegmentRefused, StartupError

PREFIX: Final = "rc"
DIRECTORY: Final = Path("/dev/shm")  # noqa: S108 - where Linux keeps POSIX shared memory
_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz234567"


def family() -> str:
    """Return a new common name for one daemon's segments: uid and 64 random bits (R15)."""
    number = secrets.randbits(64)
    letters = "".join(_ALPHABET[number >> shift & 31] for shift in range(0, 65, 5))
    return f"{PREFIX}-{os.getuid()}-{letters}"


class Segment:
    """A mapped segment. `memory` is the whole of it; `inode` tells it from another of its name."""

    def __init__(self, name: str, mapping: mmap.mmap, inode: int) -> None:
        """Wrap a mapping; use `create` or `attach`."""
        self.name = name
        self.inode = inode
        self._mapping = mapping
        self.memory = memoryview(mapping)

    def close(self) -> None:
        """Unmap. Close readers and writers first and drop the records they returned.

        Raises `BufferError` while views into `memory` are alive; call again without them.
        """
        self.memory.release()
        try:
            self._mapping.close()
        except BufferError:
            raise BufferError(f"segment {self.name}: views into it are still alive") from None


def create(name: str, size: int, *, setting: str) -> Segment:
    """Create a segment of `size` bytes, mode 0600, with all its pages.

    Raises `StartupError` naming the need, what is free and `setting` if there is no room,
    `FileExistsError` if the name is taken: what exists is never opened.
    """
    fd = _posixshmem.shm_open("/" + name, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode=0o600)
    try:
        os.ftruncate(fd, size)
        os.posix_fallocate(fd, 0, size)
        return Segment(name, mmap.mmap(fd, size), os.fstat(fd).st_ino)
    except OSError as error:
        remove(name)
        if error.errno not in (errno.ENOSPC, errno.ENOMEM):
            raise
        raise StartupError(
            f"shared memory is full: {setting} needs {size >> 10} KiB in {DIRECTORY}, "
            f"{_free() >> 10} KiB are free; lower {setting} or enlarge {DIRECTORY} "
            f"(docker: --shm-size)"
        ) from None
    finally:
        os.close(fd)


def _free() -> int:
    try:
        info = os.statvfs(DIRECTORY)
    except OSError:
        return 0
    return info.f_bavail * info.f_frsize


def attach(name: str) -> Segment:
    """Map an existing segment without tracking it.

    Raises `SegmentRefused` if there is none, or if owner or mode are not ours and 0600.
    """
    try:
        fd = _posixshmem.shm_open("/" + name, os.O_RDWR, mode=0)
    except OSError as error:
        raise SegmentRefused(f"segment {name}: {error.strerror}") from None
    try:
        info = os.fstat(fd)
        _check(name, info)
        return Segment(name, mmap.mmap(fd, 0), info.st_ino)
    finally:
        os.close(fd)


def _check(name: str, info: os.stat_result) -> None:
    if info.st_uid != os.getuid():
        raise SegmentRefused(f"segment {name} belongs to uid {info.st_uid}, not {os.getuid()}")
    if stat.S_IMODE(info.st_mode) != 0o600:
        raise SegmentRefused(f"segment {name} has mode {stat.S_IMODE(info.st_mode):o}, not 600")
    if info.st_size == 0:
        raise SegmentRefused(f"segment {name} is empty")


def remove(name: str) -> bool:
    """Unlink a segment by name, which only its owner may; return whether there was one."""
    try:
        _posixshmem.shm_unlink("/" + name)
    except FileNotFoundError:
        return False
    return True
