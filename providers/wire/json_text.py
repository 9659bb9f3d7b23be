"""Whether a text that comes in pieces is JSON: checked as it comes, with next to no memory.

RFC 8259, as `JSON.parse` reads it, but for nesting: what is deeper than `MAX_DEPTH` is none.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

MAX_DEPTH: Final = 256

_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?")
_ESCAPE: Final = r"\\(?:[\"\\/bfnrt]|u[0-9a-fA-F]{4})"
_INSIDE: Final = rf"\"(?:[^\"\\\x00-\x1f]++|{_ESCAPE})*+"
_TOKEN: Final = re.compile(
    rf"""[ \t\r\n]*+(?:
      (?P<string>{_INSIDE}\")
    | (?P<scalar>true|false|null|{_NUMBER.pattern}(?=[ \t\r\n,\]}}]))
    | (?P<mark>[\[\]{{}}:,])
    )""",
    re.VERBOSE,
)
_CUT: Final = re.compile(
    rf"""[ \t\r\n]*+(?P<piece>
      {_INSIDE}(?P<escape>\\(?:u[0-9a-fA-F]{{0,3}})?)?
    | t(?:ru?)? | f(?:al?|als)? | n(?:ul?)?
    | -?(?:(?:0|[1-9][0-9]*+)(?:\.[0-9]*+)?(?:(?<=[0-9])[eE][+-]?[0-9]*+)?)?
    )""",
    re.VERBOSE,
)
_DIGITS: Final = re.compile(r"(?<=[0-9])[0-9]+")

# What may come, by what comes: a string, another scalar, or one of the six marks.
_ELEMENT: Final = {"string": "next", "scalar": "next", "{": "first name", "[": "first element"}
_NEXT: Final[dict[str, dict[str, str]]] = {
    "text": _ELEMENT,
    "element": _ELEMENT,
    "first element": _ELEMENT | {"]": "next"},
    "name": {"string": "colon"},
    "first name": {"string": "colon", "}": "next"},
    "colon": {":": "element"},
    "next": {",": "comma", "]": "next", "}": "next"},
}


class JsonText(msgspec.Struct, array_like=True):
    """What is known of a text so far: what may come, what is open, and a token that is cut."""

    want: str = "text"
    open: str = ""
    piece: str = ""

    def feed(self, text: str) -> bool:
        """Take more of the text; return whether that made a difference to what is known."""
        before = (self.want, self.open, self.piece)
        data, at = self.piece + text, 0
        self.piece = ""
        while self.want and (token := _TOKEN.match(data, at)) is not None:
            at = token.end()
            kind = token.lastgroup or ""
            self._take(token[kind] if kind == "mark" else kind)
        if self.want:
            self._keep(data, at)
        return before != (self.want, self.open, self.piece)

    @property
    def whole(self) -> bool:
        """Whether the text may end here: it is one JSON value, or nothing at all."""
        if self.want == "text":
            return not self.piece or _NUMBER.fullmatch(self.piece) is not None
        return self.want == "next" and not self.open and not self.piece

    def _take(self, said: str) -> None:
        self.want = _NEXT[self.want].get(said, "")
        if not self.want:
            return
        if said in ("{", "["):
            self.open += said
            self.want = self.want if len(self.open) <= MAX_DEPTH else ""
        elif said in ("}", "]"):
            self.want = self.want if self.open[-1:] + said in ("{}", "[]") else ""
            self.open = self.open[:-1]
        elif said == ",":
            self.want = {"{": "name", "[": "element"}.get(self.open[-1:], "")

    def _keep(self, data: str, at: int) -> None:
        """Keep a token that is cut, without what does not matter of it; anything else is bad."""
        cut = _CUT.fullmatch(data, at)
        if cut is None:
            self.want = ""
        elif cut["piece"].startswith('"'):
            self.piece = '"' + (cut["escape"] or "")
        else:
            self.piece = _DIGITS.sub("", cut["piece"])
