"""What a provider says when it fails: error objects of every shape, and HTTP error answers."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from ringcast.errors import Code
from ringcast.providers.wire.numbers import real, whole
from ringcast.providers.wire.payload import parsed
from ringcast.providers.wire.portable import portable
from ringcast.providers.wire.printable import printable
from ringcast.shm.tokens import Error

_EMPTY: Final = (204, 205, 304)
_MESSAGES: Final = ("message", "Message", "detail", "status_msg", "msg", "originalMessage")
_BY_STATUS: Final = {
    400: Code.BAD_REQUEST,
    401: Code.AUTH,
    402: Code.BILLING,
    403: Code.AUTH,
    404: Code.MODEL_NOT_FOUND,
    413: Code.BAD_REQUEST,
    422: Code.BAD_REQUEST,
    429: Code.RATE_LIMITED,
    503: Code.OVERLOADED,
    529: Code.OVERLOADED,
}
_RETRYABLE_STATUS: Final = frozenset({408, 409, 424, 429})
_CONTEXT: Final = (
    "context_length_exceeded",
    "context length",
    "context window",
    "prompt is too long",
    "prompt too long",
    "too_many_prompt_tokens",
    "total length of all messages is too long",
    "exceeds the available context",
    "exceed context limit",
    "input is too long",
    "input token count",
    "exceeds the maximum number of tokens",
    "maximum prompt length",
    "reduce the length of the messages",
)
_KEY: Final = ("invalid_api_key", "incorrect api key", "api_key_invalid", "api key not valid")
_MONEY: Final = ("insufficient_quota", "billing_hard_limit", "credit balance", "used all available")
# Some gateways write the number as a text.
_PASSING_CODES: Final[frozenset[str | int | float | None]] = frozenset(
    form for status in (408, 409, 429, 500, 502, 503, 504, 529) for form in (status, str(status))
)
_PASSING: Final = (
    "overloaded",
    "rate_limit",
    "server_error",
    "api_error",
    "timeout",
    "unavailable",
)


# What HTTP status AWS gives each exception, in an answer or in a stream.
# https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html#Errors
_AWS_STATUS: Final = {
    "validationException": 400,
    "accessDeniedException": 403,
    "resourceNotFoundException": 404,
    "modelTimeoutException": 408,
    "modelErrorException": 424,
    "modelStreamErrorException": 424,
    "modelNotReadyException": 429,
    "throttlingException": 429,
    "internalServerException": 500,
    "serviceUnavailableException": 503,
}
_RETRY_INFO: Final = "type.googleapis.com/google.rpc.RetryInfo"
_DURATION: Final = re.compile(r"([0-9]{1,5}(?:\.[0-9]{1,9})?)s")


class Fault(msgspec.Struct, frozen=True):
    """What an error object says, in the provider's own words; null where it says nothing."""

    message: str | None = None
    type: str | None = None
    code: str | int | float | None = None
    retry_after_s: float | None = None


def fault(payload: Any) -> Fault:
    """The fault in an error payload of any of the shapes seen in the field; never an exception.

    `{"error": {…}}` (OpenAI, Anthropic, Google, OpenRouter), `{"error": "…", "code": "…"}` (xAI,
    Ollama), `{"message": "…"}` (AWS, old vLLM), `{"msg": "…"}` (gateways), `{"detail": …}`
    (FastAPI), a list of one of them, `{"errors": […]}` (Cloudflare).
    """
    while isinstance(several := _errors(payload), list):  # Python 3.13 decodes any depth of lists
        payload = several[0] if several else None
    if not isinstance(payload, dict):
        return Fault(None if payload is None else _text(payload))
    error = payload.get("error")
    if isinstance(error, dict):
        return _from_object(error)
    if error is not None:
        return Fault(_text(error), _kind(payload.get("type")), _code(payload.get("code")))
    return _from_object(payload)


def provider_error(payload: Any) -> Error:
    """The token for an error inside a stream that had begun with status 200."""
    said = fault(payload)
    return Error(
        code=Code.PROVIDER_ERROR,
        message=printable(said.message or "the provider reported an error without a message"),
        retryable=_is_passing(said),
        type=said.type,
        provider_code=said.code,
        retry_after_s=said.retry_after_s,
    )


