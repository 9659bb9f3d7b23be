"""How fast a queue moves: the seconds from one request that is let go to the next.

What moves it may come in floods, so it is a mean over a time and not over the last gaps: since
somebody began to wait, or since the last 128 to 256 requests. An empty queue has no pace; then
what is known is how long the provider takes for a request (`took_s`).
"""

from __future__ import annotations

from typing import Final

MOST: Final = 256  # requests after which the older half no longer counts
NEWEST: Final = 0.25  # how much the last request counts in the mean time of one


class Pace:
    """Of one queue. Times are monotonic seconds."""

    def __init__(self) -> None:
        self.took_s: float | None = None
        self._since: float | None = None
        self._served = 0

    def waits(self, now: float, *, first: bool) -> None:
        """Somebody waits, before whom nobody did if it is the `first`."""
        if first:
            self._since, self._served = now, 0

    def served(self, now: float, *, last: bool) -> None:
        """A request was let go; behind the `last` nobody waits."""
        self._served += 1
        if last or self._since is None:
            self._since = None
        elif self._served == MOST:
            self._since, self._served = (self._since + now) / 2, MOST // 2

    def ended(self, took_s: float) -> None:
        """A request took so long from being sent to its end."""
        known = took_s if self.took_s is None else self.took_s
        self.took_s = known + NEWEST * (took_s - known)

    def seen(self, now: float) -> float | None:
        """Return the seconds for one request, None before one was seen to go."""
        if self._since is None or not self._served:
            return None
        return max(now - self._since, 0.0) / self._served
