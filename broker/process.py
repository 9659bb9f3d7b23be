"""The broker process: the clients' ROUTER socket, the providers' ROUTER socket, the out-rings.

One turn of its loop reads what the rings have, files it in the sessions, and sends each
client one message with everything that became due. Control frames never wait behind data:
data is bounded by credit, and frames are answered as they are read.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
import time
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop
import zmq

from ringcast import child
from ringcast.broker import protocol
from ringcast.broker.credit import LOOK_S
from ringcast.broker.desk import Desk
from ringcast.broker.dispatch import Dispatch
from ringcast.broker.gate import DOMAIN, Door, Gate
from ringcast.broker.log import Log
from ringcast.broker.rebuild import Rebuild
from ringcast.broker.session import Sessions
from ringcast.broker.spill import Spill, capacity_for
from ringcast.broker.stream import Stream
from ringcast.config import Config
from ringcast.errors import Code, Fenced, RingCorrupt
from ringcast.providers import commands
from ringcast.shm import counters, segment
from ringcast.shm.ledger import Ledger
from ringcast.shm.reserve import Reserve
from ringcast.shm.ring import Reader, hand_over
from ringcast.shm.tokens import Error
from ringcast.shm.wiring import Line, Wiring
from ringcast.sockets import Message, Socket, make
from ringcast.workers import stream_metrics
from ringcast.workers.stream_metrics import Figures

TICK_S: Final = 0.02  # bounds what a lost wake-up costs (layout, R9)
IDLE_TICK_S: Final = 0.25
LATE_S: Final = 1.0  # a tick this late means that the whole process stood still
POLL: Final = 256
REBUILD_S: Final = 1.0  # how long a new broker waits for a process that may be dead as well
REBUILD_LOOK_S: Final = 0.002
BACKLOG: Final = 64  # connections that wait when the door is shut, and are let in all the same
# A request over its limit is still read, up to so many times as much, to say so.
READ_FACTOR: Final = 4


def run(wiring: Wiring, config: Config, run_dir: Path, ready: Connection) -> None:
    """Be the broker until SIGTERM or the supervisor's end."""
    child.enter("rc-broker")
    uvloop.run(_main(wiring, config, run_dir, ready))


async def _main(wiring: Wiring, config: Config, run_dir: Path, ready: Connection) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_reader(child.parent_fd(), os._exit, 0)
    process = Process(wiring, config, run_dir)
    ready.send("ready")
    ready.close()
    await stop.wait()
    process.close()


