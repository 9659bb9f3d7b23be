"""One quantity that a provider limits, requests or tokens, in eight words of a shared row.

B1   A bucket is one word: when it will be full again, in ns (GCRA; ITU-T I.371 calls it virtual
     scheduling). A charge moves that time on by amount / rate. What fits is what moves it to no
     more than a period from now. One word has no second half that a killed process could leave
     behind, and a limit that changes leaves the bucket filled in proportion.
B2   Of a period 3 s are never used as burst. The provider's bucket fills as fast as ours, so
     that requests which overtake others on their way, by up to 3 s, still find it filled.
B3   A charge above the whole bucket goes when the bucket is full, and is owed afterwards.
B4   There are two buckets. `told` has the limit and the period that the provider tells; of what
     it says remains the lower counts, as requests on their way are not in it yet. `own` has the
     least of what is configured, told for a minute, and adapted, a minute.
B5   A refusal multiplies the rate by 0.9 and adds nothing; each minute with successes adds 1/32
     of that rate, however many there are: additive increase, multiplicative decrease (Chiu and
     Jain 1989). Both buckets level out between, so the mean is the rate that was found. Without
     a refusal for 10 minutes it adds 1/4 of the rate: what it was about may be over. A refusal
     that ends such growth multiplies by 0.6, for the provider's bucket, full with a minute's
     worth, has hidden its limit until the rate is 1.9 times that: steps of 0.9 back to it would
     cost seven refusals, and 0.5 leads below it, where minutes are lost.
B6   The first refusal by a provider that tells nothing sets the rate to 0.9 of what was accepted
     within about a minute. Was that less than `least`, the refusal says nothing about our rate:
     one request a minute that meets an overload must not become a limit of one a minute.
B7   A rate that has grown to what is configured or told is forgotten.
"""

from __future__ import annotations

import math
from typing import Final

from ringcast.providers.traffic.rate_headers import Window

WORDS: Final = 8
_OWN, _TOLD, _LIMIT, _PERIOD, _RATE, _STEP, _COUNT, _COUNTED = range(WORDS)
SECOND: Final = 1_000_000_000
MINUTE: Final = 60 * SECOND
SLACK: Final = 3 * SECOND
MILLI: Final = 1000  # rates and counts are kept in thousandths
DECREASE: Final = 0.9
FAST_DECREASE: Final = 0.6
STEPS: Final = 32
FAST_STEPS: Final = 4
QUIET: Final = 10 * MINUTE
LONGEST_DEBT: Final = 10  # periods
LARGEST: Final = 1 << 53


