"""Bedrock's InvokeModel: every model's own format, in base64 inside AWS messages.

https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_InvokeModelWithResponseStream.html
The model's format is told by its first chunk, and decoded as if it had come by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from ringcast.providers.wire.anthropic import Messages
from ringcast.providers.wire.cohere import CohereChat
from ringcast.providers.wire.complete import Complete
from ringcast.providers.wire.continuation import Continuation
from ringcast.providers.wire.converse import Nova, said_error
from ringcast.providers.wire.dialect import Dialect
from ringcast.providers.wire.eventstream import envelope, messages
from ringcast.providers.wire.invoked_chat import InvokedChat
from ringcast.providers.wire.payload import decode
from ringcast.providers.wire.sse import SseEvent, WireError
from ringcast.providers.wire.usage import invocation_usage, merged
from ringcast.shm.records import Cursor
from ringcast.shm.tokens import Done, Error, StreamToken, Usage

_FORMATS: Final[dict[str, Callable[[], Dialect[Any]]]] = {
    "messages": Messages,
    "complete": Complete,
    "nova": Nova,
    "chat": InvokedChat,
    "cohere": CohereChat,
    "continuation": Continuation,
}
# A field, and the format that has it in every chunk and answer; what has none is a continuation.
_TELLING: Final = (
    *(("completion", "complete"), ("type", "messages"), ("choices", "chat")),
    *((name, "cohere") for name in ("event_type", "chat_history", "response_id")),
    *((name, "nova") for name in ("output", "metadata", "messageStart", "messageStop")),
    *((f"contentBlock{part}", "nova") for part in ("Start", "Delta", "Stop")),
)
_SERVICE: Final = "amazon-bedrock-"
_ADDED: Final = b'"amazon-bedrock-'
_BLOCKED: Final = "INTERVENED"


class Chunk(msgspec.Struct, gc=False):
    """The payload of a chunk; its bytes are in base64."""

    data: bytes = msgspec.field(name="bytes")


class Added(msgspec.Struct, gc=False):
    """What the service adds to a model's last chunk, or to an answer."""

    metrics: dict[str, Any] | None = msgspec.field(
        default=None, name="amazon-bedrock-invocationMetrics"
    )
    guardrail: Any = msgspec.field(default=None, name="amazon-bedrock-guardrailAction")


class _State(msgspec.Struct, array_like=True):
    name: str
    format: bytes
    metrics: Usage | None
    counted: bool
    guarded: bool


_chunk: Final = msgspec.json.Decoder(Chunk)
_added: Final = msgspec.json.Decoder(Added)
_fields: Final = msgspec.json.Decoder(dict[str, Any])
_state: Final = msgspec.msgpack.Decoder(_State)


class Invoke:
    """Decodes the messages of `POST /model/ID/invoke-with-response-stream`.

    The service's counts fill in what the model does not count; where both do, the model's hold. An
    answer in which a guardrail intervened is a filtered one, whatever its model said.
    """

    def __init__(self) -> None:
        self._name = ""
        self._format: Dialect[Any] = Continuation()
        self._metrics: Usage | None = None
        self._counted = False  # a Usage token was given
        self._guarded = False  # a guardrail intervened
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
    def recall(self) -> None:
        """None: a message has its checksum, and none is like another."""

    @property
    def complete(self) -> bool:
        """Whether the model has said how the answer ended; one that is blocked may not."""
        return self._guarded or self._format.complete

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
            self._note(answer)
        except WireError:
            return None
        tokens = self._format.whole(answer)
        return None if tokens is None else self._measured(tokens)

    def close(self, error: Error | None) -> list[StreamToken]:
        """The last tokens."""
        return self._measured(self._format.close(error))

    def state(self) -> bytes:
        """All that a successor needs to go on at the next block, as msgpack."""
        inner = self._format.state()
        saved = _State(self._name, inner, self._metrics, self._counted, self._guarded)
        self._changed = False
        return msgspec.msgpack.encode(saved)

    def restore(self, state: bytes) -> None:
        """Take over from `state`. Raises `msgspec.MsgspecError` if it is none."""
        saved = _state.decode(state)
        self._name, self._metrics, self._counted = saved.name, saved.metrics, saved.counted
        self._guarded = saved.guarded
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
        self._note(data)
        return self._measured(tokens)

    def _note(self, data: bytes) -> None:
        """Take over what the service has added."""
        if _ADDED not in data:
            return
        added = decode(_added, data)
        if added.metrics is not None:
            self._metrics = invocation_usage(added.metrics)
        self._guarded |= added.guardrail == _BLOCKED
        self._changed = True

    def _recognize(self, data: bytes) -> None:
        """Find the format, unless there is nothing of the model's yet."""
        fields = decode(_fields, data)
        if fields and all(field.startswith(_SERVICE) for field in fields):
            return
        named = (name for field, name in _TELLING if field in fields)
        self._name = next(named, "continuation")
        self._format = _FORMATS[self._name]()
        self._changed = True

    def _measured(self, tokens: list[StreamToken]) -> list[StreamToken]:
        """`tokens` with the service's counts in the terminal one, and before it if they are new."""
        self._counted |= any(isinstance(token, Usage) for token in tokens)
        if not tokens or not isinstance(last := tokens[-1], Done | Error):
            return tokens
        if self._guarded and isinstance(last, Done):
            reason = last.provider_reason or _BLOCKED
            last = msgspec.structs.replace(
                last, finish_reason="content_filter", provider_reason=reason
            )
        if self._metrics is None:
            return [*tokens[:-1], last]
        usage = merged(self._metrics, last.usage or Usage())
        last = msgspec.structs.replace(last, usage=usage)
        return [*tokens[:-1], *([] if self._counted else [usage]), last]
