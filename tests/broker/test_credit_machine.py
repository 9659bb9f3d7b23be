"""Credit against a hostile world: late, lost, repeated and reordered grants, dying producers.

Whatever happens in between, no producer runs further ahead than it was told, and in the end
every stream that was not cancelled has been read by everybody.
"""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right
from itertools import accumulate

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ringcast.broker.credit import BackpressureController, Budget

MINIMUM, MAXIMUM, TOTAL = 64, 2048, 4096
# mostly small records, and some larger than any window
RECORDS = st.lists(st.one_of(st.integers(1, 200), st.integers(1, 4000)), max_size=40)


class Producer:
    """Writes whole records up to its limit; the last one may overshoot it."""

    def __init__(self, ends: list[int], position: int, limit: int) -> None:
        """`ends` are the positions behind each record."""
        self._ends = ends
        self.position = position
        self.limit = limit

    def write(self) -> bool:
        """Write one record, if there is one and credit for it."""
        number = bisect_right(self._ends, self.position)
        if number == len(self._ends) or self.position >= self.limit:
            return False
        self.position = self._ends[number]
        return True

    def grant(self, limit: int) -> None:
        """Hear of a limit, maybe not for the first time."""
        self.limit = max(self.limit, limit)


class Stream:
    """A producer, the link to it, the window, and readers; the first of them pays."""

    def __init__(self, window: BackpressureController, sizes: list[int]) -> None:
        self.window = window
        self.ends = list(accumulate(sizes))
        self.producer = Producer(self.ends, 0, window.told)
        self.link: list[int] = []
        self.seen = 0
        self.readers = [0]
        self.told = window.told

    def settle(self) -> None:
        """Count what the paying reader is done with."""
        if self.window.processed(self.readers[0]):
            self.link.append(self.window.told)

    def see(self, position: int) -> None:
        """The broker sees where the producer is, or was."""
        self.window.reached(position)
        self.seen = max(self.seen, position)

    def read(self, index: int, records: int) -> bool:
        """A reader is done with some of the records that were seen."""
        before = self.readers[index]
        last = bisect_right(self.ends, self.seen)
        number = min(last, bisect_right(self.ends, before) + records)
        if number:
            self.readers[index] = max(before, self.ends[number - 1])
        if index == 0:
            self.settle()
        return self.readers[index] > before

    def replace(self, lost: bool) -> None:
        """The producer dies; its successor knows what was released, and is told the limit."""
        if lost:
            self.link.clear()
        released = self.window.released
        self.producer = Producer(self.ends, released, released)
        self.link.append(self.window.told)

    def step(self) -> bool:
        """Everybody does what they can, in order; return whether anything moved."""
        moved = bool(self.link)
        while self.link:
            self.producer.grant(self.link.pop(0))
        while self.producer.write():
            moved = True
        self.see(self.producer.position)
        for index in range(len(self.readers)):
            moved |= self.read(index, 3)
        return moved

    def check(self) -> None:
        """The window's promises to the producer and to the memory behind it."""
        window, producer = self.window, self.producer
        assert self.told <= window.told <= window.limit
        self.told = window.told
        assert producer.limit <= window.told
        # nothing was begun at the limit or behind it
        number = bisect_left(self.ends, producer.position)
        begun = self.ends[number - 1] if number else 0
        assert begun < window.told
        assert window.released <= window.acquired
        assert window.told <= window.released + MAXIMUM
        assert MINIMUM <= window.capacity <= MAXIMUM
        assert window.limit >= window.released + window.capacity


