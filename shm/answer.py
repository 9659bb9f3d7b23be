"""A whole answer: the tokens of one stream, joined.

What a caller wants who does not read along, and what goes back to the model as its last message.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from ringcast.shm.tokens import (
    Citation,
    Delta,
    Done,
    Error,
    FinishReason,
    FunctionCall,
    Reasoning,
    Refusal,
    StreamToken,
    Summary,
    Text,
    ToolCall,
    Usage,
    Waiting,
)


class Called(msgspec.Struct, frozen=True, omit_defaults=True):
    """A tool call; `arguments` is the text as the model wrote it, JSON if all went well."""

    id: str | None
    name: str | None
    arguments: str


class Choice(msgspec.Struct, frozen=True, omit_defaults=True):
    """One of the answers that were asked for. `reasoning` holds one token a block."""

    text: str = ""
    reasoning: list[Reasoning] = []
    refusal: str | None = None
    tool_calls: list[Called] = []
    function_call: Called | None = None
    citations: list[Citation] = []

    def message(self) -> dict[str, Any]:
        """Return the answer in the chat form, to be sent back with what comes next."""
        message: dict[str, Any] = {"role": "assistant", "content": self.text or None}
        if self.refusal is not None:
            message["refusal"] = self.refusal
        if self.tool_calls:
            message["tool_calls"] = [_chat_form(call) for call in self.tool_calls]
        if self.function_call is not None:
            call = self.function_call
            message["function_call"] = {"name": call.name, "arguments": call.arguments}
        if self.reasoning:
            message["reasoning"] = [_carried(block) for block in self.reasoning]
        return message


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """All choices (almost always one) and how it ended: `error` is None if it ended well.

    `model` is the provider's word for who answered, `asked` the PROVIDER/model that was asked.
    """

    choices: list[Choice]
    finish_reason: FinishReason = "other"
    provider_reason: str | None = None
    usage: Usage | None = None
    summary: Summary | None = None
    id: str | None = None
    model: str | None = None
    error: Error | None = None
    asked: str | None = None

    @property
    def text(self) -> str:
        """The visible text of the first choice."""
        return self.choices[0].text

    @property
    def reasoning(self) -> str:
        """The thinking text of the first choice."""
        return "".join(block.content for block in self.choices[0].reasoning)

    @property
    def tool_calls(self) -> list[Called]:
        """The tool calls of the first choice."""
        return self.choices[0].tool_calls

    def message(self) -> dict[str, Any]:
        """Return the first choice as a message in the chat form, with who it is from."""
        message = self.choices[0].message()
        return message | {"model": self.asked} if self.asked and "reasoning" in message else message


def joined(tokens: Iterable[StreamToken], asked: str | None = None) -> Answer:
    """Join a stream's tokens. What has no terminal token is an answer that is cut off.

    `asked` is the PROVIDER/model: the proof of a thought is of use to who made it only.
    """
    drafts: dict[int, _Draft] = {0: _Draft()}
    end: StreamToken | None = None
    usage: Usage | None = None
    for token in tokens:
        match token:
            case Done() | Error():
                end = token
            case Usage():
                usage = token
            case Waiting():
                pass
            case Text():
                drafts[0].add(token)
            case ToolCall():
                drafts.setdefault(token.choice, _Draft()).add(token)
            case _:
                drafts.setdefault(token.index, _Draft()).add(token)
    choices = [drafts[index].choice() for index in sorted(drafts)]
    if isinstance(end, Done):
        return Answer(
            choices, end.finish_reason, end.provider_reason, end.usage, end.summary, end.id,
            end.model, asked=asked,
        )  # fmt: skip
    if isinstance(end, Error):
        return Answer(
            choices,
            "error",
            end.provider_reason,
            end.usage or usage,
            end.summary,
            error=end,
            asked=asked,
        )
    return Answer(choices, usage=usage, asked=asked)


class _Draft:
    """One choice under way, its texts in lists that are joined once."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._refusal: list[str] = []
        self._blocks: list[list[Reasoning]] = []
        self._calls: dict[int, list[ToolCall]] = {}
        self._function: list[FunctionCall] = []
        self._citations: list[Citation] = []

    def add(self, token: StreamToken) -> None:
        match token:
            case Text(content) | Delta(content):
                self._text.append(content)
            case Refusal(content):
                self._refusal.append(content)
            case Reasoning():
                if not self._blocks or not _continues(self._blocks[-1][-1], token):
                    self._blocks.append([])
                self._blocks[-1].append(token)
            case ToolCall():
                self._calls.setdefault(token.index, []).append(token)
            case FunctionCall():
                self._function.append(token)
            case Citation():
                self._citations.append(token)

    def choice(self) -> Choice:
        return Choice(
            "".join(self._text),
            [_block(pieces) for pieces in self._blocks],
            "".join(self._refusal) if self._refusal else None,
            [_call(pieces) for _, pieces in sorted(self._calls.items())],
            _call(self._function) if self._function else None,
            self._citations,
        )


def _continues(before: Reasoning, token: Reasoning) -> bool:
    """Whether a token is of the same block: a signature or an encrypted part is a block's last."""
    ended = before.signature is not None or before.encrypted is not None
    return not ended and (before.block, before.detail) == (token.block, token.detail)


def _block(pieces: list[Reasoning]) -> Reasoning:
    return msgspec.structs.replace(pieces[-1], content="".join(piece.content for piece in pieces))


def _call(pieces: list[ToolCall] | list[FunctionCall]) -> Called:
    ids = [piece.id for piece in pieces if isinstance(piece, ToolCall) and piece.id]
    names = [piece.name for piece in pieces if piece.name]
    arguments = "".join(piece.arguments for piece in pieces)
    return Called(ids[-1] if ids else None, names[-1] if names else None, arguments)


def _chat_form(call: Called) -> dict[str, Any]:
    said = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": said}


def _carried(block: Reasoning) -> dict[str, Any]:
    """What a provider needs back of a block of thoughts."""
    fields = ("content", "block", "signature", "encrypted", "detail")
    return {name: value for name in fields if (value := getattr(block, name)) is not None}
