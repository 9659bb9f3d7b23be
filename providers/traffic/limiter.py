"""How fast a provider may be asked: limits that are configured, told or found, kept in words.

L1   Limits of requests and tokens a minute are buckets (`meter`, B1-B7); a request passes all or
     is charged to none. Concurrency is a word for each process, so that a successor can reset
     what its predecessor left; what counts is their sum.
L2   After a refusal (429, 529) nothing goes until the provider's hint, without one for 1, 2, 4,
     ... 60 s. Many refusals come together: only the first since a success lowers the rate, and
     only one that comes after the pause makes the next pause longer.
L3   Then one request goes alone, and no other until it was accepted, refused or withdrawn, 5 s
     at most. An outage so costs one refusal for each hint.
L4   What was accepted while nothing goes was sent before, and says nothing about now.
L5   Without any limit a request goes at once. All processes of a machine have one monotonic
     clock, so that stamps may be shared.

state     what stands in the words             a request            accepted   refused
free      refusals 0                           if it fits           free       closed
closed    refusals > 0, now < until            waits                closed     closed
probing   refusals > 0, until <= now           one goes, others     free       closed
                                               wait for `probe`
"""

from __future__ import annotations

import math
from typing import Final, Literal, NamedTuple, TypeAlias

import msgspec

from ringcast.providers.traffic import meter
from ringcast.providers.traffic.meter import SECOND, Meter
from ringcast.providers.traffic.rate_headers import NOTHING, RateLimits

PROCESSES: Final = 16  # the most that `processes.providers` may be
_UNTIL, _REFUSALS, _PROBE, _GROWN, _REQUESTS = range(5)
_TOKENS: Final = _REQUESTS + meter.WORDS
_RUNNING: Final = _TOKENS + meter.WORDS
WORDS: Final = _RUNNING + PROCESSES

LEAST_REQUESTS: Final = 10  # a minute, see B6
LEAST_TOKENS: Final = 10_000
LEAST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 60.0
LONGEST_HINT_S: Final = 120.0
PROBE_S: Final = 5.0
POLL_S: Final = 0.1  # between two looks for what only another process can tell


Limit: TypeAlias = Literal["requests_per_min", "tokens_per_min", "concurrency", "pause", ""]


class Bound(NamedTuple):
    """Which limit holds a request back, and the seconds from one such to the next, if known."""

    limit: Limit = ""
    pace_s: float | None = None


class RateSettings(msgspec.Struct, frozen=True):
    """Limits that are never exceeded; 0 is none.

    Of `requests_per_min` 60 may go 57 at once, and then one a second: 3 s of a minute are kept for
    requests that overtake others on their way (B2). Tokens alike.
    """

    requests_per_min: int = 0
    tokens_per_min: int = 0
    concurrency: int = 0


