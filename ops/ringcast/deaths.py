"""How many processes died within a while, and how many may. Pure: takes `now`."""

from __future__ import annotations

from collections import deque


class Deaths:
    """Deaths of the last `window_s`, of which `most` are borne."""

    def __init__(self, most: int, window_s: float) -> None:
        """None yet."""
        self._most = most
        self._window_s = window_s
        self._times: deque[float] = deque()

    def add(self, now: float) -> int:
        """Note one; return how many there are."""
        self._times.append(now)
        return self.count(now)

    def count(self, now: float) -> int:
        """Return how many there are."""
        while self._times and self._times[0] < now - self._window_s:
            self._times.popleft()
        return len(self._times)

    def too_many(self, now: float) -> bool:
        """Return whether there are more than are borne."""
        return self.count(now) > self._most
