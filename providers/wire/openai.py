"""OpenAI's chat completions and legacy completions, as every compatible server speaks them.

https://platform.openai.com/docs/api-reference/chat/streaming; the dialects of Azure, DeepSeek,
Groq, llama.cpp, LiteLLM, Ollama, OpenRouter, Perplexity, vLLM and xAI are read as well.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, Final

import msgspec

from ringcast.providers.wire.answer import provider_error
from ringcast.providers.wire.chunk import (
    Choice,
    ChoiceDelta,
    Chunk,
    Function,
    PlainChunk,
    PlainCompletion,
    ToolCallPiece,
    chunks,
)
from ringcast.providers.wire.citations import openai_citation
from ringcast.providers.wire.finish import MAX_REASON_CHARS, finish_reason
from ringcast.providers.wire.logprobs import legacy_logprobs, openai_logprobs
from ringcast.providers.wire.numbers import whole
from ringcast.providers.wire.payload import bad_event, decode, loose
from ringcast.providers.wire.reasoning import openai_reasoning
from ringcast.providers.wire.sse import SseEvent, WireError
from ringcast.providers.wire.surrogates import Halves
from ringcast.providers.wire.template import Learner
from ringcast.providers.wire.tool_calls import ToolCalls
from ringcast.providers.wire.usage import merged, openai_usage
from ringcast.shm.records import Cursor
from ringcast.shm.tokens import (
    Delta,
    Done,
    Error,
    FunctionCall,
    Logprob,
    Refusal,
    StreamToken,
    Text,
    Usage,
)

MAX_CHOICES: Final = 128

_START: Final = b"data: "
_END: Final = b"\n\n"
_DONE: Final = b"\n\ndata: [DONE]\n\n"


class _Memory(msgspec.Struct, array_like=True):
    """What must survive a hand-over: next to nothing while text streams."""

    known: bool = False  # a chunk with choices was seen, and with it id and model
    id: str | None = None
    model: str | None = None
    usage: Usage | None = None
    choices: int = 0
    reasons: dict[int, str] = {}
    tools: dict[int, ToolCalls] = {}
    halves: Halves = msgspec.field(default_factory=Halves)
    sources: list[Any] | None = None


class Chat:
    """Decodes the chunks of `POST /chat/completions`. See `dialect.Dialect`."""

    _plain: ClassVar[msgspec.json.Decoder[Any]] = msgspec.json.Decoder(PlainChunk)
    _slot: ClassVar[re.Pattern[bytes]] = re.compile(rb'"content": ?"')
    _chunk: ClassVar[msgspec.json.Decoder[Chunk]] = msgspec.json.Decoder(Chunk)
    _memory: ClassVar[msgspec.msgpack.Decoder[_Memory]] = msgspec.msgpack.Decoder(_Memory)

    def __init__(self) -> None:
        self.changed = True
        self.oddities = 0
        self._seen = _Memory()
        self._expect_plain = True  # a guess from the block before; never part of the state
        self._learner = Learner(self._slot, self._text_of)

    @property
    def cursor(self) -> Cursor | None:
        """Nothing of such an answer is kept by its provider."""
        return None

    @property
    def complete(self) -> bool:
        """Whether a finish reason was seen: `[DONE]` is missing from some servers' streams."""
        return bool(self._seen.reasons)

    def feed(self, event: SseEvent) -> list[StreamToken]:
        """The tokens of one event (an error event may hold any text)."""
        if event.event == "error":
            return self.close(provider_error(loose(event.data)))
        try:
            return self._tokens([decode(self._chunk, event.data)])
        except WireError as error:
            return self.close(Error(error.code, error.message))

    def feed_block(self, block: bytes) -> list[StreamToken] | None:
        """Plain form: every event is one line `data: {…}`, LF LF between, maybe `[DONE]` last."""
        plain = self._expect_plain and not self._seen.halves.held
        if plain and (texts := self._learner.texts(block)) is not None:
            return [Text(text) for text in texts if text]
        if not block.startswith(_START) or not block.endswith(_END) or b"\r" in block:
            return None
        if plain and self._seen.known and (texts := self._plain_texts(block)) is not None:
            self._learner.missed(block)
            return [Text(text) for text in texts if text]
        done = block.endswith(_DONE)
        body = block[len(_START) : -len(_DONE) if done else -len(_END)]
        found = chunks(self._chunk, body)
        if found is None:
            return None
        tokens = self._tokens(found)
        self._expect_plain = bool(tokens) and type(tokens[-1]) is Text
        if done and not (tokens and type(tokens[-1]) is Error):
            tokens += self.close(None)
        return tokens

    def whole(self, answer: bytes) -> list[StreamToken] | None:
        """A non-streamed answer: `choices[].message`, or `choices[].text`."""
        try:
            chunk = decode(self._chunk, answer)
        except WireError:
            return None
        choices = chunk.choices or []
        if not any(choice.message or isinstance(choice.text, str) for choice in choices):
            return None
        for choice in choices:
            choice.delta = choice.message
        tokens = self._tokens([chunk])
        failed = bool(tokens) and type(tokens[-1]) is Error
        return tokens if failed else tokens + self.close(None)

    def close(self, error: Error | None) -> list[StreamToken]:
        """What was held back, then the terminal token with what is known."""
        seen = self._seen
        held = seen.halves.flush()
        self.changed = True
        reason = seen.reasons.get(0)
        if error is not None:
            ended = msgspec.structs.replace(error, usage=seen.usage, provider_reason=reason)
            return [*held, ended]
        done = Done(
            finish_reason(reason),
            reason,
            usage=seen.usage,
            id=seen.id,
            model=seen.model,
            choices=[seen.reasons.get(i) for i in range(seen.choices)]
            if seen.choices > 1
            else None,
            sources=seen.sources,
        )
        return [*held, done]

    def state(self) -> bytes:
        """The memory as msgpack: some tens of bytes unless there are tool calls or sources."""
        self.changed = False
        return msgspec.msgpack.encode(self._seen)

    def restore(self, state: bytes) -> None:
        """Go on from `state`. Raises `msgspec.MsgspecError` if it is none."""
        self._seen = self._memory.decode(state)
        self.changed = False

    def _plain_texts(self, block: bytes) -> list[str] | None:
        """The texts of a block in which every chunk is one piece of text, else null."""
        found = chunks(self._plain, block[len(_START) : -len(_END)])
        return None if found is None else self._texts(found)

    def _texts(self, found: list[Any]) -> list[str]:
        return [chunk.choices[0].delta.content for chunk in found]

    def _text_of(self, event: bytes) -> str | None:
        texts = self._plain_texts(event)
        return texts[0] if texts else None

    def _tokens(self, found: list[Chunk]) -> list[StreamToken]:
        """The tokens of all chunks, up to the first that is an error or not to be understood."""
        tokens: list[StreamToken] = []
        try:
            for chunk in found:
                if (said := _said_error(chunk)) is not None:
                    return tokens + self.close(provider_error(said))
                self._apply(chunk, tokens)
        except WireError as error:
            tokens += self.close(Error(error.code, error.message))
        return tokens

    def _apply(self, chunk: Chunk, tokens: list[StreamToken]) -> None:
        choices = chunk.choices or ()
        if choices and not self._seen.known:
            self._introduce(chunk)
        if len(choices) > MAX_CHOICES:
            raise bad_event(f"more than {MAX_CHOICES} choices", "")
        for position, choice in enumerate(choices):
            self._choice(choice, self._index(choice.index, position), tokens)
        self._account(chunk, tokens)
        sources = chunk.search_results or chunk.citations
        if isinstance(sources, list) and sources != self._seen.sources:
            self._seen.sources = sources
            self.changed = True

    def _introduce(self, chunk: Chunk) -> None:
        self._seen.known = True
        self._seen.id = chunk.id if isinstance(chunk.id, str) and chunk.id else None
        self._seen.model = chunk.model if isinstance(chunk.model, str) and chunk.model else None
        self.changed = True

    def _index(self, value: Any, position: int) -> int:
        index = position if value is None else whole(value)
        if index is None or not 0 <= index < MAX_CHOICES:
            raise bad_event(f"choice index out of range, 0 to {MAX_CHOICES - 1}", repr(value))
        if index >= self._seen.choices:
            self._seen.choices = index + 1
            self.changed = True
        return index

    def _choice(self, choice: Choice, index: int, tokens: list[StreamToken]) -> None:
        if choice.delta is not None:
            self._delta(choice.delta, choice.logprobs, index, tokens)
        self._finish(choice.finish_reason, index)

    def _finish(self, reason: Any, index: int) -> None:
        if reason is not None and reason != "":
            self._seen.reasons[index] = str(reason)[:MAX_REASON_CHARS]
            self.changed = True

    def _delta(
        self, delta: ChoiceDelta, logprobs: Any, index: int, tokens: list[StreamToken]
    ) -> None:
        if delta.reasoning_content or delta.reasoning or delta.reasoning_details:
            self._reasoning(delta, index, tokens)
        if delta.content or logprobs:
            scores = self._scores(logprobs, "content")
            self._content(_content_text(delta.content), index, scores, tokens)
        if delta.refusal:
            refusal = self._joined("refusal", index, _content_text(delta.refusal))
            scores = self._scores(logprobs, "refusal")
            if refusal or scores:
                tokens.append(Refusal(refusal, index, scores))
        if delta.tool_calls:
            self._tool_calls(delta.tool_calls, index, tokens)
        if delta.function_call is not None:
            self._function_call(delta.function_call, index, tokens)
        if isinstance(delta.annotations, list):
            tokens += [openai_citation(a, index) for a in delta.annotations if isinstance(a, dict)]

    def _reasoning(self, delta: ChoiceDelta, index: int, tokens: list[StreamToken]) -> None:
        for part in openai_reasoning(
            delta.reasoning_content, delta.reasoning, delta.reasoning_details, index
        ):
            content = self._joined("reasoning", index, part.content)
            if content == part.content:
                tokens.append(part)
            elif content or part.signature or part.encrypted:
                tokens.append(msgspec.structs.replace(part, content=content))

    def _content(
        self, text: str, index: int, scores: list[Logprob] | None, tokens: list[StreamToken]
    ) -> None:
        text = self._joined("text", index, text)
        if index == 0 and scores is None:
            if text:
                tokens.append(Text(text))
        elif text or scores:
            tokens.append(Delta(text, index, scores))

    def _scores(self, logprobs: Any, part: str) -> list[Logprob] | None:
        entries = logprobs.get(part) if isinstance(logprobs, dict) else None
        if not entries:
            return None
        scores = openai_logprobs(entries)
        self.oddities += scores is None
        return scores

    def _tool_calls(
        self, pieces: list[ToolCallPiece], choice: int, tokens: list[StreamToken]
    ) -> None:
        tools = self._seen.tools.setdefault(choice, ToolCalls())
        for piece in pieces:
            function = piece.function or Function()
            call = tools.piece(piece.index, piece.id, function.name, function.arguments, choice)
            if call is None:
                continue
            # Their sizes alone do not make a checkpoint: a lost one only loosens the limit.
            self.changed |= call.id is not None or call.name is not None
            arguments = self._joined(f"tool.{call.index}", choice, call.arguments)
            if arguments != call.arguments:
                call = msgspec.structs.replace(call, arguments=arguments)
            tokens.append(call)

    def _function_call(self, call: Function, index: int, tokens: list[StreamToken]) -> None:
        name = call.name if isinstance(call.name, str) and call.name else None
        arguments = call.arguments if isinstance(call.arguments, str) else ""
        if name or arguments:
            arguments = self._joined("function", index, arguments)
            tokens.append(FunctionCall(name, arguments, index))

    def _joined(self, kind: str, index: int, text: str) -> str:
        if text.isascii() and not self._seen.halves.held:
            return text
        before = self._seen.halves.held.copy()
        text = self._seen.halves.join(kind, index, text)
        self.changed |= before != self._seen.halves.held
        return text

    def _account(self, chunk: Chunk, tokens: list[StreamToken]) -> None:
        usage = chunk.usage
        if usage is None and isinstance(chunk.x_groq, dict):
            usage = chunk.x_groq.get("usage")
        if not isinstance(usage, dict):
            return
        before = self._seen.usage
        after = merged(before or Usage(), openai_usage(usage))
        if after == (before or Usage()):
            return
        self._seen.usage = after
        self.changed = True
        if before is None:
            tokens.append(after)


