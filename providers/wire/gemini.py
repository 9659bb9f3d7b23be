"""Gemini's generateContent, as the Generative Language API and Vertex AI stream it.

https://ai.google.dev/api/generate-content#method:-models.streamgeneratecontent. Every chunk is a
whole answer of its own; the end is the end of the body, since some models send a finish reason
in every chunk.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

import msgspec

from ringcast.providers.wire.answer import provider_error
from ringcast.providers.wire.citations import gemini_citation, grounding_citations
from ringcast.providers.wire.finish import MAX_REASON_CHARS, finish_reason
from ringcast.providers.wire.generation import (
    Candidate,
    Chunk,
    FunctionCall,
    PartialArgument,
    PlainChunk,
    PlainUsage,
    chunks,
    latest,
)
from ringcast.providers.wire.logprobs import openai_logprobs
from ringcast.providers.wire.numbers import whole
from ringcast.providers.wire.opaque import opaque
from ringcast.providers.wire.partial_arguments import PartialArguments, json_text
from ringcast.providers.wire.payload import bad_event, convert, decode, loose
from ringcast.providers.wire.sse import SseEvent, WireError
from ringcast.providers.wire.surrogates import Halves
from ringcast.providers.wire.tool_calls import ToolCalls
from ringcast.providers.wire.usage import gemini_usage, merged
from ringcast.shm.records import Cursor
from ringcast.shm.tokens import (
    Delta,
    Done,
    Error,
    FinishReason,
    Logprob,
    Reasoning,
    StreamToken,
    Text,
    ToolCall,
    Usage,
)

MAX_CANDIDATES: Final = 128

_UNSPECIFIED: Final = ("", "FINISH_REASON_UNSPECIFIED", "BLOCKED_REASON_UNSPECIFIED")


class _Memory(msgspec.Struct, array_like=True):
    """What must survive a hand-over: next to nothing while text streams."""

    known: bool = False  # a chunk with candidates was seen, and with it id and model
    id: str | None = None
    model: str | None = None
    usage: Usage | None = None
    candidates: int = 0
    reasons: dict[int, str] = {}
    blocked: str | None = None
    tools: dict[int, ToolCalls] = {}
    partial: dict[int, PartialArguments] = {}  # by candidate: the call whose arguments go on
    grounding: dict[int, dict[str, Any]] = {}
    halves: Halves = msgspec.field(default_factory=Halves)


class Generate:
    """Decodes the chunks of `POST /models/MODEL:streamGenerateContent`. See `dialect.Dialect`.

    Parts that are neither text nor calls (code and its results, pictures, server-side tools) come
    as empty `Reasoning` whose `detail` is the part, for the client to send back. A signature comes
    right after the part that it signs: with `detail` {"tool_call": index} after a call.
    """

    _plain: ClassVar[msgspec.json.Decoder[PlainChunk]] = msgspec.json.Decoder(PlainChunk)
    _chunk: ClassVar[msgspec.json.Decoder[Chunk]] = msgspec.json.Decoder(Chunk)
    _answer: ClassVar[msgspec.json.Decoder[list[Chunk] | Chunk]] = msgspec.json.Decoder(
        list[Chunk] | Chunk
    )
    _memory: ClassVar[msgspec.msgpack.Decoder[_Memory]] = msgspec.msgpack.Decoder(_Memory)

    def __init__(self) -> None:
        self.changed = True
        self.oddities = 0
        self._seen = _Memory()
        self._expect_plain = True  # a guess from the block before; never part of the state

    @property
    def cursor(self) -> Cursor | None:
        """Nothing of such an answer is kept by its provider."""
        return None

    @property
    def complete(self) -> bool:
        """Whether a finish reason was seen, or that the prompt was blocked."""
        return bool(self._seen.reasons or self._seen.blocked)

    def feed(self, event: SseEvent) -> list[StreamToken]:
        """The tokens of one event."""
        if event.event == "error":
            return self.close(provider_error(loose(event.data)))
        try:
            answer = decode(self._answer, event.data)
        except WireError as error:
            return self.close(Error(error.code, error.message))
        return self._tokens(answer if isinstance(answer, list) else [answer])

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
            said = decode(self._answer, answer)
        except WireError:
            return None
        found = said if isinstance(said, list) else [said]
        if not any(chunk.candidates or chunk.prompt_feedback for chunk in found):
            return None
        tokens = self._tokens(found)
        failed = bool(tokens) and type(tokens[-1]) is Error
        return tokens if failed else tokens + self.close(None)

    def close(self, error: Error | None) -> list[StreamToken]:
        """What was held back and the sources, then the terminal token with what is known."""
        seen = self._seen
        tokens: list[StreamToken] = []
        if error is None:
            for index in list(seen.partial):
                self._end_call(index, tokens)
        tokens += seen.halves.flush()
        for index, grounding in seen.grounding.items():
            tokens += grounding_citations(grounding, index)
        self.changed = True
        reason = seen.reasons.get(0, seen.blocked)
        if error is not None:
            ended = msgspec.structs.replace(error, usage=seen.usage, provider_reason=reason)
            return [*tokens, ended]
        several = [seen.reasons.get(i) for i in range(seen.candidates)]
        done = Done(
            self._meaning(),
            reason,
            usage=seen.usage,
            id=seen.id,
            model=seen.model,
            choices=several if len(several) > 1 else None,
        )
        return [*tokens, done]

    def state(self) -> bytes:
        """The memory as msgpack: some tens of bytes unless there are tool calls or sources."""
        self.changed = False
        return msgspec.msgpack.encode(self._seen)

    def restore(self, state: bytes) -> None:
        """Go on from `state`. Raises `msgspec.MsgspecError` if it is none."""
        self._seen = self._memory.decode(state)
        self.changed = False

    def _meaning(self) -> FinishReason:
        """A blocked prompt is filtered; STOP is what calls end with as well."""
        seen = self._seen
        if 0 not in seen.reasons and seen.blocked:
            return "content_filter"
        meaning = finish_reason(seen.reasons.get(0))
        called = 0 in seen.tools and seen.tools[0].calls
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

    def _tokens(self, found: list[Chunk]) -> list[StreamToken]:
        """The tokens of all chunks, up to the first that is an error or not to be understood."""
        tokens: list[StreamToken] = []
        try:
            for chunk in found:
                if chunk.error is not None:
                    return tokens + self.close(provider_error({"error": chunk.error}))
                self._apply(chunk, tokens)
        except WireError as error:
            tokens += self.close(Error(error.code, error.message))
        return tokens

    def _apply(self, chunk: Chunk, tokens: list[StreamToken]) -> None:
        candidates = chunk.candidates or ()
        if candidates and not self._seen.known:
            self._introduce(chunk)
        if len(candidates) > MAX_CANDIDATES:
            raise bad_event(f"more than {MAX_CANDIDATES} candidates", "")
        for position, candidate in enumerate(candidates):
            self._candidate(candidate, self._index(candidate.index, position), tokens)
        feedback = chunk.prompt_feedback
        if isinstance(feedback, dict) and (reason := _reason(feedback.get("blockReason"))):
            self._seen.blocked = reason
            self.changed = True
        if isinstance(chunk.usage_metadata, dict):
            self._account(gemini_usage(chunk.usage_metadata), tokens)

    def _introduce(self, chunk: Chunk) -> None:
        self._seen.known = True
        self._seen.id = _string(chunk.response_id)
        self._seen.model = _string(chunk.model_version)
        self.changed = True

    def _index(self, value: Any, position: int) -> int:
        index = position if value is None else whole(value)
        if index is None or not 0 <= index < MAX_CANDIDATES:
            limit = f"candidate index out of range, 0 to {MAX_CANDIDATES - 1}"
            raise bad_event(limit, repr(value))
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
        self._ground(candidate.grounding_metadata, index)
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
        signature = _string(part.get("thoughtSignature"))
        text, detail, other = part.get("text"), None, False
        if isinstance(text, str):
            if part.get("thought") is True:
                text = self._joined("reasoning", index, text)
                if text or signature:
                    tokens.append(Reasoning(text, index, signature=signature))
                return scores
            self._content(text, index, scores, tokens)
            scores = None
        elif isinstance(part.get("functionCall"), dict):
            self._function_call(convert(part["functionCall"], FunctionCall), index, tokens)
            detail = {"tool_call": max(len(self._tools(index).calls) - 1, 0)}
        else:
            detail = self._other(part)
            other = detail is not None
        if signature or other:
            tokens.append(Reasoning("", index, signature=signature, detail=detail))
        return scores

    def _other(self, part: dict[str, Any]) -> dict[str, Any] | None:
        """A part of another kind, without its signature."""
        rest = {key: value for key, value in part.items() if key != "thoughtSignature"}
        carried = opaque(rest)
        self.oddities += carried is None
        return carried or None

    def _content(
        self, text: str, index: int, scores: list[Logprob] | None, tokens: list[StreamToken]
    ) -> None:
        text = self._joined("text", index, text)
        if index == 0 and scores is None:
            if text:
                tokens.append(Text(text))
        elif text or scores:
            tokens.append(Delta(text, index, scores))

    def _function_call(self, call: FunctionCall, index: int, tokens: list[StreamToken]) -> None:
        """A whole call, the beginning of one, or what belongs to the one that is open."""
        if _string(call.name) or call.args is not None:
            self._end_call(index, tokens)
            self._begin_call(call, index, tokens)
        partial = self._seen.partial.get(index)
        if partial is None:
            self.oddities += bool(call.partial_args)
            return
        pieces = convert(call.partial_args or [], list[PartialArgument])
        written = [partial.write(p.json_path, v) for p in pieces if (v := _value(p)) is not _NONE]
        self._argue("".join(written), index, tokens)
        if call.will_continue is not True:
            self._end_call(index, tokens)

    def _begin_call(self, call: FunctionCall, index: int, tokens: list[StreamToken]) -> None:
        tools = self._tools(index)
        streamed = call.args is None and bool(call.partial_args or call.will_continue)
        arguments = "" if streamed else json_text({} if call.args is None else call.args)
        begun = tools.piece(len(tools.calls), call.id, call.name, arguments, index)
        if begun is not None:
            tokens.append(begun)
        if streamed:
            self._seen.partial[index] = PartialArguments()
        self.changed = True

    def _end_call(self, index: int, tokens: list[StreamToken]) -> None:
        partial = self._seen.partial.pop(index, None)
        if partial is not None:
            self._argue(partial.close(), index, tokens)

    def _argue(self, text: str, index: int, tokens: list[StreamToken]) -> None:
        """More of the arguments of the newest call."""
        self.changed = True
        tools = self._tools(index)
        call = tools.piece(len(tools.calls) - 1, None, None, text, index)
        if call is not None:
            tokens.append(ToolCall(call.index, arguments=call.arguments, choice=index))

    def _tools(self, index: int) -> ToolCalls:
        return self._seen.tools.setdefault(index, ToolCalls())

    def _ground(self, metadata: Any, index: int) -> None:
        """Chunks repeat or replace the sources: the last that has any counts."""
        if not isinstance(metadata, dict) or not metadata.get("groundingChunks"):
            return
        kept = {key: metadata.get(key) for key in ("groundingChunks", "groundingSupports")}
        if kept != self._seen.grounding.get(index):
            carried = opaque(kept)
            self.oddities += carried is None
            self._seen.grounding[index] = carried or {}
            self.changed = True

    def _scores(self, result: Any) -> list[Logprob] | None:
        if not isinstance(result, dict):
            return None
        scores = _logprobs(result)
        self.oddities += scores is None
        return scores or None

    def _joined(self, kind: str, index: int, text: str) -> str:
        if text.isascii() and not self._seen.halves.held:
            return text
        before = self._seen.halves.held.copy()
        text = self._seen.halves.join(kind, index, text)
        self.changed |= before != self._seen.halves.held
        return text

    def _account(self, usage: Usage, tokens: list[StreamToken]) -> None:
        """Counts are cumulative and in every chunk, so that a greater one makes no checkpoint.

        A first one does, and any after a finish reason: perhaps no chunk follows it.
        """
        before = self._seen.usage
        after = merged(before or Usage(), usage)
        if after == (before or Usage()):
            return
        self._seen.usage = after
        self.changed |= self.complete or _gaps(before) != _gaps(after)
        if before is None:
            tokens.append(after)


_NONE: Final = msgspec.UNSET


def _value(piece: PartialArgument) -> Any:
    """The value of a piece, which is one of four; UNSET if it has none."""
    if piece.null_value is not _NONE:
        return None
    values = (piece.string_value, piece.number_value, piece.bool_value)
    return next((value for value in values if value is not _NONE), _NONE)


def _gaps(usage: Usage | None) -> list[bool]:
    return [value is None for value in msgspec.structs.astuple(usage or Usage())]


def _logprobs(result: dict[str, Any]) -> list[Logprob] | None:
    """From `{chosenCandidates: […], topCandidates: [{candidates: […]}]}`; null if unreadable."""
    try:
        chosen = [_entry(entry) for entry in result.get("chosenCandidates") or ()]
        tops = [top.get("candidates") or () for top in result.get("topCandidates") or ()]
        tops += [()] * (len(chosen) - len(tops))
        entries = [
            entry | {"top_logprobs": [_entry(one) for one in top]}
            for entry, top in zip(chosen, tops, strict=False)
        ]
    except (AttributeError, TypeError):
        return None
    return openai_logprobs(entries)


def _entry(candidate: dict[str, Any]) -> dict[str, Any]:
    return {"token": candidate.get("token"), "logprob": candidate.get("logProbability")}


def _reason(value: Any) -> str | None:
    return None if value is None or value in _UNSPECIFIED else str(value)[:MAX_REASON_CHARS]


def _string(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
