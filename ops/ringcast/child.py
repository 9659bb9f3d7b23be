"""The first lines of every child: die with the parent, take no signal by default."""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import multiprocessing
import os
import resource
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
LARGE: Final = 1 << 20
GC_ALLOCATIONS: Final = 20_000


def enter(name: str) -> None:
    """Prepare this process: name it, bind it to its parent, silence terminal signals.

    SIGINT belongs to the supervisor (a terminal sends it to the whole group), SIGHUP is
    ignored, SIGUSR1 prints all stacks, and no core file will ever hold a key.
    """
    # Tokens make tuples and no cycles: the default of 700 would look through them, and what
    # is kept of the log, tens of times a second.
    gc.set_threshold(GC_ALLOCATIONS, 20, 50)
    signal.set_wakeup_fd(-1)  # the supervisor's, inherited by the fork
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        libc.prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)
        _give_back(libc)
    parent = multiprocessing.parent_process()
    if parent is None or os.getppid() != parent.pid:  # it died before PDEATHSIG was set
        os._exit(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    faulthandler.register(signal.SIGUSR1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _give_back(libc: ctypes.CDLL) -> None:
    """Have large memory given back when it is freed.

    By itself glibc raises what it takes for large up to 32 MiB, and after 30 requests of 5 MB at
    once a broker keeps 150.
    """
    if (mallopt := getattr(libc, "mallopt", None)) is not None:  # musl has none, and no need
        mallopt(_M_MMAP_THRESHOLD, LARGE)
        mallopt(_M_TRIM_THRESHOLD, 2 * LARGE)


def parent_fd() -> int:
    """Return a descriptor that becomes readable when the supervisor is gone.

    The only way to know it on systems without PDEATHSIG.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    return int(parent.sentinel)


def start_time(pid: int) -> int:
    """Return a process's start in clock ticks since boot, 0 if it is dead or not to be seen.

    With the pid it names one process for ever (proc(5), fields 3 and 22 of stat). A zombie
    is dead: whoever should collect it may never do so.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
            return 0 if fields[0] in (b"Z", b"X") else int(fields[19])
    except (OSError, IndexError, ValueError):
        return 0
