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
from ringcast.providers.wire.dialect import Dialect, Memory
from ringcast.providers.wire.finish import finish_reason, reason_word
from ringcast.providers.wire.logprobs import legacy_logprobs, openai_logprobs
from ringcast.providers.wire.numbers import position
from ringcast.providers.wire.payload import bad_event, decode
from ringcast.providers.wire.portable import portable, string
from ringcast.providers.wire.reasoning import openai_reasoning
from ringcast.providers.wire.sse import SseEvent, WireError
from ringcast.providers.wire.template import Learner
from ringcast.providers.wire.tool_calls import ToolCalls
from ringcast.providers.wire.usage import openai_usage
from ringcast.shm.tokens import Delta, Done, FunctionCall, Logprob, Refusal, StreamToken, Text

MAX_CHOICES: Final = 128
MAX_TOKEN_ID: Final = 1 << 32

_START: Final = b"data: "
_END: Final = b"\n\n"
_DONE: Final = b"\n\ndata: [DONE]\n\n"


class _Memory(Memory, array_like=True):
    known: bool = False  # a chunk with choices was seen, and with it id and model
    choices: int = 0
    reasons: dict[int, str] = msgspec.field(default_factory=dict)
    tools: dict[int, ToolCalls] = msgspec.field(default_factory=dict)
    sources: list[Any] | None = None


