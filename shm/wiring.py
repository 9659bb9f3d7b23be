"""The wiring: which rings exist, between whom, and the doorbells beside them.

There is one in-ring for each pair of provider process and worker, and one out-ring for
each worker, so that every ring has one producer and one consumer. The supervisor creates
the wiring and hands it to each process, which attaches to its own ends.
"""

from __future__ import annotations

from ringcast.errors import StartupError
from ringcast.shm import counters, layout, segment
from ringcast.shm.doorbell import Doorbell
from ringcast.shm.ring import hand_over


class Line:
    """A ring by name, the doorbell of its consumer and the one of a producer without room."""

    def __init__(self, name: str, capacity: int) -> None:
        """`name` is the segment's, `capacity` in bytes."""
        self.name = name
        self.capacity = capacity
        self.bell = Doorbell.create()
        self.room = Doorbell.create()


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
            [Line(f"{family}-{next(numbers)}", in_bytes) for _ in range(workers)]
            for _ in range(providers)
        ]
        self.outs = [Line(f"{family}-{next(numbers)}", out_bytes) for _ in range(workers)]
        self.counters = f"{family}-0"

    def create(self, pid: int, start_time: int) -> list[segment.Segment]:
        """Create all segments; the caller removes them.

        Raises `StartupError` when shared memory is full, leaving nothing behind.
        """
        made: list[segment.Segment] = []
        try:
            size = (2 + self.providers + self.workers) * counters.BLOCK_BYTES
            made.append(segment.create(self.counters, size, setting="the counters page"))
            for setting, lines in (
                ("rings.in_bytes", [line for row in self.ins for line in row]),
                ("rings.out_bytes", self.outs),
            ):
                for line in lines:
                    size = layout.size_of(line.capacity)
                    made.append(segment.create(line.name, size, setting=setting))
                    layout.initialise(
                        made[-1].memory, line.capacity, pid=pid, start_time=start_time
                    )
        except (StartupError, OSError):
            for one in made:
                one.close()
                segment.remove(one.name)
            raise
        return made

    def hand_over(self, role: str, index: int) -> None:
        """Fence whoever held a process's ends of its rings, before a successor takes them."""
        if role == "worker":
            ends = [(row[index], False) for row in self.ins] + [(self.outs[index], True)]
        elif role == "broker":
            ends = [(line, False) for line in self.outs]
        else:
            ends = [(line, True) for line in self.ins[index]]
        for line, produces in ends:
            one = segment.attach(line.name)
            hand_over(one.memory, producer=produces, consumer=not produces)
            one.close()

    def block(self, role: str, index: int) -> int:
        """Return the number of a process's counters block."""
        first = {"supervisor": 0, "broker": 1, "provider": 2, "worker": 2 + self.providers}
        return first[role] + index

    def close(self) -> None:
        """Close the doorbells."""
        for line in [line for row in self.ins for line in row] + self.outs:
            line.bell.close()
            line.room.close()
