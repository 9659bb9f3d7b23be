"""Joins small pieces of text into larger ones, for readers to whom each piece costs something."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

import msgspec
from msgspec.structs import replace

from ringcast.shm.tokens import Delta, Reasoning, Refusal, StreamToken, Text, ToolCall, Usage
from ringcast.workers.transform import BatchTransformer

NS_PER_MS: Final = 1_000_000

_Joined: TypeAlias = Text | Delta | Reasoning | Refusal
_JOINED: Final = (Text, Delta, Reasoning, Refusal)


class _Held(msgspec.Struct, array_like=True):
    """What is held back of one choice: the first of the tokens to join, and all their text."""

    first: _Joined
    since_ns: int
    pieces: list[str]
    size: int


_decode_state = msgspec.msgpack.Decoder(dict[int, _Held]).decode


class TokenAccumulator(BatchTransformer):
    """Joins plain text of one kind and choice until it has `min` characters, never over `max`.

    A piece that is longer comes in several. Nothing waits for longer than `idle_ms`. Tool calls,
    citations, signatures and log-probabilities go on at once, behind the text before them.
    """

    def __init__(self, min: int = 20, max: int = 200, idle_ms: float = 50.0) -> None:
        """Sizes are in characters. Raises `ValueError` unless 1 <= min <= max and idle_ms > 0."""
        if not 1 <= min <= max:
            raise ValueError(f"1 <= min <= max must hold, not {min} and {max}")
        if not idle_ms > 0:
            raise ValueError(f"idle_ms must be above 0, not {idle_ms}")
        self._min, self._max = min, max
        self._idle_ns = int(idle_ms * NS_PER_MS)
        self._held: dict[int, _Held] = {}
        self.changed = False

    def feed(self, tokens: Sequence[StreamToken], now_ns: int) -> list[StreamToken]:
        """Return what is large enough by now, and what is not to be joined."""
        after: list[StreamToken] = []
        for token in tokens:
            if type(token) is Text and (held := self._held.get(0)) and type(held.first) is Text:
                size = held.size + len(token.content)
                if size < self._min:  # where most tokens end
                    held.size = size
                    held.pieces.append(token.content)
                    self.changed = True
                    continue
            if isinstance(token, _JOINED) and (type(token) is Text or _plain(token)):
                self._hold(token, now_ns, after)
            else:
                if not isinstance(token, Usage):
                    self._release(_choice(token), after)
                after.append(token)
        return after

    def flush(self, now_ns: int) -> list[StreamToken]:
        """Return all that was held back."""
        after: list[StreamToken] = []
        for choice in list(self._held):
            self._release(choice, after)
        return after

    @property
    def due_ns(self) -> int | None:
        """When the first of what is held back has waited for long enough."""
        oldest = min((held.since_ns for held in self._held.values()), default=None)
        return None if oldest is None else oldest + self._idle_ns

    def idle(self, now_ns: int) -> list[StreamToken]:
        """Return what has waited for long enough."""
        after: list[StreamToken] = []
        for choice, held in list(self._held.items()):
            if held.since_ns + self._idle_ns <= now_ns:
                self._release(choice, after)
        return after

    def state(self) -> bytes:
        """Return what is held back."""
        self.changed = False
        return msgspec.msgpack.encode(self._held)

    def restore(self, state: bytes) -> None:
        """Go on from a `state`. Raises `msgspec.MsgspecError`."""
        self._held = _decode_state(state)

    def _hold(self, token: _Joined, now_ns: int, after: list[StreamToken]) -> None:
        choice = _choice(token)
        held = self._held.get(choice)
        size = len(token.content)
        if held and (held.size + size > self._max or not _same(held.first, token)):
            self._release(choice, after)
            held = None
        if held is None:
            held = self._held[choice] = _Held(token, now_ns, [], 0)
        held.pieces.append(token.content)
        held.size += size
        self.changed = True
        if held.size >= self._min:
            self._release(choice, after)

    def _release(self, choice: int, after: list[StreamToken]) -> None:
        held = self._held.pop(choice, None)
        if held is None:
            return
        self.changed = True
        text = "".join(held.pieces)
        for at in range(0, len(text), self._max):
            piece = text[at : at + self._max]
            of_text = type(held.first) is Text
            after.append(Text(piece) if of_text else replace(held.first, content=piece))


def _plain(token: _Joined) -> bool:
    """Say whether a token is text and nothing else, so that it may be joined with another."""
    match token:
        case Delta():
            return token.logprob is None and token.token_ids is None
        case Refusal():
            return token.logprob is None
        case Reasoning():
            return token.signature is None and token.encrypted is None and token.detail is None
    return True


def _same(first: _Joined, token: _Joined) -> bool:
    """Say whether two tokens of one choice are parts of one text."""
    return type(first) is type(token) and getattr(first, "block", 0) == getattr(token, "block", 0)


def _choice(token: StreamToken) -> int:
    if type(token) is Text:
        return 0
    return token.choice if isinstance(token, ToolCall) else getattr(token, "index", 0)
