"""The broker process: the clients' ROUTER socket, the providers' ROUTER socket, the out-rings.

One turn of its loop reads what the rings have, files it in the sessions, and sends each
client one message with everything that became due. Control frames never wait behind data:
data is bounded by credit, and frames are answered as they are read.

The three are `desk`, `control` and `intake`; here they are put together, and what the sessions
noted in a turn is passed on.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import uvloop
import zmq

from ringcast import child, fault
from ringcast.broker.control import Control
from ringcast.broker.credit import LOOK_S
from ringcast.broker.desk import Desk
from ringcast.broker.dispatch import Dispatch
from ringcast.broker.gate import Door, Gate, free_descriptors
from ringcast.broker.intake import Intake
from ringcast.broker.router import bind, router
from ringcast.broker.session import Sessions
from ringcast.broker.spill import Spill, capacity_for
from ringcast.broker.status import Status
from ringcast.broker.stream import Stream
from ringcast.broker.takeover import Takeover
from ringcast.config import Config
from ringcast.errors import Code
from ringcast.providers import commands
from ringcast.shm import counters, segment
from ringcast.shm.ledger import Ledger
from ringcast.shm.reserve import Reserve
from ringcast.shm.tokens import Error
from ringcast.shm.wiring import Wiring
from ringcast.sockets import Socket

TICK_S: Final = 0.02  # bounds what a lost wake-up costs (layout, R9)
IDLE_TICK_S: Final = 0.25
LATE_S: Final = 1.0  # a tick this late means that the whole process stood still
BACKLOG: Final = 64  # connections that wait when the door is shut, and are let in all the same
CODES: Final = frozenset(map(str, Code))
# A request over its limit is still read, up to so many times as much, to say so.
READ_FACTOR: Final = 4


def run(wiring: Wiring, config: Config, run_dir: Path, ready: Connection) -> None:
    """Be the broker until SIGTERM or the supervisor's end."""
    child.enter("rc-broker")
    with fault.last_words():
        uvloop.run(_main(wiring, config, run_dir, ready))


async def _main(wiring: Wiring, config: Config, run_dir: Path, ready: Connection) -> None:
    loop = asyncio.get_running_loop()
    fault.watch(loop)
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_reader(child.parent_fd(), os._exit, 0)
    process = Process(wiring, config, run_dir)
    process.watch()
    ready.send("ready")
    ready.close()
    await stop.wait()
    process.close()


