"""Emoji that a gateway cut in two: halves of a UTF-16 surrogate pair in neighbouring deltas."""

from __future__ import annotations

import msgspec

from ringcast.providers.wire.portable import HALF, whole_text
from ringcast.shm.tokens import (
    Delta,
    FunctionCall,
    Reasoning,
    Refusal,
    StreamToken,
    Text,
    ToolCall,
)


class Halves(msgspec.Struct, array_like=True):
    """High halves at the end of a text, by text and choice (`text:0`), as code units."""

    held: dict[str, int] = {}

    def join(self, kind: str, index: int, text: str) -> str:
        """`text` after the half that waited for it, and without a half at its own end.

        Other lone halves become U+FFFD, as in a browser's TextDecoder.
        """
        key = f"{kind}:{index}"
        if not text:
            return text
        if before := self.held.pop(key, 0):
            text = chr(before) + text
        if not HALF.search(text):
            return text
        if "\ud800" <= text[-1] <= "\udbff":
            self.held[key] = ord(text[-1])
            text = text[:-1]
        return whole_text(text)

    def flush(self) -> list[StreamToken]:
        """One U+FFFD for every half that never met its other one."""
        tokens = [_replacement(*key.split(":")) for key in self.held]
        self.held = {}
        return tokens


def _replacement(kind: str, choice: str) -> StreamToken:
    text, index = "\ufffd", int(choice)
    if kind == "reasoning":
        return Reasoning(text, index)
    if kind == "refusal":
        return Refusal(text, index)
    if kind == "function":
        return FunctionCall(None, text, index)
    if kind.startswith("tool."):
        return ToolCall(int(kind[5:]), arguments=text, choice=index)
    return Delta(text, index) if index else Text(text)
