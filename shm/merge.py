"""Joining two tokens that follow each other into one that says the same."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from ringcast.shm.tokens import (
    Delta,
    FunctionCall,
    Reasoning,
    Refusal,
    StreamToken,
    Text,
    ToolCall,
    Usage,
)

T = TypeVar("T")


def merge(first: StreamToken, second: StreamToken) -> StreamToken | None:
    """Return the one token that stands for both, or None if none does.

    Texts, thoughts, refusals and arguments are joined where they belong together: to the same
    choice, block or call. Of two usages the last value that is not null counts, field by field.
    Citations and terminal tokens stay by themselves. An answer made of merged tokens is the same.
    """
    match first, second:
        case Text(), Text():
            return Text(first.content + second.content)
        case Delta(), Delta():
            return _deltas(first, second)
        case Reasoning(), Reasoning():
            return _thoughts(first, second)
        case Refusal(), Refusal():
            return _refusals(first, second)
        case ToolCall(), ToolCall():
            return _calls(first, second)
        case FunctionCall(), FunctionCall():
            return _functions(first, second)
        case Usage(), Usage():
            return _usages(first, second)
    return None


def _deltas(first: Delta, second: Delta) -> Delta | None:
    """Lists have an entry for each model token, so both have one or neither."""
    if (
        first.index != second.index
        or (first.logprob is None) != (second.logprob is None)
        or (first.token_ids is None) != (second.token_ids is None)
        or second.prompt_token_ids is not None
    ):
        return None
    return Delta(
        first.content + second.content,
        first.index,
        _both(first.logprob, second.logprob),
        _both(first.token_ids, second.token_ids),
        first.prompt_token_ids,
    )


def _thoughts(first: Reasoning, second: Reasoning) -> Reasoning | None:
    """A signature or an encrypted part ends its block: nothing is put behind it."""
    if first.signature is not None or first.encrypted is not None:
        return None
    if (first.index, first.block, first.detail) != (second.index, second.block, second.detail):
        return None
    return msgspec.structs.replace(second, content=first.content + second.content)


def _refusals(first: Refusal, second: Refusal) -> Refusal | None:
    if first.index != second.index or (first.logprob is None) != (second.logprob is None):
        return None
    logprob = _both(first.logprob, second.logprob)
    return Refusal(first.content + second.content, first.index, logprob)


def _calls(first: ToolCall, second: ToolCall) -> ToolCall | None:
    if (first.choice, first.index) != (second.choice, second.index):
        return None
    if _differ(first.id, second.id) or _differ(first.name, second.name):
        return None
    return ToolCall(
        first.index,
        second.id or first.id,
        second.name or first.name,
        first.arguments + second.arguments,
        first.choice,
        first.preview if second.preview is None else second.preview,
    )


def _functions(first: FunctionCall, second: FunctionCall) -> FunctionCall | None:
    if first.index != second.index or _differ(first.name, second.name):
        return None
    arguments = first.arguments + second.arguments
    return FunctionCall(second.name or first.name, arguments, first.index)


def _usages(first: Usage, second: Usage) -> Usage:
    said = {name: value for name, value in _fields(second) if value is not None}
    return msgspec.structs.replace(first, **said)


def _fields(usage: Usage) -> list[tuple[str, int | float | None]]:
    return [(name, getattr(usage, name)) for name in usage.__struct_fields__]


def _both(first: list[T] | None, second: list[T] | None) -> list[T] | None:
    return None if first is None or second is None else first + second


def _differ(first: str | None, second: str | None) -> bool:
    """Whether two names cannot be of one call; one that was not said agrees with any."""
    return bool(first) and bool(second) and first != second
