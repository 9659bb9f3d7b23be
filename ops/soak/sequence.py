"""What a reader of a numbered stream must see, and what it saw instead."""

from __future__ import annotations

from itertools import chain

import msgspec

from ringcast.replay.numbered import numbered_tokens
from ringcast.shm.tokens import StreamToken, Text


class Tally(msgspec.Struct):
    """Counts of tokens, and of visits by the way they ended.

    `told` counts readers that were cut off as too slow and told so; `failed` holds one line
    for each visit that ended otherwise than it should.
    """

    tokens: int = 0
    lost: int = 0
    doubled: int = 0
    changed: int = 0
    whole: int = 0
    cancelled: int = 0
    moved: int = 0
    shared: int = 0
    told: int = 0
    failed: list[str] = []

    def add(self, other: Tally) -> None:
        """Add all counts of another tally to these."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def wrong(self) -> int:
        """Tokens that are missing, came twice or say something else."""
        return self.lost + self.doubled + self.changed

    @property
    def sound(self) -> bool:
        """Whether everything was as it should be."""
        return not self.wrong and not self.failed


class Sequence:
    """A numbered stream's tokens, compared one by one with what comes.

    A token names its number, so after a fault the comparison goes on behind it, and each
    fault is counted once.
    """

    def __init__(self, n: int, seed: int, tally: Tally) -> None:
        """Expect the `n` tokens of a stream with this seed; count in `tally`."""
        self.at = 0  # the number expected next
        self._n = n
        self._expected = numbered_tokens(n, seed)
        self._tally = tally

    def take(self, batch: list[StreamToken]) -> None:
        """Compare the next tokens; what is not text is no part of the sequence."""
        for token in batch:
            if type(token) is Text:
                expected = next(self._expected, "")
                if token.content == expected:
                    self.at += 1
                    self._tally.tokens += 1
                else:
                    self._differs(token.content, expected)

    def end(self) -> None:
        """The stream is done: what has not come is lost."""
        self._tally.lost += self._n - self.at
        self.at = self._n

    def _differs(self, text: str, expected: str) -> None:
        digits = text.partition(":")[0]
        number = int(digits) if digits.isascii() and digits.isdigit() else self.at
        if number < self.at:
            self._tally.doubled += 1
            self._put_back(expected)
        elif number >= self._n:
            self._tally.changed += 1
            self._put_back(expected)
        else:
            self._tally.lost += number - self.at
            for _ in range(number - self.at):
                expected = next(self._expected)
            self._tally.changed += text != expected
            self._tally.tokens += text == expected
            self.at = number + 1

    def _put_back(self, expected: str) -> None:
        if expected:
            self._expected = chain((expected,), self._expected)
