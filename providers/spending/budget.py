"""The dollars that may be spent in a day, shared by all provider processes.

1. Words are kept of the day (its ordinal, local time), of what was spent in it, in millionths of
   a dollar, and of what each process has under way (rule 5). Each means something by itself: a new
   day first sets the sum to 0 and then the day, so a process that dies in between leaves a day with
   too little spent, never one that is shut.
2. A later day starts from 0, at local midnight, however long that day is (summer time).
3. One day back is somebody who travels west, or a process that looked at its clock just before
   midnight: the sum goes on. Anything further is a clock that was wrong, and starts from 0.
4. A process that starts puts in what the usage file knows, if that is more.
5. What a request costs is known when it ends. Until then it counts with an estimate: its prompt's
   tokens, and `max_tokens` where it says so. A process keeps the sum of its own in one word, which
   its successor overwrites. The limit may be overshot by what estimates are too low, and by one
   request. Requests without a known price count as nothing.
"""

from __future__ import annotations

from datetime import date, datetime, time, timedelta, tzinfo
from typing import Final

from ringcast import config
from ringcast.errors import Code, RequestError
from ringcast.providers.traffic.sliding_counts import Words

PROCESSES: Final = 16  # the most that `processes.providers` may be
WORDS: Final = 2 + PROCESSES
MICRO: Final = 1_000_000
MOST: Final = 1 << 62  # a word has 63 bits and a sign
_DAY: Final = 0
_SPENT: Final = 1
_HELD: Final = 2


class DailyBudget:
    """Over `WORDS` words, which the caller has locked; `now` is in seconds since the epoch."""

    def __init__(self, words: Words, settings: config.Usage, zone: tzinfo | None = None) -> None:
        """`zone` is whose midnight counts, this machine's by default."""
        self._words, self._limit, self._zone = words, settings.daily_usd, zone

    def begin(self, spent: float, now: float) -> None:
        """Start from what is known to be spent today, in dollars (rule 4)."""
        self._roll(now)
        self._words[_SPENT] = max(self._words[_SPENT], _micro(spent))

    def check(self, now: float) -> None:
        """Raise `RequestError` (budget_exceeded) if nothing more may be sent today."""
        spent, held = self.spent(now), self.held
        if not self._limit or spent + held < self._limit:
            return
        if spent < self._limit:
            raise RequestError(
                Code.BUDGET_EXCEEDED,
                f"spent {dollars(spent)} and, in requests under way, about {dollars(held)} "
                f"of {dollars(self._limit)} today (usage.daily_usd)",
                retryable=True,
            )
        left = self._midnight(now) - now
        raise RequestError(
            Code.BUDGET_EXCEEDED,
            f"spent {dollars(spent)} of {dollars(self._limit)} today (usage.daily_usd); "
            f"again at midnight, in {_duration(left)}",
            retry_after_s=left,
        )

    def add(self, cost: float | None, now: float) -> None:
        """Count what a request cost, in dollars."""
        self._roll(now)
        self._words[_SPENT] = min(self._words[_SPENT] + _micro(cost or 0.0), MOST)

    def hold(self, process: int, dollars: float) -> None:
        """Note the estimates of all that a process has under way (rule 5)."""
        self._words[_HELD + process] = _micro(dollars)

    @property
    def held(self) -> float:
        """Return the dollars of all requests under way, as estimated."""
        return sum(self._words[place] for place in range(_HELD, WORDS)) / MICRO

    def spent(self, now: float) -> float:
        """Return the dollars of today."""
        self._roll(now)
        return self._words[_SPENT] / MICRO

    def _roll(self, now: float) -> None:
        today = self._today(now).toordinal()
        if today not in (self._words[_DAY], self._words[_DAY] - 1):  # rules 2, 3
            self._words[_SPENT] = 0
            self._words[_DAY] = today

    def _today(self, now: float) -> date:
        return datetime.fromtimestamp(now, self._zone).date()

    def _midnight(self, now: float) -> float:
        tomorrow = self._today(now) + timedelta(days=1)
        return datetime.combine(tomorrow, time.min, self._zone).timestamp()


def _micro(dollars: float) -> int:
    """Return millionths; what is no amount (negative, NaN) is none, and infinity is the most."""
    return round(min(dollars * MICRO, float(MOST))) if dollars > 0 else 0


def dollars(amount: float) -> str:
    """Write an amount, small ones to the hundredth of a cent."""
    return f"${amount:,.2f}" if amount >= 1 else f"${amount:.4f}"


def _duration(seconds: float) -> str:
    minutes = max(int(seconds / 60 + 0.999), 1)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
