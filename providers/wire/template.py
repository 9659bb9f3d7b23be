"""The fastest way to text: events of a stream that differ in nothing but one JSON string.

Most servers send the same bytes around every piece of text. Once such an event has been learned,
the strings are cut out of a block and decoded as one JSON array: 0.25 µs an event of 290 bytes,
against 0.7 µs for the typed decode. Blocks that differ elsewhere (padding, a clock that ticked, a
tool call) are refused and go the typed way. What matches is whole events, so it needs no framer.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import msgspec

from ringcast.shm.tokens import StreamToken, Text

_STRING_REST: Final = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*')
_PROBE: Final = "ringcast probe"
_string: Final = msgspec.json.Decoder(str).decode
_strings: Final = msgspec.json.Decoder(list[str])


class Template:
    """An event as the bytes before and after its text."""

    def __init__(self, prefix: bytes, suffix: bytes) -> None:
        self._prefix = prefix
        self._suffix = suffix
        self._seam = suffix + prefix
        self._around = len(self._seam)
        self._two = 2 * self._around  # what is shorter is one event
        self._start, self._end = len(prefix) - 1, 1 - len(suffix)  # both quotes are within

    @classmethod
    def learn(
        cls, event: bytes, slot: re.Pattern[bytes], read: Callable[[bytes], list[str] | None]
    ) -> Template | None:
        """The template of `event`, whose text begins after the one match of `slot`.

        `read` decodes a block to its texts, or null. That it finds nothing but a probe put
        into the slot proves that the text is read from there and nowhere else.
        """
        found = list(slot.finditer(event))
        if len(found) != 1:
            return None
        start = found[0].end()
        rest = _STRING_REST.match(event, start)
        prefix, suffix = event[:start], event[rest.end() if rest else start :]
        probed = prefix + _PROBE.encode() + suffix
        return cls(prefix, suffix) if read(probed) == [_PROBE] else None

    def tokens(self, block: bytes) -> list[StreamToken] | None:
        """The texts of a block of whole events, null if one is not of this template."""
        try:
            if (size := len(block)) >= self._two:
                return self._many(block)
            between = block.removeprefix(self._prefix).removesuffix(self._suffix)
            if len(between) != size - self._around:
                return None
            text = _string(block[self._start : self._end])
        except (msgspec.MsgspecError, ValueError):
            return None
        return [Text(text)] if text else []

    def _many(self, block: bytes) -> list[StreamToken] | None:
        """The constant bytes are compared all at once, by putting the block together again.

        No part ends in a backslash, so all the quotes that are put around the parts count; with
        as many strings as parts, no part has a quote of its own, and each is one whole string.
        """
        if not block.startswith(self._prefix) or not block.endswith(self._suffix):
            return None
        start, end = self._start + 1, self._end + 1
        parts = [event[start:end] for event in block[:-2].split(b"\n\n")]
        if self._prefix + self._seam.join(parts) + self._suffix != block:
            return None
        array = b'["' + b'","'.join(parts) + b'"]'
        if b"\\" in array and (b'\\","' in array or array.endswith(b'\\"]')):
            return None
        texts = _strings.decode(array)
        return _said(texts) if len(texts) == len(parts) else None


class Learner:
    """Holds the template of a stream, and learns a new one when the old one stops to fit.

    A stream without a template costs one attempt at its 1st, 2nd, 4th, 8th, … block.
    """

    def __init__(self, slot: re.Pattern[bytes], read: Callable[[bytes], list[str] | None]) -> None:
        """`read` decodes a block to its texts, or null if it has other things to say.

        It must not be bound to whatever holds this, or an ended stream waits for the collector.
        """
        self._slot = slot
        self._read = read
        self._template: Template | None = None
        self._misses = 0
        self._expected = True  # a guess from the block before; never part of a state

    def expect(self, tokens: list[StreamToken]) -> None:
        """Guess, from the tokens of a block with other things, whether the next one is plain."""
        self._expected = bool(tokens) and type(tokens[-1]) is Text

    def recall(self, block: bytes) -> list[StreamToken] | None:
        """The tokens of whole events that are as the learned one, null for all other bytes."""
        if self._template is None or (tokens := self._template.tokens(block)) is None:
            return None
        self._misses = 0
        return tokens

    def tokens(self, block: bytes) -> list[StreamToken] | None:
        """The texts of a block that has nothing else, null if it has or is not expected to."""
        if not self._expected:
            return None
        if (tokens := self.recall(block)) is not None:
            return tokens
        if (texts := self._read(block)) is None:
            return None
        self._missed(block)
        return _said(texts)

    def _missed(self, block: bytes) -> None:
        """Look at a block that turned out to be plain but did not fit."""
        self._misses += 1
        if self._misses & (self._misses - 1) == 0:
            event = block[: block.index(b"\n\n") + 2]
            self._template = Template.learn(event, self._slot, self._read)


def _said(texts: list[str]) -> list[StreamToken]:
    return [Text(text) for text in texts if text]
