"""What a stream amounts to, with its deltas joined; and the way of a recorded body to tokens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ringcast.errors import Code
from ringcast.providers.wire.body import Ending
from ringcast.providers.wire.sse import Bytes
from ringcast.providers.wire.token_reader import TokenReader
from ringcast.shm.tokens import (
    Citation,
    Delta,
    Done,
    Error,
    FunctionCall,
    Reasoning,
    Refusal,
    StreamToken,
    Text,
    ToolCall,
    Usage,
)

_COUNTS = (
    "input_tokens",
    "output_tokens",
    "total_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
)


def decode(
    api: str,
    chunks: Iterable[Bytes],
    ending: Ending | None = None,
    *,
    kind: str = "",
    compat: str = "",
) -> list[StreamToken]:
    """The tokens of a body that is read in `chunks`, exactly as provider process and worker do.

    `kind` and `compat` are as for `open_body`. Raises `KeyError` for an API without a dialect.
    """
    reader = TokenReader(api, kind=kind, compat=compat)
    tokens = [token for chunk in chunks for token in reader.read(chunk)]
    return tokens + reader.end(ending)


def summarize(tokens: Iterable[StreamToken]) -> dict[str, Any]:
    """One object of plain values: what joining all the tokens of a stream gives.

    With several choices, `choices` has the same keys for each; those beside it are choice 0's.
    """
    choices: dict[int, _Choice] = {0: _Choice()}
    end: Done | Error | None = None
    for token in tokens:
        if isinstance(token, Done | Error):
            end = token
        elif not isinstance(token, Usage):
            choices.setdefault(_index(token), _Choice()).add(token)
    reasons = end.choices if isinstance(end, Done) and end.choices else None
    for index, reason in enumerate(reasons or [end.provider_reason if end else None]):
        choices.setdefault(index, _Choice()).finish_reason = reason
    usage = _usage(end.usage) if end and end.usage else None
    summary = choices[0].summary() | {"usage": usage, "error": _error(end)}
    if reasons:
        several = [choices[index].summary() | {"index": index} for index in sorted(choices)]
        summary["choices"] = several
    return summary


class _Choice:
    """One choice's deltas, collected in lists and joined once."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.reasoning: list[str] = []
        self.refusal: list[str] = []
        self.tools: dict[int, _Call] = {}
        self.function: _Call | None = None
        self.signatures: list[str] = []
        self.annotations = 0
        self.logprob_tokens = 0
        self.finish_reason: str | None = None

    def add(self, token: StreamToken) -> None:
        match token:
            case Text(content):
                self.text.append(content)
            case Delta(content):
                self.text.append(content)
                self.logprob_tokens += len(token.logprob or ())
            case Reasoning(content):
                self.reasoning.append(content)
                self.signatures += filter(None, (token.signature, token.encrypted))
            case Refusal(content):
                self.refusal.append(content)
            case ToolCall():
                self.tools.setdefault(token.index, _Call()).add(token)
            case FunctionCall():
                self.function = self.function or _Call()
                self.function.add(ToolCall(0, None, token.name, token.arguments))
            case Citation():
                self.annotations += 1

    def summary(self) -> dict[str, Any]:
        calls = [self.tools[index] for index in sorted(self.tools)]
        calls += [self.function] if self.function else []
        return {
            "text": "".join(self.text),
            "reasoning": "".join(self.reasoning),
            "refusal": "".join(self.refusal) if self.refusal else None,
            "tool_calls": [call.summary() for call in calls],
            "finish_reason": self.finish_reason,
            "signatures": self.signatures,
            "annotations": self.annotations,
            "logprob_tokens": self.logprob_tokens,
        }


class _Call:
    """One tool call's fragments."""

    def __init__(self) -> None:
        self.id: str | None = None
        self.name: str | None = None
        self.arguments: list[str] = []

    def add(self, token: ToolCall) -> None:
        self.id = token.id or self.id
        self.name = token.name or self.name
        self.arguments.append(token.arguments)

    def summary(self) -> dict[str, Any]:
        return {"id": self.id, "name": self.name, "arguments": "".join(self.arguments)}


def _index(token: StreamToken) -> int:
    if isinstance(token, ToolCall):
        return token.choice
    return 0 if isinstance(token, Text) else getattr(token, "index", 0)


def _usage(usage: Usage) -> dict[str, int | None]:
    return {name: getattr(usage, name) for name in _COUNTS}


def _error(end: Done | Error | None) -> dict[str, Any] | None:
    """`code` is the provider's own; where the fault is not the provider's word, it is ours."""
    if not isinstance(end, Error):
        return None
    said = end.code == Code.PROVIDER_ERROR or end.status not in (None, 200)
    own = end.type is None and end.provider_code is None and not said
    return {
        "name": end.code,
        "type": end.type,
        "code": end.code if own else end.provider_code,
        "status": end.status,
        "message": end.message,
    }
