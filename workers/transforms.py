"""The transformers of one stream, one behind the other; the end of it always passes. Pure.

A transformer of another author may raise, or give what is neither token nor result, wherever it
is asked: its own stream ends with an error that names it, behind what was said, and no other
stream notices. Its state travels in the stream's CHECKPOINT, so a successor of the worker goes on
with the same words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import msgspec

from ringcast.shm.tokens import Error, StreamToken
from ringcast.workers.transform import TERMINAL, StreamTransformer, broken, carried, flushed, sound

_decode_states = msgspec.msgpack.Decoder(list[bytes]).decode

T = TypeVar("T")


class Transforms:
    """The transformers of one stream, in order. `finished` is set with the terminal token."""

    def __init__(self, chain: Iterable[StreamTransformer]) -> None:
        """What leaves the last one of `chain` is what is seen."""
        self._chain = list(chain)
        self._fault: tuple[int, Error] | None = None  # which cannot go on, and what is said of it
        self.finished = False

    @property
    def changed(self) -> bool:
        """Whether `state` would now give other bytes that matter than when it was last taken."""
        try:
            for one in self._chain:
                if one.changed:
                    return True
        except Exception as error:
            self._give_up(one, error)
        return False

    @property
    def removed(self) -> int:
        """How much was taken out of the stream, as the transformers count it."""
        return sum(self._asked(_removed, 0))

    @property
    def due_ns(self) -> int | None:
        """When to call `idle`, None if nothing waits for it."""
        if self.finished:
            return None
        dues = []
        try:
            for one in self._chain:
                if (due := one.due_ns) is not None:
                    dues.append(max(due, 0))
        except Exception as error:
            self._give_up(one, error)
        return 0 if self._fault else min(dues, default=None)

    def feed(self, tokens: list[StreamToken], now_ns: int) -> list[StreamToken]:
        """Return what becomes of tokens; a terminal one is the last of them, here as there."""
        return self._given_up(now_ns) if self._fault else self._through(0, tokens, now_ns)

    def idle(self, now_ns: int) -> list[StreamToken]:
        """Return what has been held back for long enough."""
        after: list[StreamToken] = []
        for number, due in enumerate(self._asked(_due_ns, None)):
            if not self.finished and due is not None and due <= now_ns:
                released = _released(self._chain[number], now_ns)
                after += self._through(number + 1, released, now_ns)
        return after + self._given_up(now_ns) if self._fault else after

    def state(self) -> bytes:
        """Return the state of each as msgpack."""
        return msgspec.msgpack.encode(list(self._asked(_state, b"")))

    def restore(self, state: bytes) -> None:
        """Go on from a `state`. Raises `msgspec.MsgspecError` or `ValueError` if it is none.

        One that cannot go on from its own part ends the stream.
        """
        states = _decode_states(state)
        if len(states) != len(self._chain):
            raise ValueError(f"{len(states)} states are not of {len(self._chain)} transformers")
        left = iter(states)
        list(self._asked(lambda one: one.restore(next(left)), None))

    def _asked(self, question: Callable[[StreamTransformer], T], instead: T) -> Iterator[T]:
        """Yield each one's answer; where one raises, `instead`, and the stream is to end."""
        for one in self._chain:
            try:
                yield question(one)
            except Exception as error:
                self._give_up(one, error)
                yield instead

    def _give_up(self, one: StreamTransformer, error: Exception) -> None:
        """Remember, where nothing can be said, that the stream is to end."""
        self._fault = self._fault or (self._chain.index(one), broken(one, error))

    def _given_up(self, now_ns: int) -> list[StreamToken]:
        """Say why the stream ends, behind what those hold back who can still say it."""
        assert self._fault is not None
        number, error = self._fault
        return self._through(number + 1, [error], now_ns)

    def _through(self, start: int, tokens: list[StreamToken], now_ns: int) -> list[StreamToken]:
        if self.finished:
            return []
        for one in self._chain[start:] if start else self._chain:
            if tokens:
                tokens = _step(one, tokens, now_ns)
        tokens = sound(tokens)
        self.finished = _ends(tokens)
        return tokens


def _step(one: StreamTransformer, tokens: list[StreamToken], now_ns: int) -> list[StreamToken]:
    end = tokens[-1] if type(tokens[-1]) in TERMINAL else None
    try:
        if end is None:
            return [*one.feed(tokens, now_ns)]
        after = [*one.feed(tokens[:-1], now_ns)]
    except Exception as error:  # of one that has a `feed` of its own
        return [broken(one, error)]
    if not _ends(after):
        after += flushed(one, now_ns)
    return after if _ends(after) else [*after, end]


def _ends(tokens: list[StreamToken]) -> bool:
    return bool(tokens) and type(tokens[-1]) in TERMINAL


def _released(one: StreamTransformer, now_ns: int) -> list[StreamToken]:
    try:
        return carried(one, one.idle(now_ns))
    except Exception as error:
        return [broken(one, error)]


def _removed(one: StreamTransformer) -> int:
    return int(one.removed)


def _due_ns(one: StreamTransformer) -> int | None:
    due = one.due_ns
    return None if due is None else max(due, 0)


def _state(one: StreamTransformer) -> bytes:
    return memoryview(one.state()).tobytes()
