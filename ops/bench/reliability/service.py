"""A daemon in a directory of its own: started, struck, started again there, ended.

Signals go through pidfds, to processes that are known to be its own: a number in a state
file may be another process's by the time it is read.
"""

from __future__ import annotations

import asyncio
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import psutil

from ringcast import rundir
from ringcast.broker.client import connect
from ringcast.errors import NotRunning, StartupError
from ringcast.rundir import State
from ringcast.shm import segment

PATIENCE_S: Final = 30.0
LOOK_S: Final = 0.005
KEY: Final = "RINGCAST_BENCH_KEY"
CONFIG: Final = """
[providers.mock]
kind = "openai"
base_url = "http://127.0.0.1:{port}/v1"
key = {{ env = "{key}" }}
[processes]
restarts = 1000000
[usage]
keep = false
"""
IN_USE: Final = {*rundir.SOCKETS, rundir.STATE, rundir.LOCK}


class Victim:
    """One process of a daemon."""

    def __init__(self, pid: int, supervisor: int) -> None:
        """Take hold of a child of `supervisor`. Raises `ProcessLookupError`."""
        self.pid = pid
        self._fd = os.pidfd_open(pid)
        try:  # held by now, so what is read of it is not another's
            parent = psutil.Process(pid).ppid()
        except psutil.NoSuchProcess:
            parent = 0
        if parent != supervisor:
            os.close(self._fd)
            raise ProcessLookupError(f"process {pid} is no child of {supervisor}")

    def strike(self, number: signal.Signals) -> None:
        """Send a signal. Raises `ProcessLookupError` if it has ended and been collected."""
        signal.pidfd_send_signal(self._fd, number)

    async def ended(self) -> bool:
        """Wait for its end, for `PATIENCE_S` at most; say whether it came."""
        ready, _, _ = await asyncio.to_thread(select.select, [self._fd], [], [], PATIENCE_S)
        return bool(ready)

    def close(self) -> None:
        """Let go of it."""
        os.close(self._fd)


class Service:
    """The daemon. `run_dir` stays the same whenever it is started again."""

    def __init__(self, place: Path, port: int) -> None:
        """Be about to serve from `place` with one provider, `mock`, at `port`."""
        self.run_dir = place / "run"
        self._place = place
        self._child: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        (place / "config.toml").write_text(CONFIG.format(port=port, key=KEY))

    def start(self) -> None:
        """Start it; `answers` waits until it is there."""
        command = [sys.executable, "-P", "-m", "ringcast", "serve"]
        command += ["--run-dir", str(self.run_dir), "--config", str(self._place / "config.toml")]
        command += ["--parent-pid", str(os.getpid())]
        self._started = time.monotonic()
        with (self._place / "stderr").open("ab") as said:
            self._child = subprocess.Popen(command, stderr=said, env=os.environ | {KEY: "none"})

    async def answers(self) -> None:
        """Wait until a HELLO is answered. Raises `StartupError` if it ends instead."""
        while True:
            with suppress(NotRunning):
                async with connect(self.run_dir, name="reliability"):
                    return
            await self._still_to_come()

    async def complete(self) -> None:
        """Wait until all its processes are ready. Raises `StartupError` if it ends instead."""
        assert self._child is not None
        while True:
            state = rundir.read(self.run_dir)
            if state is not None and (state.pid, state.status) == (self._child.pid, "running"):
                return
            await self._still_to_come()

    async def _still_to_come(self) -> None:
        assert self._child is not None
        if self._child.poll() is not None or time.monotonic() > self._started + PATIENCE_S:
            raise StartupError(f"the daemon did not start: {self.said[-500:]}")
        await asyncio.sleep(LOOK_S)

    @property
    def said(self) -> str:
        """All that it wrote to its standard error."""
        return (self._place / "stderr").read_text()

    @property
    def state(self) -> State:
        """What runs. Raises `NotRunning`."""
        return rundir.running(self.run_dir)

    @property
    def pids(self) -> dict[str, int]:
        """The supervisor's children by role. Raises `NotRunning`."""
        return {one.role: one.pid for one in self.state.processes}

    def victim(self, role: str) -> Victim:
        """Take hold of the process of a role. Raises `ProcessLookupError`."""
        return Victim(self.pids[role], self.state.pid)

    async def replaced(self, role: str, pid: int) -> None:
        """Wait until another process has the place of `pid`. Raises `StartupError`."""
        deadline = time.monotonic() + PATIENCE_S
        while self.pids.get(role, pid) == pid:
            if time.monotonic() > deadline:
                raise StartupError(f"no other {role} came within {PATIENCE_S:g} s")
            await asyncio.sleep(LOOK_S)

    def kill(self) -> None:
        """Kill the supervisor, and with it everything, as `kill -9` does."""
        assert self._child is not None
        self._child.kill()
        self._child.wait()

    def left_of(self, state: State) -> list[str]:
        """Name what is still there of a daemon that has ended and, maybe, its successor swept."""
        family = state.segments[0].rpartition("-")[0]
        left = [f"segment {path.name}" for path in segment.DIRECTORY.glob(f"{family}-*")]
        in_use = IN_USE if self._child is not None and self._child.poll() is None else set()
        files = {path.name for path in self.run_dir.iterdir()}
        return left + [f"file {name}" for name in sorted(files - in_use)]

    def stop(self) -> list[str]:
        """End it as its user would; name everything that is not as it must be then."""
        assert self._child is not None
        if (status := self._child.poll()) is not None:
            return [f"the daemon had ended with {status}: {self.said[-2000:]}"]
        state = self.state
        victims = [Victim(one.pid, state.pid) for one in state.processes]
        self._child.terminate()
        try:
            status = self._child.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            return [f"the daemon did not end within {PATIENCE_S:g} s"]
        faults = [f"the daemon ended with {status}"] if status else []
        faults += [f"{what} was left behind" for what in self.left_of(state)]
        for one in victims:
            if not asyncio.run(one.ended()):
                faults.append(f"process {one.pid} was left behind")
            one.close()
        if "Traceback" in self.said:
            faults.append(f"the daemon said: {self.said[-2000:]}")
        return faults

    def end(self) -> None:
        """Be sure that it is gone, whatever has gone wrong, and its segments with it."""
        if self._child is None or self._child.poll() is not None:
            return
        left = rundir.read(self.run_dir)
        self._child.terminate()
        try:
            self._child.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.kill()
            for name in left.segments if left is not None else ():
                segment.remove(name)


@contextmanager
def service(port: int) -> Iterator[Service]:
    """Serve from a short directory of our own (socket paths have 107 bytes), not yet started."""
    place = Path(tempfile.mkdtemp(prefix="rc-"))
    one = Service(place, port)
    try:
        yield one
    finally:
        one.end()
        shutil.rmtree(place)
