"""One daemon with its clients and providers, and a seed that decides what happens to them."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache

from ringcast.broker.spill import capacity_for
from ringcast.broker.stream import Stream
from ringcast.config import Breaker, Config, Credit, Health, Processes, Retry, Timeouts, Usage
from ringcast.config import Provider as Upstream
from ringcast.providers.traffic.errand import Errand
from ringcast.providers.traffic.errands import FORGOTTEN_S, UNHEARD_S, Errands
from ringcast.shm import counters, layout, records
from ringcast.shm.layout import W_HEAD, W_RELEASED, W_TAIL
from ringcast.shm.ledger import LEDGER_BYTES
from ringcast.shm.ring import Writer, hand_over
from ringcast.shm.shared_words import SharedWords

from . import failure
from .answer import RING, shelf
from .editor import HEARTBEAT_S, Editor, Reading
from .ledger import Deaths, Entry, Violation
from .link import Link, Router
from .loop import Clock, Loop
from .processes import Broker, Provider, Reserve, Wiring, Worker
from .seams import System
from .server import Body, Server

BALLAST = bytes(layout.max_payload(RING))
WINDOWS = (1024, 2048, 6000, 1 << 16)
CLIENT_WINDOWS = (1, 300, 4000, 1 << 18)
PATIENCE_NS = 60_000_000_000  # of the simulated clock, until a run that does not end hangs
LATE_NS = 40_000_000  # in the end all are late, so that several moments are one
TURNS = 4000
PAUSES_S = (0.0, 0.0, 0.1)  # before a request is sent again
LENGTHS = (20, 40, 80, 130)  # steps in which things happen by chance
MOST_STEPS = max(LENGTHS)
NEVER = 1 << 40


@cache
def _config(providers: int, workers: int, window: int, pause_s: float) -> Config:
    local = {"local": Upstream("openai-compatible", "http://simulation")}
    credit = Credit(window_max_bytes=window, budget_bytes=max(window, 1 << 16), lease_s=0.3)
    return Config(
        providers=local,
        timeouts=Timeouts(heartbeat_s=HEARTBEAT_S),
        credit=credit,
        processes=Processes(providers=providers, workers=workers),
        retry=Retry(failure.ATTEMPTS, pause_s, budget_least=NEVER),
        breaker=Breaker(failures=NEVER, least_calls=NEVER),
        health=Health(interval_s=0),
        usage=Usage(keep=False),
    )


_memory: dict[str, memoryview] = {}


def _segment(name: str, size: int) -> memoryview:
    """Memory that runs share, one after the other: what a run leaves there is never read."""
    if name not in _memory:
        _memory[name] = memoryview(bytearray(size))
    return _memory[name]


class World:
    """`run` it once."""

    def __init__(
        self,
        seed: int,
        system: System,
        *,
        steps: int | None = None,
        at_once: bool = False,
        trace: Callable[[str], object] | None = None,
    ) -> None:
        """`steps` cuts the part short in which things happen by chance.

        `at_once`: a worker and a broker may die together, and less is promised.
        """
        draw = self.draw = random.Random(seed)
        length = draw.choice(LENGTHS)
        self.steps = length if steps is None else min(steps, length)
        self.trace = trace
        self.deaths = Deaths()
        self.deaths.at_once = at_once
        self._system = system
        self.clock = system.clock = Clock()
        few = draw.random() < 0.8
        self._counts = (1, 1) if few else (draw.randint(1, 2), draw.randint(1, 2))
        self.window = draw.choice(WINDOWS)
        self._deadly = draw.choice((0.0, 0.02, 0.06, 0.12))
        system.chance = random.Random(seed)
        self._config = _config(*self._counts, self.window, system.chance.choice(PAUSES_S))
        answers = draw.sample(shelf(), draw.choice((1, 1, 2, 3, 4)))
        self.entries = {
            answer.name: Entry(answer, self.deaths, failure.drawn(answer.api, system.chance))
            for answer in answers
        }
        self._unopened = list(self.entries.values())
        self._links: dict[bytes, Link] = {}
        self._loops: list[Loop] = []
        self._dead: list[Callable[[], None]] = []  # who is to be started again
        self._lay_out()
        self._start_all()
        self._say(f"seed {seed}: {self.steps} steps, window {self.window}, {list(self.entries)}")

    @property
    def tokens(self) -> int:
        """How many were taken by clients."""
        return sum(entry.taken for entry in self.entries.values())

    def close(self) -> None:
        """End what sleeps."""
        for loop in self._loops:
            loop.die()

    # what there is

    def _lay_out(self) -> None:
        """Make the rings, somewhere in their laps and some of them nearly full."""
        providers, workers = self._counts
        self.wiring = Wiring(providers, workers, RING)
        lines = [*self.wiring.outs, *(line for row in self.wiring.ins for line in row)]
        self.memories = {line.name: _segment(line.name, layout.size_of(RING)) for line in lines}
        for memory in self.memories.values():
            layout.initialise(memory, RING)
            with memory[: layout.DATA].cast("Q") as words:
                words[W_TAIL] = words[W_HEAD] = words[W_RELEASED] = self.draw.randrange(1 << 14) * 8
            if self.draw.random() < 0.5:
                load(Writer(memory), self.draw.randint(1, 7))
        page = self.memories["counters"] = _segment("counters", 8 * counters.BLOCK_BYTES)
        ledger = self.memories["ledger"] = _segment("ledger", LEDGER_BYTES)
        page[:], ledger[:] = bytes(len(page)), bytes(len(ledger))
        system = self._system
        system.memories = self.memories
        system.routers = lambda: Router(self._links)
        system.bound = self._bound
        system.reserve = Reserve(capacity_for(self._config.credit.budget_bytes))
        system.joined = self._joined
        system.words = SharedWords.private()

    def _start_all(self) -> None:
        draw = self.draw
        providers, workers = self._counts
        self.workers: list[Worker | None] = [None] * workers
        self.providers: list[Provider | None] = [None] * providers
        self.editors: list[Editor] = []
        self.broker: Broker | None = None
        self._start_broker()
        for index in range(workers):
            self._start_worker(index)
        for index in range(providers):
            self._start_provider(index)
        self._connect(draw, all_=True)
        self._converse()
        for _ in range(draw.choice((1, 1, 2, 3))):
            self._greet()
        self._connect(draw, all_=True)
        self._converse()

    def _converse(self) -> None:
        """Let everybody hear what was said."""
        assert self.broker is not None
        for link in list(self._links.values()):
            self._system.loop = self.broker.loop
            self.broker.hear(link, 99)
        for provider in self.providers:
            assert provider is not None
            self._system.loop = provider.loop
            provider.settle()
        for editor in self.editors:
            self._system.loop = editor.loop
            editor.settle()

    def _loop(self) -> Loop:
        loop = self._system.loop = Loop(self.clock)
        self._loops.append(loop)
        return loop

    def _bound(self, address: str, router: Router) -> None:
        self._routers[address] = router

    def _joined(self, identity: bytes) -> Link:
        link = self._links[identity] = Link(identity, "control.sock")
        return link

    @property
    def _errands(self) -> list[Errands]:
        return [one.process._errands for one in self.providers if one]

    # births

    def _start_broker(self) -> None:
        self._routers: dict[str, Router] = {}
        self.broker = Broker(self.wiring, self._config, self._loop(), self._routers)

    def _start_worker(self, index: int) -> None:
        self.workers[index] = Worker(self.wiring, index, self.memories, self.clock, self._joined)

    def _start_provider(self, index: int) -> None:
        loop = self._loop()
        server = Server(self.entries, self.draw, self._check_sending)
        self._system.connections = lambda: server
        provider = self.providers[index] = Provider(self.wiring, index, self._config, loop, server)
        provider.connect()
        provider.link = self._links[b"p%d" % index]

    def _greet(self) -> None:
        editor = Editor(b"c%d" % len(self.editors), self._loop(), self.deaths)
        self.editors.append(editor)
        self._links[editor.link.identity] = editor.link
        editor.greet()

    # deaths

    def _say(self, what: str) -> None:
        if self.trace is not None:
            self.trace(f"{self.clock.now_ns / 1e9 - 10:.6f} {what}")

    def _kill_worker(self, index: int) -> None:
        worker = self.workers[index]
        assert worker is not None
        slot = worker.die(self.draw)
        self._say(f"worker {index} dies, in a record of {slot}")
        if slot and (entry := self._by_slot(slot)) is not None:
            entry.poisoned += 1
        if worker.link is not None:
            worker.link.peer_died(self.draw)
            worker.link.close()
        self.workers[index] = None
        self.deaths.worker += 1

        def replace() -> None:
            hand_over(self.memories[f"out{index}"], producer=True)
            for row in self.wiring.ins:
                hand_over(self.memories[row[index].name], consumer=True)
            self._start_worker(index)

        self._dead.append(replace)

    def _by_slot(self, slot: int) -> Entry | None:
        if self.broker is None:
            return None
        stream = self.broker.process._sessions.streams.get(slot)
        return next((e for e in self.entries.values() if stream and e.id == stream.id), None)

    def _kill_broker(self) -> None:
        broker = self.broker
        assert broker is not None
        self._system.loop = broker.loop
        broker.loop.turn(self.draw.randint(0, 3))
        self._say("the broker dies")
        streams = broker.process._sessions.by_id
        under_way = {one.start.stream for errands in self._errands for one in _all(errands)}
        for entry in self.entries.values():
            stream = streams.get(entry.id)
            entry.alone = True  # until its readers have found the next one
            entry.heap_lost |= stream is not None and _has_heap(stream)
            entry.start_lost |= entry.seen < 0 and entry.id not in under_way
        broker.loop.die()
        for link in self._links.values():
            link.broker_died(self.draw)
        self.broker = None
        self._routers = {}
        self.deaths.broker += 1

        def replace() -> None:
            for line in self.wiring.outs:
                hand_over(self.memories[line.name], consumer=True)
            self._start_broker()

        self._dead.append(replace)

    def _kill_provider(self, index: int) -> None:
        provider = self.providers[index]
        assert provider is not None
        self._system.loop = provider.loop
        provider.loop.turn(self.draw.randint(0, 3))
        self._say(f"provider {index} dies")
        provider.loop.die()
        provider.link.peer_died(self.draw)
        provider.link.close()
        del self._links[provider.link.identity]
        for entry in self.entries.values():
            entry.provider_deaths += bool(entry.id)
        self.providers[index] = None
        self.deaths.provider += 1

        def replace() -> None:
            for line in self.wiring.ins[index]:
                hand_over(self.memories[line.name], producer=True)
            self._start_provider(index)

        self._dead.append(replace)

    def _kill_somebody(self) -> None:
        """A death, or two in short succession."""
        draw = self.draw
        for _ in range(draw.choice((1, 1, 2))):
            kind = draw.choice(("worker", "worker", "broker", "provider", "client"))
            if kind == "worker" and self._may_lose_worker():
                self._kill_worker(draw.randrange(len(self.workers)))
                if self.deaths.at_once and draw.random() < 0.5 and self.broker:
                    self._kill_broker()
            elif kind == "broker" and self._may_lose_broker():
                self._kill_broker()
            elif kind == "provider":
                index = draw.randrange(len(self.providers))
                if self.providers[index] is not None:
                    self._kill_provider(index)
            elif kind == "client" and draw.random() < 0.3:
                self._leave(draw.choice(self.editors))

    def _may_lose_worker(self) -> bool:
        """A worker and a broker that die at once take more with them than is promised."""
        there = all(worker is not None for worker in self.workers)
        whole = self.broker is not None and self.broker.is_whole
        return there and (whole or self.deaths.at_once)

    def _may_lose_broker(self) -> bool:
        there = all(worker is not None and not worker.asks for worker in self.workers)
        return self.broker is not None and (there or self.deaths.at_once)

    def _leave(self, editor: Editor) -> None:
        if not editor.dead:
            self._say(f"{editor.link.identity!r} dies")
            editor.die()
            editor.link.peer_died(self.draw)
            self.deaths.client += 1

    # what happens by chance

    def run(self) -> None:
        """Let things happen, then let everybody go on to the end. Raises `Violation`."""
        draw = self.draw
        for _ in range(self.steps):
            self._step(draw.random())
        self._settle()
        self._check_rest()

    def _step(self, chance: float) -> None:
        draw = self.draw
        if chance < self._deadly:
            self._kill_somebody()
        elif chance < 0.2:
            self._act(draw.random())
        elif chance < 0.23:
            self._pass_time()
        elif chance < 0.26:
            self._crowd()
        elif chance < 0.35:
            self._recover(draw)
        elif chance < 0.5:
            self._hear(draw)
        else:
            self._move(draw.choice(("broker", "worker", "provider", "client")))

    def _act(self, chance: float) -> None:
        """A user does something."""
        draw = self.draw
        editor = draw.choice(self.editors)
        self._system.loop = editor.loop
        if editor.dead or editor.stalled:
            if editor.stalled:
                editor.stalled = False
            elif len(self.editors) < 5:
                self._greet()
        elif not editor.is_welcome:
            return
        elif self._unopened and chance < 0.6:
            entry = self._unopened.pop()
            self._say(f"{editor.link.identity!r} opens {entry.answer.name}")
            editor.open(entry, draw.choice(CLIENT_WINDOWS), draw.randbytes(16))
        elif chance < 0.75:
            self._attach(editor)
        elif chance < 0.8:
            editor.stalled = True
            for reading in editor.open_handles:
                reading.entry.leave()
        elif chance < 0.9 and self._bodies() and draw.random() < 0.3:
            self._cut(draw.choice(self._bodies()))
        elif editor.open_handles:
            reading = draw.choice(editor.open_handles)
            self._leave_stream(editor, reading, cancel=chance > 0.96)

    def _leave_stream(self, editor: Editor, reading: Reading, *, cancel: bool) -> None:
        self._say(f"{'cancel' if cancel else 'detach'} {reading.entry.answer.name}")
        if cancel:
            editor.cancel(reading)
        else:
            editor.detach(reading)

    def _attach(self, editor: Editor) -> None:
        """Read a stream that somebody has opened, from anywhere he knows."""
        draw = self.draw
        known = [(r.entry, r.stream) for one in self.editors for r in one.readings if r.stream.id]
        if not known:
            return
        entry, stream = draw.choice(known)
        after = min(draw.choice((-1, entry.acked - 1, stream.seq)), entry.seen)
        self._say(f"{editor.link.identity!r} attaches to {entry.answer.name} after {after}")
        editor.attach(entry, after, draw.choice(CLIENT_WINDOWS))

    def _crowd(self) -> None:
        """Other streams, of no interest here, fill a ring, so that what follows is cut in parts."""
        draw = self.draw
        ends = [
            (outlet.writer, line)
            for index, one in enumerate(self.providers)
            if one is not None
            for outlet, line in zip(one.process._outlets, self.wiring.ins[index], strict=True)
        ]
        ends += [(w.out, self.wiring.outs[w.index]) for w in self.workers if w is not None]
        if ends:
            writer, line = draw.choice(ends)
            if load(writer, draw.randint(1, 8)):
                line.bell.ring()
            outward = line in self.wiring.outs
            self._move("worker" if outward else "provider")
            if draw.random() < 0.5:
                self._move("broker" if outward else "worker")

    def _bodies(self) -> list[Body]:
        return [body for one in self.providers if one for body in one.server.bodies]

    def _check_sending(self, server: Server, entry: Entry) -> None:
        """A request is sent, maybe again. Raises `Violation` if nobody wants that."""
        provider = next(one for one in self.providers if one and one.server is server)
        ours = [one for one in _all(provider.process._errands) if one.start.stream == entry.id]
        wanted = [one.start.slot for one in ours if not (one.over or one.stopped)]
        stream = self.broker.process._sessions.by_id.get(entry.id) if self.broker else None
        heard = not provider.link.down
        if not wanted:
            raise Violation(f"{entry.answer.name}: sent when it was over")
        if self._is_said(wanted[0]) or (stream is not None and stream.end):
            raise Violation(f"{entry.answer.name}: sent when there were tokens of it")
        if stream is not None and stream.cancelled and heard:
            raise Violation(f"{entry.answer.name}: sent when it was cancelled")

    def _is_said(self, slot: int) -> bool:
        """Whether a worker has said any token of a stream."""
        stages = [one.stage for one in self.workers if one and not one.asks]
        return any(slot in one._streams and one._streams[slot].next_seq for one in stages)

    def _cut(self, body: Body) -> None:
        for provider in self.providers:
            if provider and body in provider.server.bodies and not body.paused:
                self._system.loop = provider.loop
                self._say(f"connection of {body.entry.answer.name} breaks")
                body.cut()

    # who moves

    def _move(self, kind: str) -> None:
        draw = self.draw
        one: Worker | Provider | Editor | None
        if kind == "broker":
            if self.broker is not None:
                self._system.loop = self.broker.loop
                self.broker.loop.turn()
            return
        if kind == "worker":
            one = draw.choice(self.workers)
        elif kind == "provider":
            one = draw.choice(self.providers)
        else:
            one = draw.choice(self.editors)
        if isinstance(one, Worker):
            one.step(draw)
        elif one is not None:
            self._system.loop = one.loop
            one.step(draw)
            if isinstance(one, Provider):
                one.check()

    def _hear(self, draw: random.Random) -> None:
        if self.broker is not None:
            self._system.loop = self.broker.loop
            self.broker.hear(draw.choice(list(self._links.values())), draw.randint(1, 5))

    def _recover(self, draw: random.Random) -> None:
        """A dead process is replaced, or a link is there again."""
        if self._dead and draw.random() < 0.7:
            self._dead.pop(draw.randrange(len(self._dead)))()
        else:
            self._connect(draw)

    def _connect(self, draw: random.Random, *, all_: bool = False) -> bool:
        """Connect links to the broker, where it listens."""
        moved = False
        for link in list(self._links.values()):
            if link.connected or link.address not in self._routers or not self._lives(link):
                continue
            if all_ or draw.random() < 0.6:
                link.connected = moved = True
                link.on_connected()
        return moved

    def _lives(self, link: Link) -> bool:
        return not any(one.dead and one.link is link for one in self.editors)

    def _pass_time(self, late_ns: int = 0) -> None:
        """Go to the next moment at which somebody has something to do, or a bit behind it."""
        loops = [one.loop for one in (self.broker, *self.providers) if one is not None]
        loops += [one.loop for one in self.editors if not one.dead]
        moments = [loop.next_ns for loop in loops]
        moments += [worker.wake_ns for worker in self.workers if worker is not None]
        self.clock.now_ns = max(
            self.clock.now_ns,
            min((one for one in moments if one is not None), default=self.clock.now_ns) + late_ns,
        )

    # the end

    def _settle(self) -> None:
        """Let everybody go on until nothing is left to do. Raises `Violation` if it hangs."""
        for editor in self.editors:
            editor.stalled = False
        limit_ns = self.clock.now_ns + PATIENCE_NS
        for _ in range(TURNS):
            if self._settle_once():
                continue
            if self._is_over():
                return
            if self.clock.now_ns > limit_ns:
                break
            self._pass_time(LATE_NS)
        raise Violation(f"hangs: {self._left()}")

    def _settle_once(self) -> bool:
        """Everybody has a turn; return whether anybody did anything."""
        moved = False
        system = self._system
        while self._dead:
            self._dead.pop(0)()
            moved = True
        assert self.broker is not None
        system.loop = self.broker.loop
        moved |= self._connect(self.draw, all_=True)
        for link in list(self._links.values()):
            system.loop = self.broker.loop
            moved |= self.broker.hear(link, 1 << 20)
        moved |= self.broker.loop.turn()
        for one in (*self.providers, *self.editors):
            assert one is not None
            system.loop = one.loop
            moved |= one.settle()
        for worker in self.workers:
            assert worker is not None
            moved |= worker.settle()
        return moved

    def _left(self) -> list[str]:
        """What is not at its end."""
        assert self.broker is not None
        process = self.broker.process
        left = [
            f"reader of {reading.entry.answer.name} at {reading.inbox.next}"
            for editor in self.editors
            if not editor.dead
            for reading in editor.open_handles
        ]
        live = [s for s in process._sessions.streams.values() if not s.terminal]
        left += [f"stream {stream.slot} at {stream.end}" for stream in live]
        left += [f"lease of {slot}" for slot in process._desk.readers.leases]
        left += [f"pause of {slot}" for slot in process._dispatch.pauses]
        gone = {editor.link.identity for editor in self.editors if editor.dead}
        for route, one in process._sessions.clients.items():
            if route in gone or one.subscriptions:
                left.append(f"client {route!r}")
        for errands in self._errands:
            left += [f"errand of {one.start.slot}" for one in _all(errands) if self._is_due(one)]
            left += [f"end of {slot}" for slot in errands._flows]
        return left

    def _is_due(self, errand: Errand) -> bool:
        """Whether it must be forgotten: what a broker that died had to say may be missing."""
        return not errand.over or not self.deaths.broker

    def _is_over(self) -> bool:
        return self.broker is not None and self.broker.is_whole and not self._left()

    def _check_rest(self) -> None:
        """All has ended: nothing may be left behind. Raises `Violation`."""
        assert self.broker is not None
        self._let_forget()
        for worker in self.workers:
            assert worker is not None
            stage = worker.stage
            held = [one for one in stage._held if one]
            _empty("worker", stage._streams, stage._partial, held, stage._pending, stage._told)
            if not self.deaths.provider:  # else there may be no more than one end for two
                _empty("worker", stage._said)
            for reader in stage._ins:
                _empty("in-ring", [reader.pending] if reader.pending else [])
                if reader.released != reader.position:
                    raise Violation("in-ring: something is not given back")
        for provider in self.providers:
            assert provider is not None
            process = provider.process
            waiting = [flow for outlet in process._outlets for flow in outlet.waiting]
            errands, admission = process._errands, process._manager._admission
            _empty("provider", errands._errands, errands._flows, waiting)
            _empty("limits", admission._asked, admission._sent)
            _empty("timers", provider.loop.waiting(errands._course.go_on))
        self._check_broker(self.broker)

    def _let_forget(self) -> None:
        """Let the time pass after which nobody waits for a broker that died."""
        for after_s in (UNHEARD_S, FORGOTTEN_S):
            if not any(map(_all, self._errands)):
                return
            for provider in self.providers:
                assert provider is not None
                self._system.loop = provider.loop
                provider.process._errands.tick(self.clock.monotonic() + after_s)
            self._settle()

    def _check_broker(self, broker: Broker) -> None:
        """Its streams go when their bytes are needed."""
        sessions = broker.process._sessions
        for log, line in zip(sessions.logs, self.wiring.outs, strict=True):
            writer = Writer(self.memories[line.name])
            for _ in range(4):
                load(writer, 3)
                self._system.loop = broker.loop
                broker.process._intake.drain(log.worker)
            _empty("log", log._held)
        _empty("broker", sessions.streams, sessions.by_id, sessions.again, sessions.behind)
        _empty("broker", sessions.unsaid, sessions.begun, sessions.granted, sessions.ended)
        for client in sessions.clients.values():
            _empty("client", client.subscriptions, client.parts)


def _all(errands: Errands) -> list[Errand]:
    return list(errands._errands.values())


def _has_heap(stream: Stream) -> bool:
    """Whether anything of it lies on the broker's heap, and not in a ring or the spill."""
    return any(isinstance(record.payload.obj, bytes) for record in stream.entries)


def _empty(where: str, *things: object) -> None:
    for thing in things:
        if thing:
            raise Violation(f"{where}: {str(thing)[:100]} is left")


def load(writer: Writer, number: int) -> bool:
    """Fill a ring with records that mean nothing to anybody; return what `publish` does."""
    for _ in range(number):
        writer.append(records.START, 0, 0, 0, BALLAST, records.WHOLE)
    return writer.publish()
