r"""Patterns of a content filter, in RE2's syntax: what they match, and how a match may begin.

A filter of a stream must know of the text's end whether more of it could make a match. RE2 does
not tell, so a pattern is taken apart far enough to write another one that matches every beginning
of every match: of `ab+`, `(?:a?|a(?:b*b?))`. Both are RE2's, so both are linear in the text.
https://github.com/google/re2/wiki/Syntax
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

import msgspec

from ringcast.errors import ConfigError, RingcastError

MAX_DEPTH: Final = 50
MAX_PROGRAM_BYTES: Final = 4 << 20  # of one compiled program with its cache; RE2's own is 8 MiB
NEEDS: Final = "the content filter needs RE2: pip install 'ringcast[filter]'"

_ATOM: Final = re.compile(
    r"""(?P<assertion>\\[AbBz]|[\^$])
    | (?P<refused>\\[QEC])
    | \\(?:[pP](?:\{[^}]*\}|.)|x(?:\{[^}]*\}|..)|[0-7]{1,3}|.)
    | \[\^?\]?(?:\[:\^?\w+:\]|\\(?:[pP]\{[^}]*\}|.)|[^\]\\])*\]
    | [^()|*+?]""",
    re.VERBOSE | re.DOTALL,
)
_QUANTIFIER: Final = re.compile(r"(?:([*+?])|\{(\d+)(?:(,)(\d*))?\})\??")
_GROUP: Final = re.compile(r"\((?:\?(?:P?<\w+>|(?P<flags>[imsU-]*)(?P<scope>[:)])))?")
_MARKS: Final = {"*": (0, None), "+": (1, None), "?": (0, 1)}


class PatternError(RingcastError):
    """A pattern cannot be used. `index` counts patterns, `position` its characters, from 0."""

    def __init__(self, why: str, position: int, index: int = 0) -> None:
        super().__init__(f"pattern {index}, at character {position}: {why}")
        self.why, self.position, self.index = why, position, index


class Atom(msgspec.Struct, frozen=True):
    """One character, class or assertion; `width` is how many characters it takes at least."""

    pattern: str
    width: int = 1

    @property
    def beginning(self) -> str:
        """What matches every beginning of a match. An assertion may yet become true."""
        return f"{self.pattern}?" if self.width else ""

    @property
    def asserts(self) -> bool:
        """Whether it looks at its neighbours."""
        return not self.width


class Chain(msgspec.Struct, frozen=True):
    """One after the other."""

    items: list[Node]

    @property
    def pattern(self) -> str:
        return "".join(item.pattern for item in self.items)

    @property
    def beginning(self) -> str:
        """Halved again and again: nested by the logarithm, where RE2 allows a depth of 1,000."""
        if len(self.items) < 2:
            return "".join(item.beginning for item in self.items)
        half = len(self.items) // 2
        left, right = Chain(self.items[:half]), Chain(self.items[half:])
        return f"(?:{left.beginning}|{left.pattern}{right.beginning})"

    @property
    def width(self) -> int:
        return sum(item.width for item in self.items)

    @property
    def asserts(self) -> bool:
        return any(item.asserts for item in self.items)


class Choice(msgspec.Struct, frozen=True):
    """A group of alternatives, with the flags that hold in it."""

    options: list[Chain]
    flags: str = ""

    @property
    def pattern(self) -> str:
        return f"(?{self.flags}:{'|'.join(option.pattern for option in self.options)})"

    @property
    def beginning(self) -> str:
        return f"(?{self.flags}:{'|'.join(option.beginning for option in self.options)})"

    @property
    def width(self) -> int:
        return min(option.width for option in self.options)

    @property
    def asserts(self) -> bool:
        return any(option.asserts for option in self.options)


class Repeat(msgspec.Struct, frozen=True):
    """`item` at least `least` times and at most `most` times, if that is not None."""

    item: Atom | Choice
    least: int
    most: int | None

    @property
    def pattern(self) -> str:
        most = "" if self.most is None else self.most
        return f"{self.item.pattern}{{{self.least},{most}}}"

    @property
    def beginning(self) -> str:
        if self.most == 0:
            return ""
        before = "*" if self.most is None else f"{{0,{self.most - 1}}}"
        return f"{self.item.pattern}{before}{self.item.beginning}"

    @property
    def width(self) -> int:
        return self.item.width * self.least

    @property
    def asserts(self) -> bool:
        return self.item.asserts


Node: TypeAlias = Atom | Chain | Choice | Repeat


class Program(Protocol):
    """A compiled pattern, as `re2` gives it."""

    def search(self, text: bytes, pos: int) -> re.Match[bytes] | None: ...
    def match(self, text: bytes, pos: int) -> re.Match[bytes] | None: ...


class Patterns(NamedTuple):
    """All patterns of a filter as one; of several matches at a place, the longest counts.

    `inside` matches with one byte that follows, so that nothing is taken for the text's end;
    `last` where the end is known; `begun` what may be the beginning of a match, up to the end.
    No match has less than `width` characters.
    """

    inside: Program
    last: Program
    begun: Program
    asserts: bool
    width: int


@lru_cache(maxsize=32)
def compiled(patterns: tuple[str, ...], longest: int) -> Patterns:
    """Compile patterns whose matches may have up to `longest` bytes.

    Raises `PatternError`, and `ConfigError` where RE2 is not installed.
    """
    nodes = [parse(pattern, index, longest) for index, pattern in enumerate(patterns)]
    if not nodes:
        raise PatternError("there must be at least one pattern", 0)
    all_of_them = Choice([Chain([node]) for node in nodes])
    text, beginning = all_of_them.pattern, all_of_them.beginning
    try:
        inside, last = _program(rf"{text}\C"), _program(text)
        begun = _program(rf"{beginning}\z")
    except PatternError as error:
        raise PatternError(f"all patterns together: {error.why}", 0) from None
    return Patterns(inside, last, begun, all_of_them.asserts, all_of_them.width)


def parse(pattern: str, index: int = 0, longest: int = 1000) -> Choice:
    """Take one pattern apart. Raises `PatternError`, `ConfigError` as `compiled`."""
    try:
        _program(pattern)
        node = _Parser(pattern).whole()
        if not node.width:
            raise PatternError("it matches where there is nothing", 0)
        if node.width > longest:
            why = f"a match has {node.width} characters at least, which is over {longest} (longest)"
            raise PatternError(why, 0)
    except PatternError as error:
        raise PatternError(error.why, error.position, index) from None
    return node


def _program(pattern: str) -> Program:
    try:
        import re2
    except ImportError:
        raise ConfigError(NEEDS) from None
    options: Any = re2.Options()
    options.longest_match = options.never_capture = True
    options.log_errors = False
    options.max_mem = MAX_PROGRAM_BYTES
    try:
        program: Program = re2.compile(pattern.encode(), options)
    except re2.error as error:
        said = error.args[0]
        why = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
        at = pattern.find(why.partition(": ")[2])
        raise PatternError(why, max(at, 0)) from None
    except UnicodeEncodeError as error:
        raise PatternError("half a character", error.start) from None
    return program


class _Parser:
    """Reads one pattern that RE2 has accepted."""

    def __init__(self, pattern: str) -> None:
        self._text = pattern
        self._at = 0
        self._depth = 0

    def whole(self) -> Choice:
        """The whole pattern; flags at its beginning hold for all of it."""
        found = _GROUP.match(self._text)
        flags = ""
        if found and found["scope"] == ")":
            flags, self._at = found["flags"], found.end()
        return self._choice(flags)

    def _choice(self, flags: str) -> Choice:
        options = [self._chain()]
        while self._peek() == "|":
            self._at += 1
            options.append(self._chain())
        return Choice(options, flags)

    def _chain(self) -> Chain:
        items: list[Node] = []
        while self._peek() not in ("", "|", ")"):
            item = self._group() if self._peek() == "(" else self._atom()
            items.append(self._repeated(item))
        return Chain(items)

    def _group(self) -> Choice:
        found = _GROUP.match(self._text, self._at)
        if found is None or found["scope"] == ")":
            raise PatternError("flags stand at the beginning, or as in (?i:...)", self._at)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise PatternError(f"nested more than {MAX_DEPTH} deep", self._at)
        self._at = found.end()
        choice = self._choice(found["flags"] or "")
        self._at += 1  # the bracket is there, or RE2 would not have taken the pattern
        self._depth -= 1
        return choice

    def _atom(self) -> Atom:
        found = _ATOM.match(self._text, self._at)
        if found is None or found["refused"]:
            raise PatternError("is not understood here", self._at)
        self._at = found.end()
        return Atom(found[0], 0 if found["assertion"] else 1)

    def _repeated(self, item: Atom | Choice) -> Atom | Choice | Repeat:
        found = _QUANTIFIER.match(self._text, self._at)
        if found is None:
            return item
        self._at = found.end()
        mark, least, comma, most = found.groups()
        if mark:
            return Repeat(item, *_MARKS[mark])
        bound = (int(most) if most else None) if comma else int(least)
        return Repeat(item, int(least), bound)

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]
