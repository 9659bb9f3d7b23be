"""What may be done to a stream's tokens behind the decoder. Pure.

A transformer takes one token at a time and says what becomes of it: `Pass`, `Skip`, `Replace`
by others, which go on down the chain (`transforms`), or an `Error`, which ends the stream. `Done`
and `Error` are never asked about: what was held back comes before them, and they always pass. Time
comes as an argument.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final, TypeAlias, get_args

import msgspec

from ringcast.errors import Code
from ringcast.providers.wire.portable import UNPORTABLE, portable
from ringcast.shm.tokens import Done, Error, StreamToken, decoder, encoder

TERMINAL: Final = (Done, Error)
_KINDS: Final = frozenset(get_args(StreamToken))


class Pass(msgspec.Struct, frozen=True, gc=False):
    """The token goes on as it is."""


class Skip(msgspec.Struct, frozen=True, gc=False):
    """The token goes no further."""


class Replace(msgspec.Struct, frozen=True):
    """These tokens go on instead; none of them is terminal."""

    tokens: list[StreamToken]


# With an `Error` the stream ends, behind what was said and held back before.
TransformResult: TypeAlias = Pass | Skip | Replace | Error

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
            try:
                result = self.transform(token, now_ns)
            except Exception as error:  # what was said before stays said
                return [*after, broken(self, error)]
            if isinstance(result, Pass):
                after.append(token)
            elif isinstance(result, Replace):
                after += carried(self, result.tokens)
                if after and type(after[-1]) in TERMINAL:
                    break
            elif isinstance(result, Error):
                return [*after, *flushed(self, now_ns), *carried(self, [result])]
            elif not isinstance(result, Skip):
                return [*after, _misled(self, result)]
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


def flushed(one: StreamTransformer, now_ns: int) -> list[StreamToken]:
    """Return what a transformer has held back, or the error that it has no more."""
    try:
        return carried(one, one.flush(now_ns))
    except Exception as error:
        return [broken(one, error)]


def carried(one: StreamTransformer, tokens: list[StreamToken]) -> list[StreamToken]:
    """Return tokens as a client will read them, up to a terminal one, or an error if it cannot.

    A struct is not checked when it is made, and nobody could read `Text(None)`.
    """
    if tokens == []:
        return tokens
    try:
        return sound(decoder.decode(_encoded(tokens)))
    except (TypeError, msgspec.ValidationError):
        return [_said_of(one, "gave what is no list of tokens")]


def sound(tokens: list[StreamToken]) -> list[StreamToken]:
    """Return tokens up to a terminal one, or an error for what is no token: 20 ns each."""
    kinds = {*map(type, tokens)}
    if strangers := kinds - _KINDS:
        names = ", ".join(sorted(kind.__name__ for kind in strangers))
        return [Error(Code.INTERNAL, f"a transformer gave what is no token: {names}")]
    if not kinds.isdisjoint(TERMINAL):
        return tokens[: next(n for n, t in enumerate(tokens, 1) if type(t) in TERMINAL)]
    return tokens


def _encoded(tokens: list[StreamToken]) -> bytes:
    try:
        return encoder.encode(tokens)
    except UNPORTABLE:
        return encoder.encode(portable(tokens))


def _misled(one: StreamTransformer, result: object) -> Error:
    """Say that what a transformer gave is no result: it is None if it forgot to return."""
    return _said_of(one, f"gave a {type(result).__name__}, not Pass, Skip, Replace or Error")


def broken(one: StreamTransformer, error: Exception) -> Error:
    """Say which transformer failed; the exception's text may hold the stream's, so not what."""
    return _said_of(one, f"failed with {type(error).__name__}")


def _said_of(one: StreamTransformer, what: str) -> Error:
    return Error(Code.INTERNAL, f"the transformer {type(one).__name__} {what}")
