"""What may be done to a stream's tokens behind the decoder, and the chain that does it. Pure.

A transformer takes one token at a time and says what becomes of it: `Pass`, `Skip`, `Replace`
by others, which go on down the chain, or `Fail`, which ends the stream. `Done` and `Error` are
never asked about: what was held back comes before them, and they always pass. Time comes as an
argument. The state travels in the stream's CHECKPOINT, so a successor of the worker goes on with
the same words.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias, get_args

import msgspec

from ringcast.errors import Code
from ringcast.shm.tokens import Done, Error, StreamToken

_TERMINAL: Final = (Done, Error)
_KINDS: Final = frozenset(get_args(StreamToken))
_decode_states = msgspec.msgpack.Decoder(list[bytes]).decode


class Pass(msgspec.Struct, frozen=True, gc=False):
    """The token goes on as it is."""


class Skip(msgspec.Struct, frozen=True, gc=False):
    """The token goes no further."""


class Replace(msgspec.Struct, frozen=True):
    """These tokens go on instead; none of them is terminal."""

    tokens: list[StreamToken]


class Fail(msgspec.Struct, frozen=True):
    """The stream ends with this error, behind what was said and held back before."""

    error: Error


TransformResult: TypeAlias = Pass | Skip | Replace | Fail

PASS: Final = Pass()
SKIP: Final = Skip()


class StreamTransformer(ABC):
    """Base of all transformers. One object serves one stream.

    `changed` says whether `state` has other things to say than when it was last asked; who keeps
    none leaves it False. `removed` counts what was taken out of the stream.
    """

    changed = False
    removed = 0

    @abstractmethod
    def transform(self, token: StreamToken, now_ns: int) -> TransformResult:
        """Say what becomes of a token, which is never terminal. `now_ns` is monotonic."""

    def flush(self, now_ns: int) -> list[StreamToken]:
        """Return what is held back: the stream ends."""
        return []

    @property
    def due_ns(self) -> int | None:
        """When `idle` wants to be called at the latest; None while nothing waits."""
        return None

    def idle(self, now_ns: int) -> list[StreamToken]:
        """Return what must not be held back any longer; asked when `due_ns` has come."""
        return []

    def state(self) -> bytes:
        """Return all that a successor needs to go on at the next token."""
        self.changed = False
        return b""

    def restore(self, state: bytes) -> None:
        """Go on from a `state`. Raises `msgspec.MsgspecError` or `ValueError` if it is none."""
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state")

    def feed(self, tokens: Sequence[StreamToken], now_ns: int) -> list[StreamToken]:
        """Return what becomes of several tokens; an `Error` that ends the stream is the last."""
        after: list[StreamToken] = []
        for token in tokens:
            result = self.transform(token, now_ns)
            if isinstance(result, Pass):
                after.append(token)
            elif isinstance(result, Replace):
                after += result.tokens
            elif isinstance(result, Fail):
                return [*after, *self.flush(now_ns), result.error]
        return after


class BatchTransformer(StreamTransformer):
    """A transformer that deals with several tokens at once faster than with one by one."""

    @abstractmethod
    def feed(self, tokens: Sequence[StreamToken], now_ns: int) -> list[StreamToken]:
        """Return what becomes of tokens that are not terminal."""

    def transform(self, token: StreamToken, now_ns: int) -> TransformResult:
        """Say what becomes of a single token."""
        after = self.feed([token], now_ns)
        if len(after) == 1 and after[0] is token:
            return PASS
        return Replace(after) if after else SKIP


class Transforms:
    """The transformers of one stream, in order. `finished` is set with the terminal token."""

    def __init__(self, chain: Iterable[StreamTransformer]) -> None:
        """What leaves the last one of `chain` is what is seen."""
        self._chain = list(chain)
        self.finished = False

    @property
    def changed(self) -> bool:
        """Whether `state` would now give other bytes that matter than when it was last taken."""
        return any(one.changed for one in self._chain)

    @property
    def removed(self) -> int:
        """How much was taken out of the stream, as the transformers count it."""
        return sum(one.removed for one in self._chain)

    @property
    def due_ns(self) -> int | None:
        """When to call `idle`, None if nothing waits for it."""
        return min((due for one in self._chain if (due := one.due_ns) is not None), default=None)

    def feed(self, tokens: list[StreamToken], now_ns: int) -> list[StreamToken]:
        """Return what becomes of tokens; a terminal one is the last of them, here as there."""
        return self._through(0, tokens, now_ns)

    def idle(self, now_ns: int) -> list[StreamToken]:
        """Return what has been held back for long enough."""
        after: list[StreamToken] = []
        for number, one in enumerate(self._chain):
            if not self.finished and (due := one.due_ns) is not None and due <= now_ns:
                try:
                    released = one.idle(now_ns)
                except Exception as error:  # whatever it is, it must not end the worker
                    released = [_broken(one, error)]
                after += self._through(number + 1, released, now_ns)
        return after

    def state(self) -> bytes:
        """Return the state of each as msgpack."""
        return msgspec.msgpack.encode([one.state() for one in self._chain])

    def restore(self, state: bytes) -> None:
        """Go on from a `state`. Raises `msgspec.MsgspecError` or `ValueError` if it is none."""
        for one, its in zip(self._chain, _decode_states(state), strict=True):
            one.restore(its)

    def _through(self, start: int, tokens: list[StreamToken], now_ns: int) -> list[StreamToken]:
        if self.finished:
            return []
        for one in self._chain[start:] if start else self._chain:
            if tokens:
                tokens = _step(one, tokens, now_ns)
        tokens = _sound(tokens)
        self.finished = bool(tokens) and type(tokens[-1]) in _TERMINAL
        return tokens


def _step(one: StreamTransformer, tokens: list[StreamToken], now_ns: int) -> list[StreamToken]:
    end = tokens[-1] if type(tokens[-1]) in _TERMINAL else None
    try:
        if end is None:
            return one.feed(tokens, now_ns)
        after = one.feed(tokens[:-1], now_ns)
        if not (after and type(after[-1]) in _TERMINAL):
            after = [*after, *one.flush(now_ns), end]
    except Exception as error:  # one of another author, and nobody else's stream shall notice
        return [_broken(one, error)]
    return after


def _sound(tokens: list[StreamToken]) -> list[StreamToken]:
    """Return tokens up to a terminal one, or an error for what is no token: 20 ns each."""
    kinds = {*map(type, tokens)}
    if strangers := kinds - _KINDS:
        names = ", ".join(sorted(kind.__name__ for kind in strangers))
        return [Error(Code.INTERNAL, f"a transformer gave what is no token: {names}")]
    if not kinds.isdisjoint(_TERMINAL):
        return tokens[: next(n for n, t in enumerate(tokens, 1) if type(t) in _TERMINAL)]
    return tokens


def _broken(one: StreamTransformer, error: Exception) -> Error:
    """Say which transformer failed; the exception's text may hold the stream's, so not what."""
    text = f"the transformer {type(one).__name__} failed with {type(error).__name__}"
    return Error(Code.INTERNAL, text)
