"""Objects of a provider that are handed on as they came, because it needs them back."""

from __future__ import annotations

from typing import Any

import msgspec

_UNSENDABLE = (msgspec.MsgspecError, ValueError, OverflowError, RecursionError, TypeError)


def opaque(value: dict[str, Any]) -> dict[str, Any] | None:
    """`value`, or null if msgpack cannot carry it: lone surrogates, integers beyond 64 bits."""
    try:
        msgspec.msgpack.encode(value)
    except _UNSENDABLE:
        return None
    return value