class Process:
    """Everything of the broker, put together."""

    def __init__(self, wiring: Wiring, config: Config, run_dir: Path) -> None:
        """Attach to the out-rings and bind both sockets."""
        self._config = config
        self._loop = asyncio.get_running_loop()
        page = segment.attach(wiring.counters)
        number = wiring.block("broker", 0)
        self._counters = counters.Block(page.memory, number, "broker", pid=os.getpid())
        self._spill = _spill(wiring, config)
        self._intake = Intake(wiring.outs, self._spill.keep, self._loop)
        self._ledger = segment.attach(wiring.ledger)
        self._sessions = Sessions(self._intake.logs, Ledger(self._ledger.memory))
        self._sessions.tokens = self._counters.get(self._counters.slot("tokens_in"))
        self._control = Control(self._counters, wiring, self._on_report)
        self._dispatch = Dispatch(self._sessions, config, self._control.command, self._loop)
        status = Status(
            self._sessions, config, wiring, page.memory, self._dispatch.ready, time.monotonic()
        )
        self._desk = Desk(
            self._sessions,
            self._dispatch,
            config,
            self._counters,
            self._follow_up,
            lambda daemon: status.report(daemon, time.monotonic()),
            self._loop,
            self._control.count,
        )
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(1)
        self._gate = Gate(self._context)
        self._door: Door | None = None
        socket = router(self._context, sndhwm=0, rcvhwm=0)
        bind(socket, run_dir / "control.sock")
        self._control.socket = Socket(socket, self._control.on_messages)
        self._takeover: Takeover | None = None
        self._tasks = [self._loop.create_task(self._tick())]
        self._begin(run_dir)
        self._intake.start(self._sessions, self._follow_up)

    def _begin(self, run_dir: Path) -> None:
        """Let the clients in, after the questions of one who comes into another's place."""
        starts = self._counters.starts
        if starts == 1:
            self._let_in(run_dir)
            return
        providers = self._config.processes.providers
        self._takeover = Takeover(self._sessions, self._dispatch, self._desk, providers, starts)
        self._takeover.spilled(self._spill)
        task = self._takeover.run(lambda: self._let_in(run_dir))
        self._tasks.append(self._loop.create_task(task))

    def watch(self) -> None:
        """Tell of a task that fails: without its heartbeat we shall be killed and replaced."""
        for task in self._tasks:
            task.add_done_callback(fault.of_task)

    def _let_in(self, run_dir: Path) -> None:
        """Bind the clients' socket: from now on anybody may ask for anything."""
        socket = router(
            self._context,
            maxmsgsize=READ_FACTOR * self._config.limits.max_request_bytes,
            sndhwm=10_000,
            backlog=BACKLOG,
        )
        path = run_dir / "client.sock"
        self._door = Door(socket, path, free_descriptors() // 2)
        bind(socket, path)
        self._desk.open(Socket(socket, self._desk.on_messages))

    def _follow_up(self) -> None:
        """See to what the sessions noted, and send the clients what follows from it.

        Readers left behind, streams that could go on, new limits, streams that ended.
        """
        sessions, dispatch, desk = self._sessions, self._dispatch, self._desk
        while sessions.behind:
            desk.readers.cut(sessions.behind.pop())
        while sessions.again and desk.is_open:
            dispatch.go_on(sessions.again.pop())
        if self._takeover is not None:
            for orphan in self._takeover.orphans():
                dispatch.abandon(orphan, "interrupted")
        while sessions.unsaid and desk.is_open:
            dispatch.unsaid(sessions.unsaid.pop())
        if sessions.begun:
            dispatch.began(sessions.begun)
            sessions.begun.clear()
        if sessions.granted:
            dispatch.grant(sessions.granted)
            sessions.granted.clear()
        while sessions.ended:
            self._ended(sessions.ended.pop())
        while sessions.errors:
            self._count(sessions.errors.pop().code)
        desk.flush()

    def _ended(self, stream: Stream) -> None:
        self._dispatch.stop(stream, cancel=stream.failed)
        leases = self._desk.readers.leases
        if not stream.subscriptions and stream not in leases:
            leases.begin(stream)

    def _count(self, code: str) -> None:
        """Count an error that no worker has counted: we are who says it."""
        add, slot = self._counters.add, self._counters.slot
        add(slot("errors"))
        if code in CODES:
            add(slot(f"error.{code}"))

    # the provider processes, and workers that are new

    def _on_report(self, route: bytes, said: commands.ToBroker) -> None:
        match said:
            case commands.Ready() as ready:
                self._on_ready(ready)
            case commands.Answer() as answer:
                self._desk.on_answer(answer)
            case commands.Waiting(slot, reason, seconds):
                self._desk.readers.waiting(slot, reason, seconds)
            case commands.Spent(slot):
                self._dispatch.spent(slot)
                self._follow_up()
            case commands.Counting():
                self._desk.inquiries.recount(self._loop.time())
            case commands.Takeover(index):
                # Where its streams are, after all that its predecessor said. If it has died as
                # well, another will ask.
                self._intake.hand_over(index)
                self._control.answer(route, commands.Adopt(self._sessions.of_worker(index)))

    def _on_ready(self, ready: commands.Ready) -> None:
        index, before = ready.index, self._dispatch.ready.get(ready.index)
        if self._takeover is not None and not self._takeover.heard(ready):
            return
        self._dispatch.ready[index] = ready
        if self._desk.is_open and (before is None or before.epoch != ready.epoch):
            self._dispatch.reconcile(index)
            self._desk.inquiries.repeat(index)
        self._control.command(index, commands.Welcome())
        self._desk.look_at_held()

    # housekeeping

    async def _tick(self) -> None:
        before = looked = self._loop.time()
        while True:
            busy = any(not stream.terminal for stream in self._sessions.streams.values())
            await asyncio.sleep(TICK_S if busy else IDLE_TICK_S)
            now = self._loop.time()
            self._intake.look()
            late_s = now - before  # stopped ourselves, we could hear nobody
            self._desk.look_at_silent(now, late_s if late_s > LATE_S else 0.0)
            before = now
            if now - looked >= LOOK_S:
                looked = now
                self._look(now)
            self._follow_up()
            self._tell()

    def _look(self, now: float) -> None:
        """Look at all that waits."""
        streams = self._sessions.streams.values()
        self._desk.look_at_held()
        self._desk.inquiries.look(now)
        self._spill.rest(empty=not any(stream.heaped for stream in streams))
        self._dispatch.look_at_windows(now)

    def _tell(self) -> None:
        """Write the heartbeat, and the counters that are not written as they move."""
        put, slot = self._counters.set, self._counters.slot
        self._counters.beat(time.monotonic_ns())
        put(slot("clients"), len(self._sessions.clients))
        put(slot("tokens_in"), self._sessions.tokens)
        put(slot("log_moved"), sum(log.moved for log in self._sessions.logs))

    def close(self) -> None:
        """End every live stream with `shutting_down` and close the sockets."""
        for stream in list(self._sessions.streams.values()):
            error = Error(Code.SHUTTING_DOWN, "the daemon is shutting down", retryable=True)
            self._sessions.fail(stream, error)
        self._desk.flush()
        for task in self._tasks:
            task.cancel()
        for one in (self._door, self._desk, self._control.socket, self._gate):
            if one is not None:
                one.close()
        self._context.term()


def _spill(wiring: Wiring, config: Config) -> Spill:
    """Return the spill, in a segment that belongs to the supervisor."""
    size, parent = capacity_for(config.credit.budget_bytes), os.getppid()
    started = child.start_time(parent)
    return Spill(Reserve(wiring.spill, size, "credit.budget_bytes", pid=parent, start_time=started))
