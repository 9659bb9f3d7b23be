"""Numbers as sloppy servers write them: 3, 3.0, "3", null, negative, or 400 digits long."""

from __future__ import annotations

import math
import reprlib
from typing import Any, Final

from ringcast.providers.wire.payload import bad_event

_MAX: Final = 2**63 - 1  # what msgpack and every client can hold


def whole(value: Any) -> int | None:
    """An integer of up to 64 bits, or null where `value` is none."""
    if type(value) is int:
        return value if -_MAX <= value <= _MAX else None
    if isinstance(value, float):
        if not math.isfinite(value) or value != int(value):
            return None
        return whole(int(value))
    if isinstance(value, str) and len(value) < 19 and value.isascii() and value.isdigit():
        return int(value)
    return None


def position(value: Any, what: str, limit: int, missing: int = 0) -> int:
    """An index from 0 to `limit` - 1, `missing` for null.

    Raises `WireError` (bad_event), which says `what` it is an index of, for anything else.
    """
    index = missing if value is None else whole(value)
    if index is None or not 0 <= index < limit:
        raise bad_event(f"{what} index out of range, 0 to {limit - 1}", reprlib.repr(value))
    return index


def real(value: Any) -> float | None:
    """A finite number, or null."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