class Bucket:
    """A bucket of `amount` units in `period` ns, kept in `words[at]`."""

    __slots__ = ("_amount", "_at", "_burst", "_period", "_words")

    def __init__(self, words: memoryview, at: int, amount: float, period: int) -> None:
        self._words = words
        self._at = at
        self._amount = amount
        self._period = period
        self._burst = period - min(SLACK, period // 20)

    def _span(self, amount: float) -> int:
        periods = min(max(amount / self._amount, -LONGEST_DEBT), LONGEST_DEBT)
        return int(periods * self._period)

    def wait(self, amount: float, now: int) -> int:
        """Return the ns until `amount` fits, 0 if it does (B3)."""
        left = self._burst - min(self._span(amount), self._burst)
        return max(self._words[self._at] - now - left, 0)

    def charge(self, amount: float, now: int) -> None:
        """Take `amount`, which may be negative, whether or not it fits."""
        full = self._words[self._at]
        if amount > 0 and full < now:
            full = now
        self._words[self._at] = max(full + self._span(amount), 0)

    def at_most(self, remaining: float, now: int) -> None:
        """Believe that no more than `remaining` of the whole amount are left."""
        used = self._span(self._amount - remaining)
        self._words[self._at] = max(self._words[self._at], now + used)


class Meter:
    """The buckets and the adapted rate of one quantity, from `words[first]` on."""

    __slots__ = ("_configured", "_first", "_least", "_words")

    def __init__(self, words: memoryview, first: int, configured: int, least: int) -> None:
        """`configured` units a minute (0: no limit) are never exceeded; `least`: see B6."""
        self._words = words
        self._first = first
        self._configured = configured
        self._least = least

    def wait(self, amount: int, now: int) -> int:
        """Return the ns until `amount` fits into both buckets, 0 if it does."""
        return max([bucket.wait(amount, now) for bucket in self._buckets()], default=0)

    def pace_s(self, amount: int) -> float | None:
        """Return the seconds in which `amount` is allowed once, None without a limit a minute."""
        rate = self.rate()
        return 60 * MILLI * amount / rate if rate else None

    def charge(self, amount: int, now: int) -> None:
        """Take `amount`, or give it back if it is negative."""
        for bucket in self._buckets():
            bucket.charge(amount, now)
        if not self._ceiling():
            self._counted(amount, now)

    def learn(self, window: Window, now: int) -> None:
        """Believe what the provider tells (B4)."""
        words, first = self._words, self._first
        limit = words[first + _LIMIT] = min(window.limit, LARGEST)
        period = words[first + _PERIOD] = int(window.period_s * SECOND)
        if window.remaining is not None:
            told = Bucket(words, first + _TOLD, limit, period)
            told.at_most(min(window.remaining, limit), now)

    def refused(self, amount: int, now: int, *, begins: bool, early: bool) -> None:
        """Lower the rate at the first of several refusals (`begins`), and empty the bucket.

        `amount` was not accepted after all. A guess is corrected by what comes `early` after it.
        """
        words, first = self._words, self._first
        known = self.rate() or self._ceiling() * MILLI
        count = self._counted(-amount, now)
        open_guess = early and words[first + _RATE] and not words[first + _STEP]
        if not known and count < self._least * MILLI:
            return
        if not known or open_guess:
            guess = int(DECREASE * max(count, self._least * MILLI))
            words[first + _RATE] = min(guess, known or guess)
        elif begins:
            decrease = FAST_DECREASE if self._grows_fast() else DECREASE
            rate = words[first + _RATE] = max(int(decrease * known), MILLI)
            words[first + _STEP] = max(rate // STEPS, 1)
        for bucket in self._own():
            bucket.at_most(0, now)

    def accepted(self, since: int, quiet: bool) -> None:
        """Raise the rate for a success `since` ns after the one before (B5)."""
        words, first = self._words, self._first
        rate = words[first + _RATE]
        if not rate:
            return
        if not words[first + _STEP] or quiet:
            words[first + _STEP] = max(rate // (FAST_STEPS if quiet else STEPS), 1)
        rate += words[first + _STEP] * min(since, MINUTE) // MINUTE
        ceiling = self._ceiling() * MILLI
        words[first + _RATE] = 0 if 0 < ceiling <= rate else min(rate, LARGEST)

    def _grows_fast(self) -> bool:
        """Whether the rate was found by fast steps, which are the only ones above an eighth."""
        rate, step = self._words[self._first + _RATE], self._words[self._first + _STEP]
        return 0 < rate < 2 * FAST_STEPS * step

    def rate(self) -> int:
        """Return the thousandths of units a minute in force, 0 if there is no limit."""
        return _least(self._words[self._first + _RATE], self._ceiling() * MILLI)

    def _ceiling(self) -> int:
        """Return what is configured or told for a minute, the least of it, 0 if nothing is."""
        words, first = self._words, self._first
        told = words[first + _LIMIT] if words[first + _PERIOD] <= MINUTE else 0
        return _least(self._configured, told)

    def _own(self) -> list[Bucket]:
        if rate := self.rate():
            return [Bucket(self._words, self._first + _OWN, rate / MILLI, MINUTE)]
        return []

    def _buckets(self) -> list[Bucket]:
        buckets = self._own()
        words, first = self._words, self._first
        if (limit := words[first + _LIMIT]) > 0 and (period := words[first + _PERIOD]) > 0:
            buckets.append(Bucket(words, first + _TOLD, limit, period))
        return buckets

    def _counted(self, amount: int, now: int) -> int:
        """Add to what was accepted of late, and return it, in thousandths.

        It fades by 1/e a minute: a steady rate comes to what it is in a minute.
        """
        words, first = self._words, self._first
        age = max(now - words[first + _COUNTED], 0) / MINUTE
        count = int(words[first + _COUNT] * math.exp(-age)) + amount * MILLI
        words[first + _COUNTED] = now
        words[first + _COUNT] = max(0, min(count, LARGEST))
        return words[first + _COUNT]


def _least(one: int, other: int) -> int:
    """Return the lower of two limits, of which 0 is none."""
    return min(one, other) if one and other else one or other
