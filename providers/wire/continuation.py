"""Models that go on with a prompt: Titan, Llama, Mistral and Cohere, as InvokeModel sends them.

https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters.html. Chunks and whole
answers differ only in the names of their lists; the end is the end of the body.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Final, TypeAlias

import msgspec

from ringcast.providers.wire.dialect import Dialect, Memory
from ringcast.providers.wire.finish import finish_reason, reason_word
from ringcast.providers.wire.numbers import position
from ringcast.providers.wire.payload import decode
from ringcast.providers.wire.sse import SseEvent, WireError
from ringcast.providers.wire.usage import counted
from ringcast.shm.tokens import Done, StreamToken

MAX_CHOICES: Final = 128

# A text, why it ended, and which of several it is part of; null where nothing is said.
Piece: TypeAlias = tuple[Any, Any, Any]


class Result(msgspec.Struct, gc=False):
    """One of Titan's `results`, Mistral's `outputs` or Cohere's `generations`."""

    output_text: Any = msgspec.field(default=None, name="outputText")
    completion_reason: Any = msgspec.field(default=None, name="completionReason")
    token_count: Any = msgspec.field(default=None, name="tokenCount")
    text: Any = None
    stop_reason: Any = None
    finish_reason: Any = None


class Chunk(msgspec.Struct, gc=False):
    """Any chunk, and any whole answer."""

    # Titan
    output_text: Any = msgspec.field(default=None, name="outputText")
    completion_reason: Any = msgspec.field(default=None, name="completionReason")
    input_count: Any = msgspec.field(default=None, name="inputTextTokenCount")
    output_count: Any = msgspec.field(default=None, name="totalOutputTextTokenCount")
    results: list[Result] | None = None
    # Llama
    generation: Any = None
    stop_reason: Any = None
    prompt_token_count: Any = None
    generation_token_count: Any = None
    # Mistral
    outputs: list[Result] | None = None
    # Cohere
    text: Any = None
    finish_reason: Any = None
    is_finished: Any = None
    generations: list[Result] | None = None
    # Titan's is always 0, Cohere's tells several generations apart
    index: Any = None


class _Memory(Memory, array_like=True):
    choices: int = 0
    reasons: dict[int, str] = msgspec.field(default_factory=dict)
    finished: bool = False


class Continuation(Dialect[_Memory]):
    """Decodes the chunks of all four, told apart by their fields."""

    _chunk: ClassVar[msgspec.json.Decoder[Chunk]] = msgspec.json.Decoder(Chunk)

    def __init__(self) -> None:
        super().__init__(_Memory)

    @property
    def complete(self) -> bool:
        """Whether a reason was given, or `is_finished`."""
        return bool(self._seen.reasons) or self._seen.finished

    @property
    def reason(self) -> str | None:
        """That of the first text."""
        return self._seen.reasons.get(0)

    def feed_block(self, block: bytes) -> list[StreamToken] | None:
        """There is no framing but InvokeModel's, which is `invoke`'s."""
        return None

    def whole(self, answer: bytes) -> list[StreamToken] | None:
        """The answer of `POST /model/ID/invoke`."""
        try:
            chunk = decode(self._chunk, answer)
        except WireError:
            return None
        if not any(isinstance(text, str) for text, _, _ in _pieces(chunk)):
            return None
        return self._ended(self._tokens([chunk]))

    def _read(self, event: SseEvent) -> list[Chunk]:
        return [decode(self._chunk, event.data)]

    def _done(self) -> Done:
        seen = self._seen
        several = [seen.reasons.get(index) for index in range(seen.choices)]
        return Done(
            finish_reason(self.reason),
            self.reason,
            usage=seen.usage,
            choices=several if len(several) > 1 else None,
        )

    def _apply(self, chunk: Chunk, tokens: list[StreamToken]) -> list[StreamToken] | None:
        for text, reason, number in _pieces(chunk):
            index = position(number, "text", MAX_CHOICES)
            if index >= self._seen.choices:
                self._seen.choices, self.changed = index + 1, True
            self._content(text, index, None, tokens)
            if (word := reason_word(reason)) is not None:
                self._seen.reasons[index], self.changed = word, True
        if chunk.is_finished is True:
            self._seen.finished = self.changed = True
        self._count(chunk, tokens)
        return None

    def _count(self, chunk: Chunk, tokens: list[StreamToken]) -> None:
        """Titan counts in one place or the other, Llama in its own, the others not at all."""
        result = chunk.results[0] if chunk.results else Result()
        made = (chunk.output_count, result.token_count, chunk.generation_token_count)
        given = (chunk.input_count, chunk.prompt_token_count)
        self._account(counted(_first(given), _first(made)), tokens)


def _first(values: Iterable[Any]) -> Any:
    return next((value for value in values if value is not None), None)


def _pieces(chunk: Chunk) -> Iterator[Piece]:
    """What a chunk says itself, and what in its lists."""
    alone = (
        (chunk.output_text, chunk.completion_reason, chunk.index),
        (chunk.generation, chunk.stop_reason, chunk.index),
        (chunk.text, chunk.finish_reason, chunk.index),
    )
    yield from (piece for piece in alone if piece[0] is not None or piece[1] is not None)
    for number, one in enumerate(chunk.results or ()):
        yield one.output_text, one.completion_reason, number
    for number, one in enumerate(chunk.outputs or ()):
        yield one.text, one.stop_reason, number
    for number, one in enumerate(chunk.generations or ()):
        yield one.text, one.finish_reason, number
