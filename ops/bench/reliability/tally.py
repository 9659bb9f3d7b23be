"""What the readers of numbered streams saw, and what they should have seen."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from ringcast.broker.dispatch import ATTEMPTS
from ringcast.errors import Code
from ringcast.replay.numbered import numbered_tokens
from ringcast.shm.tokens import Done, Error, StreamToken, Text

# How a stream may end. `whole`: complete, and in no other way. `kept`: once a token of it is
# visible it may be interrupted, with a summary of what it had. `gone`: it may be interrupted.
Promise: TypeAlias = Literal["whole", "kept", "gone"]


class Tally(msgspec.Struct):
    """Counts of tokens and of streams by how they ended.

    `refused` counts requests that were told to come again while a process was replaced, `told`
    readers that came too late and were told so instead of being sent a gap. `faults` has one
    line for everything that must not happen and is no matter of tokens.
    """

    tokens: int = 0
    lost: int = 0
    doubled: int = 0
    changed: int = 0
    whole: int = 0
    interrupted: int = 0
    refused: int = 0
    told: int = 0
    faults: list[str] = []

    def add(self, other: Tally) -> None:
        """Add all counts of another tally to these."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def sound(self) -> bool:
        """Whether everything was as it should be."""
        return not (self.lost or self.doubled or self.changed or self.faults)


class Check:
    """Compares one stream's tokens with the numbered sequence, from number `at` on.

    The checksum makes each text unique, so a fault is counted once and the comparison goes on
    behind it.
    """

    def __init__(self, n: int, seed: int, tally: Tally, at: int = 0) -> None:
        """Expect the tokens from `at` of the stream of `n` with this seed; count in `tally`."""
        self.at = at
        self.seen = 0
        self.end: Done | Error | None = None
        self._name = f"numbered stream {seed} of {n}"
        self._texts = list(numbered_tokens(n, seed))
        self._numbers = {text: number for number, text in enumerate(self._texts)}
        self._tally = tally

    def take(self, batch: list[StreamToken]) -> None:
        """Compare the next tokens."""
        for token in batch:
            if self.end is not None:
                self._fault(f"{token} came behind {self.end}")
            elif isinstance(token, Done | Error):
                self.end = token
            else:
                self.seen += 1
                if type(token) is Text:
                    self._compare(token.content)

    def _compare(self, text: str) -> None:
        tally, number = self._tally, self._numbers.get(text)
        if number is None:  # it stands where another should
            tally.changed += 1
            self.at += 1
        elif number < self.at:
            tally.doubled += 1
        else:
            tally.tokens += 1
            tally.lost += number - self.at
            self.at = number + 1

    def close(self, promise: Promise = "whole", deaths: int = 0) -> None:
        """Judge the end, `deaths` of provider processes after the stream was asked for."""
        match self.end:
            case Done():
                self._tally.whole += 1
                self._tally.lost += max(0, len(self._texts) - self.at)
            case Error(Code.INTERRUPTED) if promise != "whole":
                self._tally.interrupted += 1
                self._interrupted(self.end, promise, deaths)
            case _:
                self._fault(f"ended with {self.end}")

    def _interrupted(self, error: Error, promise: Promise, deaths: int) -> None:
        if not error.retryable:
            self._fault(f"cannot be asked again: {error}")
        if promise == "gone":
            return
        if not self.seen and deaths < ATTEMPTS:
            self._fault(f"had no visible token and was not asked again: {error}")
        if self.seen and (error.summary is None or error.summary.tokens != self.seen):
            self._fault(f"had {self.seen} tokens, and its summary is {error.summary}")

    def _fault(self, text: str) -> None:
        self._tally.faults.append(f"{self._name}: {text}")
