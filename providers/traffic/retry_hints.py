"""What the headers of a refusal say about asking again.

| header                | who              | format                            |
|-----------------------|------------------|-----------------------------------|
| `retry-after-ms`      | OpenAI, Azure    | milliseconds; 0 is as good as none|
| `retry-after`         | all              | seconds, or an HTTP date          |
| `x-amz-retry-after`   | AWS              | milliseconds                      |
| `x-should-retry`      | OpenAI, Anthropic| `true` or `false`                 |

The first that says something counts; of one that comes twice, the longest wait. What is no plain
decimal (`1e99`, `-1`, `nan`, other scripts' digits) says nothing, as RFC 9110, 10.2.3, has it.
"""

from __future__ import annotations

import re
from calendar import timegm
from collections.abc import Callable
from email.utils import parsedate_tz
from typing import Final

import httpx
import msgspec

LONGEST_HINT_S: Final = 3.2e11  # 10,000 years: a date in the year 9999 is within it

_decimal: Final = re.compile(r"[0-9]+(?:\.[0-9]*)?").fullmatch


class RetryHints(msgspec.Struct, frozen=True):
    """`after_s` — how long to wait at least, in seconds; `should_retry` — whether to ask again."""

    after_s: float | None = None
    should_retry: bool | None = None


def retry_hints(headers: httpx.Headers, wall_s: float) -> RetryHints:
    """Read them at the time `wall_s` (seconds since 1970). Nothing raises."""

    def longest(name: str, read: Callable[[str], float | None]) -> float | None:
        # A proxy may have joined two headers with a comma; dates have one of their own.
        values = headers.get_list(name) + headers.get_list(name, split_commas=True)
        return max((one for value in values if (one := read(value)) is not None), default=None)

    after_s = longest("retry-after-ms", _milliseconds) or longest(
        "retry-after", lambda value: _seconds(value, wall_s)
    )
    if after_s is None:
        after_s = longest("x-amz-retry-after", _milliseconds)
    word = headers.get("x-should-retry", "").strip().lower()
    return RetryHints(after_s, {"true": True, "false": False}.get(word))


def _number(value: str) -> float | None:
    return min(float(value), LONGEST_HINT_S) if _decimal(value.strip()) else None


def _milliseconds(value: str) -> float | None:
    number = _number(value)
    return None if number is None else number / 1e3


def _seconds(value: str, wall_s: float) -> float | None:
    number = _number(value)
    return _until(value, wall_s) if number is None else number


def _until(value: str, wall_s: float) -> float | None:
    """Read a date of any of the three forms of RFC 9110, 5.6.7; one in the past is 0."""
    parts = parsedate_tz(value) if value.isascii() else None
    if parts is None:
        return None
    try:
        at = timegm(parts[:9]) - (parts[9] or 0)
    except (ValueError, OverflowError):  # no calendar goes so far
        return None
    return min(max(0.0, at - wall_s), LONGEST_HINT_S)
