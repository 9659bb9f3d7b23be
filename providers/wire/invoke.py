"""Bedrock's InvokeModel: every model's own format, in base64 inside AWS messages.

https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_InvokeModelWithResponseStream.html
The model's format is told by its first chunk, and decoded as if it had come by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from ringcast.providers.wire.anthropic import Complete, Messages
from ringcast.providers.wire.continuation import Continuation
from ringcast.providers.wire.converse import Nova, said_error
from ringcast.providers.wire.dialect import Dialect
from ringcast.providers.wire.eventstream import envelope, messages
from ringcast.providers.wire.openai import Chat
from ringcast.providers.wire.payload import decode
from ringcast.providers.wire.sse import SseEvent, WireError
from ringcast.providers.wire.usage import invocation_usage, merged
from ringcast.shm.records import Cursor
from ringcast.shm.tokens import Done, Error, StreamToken, Usage

_FORMATS: Final[dict[str, Callable[[], Dialect[Any]]]] = {
    "messages": Messages,
    "complete": Complete,
    "nova": Nova,
    "chat": Chat,
    "continuation": Continuation,
}
# A field, and the format that has it in every chunk and answer; what has none is a continuation.
_TELLING: Final = (
    *(("completion", "complete"), ("type", "messages"), ("choices", "chat")),
    *((name, "nova") for name in ("output", "metadata", "messageStart", "messageStop")),
    *((f"contentBlock{part}", "nova") for part in ("Start", "Delta", "Stop")),
)
_METRICS: Final = b'"amazon-bedrock-invocationMetrics"'


class Chunk(msgspec.Struct, gc=False):
    """The payload of a chunk; its bytes are in base64."""

    data: bytes = msgspec.field(name="bytes")


class Metrics(msgspec.Struct, gc=False):
    """What the service adds to a model's last chunk."""

    metrics: dict[str, Any] = msgspec.field(
        default_factory=dict, name="amazon-bedrock-invocationMetrics"
    )


class _State(msgspec.Struct, array_like=True):
    name: str
    format: bytes
    metrics: Usage | None
    counted: bool


_chunk: Final = msgspec.json.Decoder(Chunk)
_metrics: Final = msgspec.json.Decoder(Metrics)
_fields: Final = msgspec.json.Decoder(dict[str, Any])
_state: Final = msgspec.msgpack.Decoder(_State)


class Invoke:
    """Decodes the messages of `POST /model/ID/invoke-with-response-stream`.

    The service's counts fill in what the model does not count; where both do, the model's hold.
    """

    def __init__(self) -> None:
        self._name = ""
        self._format: Dialect[Any] = Continuation()
        self._metrics: Usage | None = None
        self._counted = False  # a Usage token was given
        self._odd = 0
        self._changed = True

    @property
    def changed(self) -> bool:
        """Whether `state` has other things to say than when it was last asked."""
        return self._changed or self._format.changed

    @property
    def oddities(self) -> int:
        """How many irregularities were tolerated."""
        return self._odd + self._format.oddities

    @property
    def cursor(self) -> Cursor | None:
        """None: the service keeps no answers."""
        return None

    @property
    def complete(self) -> bool:
        """Whether the model has said how the answer ended."""
        return self._format.complete

    def feed(self, event: SseEvent) -> list[StreamToken]:
        """The tokens of one chunk of a model."""
        return self._said(event.data.encode())

    def feed_block(self, block: bytes) -> list[StreamToken]:
        """The tokens of whole messages, up to the first that ends the stream or is bad."""
        tokens: list[StreamToken] = []
        try:
            for head, payload in messages(block):
                tokens += self._message(head, payload)
                if tokens and isinstance(tokens[-1], Done | Error):
                    break
        except WireError as error:
            tokens += self.close(Error(error.code, error.message))
        return tokens

    def whole(self, answer: bytes) -> list[StreamToken] | None:
        """The answer of `POST /model/ID/invoke`."""
        try:
            self._recognize(answer)
        except WireError:
            return None
        return self._format.whole(answer)

    def close(self, error: Error | None) -> list[StreamToken]:
        """The last tokens."""
        return self._measured(self._format.close(error))

    def state(self) -> bytes:
        """All that a successor needs to go on at the next block, as msgpack."""
        inner = self._format.state()
        saved = _State(self._name, inner, self._metrics, self._counted)
        self._changed = False
        return msgspec.msgpack.encode(saved)

    def restore(self, state: bytes) -> None:
        """Take over from `state`. Raises `msgspec.MsgspecError` if it is none."""
        saved = _state.decode(state)
        self._name, self._metrics, self._counted = saved.name, saved.metrics, saved.counted
        self._format = _FORMATS.get(saved.name, Continuation)()
        self._format.restore(saved.format)
        self._changed = False

    def _message(self, head: bytes, payload: bytes) -> list[StreamToken]:
        about = envelope(head)
        if (error := said_error(about, payload)) is not None:
            return self.close(error)
        if about.name != "chunk":
            self._odd += 1
            return []
        return self._said(decode(_chunk, payload).data)

    def _said(self, data: bytes) -> list[StreamToken]:
        if not self._name:
            self._recognize(data)
        tokens = self._format.feed(SseEvent(data=data.decode(errors="replace")))
        if _METRICS in data:
            self._metrics = invocation_usage(decode(_metrics, data).metrics)
            self._changed = True
        return self._measured(tokens)

    def _recognize(self, data: bytes) -> None:
        fields = decode(_fields, data)
        named = (name for field, name in _TELLING if field in fields)
        self._name = next(named, "continuation")
        self._format = _FORMATS[self._name]()
        self._changed = True

    def _measured(self, tokens: list[StreamToken]) -> list[StreamToken]:
        """`tokens` with the service's counts in the terminal one, and before it if they are new."""
        self._counted |= any(isinstance(token, Usage) for token in tokens)
        if self._metrics is None or not tokens or not isinstance(tokens[-1], Done | Error):
            return tokens
        usage = merged(self._metrics, tokens[-1].usage or Usage())
        last = msgspec.structs.replace(tokens[-1], usage=usage)
        return [*tokens[:-1], *([] if self._counted else [usage]), last]
