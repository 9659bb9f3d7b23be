"""OpenAI's chat completions and legacy completions, as every compatible server speaks them.

https://platform.openai.com/docs/api-reference/chat/streaming; the dialects of Azure, DeepSeek,
Databricks, Google, Groq, llama.cpp, LiteLLM, Mistral, Moonshot, Ollama, OpenRouter, Perplexity,
TGI, vLLM and xAI are read as well.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, Final

import msgspec

from ringcast.providers.wire.answer import provider_error
from ringcast.providers.wire.chat_calls import google_signature, pieces, told
from ringcast.providers.wire.chat_error import said_error
from ringcast.providers.wire.chunk import (
    Choice,
    ChoiceDelta,
    Chunk,
    Function,
    PlainChunk,
    PlainCompletion,
    chunks,
)
from ringcast.providers.wire.citations import openai_citation
from ringcast.providers.wire.dialect import Dialect, Memory, Recall
from ringcast.providers.wire.finish import finish_reason, reason_word
from ringcast.providers.wire.logprobs import legacy_logprobs, openai_logprobs
from ringcast.providers.wire.numbers import position
from ringcast.providers.wire.payload import bad_event, decode
from ringcast.providers.wire.portable import portable, string
from ringcast.providers.wire.reasoning import (
    THOUGHTS,
    openai_reasoning,
    thinking_blocks,
    thinking_parts,
)
from ringcast.providers.wire.sse import SseEvent, WireError
from ringcast.providers.wire.template import Learner
from ringcast.providers.wire.tool_calls import ToolCalls
from ringcast.providers.wire.usage import openai_usage
from ringcast.shm.tokens import (
    Delta,
    Done,
    FunctionCall,
    Logprob,
    Reasoning,
    Refusal,
    StreamToken,
)

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
    def recall(self) -> Recall | None:
        """Nothing but the text of choice 0, once there is an answer and no half waits."""
        seen = self._seen
        return self._learner.recall if seen.known and not seen.halves.held else None

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
        if self.recall is not None and (tokens := self._learner.tokens(block)) is not None:
            return tokens
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
        if (said := said_error(chunk)) is not None:
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
        usage, fault = chunk.usage, None
        for number, choice in enumerate(choices):
            self._choice(choice, self._index(choice.index, number), tokens)
            usage, fault = usage or choice.usage, fault or choice.error  # Moonshot's, OpenRouter's
        if not usage and isinstance(chunk.x_groq, dict):
            usage = chunk.x_groq.get("usage")
        if isinstance(usage, dict):
            self._account(openai_usage(usage), tokens)
        if isinstance(fault, dict):
            return self.close(provider_error({"error": fault}))
        if sources := chunk.search_results or chunk.citations or chunk.web_search:
            self._cite(sources)
        return None

    def _cite(self, sources: Any) -> None:
        """Take over what Perplexity repeats in every chunk; xAI and Zhipu tell it once."""
        if not isinstance(sources, list) or sources == self._seen.sources:
            return
        carried = portable(sources)
        self.changed |= carried != self._seen.sources
        self._seen.sources = carried

    def _introduce(self, chunk: Chunk) -> None:
        if chunk.object == "chat.completion":  # a server that does not stream, in an event stream
            for choice in chunk.choices or ():
                choice.delta = choice.delta or choice.message
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
        if _thinks(delta):
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
            self._tool_calls(delta, index, tokens)
        if delta.function_call is not None:
            self._function_call(delta.function_call, index, tokens)
        if isinstance(delta.annotations, list):
            tokens += [openai_citation(a, index) for a in delta.annotations if isinstance(a, dict)]

    def _reasoning(self, delta: ChoiceDelta, index: int, tokens: list[StreamToken]) -> None:
        texts = (delta.reasoning_content, delta.reasoning, delta.reasoning_text)
        parts = openai_reasoning(texts, delta.reasoning_details, index)
        if delta.thinking_blocks:
            parts += thinking_blocks(delta.thinking_blocks, index, told=bool(parts))
        if isinstance(delta.content, list):
            parts += thinking_parts(delta.content, index)
        for part in parts:
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

    def _tool_calls(self, delta: ChoiceDelta, choice: int, tokens: list[StreamToken]) -> None:
        tools = self._seen.tools.setdefault(choice, ToolCalls())
        for piece, after in pieces(delta):
            name, arguments = told(piece)
            call = tools.piece(piece.index, piece.id, name, arguments, choice, after)
            if call is None:
                continue
            # Their sizes alone do not make a checkpoint: a lost one only loosens the limit.
            self.changed |= call.id is not None or call.name is not None
            self._called(call, tokens, free=piece.custom is not None)
            if (signature := google_signature(piece)) is not None:
                detail = {"tool_call": call.index}
                tokens.append(Reasoning("", choice, signature=signature, detail=detail))

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
        if choice.text is None and choice.delta is not None:  # Mistral's and others' chunks of chat
            super()._choice(choice, index, tokens)
            return
        scores = legacy_logprobs(choice.logprobs)
        if scores is None and isinstance(choice.logprobs, dict) and "content" in choice.logprobs:
            scores = self._scores(choice.logprobs, "content")  # as llama.cpp has them
        else:
            self.oddities += scores is None and choice.logprobs is not None
        self._identified(choice.text, choice, index, scores or None, tokens)
        self._finish(choice.finish_reason, index)


def _lines(block: bytes) -> bytes | None:
    """A block without its first `data: ` and its last blank line, null if it is no plain one."""
    if not block.startswith(_START) or not block.endswith(_END) or b"\r" in block:
        return None
    return block[len(_START) : -len(_END)]


def _thinks(delta: ChoiceDelta) -> bool:
    """Whether there is anything for `_reasoning` to look at."""
    text = delta.reasoning_content or delta.reasoning or delta.reasoning_text
    other = delta.reasoning_details or delta.thinking_blocks
    return bool(text or other) or type(delta.content) is list


def _content_text(content: Any) -> str:
    """Text, or the texts in an array of parts but for thoughts; anything else is none."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = (p for p in content if isinstance(p, dict) and p.get("type") not in THOUGHTS)
    texts = (part.get("text") for part in parts)
    return "".join(text for text in texts if isinstance(text, str))
