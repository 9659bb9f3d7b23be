"""Short questions to a provider: its models, a count of tokens, its health.

One request and one JSON answer each, read whole up to `limits.max_answer_bytes`, within
`timeouts.answer_s`. Models come in pages.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final, Literal

import httpx
import msgspec

from ringcast.config import Config
from ringcast.errors import Code, RequestError
from ringcast.providers import credentials
from ringcast.providers.count import TokenCount
from ringcast.providers.estimate import estimate
from ringcast.providers.gateway import Gateway
from ringcast.providers.request import Call, ChatRequest
from ringcast.providers.response_ending import compressed, connection_ending, encoding_of, refusal
from ringcast.providers.vendor import AnyRequest, Model
from ringcast.providers.wire.body import Ending, last_error

NO_SUCH_CALL: Final = (404, 405, 501)
MAX_MODELS: Final = 5000  # OpenRouter lists 400


class Traffic(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one provider process, `process` of `processes`, has to do with a provider.

    `requests` counts sendings, `failures` those that failed by its fault, `sent_again` repetitions.
    `first_token_ms` is a mean of late, `remaining_*` what it last said that its limits leave.
    `queued` wait for its limits, of which the configured ones hold for all processes together.
    """

    breaker: Literal["closed", "open", "half-open"]
    requests: int
    failures: int
    sent_again: int
    first_token_ms: float | None = None
    remaining_requests: int | None = None
    remaining_tokens: int | None = None
    process: int = 1
    processes: int = 1
    queued: int = 0
    requests_per_min: int = 0
    tokens_per_min: int = 0
    concurrency: int = 0


class Health(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whether a provider answers and takes our key; if not, why, as an error's code and text."""

    ok: bool
    latency_ms: float | None = None
    code: str | None = None
    message: str | None = None
    traffic: Traffic | None = None


async def models(client: httpx.AsyncClient, gateway: Gateway, config: Config) -> list[Model]:
    """Return what a provider lists, each id once. Raises `RequestError`."""
    found: dict[str, Model] = {}
    page, seen = "", {""}
    while (call := gateway.vendor.models(page)) is not None:
        body = await fetch(client, gateway, call, config)
        try:
            said = gateway.vendor.read_models(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise RequestError(Code.BAD_RESPONSE, f"models: {error}") from None
        for model in said.models:
            found.setdefault(model.id, model)
        page = said.next
        if not page or page in seen or len(found) >= MAX_MODELS:
            return list(found.values())[:MAX_MODELS]
        seen.add(page)
    raise RequestError(Code.BAD_REQUEST, f"{gateway.config.kind} does not list its models")


def can_count(gateway: Gateway, model: str) -> bool:
    """Return whether there is a call that counts a chat's tokens; the server may lack it."""
    short = ChatRequest(model=model, messages=[{"role": "user", "content": "hi"}])
    return gateway.count(model, short) is not None


async def count(
    client: httpx.AsyncClient, gateway: Gateway, config: Config, model: str, request: AnyRequest
) -> TokenCount:
    """Return a request's tokens, by the provider where it counts. Raises `RequestError`."""
    call = gateway.count(model, request)
    if call is None:
        return TokenCount(estimate(request), "estimate")
    try:
        body = await fetch(client, gateway, call, config)
    except RequestError as error:
        if gateway.vendor.may_not_count and error.detail.get("status") in NO_SUCH_CALL:
            return TokenCount(estimate(request), "estimate")
        raise
    try:
        return TokenCount(gateway.vendor.read_count(body), "provider")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(Code.BAD_RESPONSE, f"count: {error}") from None


async def health(client: httpx.AsyncClient, gateway: Gateway, config: Config) -> Health:
    """Return whether a provider answers; never an exception of ours."""
    call = gateway.vendor.health()
    if call is None:
        return Health(True)
    began = time.monotonic()
    try:
        await fetch(client, gateway, call, config)
    except RequestError as error:
        if error.detail.get("status") not in gateway.vendor.alive:
            return Health(False, _since_ms(began), error.code, error.message)
    return Health(True, _since_ms(began))


async def fetch(client: httpx.AsyncClient, gateway: Gateway, call: Call, config: Config) -> bytes:
    """Return the body of a 200. Raises `RequestError` saying why there is none.

    Its `detail` has `status` and `retry_after_s` where the provider gave an answer.
    """
    limit_s = config.timeouts.answer_s
    try:
        async with asyncio.timeout(limit_s or None):
            return await _fetch(client, gateway, call, config)
    except TimeoutError:
        text = f"no whole answer within {limit_s:g} s (timeouts.answer_s)"
        raise RequestError(Code.TOTAL_TIMEOUT, text) from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        ending = connection_ending(error, config.timeouts)
        raise RequestError(ending.code, ending.message) from None


async def _fetch(client: httpx.AsyncClient, gateway: Gateway, call: Call, config: Config) -> bytes:
    request = gateway.request(client, call)
    request.headers["accept"] = "application/json"
    response = await credentials.send(client, request, gateway.credential)
    if response.status_code != 200:
        raise _refused(await refusal(response, gateway.credential, config))
    limit = config.limits.max_answer_bytes
    content = bytearray()
    try:
        if (encoding := encoding_of(response)) != "identity":
            raise RequestError(Code.BAD_ENCODING, compressed(encoding))
        async for piece in response.aiter_raw():
            content += piece
            if len(content) > limit:
                text = f"the answer is larger than {limit} bytes (limits.max_answer_bytes)"
                raise RequestError(Code.BAD_RESPONSE, text, limit=limit)
    finally:
        await response.aclose()
    return bytes(content)


def _refused(ending: Ending) -> RequestError:
    error = last_error(ending)
    detail = {"status": error.status, "retry_after_s": error.retry_after_s}
    return RequestError(error.code, error.message, retryable=error.retryable, **detail)


def _since_ms(began: float) -> float:
    return round((time.monotonic() - began) * 1e3, 1)
