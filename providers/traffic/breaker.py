"""The circuit breaker: a provider that fails is left alone, and then tried with one request.

| state     | words               | `ask`                | success | failure      | neither |
|-----------|---------------------|----------------------|---------|--------------|---------|
| closed    | UNTIL = 0           | `CLOSED`             | counted | counted (B1) | –       |
| open      | now < UNTIL         | `Open(UNTIL)`        | B5      | –            | –       |
| half-open | UNTIL <= now, LEASE | one `Probe`, `Open`s | B5      | open (B4)    | B6      |

B1. Closed opens for `open_s` after `failures` in a row, or when of at least `least_calls` within
    `window_s` the part `failure_rate` has failed. Only a provider's own failures count: neither
    what is our fault, nor a rate limit, nor a cancel (failure.py says which is which). An answer
    counts once, when it ends: one that is cut in its middle is no success before.
B2. Open refuses at once, and says when the next request will be let through.
B3. Half-open lets one request through, the probe, however many ask. Whoever asks meanwhile is told
    to come back when the probe's lease ends, `open_s` after it was given: then its process may
    have died, and the next who asks is the probe.
B4. A probe's failure opens again, for `open_s` and no longer: one request a minute is no burden
    to a provider, and a person waits for its recovery. Only the newest probe can: one whose lease
    has ended was judged by its successor.
B5. The success of any probe closes, also of an old one: a provider that answers later than a
    lease lasts is well. Its first token is one, as others wait for it. All counts begin anew, and
    whoever ends from then on counts alike. Requests that began before it opened prove nothing
    while it is not closed.
B6. A probe that proves nothing is given back: the next who asks is the probe.
B7. The words are shared by processes that may be killed between any two stores, so each is
    meaningful by itself. UNTIL alone says the state, and is stored last when it closes; a LEASE
    ends by itself; a probe's NUMBER is stored before its lease.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

from ringcast.config import Breaker
from ringcast.errors import Code, RequestError
from ringcast.providers.traffic.sliding_counts import SlidingCounts, Words

State: TypeAlias = Literal["closed", "open", "half-open"]
Outcome: TypeAlias = Literal["success", "failure", "neither"]

UNTIL: Final = 0  # the time, in microseconds, before which nothing is sent; 0: closed
LEASE: Final = 1  # the time at which the newest probe is given up; 0: it was given back
NUMBER: Final = 2  # the newest probe's
ROW: Final = 3  # failures in a row
_WINDOW: Final = 4


class Closed(msgspec.Struct, frozen=True):
    """The provider may be asked."""


class Probe(msgspec.Struct, frozen=True):
    """The provider may be asked by this one request, whose outcome decides."""

    number: int


class Open(msgspec.Struct, frozen=True):
    """The provider must not be asked before `until` (seconds of the clock that `ask` was given)."""

    until: float

    def refusal(self, provider: str, now: float) -> RequestError:
        """Return what a client is told, with `retry_after_s`, to the millisecond."""
        left = round(max(0.0, self.until - now), 3)
        text = f"{provider} fails too often to be asked now; the next try is in {left:.3f} s"
        return RequestError(Code.CIRCUIT_OPEN, text, retryable=True, retry_after_s=left)


CLOSED: Final = Closed()
DEFAULT: Final = Breaker()


class CircuitBreaker:
    """One provider's breaker. `now` is monotonic seconds, of one clock for all processes."""

    WORDS: Final = _WINDOW + SlidingCounts.WORDS

    def __init__(self, words: Words | None = None, settings: Breaker = DEFAULT) -> None:
        """Keep all state in `words`, or its own: `WORDS` of them, signed 64-bit and 0 at first.

        Where processes share them, the caller holds their lock during `ask` and `record`.
        """
        own: Words = [0] * self.WORDS
        words = own if words is None else words
        self._words = words
        self._settings = settings
        self._open_us = _us(settings.open_s)
        self._window = SlidingCounts(words, _WINDOW, settings.window_s)

    def state(self, now: float) -> State:
        """Return what to show; nothing changes by it."""
        until = self._words[UNTIL]
        if not until:
            return "closed"
        return "open" if _us(now) < until else "half-open"

    def ask(self, now: float) -> Closed | Probe | Open:
        """Say whether a request may be sent; whoever gets a `Probe` must `record` its outcome."""
        words = self._words
        if not words[UNTIL]:
            return CLOSED
        if (refused := self.refusing(now)) is not None:
            return refused
        words[NUMBER] += 1
        words[LEASE] = _us(now) + self._open_us
        return Probe(words[NUMBER])

    def refusing(self, now: float) -> Open | None:
        """Say what `ask` would answer if that is a refusal; nothing changes by it."""
        words = self._words
        until = max(words[UNTIL], words[LEASE]) if words[UNTIL] else 0
        return Open(until / 1e6) if until > _us(now) else None

    def record(self, outcome: Outcome, now: float, probe: Probe | None = None) -> None:
        """Learn how a request ended that was let through, as `probe` if it was one."""
        if not self._words[UNTIL]:
            self._count(outcome, now)
        elif probe is not None:
            self._judge(outcome, now, probe.number == self._words[NUMBER])

    def _count(self, outcome: Outcome, now: float) -> None:
        if outcome == "neither":
            return
        words = self._words
        words[ROW] = words[ROW] + 1 if outcome == "failure" else 0
        self._window.add(now, outcome == "failure")
        if outcome == "failure" and self._is_too_much(now):
            words[UNTIL] = _us(now) + self._open_us

    def _is_too_much(self, now: float) -> bool:
        settings = self._settings
        calls, failed = self._window.counts(now)
        often = calls >= settings.least_calls and failed >= settings.failure_rate * calls
        return often or self._words[ROW] >= settings.failures

    def _judge(self, outcome: Outcome, now: float, newest: bool) -> None:
        words = self._words
        if outcome == "success":
            words[NUMBER] += 1  # the probes that are still out are old ones now
            words[ROW] = words[LEASE] = 0
            self._window.clear()
            words[UNTIL] = 0
        elif newest and outcome == "failure":
            words[UNTIL] = _us(now) + self._open_us
        elif newest:
            words[LEASE] = 0


def _us(seconds: float) -> int:
    return round(seconds * 1e6)
