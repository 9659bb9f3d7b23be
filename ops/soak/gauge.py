"""What the daemon holds at one moment: memory, descriptors, threads, CPU, shared memory."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import psutil

from ringcast import rundir
from ringcast.shm.segment import DIRECTORY


class Usage(msgspec.Struct, frozen=True):
    """One process; memory in bytes, `cpu_s` user and system.

    `uss` is memory that only this process has, `anonymous` all that is its heap and stack. A
    page shared since the fork is in `anonymous` from the start and enters `uss` when either
    side writes to it, so that `uss` may rise while nothing is allocated.
    """

    pid: int
    uss: int
    anonymous: int
    fds: int
    threads: int
    cpu_s: float


class Sample(msgspec.Struct, frozen=True):
    """All of the daemon. `at` is seconds of CLOCK_MONOTONIC, `tokens` what clients checked.

    `shm_bytes` is what the `segments` of this daemon occupy in /dev/shm.
    """

    at: float
    tokens: int
    processes: dict[str, Usage]
    shm_bytes: int
    segments: int

    @property
    def counts(self) -> dict[str, int]:
        """What must not grow at all, by name."""
        rows = {"shm_bytes": self.shm_bytes, "segments": self.segments}
        for role, usage in self.processes.items():
            rows |= {f"{role} fds": usage.fds, f"{role} threads": usage.threads}
        return rows


class Gauge:
    """Reads one daemon. Processes are named by role and index, `worker 0`."""

    def __init__(self, run_dir: Path) -> None:
        """Find the daemon of `run_dir`. Raises `NotRunning`."""
        self._run_dir = run_dir
        self._known: dict[int, psutil.Process] = {}
        # A segment that state.json no longer lists is one to count, so count by their name.
        self._family = rundir.running(run_dir).segments[0].rpartition("-")[0]

    def read(self, tokens: int) -> Sample:
        """Sample everything. Raises `NotRunning`, and `psutil.NoSuchProcess` in a restart."""
        state = rundir.running(self._run_dir)
        pids = {"supervisor": state.pid}
        pids |= {f"{one.role} {one.index}": one.pid for one in state.processes}
        processes = {role: self._usage(pid) for role, pid in pids.items()}
        sizes = [path.stat().st_blocks * 512 for path in DIRECTORY.glob(f"{self._family}-*")]
        return Sample(time.monotonic(), tokens, processes, sum(sizes), len(sizes))

    def deaths(self) -> int:
        """How many of the daemon's processes had to be replaced."""
        return sum(one.restarts for one in rundir.running(self._run_dir).processes)

    def _usage(self, pid: int) -> Usage:
        process = self._known.setdefault(pid, psutil.Process(pid))
        memory, cpu = process.memory_full_info(), process.cpu_times()
        return Usage(
            pid,
            memory.uss,
            memory.rss - memory.shared,
            process.num_fds(),
            process.num_threads(),
            cpu.user + cpu.system,
        )