class Completions(Chat):
    """Decodes the chunks of `POST /completions`, whose text is at `choices[].text`."""

    _plain = msgspec.json.Decoder(PlainCompletion)
    _slot = re.compile(rb'"text": ?"')

    def _texts(self, found: list[Any]) -> list[str]:
        return [chunk.choices[0].text for chunk in found]

    def _choice(self, choice: Choice, index: int, tokens: list[StreamToken]) -> None:
        scores = legacy_logprobs(choice.logprobs)
        self.oddities += scores is None and choice.logprobs is not None
        text = choice.text if isinstance(choice.text, str) else ""
        self._content(text, index, scores or None, tokens)
        self._finish(choice.finish_reason, index)


def _said_error(chunk: Chunk) -> Any:
    """The error object in a chunk, or null: most servers', old vLLM's flat one, MiniMax's."""
    if chunk.error is not None:
        return {"error": chunk.error, "code": chunk.code}
    if chunk.object == "error":
        return {"message": chunk.message, "type": chunk.type, "code": chunk.code}
    base = chunk.base_resp
    return base if isinstance(base, dict) and base.get("status_code") not in (None, 0) else None


def _content_text(content: Any) -> str:
    """Text, or the texts in an array of parts; anything else is none."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = (part.get("text") for part in content if isinstance(part, dict))
    return "".join(text for text in texts if isinstance(text, str))