class Process:
    """Everything of the broker."""

    def __init__(self, wiring: Wiring, config: Config, run_dir: Path) -> None:
        """Attach to the out-rings and bind both sockets."""
        self._config = config
        self._loop = asyncio.get_running_loop()
        self._started = time.monotonic()
        page = segment.attach(wiring.counters)
        self._page = page
        number = wiring.block("broker", 0)
        self._counters = counters.Block(page.memory, number, "broker", pid=os.getpid())
        self._wiring = wiring
        self._lines: list[Line] = wiring.outs
        self._segments = [segment.attach(line.name) for line in self._lines]
        self._readers = [Reader(one.memory) for one in self._segments]
        self._condemned: set[int] = set()  # out-rings that are not read any more
        spill_bytes = capacity_for(config.credit.budget_bytes)
        parent = os.getppid()
        self._spill = Spill(
            Reserve(
                wiring.spill,
                spill_bytes,
                "credit.budget_bytes",
                pid=parent,
                start_time=child.start_time(parent),
            )
        )
        keep = self._spill.keep
        logs = [Log(reader, worker, keep) for worker, reader in enumerate(self._readers)]
        self._ledger = segment.attach(wiring.ledger)
        self._sessions = Sessions(logs, Ledger(self._ledger.memory))
        self._sessions.tokens = self._counters.get(self._counters.slot("tokens_in"))
        self._dispatch = Dispatch(self._sessions, config, self._command, self._loop)
        self._desk = Desk(
            self._sessions,
            self._dispatch,
            config,
            self._counters,
            self._follow_up,
            self._status,
            self._loop,
            self._count,
        )
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(1)
        self._gate = Gate(self._context)
        control = _router(self._context, sndhwm=0, rcvhwm=0)
        _bind(control, run_dir / "control.sock")
        self._control = Socket(control, self._on_reports)
        self._door: Door | None = None
        self._rebuild: Rebuild | None = None
        self._asked: set[int] = set()  # provider processes that were asked to report
        self._tasks = [self._loop.create_task(self._tick())]
        if self._counters.starts > 1:
            self._rebuild = Rebuild(self._sessions, config.processes.providers, self._nameless)
            self._rebuild.spilled(self._spill, len(self._lines))
            self._tasks.append(self._loop.create_task(self._take_over(run_dir)))
        else:
            self._let_in(run_dir)
        for number, (line, reader) in enumerate(zip(self._lines, self._readers, strict=True)):
            reader.release(reader.released)
            self._loop.add_reader(line.bell.fileno(), self._on_bell, number)
            self._loop.call_soon(self._drain, number)
            line.room.ring()  # a predecessor may have died before it did, or we are new to it

    def _let_in(self, run_dir: Path) -> None:
        """Bind the clients' socket: from now on anybody may ask for anything."""
        router = _router(
            self._context,
            maxmsgsize=READ_FACTOR * self._config.limits.max_request_bytes,
            sndhwm=10_000,
            backlog=BACKLOG,
        )
        path = run_dir / "client.sock"
        self._door = Door(router, path, _free_descriptors() // 2)
        _bind(router, path)
        self._desk.socket = Socket(router, self._desk.on_messages)

    # after a predecessor's death

    def _nameless(self, slot: int, worker: int) -> Stream:
        process = (slot - 1) % self._config.processes.providers
        return Stream(slot, b"", "", "", process, worker, self._dispatch.window())

    async def _take_over(self, run_dir: Path) -> None:
        """Put the index together again, then let the clients in."""
        rebuild, deadline = self._rebuild, self._loop.time() + REBUILD_S
        assert rebuild is not None
        while not rebuild.complete:
            for index in rebuild.silent - self._asked:
                if self._command(index, commands.Report(self._counters.starts)):
                    self._asked.add(index)  # else it has not reconnected yet
            await asyncio.sleep(REBUILD_LOOK_S if self._desk.socket is None else TICK_S)
            if self._desk.socket is None and self._loop.time() > deadline:
                self._rebuilt(rebuild, run_dir)
        if self._desk.socket is None:
            self._rebuilt(rebuild, run_dir)

    def _rebuilt(self, rebuild: Rebuild, run_dir: Path) -> None:
        self._desk.last_slot = max(self._desk.last_slot, rebuild.last_slot)
        for stream in rebuild.nameless():
            self._dispatch.stop(stream, cancel=True)
        for index in self._dispatch.ready:
            self._dispatch.reconcile(index)
        ready = self._dispatch.ready.values()
        live = {one.slot for said in ready for one in said.live if not one.over}
        again = self._sessions.again  # of all others our predecessor knew, or `_reconcile` asks
        again[:] = [one for one in again if one.lost or one.stream.slot in live]
        for stream in self._sessions.streams.values():
            if stream.slot not in self._desk.leases and not stream.settled:
                self._desk.lease(stream)
        self._let_in(run_dir)

    # the out-rings

    def _on_bell(self, number: int) -> None:
        self._lines[number].bell.clear()
        self._drain(number)

    def _drain(self, number: int) -> None:
        """Read what a ring has, a turn's worth at a time, then sleep on its doorbell."""
        if number in self._condemned:
            return
        reader, sessions = self._readers[number], self._sessions
        reader.wake()
        try:
            batch = reader.poll(POLL)
            if batch:
                sessions.ingest(sessions.logs[number], batch)
                self._make_room(number)
        except (RingCorrupt, Fenced, msgspec.DecodeError, UnicodeDecodeError) as error:
            self._condemn(number, str(error))
            return
        if batch:
            self._follow_up()
            self._desk.flush()
        if len(batch) == POLL or not reader.sleep():
            self._loop.call_soon(self._drain, number)

    def _condemn(self, number: int, why: str) -> None:
        """Believe nothing more that an out-ring says, and have its worker replaced.

        The worker finds itself fenced when it next publishes; the supervisor makes another
        ring, and the worker's successor asks us where its streams are: see `_hand_over`.
        """
        self._condemned.add(number)
        print(f"ringcast: out-ring of worker {number}: {why}", file=sys.stderr)
        self._readers[number].corrupt(why)
        hand_over(self._segments[number].memory, producer=True)
        text = "shared memory was written over, and what came from it cannot be believed"
        self._sessions.condemn(number, Error(Code.RING_CORRUPT, text, retryable=True))
        self._follow_up()
        self._desk.flush()

    def _look_again(self, number: int) -> None:
        """Attach to an out-ring anew if another is in its place."""
        fresh = segment.attach(self._lines[number].name)
        if fresh.inode == self._segments[number].inode:
            fresh.close()
            return
        if number not in self._condemned:
            self._condemn(number, "another ring is in its place")
        self._segments[number], self._readers[number] = fresh, Reader(fresh.memory)
        self._sessions.renew(Log(self._readers[number], number, self._spill.keep))
        self._condemned.discard(number)
        self._loop.call_soon(self._drain, number)

    def _follow_up(self) -> None:
        """See to what the sessions noted: readers left behind, new limits, streams that ended."""
        behind, again = self._sessions.behind, self._sessions.again
        while behind:
            self._desk.cut(behind.pop())
        while again and self._desk.socket is not None:
            self._dispatch.go_on(again.pop())
        while self._rebuild is not None and self._rebuild.orphans:
            self._dispatch.abandon(self._rebuild.orphans.pop(), "interrupted")
        while self._sessions.unsaid and self._desk.socket is not None:
            self._dispatch.unsaid(self._sessions.unsaid.pop())
        granted, ended = self._sessions.granted, self._sessions.ended
        if begun := self._sessions.begun:
            self._dispatch.began(begun)
            begun.clear()
        if granted:
            self._dispatch.grant(granted)
            granted.clear()
        while ended:
            stream = ended.pop()
            self._dispatch.stop(stream, cancel=stream.failed)
            if not stream.subscriptions and stream.slot not in self._desk.leases:
                self._desk.lease(stream)

    def _make_room(self, number: int) -> None:
        if self._sessions.make_room(self._sessions.logs[number]):
            self._lines[number].room.ring()

    def _status(self, daemon: str) -> dict[str, Any]:
        """What `ringcast status` and `ringcast ps` show of streams and counters."""
        streams = [
            {
                "id": stream.id.hex(),
                "provider": stream.provider,
                "model": stream.model,
                "state": stream.phase,
                "seq": stream.end - 1,
                "readers": len(stream.subscriptions),
            }
            for stream in self._sessions.streams.values()
        ]
        return {
            "daemon": daemon,
            "version": protocol.server(),
            "uptime_s": round(time.monotonic() - self._started, 3),
            "clients": len(self._sessions.clients),
            "streams": streams,
            "providers": {
                name: next(
                    (r.disabled[name] for r in self._dispatch.ready.values() if name in r.disabled),
                    "ready",
                )
                for name in self._config.providers
            },
            "counters": counters.read(self._page.memory),
            "metrics": self._metrics(),
        }

    def _metrics(self) -> Figures:
        """What all workers have noted of their streams, since the daemon began."""
        with closing(segment.attach(self._wiring.metrics)) as page:
            return stream_metrics.of_all(page.memory)

    # the provider processes

    def _command(self, process: int, command: commands.Command) -> bool:
        try:
            return self._control.send((b"p%d" % process, commands.encode(command)))
        except zmq.ZMQError:  # EHOSTUNREACH: it is being restarted, and will say so
            return False

    def _count(self, question: commands.Ask) -> bool:
        """Give the counting process a question; without one, ask the supervisor for it."""
        head = msgspec.structs.replace(question, request=commands.NOTHING)
        try:
            # Not copied: the page faults of fresh memory for 5 MB take 3 ms.
            text = zmq.Frame(question.request, copy=False)
            return self._control.send((commands.COUNTER, commands.encode(head), text))
        except zmq.ZMQError:  # EHOSTUNREACH
            self._wiring.wanted.ring()
            return False

    def _on_reports(self, messages: list[Message]) -> None:
        for head, body in messages:
            try:
                said = commands.decode_report(body)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                self._counters.add(self._counters.slot("bad_messages"))
                continue
            match said:
                case commands.Ready() as report:
                    self._on_ready(report)
                case commands.Answer() as answer:
                    self._desk.on_answer(answer)
                case commands.Waiting(slot, reason, seconds):
                    self._desk.waiting(slot, reason, seconds)
                case commands.Spent(slot):
                    self._dispatch.spent(slot)
                    self._follow_up()
                    self._desk.flush()
                case commands.Counting():
                    self._desk.recount()
                case commands.Takeover(index):
                    self._hand_over(head[0], index)

    def _on_ready(self, report: commands.Ready) -> None:
        index, before = report.index, self._dispatch.ready.get(report.index)
        if self._rebuild is not None and index in self._rebuild.silent:
            if report.nonce != self._counters.starts:  # said to our predecessor, or at its start
                self._asked.discard(index)
                return
            self._rebuild.report(index, report.live, report.now_ns)
        self._dispatch.ready[index] = report
        if self._desk.socket and (before is None or before.epoch != report.epoch):
            self._dispatch.reconcile(index)
            self._desk.ask_again(index)
        self._command(index, commands.Welcome())
        self._desk.look_at_held()

    def _hand_over(self, route: bytes, index: int) -> None:
        """Tell a new worker where the streams are, after all that its predecessor said."""
        while index not in self._condemned and self._readers[index].pending:
            self._drain(index)
        self._look_again(index)
        answer = commands.Adopt(self._sessions.of_worker(index))
        try:
            self._control.send((route, commands.encode(answer)))
        except zmq.ZMQError:  # EHOSTUNREACH: it has died as well, and another will ask
            return

    # housekeeping

    async def _tick(self) -> None:
        slots = {name: self._counters.slot(name) for name in counters.NAMES["broker"]}
        before = looked = self._loop.time()
        while True:
            busy = any(not stream.terminal for stream in self._sessions.streams.values())
            await asyncio.sleep(TICK_S if busy else IDLE_TICK_S)
            now = self._loop.time()
            for number, reader in enumerate(self._readers):
                if reader.pending:
                    self._drain(number)
            late_s = now - before  # stopped ourselves, we could hear nobody
            self._desk.look_at_silent(now, late_s if late_s > LATE_S else 0.0)
            before = now
            if now - looked >= LOOK_S:
                looked = now
                self._desk.look_at_held()
                self._desk.look_at_counts(now)
                self._look_at_windows(now)
            self._follow_up()
            self._counters.beat(time.monotonic_ns())
            self._counters.set(slots["clients"], len(self._sessions.clients))
            self._counters.set(slots["tokens_in"], self._sessions.tokens)
            moved = sum(log.moved for log in self._sessions.logs)
            self._counters.set(slots["log_moved"], moved)

    def _look_at_windows(self, now: float) -> None:
        """Let the windows of quiet streams adapt, and end those whose readers take nothing."""
        limit_s = self._config.credit.stall_s
        self._spill.rest(empty=not any(s.heaped for s in self._sessions.streams.values()))
        for stream in self._sessions.streams.values():
            if stream.terminal:
                continue
            if stream.window.processed(stream.window.released):
                self._sessions.granted.append(stream)
            if stream.stalled(now) > limit_s > 0:
                text = f"nobody took a token for {limit_s:g} s (credit.stall_s)"
                command = commands.Fail(stream.slot, Code.BACKPRESSURE_TIMEOUT, text)
                self._command(stream.process, command)

    def close(self) -> None:
        """End every live stream with `shutting_down` and close the sockets."""
        for stream in list(self._sessions.streams.values()):
            error = Error(Code.SHUTTING_DOWN, "the daemon is shutting down", retryable=True)
            self._sessions.fail(stream, error)
        self._desk.flush()
        for task in self._tasks:
            task.cancel()
        for socket in (self._door, self._desk.socket, self._control, self._gate):
            if socket is not None:
                socket.close()
        self._context.term()


def _router(context: zmq.Context[zmq.Socket[bytes]], **options: object) -> zmq.Socket[bytes]:
    return make(context, zmq.ROUTER, router_mandatory=1, zap_domain=DOMAIN, **options)


def _bind(router: zmq.Socket[bytes], path: Path) -> None:
    """Bind to a socket that only we may open; the run directory is locked."""
    path.unlink(missing_ok=True)
    mask = os.umask(0o177)
    try:
        router.bind(f"ipc://{path}")
    finally:
        os.umask(mask)


def _free_descriptors() -> int:
    """How many more files this process may open."""
    probe = os.open(os.devnull, os.O_RDONLY)  # the lowest that is free
    os.close(probe)
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] - probe
