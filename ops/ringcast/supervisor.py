"""The supervisor: it alone creates segments and starts, watches and stops processes.

It is its own fork server: it imports everything its children need and never makes a thread,
a loop or a ZeroMQ context, so a fork of it is safe and a worker is ready within
milliseconds. (A fork server beside it and Python's resource tracker would cost 21 MB more.)
A child that dies is replaced; after too many deaths within a while (`processes.restarts` in
`processes.restart_window_s`) the daemon gives up, which is an error and not a loop.

The counting process is started when the broker first needs it, if rank files are there; its deaths
end nothing: after too many of them counts are estimates for a while.

When a worker dies, its successor asks the broker where the streams are and goes on with
them. When the broker dies, its successor reads the out-rings and asks everybody. When a
provider process dies its connections are gone: the next one asks again, goes on where the
provider can, or ends the streams.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Final

import msgspec

from ringcast import child, keyring, preload, rundir
from ringcast.config import Config
from ringcast.deaths import Deaths
from ringcast.errors import RunDirError, StartupError
from ringcast.rundir import ProcessState, State
from ringcast.shm import counters, segment
from ringcast.shm.wiring import Wiring

CRASH_PAUSE_S: Final = 0.05
LOOK_MS: Final = 500  # between two looks at heartbeats, the parent and the run directory
YOUNG_S: Final = 0.1  # who dies earlier may die of its birth; others are replaced at once
DESCRIPTORS: Final = 16384
FEWEST: Final = 1024  # the broker must never run out: with 256, bursts were faster than its door


class Child(msgspec.Struct, dict=True):
    """One running process of a role."""

    role: str
    index: int
    process: ForkProcess
    fd: int
    state: ProcessState
    born: float = 0.0


class Supervisor:
    """Runs one daemon's processes in the foreground until a signal ends them."""

    def __init__(
        self,
        config: Config,
        run_dir: Path,
        keys_fd: int,
        *,
        private: Sequence[int],
        on_change: Callable[[State], None],
        parent_pid: int = 0,
    ) -> None:
        """`keys_fd` is for provider processes (see `keyring`), `private` for no child.

        `on_change` is told what runs. With `parent_pid` the daemon ends when that does.
        """
        self._config = config
        self._run_dir = run_dir
        self._keys_fd = keys_fd
        self._private = list(private)
        self._on_change = on_change
        self._parent = parent_pid, child.start_time(parent_pid)
        self._context = multiprocessing.get_context("fork")
        self._children: dict[int, Child] = {}
        self._poll = select.poll()
        counts = config.processes
        self._deaths, self._counter_deaths = (
            Deaths(counts.restarts, counts.restart_window_s) for _ in range(2)
        )
        self._stopping = 0
        self._looked = 0.0
        self._segments: list[segment.Segment] = []
        self._state = State(
            os.getpid(),
            child.start_time(os.getpid()),
            _version(),
            str(run_dir / rundir.CLIENT_SOCKET),
        )

    def run(self) -> None:
        """Start everything, watch it, and clean up. Raises `StartupError` on giving up."""
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_read, False)
        os.set_blocking(wake_write, False)
        self._private += [wake_read, wake_write]
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        faulthandler.register(signal.SIGUSR1)  # prints all stacks; its default is death
        self._poll.register(wake_read, select.POLLIN)
        try:
            _allow_descriptors()
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
        for name in preload.tokenizers(self._config.workers.ranks):
            text = f"workers.ranks: {name} is not installed (ringcast tokenizers install)"
            print(f"ringcast: {text}", file=sys.stderr)
        counts = self._config.processes
        rings = self._config.rings
        self._wiring = Wiring(
            counts.providers, counts.workers, rings.in_bytes, rings.out_bytes, segment.family()
        )
        self._segments = self._wiring.create(self._state.pid, self._state.start_time)
        self._state.status = "starting"
        self._state.segments = [one.name for one in self._segments]
        self._state.reserve = self._wiring.spill
        for ring in self._segments[1:]:  # no child inherits a mapping that it did not make
            ring.close()
        self._changed()
        number = self._wiring.block("supervisor", 0)
        self._block = counters.Block(
            self._segments[0].memory, number, "supervisor", pid=os.getpid()
        )
        self._poll.register(self._wiring.wanted.fileno(), select.POLLIN)
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
        process = self._context.Process(
            target=self._child,
            args=(role, index, writing),
            name=f"{role}-{index}",
            daemon=True,  # whatever goes wrong here, none of them outlives us
        )
        sys.stdout.flush()
        sys.stderr.flush()
        began = time.monotonic()
        process.start()
        writing.close()
        pid = process.pid
        assert pid is not None
        try:
            if not self._await(reading):
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
        self._children[fd] = Child(role, index, process, fd, state, began)
        self._poll.register(fd, select.POLLIN)
        self._changed()

    def _await(self, reading: Connection) -> bool:
        """Wait for a READY. A broker that dies meanwhile is replaced: it may be asked just now."""
        deadline = time.monotonic() + self._config.processes.ready_s
        while not (ready := reading.poll(0)) and time.monotonic() < deadline:
            broker = next((one for one in self._children.values() if one.role == "broker"), None)
            watched = [reading.fileno()] + ([broker.fd] if broker else [])
            connection.wait(watched, deadline - time.monotonic())
            if broker and not broker.process.is_alive():
                self._replace(self._forget(broker.fd))
        return ready

    def _child(self, role: str, index: int, ready: Connection) -> None:
        """Be a child: close what is not its own, then run its role (after the fork)."""
        for fd in (*self._private, *(one.fd for one in self._children.values())):
            os.close(fd)
        if role != "provider":
            os.close(self._keys_fd)
        if role == "broker":
            preload.broker(self._wiring, self._config, self._run_dir, ready)
        elif role == "worker":
            preload.worker(self._wiring, index, self._run_dir, ready)
        elif role == "counter":
            preload.counter(self._wiring, self._run_dir, ready)
        else:
            keys = keyring.unpack(self._keys_fd)
            preload.provider(self._wiring, index, self._config, self._run_dir, keys, ready)

    def _watch(self, wake: int) -> None:
        while not self._stopping:
            for fd, _ in self._poll.poll(LOOK_MS):
                if fd == wake:
                    with suppress(BlockingIOError):
                        os.read(wake, 512)
                elif fd == self._wiring.wanted.fileno():
                    self._wiring.wanted.clear()
                    self._start_counter()
            self._replace_dead()
            self._block.beat(time.monotonic_ns())
            self._kill_hung()
            if self._parent[0] and not _alive(*self._parent):
                return
            if not self._run_dir.is_dir():
                raise RunDirError(f"run directory {self._run_dir} was removed; ending")

    def _start_counter(self, restarts: int = 0) -> None:
        """Start the counting process, unless it runs or has died too often."""
        now = time.monotonic()
        runs = any(one.role == "counter" for one in self._children.values())
        if runs or self._counter_deaths.too_many(now):
            return
        try:
            self._start("counter", 0, restarts)
        except StartupError as error:
            self._counter_deaths.add(now)
            print(f"ringcast: {error}", file=sys.stderr)

    def _replace_dead(self) -> None:
        """Replace whoever has ended, the broker first: the others' successors ask it."""
        while dead := [one for one in self._children.values() if not one.process.is_alive()]:
            if self._stopping:
                return
            self._replace(self._forget(min(dead, key=lambda one: one.role != "broker").fd))

    def _kill_hung(self) -> None:
        """Kill one whose heartbeat stands still; it is then replaced like any other.

        A provider process is not: its connections would go with it.

        A look that comes late says nothing: we may all have been stopped.
        """
        limit = self._config.processes.hang_s
        now, before, self._looked = time.monotonic(), self._looked, time.monotonic()
        if not limit or now - before > limit:
            return
        page = self._segments[0].memory
        for one in self._children.values():
            if one.role != "provider" and now - one.born > limit:
                beat = counters.heartbeat_ns(page, self._wiring.block(one.role, one.index)) / 1e9
                if now - beat > limit:
                    print(f"ringcast: {one.role} {one.index} hangs; killing it", file=sys.stderr)
                    one.process.kill()

    def _kill(self, role: str, index: int) -> None:
        """Kill a process; it is then replaced like any other that has died."""
        for one in self._children.values():
            if (one.role, one.index) == (role, index):
                one.process.kill()
                one.process.join(1)

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
        fault = f"{dead.role} {dead.index} (pid {dead.state.pid}) ended with {status}"
        self._block.add(self._block.slot("restarts"))
        if dead.role == "counter":
            self._replace_counter(dead, fault)
            return
        while fault and not self._stopping:
            print(f"ringcast: {fault}; starting another", file=sys.stderr)
            self._charge(dead)
            try:
                self._renew(dead)
                fault = ""
            except StartupError as error:  # a newborn's death is a death like any other
                fault = str(error)

    def _replace_counter(self, dead: Child, fault: str) -> None:
        """Put another counting process in its place, unless too many have died."""
        now = time.monotonic()
        self._counter_deaths.add(now)
        spent = self._counter_deaths.too_many(now)
        after = "counts are estimates for now" if spent else "starting another"
        print(f"ringcast: {fault}; {after}", file=sys.stderr)
        self._changed()
        self._start_counter(dead.state.restarts + 1)

    def _charge(self, dead: Child) -> None:
        """Count a death; after an early one wait, the longer the more there were.

        Raises `StartupError` when the budget is used up.
        """
        now = time.monotonic()
        deaths = self._deaths.add(now)
        if self._deaths.too_many(now):
            self._state.status = "gave up"
            self._changed()
            raise StartupError(
                f"{deaths} processes died within {self._config.processes.restart_window_s:g} s "
                "(processes.restarts); giving up"
            )
        if deaths > 1 and now - dead.born < YOUNG_S:
            time.sleep(CRASH_PAUSE_S * 2 ** min(deaths, 6))

    def _renew(self, dead: Child) -> None:
        """Start a process in a dead one's place. Raises `StartupError`."""
        for (role, index), fault in self._wiring.mend(dead.role, dead.index).items():
            print(f"ringcast: {fault}; made another ring, for {role} {index} too", file=sys.stderr)
            if role != "broker":  # it looks for itself, when the new worker asks it
                self._kill(role, index)
        self._wiring.hand_over(dead.role, dead.index)
        self._start(dead.role, dead.index, dead.state.restarts + 1)

    def _stop_all(self) -> None:
        self._state.status = "stopping"
        self._changed()
        self._stop_children()
        self._remove_segments()

    def _stop_children(self) -> None:
        """Stop everything, the broker first: it tells the clients why their streams end."""
        for role in ("broker", "provider", "worker", "counter"):
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
        self._segments[0].close()
        for one in self._segments:
            segment.remove(one.name)
        self._segments = []
        segment.remove(self._wiring.spill)
        self._wiring.close()

    def _changed(self) -> None:
        self._state.processes = [one.state for one in self._children.values()]
        try:
            self._on_change(self._state)
        except OSError as error:  # the processes matter more than the file that lists them
            print(f"ringcast: state file: {error}", file=sys.stderr)


def _allow_descriptors() -> None:
    """Raise the soft limit: many systems grant 1,024, and each stream has a socket.

    Raises `StartupError` if the hard limit is too low to begin with.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if wanted < FEWEST:
        text = f"only {wanted} files may be open, {FEWEST} must be (RLIMIT_NOFILE, ulimit -n)"
        raise StartupError(text)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _death_fd(process: ForkProcess) -> int:
    """Return a descriptor that becomes readable when the process ends: a pidfd on Linux."""
    if hasattr(os, "pidfd_open"):
        with suppress(ProcessLookupError):
            assert process.pid is not None
            return os.pidfd_open(process.pid)
    return int(process.sentinel)


def _alive(pid: int, start_time: int) -> bool:
    """Say whether a process lives; where its start is known, a zombie or another does not."""
    if start_time:
        return child.start_time(pid) == start_time
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
