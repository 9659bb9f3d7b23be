"""The common request: what a client asks for, whatever the provider.

Messages are in the chat form that most servers share: `{"role": ..., "content": ...}` with
role system, developer, user, assistant or tool. `extra` is merged into the provider's body
last and is the place for what only one provider knows.
"""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias

import msgspec

from ringcast.errors import Code, RequestError

Api: TypeAlias = Literal[
    "chat", "completions", "responses", "messages", "complete", "generate", "interactions"
]
Json: TypeAlias = dict[str, Any]


class Request(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One generation. `model` is `PROVIDER/model`; `messages` or `prompt` must be given.

    `api` picks another API than the provider's main one. None means "the provider's default".
    """

    model: str
    messages: list[Json] | None = None
    prompt: str | None = None
    api: Api | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: list[str] | str | None = None
    seed: int | None = None
    n: int | None = None
    tools: list[Json] | None = None
    tool_choice: Json | str | None = None
    extra: Json = {}


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
        if getattr(request, field) not in (None, 1 if field == "n" else None):
            raise refuse(field, f"{who} has no such parameter")


def decode(raw: bytes | msgspec.Raw) -> Request:
    """Decode and check a request. Raises `RequestError` (bad_request) naming the field."""
    try:
        request = msgspec.msgpack.decode(raw, type=Request)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise RequestError(Code.BAD_REQUEST, f"request: {error}") from None
    check(request)
    return request


def check(request: Request) -> None:
    """Refuse what no provider can be asked. Raises `RequestError` (bad_request)."""
    if (request.messages is None) == (request.prompt is None):
        raise refuse("messages", "give either messages or prompt")
    if request.messages is not None:
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
