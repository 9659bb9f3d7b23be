"""Bedrock's Converse, the one API for all its models, and Nova's own form of the same events.

https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html. The usage
comes behind the stop reason, and an exception may come anywhere: the end is the end of the body.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Final, TypeAlias

import msgspec

from ringcast.providers.wire.answer import aws_error
from ringcast.providers.wire.citations import bedrock_citation
from ringcast.providers.wire.converse_event import (
    Answer,
    Block,
    Event,
    NovaEvent,
    PlainEvent,
    ReasoningContent,
    ToolUse,
)
from ringcast.providers.wire.dialect import Dialect, Memory
from ringcast.providers.wire.eventstream import Envelope, envelope, messages
from ringcast.providers.wire.finish import finish_reason, reason_word
from ringcast.providers.wire.numbers import position
from ringcast.providers.wire.payload import decode, decode_lines, parsed
from ringcast.providers.wire.portable import portable, string, whole_text
from ringcast.providers.wire.sse import SseEvent, WireError
from ringcast.providers.wire.tool_calls import ToolCalls, argument_text
from ringcast.providers.wire.usage import bedrock_usage
from ringcast.shm.tokens import Done, Error, Reasoning, StreamToken, Text

# An event by its name, or the error that a message says there is.
Said: TypeAlias = tuple[str, Event] | Error

MAX_BLOCKS: Final = 1 << 20
_DELTA: Final = "contentBlockDelta"
_PLAIN: Final = Envelope("event", _DELTA, "")
_SILENT: Final = ("messageStart", "contentBlockStop")


class _Memory(Memory, array_like=True):
    said: str | None = None
    stop_sequence: str | None = None
    tools: ToolCalls = msgspec.field(default_factory=ToolCalls)


class Converse(Dialect[_Memory]):
    """Decodes the messages of `POST /model/ID/converse-stream`.

    Calls of tools that the service runs (`server_tool_use`) come as the others do, with the name
    that the request gave them; their results, and pictures, as empty `Reasoning` whose `detail`
    is that part of the block, for the client to send back.
    """

    _plain: ClassVar[msgspec.json.Decoder[PlainEvent]] = msgspec.json.Decoder(PlainEvent)
    _event: ClassVar[msgspec.json.Decoder[Event]] = msgspec.json.Decoder(Event)
    _answer: ClassVar[msgspec.json.Decoder[Answer]] = msgspec.json.Decoder(Answer)

    def __init__(self) -> None:
        super().__init__(_Memory)
        self._expect_plain = True  # a guess from the block before; never part of the state

    @property
    def complete(self) -> bool:
        """Whether a stop reason was seen."""
        return self._seen.said is not None

    @property
    def reason(self) -> str | None:
        """The `stopReason`."""
        return self._seen.said

    def feed_block(self, block: bytes) -> list[StreamToken]:
        """The tokens of whole messages."""
        if self._expect_plain and not self._seen.halves.held:
            texts = self._texts(block)
            if texts is not None:
                return texts
        tokens = self._tokens(self._messages(block))
        self._expect_plain = bool(tokens) and type(tokens[-1]) is Text
        return tokens

    def whole(self, answer: bytes) -> list[StreamToken] | None:
        """The answer of `POST /model/ID/converse`."""
        try:
            said = decode(self._answer, answer)
            message = said.output.message if said.output else None
            if message is None or message.content is None:
                return None
            tokens: list[StreamToken] = []
            for index, block in enumerate(message.content):
                if block.tool_use is not None:
                    block.tool_use.input = argument_text(block.tool_use.input)
                self._block(block, index, tokens)
        except WireError:
            return None
        self._stop(said.stop_reason, said.additional_model_response_fields)
        self._metadata(said.usage, said.trace, tokens)
        return tokens + self.close(None)

    def _texts(self, block: bytes) -> list[StreamToken] | None:
        """The tokens of a block in which every message is one piece of text, else null.

        As many objects as lines means one object a line, if no payload has a line end inside.
        """
        try:
            found = list(messages(block))
            heads = {head for head, _ in found}
            if len(heads) != 1 or envelope(heads.pop()) != _PLAIN:
                return None
        except WireError:
            return None
        lines = b"\n".join([payload for _, payload in found])
        if lines.count(b"\n") >= len(found):
            return None
        events = decode_lines(self._plain, lines, len(found))
        if events is None:
            return None
        return [Text(event.delta.text) for event in events if event.delta.text]

    def _messages(self, block: bytes) -> Iterator[Said]:
        for head, payload in messages(block):
            about = envelope(head)
            yield said_error(about, payload) or (about.name, decode(self._event, payload))

    def _read(self, event: SseEvent) -> list[Said]:
        return [(event.event, decode(self._event, event.data))]

    def _done(self) -> Done:
        seen = self._seen
        return Done(
            finish_reason(seen.said),
            seen.said,
            usage=seen.usage,
            id=seen.id,
            model=seen.model,
            stop_sequence=seen.stop_sequence,
        )

    def _apply(self, said: Said, tokens: list[StreamToken]) -> list[StreamToken] | None:
        if isinstance(said, Error):
            return self.close(said)
        name, event = said
        piece = event.start if name == "contentBlockStart" else event.delta
        if name in (_DELTA, "contentBlockStart"):
            self._block(piece or Block(), event.content_block_index, tokens)
        elif name == "messageStop":
            self._stop(event.stop_reason, event.additional_model_response_fields)
        elif name == "metadata":
            self._metadata(event.usage, event.trace, tokens)
        else:
            self.oddities += name not in _SILENT
        return None

    def _block(self, block: Block, index: Any, tokens: list[StreamToken]) -> None:
        """A whole block, or a piece of one."""
        number = position(index, "block", MAX_BLOCKS)
        self._text(block.text, tokens)
        if (thought := block.reasoning_content) is not None:
            self._reasoning(thought, number, tokens)
        if (call := block.tool_use) is not None:
            self._tool_use(call, number, tokens)
        if isinstance(block.citation, dict):
            tokens.append(bedrock_citation(block.citation))
        if (cited := block.citations_content) is not None:
            for part in cited.content or ():
                self._text(part.get("text"), tokens)
            tokens += [bedrock_citation(citation) for citation in cited.citations or ()]
        for name, part in (("toolResult", block.tool_result), ("image", block.image)):
            if part is not None:
                tokens.append(Reasoning("", block=number, detail={name: portable(part)}))

    def _text(self, text: Any, tokens: list[StreamToken]) -> None:
        if content := self._joined("text", text):
            tokens.append(Text(content))

    def _reasoning(self, thought: ReasoningContent, block: int, tokens: list[StreamToken]) -> None:
        """Thinking, its signature, or as base64 what of it nobody may read."""
        about = thought.reasoning_text or thought
        text, signature = self._joined("reasoning", about.text), string(about.signature)
        redacted = string(thought.redacted_content)
        if text or signature or redacted:
            tokens.append(Reasoning(text, 0, block, signature, redacted))

    def _tool_use(self, use: ToolUse, block: int, tokens: list[StreamToken]) -> None:
        call = self._seen.tools.piece(block, use.tool_use_id, use.name, use.input, 0)
        self.changed |= call is not None and (call.id is not None or call.name is not None)
        self._called(call, tokens)

    def _stop(self, reason: Any, extra: Any) -> None:
        """`extra` has Claude's stop sequence, in streams within a `delta`, if it was asked for."""
        self._seen.said = reason_word(reason) or self._seen.said
        about: dict[str, Any] = extra if isinstance(extra, dict) else {}
        inner = about.get("delta")
        sequence = (inner if isinstance(inner, dict) else about).get("stop_sequence")
        if isinstance(sequence, str):
            self._seen.stop_sequence = whole_text(sequence)
        self.changed = True

    def _metadata(self, usage: Any, trace: Any, tokens: list[StreamToken]) -> None:
        """Counts, and the model that a prompt router has chosen."""
        if isinstance(usage, dict):
            self._account(bedrock_usage(usage), tokens)
        router = trace.get("promptRouter") if isinstance(trace, dict) else None
        if isinstance(router, dict):
            self._seen.model = string(router.get("invokedModelId"))
            self.changed = True


class Nova(Converse):
    """Decodes what Nova sends through InvokeModel: the events with their names around them."""

    _wrapped: ClassVar[msgspec.json.Decoder[NovaEvent]] = msgspec.json.Decoder(NovaEvent)

    def _read(self, event: SseEvent) -> list[Said]:
        said = decode(self._wrapped, event.data)
        named = zip(NovaEvent.__struct_encode_fields__, msgspec.structs.astuple(said), strict=True)
        return [(name, event) for name, event in named if event is not None]


def said_error(about: Envelope, payload: bytes) -> Error | None:
    """The error that a message of another kind than an event is."""
    if about.kind == "event":
        return None
    return aws_error(about.name, {"message": about.message} if about.message else parsed(payload))