def aws_error(name: str, payload: Any) -> Error:
    """The token for an exception in an AWS event stream, or an error with its code for a name.

    `status` is the model's own (`originalStatusCode`), else the one that AWS gives the exception.
    """
    said = fault(payload)
    usual = _AWS_STATUS.get(name[:1].lower() + name[1:])
    code = Code.HTTP_STATUS if usual is None else _classified(usual, said)
    own = whole(payload.get("originalStatusCode")) if isinstance(payload, dict) else None
    return Error(
        code=Code.PROVIDER_ERROR if code == Code.HTTP_STATUS else code,
        message=printable(said.message or f"{name or 'an error'} without a message"),
        retryable=usual is not None and _status_is_retryable(usual),
        status=usual if own is None else own,
        type=_word(name),
    )


def http_error(
    status: int,
    body: bytes,
    *,
    content_type: str = "",
    retry_after_s: float | None = None,
    type: str = "",
) -> Error:
    """The token for an HTTP answer that is no stream; never an exception.

    `body` may be cut, empty, HTML, or JSON of any shape. 429 is `billing`, and not retryable,
    when the quota is used up for good. `retry_after_s` and `type` are what headers said; if none
    did, Google and most others may say it in the body.
    """
    said = fault(parsed(body))
    if said.type is None:
        said = msgspec.structs.replace(said, type=_word(type))
    code = _classified(status, said)
    return Error(
        code=code,
        message=printable(said.message or _without_message(status, content_type, body)),
        retryable=code not in (Code.BILLING, Code.AUTH) and _status_is_retryable(status),
        status=status,
        type=said.type,
        provider_code=said.code,
        retry_after_s=said.retry_after_s if retry_after_s is None else retry_after_s,
    )


def excerpt(body: bytes, limit: int = 200) -> str:
    """The first `limit` characters of a body, white space as one space, fit for a message."""
    return printable(b" ".join(body[: 4 * limit].split()).decode(errors="replace"), limit)


def _classified(status: int, said: Fault) -> Code:
    words = f"{said.message} {said.type} {said.code}".lower()
    if status in _EMPTY:
        return Code.EMPTY_RESPONSE
    if 300 <= status < 400:
        return Code.UNEXPECTED_REDIRECT
    if status in (403, 429) and any(word in words for word in _MONEY):
        return Code.BILLING
    if status in (400, 413, 422):
        if any(word in words for word in _CONTEXT):
            return Code.CONTEXT_LENGTH
        if any(word in words for word in _KEY):
            return Code.AUTH
        if any(word in words for word in _MONEY):
            return Code.BILLING
    return _BY_STATUS.get(status, Code.HTTP_STATUS)


def _status_is_retryable(status: int) -> bool:
    return status in _RETRYABLE_STATUS or 500 <= status < 600


def _is_passing(said: Fault) -> bool:
    if said.code in _PASSING_CODES:
        return True
    words = f"{said.type} {said.code}".lower()
    return any(word in words for word in _PASSING)


def _without_message(status: int, content_type: str, body: bytes) -> str:
    kind = f" ({content_type})" if content_type else ""
    return f"HTTP {status}{kind}: {excerpt(body)}" if body else f"HTTP {status}{kind}"


def _from_object(error: dict[Any, Any]) -> Fault:
    message = next((m for key in _MESSAGES if (m := error.get(key))), None)
    kind = _kind(error.get("type")) or _word(error.get("status")) or _word(error.get("__type"))
    code = error.get("code", error.get("status_code"))
    text = None if message is None else _text(message)
    return Fault(text, kind, _code(code), _retry_after_s(error.get("details")))


def _retry_after_s(details: Any) -> float | None:
    """From Google's `RetryInfo`, whose delay is "48.9s".

    https://github.com/googleapis/googleapis/blob/master/google/rpc/error_details.proto
    """
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict) and detail.get("@type") == _RETRY_INFO:
            delay = detail.get("retryDelay")
            found = _DURATION.fullmatch(delay) if isinstance(delay, str) else None
            return float(found[1]) if found else None
    return None


def _errors(payload: Any) -> Any:
    """The list of faults that `payload` is, or that it has and nothing else."""
    if isinstance(payload, dict) and payload.get("error") is None:
        return payload.get("errors") or None
    return payload


def _text(value: Any) -> str:
    value = portable(value)
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return "; ".join(str(item.get("msg", item)) for item in value)
    return msgspec.json.encode(value).decode()


def _word(value: Any) -> str | None:
    return printable(value, 100) if isinstance(value, str) and value else None


def _kind(value: Any) -> str | None:
    """The `type`, which in Responses' flat errors says no more than that it is an error."""
    return None if value == "error" else _word(value)


def _code(value: Any) -> str | int | float | None:
    if isinstance(value, str):
        return printable(value, 100)
    return value if type(value) is int and abs(value) < 2**63 else real(value)
