"""Whom a client's request or question is for: a provider and its model, or a route."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from ringcast.broker import protocol
from ringcast.config import ROUTE, Config
from ringcast.errors import Code, RequestError
from ringcast.providers.commands import Ask
from ringcast.providers.request import refuse

MAX_MODEL: Final = 512  # characters; it travels in records and is shown in tables


class _Named(msgspec.Struct):
    """The one field of a request that the broker reads."""

    model: str


_decode_named = msgspec.msgpack.Decoder(_Named).decode


def addressee(request: msgspec.Raw, config: Config) -> tuple[str, str]:
    """Return provider and model of a request's `model`; a route's provider is `ROUTE`.

    Raises `RequestError`: bad_request, unknown_provider.
    """
    size, limit = memoryview(request).nbytes, config.limits.max_request_bytes
    if size > limit:
        text = f"has {size} bytes, {limit} are allowed (limits.max_request_bytes)"
        raise refuse("request", text)
    named = _name(request)
    if named in config.routes:
        return ROUTE, named
    provider, slash, model = named.partition("/")
    if not slash or not model:
        routes = ", ".join(sorted(config.routes)) or "none is configured"
        text = f"{named[:80]!r} is neither PROVIDER/model nor a route ({routes})"
        raise refuse("model", text)
    _check_known(provider, config)
    return provider, model


def question(frame: protocol.Question, config: Config) -> Ask:
    """Return what a provider process is asked; its number is still to be given.

    Raises `RequestError` as `addressee` does.
    """
    if isinstance(frame, protocol.Count):
        return Ask(0, "count", *addressee(frame.asked, config), frame.asked)
    if isinstance(frame, protocol.Capabilities):
        if frame.provider in config.routes and not frame.model:
            return Ask(0, "capabilities", ROUTE, frame.provider)
        _check_known(frame.provider, config)
        return Ask(0, "capabilities", frame.provider, frame.model[:MAX_MODEL])
    if frame.provider:
        _check_known(frame.provider, config)
    what: Literal["models", "health"]
    what = "models" if isinstance(frame, protocol.Models) else "health"
    return Ask(0, what, frame.provider)


def _name(request: msgspec.Raw) -> str:
    try:
        named = _decode_named(request).model
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(Code.BAD_REQUEST, f"request: {error}") from None
    if len(named) > MAX_MODEL:
        raise refuse("model", f"has {len(named)} characters, {MAX_MODEL} are allowed")
    return named


def _check_known(provider: str, config: Config) -> None:
    known = sorted(config.providers)
    if provider not in known:
        text = f"no provider {provider[:40]!r}; known are {', '.join(known)}"
        raise RequestError(Code.UNKNOWN_PROVIDER, text, known=known)
