"""A finding of `ringcast doctor`: what was looked at, how it is, and how to mend it."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

Level: TypeAlias = Literal["ok", "note", "warning", "fault"]


class Finding(msgspec.Struct, frozen=True):
    """One line. A `fault` keeps the daemon from working, a `warning` endangers something, and
    a `note` is for whoever misses something. `mend` is a sentence or a command, or empty.
    """

    level: Level
    subject: str
    text: str
    mend: str = ""

    def plain(self) -> dict[str, Any]:
        """Return the finding as plain values for JSON."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain
