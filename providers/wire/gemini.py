"""Gemini's generateContent, as the Generative Language API and Vertex AI stream it.

https://ai.google.dev/api/generate-content#method:-models.streamgeneratecontent. Every chunk is a
whole answer of its own; the end is the end of the body, since some models send a finish reason
in every chunk.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

import msgspec

from ringcast.errors import Code
from ringcast.providers.wire.answer import provider_error
from ringcast.providers.wire.citations import gemini_citation, grounding_citations
from ringcast.providers.wire.dialect import Dialect, Memory
from ringcast.providers.wire.finish import finish_reason, reason_word
from ringcast.providers.wire.gemini_calls import CandidateCalls
from ringcast.providers.wire.generation import (
    Candidate,
    Chunk,
    FunctionCall,
    PlainChunk,
    PlainUsage,
    chunks,
    elements,
    latest,
)
from ringcast.providers.wire.logprobs import gemini_logprobs
from ringcast.providers.wire.numbers import position
from ringcast.providers.wire.payload import bad_event, convert, decode
from ringcast.providers.wire.portable import portable, string
from ringcast.providers.wire.sse import SseEvent, WireError
from ringcast.providers.wire.usage import gemini_usage
from ringcast.shm.tokens import (
    Delta,
    Done,
    Error,
    FinishReason,
    Logprob,
    Reasoning,
    StreamToken,
    Text,
    Usage,
)

MAX_CANDIDATES: Final = 128
_CUT: Final = Error(Code.STREAM_INCOMPLETE, "the array of chunks was cut", retryable=True)

_SOURCES: Final = ("groundingChunks", "groundingSupports")
_UNSPECIFIED: Final = ("", "FINISH_REASON_UNSPECIFIED", "BLOCKED_REASON_UNSPECIFIED")


class _Memory(Memory, array_like=True):
    known: bool = False  # a chunk with candidates was seen, and with it id and model
    candidates: int = 0
    reasons: dict[int, str] = msgspec.field(default_factory=dict)
    blocked: str | None = None
    calls: dict[int, CandidateCalls] = msgspec.field(default_factory=dict)
    grounding: dict[int, dict[str, Any]] = msgspec.field(default_factory=dict)


class Generate(Dialect[_Memory]):
    """Decodes the chunks of `POST /models/MODEL:streamGenerateContent`.

    Parts that are neither text nor calls (code and its results, pictures, server-side tools) come
    as empty `Reasoning` whose `detail` is the part, for the client to send back. A signature comes
    right after the part that it signs: with `detail` {"tool_call": index} after a call. What else
    is known of a search (suggestions to be shown, pages that were read) comes last, as a `detail`
    of the type `grounding`.
    """

    _plain: ClassVar[msgspec.json.Decoder[PlainChunk]] = msgspec.json.Decoder(PlainChunk)
    _chunk: ClassVar[msgspec.json.Decoder[Chunk]] = msgspec.json.Decoder(Chunk)
    _answer: ClassVar[msgspec.json.Decoder[list[Chunk] | Chunk]] = msgspec.json.Decoder(
        list[Chunk] | Chunk
    )

    def __init__(self) -> None:
        super().__init__(_Memory)
        self._expect_plain = True  # a guess from the block before; never part of the state

    @property
    def complete(self) -> bool:
        """Whether a finish reason was seen, or that the prompt was blocked."""
        return bool(self._seen.reasons or self._seen.blocked)

    @property
    def reason(self) -> str | None:
        """That of the first candidate, else why there is none."""
        return self._seen.reasons.get(0, self._seen.blocked)

    def feed_block(self, block: bytes) -> list[StreamToken] | None:
        """Plain form: every event is one line `data: {…}`, with LF or CRLF throughout."""
        if self._expect_plain and self._seen.known and not self._seen.halves.held:
            plain = chunks(self._plain, block)
            if plain is not None:
                return self._texts(plain)
        found = chunks(self._chunk, block)
        if found is None:
            return None
        tokens = self._tokens(found)
        self._expect_plain = bool(tokens) and type(tokens[-1]) is Text
        return tokens

    def whole(self, answer: bytes) -> list[StreamToken] | None:
        """A non-streamed answer, or the array of chunks that comes without `alt=sse`."""
        try:
            found = self._chunks(answer)
        except WireError:
            return self._cut(answer) if answer.lstrip().startswith(b"[") else None
        return self._ended(self._tokens(found)) if any(map(_says, found)) else None

    def _cut(self, answer: bytes) -> list[StreamToken] | None:
        """The chunks of an array that is not all there: without its end nothing may be missing."""
        said, only_end = elements(answer.decode(errors="replace"))
        try:
            found = [chunk for text in said for chunk in self._chunks(text)]
        except WireError:
            return None
        tokens = self._tokens(found) if any(map(_says, found)) else None
        if tokens is None or (tokens and isinstance(tokens[-1], Error)):
            return tokens
        cut = None if only_end and self.complete else _CUT
        return tokens + self.close(cut)

    def _read(self, event: SseEvent) -> list[Chunk]:
        return self._chunks(event.data)

    def _chunks(self, data: str | bytes) -> list[Chunk]:
        said = decode(self._answer, data)
        return said if isinstance(said, list) else [said]

    def _held_back(self, error: Error | None) -> list[StreamToken]:
        """Calls that have not ended, halves, and the sources."""
        tokens: list[StreamToken] = []
        for index, calls in self._seen.calls.items() if error is None else ():
            for call in calls.end(index):
                self._called(call, tokens)
        tokens += super()._held_back(error)
        for index, found in self._seen.grounding.items():
            tokens += grounding_citations(found, index)
            rest = {key: value for key, value in found.items() if key not in _SOURCES}
            if rest:
                tokens.append(Reasoning("", index, detail={"type": "grounding"} | rest))
        return tokens

    def _done(self) -> Done:
        seen = self._seen
        several = [seen.reasons.get(i) for i in range(seen.candidates)]
        return Done(
            self._meaning(),
            self.reason,
            usage=seen.usage,
            id=seen.id,
            model=seen.model,
            choices=several if len(several) > 1 else None,
        )

    def _meaning(self) -> FinishReason:
        """A blocked prompt is filtered; STOP is what calls end with as well."""
        seen = self._seen
        if 0 not in seen.reasons and seen.blocked:
            return "content_filter"
        meaning = finish_reason(seen.reasons.get(0))
        called = 0 in seen.calls and seen.calls[0].tools.calls
        return "tool_calls" if meaning == "stop" and called else meaning

    def _texts(self, found: list[PlainChunk]) -> list[StreamToken]:
        """The tokens of plain chunks, and that of the first usage of all in its place."""
        tokens: list[StreamToken] = []
        counts: list[PlainUsage] = []
        for chunk in found:
            if text := chunk.candidates[0].content.parts[0].text:
                tokens.append(Text(text))
            if chunk.usage_metadata is not None:
                counts.append(chunk.usage_metadata)
                if self._seen.usage is None:
                    self._account(latest(counts[-1:]), tokens)
        if counts:
            self._account(latest(counts), tokens)
        return tokens

    def _apply(self, chunk: Chunk, tokens: list[StreamToken]) -> list[StreamToken] | None:
        chunk = chunk.response or chunk
        if chunk.error is not None:
            return self.close(provider_error({"error": chunk.error}))
        candidates = chunk.candidates or ()
        if candidates and not self._seen.known:
            self._introduce(chunk)
        if len(candidates) > MAX_CANDIDATES:
            raise bad_event(f"more than {MAX_CANDIDATES} candidates", "")
        for number, candidate in enumerate(candidates):
            self._candidate(candidate, self._index(candidate.index, number), tokens)
        feedback = chunk.prompt_feedback
        if isinstance(feedback, dict) and (reason := _reason(feedback.get("blockReason"))):
            self._seen.blocked = reason
            self.changed = True
        if isinstance(chunk.usage_metadata, dict):
            self._account(gemini_usage(chunk.usage_metadata), tokens)
        return None

    def _introduce(self, chunk: Chunk) -> None:
        self._seen.known = True
        self._seen.id, self._seen.model = string(chunk.response_id), string(chunk.model_version)
        self.changed = True

    def _index(self, value: Any, missing: int) -> int:
        index = position(value, "candidate", MAX_CANDIDATES, missing)
        if index >= self._seen.candidates:
            self._seen.candidates = index + 1
            self.changed = True
        return index

    def _candidate(self, candidate: Candidate, index: int, tokens: list[StreamToken]) -> None:
        scores = self._scores(candidate.logprobs_result)
        parts = candidate.content.parts if candidate.content else None
        for part in parts or ():
            scores = self._part(part, index, scores, tokens)
        if scores:
            tokens.append(Delta("", index, scores))
        cited = candidate.citation_metadata
        if isinstance(cited, dict):
            sources = cited.get("citations") or cited.get("citationSources")
            sources = sources if isinstance(sources, list) else []
            tokens += [gemini_citation(s, index) for s in sources if isinstance(s, dict)]
        self._ground(candidate, index)
        if reason := _reason(candidate.finish_reason):
            self.changed |= self._seen.reasons.get(index) != reason
            self._seen.reasons[index] = reason

    def _part(
        self,
        part: dict[str, Any],
        index: int,
        scores: list[Logprob] | None,
        tokens: list[StreamToken],
    ) -> list[Logprob] | None:
        """Add the tokens of one part; the log-probabilities go to the first piece of text."""
        signature = string(part.get("thoughtSignature"))
        text, call, detail, other = part.get("text"), part.get("functionCall"), None, False
        if isinstance(call, dict):
            if text:  # gateways put both into one part
                said = {"text": text, "thought": part.get("thought")}
                scores = self._part(said, index, scores, tokens)
            self._function_call(convert(call, FunctionCall), index, tokens)
            detail = {"tool_call": self._calls(index).newest}
        elif isinstance(text, str):
            if part.get("thought") is True:
                text = self._joined("reasoning", text, index)
                if text or signature:
                    tokens.append(Reasoning(text, index, signature=signature))
                return scores
            self._content(text, index, scores, tokens)
            scores = None
        else:
            detail = self._other(part)
            other = detail is not None
        if signature or other:
            tokens.append(Reasoning("", index, signature=signature, detail=detail))
        return scores

    def _other(self, part: dict[str, Any]) -> dict[str, Any] | None:
        """A part of another kind, without its signature."""
        rest = {key: value for key, value in part.items() if key != "thoughtSignature"}
        return portable(rest) or None

    def _function_call(self, call: FunctionCall, index: int, tokens: list[StreamToken]) -> None:
        """A whole call, the beginning of one, or what belongs to the one that is open."""
        calls = self._calls(index)
        self.changed = True
        if string(call.name) or call.args is not None:
            for begun in calls.begin(call, index):
                self._called(begun, tokens)
        if calls.open is None:
            self.oddities += bool(call.partial_args)
            return
        for more in calls.go_on(call, index):
            self._called(more, tokens)

    def _calls(self, index: int) -> CandidateCalls:
        return self._seen.calls.setdefault(index, CandidateCalls())

    def _ground(self, candidate: Candidate, index: int) -> None:
        """Chunks repeat or replace the sources, and what was searched: the last of each counts."""
        metadata = candidate.grounding_metadata
        said = {key: v for key, v in metadata.items() if v} if isinstance(metadata, dict) else {}
        if candidate.url_context_metadata:
            said["urlContextMetadata"] = candidate.url_context_metadata
        if not said:
            return
        before = self._seen.grounding.get(index, {})
        if _SOURCES[0] in said:  # the supports are those of the same chunk
            before = {key: value for key, value in before.items() if key not in _SOURCES}
        after = before | portable(said)
        if after != self._seen.grounding.get(index):
            self._seen.grounding[index], self.changed = after, True

    def _scores(self, result: Any) -> list[Logprob] | None:
        if not isinstance(result, dict):
            return None
        scores = gemini_logprobs(result)
        self.oddities += scores is None
        return scores or None

    def _account(self, usage: Usage, tokens: list[StreamToken]) -> None:
        """Counts are cumulative and in every chunk, so that a greater one makes no checkpoint.

        A first one does, and any after a finish reason: perhaps no chunk follows it.
        """
        before, changed = self._seen.usage, self.changed
        super()._account(usage, tokens)
        after = self._seen.usage
        if after is not before and not self.complete and _gaps(before) == _gaps(after):
            self.changed = changed


def _says(chunk: Chunk) -> bool:
    inner = chunk.response or chunk
    return bool(inner.candidates or inner.prompt_feedback)


def _gaps(usage: Usage | None) -> list[bool]:
    return [value is None for value in msgspec.structs.astuple(usage or Usage())]


def _reason(value: Any) -> str | None:
    return None if value in _UNSPECIFIED else reason_word(value)
