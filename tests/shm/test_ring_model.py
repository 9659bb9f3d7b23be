"""Model check of the ring: every interleaving of both ends, on three kinds of memory.

The real `Writer` and `Reader` run on a simulated memory. What an end does next depends
only on what it has read so far, so a tree of reads holds its whole behaviour: an end is run
again from the start for each new path and is stopped at its next read, fence, ring or wait.
The search goes through all pairs of such points. A store travels: who wrote it sees it at
once, the other end when a read of its may see it.

* SEQUENTIAL: a store is seen before the next step of its writer that is not a store.
* TSO (x86-64): stores are seen in order, any time; a writer's fence waits for them all.
* WEAK (arm64): stores are seen in any order, those to one word in theirs; what stood before
  a fence of the writer is seen by the reader after the reader's next fence. A store that
  overtakes an earlier read of its own writer is not modelled.

Fences are left out, checks too, to prove that the search can fail.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from typing import Any, NamedTuple, TypeAlias, cast

import pytest

from ringcast.errors import RingCorrupt, RingError, RingNotReady
from ringcast.shm import layout, ring
from ringcast.shm.layout import W_DATA, W_HEAD, W_READY, W_RELEASED, W_TAIL, size_of
from ringcast.shm.ring import Reader, Writer

CAPACITY = 128  # two to four records: laps end and the ring fills up all the time
WORDS = size_of(CAPACITY) // 8

Kind = Enum("Kind", "LOAD FENCE RING WAIT DONE WRONG")
Memory = Enum("Memory", "SEQUENTIAL TSO WEAK")
MEMORIES = pytest.mark.parametrize("memory", list(Memory), ids=lambda memory: memory.name)
TSO, WEAK = Memory.TSO, Memory.WEAK


class Step(NamedTuple):
    """What an end does next. `what` is a word, a bell, a fence's place, or what went wrong."""

    kind: Kind
    what: int | str = ""


class Node:
    """An end's state: its stores so far, its next step, and what follows each answer."""

    __slots__ = ("children", "path", "step", "stores")

    def __init__(self, path: tuple[int, ...], step: Step, stores: list[tuple[int, int]]) -> None:
        self.path, self.step, self.stores = path, step, stores
        self.children: dict[int, Node] = {}


class Pause(BaseException):
    """The end has come to a step whose answer is not known yet."""


class Killed(BaseException):
    """The end's process was killed."""


class Port:
    """What one run of an end sees of the world; `answers` are those known beforehand.

    `known` are the words that the other end never writes, and what they are at the start.
    """

    def __init__(self, answers: tuple[int, ...], known: dict[int, int]) -> None:
        self.known = known
        self.own: dict[int, int] = {}
        self.stores: list[tuple[int, int]] = []
        self.step = Step(Kind.DONE)
        self.deeds = 0
        self.last_deed = -1  # the end is killed before the deed after this one
        self._answers = iter(answers)

    def ask(self, kind: Kind, what: int | str) -> int:
        for answer in self._answers:
            return answer
        self.step = Step(kind, what)
        raise Pause

    def deed(self) -> None:
        if self.deeds == self.last_deed:
            self.last_deed = -1
            raise Killed
        self.deeds += 1

    def load(self, word: int) -> int:
        if word in self.own:
            return self.own[word]
        return self.known[word] if word in self.known else self.ask(Kind.LOAD, word)

    def store(self, word: int, value: int) -> None:
        assert word in self.known, f"word {word} has two writers (R2)"
        self.deed()
        self.own[word] = value
        self.stores.append((word, value))

    def ring(self, bell: str) -> None:
        self.deed()
        self.ask(Kind.RING, bell)

    def wait(self, bell: str) -> None:
        self.ask(Kind.WAIT, bell)

    def fence(self, place: str) -> None:
        self.ask(Kind.FENCE, place)

    @property
    def memory(self) -> memoryview:
        return cast(memoryview, View(self, 0, WORDS * 8))


