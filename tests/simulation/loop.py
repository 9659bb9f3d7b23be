"""Time that moves when it is told to, and an event loop on it for one simulated process."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from itertools import count
from typing import Any


class Clock:
    """Nanoseconds. Each look at it takes one, so that no two moments are the same."""

    def __init__(self) -> None:
        self.now_ns = 10_000_000_000

    def monotonic_ns(self) -> int:
        """As `time.monotonic_ns`."""
        self.now_ns += 1
        return self.now_ns

    def monotonic(self) -> float:
        """As `time.monotonic`."""
        return self.monotonic_ns() / 1e9


class Bell:
    """A doorbell: rung until it is cleared. It is its own descriptor."""

    def __init__(self) -> None:
        self.rung = False

    def fileno(self) -> Bell:
        """What `Loop.add_reader` is given."""
        return self

    def ring(self) -> None:
        """Wake whoever waits."""
        self.rung = True

    def clear(self) -> None:
        """Take note."""
        self.rung = False


class Sleep:
    """What `asyncio.sleep` is here: a task is told how long."""

    def __init__(self, delay_s: float) -> None:
        self.delay_s = delay_s

    def __await__(self) -> Generator[float]:
        """Give the delay to the task."""
        yield self.delay_s


class Future:
    """A result that may not be there yet. Only the reader of a client waits for one."""

    def __init__(self) -> None:
        self._done = False

    def done(self) -> bool:
        """Whether there is a result."""
        return self._done

    def set_result(self, _: object) -> None:
        """There is one."""
        self._done = True

    set_exception = set_result

    def __await__(self) -> Generator[Future]:
        """Wait once: whoever drives the coroutine asks again later."""
        if not self._done:
            yield self


class Timer:
    """A call that will be made; `cancel` it."""

    __slots__ = ("args", "call", "cancelled")

    def __init__(self, call: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.call = call
        self.args = args
        self.cancelled = False

    def cancel(self) -> None:
        """It will not be made."""
        self.cancelled = True


class Task:
    """A coroutine that does nothing but sleep between its steps."""

    def __init__(self, loop: Loop, coroutine: Coroutine[Any, Any, object]) -> None:
        self._loop = loop
        self._coroutine = coroutine
        self._over = False
        self._done: list[Callable[[Task], object]] = []
        loop.call_soon(self._step)

    def _step(self) -> None:
        if self._over:
            return
        try:
            delay_s = self._coroutine.send(None)
        except StopIteration:
            self._over = True
            self._loop.tasks.pop(self, None)
            for call in self._done:
                call(self)
        else:
            self._loop.call_later(delay_s, self._step)

    def add_done_callback(self, call: Callable[[Task], object]) -> None:
        """Call when it has ended."""
        self._done.append(call)

    def cancel(self) -> None:
        """End it where it sleeps."""
        if not self._coroutine.cr_running:  # type: ignore[attr-defined]
            self._over = True
            self._coroutine.close()
            self._loop.tasks.pop(self, None)


class Loop:
    """One process's loop. `turn` is one of its turns."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ready: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._timers: list[tuple[int, int, Timer]] = []
        self._number = count()
        self._readers: list[tuple[Bell, Callable[..., object], tuple[Any, ...]]] = []
        self.tasks: dict[Task, None] = {}

    def time(self) -> float:
        """Seconds."""
        return self._clock.now_ns / 1e9

    def call_soon(self, call: Callable[..., object], *args: Any) -> None:
        """Call in the next turn."""
        self._ready.append((call, args))

    def call_later(self, delay_s: float, call: Callable[..., object], *args: Any) -> Timer:
        """Call when time has come."""
        timer = Timer(call, args)
        when = self._clock.now_ns + round(delay_s * 1e9)
        heapq.heappush(self._timers, (when, next(self._number), timer))
        return timer

    def create_task(self, coroutine: Coroutine[Any, Any, object]) -> Task:
        """Run a coroutine from the next turn on."""
        task = Task(self, coroutine)
        self.tasks[task] = None
        return task

    def create_future(self) -> Future:
        """Return a new future."""
        return Future()

    def add_reader(self, bell: Bell, call: Callable[..., object], *args: Any) -> None:
        """Call in each turn in which `bell` is rung."""
        self._readers.append((bell, call, args))

    @property
    def next_ns(self) -> int | None:
        """When the next timer is due."""
        timers = self._timers
        while timers and timers[0][2].cancelled:
            heapq.heappop(timers)
        return timers[0][0] if timers else None

    def waiting(self, call: Callable[..., object]) -> list[Timer]:
        """The timers that will make this call."""
        timers = (timer for _, _, timer in self._timers)
        return [timer for timer in timers if timer.call == call and not timer.cancelled]

    def turn(self, most: int | None = None) -> bool:
        """Make all calls that are due, or the first `most`; return whether there were any."""
        ready, timers, now_ns = self._ready, self._timers, self._clock.now_ns
        while timers and timers[0][0] <= now_ns:
            timer = heapq.heappop(timers)[2]
            if not timer.cancelled:
                ready.append((timer.call, timer.args))
        for bell, call, args in self._readers:
            if bell.rung:
                ready.append((call, args))
        number = len(ready) if most is None else min(most, len(ready))
        for _ in range(number):
            call, args = ready.popleft()
            call(*args)
        return number > 0

    def die(self) -> None:
        """The process is gone: nothing of it runs on."""
        for task in list(self.tasks):
            task.cancel()
