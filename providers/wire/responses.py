"""OpenAI's Responses stream, as OpenAI, Azure, Bedrock, LM Studio, OpenRouter and xAI send it.

https://platform.openai.com/docs/api-reference/responses-streaming. OpenRouter sends no `event:`
lines: the payload's `type` decides. Some back ends change an item's id with every event, so that
only `output_index` tells items apart. What deltas have told comes again in `.done` events, in the
items and in the last event's `response`, and is not told twice; see `responses_told`. Older names
of events are from OpenRouter's and OpenAI's earlier documentation.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from ringcast.errors import Code
from ringcast.providers.wire.answer import provider_error
from ringcast.providers.wire.citations import openai_citation
from ringcast.providers.wire.dialect import Dialect, Memory
from ringcast.providers.wire.finish import MAX_REASON_CHARS, finish_reason, reason_word
from ringcast.providers.wire.logprobs import openai_logprobs
from ringcast.providers.wire.numbers import position, whole
from ringcast.providers.wire.payload import convert, decode
from ringcast.providers.wire.portable import string
from ringcast.providers.wire.responses_event import (
    Answer,
    Event,
    Item,
    Part,
    PlainTextDelta,
    WholeAnswer,
    text_deltas,
)
from ringcast.providers.wire.responses_told import Told
from ringcast.providers.wire.sse import SseEvent, WireError
from ringcast.providers.wire.tool_calls import ToolCalls
from ringcast.providers.wire.usage import responses_usage
from ringcast.shm.records import Cursor
from ringcast.shm.tokens import (
    Done,
    Error,
    Logprob,
    Reasoning,
    Refusal,
    StreamToken,
    Text,
    Usage,
)

MAX_ITEMS: Final = 2**63

_CALLS: Final = ("function_call", "custom_tool_call")
_TOLD: Final = ("message", "reasoning")  # the items that come in deltas, but for calls
_ENDS: Final = {"response.done": "completed"}  # others are called as the status that they mean
_UNDER_WAY: Final = ("queued", "in_progress")

# Progress of the provider's own tools, and ends of what the deltas told.
_SILENT: Final = re.compile(
    r"keepalive|response\.(?:\w+\.done|(?:content|reasoning)_part\.added"
    r"|(?:\w+_call\w*|mcp_list_tools|compaction)\.\w+)"
)

_event: Final = msgspec.json.Decoder(Event)
_whole: Final = msgspec.json.Decoder(WholeAnswer)


class _Memory(Memory, array_like=True):
    said: str | None = None  # the reason
    # The last sequence_number of a background response, -1 before the first; null once it has
    # ended, and for all other responses, of which nothing can be asked for again.
    after: int | None = None
    tools: ToolCalls = msgspec.field(default_factory=ToolCalls)
    told: Told = msgspec.field(default_factory=Told)


class Responses(Dialect[_Memory]):
    """Decodes the events of `POST /v1/responses`."""

    def __init__(self) -> None:
        super().__init__(_Memory)

    @property
    def complete(self) -> bool:
        """Whether the event that ends the answer was seen; `[DONE]` comes from OpenRouter only."""
        return self._seen.said is not None

    @property
    def reason(self) -> str | None:
        """The status at the end, with what made it incomplete."""
        return self._seen.said

    @property
    def cursor(self) -> Cursor | None:
        """Where a background response can be asked to go on, as long as it has not ended.

        https://platform.openai.com/docs/guides/background#streaming-a-background-response
        """
        id, after = self._seen.id, self._seen.after
        if id is None or after is None:
            return None
        return Cursor(id, str(after) if after >= 0 else "")

    def feed_block(self, block: bytes) -> list[StreamToken] | None:
        """Plain form: text deltas only, each `data: {…}` with or without its `event:` line."""
        if self._seen.halves.held or (found := text_deltas(block)) is None:
            return None
        if self._seen.after is not None and not self._go_on(found, self._seen.after):
            return None
        tokens: list[StreamToken] = [Text(event.delta) for event in found if event.delta]
        if tokens:  # between the texts of two items is always another event
            self._hear(found[-1].output_index)
        return tokens

    def whole(self, answer: bytes) -> list[StreamToken] | None:
        """A non-streamed answer: a response with its output, unless it is still under way."""
        tokens: list[StreamToken] = []
        try:
            response = decode(_whole, answer)
            if response.output is None or response.status in _UNDER_WAY:
                return None
            for index, item in enumerate(response.output):
                self._begin(index, item, tokens)
                self._item(index, item, tokens)
        except WireError:
            return None
        return tokens + self._end(string(response.status), response)

    def close(self, error: Error | None) -> list[StreamToken]:
        """Whatever ends it: from now on nothing more can be asked for."""
        self._seen.after = None
        return super().close(error)

    def _done(self) -> Done:
        seen = self._seen
        # That tools are to be called is no status of a response.
        called = seen.said == "completed" and seen.tools.calls
        return Done(
            "tool_calls" if called else finish_reason(seen.said),
            seen.said,
            usage=seen.usage,
            id=seen.id,
            model=seen.model,
        )

    def _read(self, event: SseEvent) -> list[Event]:
        """The payload's type rules, else the `event:` line's."""
        payload = decode(_event, event.data)
        if payload.error is None:
            payload.type = payload.type or event.event
        return [payload]

    def _apply(self, event: Event, tokens: list[StreamToken]) -> list[StreamToken] | None:
        if event.type == "error" or event.error is not None:
            said = {"error": event.error, "message": event.message}
            return self.close(provider_error(said | {"type": event.type, "code": event.code}))
        number = whole(event.sequence_number)
        if self._is_repeated(number):
            self.oddities += 1
            return None
        last = self._tell(event, tokens)
        if number is not None and self._seen.after is not None:
            self._seen.after, self.changed = number, True
        return last

    def _is_repeated(self, number: int | None) -> bool:
        after = self._seen.after
        return after is not None and number is not None and number <= after

    def _go_on(self, found: list[PlainTextDelta], after: int) -> bool:
        """Move the cursor to the last event; false, nothing moved, if one does not come next."""
        for event in found:
            number = whole(event.sequence_number)
            if number is None or number <= after:
                return False
            after = number
        self._seen.after, self.changed = after, True
        return True

    def _tell(self, event: Event, tokens: list[StreamToken]) -> list[StreamToken] | None:
        """Add what the event says; the last tokens if it ends the stream."""
        match kind := event.type:
            case "response.output_text.delta" | "response.content_part.delta":
                self._text(self._said(event), event.logprobs, tokens)
            case "response.output_text.done" if self._lacks(event):
                self._text(self._said(event), event.logprobs, tokens)
            case (
                "response.reasoning_summary_text.delta"
                | "response.reasoning_text.delta"
                | "response.reasoning_summary.delta"
                | "response.reasoning.delta"
            ):
                self._reasoning(self._said(event), _position(event.output_index), tokens)
            case "response.reasoning_summary_part.added":
                if part := whole(event.summary_index):
                    tokens.append(_next_part(_position(event.output_index), part))
            case "response.refusal.delta":
                self._refusal(self._said(event), tokens)
            case "response.refusal.done" if self._lacks(event):
                self._refusal(self._said(event), tokens)
            case "response.function_call_arguments.delta":
                self._call(_position(event.output_index), tokens, arguments=event.delta)
            case "response.custom_tool_call_input.delta":
                self._call(_position(event.output_index), tokens, arguments=event.delta, free=True)
            case "response.function_call_arguments.done" | "response.custom_tool_call_input.done":
                self._rest(_position(event.output_index), event, tokens)
            case "response.output_text.annotation.added":
                self._hear(event.output_index)
                self._annotations([event.annotation], tokens)
            case "response.output_item.added" if event.item is not None:
                self._begin(_position(event.output_index), event.item, tokens)
            case "response.output_item.done" if event.item is not None:
                self._item(_position(event.output_index), event.item, tokens)
            case "response.created" | "response.queued" | "response.in_progress":
                self._introduce(event.response or Answer())
            case (
                "response.completed"
                | "response.incomplete"
                | "response.failed"
                | "response.cancelled"
                | "response.done"
            ):
                answer = event.response or Answer()
                self._late(answer.output, tokens)
                return self._end(_ENDS.get(kind, kind.removeprefix("response.")), answer)
            case _:
                self.oddities += not (isinstance(kind, str) and _SILENT.fullmatch(kind))
        return None

    def _said(self, event: Event) -> Any:
        """The text of a delta, or of a part that had none."""
        text = event.delta or event.text or event.refusal
        if isinstance(text, dict):
            text = text.get("text")
        if text and isinstance(text, str):
            self._hear(event.output_index)
        return text

    def _hear(self, index: Any) -> None:
        if self._seen.told.tell(whole(index) or 0):
            self.changed = True

    def _lacks(self, event: Event) -> bool:
        return self._seen.told.lacks(whole(event.output_index) or 0)

    def _text(self, text: Any, logprobs: Any, tokens: list[StreamToken]) -> None:
        self._content(text, 0, self._scores(logprobs) if logprobs else None, tokens)

    def _scores(self, logprobs: Any) -> list[Logprob] | None:
        scores = openai_logprobs(logprobs)
        self.oddities += scores is None
        return scores

    def _reasoning(self, text: Any, block: int, tokens: list[StreamToken]) -> None:
        if text := self._joined("reasoning", text):
            tokens.append(Reasoning(text, block=block))

    def _refusal(self, text: Any, tokens: list[StreamToken]) -> None:
        if text := self._joined("refusal", text):
            tokens.append(Refusal(text))

    def _annotations(self, annotations: Any, tokens: list[StreamToken]) -> None:
        if isinstance(annotations, list):
            tokens += [openai_citation(a, 0) for a in annotations if isinstance(a, dict)]

    def _begin(self, index: int, item: Item, tokens: list[StreamToken]) -> None:
        """An item begins; a call's own id is for servers that send no other, or a new one each."""
        if item.type in _TOLD:
            self.changed |= not self._seen.told.begun
            self._seen.told.begun = True
        elif item.type in _CALLS:
            known = index in self._seen.tools.by_index
            id = string(item.call_id) or (None if known else string(item.id))
            self._call(index, tokens, id, string(item.name))

    def _item(self, index: int, item: Item, tokens: list[StreamToken]) -> None:
        """What only the finished item tells: sealed reasoning, and all that had no deltas."""
        if item.type in _CALLS:
            self._begin(index, item, tokens)
            self._rest(index, item, tokens)
        elif item.type in _TOLD:
            before = len(tokens)
            if self._seen.told.lacks(index):
                self._contents(index, item, tokens)
            if len(tokens) > before:
                self._hear(index)
            self._seal(index, item, tokens)

    def _late(self, output: Any, tokens: list[StreamToken]) -> None:
        """What only the last event tells: seals, or all of an answer of which nothing was told."""
        unsealed = not self._seen.told.sealed
        silent = unsealed and not self._seen.told.items and not self._seen.tools.calls
        for index, said in enumerate(output if isinstance(output, list) else ()):
            item = convert(said, Item) if isinstance(said, dict) else Item()
            if silent:
                self._begin(index, item, tokens)
                self._item(index, item, tokens)
            elif unsealed:
                self._seal(index, item, tokens)

    def _seal(self, index: int, item: Item, tokens: list[StreamToken]) -> None:
        if item.type == "reasoning" and (sealed := string(item.encrypted_content)):
            about = {"type": item.type, "id": string(item.id), "format": string(item.format)}
            detail = {key: value for key, value in about.items() if value is not None}
            tokens.append(Reasoning("", block=index, encrypted=sealed, detail=detail))
            self._seen.told.sealed = self.changed = True

    def _contents(self, index: int, item: Item, tokens: list[StreamToken]) -> None:
        """What deltas tell in most streams."""
        if item.type == "reasoning":
            for number, part in enumerate(_parts(item.summary)):
                if number:
                    tokens.append(_next_part(index, number))
                self._reasoning(part.text, index, tokens)
            for part in _parts(item.content):
                self._reasoning(part.text, index, tokens)
        elif item.type == "message":
            for part in _parts(item.content):
                self._part(part, tokens)

    def _part(self, part: Part, tokens: list[StreamToken]) -> None:
        if part.type == "refusal":
            self._refusal(part.refusal, tokens)
        else:
            self._text(part.text, part.logprobs, tokens)
            self._annotations(part.annotations, tokens)

    def _call(
        self,
        index: int,
        tokens: list[StreamToken],
        id: str | None = None,
        name: str | None = None,
        arguments: Any = None,
        *,
        free: bool = False,
    ) -> None:
        tools = self._seen.tools
        if (call := tools.piece(index, id, name, arguments, 0)) is None:
            return
        # That there are arguments must be known at `.done`: the first ones make a checkpoint.
        first = tools.calls[call.index].size == len(call.arguments)
        self.changed |= first or call.id is not None or call.name is not None
        self._called(call, tokens, free=free)

    def _rest(self, index: int, end: Event | Item, tokens: list[StreamToken]) -> None:
        """The arguments that the `end` of a call repeats: news only where no delta told them."""
        tools = self._seen.tools
        ours = tools.by_index.get(index)
        if ours is None or not tools.calls[ours].size:
            free = end.arguments is None
            self._call(index, tokens, arguments=end.input if free else end.arguments, free=free)

    def _introduce(self, response: Answer) -> None:
        seen = self._seen
        seen.id = seen.id or string(response.id)
        seen.model = seen.model or string(response.model)
        if response.background is True and seen.after is None:
            seen.after = -1
        self.changed = True

    def _end(self, word: str | None, response: Answer) -> list[StreamToken]:
        """The last tokens; `word` is how the event says that the response ended."""
        seen = self._seen
        self._introduce(response)
        reason = string(response.status) or word
        details = response.incomplete_details
        if reason == "incomplete" and isinstance(details, dict) and (why := details.get("reason")):
            reason = f"incomplete:{reason_word(why)}"
        seen.said = string((reason or "")[:MAX_REASON_CHARS])
        usage = responses_usage(response.usage) if isinstance(response.usage, dict) else Usage()
        seen.usage = None if usage == Usage() else usage
        counted: list[StreamToken] = [] if seen.usage is None else [seen.usage]
        return counted + self.close(_fault(word, response))


def _fault(word: str | None, response: Answer) -> Error | None:
    """Why a response did not end well: it failed, or was cancelled on the provider's side."""
    if word == "failed" or response.status == "failed":
        return provider_error({"error": response.error or {}})
    if word == "cancelled" or response.status == "cancelled":
        return Error(Code.CANCELLED, "the response was cancelled at its provider")
    return None


def _next_part(block: int, part: int) -> Reasoning:
    """The mark between two parts of a summary; their texts join without it."""
    return Reasoning("", block=block, detail={"type": "summary_text", "summary_index": part})


def _parts(value: Any) -> list[Part]:
    said = value if isinstance(value, list) else []
    return [convert(part, Part) for part in said if isinstance(part, dict)]


def _position(value: Any) -> int:
    return position(value, "output", MAX_ITEMS)
