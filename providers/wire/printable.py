"""Foreign text made fit for an error message: printable, short, and without keys."""

from __future__ import annotations

import re
from typing import Final

MAX_CHARS: Final = 500
_SECRET: Final = re.compile(
    r"""
      \b(?:(?:sk|pk|rk|gsk|xai|pplx|ghp|hf)[-_]|AIza)[-_A-Za-z0-9]{8,}   # keys by their prefix
    | \b(?:AKIA|ASIA)[A-Z0-9]{12,}                                # AWS key ids
    | \beyJ[-_A-Za-z0-9]{8,}(?:\.[-_A-Za-z0-9]*){0,2}             # JSON web tokens
    | (?<=Bearer\ )[^\s"',;]+ | (?<=bearer\ )[^\s"',;]+
    | (?<=[?&]key=)[^\s"'&]+
    """,
    re.VERBOSE,
)


def printable(text: str, limit: int = MAX_CHARS) -> str:
    """`text` with keys masked and control characters escaped, at most `limit` characters."""
    text = _SECRET.sub("[masked]", text[: 4 * limit])
    shown = "".join(c if c.isprintable() else _escaped(c) for c in text[:limit])
    return shown if len(shown) <= limit and len(text) <= limit else shown[: limit - 1] + "…"


def _escaped(char: str) -> str:
    return char.encode("unicode_escape", "backslashreplace").decode("ascii")
