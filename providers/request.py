"""The common request: what a client asks for, whatever the provider.

Messages are in the chat form that most servers share: `{"role": ..., "content": ...}` with
role system, developer, user, assistant or tool. Parts, messages and tools may carry
`cache_control`, a prompt-cache mark. `extra` is merged into the provider's body last and is
the place for what only one provider knows.
"""

from __future__ import annotations

import math
from typing import Any, Final, Literal, TypeAlias

import msgspec

from ringcast.errors import Code, RequestError

Api: TypeAlias = Literal[
    "chat",
    "completions",
    "responses",
    "messages",
    "complete",
    "generate",
    "interactions",
    "converse",
    "invoke",
    "native",
]
Effort: TypeAlias = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Json: TypeAlias = dict[str, Any]


class Reasoning(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """How much a model shall think: by `effort`, or by a budget of tokens (0 off, -1 its own).

    `summary` asks for a summary of the thoughts where they are not shown themselves.
    """

    effort: Effort | None = None
    budget_tokens: int | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None


class Request(
    msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, kw_only=True
):
    """What both kinds of generation have. `model` is `PROVIDER/model`.

    `api` picks another API than the provider's main one. None means "the provider's default".
    With `stream` false the provider answers in one piece, which makes the same tokens. What a
    provider cannot do is refused, or with `drop_unsupported` left out. `compat` rewrites the
    tokens for those who know another client's.
    """

    model: str
    api: Api | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    stop: list[str] | str | None = None
    seed: int | None = None
    n: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    cache_key: str | None = None
    stream: bool = True
    drop_unsupported: bool = False
    compat: Literal["roo"] | None = None
    extra: Json = {}


class ChatRequest(Request, frozen=True, kw_only=True):
    """The next message of a conversation.

    `response_format` is the chat form's: `{"type": "json_object"}`, or `{"type": "json_schema",
    "json_schema": {"name", "schema", "strict"}}`.
    """

    messages: list[Json]
    tools: list[Json] | None = None
    tool_choice: Json | str | None = None
    parallel_tool_calls: bool | None = None
    response_format: Json | None = None
    reasoning: Reasoning | None = None


class CompletionRequest(Request, frozen=True, kw_only=True):
    """The continuation of a text."""

    prompt: str
    suffix: str | None = None


_NULL: Final = b"\xc0"  # in msgpack
_ONLY_CHAT: Final = frozenset(ChatRequest.__struct_fields__) - {
    *CompletionRequest.__struct_fields__
}


class Call(msgspec.Struct, frozen=True):
    """A shaped request: what goes to `base_url + path`."""

    path: str
    body: Json = {}
    headers: dict[str, str] = {}
    method: Literal["POST", "GET"] = "POST"


def refuse(field: str, why: str) -> RequestError:
    """Return the error for a request whose `field` is at fault."""
    return RequestError(Code.BAD_REQUEST, f"{field}: {why}", field=field)


def refuse_given(request: Request, fields: tuple[str, ...], who: str) -> None:
    """Refuse a request that has one of these `fields`, which `who` has not; one answer is none."""
    for field in fields:
        if getattr(request, field, None) not in (None, 1 if field == "n" else None):
            raise refuse(field, f"{who} has no such parameter")


def decode(raw: bytes | msgspec.Raw) -> ChatRequest | CompletionRequest:
    """Decode and check a request. Raises `RequestError` (bad_request) naming the field."""
    request: ChatRequest | CompletionRequest
    try:
        fields = msgspec.msgpack.decode(raw, type=dict[str, msgspec.Raw])
        present = {name for name, value in fields.items() if bytes(value) != _NULL}
        if ("messages" in present) == ("prompt" in present):
            raise refuse("messages", "give either messages or prompt")
        if len(present) < len(fields):  # null is as good as absent
            raw = msgspec.msgpack.encode({name: fields[name] for name in present})
        if "messages" in present:
            request = msgspec.msgpack.decode(raw, type=ChatRequest)
        else:
            for name in sorted(present & _ONLY_CHAT):
                raise refuse(name, "goes with messages, not with a prompt")
            request = msgspec.msgpack.decode(raw, type=CompletionRequest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise RequestError(Code.BAD_REQUEST, f"request: {error}") from None
    check(request)
    return request


def check(request: ChatRequest | CompletionRequest) -> None:
    """Refuse what no provider can be asked. Raises `RequestError` (bad_request)."""
    if isinstance(request, ChatRequest):
        for number, message in enumerate(request.messages):
            if not isinstance(message.get("role"), str):
                raise refuse(f"messages[{number}].role", "must be a string")
        if not request.messages:
            raise refuse("messages", "must not be empty")
    for field, low, high in (("temperature", 0.0, 2.0), ("top_p", 0.0, 1.0)):
        value: float | None = getattr(request, field)
        if value is not None and not (math.isfinite(value) and low <= value <= high):
            raise refuse(field, f"{value} is not in {low}..{high}")
    for field in ("max_tokens", "n"):
        count: int | None = getattr(request, field)
        if count is not None and count < 1:
            raise refuse(field, f"{count} is not positive")
    if any(character in request.model for character in "\r\n\0"):
        raise refuse("model", "must not contain control characters")


def stops(request: Request) -> list[str] | None:
    """Return the stop sequences as a list."""
    return [request.stop] if isinstance(request.stop, str) else request.stop


def given(**fields: Any) -> Json:
    """Return the fields that are not None."""
    return {name: value for name, value in fields.items() if value is not None}