class AdaptiveRateLimiter:
    """The limits of one provider, or of one of its models. Several may share `words`.

    A request is charged what it may take at most and settled with what it took:
    `admit`, `learn` or `throttled`, then `settle`. Times are monotonic seconds.
    """

    __slots__ = ("_process", "_requests", "_settings", "_tokens", "_words")

    def __init__(
        self, settings: RateSettings, words: memoryview | None = None, process: int = 0
    ) -> None:
        """`words` are `WORDS` signed 64-bit ones ("q"), its own without; `process` 0 to 15."""
        self._settings = settings
        self._words = memoryview(bytearray(WORDS * 8)).cast("q") if words is None else words
        self._process = _RUNNING + process
        self._requests = Meter(self._words, _REQUESTS, settings.requests_per_min, LEAST_REQUESTS)
        self._tokens = Meter(self._words, _TOKENS, settings.tokens_per_min, LEAST_TOKENS)

    def admit(self, tokens: int, now: float) -> float:
        """Charge a request of at most `tokens` and return 0.0, or the seconds to wait first."""
        wait_s = self.wait(tokens, now)
        if not wait_s:
            self.charge(tokens, now)
        return wait_s

    def wait(self, tokens: int, now: float) -> float:
        """Return the seconds until it is worth asking again, 0.0 if a request may go."""
        at = int(now * SECOND)
        closed = self._closed(at)
        full = max(closed, self._requests.wait(1, at), self._tokens.wait(tokens, at))
        wait_s = max(full / SECOND, 0.001) if full else 0.0
        return max(wait_s, POLL_S) if self._crowded() else wait_s

    def bound(self, tokens: int, now: float) -> Bound:
        """Return which limit it is that makes a request `wait`."""
        at = int(now * SECOND)
        requests, spent = self._requests.wait(1, at), self._tokens.wait(tokens, at)
        if max(closed := self._closed(at), requests, spent) == 0:
            return Bound("concurrency")
        if closed >= max(requests, spent):
            return Bound("pause")
        if requests >= spent:
            return Bound("requests_per_min", self._requests.pace_s(1))
        return Bound("tokens_per_min", self._tokens.pace_s(tokens))

    def charge(self, tokens: int, now: float) -> None:
        """Charge a request that goes now."""
        at, words = int(now * SECOND), self._words
        self._requests.charge(1, at)
        self._tokens.charge(tokens, at)
        words[self._process] += 1
        if words[_REFUSALS]:
            words[_PROBE] = at + int(PROBE_S * SECOND)

    def _closed(self, at: int) -> int:
        """Return for how many ns nothing goes but, perhaps, a request that was sent (L2, L3)."""
        words = self._words
        if words[_UNTIL] > at:
            return words[_UNTIL] - at
        if words[_REFUSALS] and words[_PROBE] > at:
            return min(words[_PROBE] - at, int(POLL_S * SECOND))
        return 0

    def _crowded(self) -> bool:
        limit = self._settings.concurrency
        return 0 < limit <= sum(self._words[_RUNNING:WORDS])

    def learn(self, limits: RateLimits, now: float) -> None:
        """Take what an accepted answer's head tells, if anything, and that it was accepted."""
        at, words = int(now * SECOND), self._words
        self._told(limits, at)
        if words[_UNTIL] > at:
            return
        words[_REFUSALS] = words[_PROBE] = 0
        since, quiet = max(at - words[_GROWN], 0), at - words[_UNTIL] > meter.QUIET
        for one in (self._requests, self._tokens):
            one.accepted(since, quiet)
        words[_GROWN] = at

    def throttled(
        self, retry_after_s: float | None, now: float, limits: RateLimits = NOTHING
    ) -> None:
        """Take a refusal, with what its head tells and when to come again."""
        at, words = int(now * SECOND), self._words
        self._told(limits, at)
        early, refusals = words[_UNTIL] > at, words[_REFUSALS]
        for one, amount in ((self._requests, 1), (self._tokens, 0)):
            one.refused(amount, at, begins=not (early or refusals), early=early)
        if not early:
            words[_REFUSALS] = refusals + 1
        pause_s = _hint(retry_after_s) or min(LONGEST_PAUSE_S, 2.0 ** min(refusals, 6))
        if retry_after_s is not None or not early:
            words[_UNTIL] = max(words[_UNTIL], at + int(pause_s * SECOND))
        words[_PROBE] = 0
        words[_GROWN] = at

    def _told(self, limits: RateLimits, at: int) -> None:
        if limits.requests is not None:
            self._requests.learn(limits.requests, at)
        if limits.tokens is not None:
            self._tokens.learn(limits.tokens, at)

    def settle(self, charged: int, used: int | None, now: float) -> None:
        """End a request: give back what it did not use of `charged`, or take what is missing."""
        if used is not None:
            self.correct(charged, used, now)
        self._leave()

    def correct(self, charged: int, used: int, now: float) -> None:
        """Take what a request used that has ended before."""
        if used != charged:
            self._tokens.charge(used - charged, int(now * SECOND))

    def withdraw(self, charged: int, now: float) -> None:
        """Give back everything of a request that was not sent."""
        at = int(now * SECOND)
        self._requests.charge(-1, at)
        self._tokens.charge(-charged, at)
        self._words[_PROBE] = 0  # it may have been the one that went alone
        self._leave()

    def _leave(self) -> None:
        words = self._words
        words[self._process] = max(0, words[self._process] - 1)

    def reset(self) -> None:
        """Forget requests that a predecessor of this process had under way."""
        self._words[self._process] = 0


def _hint(retry_after_s: float | None) -> float:
    """Return a hint within bounds, 0.0 for none that makes sense."""
    if retry_after_s is None or math.isnan(retry_after_s) or retry_after_s < 0:
        return 0.0
    return min(max(retry_after_s, LEAST_PAUSE_S), LONGEST_HINT_S)
