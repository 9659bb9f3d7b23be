"""Credit: permits within a process, limits across processes, and windows that find their size."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringcast.broker.credit import BackpressureController, BackpressureError, Budget
from ringcast.errors import Code

RECORD = 290  # bytes of a usual event
MINIMUM, MAXIMUM = 1 << 10, 256 << 10


class Clock:
    """Time as the test wants it, in seconds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def fixed(size: int) -> BackpressureController:
    """A window that cannot adapt."""
    return BackpressureController(size, size)


# permits within a process


def test_permits_are_given_while_they_fit() -> None:
    window = fixed(10)
    assert window.try_acquire(6)
    assert window.try_acquire(4)
    assert not window.try_acquire(1)
    window.release(3)
    assert (window.in_flight, window.available) == (7, 3)
    assert window.try_acquire(3)
    assert (window.acquired, window.released, window.available) == (13, 3, 0)


def test_more_than_a_window_goes_alone() -> None:
    window = fixed(10)
    assert window.try_acquire(1)
    assert not window.try_acquire(11)
    window.release(1)
    assert window.try_acquire(11)
    assert not window.try_acquire(1)
    assert window.available == 0


@pytest.mark.parametrize("n", [0, -1])
def test_permits_are_positive(n: int) -> None:
    window = fixed(10)
    with pytest.raises(ValueError, match="cannot acquire"):
        window.try_acquire(n)
    assert window.try_acquire(1)
    with pytest.raises(ValueError, match="cannot release"):
        window.release(n)


def test_what_is_not_in_flight_cannot_be_released() -> None:
    window = fixed(10)
    assert window.try_acquire(2)
    with pytest.raises(ValueError, match="2 are in flight"):
        window.release(3)


@pytest.mark.parametrize(("minimum", "maximum"), [(0, 5), (6, 5)])
def test_impossible_windows_are_refused(minimum: int, maximum: int) -> None:
    with pytest.raises(ValueError, match="no window"):
        BackpressureController(minimum, maximum)
    with pytest.raises(ValueError, match="budget"):
        Budget(maximum, minimum)


