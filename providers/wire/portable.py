"""What can be handed on of a provider's JSON: what msgpack carries, and every client can read.

That is text without halves of a surrogate pair, integers of up to 64 bits, and objects and arrays
of some depth: a decoder at the end of its stack must not be asked for more.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

MAX_DEPTH: Final = 64
UNPORTABLE: Final = (ValueError, OverflowError, RecursionError)
"""What msgpack raises for a value that is not portable."""

HALF: Final = re.compile("[\ud800-\udfff]")


def whole_text(text: str) -> str:
    """`text` with U+FFFD for every half of a surrogate pair that is alone."""
    if text.isascii() or not HALF.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def string(value: Any) -> str | None:
    """Text that says something, fit to be handed on; else null."""
    return whole_text(value) if isinstance(value, str) and value else None


def portable(value: Any, depth: int = MAX_DEPTH) -> Any:
    """A copy of `value` with null for what can not be carried; structs stay structs."""
    if isinstance(value, str):
        return whole_text(value)
    if type(value) is int:
        return value if -(2**63) <= value < 2**64 else None
    if not depth:
        return None if isinstance(value, dict | list | tuple | msgspec.Struct) else value
    if isinstance(value, dict):
        return {portable(key): portable(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [portable(item, depth - 1) for item in value]
    if isinstance(value, msgspec.Struct):
        fields = msgspec.structs.astuple(value)
        return type(value)(*(portable(field, depth - 1) for field in fields))
    return value
