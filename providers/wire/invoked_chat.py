"""OpenAI's chat as makers of models on Bedrock write it.

Mistral sends a `message` where others send a `delta`, DeepSeek a `text`, and both a `stop_reason`:
https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-mistral-chat-completion.html
and /model-parameters-deepseek.html. AI21, OpenAI, Qwen and others keep to the original.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ringcast.providers.wire.chunk import Choice, ChoiceDelta, Chunk
from ringcast.providers.wire.openai import Chat
from ringcast.providers.wire.payload import decode
from ringcast.providers.wire.sse import SseEvent, WireError
from ringcast.shm.tokens import StreamToken


class Stopped(msgspec.Struct, gc=False):
    stop_reason: Any = None


class StoppedChunk(msgspec.Struct, gc=False):
    """The same chunk's other word for its finish reasons."""

    choices: list[Stopped] | None = None


_stopped: Final = msgspec.json.Decoder(StoppedChunk)


class InvokedChat(Chat):
    """Decodes chunks and whole answers alike."""

    def whole(self, answer: bytes) -> list[StreamToken] | None:
        """The answer of `POST /model/ID/invoke`."""
        try:
            found = self._read(SseEvent(data=answer.decode(errors="replace")))
        except WireError:
            return None
        told = any(choice.delta is not None for choice in found[0].choices or ())
        return self._ended(self._tokens(found)) if told else None

    def _read(self, event: SseEvent) -> list[Chunk]:
        [chunk] = super()._read(event)
        stopped = decode(_stopped, event.data).choices or []
        for choice, stop in zip(chunk.choices or (), stopped, strict=True):
            choice.delta = _delta(choice)
            choice.finish_reason = choice.finish_reason or stop.stop_reason
        return [chunk]


def _delta(choice: Choice) -> ChoiceDelta | None:
    delta = choice.delta or choice.message
    return ChoiceDelta(content=choice.text) if delta is None and choice.text else delta
