"""Ollama's own API, `/api/chat` and `/api/generate`: one JSON object a line.

https://github.com/ollama/ollama/blob/main/docs/api.md. The line with `done` ends the answer, and
an answer that is not streamed is one such line with everything in it.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from ringcast.providers.wire.answer import provider_error
from ringcast.providers.wire.dialect import Dialect, Memory
from ringcast.providers.wire.finish import finish_reason, reason_word
from ringcast.providers.wire.logprobs import openai_logprobs
from ringcast.providers.wire.payload import decode, decode_lines
from ringcast.providers.wire.portable import portable, string
from ringcast.providers.wire.sse import SseEvent, WireError
from ringcast.providers.wire.tool_calls import ToolCalls
from ringcast.providers.wire.usage import counted
from ringcast.shm.tokens import Done, FinishReason, Logprob, Reasoning, StreamToken


class Function(msgspec.Struct, gc=False):
    name: Any = None
    arguments: Any = None


class Call(msgspec.Struct, gc=False):
    """A whole call; most servers give it no id."""

    id: Any = None
    function: Function | None = None


class Message(msgspec.Struct, gc=False):
    content: Any = None
    thinking: Any = None
    images: Any = None
    tool_calls: list[Call] | None = None


class Line(msgspec.Struct, gc=False):
    """Any line: chat has a `message`, generate `response` and `thinking` of its own."""

    model: Any = None
    message: Message | None = None
    response: Any = None
    thinking: Any = None
    image: Any = None
    logprobs: Any = None
    done: Any = None
    done_reason: Any = None
    prompt_eval_count: Any = None
    eval_count: Any = None
    error: Any = None


class _Memory(Memory, array_like=True):
    said: str | None = None
    done: bool = False
    tools: ToolCalls = msgspec.field(default_factory=ToolCalls)


class Native(Dialect[_Memory]):
    """Decodes the lines of either call. Pictures come as empty `Reasoning` with a `detail`."""

    _line: ClassVar[msgspec.json.Decoder[Line]] = msgspec.json.Decoder(Line)

    def __init__(self) -> None:
        super().__init__(_Memory)

    @property
    def complete(self) -> bool:
        """Whether the last line was seen."""
        return self._seen.done

    @property
    def reason(self) -> str | None:
        """The `done_reason`."""
        return self._seen.said

    def feed_block(self, block: bytes) -> list[StreamToken]:
        """The tokens of whole lines."""
        lines = decode_lines(self._line, block, block.count(b"\n"))
        if lines is not None:
            return self._tokens(lines)
        said = (line for line in block.split(b"\n") if line.strip())
        return self._tokens(decode(self._line, line) for line in said)

    def whole(self, answer: bytes) -> list[StreamToken] | None:
        """An answer to a request with `stream` false."""
        try:
            line = decode(self._line, answer)
        except WireError:
            return None
        text = line.message is not None or isinstance(line.response, str)
        return self._ended(self._tokens([line])) if text else None

    def _read(self, event: SseEvent) -> list[Line]:
        return [decode(self._line, event.data)]

    def _done(self) -> Done:
        seen = self._seen
        return Done(self._meaning(), seen.said, usage=seen.usage, id=seen.id, model=seen.model)

    def _meaning(self) -> FinishReason:
        """Calls end with `stop` as well; servers of 2023 say nothing but `done`."""
        meaning = finish_reason(self._seen.said or "stop")
        return "tool_calls" if meaning == "stop" and self._seen.tools.calls else meaning

    def _apply(self, line: Line, tokens: list[StreamToken]) -> list[StreamToken] | None:
        if line.error is not None:
            return self.close(provider_error({"error": line.error}))
        if self._seen.model is None and (model := string(line.model)):
            self._seen.model, self.changed = model, True
        message = line.message or Message(line.response, line.thinking)
        if thinking := self._joined("reasoning", message.thinking):
            tokens.append(Reasoning(thinking))
        if message.content or line.logprobs:
            self._content(message.content, 0, self._scores(line.logprobs), tokens)
        for call in message.tool_calls or ():
            self._call(call, tokens)
        for name, picture in (("images", message.images), ("image", line.image)):
            if picture:
                tokens.append(Reasoning("", detail={name: portable(picture)}))
        return self._last(line, tokens) if line.done is True else None

    def _call(self, call: Call, tokens: list[StreamToken]) -> None:
        """A call without an id gets the one that Roo-Code gives it."""
        tools, function = self._seen.tools, call.function or Function()
        name = string(call.id) or f"ollama-tool-{len(tools.calls)}"
        self._called(tools.piece(None, name, function.name, function.arguments, 0), tokens)

    def _scores(self, entries: Any) -> list[Logprob] | None:
        if not entries:
            return None
        scores = openai_logprobs(entries)
        self.oddities += scores is None
        return scores

    def _last(self, line: Line, tokens: list[StreamToken]) -> list[StreamToken]:
        self._seen.said, self._seen.done = reason_word(line.done_reason), True
        # The count of a prompt that was cached is missing.
        self._account(counted(line.prompt_eval_count, line.eval_count), tokens)
        return self.close(None)