async def settle() -> None:
    """Let every task go as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def admitted(window: BackpressureController) -> list[int]:
    """Let 9, 2 and 1 wait for room, release a little at a time, and return who came when."""
    came: list[int] = []

    async def come(n: int) -> None:
        await window.acquire(n)
        came.append(n)

    tasks = [asyncio.create_task(come(n)) for n in (9, 2, 1)]
    await settle()
    while not all(task.done() for task in tasks):
        window.release(1)
        await settle()
    return came


def test_a_small_request_does_not_overtake_a_large_one() -> None:
    window = fixed(10)
    assert window.try_acquire(10)
    assert asyncio.run(admitted(window)) == [9, 2, 1]


def test_a_controller_serves_one_loop_after_another() -> None:
    window = fixed(10)
    for _ in range(2):
        assert window.try_acquire(10)
        assert len(asyncio.run(admitted(window))) == 3
        window.release(window.in_flight)


def test_a_wait_without_end_is_a_typed_error_and_leaves_no_trace() -> None:
    async def wait() -> None:
        window = fixed(10)
        assert window.try_acquire(5)
        with pytest.raises(BackpressureError) as caught:
            await window.acquire(6, timeout_s=0.01)
        assert caught.value.code == Code.BACKPRESSURE_TIMEOUT
        assert window.acquired == 5
        assert window.try_acquire(5)  # nobody waits any more

    asyncio.run(wait())


def test_a_waiter_that_gives_up_lets_those_behind_it_in() -> None:
    async def wait() -> None:
        window = fixed(10)
        assert window.try_acquire(5)
        large = asyncio.create_task(window.acquire(6))
        small = asyncio.create_task(window.acquire(5))
        await settle()
        large.cancel()
        await small
        assert window.acquired == 10

    asyncio.run(wait())


def test_permits_given_to_one_who_is_cancelled_before_it_runs_come_back() -> None:
    async def wait() -> None:
        window = fixed(10)
        assert window.try_acquire(10)
        first = asyncio.create_task(window.acquire(10))
        second = asyncio.create_task(window.acquire(10))
        await settle()
        window.release(10)
        first.cancel()
        await second
        assert first.cancelled()
        assert (window.acquired, window.in_flight) == (20, 10)

    asyncio.run(wait())


def test_a_close_tells_those_who_wait_and_those_who_come() -> None:
    async def wait() -> None:
        window = fixed(10)
        assert window.try_acquire(10)
        waiting = asyncio.create_task(window.acquire(1))
        cancelled = asyncio.create_task(window.acquire(1))
        await settle()
        cancelled.cancel()
        window.close()
        window.close()
        for late in (waiting, window.acquire(1)):
            with pytest.raises(BackpressureError) as caught:
                await late
            assert caught.value.code == Code.SHUTTING_DOWN
        with suppress(asyncio.CancelledError):
            await cancelled
        assert cancelled.cancelled()
        window.release(10)
        assert window.in_flight == 0

    asyncio.run(wait())


class Callers:
    """Tasks that acquire, in the order of their numbers, and what they have."""

    def __init__(self, window: BackpressureController, clock: Clock) -> None:
        self.window = window
        self.clock = clock
        self.sizes: list[int] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.granted: list[int] = []
        self.held: deque[int] = deque()

    async def _call(self, number: int, n: int, timeout_s: float) -> None:
        await self.window.acquire(n, timeout_s)
        self.granted.append(number)
        self.held.append(n)

    async def arrive(self, n: int, timeout_s: float) -> None:
        """One more caller, as far as its first wait."""
        self.sizes.append(n)
        call = self._call(len(self.tasks), n, timeout_s)
        self.tasks.append(asyncio.create_task(call))
        await asyncio.sleep(0)

    async def act(self, verb: str, number: int) -> None:
        """Do one thing; check that whoever was let in by it fits."""
        window, before = self.window, self.window.in_flight
        if verb == "arrive":
            await self.arrive(number, 30.0)
        elif verb == "hurry":
            await self.arrive(number, 0.0)
        elif verb == "cancel" and (waiting := [t for t in self.tasks if not t.done()]):
            waiting[number % len(waiting)].cancel()
        elif verb == "release" and self.held:
            window.release(self.held.popleft())
        elif verb == "tick":
            self.clock.now += number / 20
            window.adapt_capacity(self.clock.now)
        elif verb == "settle":
            await settle()
            self.check()
        if window.in_flight > before:
            assert window.in_flight <= window.capacity or window.in_flight in self.sizes

    def check(self) -> None:
        """When all is settled: nobody was overtaken, and what was given somebody has or had."""
        assert all(task.done() for task in self.tasks[: max(self.granted, default=0)])
        assert self.window.acquired == sum(self.sizes[number] for number in self.granted)
        assert self.window.in_flight == sum(self.held)

    async def finish(self) -> None:
        """Nobody who still waits is forgotten."""
        await settle()
        self.check()
        while self.held:
            self.window.release(self.held.popleft())
            await settle()
            self.check()
        assert all(task.done() for task in self.tasks)
        for number, task in enumerate(self.tasks):
            error = None if task.cancelled() else task.exception()
            assert error is None or isinstance(error, BackpressureError)
            assert (number in self.granted) == (not task.cancelled() and error is None)
        assert self.window.in_flight == 0
        assert self.window.try_acquire(self.window.capacity)


# arrivals are the most frequent, so that there is a queue
VERBS = st.sampled_from(["arrive", "arrive", "hurry", "cancel", "release", "tick", "settle"])


@given(st.lists(st.tuples(VERBS, st.integers(1, 40)), max_size=60), st.integers(1, 40))
@settings(max_examples=300, deadline=None)
def test_permits_against_a_model(actions: list[tuple[str, int]], initial: int) -> None:
    async def go() -> None:
        clock = Clock()
        callers = Callers(BackpressureController(4, 32, initial=initial, clock=clock), clock)
        for verb, number in actions:
            await callers.act(verb, number)
        await callers.finish()

    asyncio.run(go())


# limits across processes


def test_a_limit_is_told_in_steps_of_a_quarter() -> None:
    window = fixed(1000)
    assert (window.told, window.limit) == (1000, 1000)
    window.reached(900)
    assert not window.processed(250)
    assert (window.told, window.limit) == (1000, 1250)
    assert window.processed(251)
    assert window.told == 1251
    assert not window.processed(251)


def test_a_producer_that_stands_is_told_in_steps_of_an_eighth() -> None:
    window = fixed(1000)
    window.reached(1000)
    assert not window.processed(125)
    assert window.processed(126)
    assert window.told == 1126


@given(st.lists(st.integers(0, 5000), max_size=50), st.integers(1, 9000))
def test_old_news_change_nothing(positions: list[int], size: int) -> None:
    window, highest = fixed(size), 0
    for position in positions:
        before = window.told
        told = window.processed(position)
        highest = max(highest, position)
        assert told == (window.told > before)
        assert window.told >= before
        assert window.released == window.acquired == highest
        assert window.limit == highest + size
        assert window.limit - window.told <= size >> 2


def test_a_limit_that_was_told_outlives_the_window() -> None:
    clock = Clock()
    window = BackpressureController(MINIMUM, MAXIMUM, initial=64 << 10, clock=clock)
    for _ in range(10):
        clock.now += 1.0
        window.adapt_capacity(clock.now)
    assert (window.capacity, window.limit, window.told) == (MINIMUM, 64 << 10, 64 << 10)
    clock.now += 0.9
    window.reached(64 << 10)
    assert not window.processed(60 << 10)
    assert window.told == 64 << 10
    assert window.processed(64 << 10)
    assert window.told == (64 << 10) + window.capacity


# the size of a window


def look(window: BackpressureController, clock: Clock, used: int, drained: int, s: float) -> int:
    """`used` units in flight at most, `drained` in `s` seconds; the capacity after it."""
    end = window.released + drained
    steps = -(-drained // max(1, used)) or 1
    for _ in range(steps):
        window.reached(window.released + used)
        clock.now += s / steps
        window.processed(min(end, window.released + used))
    return window.adapt_capacity(clock.now)


@pytest.mark.parametrize(
    ("used", "drained", "s", "capacity"),
    [
        (8192, 8192, 0.081, 16384),  # used up, and quickly done with
        (8192, 8192, 0.253, 8192),  # a window lasts 250 ms
        (8192, 8192, 0.624, 8192),
        (8192, 8192, 0.626, 4096),  # it lasts too long
        (8192, 100, 0.9, 8192),  # too early to tell
        (8192, 100, 1.0, 4096),
        (5000, 8192, 0.08, 16384),  # the rest may be on its way, unseen
        (1000, 8192, 0.08, 8192),  # not even with that
        (2047, 0, 1.0, 4096),  # unused
    ],
)
def test_one_look(used: int, drained: int, s: float, capacity: int) -> None:
    clock = Clock()
    window = BackpressureController(MINIMUM, MAXIMUM, initial=8192, clock=clock)
    assert look(window, clock, used, drained, s) == capacity


def test_a_window_keeps_to_its_bounds() -> None:
    clock = Clock()
    window = BackpressureController(1000, 3000, initial=1 << 30, clock=clock)
    sizes = [window.capacity]
    sizes += [look(window, clock, 3000, 300, 1.0) for _ in range(3)]
    sizes += [look(window, clock, 3000, 3000, 0.01) for _ in range(3)]  # too early to trust it
    clock.now += 1.0
    sizes += [look(window, clock, 3000, 60_000, 0.01) for _ in range(3)]
    assert sizes == [3000, 1500, 1000, 1000, 1000, 1000, 1000, 3000, 3000, 3000]


def test_those_who_wait_count_as_use() -> None:
    """A small permit in flight and a large one that waits: the window is too small."""
    clock = Clock()
    window = BackpressureController(1000, 8000, initial=1000, clock=clock)
    assert window.try_acquire(100)
    assert not window.try_acquire(1000)
    for _ in range(9):
        clock.now += 0.008
        window.release(100)
        assert window.try_acquire(100)
    clock.now += 0.008
    window.release(100)
    assert window.capacity == 2000


@given(
    rate=st.floats(1e3, 1e7),
    round_trip=st.floats(0.005, 0.05),
    initial=st.integers(MINIMUM, MAXIMUM),
    source=st.floats(0.1, 3.0),
)
@settings(deadline=None)
def test_a_steady_stream_has_a_steady_window(
    rate: float, round_trip: float, initial: int, source: float
) -> None:
    """Whoever is the slower one, and by how much: the window comes to rest."""
    clock = Clock()
    window = BackpressureController(MINIMUM, MAXIMUM, initial=initial, clock=clock)
    sizes = []
    for _ in range(100):
        # fluid: the source goes at its own rate, held by the window; the reader at `rate`
        speed = min(rate, source * rate, window.capacity / round_trip)
        used = window.capacity if source > 1 else int(speed * round_trip) + 1
        sizes.append(look(window, clock, used, int(speed / 4), 0.25))
    assert len(set(sizes[-40:])) == 1


def test_a_reader_in_bursts_does_not_make_its_window_swing() -> None:
    """64 KiB once a second, within a millisecond: fast while it reads, slow over all."""
    clock = Clock()
    window = BackpressureController(MINIMUM, MAXIMUM, clock=clock)
    sizes = []
    for _ in range(30):
        clock.now += 1.0
        for _ in range(4):
            window.reached(window.told)
            clock.now += 0.0003
            window.processed(min(window.acquired, window.released + (16 << 10)))
            sizes.append(window.capacity)
    assert len(set(sizes[-60:])) == 1


# the budget


def test_a_budget_is_shared_by_those_who_live() -> None:
    budget = Budget(100_000, 1000)
    assert budget.share == 100_000
    windows = [budget.open(initial=40_000) for _ in range(4)]
    assert budget.share == 25_000
    assert [window.capacity for window in windows] == [40_000, 40_000, 33_333, 25_000]
    assert [window.adapt_capacity(0.0) for window in windows] == [25_000] * 4
    for window, share in zip(windows, [33_333, 50_000, 100_000], strict=False):
        window.close()
        window.close()
        assert budget.share == share


def test_a_window_grows_again_when_others_go() -> None:
    clock = Clock()
    budget = Budget(64_000, 1000)
    window = budget.open(clock=clock)
    others = [budget.open(clock=clock) for _ in range(15)]
    assert look(window, clock, 16 << 10, 16 << 10, 0.001) == 4000
    for other in others:
        other.close()
    sizes = [look(window, clock, 64_000, 64_000, 0.001) for _ in range(4)]
    assert sizes == [8000, 16_000, 32_000, 64_000]


def test_everybody_has_the_minimum_whatever_the_budget() -> None:
    budget = Budget(5000, 1000)
    assert min([budget.open(maximum=10).capacity for _ in range(50)]) == 1000
    assert budget.share == 1000


# convergence


class Simulation:
    """A producer, a reader and the window between them, in steps of a millisecond.

    Rates are in bytes a second. Positions take half a round trip from the producer to the
    broker, grants as long back; the reader gives credit for 64 events or each 50 ms.
    """

    def __init__(
        self, window: BackpressureController, clock: Clock, source: float, rate: float,
        round_trip_s: float,
    ) -> None:  # fmt: skip
        self.window = window
        self.clock = clock
        self.source, self.rate = source, rate
        self.half = round_trip_s / 2
        self.limit = window.told
        self.sent = self.read = 0.0
        self.offered = 0.0  # what the source has had to say
        self.grants: deque[tuple[float, int]] = deque()
        self.seen: deque[tuple[float, int]] = deque()
        self.credited_at = clock.now

    def step(self, dt: float) -> None:
        """Everybody does what `dt` seconds allow."""
        now, window = self.clock.now, self.window
        while self.grants and self.grants[0][0] <= now:
            self.limit = max(self.limit, self.grants.popleft()[1])
        self.offered = min(self.offered + self.source * dt, self.sent + self.source)
        while self.sent < self.limit and self.sent + RECORD <= self.offered:
            self.sent += RECORD
        self.seen.append((now + self.half, int(self.sent)))
        while self.seen[0][0] <= now:
            window.reached(self.seen.popleft()[1])
        self.read = min(self.read + self.rate * dt, window.acquired)
        self.credit(now)

    def credit(self, now: float) -> None:
        """Give credit as clients do."""
        whole = int(self.read) // RECORD * RECORD
        due = whole - self.window.released
        if due >= 64 * RECORD or (due and now - self.credited_at >= 0.05):
            self.credited_at = now
            if self.window.processed(whole):
                self.grants.append((now + self.half, self.window.told))


def run(simulations: list[Simulation], clock: Clock, seconds: float, dt: float = 0.001) -> None:
    """Let time pass; the windows hear a tick every 100 steps."""
    for number in range(int(seconds / dt)):
        clock.now += dt
        for simulation in simulations:
            simulation.step(dt)
            if number % 100 == 99:
                simulation.window.adapt_capacity(clock.now)


def simulation(source: float, rate: float, round_trip_s: float) -> Simulation:
    """One stream with a window of its own."""
    clock = Clock()
    window = BackpressureController(MINIMUM, MAXIMUM, clock=clock)
    return Simulation(window, clock, source, rate, round_trip_s)


@pytest.mark.parametrize("round_trip_s", [0.004, 0.05])
def test_a_fast_reader_has_the_largest_window_within_a_few_round_trips(round_trip_s: float) -> None:
    fast = simulation(1e9, 1e9, round_trip_s)
    run([fast], fast.clock, 0.05 + 6 * round_trip_s)  # four doublings, the first at 50 ms
    assert fast.window.capacity == MAXIMUM
    before = fast.window.released
    run([fast], fast.clock, 1.0)
    assert fast.window.released - before > 0.7 * MAXIMUM / (round_trip_s + 0.002)
    assert fast.window.capacity == MAXIMUM


@pytest.mark.parametrize("rate", [8e3, 40e3, 200e3])
@pytest.mark.parametrize("round_trip_s", [0.002, 0.05])
def test_a_slow_reader_has_about_250_ms_and_is_never_starved(
    rate: float, round_trip_s: float
) -> None:
    slow = simulation(1e9, rate, round_trip_s)
    run([slow], slow.clock, 20.0)
    assert 0.15 <= slow.window.capacity / rate <= 0.65
    before, size = slow.window.released, slow.window.capacity
    run([slow], slow.clock, 5.0)
    assert slow.window.capacity == size
    assert slow.window.released - before > 0.97 * rate * 5.0


@pytest.mark.parametrize("round_trip_s", [0.002, 0.05])
def test_a_model_at_its_own_pace_is_never_held(round_trip_s: float) -> None:
    """50 events a second and a quick reader: a small window, and no event waits for it."""
    paced = simulation(50 * RECORD, 1e9, round_trip_s)
    run([paced], paced.clock, 20.0)
    assert paced.window.capacity <= 8 << 10
    held = 0
    for _ in range(2000):
        run([paced], paced.clock, 0.001)
        held += paced.sent >= paced.limit
    assert held == 0


def test_an_idle_stream_falls_to_the_minimum_and_comes_back() -> None:
    idle = simulation(0.0, 1e9, 0.002)
    run([idle], idle.clock, 6.0)
    assert idle.window.capacity == MINIMUM
    idle.source = 1e9
    run([idle], idle.clock, 0.3)
    assert idle.window.capacity == MAXIMUM


def test_a_thousand_streams_keep_to_the_budget() -> None:
    clock = Clock()
    budget = Budget(4 << 20, MINIMUM)
    windows = [budget.open(MAXIMUM, clock=clock) for _ in range(1000)]
    streams = [Simulation(window, clock, 1e8, 1e8, 0.01) for window in windows]
    run(streams, clock, 0.5, dt=0.005)
    assert sum(window.capacity for window in windows) <= 4 << 20
    assert min(window.capacity for window in windows) == budget.share
    for window in windows[10:]:
        window.close()
    run(streams[:10], clock, 0.5, dt=0.005)
    assert {window.capacity for window in windows[:10]} == {MAXIMUM}
