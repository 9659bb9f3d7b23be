"""The daemon's processes as the simulation moves them: real code, one turn at a time."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ringcast.broker.process import Process as BrokerProcess
from ringcast.config import Config
from ringcast.providers import commands
from ringcast.providers.process import Process as ProviderProcess
from ringcast.shm import counters, layout
from ringcast.shm.ring import Reader, Writer
from ringcast.sockets import Message
from ringcast.workers.process import ASK_MS, IDLE_MS, SLEEP_MS
from ringcast.workers.stage import Stage

from .ledger import Violation
from .link import Link, Router
from .loop import Bell, Clock, Loop
from .server import READ_BYTES, Body, Server

_RUN_DIR = Path("simulation")
_DYING = ("idle", "decode", "publish", "release", "ring")


class Line:
    """A ring by name, and its doorbells: see `shm.wiring`."""

    def __init__(self, name: str, capacity: int) -> None:
        self.name = name
        self.capacity = capacity
        self.bell, self.room = Bell(), Bell()


class Wiring:
    """All lines of one daemon: see `shm.wiring`."""

    def __init__(self, providers: int, workers: int, capacity: int) -> None:
        self.ins = [[Line(f"in{p}{w}", capacity) for w in range(workers)] for p in range(providers)]
        self.outs = [Line(f"out{w}", capacity) for w in range(workers)]
        self.counters = "counters"
        self.traffic = "traffic"
        self.spill = "spill"
        self.ledger = "ledger"
        self._providers = providers

    def block(self, role: str, index: int) -> int:
        """Return the number of a process's counters block."""
        return {"broker": 1, "provider": 2, "worker": 2 + self._providers}[role] + index


class Reserve:
    """The segment of a spill: it outlives the broker that made it (`shm.reserve`)."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._memory: memoryview | None = None

    def find(self) -> memoryview | None:
        """What a predecessor has left."""
        return self._memory

    def make(self) -> memoryview | None:
        """New memory."""
        memory = self._memory = memoryview(bytearray(layout.size_of(self._capacity)))
        layout.initialise(memory, self._capacity)
        return memory

    def remove(self) -> None:
        """Nothing refers to it any more."""
        self._memory = None


class Broker:
    """The broker process; `routers` are the addresses it has bound."""

    def __init__(self, wiring: Any, config: Config, loop: Loop, routers: dict[str, Router]) -> None:
        self.loop = loop
        self.routers = routers
        self.process = BrokerProcess(wiring, config, _RUN_DIR)

    @property
    def is_whole(self) -> bool:
        """Whether it knows all that a predecessor knew."""
        takeover = self.process._takeover
        return takeover is None or (takeover.complete and self.process._desk.is_open)

    def hear(self, link: Link, most: int) -> bool:
        """Take messages of one peer; return whether there were any."""
        router = self.routers.get(link.address)
        if router is None or not (link.connected and link.up):
            return False
        router.hear(link, most)
        return True


class Provider:
    """A provider process and what is connected to it."""

    def __init__(self, wiring: Any, index: int, config: Config, loop: Loop, server: Server) -> None:
        self.index = index
        self.loop = loop
        self.server = server
        self.process = ProviderProcess(wiring, index, config, {})
        self._window = config.credit.window_max_bytes
        self.link: Link

    def connect(self) -> None:
        """Report to the broker."""
        self.process.connect(_RUN_DIR)

    def step(self, draw: random.Random) -> bool:
        """Hear, read from a socket, make a turn."""
        moved = self.link.hear(draw.randint(1, 4))
        open_ = [body for body in self.server.bodies if not body.paused]
        if open_:
            draw.choice(open_).read(draw.choice((40, 200, 1500, 1500, 1 << 16)))
            moved = True
        return self.loop.turn() | moved

    def settle(self) -> bool:
        """Hear and read all there is."""
        moved = self.link.hear(1 << 20)
        for body in list(self.server.bodies):
            if not body.paused:
                body.read(1 << 16)
                moved = True
        return self.loop.turn() | moved

    def check(self) -> None:
        """Look at every flow's credit. Raises `Violation`."""
        for upstream in self.process._errands.upstreams:
            flow, body = upstream.flow, upstream._body
            if not isinstance(body, Body) or upstream._drained >= 0:
                continue
            answer = body.entry.answer
            over = (
                flow.outlet.writer.max_payload
            )  # a record, or a large event and what came with it
            if answer.largest > over:
                over = answer.largest + READ_BYTES
            if flow.sent > flow.limit + over:
                raise Violation(f"{answer.name}: {flow.sent} sent, {flow.limit} granted")
            if flow.limit > body.most_granted(self._window):
                raise Violation(f"{answer.name}: {flow.limit} granted, {body.entry.acked} taken")
            if (flow._queue or flow.sent >= flow.limit) and not body.paused and body.is_read:
                raise Violation(f"{answer.name}: read without credit, at {flow.sent}")


