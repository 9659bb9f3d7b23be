"""The clocks of one request. Pure: the time comes as an argument.

    clock        setting        runs from                   until
    connect      connect_s      asking for a connection     TCP and TLS are done
    first byte   first_byte_s   the request is written      the head of the answer is complete
    first token  first_token_s  the request is begun        somebody has seen a token
    idle         idle_s         the head, or an event       the next event
    total        total_s        the request is begun        its end

1. Each has a setting in `timeouts`, in seconds, 0 for none, and a code of its own.
2. The idle clock is wound by events only. Comments, pings and pieces of an event show that the
   provider lives, which the error's text tells, and not that it gets on.
3. No clock runs in a pause of ours: without credit we do not read, and nothing can come.
4. No clock runs while this process stands still (stopped, or the machine suspended). It shows as a
   look that comes later than `LATE_S` after the one before: all of that time is given back, for
   what came meanwhile waits in the socket and is read before the next look.

Connect and first byte belong to the transport, which waits for both (`Patience`); `Clocks` has the
others. A suspended machine is told by its two clocks: CLOCK_BOOTTIME goes on and CLOCK_MONOTONIC
does not (clock_gettime(2)).
"""

from __future__ import annotations

import time
from typing import Final, NamedTuple

from ringcast.config import Timeouts
from ringcast.errors import Code

TICK_S: Final = 0.25
# Four ticks: a loop that is only busy is hardly ever as late.
LATE_S: Final = 1.0
# The two clocks are read one after the other, and NTP slews both alike.
SLEPT_S: Final = 1.0
_BOOTTIME: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class RunOut(NamedTuple):
    """The clock that has run out: the error's code, and its text with the setting."""

    code: Code
    message: str


class Elapsed:
    """Seconds that have passed, without pauses (rule 3) and standstills (rule 4)."""

    __slots__ = ("_looked", "_seconds", "paused")

    def __init__(self, now: float) -> None:
        """Begin at `now`, of the monotonic clock."""
        self.paused = False
        self._seconds = 0.0
        self._looked = now

    def look(self, now: float) -> float:
        """Count what has passed since the last look, and return all of it."""
        step, self._looked = now - self._looked, now
        if step <= LATE_S and not self.paused:
            self._seconds += step
        return self._seconds

    def pause(self, now: float) -> None:
        """Count nothing from now on."""
        self.look(now)
        self.paused = True

    def resume(self, now: float) -> None:
        """Count again."""
        self.look(now)
        self.paused = False


class Clocks:
    """First token, idle and total of one request; look at them every `TICK_S`."""

    __slots__ = ("_elapsed", "_heard", "_progress", "_timeouts", "_token")

    def __init__(self, timeouts: Timeouts, now: float) -> None:
        """The request begins at `now`, of the monotonic clock."""
        self._timeouts = timeouts
        self._elapsed = Elapsed(now)
        self._heard = 0.0
        self._progress: float | None = None  # None: the idle clock does not run yet
        self._token = False

    def answered(self, now: float) -> None:
        """The head of the answer is there: from now on events are awaited."""
        self._progress = self._heard = self._elapsed.look(now)

    def came(self, now: float, event: bool) -> None:
        """Bytes of the body came, and with them an `event` that is no keep-alive (rule 2)."""
        self._heard = self._elapsed.look(now)
        if event:
            self._progress = self._heard

    def token_seen(self) -> None:
        """Somebody has seen a token: the first-token clock stops for good."""
        self._token = True

    def pause(self, now: float) -> None:
        """We stop reading (rule 3)."""
        self._elapsed.pause(now)

    def resume(self, now: float) -> None:
        """We read again."""
        self._elapsed.resume(now)

    def run_out(self, now: float) -> RunOut | None:
        """Return the clock that has run out, if one has. In a pause none does."""
        elapsed, limits = self._elapsed.look(now), self._timeouts
        if self._elapsed.paused:
            return None
        if 0 < limits.total_s < elapsed:
            text = f"the answer took longer than {limits.total_s:g} s (timeouts.total_s)"
            return RunOut(Code.TOTAL_TIMEOUT, text)
        if 0 < limits.first_token_s < elapsed and not self._token:
            text = f"no token came within {limits.first_token_s:g} s (timeouts.first_token_s)"
            return RunOut(Code.FIRST_TOKEN_TIMEOUT, text)
        if self._progress is not None and 0 < limits.idle_s < elapsed - self._progress:
            return RunOut(Code.IDLE_TIMEOUT, self._silence(elapsed))
        return None

    def _silence(self, elapsed: float) -> str:
        limit = self._timeouts.idle_s
        quiet = elapsed - self._heard > limit
        came = "nothing" if quiet else "no event, only keep-alives or pieces of one,"
        return f"{came} came for {limit:g} s (timeouts.idle_s)"


class Sleep:
    """Whether the machine was suspended since the last look."""

    def __init__(self, now: float, boot: float) -> None:
        """Begin at `now`, of the monotonic clock, and `boot`, of CLOCK_BOOTTIME."""
        self._ahead = boot - now

    def slept(self, now: float, boot: float) -> bool:
        """Look at both clocks: whether they have drifted apart by more than `SLEPT_S`."""
        before, self._ahead = self._ahead, boot - now
        return self._ahead - before > SLEPT_S


def boottime() -> float:
    """Seconds since the machine's start, those included in which it was suspended."""
    return time.clock_gettime(_BOOTTIME)
