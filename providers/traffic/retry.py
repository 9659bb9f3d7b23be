"""The only place where a request is sent again: whether, when, and to whom.

Nobody else repeats a request of which a token may have come: neither the transport (but for a
kept connection that was dead), nor workers, nor clients. Two owners would multiply.

Asked after each failure, before a token was seen; the first rule that fits decides:

| rule | when                                                       | decision            |
|------|------------------------------------------------------------|---------------------|
| R1   | the deadline has passed                                    | `GiveUp`            |
| R2   | the same provider will not do better soon                  | R8                  |
| R3   | `attempts` sendings were made in all, or 2 of what is worth one repetition | R8  |
| R4   | the provider asks to wait longer than `max_retry_after_s`  | R8, as rate_limited |
| R5   | the pause would end at the deadline or after it            | R8                  |
| R6   | the provider's budget has no repetition left               | R8, and says so     |
| R7   | otherwise                                                  | `Again(pause)`      |
| R8   | another provider or model may do better / may not          | `Elsewhere` / `GiveUp` |

Attempts. `attempts` counts sendings of one request to all its targets together, so targets never
multiply them; but a target that has not been asked yet is not a repetition, and is asked even when
the count is used up. So n targets see at most `attempts` + n - 1 sendings.

Pause. Before repetition n = 1, 2, … it is uniform in 0 … `pause_s` · 2^(n-1), at most
`longest_pause_s` ("full jitter", aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter);
for a provider that has too much to do it begins with twice that. A hint is added to it, since all
who were refused together got the same one, up to `max_retry_after_s`; no pause is below 100 ms.

Budget. Repetitions are at most `budget_ratio` of all sendings of the last minute, `budget_least` in
any case. Whatever fails, a provider gets at most 1 / (1 - ratio) of what it would get
("Handling Overload" in sre.google/sre-book: the per-client retry budget).
"""

from __future__ import annotations

from random import Random
from typing import Final, TypeAlias

import msgspec

from ringcast.config import Retry
from ringcast.errors import Code
from ringcast.providers.traffic.failure import Failure
from ringcast.providers.traffic.sliding_counts import SlidingCounts, Words

LEAST_PAUSE_S: Final = 0.1
BUDGET_SPAN_S: Final = 60.0
_MOST_DOUBLINGS: Final = 60  # no longest pause is so long; a float could not hold 2**1024


class Again(msgspec.Struct, frozen=True):
    """Send the same to the same provider once more, `pause_s` seconds from now."""

    pause_s: float


class Elsewhere(msgspec.Struct, frozen=True):
    """Ask the next provider or model, at once; where there is none, `failure` is the answer."""

    failure: Failure


class GiveUp(msgspec.Struct, frozen=True):
    """Nothing will help: `failure` is the answer."""

    failure: Failure


Decision: TypeAlias = Again | Elsewhere | GiveUp


class RetryBudget:
    """What one provider was sent in the last minute, and how much of it again."""

    WORDS: Final = SlidingCounts.WORDS

    def __init__(self, settings: Retry, words: Words | None = None) -> None:
        """Keep the counts in `words`, 64-bit and 0 at first, which processes may share."""
        self._settings = settings
        own: Words = [0] * self.WORDS
        self._sent = SlidingCounts(own if words is None else words, 0, BUDGET_SPAN_S)

    def first(self, now: float) -> None:
        """Count a request that is sent to the provider for the first time."""
        self._sent.add(now, False)

    def take(self, now: float) -> bool:
        """Count a repetition if it is within the budget; say whether it is."""
        sent, repeated = self._sent.counts(now)
        settings = self._settings
        most = max(settings.budget_least, settings.budget_ratio * (sent + 1))
        if repeated + 1 > most:
            return False
        self._sent.add(now, True)
        return True


class RetryPolicy:
    """The rules above; it keeps nothing of a request."""

    def __init__(self, settings: Retry) -> None:
        self._settings = settings

    def decide(
        self,
        sent: int,
        failure: Failure,
        now: float,
        deadline: float,
        budget: RetryBudget,
        random: Random,
    ) -> Decision:
        """Say what becomes of a request that was sent `sent` times in all and has failed again.

        `now` and `deadline` in seconds of one clock; `budget` is the failing provider's, and has a
        repetition less after `Again`.
        """
        if now >= deadline:  # R1
            return GiveUp(failure)
        if not failure.retryable or self._is_enough(sent, failure):  # R2, R3
            return _elsewhere(failure)
        if (failure.after_s or 0.0) > self._settings.max_retry_after_s:  # R4
            return _elsewhere(self._too_long(failure))
        pause_s = self.pause(sent, failure, random)
        if now + pause_s >= deadline:  # R5
            return _elsewhere(failure)
        if not budget.take(now):  # R6
            return _elsewhere(_spent(failure))
        return Again(pause_s)  # R7

    def pause(self, sent: int, failure: Failure, random: Random) -> float:
        """Return how long to wait before sending number `sent` + 1, in seconds."""
        settings = self._settings
        doublings = min(sent - 1 + failure.throttled, _MOST_DOUBLINGS)
        longest = min(settings.pause_s * 2.0**doublings, settings.longest_pause_s)
        pause_s = random.uniform(0.0, longest)
        if failure.after_s:
            pause_s = min(failure.after_s + pause_s, settings.max_retry_after_s)
        return max(pause_s, LEAST_PAUSE_S)

    def _is_enough(self, sent: int, failure: Failure) -> bool:
        return sent >= self._settings.attempts or (failure.once and sent > 1)

    def _too_long(self, failure: Failure) -> Failure:
        limit = self._settings.max_retry_after_s
        asked = f"provider asks to wait {failure.after_s or 0.0:.0f} s"
        text = f"{asked}, limit {limit:g} (retry.max_retry_after_s)"
        return msgspec.structs.replace(failure, code=Code.RATE_LIMITED, message=text)


def _spent(failure: Failure) -> Failure:
    text = f"{failure.message} (not sent again: too many were within a minute, retry.budget_ratio)"
    return msgspec.structs.replace(failure, message=text)


def _elsewhere(failure: Failure) -> Decision:
    return Elsewhere(failure) if failure.elsewhere else GiveUp(failure)  # R8
