"""Numbers as sloppy servers write them: 3, 3.0, "3", null, negative, or 400 digits long."""

from __future__ import annotations

import math
from typing import Any, Final

_MAX: Final = 2**63 - 1  # what msgpack and every client can hold


def whole(value: Any) -> int | None:
    """An integer of up to 64 bits, or null where `value` is none."""
    if type(value) is int:
        return value if -_MAX <= value <= _MAX else None
    if isinstance(value, float):
        return int(value) if math.isfinite(value) and value == int(value) else None
    if isinstance(value, str) and len(value) < 19 and value.isascii() and value.isdigit():
        return int(value)
    return None


def real(value: Any) -> float | None:
    """A finite number, or null."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
