"""The wiring: which rings exist, between whom, and the doorbells beside them.

There is one in-ring for each pair of provider process and worker, and one out-ring for
each worker, so that every ring has one producer and one consumer. The supervisor creates
the wiring and hands it to each process, which attaches to its own ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from ringcast.errors import RingError, StartupError
from ringcast.shm import counters, layout, segment
from ringcast.shm.doorbell import Doorbell
from ringcast.shm.ledger import LEDGER_BYTES
from ringcast.shm.ring import hand_over
from ringcast.shm.shared_words import TABLE_BYTES


class Line:
    """A ring by name, the doorbell of its consumer and the one of a producer without room."""

    def __init__(self, name: str, capacity: int, setting: str) -> None:
        """`name` is the segment's, `capacity` in bytes, as `setting` says."""
        self.name = name
        self.capacity = capacity
        self.setting = setting
        self.bell = Doorbell.create()
        self.room = Doorbell.create()

    def create(self, pid: int, start_time: int) -> segment.Segment:
        """Make the segment and an empty ring in it, owned by the process named.

        Raises `StartupError` when shared memory is full, `FileExistsError`.
        """
        made = segment.create(self.name, layout.size_of(self.capacity), setting=self.setting)
        layout.initialise(made.memory, self.capacity, pid=pid, start_time=start_time)
        return made

    def fault(self) -> str:
        """Say what is wrong with the ring, nothing if it can be attached to."""
        try:
            with closing(segment.attach(self.name)) as one:
                capacity = layout.check(one.memory)
        except RingError as error:
            return str(error)
        return "" if capacity == self.capacity else f"ring has {capacity} bytes by now"


class Wiring:
    """All lines of one daemon. Pickled into the processes that it starts."""

    def __init__(
        self, providers: int, workers: int, in_bytes: int, out_bytes: int, family: str
    ) -> None:
        """Name the rings for `providers` x `workers`; `create` makes them."""
        self.providers = providers
        self.workers = workers
        numbers = iter(range(1, 1 + workers * (providers + 1)))
        self.ins = [
            [Line(f"{family}-{next(numbers)}", in_bytes, "rings.in_bytes") for _ in range(workers)]
            for _ in range(providers)
        ]
        self.outs = [
            Line(f"{family}-{next(numbers)}", out_bytes, "rings.out_bytes") for _ in range(workers)
        ]
        self.wanted = Doorbell.create()  # rung when a counting process is needed
        self.counters = f"{family}-0"
        self.metrics = f"{family}-m"
        self.traffic = f"{family}-t"  # what provider processes share: see `shared_words`
        self.ledger = f"{family}-l"
        self.spill = f"{family}-s"  # the broker makes it when it needs it

    def create(self, pid: int, start_time: int) -> list[segment.Segment]:
        """Create all segments; the caller removes them.

        Raises `StartupError` when shared memory is full, leaving nothing behind.
        """
        self._owner = pid, start_time
        made: list[segment.Segment] = []
        try:
            size = counters.page_bytes(self.providers, self.workers)
            made.append(segment.create(self.counters, size, setting="the counters page"))
            size = self.workers * counters.METRICS_BYTES
            made.append(segment.create(self.metrics, size, setting="the metrics page"))
            made.append(segment.create(self.ledger, LEDGER_BYTES, setting="the ledger"))
            made.append(segment.create(self.traffic, TABLE_BYTES, setting="the traffic table"))
            for line in [*(line for row in self.ins for line in row), *self.outs]:
                made.append(line.create(pid, start_time))  # noqa: PERF401 - all made are removed
        except (StartupError, OSError):
            for one in made:
                one.close()
                segment.remove(one.name)
            raise
        return made

    def _ends(self, role: str, index: int) -> Iterator[tuple[Line, bool, tuple[str, int]]]:
        """A process's ends: the line, whether it produces there, and who is at the other end."""
        if role == "worker":
            for number, row in enumerate(self.ins):
                yield row[index], False, ("provider", number)
            yield self.outs[index], True, ("broker", 0)
        elif role != "counter":  # it counts what comes by ZeroMQ
            lines = self.outs if role == "broker" else self.ins[index]
            for number, line in enumerate(lines):
                yield line, role != "broker", ("worker", number)

    def mend(self, role: str, index: int) -> dict[tuple[str, int], str]:
        """Put new rings in the place of a dead process's corrupt ones.

        Returns who is at their other ends, by role and index, and what was wrong: whoever it
        is, it still has the old memory. Raises `StartupError` when there is no room.
        """
        mended: dict[tuple[str, int], str] = {}
        for line, _, other in self._ends(role, index):
            if fault := line.fault():
                segment.remove(line.name)
                line.create(*self._owner).close()
                mended[other] = f"{line.name}: {fault}"
        return mended

    def hand_over(self, role: str, index: int) -> None:
        """Fence whoever held a process's ends of its rings, before a successor takes them."""
        for line, produces, _ in self._ends(role, index):
            with closing(segment.attach(line.name)) as one:
                hand_over(one.memory, producer=produces, consumer=not produces)

    def block(self, role: str, index: int) -> int:
        """Return the number of a process's counters block."""
        workers = 2 + self.providers
        first = {"supervisor": 0, "broker": 1, "provider": 2, "worker": workers}
        first["counter"] = workers + self.workers
        return first[role] + index

    def close(self) -> None:
        """Close the doorbells."""
        self.wanted.close()
        for line in [line for row in self.ins for line in row] + self.outs:
            line.bell.close()
            line.room.close()