class Killed(BaseException):
    """What SIGKILL is to a process in this one."""


class _Doomed:
    """One end of a ring whose process dies in its operation `moment`."""

    def __init__(self, end: Writer | Reader, moment: str) -> None:
        self._end = end
        self._moment = moment

    def __getattr__(self, name: str) -> Any:
        if name == self._moment:
            raise Killed
        return getattr(self._end, name)


class Worker:
    """A worker: `workers.process.run` and `take_over`, one pass of their loops at a time."""

    def __init__(
        self,
        wiring: Wiring,
        index: int,
        memories: dict[str, memoryview],
        clock: Clock,
        joined: Callable[[bytes], Link],
    ) -> None:
        self.index = index
        self._clock = clock
        self._lines = [row[index] for row in wiring.ins]
        self._ins = [Reader(memories[line.name]) for line in self._lines]
        self._outward = wiring.outs[index]
        self.out = Writer(memories[self._outward.name])
        number = wiring.block("worker", index)
        self._block = counters.Block(memories[wiring.counters], number, "worker")
        self._told = self.out.consumer_epoch
        self._bells = [*(line.bell for line in self._lines), self._outward.room]
        self._sleeps = False
        self.wake_ns: int | None = None
        self.stage: Stage
        self.link: Link | None = None
        if self._block.starts > 1:
            self.link = joined(b"w%d-%d" % (index, self._block.starts))
            self.link.on_messages = self._adopt
            self._ask()
        else:
            self._begin([])

    @property
    def asks(self) -> bool:
        """Whether it does not know yet where its streams are."""
        return self.link is not None

    def _ask(self) -> None:
        assert self.link is not None
        self.link.send([commands.encode(commands.Takeover(self.index))])
        self.wake_ns = self._clock.now_ns + ASK_MS * 1_000_000

    def _adopt(self, messages: list[Message]) -> None:
        self.link = None
        self._begin(commands.decode_adopt(messages[0][-1]).streams)

    def _begin(self, adopted: list[commands.Adopted]) -> None:
        self.wake_ns = None
        starts = self._block.starts
        self.stage = Stage(self._ins, self.out, self._block, starts, adopted, self._told)
        for reader, line in zip(self._ins, self._lines, strict=True):
            if reader.release(reader.released):
                line.room.ring()

    def step(self, draw: random.Random) -> bool:
        """As `settle`: a worker makes no choices."""
        return self.settle()

    def settle(self) -> bool:
        """Make one pass of the loop, unless it sleeps; return whether it did."""
        if self.link is not None:
            if not self.link.hear(1):
                return self._ask_again()
            return True
        if self._sleeps and not self._is_woken():
            return False
        self._wake()
        worked = self.stage.step(self._clock.monotonic_ns())
        self._ring()
        if worked and not self.stage.blocked:
            return True
        stage, out = self.stage, self.out
        if out.wait() if stage.blocked else all(reader.sleep() for reader in self._ins):
            self._sleeps = True
            pause_ms = SLEEP_MS if stage.busy else IDLE_MS
            self.wake_ns = self._clock.now_ns + pause_ms * 1_000_000
        return worked

    def _ask_again(self) -> bool:
        if self.wake_ns is not None and self.wake_ns > self._clock.now_ns:
            return False
        self._ask()
        return True

    def _is_woken(self) -> bool:
        late = self.wake_ns is not None and self.wake_ns <= self._clock.now_ns
        return late or any(bell.rung for bell in self._bells)

    def _wake(self) -> None:
        self._sleeps, self.wake_ns = False, None
        for bell in self._bells:
            bell.clear()
        for reader in self._ins:
            reader.wake()

    def _ring(self) -> None:
        stage = self.stage
        if stage.ring_out:
            stage.ring_out = False
            self._outward.bell.ring()
        while stage.freed:
            self._lines[stage.freed.pop()].room.ring()

    def die(self, draw: random.Random) -> int:
        """Make half a pass; return the stream of the record that it died in, or 0.

        It dies between two passes, in a record, before its publish, before its release, or
        before it rings.
        """
        moment = draw.choice(_DYING)
        if moment == "idle" or self.link is not None:
            return 0
        stage, died_in = self.stage, 0
        if moment == "decode":
            left, take = draw.randint(0, 6), stage._take

            def doomed(index: int, record: Any, now_ns: int) -> None:
                nonlocal left, died_in
                left -= 1
                if left < 0:
                    died_in = record.stream
                    raise Killed
                take(index, record, now_ns)

            stage._take = doomed  # type: ignore[method-assign]
        elif moment == "publish":
            stage._out = _Doomed(stage._out, moment)  # type: ignore[assignment]
        elif moment == "release":
            stage._ins = [_Doomed(end, moment) for end in stage._ins]  # type: ignore[misc]
        try:
            stage.step(self._clock.monotonic_ns())
        except Killed:
            return died_in
        return 0
