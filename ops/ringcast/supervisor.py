"""The supervisor: it alone creates segments and starts, watches and stops processes.

Children come from a fork server that has imported everything and done nothing else, so a
worker is ready within milliseconds. A child that dies is replaced; after too many deaths
within a while (`processes.restarts` in `processes.restart_window_s`) the daemon gives up,
which is an error with an exit status and not a loop.

When a worker or a provider process dies, its successor attaches to the same rings and tells
the broker so. When the broker dies everything is stopped and started afresh.
"""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Final

import msgspec

from ringcast import child, rundir
from ringcast.config import Config
from ringcast.errors import StartupError
from ringcast.rundir import ProcessState, State
from ringcast.shm import counters, segment
from ringcast.shm.wiring import Wiring

CRASH_PAUSE_S: Final = 0.05


class Child(msgspec.Struct, dict=True):
    """One running process of a role."""

    role: str
    index: int
    process: ForkServerProcess
    fd: int
    state: ProcessState


class Supervisor:
    """Runs one daemon's processes in the foreground until a signal ends them."""

    def __init__(
        self,
        config: Config,
        run_dir: Path,
        environment: Mapping[str, str],
        *,
        on_change: Callable[[State], None],
        parent_pid: int = 0,
    ) -> None:
        """`environment` holds the key variables; `on_change` is told what runs.

        With `parent_pid` the daemon ends when that process does.
        """
        self._config = config
        self._run_dir = run_dir
        self._environment = dict(environment)
        self._on_change = on_change
        self._parent_pid = parent_pid
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["ringcast.preload"])
        self._children: dict[int, Child] = {}
        self._poll = select.poll()
        self._deaths: deque[float] = deque()
        self._stopping = 0
        self._segments: list[segment.Segment] = []
        self._state = State(
            os.getpid(),
            child.start_time(os.getpid()),
            _version(),
            str(run_dir / rundir.CLIENT_SOCKET),
        )

    def run(self) -> None:
        """Start everything, watch it, and clean up. Raises `StartupError` on giving up."""
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self._poll.register(wake_read, select.POLLIN)
        try:
            self._start_all()
            self._watch(wake_read)
        finally:
            self._stop_all()
            signal.set_wakeup_fd(-1)
            os.close(wake_read)
            os.close(wake_write)

    def _on_signal(self, *_: object) -> None:
        self._stopping += 1

    def _start_all(self) -> None:
        counts = self._config.processes
        rings = self._config.rings
        self._wiring = Wiring(
            counts.providers, counts.workers, rings.in_bytes, rings.out_bytes, segment.family()
        )
        self._segments = self._wiring.create(self._state.pid, self._state.start_time)
        self._state.segments = [one.name for one in self._segments]
        self._changed()
        number = self._wiring.block("supervisor", 0)
        self._block = counters.Block(
            self._segments[0].memory, number, "supervisor", pid=os.getpid()
        )
        self._start("broker", 0)
        for index in range(counts.workers):
            self._start("worker", index)
        for index in range(counts.providers):
            self._start("provider", index)
        self._state.status = "running"
        self._changed()

    def _start(self, role: str, index: int, restarts: int = 0) -> None:
        """Start a process and wait for its READY. Raises `StartupError` if none comes."""
        reading, writing = self._context.Pipe(duplex=False)
        target, arguments = self._target(role, index, writing)
        process = self._context.Process(target=target, args=arguments, name=f"{role}-{index}")
        began = time.monotonic()
        process.start()
        writing.close()
        pid = process.pid
        assert pid is not None
        ready = reading.poll(self._config.processes.ready_s)
        try:
            if not ready:
                raise EOFError
            reading.recv()
        except EOFError:
            process.kill()
            process.join()
            raise StartupError(
                f"{role} {index} was not ready within {self._config.processes.ready_s:g} s "
                f"(processes.ready_s), or died; its error is above"
            ) from None
        finally:
            reading.close()
        ready_ms = (time.monotonic() - began) * 1000
        fd = _death_fd(process)
        state = ProcessState(role, index, pid, restarts, round(ready_ms, 1))
        self._children[fd] = Child(role, index, process, fd, state)
        self._poll.register(fd, select.POLLIN)
        self._changed()

    def _target(
        self, role: str, index: int, ready: Connection
    ) -> tuple[Callable[..., None], tuple[Any, ...]]:
        # Imported by name in the child; importing them here would cost the supervisor 20 MB.
        config, run_dir = self._config, self._run_dir
        if role == "broker":
            return _broker, (self._wiring, config, run_dir, ready)
        if role == "worker":
            return _worker, (self._wiring, index, ready)
        return _provider, (self._wiring, index, config, run_dir, self._environment, ready)

    def _watch(self, wake: int) -> None:
        while not self._stopping:
            for fd, _ in self._poll.poll(1000):
                if fd == wake:
                    with suppress(BlockingIOError):
                        os.read(wake, 512)
                elif fd in self._children:
                    self._replace(self._forget(fd))
            self._block.beat(time.monotonic_ns())
            if self._parent_pid and not _alive(self._parent_pid):
                return

    def _forget(self, fd: int) -> Child:
        dead = self._children.pop(fd)
        self._poll.unregister(fd)
        dead.process.join(1)
        if fd != dead.process.sentinel:
            os.close(fd)
        return dead

    def _replace(self, dead: Child) -> None:
        """Put a new process in a dead one's place, as long as the budget lasts."""
        status = dead.process.exitcode
        print(
            f"ringcast: {dead.role} {dead.index} (pid {dead.state.pid}) ended with {status}; "
            "starting another",
            file=sys.stderr,
        )
        counts = self._config.processes
        now = time.monotonic()
        self._deaths.append(now)
        while self._deaths and self._deaths[0] < now - counts.restart_window_s:
            self._deaths.popleft()
        if len(self._deaths) > counts.restarts:
            self._state.status = "gave up"
            self._changed()
            raise StartupError(
                f"{len(self._deaths)} processes died within {counts.restart_window_s:g} s "
                "(processes.restarts); giving up"
            )
        self._block.add(self._block.slot("restarts"))
        if len(self._deaths) > 1:
            time.sleep(CRASH_PAUSE_S * 2 ** min(len(self._deaths), 6))
        if dead.role == "broker":
            self._stop_children()
            self._remove_segments()
            restarts = dead.state.restarts + 1
            self._start_all()
            for one in self._children.values():
                if one.role == "broker":
                    one.state.restarts = restarts
            self._changed()
        else:
            self._start(dead.role, dead.index, dead.state.restarts + 1)

    def _stop_all(self) -> None:
        self._state.status = "stopping"
        self._changed()
        self._stop_children()
        self._remove_segments()

    def _stop_children(self) -> None:
        """Stop in the order in which data flows, so that each empties what it still has."""
        for role in ("broker", "provider", "worker"):
            group = [one for one in self._children.values() if one.role == role]
            for one in group:
                with suppress(ProcessLookupError):
                    os.kill(one.state.pid, signal.SIGTERM)
            deadline = time.monotonic() + self._config.processes.stop_s
            for one in group:
                while one.process.is_alive() and time.monotonic() < deadline:
                    one.process.join(0.05)
                    if self._stopping > 1:  # a second signal: no more patience
                        break
                if one.process.is_alive():
                    one.process.kill()
                    one.process.join(1)
                self._forget(one.fd)

    def _remove_segments(self) -> None:
        if not self._segments:
            return
        self._block.close()
        for one in self._segments:
            one.close()
            one.unlink()
        self._segments = []
        self._wiring.close()

    def _changed(self) -> None:
        self._state.processes = [one.state for one in self._children.values()]
        self._on_change(self._state)


def _broker(*arguments: Any) -> None:
    from ringcast.broker import process

    process.run(*arguments)


def _worker(*arguments: Any) -> None:
    from ringcast.workers import process

    process.run(*arguments)


def _provider(*arguments: Any) -> None:
    from ringcast.providers import process

    process.run(*arguments)


def _death_fd(process: ForkServerProcess) -> int:
    """Return a descriptor that becomes readable when the process ends: a pidfd on Linux."""
    if hasattr(os, "pidfd_open"):
        with suppress(ProcessLookupError):
            assert process.pid is not None
            return os.pidfd_open(process.pid)
    return int(process.sentinel)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _version() -> str:
    from ringcast import __version__

    return __version__
