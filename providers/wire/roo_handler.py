"""What the handlers of `roo` have in common: a memory of their own, and `<think>` in the text."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from ringcast.providers.wire.dialect import Dialect, Memory
from ringcast.providers.wire.think_tag import Part, ThinkTag
from ringcast.shm.tokens import Error, Logprob, Reasoning, StreamToken

M = TypeVar("M", bound=Memory)


class _Saved(msgspec.Struct, array_like=True):
    dialect: bytes
    own: msgspec.Raw


class Handler(Dialect[M]):
    """A decoder with a memory of its own, `_own`, beside that of the one it is derived from."""

    _own: Any

    def state(self) -> bytes:
        """Both memories, as msgpack."""
        own = msgspec.Raw(msgspec.msgpack.encode(self._own))
        return msgspec.msgpack.encode(_Saved(super().state(), own))

    def restore(self, state: bytes) -> None:
        """Take over from `state`. Raises `msgspec.MsgspecError` if it is none."""
        saved = msgspec.msgpack.decode(state, type=_Saved)
        self._own = msgspec.msgpack.decode(saved.own, type=type(self._own))
        super().restore(saved.dialect)


class Tags(msgspec.Struct, array_like=True):
    """The memory of a `Thinker`."""

    by_choice: dict[int, ThinkTag] = {}


class Thinker(Handler[M]):
    """A decoder that knows a `<think>` at the beginning of the text from text."""

    _own: Tags

    def _content(
        self, text: Any, index: int, scores: list[Logprob] | None, tokens: list[StreamToken]
    ) -> None:
        tag = self._own.by_choice.setdefault(index, ThinkTag())
        if tag.settled or not isinstance(text, str):
            super()._content(text, index, scores, tokens)
            return
        before = msgspec.structs.astuple(tag)
        parts = tag.feed(text)
        self.changed |= before != msgspec.structs.astuple(tag)
        if scores and [thinking for thinking, _ in parts] != [False]:
            super()._content("", index, scores, tokens)
            scores = None
        self._split(parts, index, scores, tokens)

    def _split(
        self,
        parts: list[Part],
        index: int,
        scores: list[Logprob] | None,
        tokens: list[StreamToken],
    ) -> None:
        for thinking, text in parts:
            if not thinking:
                super()._content(text, index, scores, tokens)
            elif text := self._joined("reasoning", text, index):
                tokens.append(Reasoning(text, index))

    def _held_back(self, error: Error | None) -> list[StreamToken]:
        tokens: list[StreamToken] = []
        for index, tag in self._own.by_choice.items():
            self._split(tag.flush(), index, None, tokens)
        return tokens + super()._held_back(error)