class View:
    """What the ring takes for a `memoryview`: whole words of a port."""

    def __init__(self, port: Port, start: int, stop: int) -> None:
        self._port, self._start, self._stop = port, start, stop

    def __len__(self) -> int:
        return self._stop - self._start

    def __getitem__(self, key: slice | int) -> Any:
        if isinstance(key, int):
            return self._port.load(self._start // 8 + key)
        start, stop, _ = key.indices(len(self))
        return View(self._port, self._start + start, self._start + stop)

    def __setitem__(self, key: slice | int, value: Any) -> None:
        if isinstance(key, int):
            self._port.store(self._start // 8 + key, value)
            return
        view = self[key]
        assert len(view) == len(value)
        for i, (word,) in enumerate(struct.iter_unpack("<Q", value)):
            self._port.store(view._start // 8 + i, word)

    def __bytes__(self) -> bytes:
        words = range(self._start // 8, self._stop // 8)
        return b"".join(self._port.load(word).to_bytes(8, "little") for word in words)

    def __enter__(self) -> View:
        return self

    def __exit__(self, *_: object) -> None: ...

    def cast(self, _format: str) -> View:
        return self

    def release(self) -> None: ...


End: TypeAlias = Callable[[Port], None]
Words: TypeAlias = frozenset[int]
PRODUCERS: Words = frozenset({*range(16, 32), *range(W_DATA, WORDS)})
CONSUMERS: Words = frozenset(range(32, W_DATA))


class Behaviour:
    """The tree of everything one end can do."""

    def __init__(self, end: End, known: dict[int, int]) -> None:
        self._end, self._known = end, known
        self.root = self._run(())

    def after(self, node: Node, answer: int = 0) -> Node:
        if answer not in node.children:
            node.children[answer] = self._run((*node.path, answer))
        return node.children[answer]

    def _run(self, path: tuple[int, ...]) -> Node:
        port = Port(path, self._known)
        Simulation.port = port
        try:
            self._end(port)
        except Pause:
            pass
        except (RingError, AssertionError) as error:
            port.step = Step(Kind.WRONG, f"{type(error).__name__}: {error}")
        return Node(path, port.step, port.stores)


class Simulation:
    """The port that the running end's fences and struct calls go to."""

    port: Port

    @classmethod
    @contextmanager
    def run(cls, memory: Memory, without: str = "") -> Iterator[None]:
        """Put the simulated memory under the ring's code, without one of its fences."""

        def fence() -> None:
            place = sys._getframe(1).f_code.co_name + ".fence"
            if place != without:
                cls.port.fence(place)

        def order() -> None:
            place = sys._getframe(1).f_code.co_name + ".order"
            if place != without and memory is Memory.WEAK:
                cls.port.fence(place)

        def pack_head(view: View, at: int, *fields: int) -> None:
            view[at : at + ring.HEAD.size] = ring.HEAD.pack(*fields)

        def unpack_head(view: View, at: int) -> tuple[Any, ...]:
            return ring.HEAD.unpack(bytes(view[at : at + ring.HEAD.size]))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ring, "fence", fence)
            patch.setattr(ring, "order", order)
            patch.setattr(layout, "order", order)
            patch.setattr(ring, "_pack_head", pack_head)
            patch.setattr(ring, "_unpack_head", unpack_head)
            patch.setattr(ring, "PATIENCE", 2)
            patch.setattr(layout, "MIN_CAPACITY", CAPACITY)
            patch.setattr(layout, "max_payload", lambda capacity: capacity // 2 - layout.HEADER)
            yield


class State(NamedTuple):
    """Both ends, what each has seen of the other's stores, and which bells have been rung.

    `seen[i]` is how many of the other's stores end i has seen (in order), or, on WEAK, the
    newest one of each word; `fenced[i]` is how many stores of end i stood before a fence.
    """

    nodes: tuple[Node, Node]
    seen: tuple[Any, Any]
    fenced: tuple[int, int]
    bells: frozenset[int | str]


def replaced(pair: tuple[Any, Any], side: int, value: Any) -> tuple[Any, Any]:
    return (value, pair[1]) if side == 0 else (pair[0], value)


class Search:
    """All states that two ends can come to, up to one where something is `wrong`.

    `writes` says which words each end writes; only the other end's are worth a step.
    """

    def __init__(
        self, memory: Memory, start: list[int], ends: tuple[End, End], writes: tuple[Words, Words]
    ) -> None:
        self._memory, self._start = memory, start
        self._ends = [
            Behaviour(end, {w: start[w] for w in range(WORDS) if w not in others})
            for end, others in zip(ends, reversed(writes), strict=True)
        ]
        self.states = 0
        self.wrong: set[str] = set()

    def run(self, sought: str = "") -> Search:
        """Look until a fault is found whose text holds `sought`, or at every state."""
        nothing: Any = () if self._memory is WEAK else 0
        roots = (self._ends[0].root, self._ends[1].root)
        first = State(roots, (nothing, nothing), (0, 0), frozenset())
        known, todo = {first}, [first]
        while todo and not any(sought in text for text in self.wrong):
            state = todo.pop()
            following = [after for side in (0, 1) for after in self._steps(state, side)]
            if not following:
                self._end(state)
            fresh = [after for after in dict.fromkeys(following) if after not in known]
            known.update(fresh)
            todo.extend(fresh)
        self.states = len(known)
        return self

    def _end(self, state: State) -> None:
        for node in state.nodes:
            if node.step.kind is Kind.WRONG:
                self.wrong.add(str(node.step.what))
        kinds = {node.step.kind for node in state.nodes}
        if Kind.WAIT in kinds and Kind.WRONG not in kinds:
            self.wrong.add("lost wake-up: " + ", ".join(str(n.step.what) for n in state.nodes))

    def _steps(self, state: State, side: int) -> Iterator[State]:
        node, (kind, what) = state.nodes[side], state.nodes[side].step
        if self._memory is Memory.SEQUENTIAL:
            state = state._replace(seen=replaced(state.seen, 1 - side, len(node.stores)))
        if kind is Kind.LOAD:
            yield from self._load(state, side, cast(int, what))
        elif kind is Kind.FENCE:
            yield self._move(self._fence(state, side), side)
        elif kind is Kind.RING:
            yield self._move(state._replace(bells=state.bells | {what}), side)
        elif kind is Kind.WAIT and what in state.bells:
            yield self._move(state._replace(bells=state.bells - {what}), side)

    def _move(self, state: State, side: int, answer: int = 0) -> State:
        after = self._ends[side].after(state.nodes[side], answer)
        return state._replace(nodes=replaced(state.nodes, side, after))

    def _fence(self, state: State, side: int) -> State:
        mine, theirs = state.nodes[side].stores, state.nodes[1 - side].stores
        if self._memory is not Memory.WEAK:
            return state._replace(seen=replaced(state.seen, 1 - side, len(mine)))
        newest = dict(state.seen[side])
        for i, (word, _) in enumerate(theirs[: state.fenced[1 - side]]):
            newest[word] = max(i, newest.get(word, -1))
        return state._replace(
            seen=replaced(state.seen, side, tuple(sorted(newest.items()))),
            fenced=replaced(state.fenced, side, len(mine)),
        )

    def _load(self, state: State, side: int, word: int) -> Iterator[State]:
        """Read what has been seen already, or any later store to the word."""
        theirs, seen = state.nodes[1 - side].stores, state.seen[side]
        versions = [i for i, (where, _) in enumerate(theirs) if where == word]
        if self._memory is Memory.WEAK:
            current = dict(seen).get(word, -1)
        else:
            current = max((i for i in versions if i < seen), default=-1)
        yield self._move(state, side, self._start[word] if current < 0 else theirs[current][1])
        for i in versions:
            if i > current:
                if self._memory is Memory.WEAK:
                    now: Any = tuple(sorted({**dict(seen), word: i}.items()))
                else:
                    now = i + 1
                after = state._replace(seen=replaced(state.seen, side, now))
                yield self._move(after, side, theirs[i][1])


def stale_ring(position: int) -> list[int]:
    """An empty ring at `position`, where each word of the data is an earlier lap's commit."""
    memory = memoryview(bytearray(size_of(CAPACITY)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "MIN_CAPACITY", CAPACITY)
        layout.initialise(memory, CAPACITY)
    words, sequence_bits = memory.cast("Q"), vars(ring)["SEQ_BITS"]
    for word in (W_TAIL, W_HEAD, W_RELEASED):
        words[word] = position
    for place in range(position - CAPACITY, position, 8):
        words[W_DATA + place % CAPACITY // 8] = 24 | place << 29 & sequence_bits
    return list(words)


def payload(number: int, size: int) -> bytes:
    return bytes(range(0x40 + number, 0x40 + number + size))


def fields(record: ring.Record) -> tuple[object, ...]:
    return (record.kind, record.stream, record.a, record.b, bytes(record.payload))


def expected(number: int, size: int) -> tuple[object, ...]:
    return (2, number, number + 7, number + 9, payload(number, size))


class Producer:
    """Publishes records of `sizes` in `batches`; killed at a deed, a successor goes on."""

    def __init__(self, sizes: list[int], batch: int = 2, killed_at: int = -1) -> None:
        self.sizes, self.batch, self.killed_at = sizes, batch, killed_at

    def __call__(self, port: Port) -> None:
        port.last_deed = self.killed_at
        self._ends: dict[int, int] = {}
        try:
            self._produce(port, Writer(port.memory), 0)
        except Killed:
            writer = Writer(port.memory)
            self._publish(port, writer)  # rings for what its predecessor published
            self._produce(port, writer, self._ends.get(writer.position, 0))

    def _produce(self, port: Port, writer: Writer, first: int) -> None:
        for number in range(first, len(self.sizes)):
            size = self.sizes[number]
            while not writer.append(2, number, number + 7, number + 9, payload(number, size)):
                self._publish(port, writer)
                if writer.wait():
                    port.wait("room")
            self._ends[writer.position] = number + 1
            if number % self.batch == self.batch - 1 or number == len(self.sizes) - 1:
                self._publish(port, writer)

    def _publish(self, port: Port, writer: Writer) -> None:
        if writer.publish():
            port.ring("record")


class Consumer:
    """Takes records and checks each; killed at a deed, a successor takes the rest."""

    reader: type[Reader] = Reader

    def __init__(self, sizes: list[int], killed_at: int = -1) -> None:
        self.sizes, self.killed_at = sizes, killed_at

    def __call__(self, port: Port) -> None:
        port.last_deed = self.killed_at
        self._ends: dict[int, int] = {}
        try:
            self._consume(port, self.reader(port.memory), 0)
        except Killed:
            reader = self.reader(port.memory)
            self._release(port, reader, reader.released)  # says what its predecessor did not
            self._consume(port, reader, self._ends.get(reader.released, 0))

    def _consume(self, port: Port, reader: Reader, number: int) -> None:
        while number < len(self.sizes):
            records = reader.poll()
            for record in records:
                self.look(record, number)
                number += 1
                self._ends[record.end] = number
            if records:
                self._release(port, reader, records[-1].end)
            elif reader.sleep():
                port.wait("record")
                reader.wake()

    def look(self, record: ring.Record, number: int) -> None:
        assert fields(record) == expected(number, self.sizes[number]), "a wrong record was read"

    def _release(self, port: Port, reader: Reader, position: int) -> None:
        if reader.release(position):
            port.ring("room")


SIZES = [8, 24, 0]
LARGE = [32, 32]  # with the rest of a lap more than the ring holds: the producer must wait
AT = 3 * CAPACITY + 72  # the second record meets the lap's end


def search(
    memory: Memory,
    producer: End,
    consumer: End,
    *,
    at: int = AT,
    without: str = "",
    sought: str = "",
) -> Search:
    start = stale_ring(at)
    with Simulation.run(memory, without):
        return Search(memory, start, (producer, consumer), (PRODUCERS, CONSUMERS)).run(sought)


@MEMORIES
def test_r6_to_r9_hold_in_every_interleaving(memory: Memory) -> None:
    """R6-R9: a batch and a record behind it; single records that find the ring full."""
    assert search(memory, Producer(SIZES, 2), Consumer(SIZES)).wrong == set()
    found = search(memory, Producer(LARGE, 1), Consumer(LARGE))
    assert found.wrong == set()
    assert found.states > 1000


@pytest.mark.parametrize("offset", range(0, CAPACITY, 8))
def test_r3_r4_hold_from_each_place_of_a_lap(offset: int) -> None:
    """R3, R4: padding of every size, with stale commit words of an earlier lap everywhere."""
    found = search(TSO, Producer(LARGE, 1), Consumer(LARGE), at=3 * CAPACITY + offset)
    assert found.wrong == set()


@pytest.mark.parametrize(
    ("memory", "sizes", "deeds"),
    [(TSO, SIZES[1:], range(1, 24)), (TSO, LARGE, range(13, 26, 4)), (WEAK, LARGE[:1], range(13))],
)
def test_r10_a_producer_killed_at_any_store_or_ring(
    memory: Memory, sizes: list[int], deeds: range
) -> None:
    """R10: its successor starts at `tail` and rings for what was published unheard."""
    for deed in deeds:
        found = search(memory, Producer(sizes, 1, deed), Consumer(sizes))
        assert found.wrong == set(), f"killed before deed {deed}"


@pytest.mark.parametrize(("memory", "sizes"), [(TSO, LARGE), (WEAK, LARGE[:1])])
def test_r11_a_consumer_killed_at_any_store_or_ring(memory: Memory, sizes: list[int]) -> None:
    """R11: its successor starts at `released` and wakes the producer that waits for room."""
    for deed in range(6 * len(sizes)):
        found = search(memory, Producer(sizes, 1), Consumer(sizes, deed))
        assert found.wrong == set(), f"killed before deed {deed}"


def test_attaching_beside_a_consumer_at_work_reads_positions_in_order() -> None:
    """R3: on weak memory too a producer's successor finds no contradiction."""
    sizes = [8, 0]
    found = search(WEAK, Producer(sizes, 1, 7), Consumer(sizes))
    assert found.wrong == set()
    sought = "contradict each other"
    found = search(
        WEAK, Producer(sizes, 1, 7), Consumer(sizes), without="check.order", sought=sought
    )
    assert any(sought in text for text in found.wrong)


EVERY = (frozenset(range(WORDS)), frozenset[int]())


def create(port: Port) -> None:
    layout.initialise(port.memory, CAPACITY)


def attach(port: Port) -> None:
    with suppress(RingNotReady):
        assert layout.check(port.memory) == CAPACITY


@MEMORIES
@pytest.mark.parametrize("again", [False, True])
def test_r1_attaching_during_creation_is_refused_as_not_ready(memory: Memory, again: bool) -> None:
    """R1: `ready` is stored last and read first; nothing but `RingNotReady` is raised."""
    start = stale_ring(AT) if again else [0] * WORDS
    start[W_READY] = 0  # whoever lays a ring out again says so before others may attach
    with Simulation.run(memory):
        assert Search(memory, start, (create, attach), EVERY).run().wrong == set()


@pytest.mark.parametrize("without", ["initialise.order", "check.order"])
def test_r1_the_search_misses_no_fence_of_the_layout(without: str) -> None:
    with Simulation.run(WEAK, without):
        assert Search(WEAK, [0] * WORDS, (create, attach), EVERY).run().wrong


# What follows is broken on purpose.


@pytest.mark.parametrize("without", ["publish.fence", "sleep.fence", "wait.fence", "release.fence"])
def test_r9_without_a_fence_a_wake_up_is_lost(without: str) -> None:
    sought = "lost wake-up"
    found = search(TSO, Producer(LARGE, 1), Consumer(LARGE), without=without, sought=sought)
    assert any(sought in text for text in found.wrong)


@pytest.mark.parametrize("without", ["publish.order", "poll.order"])
def test_r6_without_order_a_record_is_read_before_it_is_there(without: str) -> None:
    sought = "a wrong record was read"
    found = search(WEAK, Producer(SIZES), Consumer(SIZES), without=without, sought=sought)
    assert any(sought in text for text in found.wrong)
    found = search(TSO, Producer(SIZES), Consumer(SIZES), without=without)
    assert found.wrong == set()


class Framing(Consumer):
    """Looks only at what the commit word says, which is all that R5 vouches for."""

    refusals = 0

    def look(self, record: ring.Record, number: int) -> None:
        assert len(record.payload) == self.sizes[number], "a stale commit word was believed"

    def __call__(self, port: Port) -> None:
        try:
            super().__call__(port)
        except RingCorrupt as error:  # after PATIENCE looks, in which nothing was believed
            if "no record" not in str(error):
                raise
            self.refusals += 1


@pytest.mark.parametrize("offset", [0, 64, 104, 120])
def test_r5_refuses_a_record_whose_commit_word_has_not_arrived(offset: int) -> None:
    """R5: without order on weak memory the tail comes first, and each stale word is refused."""
    sizes, without = [8], "publish.order"
    producer, consumer = Producer(sizes), Framing(sizes)
    found = search(WEAK, producer, consumer, at=3 * CAPACITY + offset, without=without)
    assert found.wrong == set()
    assert consumer.refusals > 0


def test_r5_without_the_sequence_stale_bytes_are_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring, "SEQ_BITS", 0)
    sizes, without = [8, 0], "publish.order"
    found = search(WEAK, Producer(sizes), Framing(sizes), without=without)
    assert any("believed" in text or "is impossible" in text for text in found.wrong)


class Careless(Reader):
    """Does not look at `tail` again before it sleeps."""

    __slots__ = ()

    def sleep(self) -> bool:
        super().sleep()
        return True


class Forgetful(Reader):
    """Counts its sleeps from 1, as if nobody had slept before it."""

    __slots__ = ()

    def __init__(self, memory: memoryview) -> None:
        super().__init__(memory)
        self._generation = 0


class Incurious(Reader):
    """Believes that a producer that waited before its time has been told."""

    __slots__ = ()

    def __init__(self, memory: memoryview) -> None:
        super().__init__(memory)
        self._woken = self._words[layout.W_WAITING]


@pytest.mark.parametrize("reader", [Careless, Forgetful, Incurious])
def test_a_careless_reader_is_found_out(
    monkeypatch: pytest.MonkeyPatch, reader: type[Reader]
) -> None:
    """R9, R11: the look after `sleeping`, and what a successor must know, are needed."""
    monkeypatch.setattr(Consumer, "reader", reader)
    deeds = range(-1, 12)
    runs = (search(TSO, Producer(LARGE, 1), Consumer(LARGE, deed)) for deed in deeds)
    assert any(text.startswith("lost wake-up") for found in runs for text in found.wrong)