class Credit(RuleBasedStateMachine):
    """Up to six streams under one budget, and a clock that only rules move."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.budget = Budget(TOTAL, MINIMUM)
        self.streams: list[Stream] = []

    def _any(self, number: int) -> Stream:
        return self.streams[number % len(self.streams)]

    @precondition(lambda self: len(self.streams) < 6)
    @rule(sizes=RECORDS, initial=st.integers(1, 3000))
    def open(self, sizes: list[int], initial: int) -> None:
        window = self.budget.open(MAXIMUM, initial=initial, clock=lambda: self.now)
        self.streams.append(Stream(window, sizes))

    @precondition(lambda self: self.streams)
    @rule(which=st.integers(0, 5), records=st.integers(1, 20))
    def write(self, which: int, records: int) -> None:
        producer = self._any(which).producer
        for _ in range(records):
            producer.write()

    @precondition(lambda self: self.streams)
    @rule(which=st.integers(0, 5), late=st.integers(0, 3000))
    def see(self, which: int, late: int) -> None:
        stream = self._any(which)
        stream.see(max(0, stream.producer.position - late))

    @precondition(lambda self: self.streams)
    @rule(which=st.integers(0, 5), reader=st.integers(0, 5), records=st.integers(1, 20))
    def read(self, which: int, reader: int, records: int) -> None:
        stream = self._any(which)
        stream.read(reader % len(stream.readers), records)

    @precondition(lambda self: any(stream.link for stream in self.streams))
    @rule(seed=st.integers(0, 1000), again=st.booleans())
    def deliver(self, seed: int, again: bool) -> None:
        """A grant arrives: any of those under way, and maybe once more later."""
        choice = random.Random(seed)
        stream = choice.choice([stream for stream in self.streams if stream.link])
        index = choice.randrange(len(stream.link))
        stream.producer.grant(stream.link[index] if again else stream.link.pop(index))

    @precondition(lambda self: self.streams)
    @rule(which=st.integers(0, 5), lost=st.booleans())
    def die(self, which: int, lost: bool) -> None:
        self._any(which).replace(lost)

    @precondition(lambda self: self.streams)
    @rule(which=st.integers(0, 5), record=st.integers(0, 40))
    def join(self, which: int, record: int) -> None:
        """One more reader, from any record that was seen."""
        stream = self._any(which)
        seen = [0, *(end for end in stream.ends if end <= stream.seen)]
        stream.readers.append(seen[record % len(seen)])

    @precondition(lambda self: any(len(stream.readers) > 1 for stream in self.streams))
    @rule(which=st.integers(0, 5), reader=st.integers(0, 5))
    def leave(self, which: int, reader: int) -> None:
        """A reader goes; if it paid, the next one pays, maybe from further back."""
        stream = self._any(which)
        if len(stream.readers) > 1:
            stream.readers.pop(reader % len(stream.readers))
            stream.settle()

    @precondition(lambda self: self.streams)
    @rule(which=st.integers(0, 5))
    def cancel(self, which: int) -> None:
        stream = self._any(which)
        stream.window.close()
        self.streams.remove(stream)

    @rule(seconds=st.one_of(st.floats(0, 0.1), st.floats(0, 3.0)))
    def wait(self, seconds: float) -> None:
        """Time passes, without a tick."""
        self.now += seconds

    @rule(tells=st.booleans())
    def tick(self, tells: bool) -> None:
        for stream in self.streams:
            stream.window.adapt_capacity(self.now)
            if tells and stream.window.processed(stream.window.released):
                stream.link.append(stream.window.told)

    @invariant()
    def promises_are_kept(self) -> None:
        for stream in self.streams:
            stream.check()

    @invariant()
    def the_budget_is_shared(self) -> None:
        live = len(self.streams)
        assert self.budget.share == max(MINIMUM, TOTAL // max(1, live))
        if live:
            capacity = self._any(0).window.adapt_capacity(self.now)
            assert capacity <= self.budget.share

    def teardown(self) -> None:
        """Once nothing goes wrong any more, every stream comes to its end."""
        for stream in self.streams:
            while stream.step():
                self.now += 0.001
                stream.check()
            end = stream.ends[-1] if stream.ends else 0
            assert stream.producer.position == end
            assert set(stream.readers) == {end}
            assert stream.window.in_flight == 0


TestCredit = Credit.TestCase
TestCredit.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
