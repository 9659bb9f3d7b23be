"""The common request: what a client asks for, whatever the provider.

Messages are in the chat form that most servers share: `{"role": ..., "content": ...}` with
role system, developer, user, assistant or tool. Parts, messages and tools may carry
`cache_control`, a prompt-cache mark, which is left out where there are none. An assistant's
message may have its `reasoning` (see `thoughts`) and the `model` that wrote it, a tool's
`is_error`. `extra` is merged into the provider's body last, object into object, and is the place
for what only one provider knows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final, Literal, TypeAlias, TypeVar

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
    tokens for those who know another client's; `transforms` is what is done to them then
    (`transform_spec`).
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
    transforms: list[Json] | None = None
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


R = TypeVar("R", bound=Request)
S = TypeVar("S", bound=msgspec.Struct)

_NULL: Final = b"\xc0"  # in msgpack
# What asks for nothing that every API would not do by itself.
_NEUTRAL: Final[dict[str, tuple[Any, ...]]] = {
    "n": (1,),
    "logprobs": (False,),
    "parallel_tool_calls": (True,),
    "reasoning": (Reasoning(), Reasoning(effort="none"), Reasoning(budget_tokens=0)),
}
_ONLY_CHAT: Final = frozenset(ChatRequest.__struct_fields__) - {
    *CompletionRequest.__struct_fields__
}
_RANGES: Final = {
    "temperature": (0.0, 2.0),
    "top_p": (0.0, 1.0),
    "frequency_penalty": (-2.0, 2.0),
    "presence_penalty": (-2.0, 2.0),
    "top_logprobs": (0, 20),
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


def without(request: R, fields: Iterable[str], who: str, why: str = "") -> R:
    """Return a request that has none of `fields`, which `who` does not know.

    Given ones are refused by name, or left out if the request says `drop_unsupported`. A value
    that asks for what is so anyway (one answer, no thinking) is left out, and never refused.
    `reasoning.effort` names a field within a field; `why` says more than that there is none such.
    Raises `RequestError` (bad_request).
    """
    for field in fields:
        value = _value(request, field)
        if value is None:
            continue
        if not request.drop_unsupported and value not in _NEUTRAL.get(field, ()):
            raise refuse(field, why or f"{who} has no such parameter")
        request = _cleared(request, field.split("."))
    return request


def _value(request: Request, field: str) -> Any:
    value: Any = request
    for name in field.split("."):
        value = getattr(value, name, None)
    return value


def _cleared(value: S, names: list[str]) -> S:
    name, *inner = names
    left = _cleared(getattr(value, name), inner) if inner else None
    return msgspec.structs.replace(value, **{name: left})


def chatted(request: Request, api: str, instead: str) -> ChatRequest:
    """Return a request that has messages; `instead` is the API that takes a prompt."""
    if isinstance(request, ChatRequest):
        return request
    raise refuse("prompt", f"{api} takes messages; ask for api={instead} to send a prompt")


def prompted(request: Request, who: str) -> CompletionRequest:
    """Return a request that has a prompt; `who` begins the sentence of the refusal."""
    if isinstance(request, CompletionRequest):
        return request
    raise refuse("messages", f"{who} a prompt")


def accept(request: Request) -> dict[str, str]:
    """Return the headers that tell a short answer from a stream, which is what is usual."""
    return {} if request.stream else {"accept": "application/json"}


def laid_over(body: Json, extra: Json) -> Json:
    """Return `body` with `extra` on top: objects are merged, all else is replaced.

    No recursion: a client chooses how deep its objects are.
    """
    merged = dict(body)
    pairs = [(merged, extra)]
    while pairs:
        below, above = pairs.pop()
        for name, value in above.items():
            if isinstance(value, dict) and isinstance(old := below.get(name), dict):
                below[name] = dict(old)
                pairs.append((below[name], value))
            else:
                below[name] = value
    return merged


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


def of(**fields: Any) -> ChatRequest | CompletionRequest:
    """Return the request with these fields; None is as good as absent. Raises `RequestError`."""
    try:
        return decode(msgspec.msgpack.encode(given(**fields)))
    except (TypeError, ValueError, RecursionError) as error:  # what msgpack cannot say
        raise refuse("request", str(error)) from None


def check(request: ChatRequest | CompletionRequest) -> None:
    """Refuse what no provider can be asked. Raises `RequestError` (bad_request)."""
    if isinstance(request, ChatRequest):
        for number, message in enumerate(request.messages):
            if not isinstance(message.get("role"), str):
                raise refuse(f"messages[{number}].role", "must be a string")
        if not request.messages:
            raise refuse("messages", "must not be empty")
        if request.reasoning and (request.reasoning.budget_tokens or 0) < -1:
            raise refuse("reasoning.budget_tokens", "must be positive, 0 for none or -1 for any")
    for field, (low, high) in _RANGES.items():
        value: float | None = getattr(request, field)
        if value is not None and not (math.isfinite(value) and low <= value <= high):
            raise refuse(field, f"{value} is not in {low}..{high}")
    for field in ("max_tokens", "n", "top_k"):
        count: int | None = getattr(request, field)
        if count is not None and count < 1:
            raise refuse(field, f"{count} is not positive")
    if request.top_logprobs is not None and not request.logprobs:
        raise refuse("top_logprobs", "goes with logprobs")
    if any(character in request.model for character in "\r\n\0"):
        raise refuse("model", "must not contain control characters")


def stops(request: Request) -> list[str] | None:
    """Return the stop sequences as a list."""
    return [request.stop] if isinstance(request.stop, str) else request.stop


def given(**fields: Any) -> Json:
    """Return the fields that are not None."""
    return {name: value for name, value in fields.items() if value is not None}