class Chat(Dialect[_Memory]):
    """Decodes the chunks of `POST /chat/completions`."""

    _plain: ClassVar[msgspec.json.Decoder[Any]] = msgspec.json.Decoder(PlainChunk)
    _slot: ClassVar[re.Pattern[bytes]] = re.compile(rb'"content": ?"')
    _chunk: ClassVar[msgspec.json.Decoder[Chunk]] = msgspec.json.Decoder(Chunk)

    def __init__(self) -> None:
        super().__init__(_Memory)
        self._learner = Learner(self._slot, self._plain_texts)

    @property
    def complete(self) -> bool:
        """Whether a finish reason was seen: `[DONE]` is missing from some servers' streams."""
        return bool(self._seen.reasons)

    @property
    def reason(self) -> str | None:
        """That of the first choice."""
        return self._seen.reasons.get(0)

    def feed_block(self, block: bytes) -> list[StreamToken] | None:
        """Plain form: every event is one line `data: {…}`, LF LF between, maybe `[DONE]` last."""
        seen = self._seen
        texts = self._learner.texts(block) if seen.known and not seen.halves.held else None
        if texts is not None:
            return [Text(text) for text in texts if text]
        if (body := _lines(block)) is None:
            return None
        done = block.endswith(_DONE)
        found = chunks(self._chunk, body.removesuffix(_DONE[: -len(_END)]))
        if found is None:
            return None
        tokens = self._tokens(found)
        self._learner.expect(tokens)
        return self._ended(tokens) if done else tokens

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
        return self._ended(self._tokens([chunk]))

    @classmethod
    def _plain_texts(cls, block: bytes) -> list[str] | None:
        """The texts of a block in which every chunk is one piece of text, else null."""
        body = _lines(block)
        found = None if body is None else chunks(cls._plain, body)
        return None if found is None else cls._texts(found)

    @staticmethod
    def _texts(found: list[Any]) -> list[str]:
        return [chunk.choices[0].delta.content for chunk in found]

    def _read(self, event: SseEvent) -> list[Chunk]:
        return [decode(self._chunk, event.data)]

    def _done(self) -> Done:
        seen = self._seen
        several = [seen.reasons.get(i) for i in range(seen.choices)]
        return Done(
            finish_reason(self.reason),
            self.reason,
            usage=seen.usage,
            id=seen.id,
            model=seen.model,
            choices=several if len(several) > 1 else None,
            sources=seen.sources,
        )

    def _apply(self, chunk: Chunk, tokens: list[StreamToken]) -> list[StreamToken] | None:
        if (said := _said_error(chunk)) is not None:
            return self.close(provider_error(said))
        choices = chunk.choices or ()
        if choices and not self._seen.known:
            self._introduce(chunk)
        if len(choices) > MAX_CHOICES:
            raise bad_event(f"more than {MAX_CHOICES} choices", "")
        if (
            choices and chunk.prompt_token_ids is not None
        ):  # vLLM's chat has them beside its choices
            choices[0].prompt_token_ids = chunk.prompt_token_ids
        for number, choice in enumerate(choices):
            self._choice(choice, self._index(choice.index, number), tokens)
        usage = chunk.usage
        if usage is None and isinstance(chunk.x_groq, dict):
            usage = chunk.x_groq.get("usage")
        if isinstance(usage, dict):
            self._account(openai_usage(usage), tokens)
        if sources := chunk.search_results or chunk.citations:
            self._cite(sources)
        return None

    def _cite(self, sources: Any) -> None:
        """Take over what Perplexity repeats in every chunk."""
        if not isinstance(sources, list) or sources == self._seen.sources:
            return
        carried = portable(sources)
        self.changed |= carried != self._seen.sources
        self._seen.sources = carried

    def _introduce(self, chunk: Chunk) -> None:
        self._seen.known = True
        self._seen.id, self._seen.model = string(chunk.id), string(chunk.model)
        self.changed = True

    def _index(self, value: Any, missing: int) -> int:
        index = position(value, "choice", MAX_CHOICES, missing)
        if index >= self._seen.choices:
            self._seen.choices = index + 1
            self.changed = True
        return index

    def _choice(self, choice: Choice, index: int, tokens: list[StreamToken]) -> None:
        if choice.delta is not None:
            self._delta(choice.delta, choice, index, tokens)
        self._finish(choice.finish_reason, index)

    def _finish(self, reason: Any, index: int) -> None:
        if reason is not None and (word := reason_word(reason)) is not None:
            self._seen.reasons[index] = word
            self.changed = True

    def _delta(
        self, delta: ChoiceDelta, choice: Choice, index: int, tokens: list[StreamToken]
    ) -> None:
        logprobs = choice.logprobs
        if delta.reasoning_content or delta.reasoning or delta.reasoning_details:
            self._reasoning(delta, index, tokens)
        if delta.content or logprobs or choice.token_ids or choice.prompt_token_ids:
            scores = self._scores(logprobs, "content")
            text = _content_text(delta.content)
            self._identified(text, choice, index, scores, tokens)
        if delta.refusal:
            refusal = self._joined("refusal", _content_text(delta.refusal), index)
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
            content = self._joined("reasoning", part.content, index)
            if content == part.content:
                tokens.append(part)
            elif content or part.signature or part.encrypted:
                tokens.append(msgspec.structs.replace(part, content=content))

    def _identified(
        self,
        text: Any,
        choice: Choice,
        index: int,
        scores: list[Logprob] | None,
        tokens: list[StreamToken],
    ) -> None:
        """A piece of visible text, with the ids of its tokens if they were asked for."""
        ids, prompt = self._ids(choice.token_ids), self._ids(choice.prompt_token_ids)
        if ids or prompt:
            content = self._joined("text", text, index)
            tokens.append(Delta(content, index, scores, ids, prompt))
        else:
            self._content(text, index, scores, tokens)

    def _ids(self, said: Any) -> list[int] | None:
        """The ids of tokens, none for what is no list of them."""
        if said is None:
            return None
        sound = isinstance(said, list) and all(
            type(one) is int and 0 <= one < MAX_TOKEN_ID for one in said
        )
        self.oddities += not sound
        return said if sound and said else None

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
            # Their sizes alone do not make a checkpoint: a lost one only loosens the limit.
            self.changed |= call is not None and (call.id is not None or call.name is not None)
            self._called(call, tokens)

    def _function_call(self, call: Function, index: int, tokens: list[StreamToken]) -> None:
        name, said = string(call.name), call.arguments
        if name or (isinstance(said, str) and said):
            tokens.append(FunctionCall(name, self._joined("function", said, index), index))


class Completions(Chat):
    """Decodes the chunks of `POST /completions`, whose text is at `choices[].text`."""

    _plain = msgspec.json.Decoder(PlainCompletion)
    _slot = re.compile(rb'"text": ?"')

    @staticmethod
    def _texts(found: list[Any]) -> list[str]:
        return [chunk.choices[0].text for chunk in found]

    def _choice(self, choice: Choice, index: int, tokens: list[StreamToken]) -> None:
        scores = legacy_logprobs(choice.logprobs)
        self.oddities += scores is None and choice.logprobs is not None
        self._identified(choice.text, choice, index, scores or None, tokens)
        self._finish(choice.finish_reason, index)


def _lines(block: bytes) -> bytes | None:
    """A block without its first `data: ` and its last blank line, null if it is no plain one."""
    if not block.startswith(_START) or not block.endswith(_END) or b"\r" in block:
        return None
    return block[len(_START) : -len(_END)]


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
