"""Thinking that a model writes into its text, between `<think>` and `</think>`.

Only a tag with which the text begins counts, as in Roo-Code's `TagMatcher`, unless tags may be
`anywhere`; within thinking, tags nest.
https://github.com/RooCodeInc/Roo-Code, src/utils/tag-matcher.ts
"""

from __future__ import annotations

import re
from typing import Final, TypeAlias

import msgspec

MAX_HELD_CHARS: Final = 64  # `< / think >` may have any number of spaces, which nobody sends

# As much of a tag as is there: with `end` it is whole, and closing with `slash`.
_TAG: Final = re.compile(r"< *(?P<slash>/ *)?(?:t(?:h(?:i(?:n(?:k *(?P<end>>)?)?)?)?)?)?")

Part: TypeAlias = tuple[bool, str]  # whether it is thinking, and some text


class ThinkTag(msgspec.Struct, array_like=True):
    """Splits a text that comes in pieces; `depth` is how many tags are open.

    `tag` is held back until it is whole or turns out to be none. `nested` is a whole one within
    the thinking, held back since it goes with the tag that ends the thinking right behind it.
    """

    depth: int = 0
    begun: bool = False
    nested: str = ""
    tag: str = ""
    anywhere: bool = False

    @property
    def settled(self) -> bool:
        """Whether no tag can come any more, so that all the rest is text."""
        return self.begun and self.depth == 0 and not self.anywhere

    def feed(self, text: str) -> list[Part]:
        """The parts that are certain by now, neighbours of one kind as one."""
        parts: list[Part] = []
        text, self.tag, at = self.tag + text, "", 0
        while at < len(text):
            begin = self._next_tag(text, at)
            if begin > at:
                self._add(text[at:begin], parts)
            at = self._read_tag(text, begin, parts) if begin < len(text) else begin
        return parts

    def flush(self) -> list[Part]:
        """What was held back, when nothing more comes."""
        parts: list[Part] = []
        text, self.tag = self.tag, ""
        if text or self.nested:
            self._add(text, parts)
        return parts

    def _next_tag(self, text: str, at: int) -> int:
        """Where the next tag may begin: at the very beginning, within thinking, or anywhere."""
        if self.depth or self.anywhere:
            found = text.find("<", at)
            return found if found >= 0 else len(text)
        return at if not self.begun and text[at] == "<" else len(text)

    def _read_tag(self, text: str, begin: int, parts: list[Part]) -> int:
        """Deal with what begins like a tag; where to go on."""
        found = _TAG.match(text, begin)
        assert found is not None
        if found["end"]:
            self._turn(found[0], closing=found["slash"] is not None)
            if len(self.nested) > MAX_HELD_CHARS:
                self._add("", parts)
            return found.end()
        if found.end() == len(text) and len(self.nested) + len(found[0]) <= MAX_HELD_CHARS:
            self.tag = found[0]
            return len(text)
        # The character that makes it no tag is text as well, even if it is a `<`.
        end = min(found.end() + 1, len(text))
        self._add(text[begin:end], parts)
        return end

    def _turn(self, tag: str, *, closing: bool) -> None:
        """A whole tag: the outermost ones are not shown."""
        outermost = self.depth <= 1 if closing else self.depth == 0
        self.nested = "" if outermost else self.nested + tag
        self.depth = max(self.depth - 1, 0) if closing else self.depth + 1
        self.begun = True

    def _add(self, text: str, parts: list[Part]) -> None:
        thinking, text = self.depth > 0, self.nested + text
        self.begun, self.nested = True, ""
        if parts and parts[-1][0] == thinking:
            text = parts.pop()[1] + text
        parts.append((thinking, text))
