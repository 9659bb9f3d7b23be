"""Thinking that a model writes into its text between `<think>` and `</think>`, told apart."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from ringcast.providers.wire.think_tag import Part, ThinkTag
from ringcast.shm.tokens import Delta, Reasoning, StreamToken, Text
from ringcast.workers.transform import BatchTransformer

_decode_state = msgspec.msgpack.Decoder(dict[int, ThinkTag]).decode


class ThinkTagSplitter(BatchTransformer):
    """Turns what stands between the tags into `Reasoning`, and leaves the tags out.

    Tags may be cut anywhere. Only one with which a choice's text begins counts (`think_tag`), so
    that an answer may be about tags; as soon as it has ended, or there was none, all that follows
    goes on as it is. With `anywhere` tags count wherever they stand, for models that think more
    than once. Log-probabilities and token ids go with the tokens that are split.
    """

    def __init__(self, anywhere: bool = False) -> None:
        self._anywhere = anywhere
        self._tags: dict[int, ThinkTag] = {}
        self._over = False  # whether choice 0 has no more thinking
        self.changed = False

    def feed(self, tokens: Sequence[StreamToken], now_ns: int) -> list[StreamToken]:
        """Return tokens with thinking and text told apart."""
        after: list[StreamToken] = []
        for token in tokens:
            if type(token) is Text and self._over:  # nearly all that there are
                after.append(token)
            elif isinstance(token, Text | Delta):
                self._split(token, after)
            else:
                after.append(token)
        return after

    def flush(self, now_ns: int) -> list[StreamToken]:
        """Return what might have become a tag."""
        after: list[StreamToken] = []
        for index, tag in self._tags.items():
            after += [_token(index, part) for part in tag.flush()]
        return after

    def state(self) -> bytes:
        """Return how far each choice's text is."""
        self.changed = False
        return msgspec.msgpack.encode(self._tags)

    def restore(self, state: bytes) -> None:
        """Go on from a `state`. Raises `msgspec.MsgspecError`."""
        self._tags = _decode_state(state)

    def _split(self, token: Text | Delta, after: list[StreamToken]) -> None:
        index = token.index if isinstance(token, Delta) else 0
        tag = self._tags.get(index)
        if tag is None:
            tag = self._tags[index] = ThinkTag(anywhere=self._anywhere)
        elif tag.settled:
            self._over |= index == 0
            after.append(token)
            return
        before = replace(tag)
        parts = tag.feed(token.content)
        self.changed |= tag != before
        if parts == [(False, token.content)]:
            after.append(token)
        else:
            after += [_token(index, part) for part in parts]


def _token(index: int, part: Part) -> StreamToken:
    thinking, text = part
    if thinking:
        return Reasoning(text, index)
    return Delta(text, index) if index else Text(text)
