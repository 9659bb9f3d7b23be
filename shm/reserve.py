"""A segment with a ring whose two ends are one process's, made when it is first needed.

It outlives its maker, so that a successor finds what is in it; the supervisor sweeps it.
"""

from __future__ import annotations

import sys
from contextlib import suppress

from ringcast.errors import RingError, SegmentRefused, StartupError
from ringcast.shm import layout, segment


class Reserve:
    """At most one segment, by its name."""

    def __init__(
        self, name: str, capacity: int, setting: str, *, pid: int = 0, start_time: int = 0
    ) -> None:
        """`capacity` in bytes, a power of two; `setting` is what it follows from.

        `pid` and `start_time` are of who sweeps it.
        """
        self._owner = pid, start_time
        self._name = name
        self._capacity = capacity
        self._setting = setting
        self._segment: segment.Segment | None = None

    def find(self) -> memoryview | None:
        """Return what a predecessor has left, if it is whole."""
        try:
            found = segment.attach(self._name)
        except SegmentRefused:
            return None
        try:
            layout.check(found.memory)
        except RingError:  # it died while it made it
            segment.remove(self._name)
            return None
        self._segment = found
        return found.memory

    def make(self) -> memoryview | None:
        """Make the segment; null, with a line on stderr, if shared memory is full."""
        try:
            size = layout.size_of(self._capacity)
            made = segment.create(self._name, size, setting=self._setting)
        except (StartupError, OSError) as error:
            print(f"ringcast: tokens have to wait on the heap: {error}", file=sys.stderr)
            return None
        pid, start_time = self._owner
        layout.initialise(made.memory, self._capacity, pid=pid, start_time=start_time)
        self._segment = made
        return made.memory

    def remove(self) -> None:
        """Remove the segment; it is unmapped once the last view into it is gone."""
        segment.remove(self._name)
        if self._segment is not None:
            with suppress(BufferError):
                self._segment.close()
            self._segment = None
