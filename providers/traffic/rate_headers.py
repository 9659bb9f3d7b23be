"""What the head of an answer tells about rate limits, of every vendor, in one form.

OpenAI and Groq    x-ratelimit-{limit,remaining,reset}-{requests,tokens}; reset is a duration,
                   "6s", "130ms", "2m59.56s", "1h2m3s", and tells when the bucket is full again
Azure              the same names; reset is a number of seconds, and there is a renewalperiod
xAI                the same names without a reset
Anthropic          anthropic-ratelimit-{requests,tokens}-{limit,remaining,reset}, reset as RFC 3339;
                   tokens are those of the tightest limit, else there are input- and output-tokens
OpenRouter         x-ratelimit-{limit,remaining,reset} of requests, reset in ms since 1970

Nobody tells how long the limit's period is. Where a bucket fills evenly, it follows: the part
that is used takes that part of the period to fill. Else it is the shortest that the reset fits in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Final

import msgspec

MINUTE_S: Final = 60.0
PERIODS_S: Final = (MINUTE_S, 3600.0, 86400.0)
# Whole seconds and the way here let a reset seem past that is due now.
_LATE_S: Final = 2.0
_LONGEST_S: Final = 32 * 86400.0
_EVEN: Final = 0.02  # how far a period may be from the one that even filling gives
_number = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,12})?").fullmatch
_duration = re.compile(
    r"(?=.)(?:([0-9]{1,6})d)?(?:([0-9]{1,6})h)?(?:([0-9]{1,6})m(?!s))?"
    r"(?:([0-9]{1,9}(?:\.[0-9]{1,12})?)s)?(?:([0-9]{1,12}(?:\.[0-9]{1,12})?)ms)?"
).fullmatch
_UNITS_S: Final = (86400.0, 3600.0, 60.0, 1.0, 0.001)
_LONGEST: Final = 40  # characters of a value
_FORMS: Final = (
    "anthropic-ratelimit-{unit}-{what}",
    "x-ratelimit-{what}-{unit}",
)
_APART: Final = (
    "anthropic-ratelimit-input-{unit}-{what}",
    "anthropic-ratelimit-output-{unit}-{what}",
)


class Window(msgspec.Struct, frozen=True):
    """One limit: `limit` units in `period_s`, of which `remaining` are left.

    `reset_s` is in how many seconds all are there again. What was not told, or badly, is None.
    """

    limit: int
    remaining: int | None = None
    reset_s: float | None = None
    period_s: float = MINUTE_S


class RateLimits(msgspec.Struct, frozen=True):
    """What one answer tells; `bad` counts values that were ignored."""

    requests: Window | None = None
    tokens: Window | None = None
    bad: int = 0


NOTHING: Final = RateLimits()


class _Reader:
    """The values of one head, as they are asked for; counts bad ones."""

    def __init__(self, headers: Mapping[str, str], wall_s: float) -> None:
        self._headers = headers
        self._wall_s = wall_s
        self.bad = 0

    def window(self, unit: str) -> Window | None:
        """Return the first window of `unit` that is told; of those told apart the tighter one."""
        found = next(self._told(_FORMS, unit), None)
        if found is None and unit == "requests":
            found = self._one("x-ratelimit-{what}", unit)
        return found or min(self._told(_APART, unit), key=_left, default=None)

    def _told(self, forms: Iterable[str], unit: str) -> Iterator[Window]:
        return (one for form in forms if (one := self._one(form, unit)) is not None)

    def _one(self, form: str, unit: str) -> Window | None:
        limit = self._count(form.format(what="limit", unit=unit))
        if not limit:
            return None
        remaining = self._count(form.format(what="remaining", unit=unit), limit)
        reset_s = self._reset(form.format(what="reset", unit=unit))
        told = self._count(form.format(what="renewalperiod", unit=unit))
        return Window(limit, remaining, reset_s, told or _period(limit, remaining, reset_s))

    def _text(self, name: str) -> str | None:
        value = self._headers.get(name)
        return None if value is None else value.strip()

    def _count(self, name: str, most: int = 10**15) -> int | None:
        """Return a header's whole number up to `most`."""
        text = self._text(name)
        if text is None:
            return None
        if _number(text) is None or float(text) > most:
            self.bad += 1
            return None
        return int(float(text))

    def _reset(self, name: str) -> float | None:
        """Return the seconds until a time that is told in any form."""
        text = self._text(name)
        if text is None:
            return None
        seconds = _seconds(text[:_LONGEST], self._wall_s)
        if seconds is None or not -_LATE_S <= seconds <= _LONGEST_S:
            self.bad += 1
            return None
        return max(0.0, seconds)


def parse(headers: Mapping[str, str], wall_s: float) -> RateLimits:
    """Read the limits in a head whose names are lower case, or found in any case.

    `wall_s` is the time since 1970, for resets that name a time. The answer's own `date` comes
    before it: the vendor's clock is the one that the reset is told by.
    """
    if not any("ratelimit" in name for name in headers):
        return NOTHING
    reader = _Reader(headers, _date(headers.get("date", "")) or wall_s)
    requests, tokens = reader.window("requests"), reader.window("tokens")
    return RateLimits(requests, tokens, reader.bad)


def _left(window: Window) -> tuple[float, int]:
    """Return what part of a limit is left, and the limit."""
    remaining = window.limit if window.remaining is None else window.remaining
    return remaining / window.limit, window.limit


def _date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text[:_LONGEST]).timestamp()
    except (ValueError, OverflowError):
        return None


def _seconds(text: str, wall_s: float) -> float | None:
    """Return a number of seconds, a duration, or how far a time is away."""
    if _number(text):
        return _plain(float(text), wall_s)
    if found := _duration(text):
        parts = zip(found.groups(default="0"), _UNITS_S, strict=True)
        return sum(float(part) * unit for part, unit in parts)
    try:
        told = datetime.fromisoformat(text)
        return told.timestamp() - wall_s if told.tzinfo and text.isascii() else None
    except (ValueError, OverflowError):
        return None


def _plain(value: float, wall_s: float) -> float:
    """Take a number by its size: seconds, seconds since 1970, or milliseconds since 1970."""
    if value < 1e9:
        return value
    return value / (1000 if value >= 1e11 else 1) - wall_s


def _period(limit: int, remaining: int | None, reset_s: float | None) -> float:
    """Return the likeliest period, see above; a minute where nothing tells."""
    if reset_s is None:
        return MINUTE_S
    if remaining is not None and remaining < limit:
        even_s = reset_s * limit / (limit - remaining)
        for period in PERIODS_S:
            if abs(even_s - period) <= _EVEN * period:
                return period
    return next((period for period in PERIODS_S if reset_s <= period + _LATE_S), PERIODS_S[-1])
