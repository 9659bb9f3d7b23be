"""What a request to a provider's API asks for, and how that provider says no."""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import unquote

import msgspec


class Asked(msgspec.Struct, frozen=True):
    """An API, the model asked for (knobs included) and whether the answer shall be a stream.

    `background`: the answer shall be made whether or not anybody listens; `after`: of an answer
    that is kept, only what follows that event.
    """

    api: str
    model: str
    stream: bool
    background: bool = False
    after: int = -1


class _Body(msgspec.Struct):
    model: str = ""
    stream: bool | None = None
    background: bool | None = None


class Endpoint(msgspec.Struct, frozen=True):
    """The end of a path, the API behind it, what it says of streaming (None: the body does)."""

    suffix: str
    api: str
    streams: bool | None = None

    def asked(self, path: str, body: bytes) -> Asked:
        """What a POST of `body` asks for. Raises msgspec.DecodeError and UnicodeDecodeError.

        Gemini and Bedrock have the model in the path; Ollama streams unless told not to.
        """
        said = msgspec.json.decode(body, type=_Body)
        streams = self.api == "native" if said.stream is None else said.stream
        if self.streams is not None:
            streams = self.streams
        model = said.model or _model_in(path.removesuffix(self.suffix))
        return Asked(self.api, model, streams, bool(said.background))


def _model_in(path: str) -> str:
    return unquote(re.split("/models?/", path)[-1])


_ENDPOINTS: Final = (
    Endpoint("/chat/completions", "chat"),
    Endpoint("/completions", "completions"),
    Endpoint("/responses", "responses"),
    Endpoint("/interactions", "interactions"),
    Endpoint("/messages", "messages"),
    Endpoint("/complete", "complete"),
    Endpoint("/api/chat", "native"),
    Endpoint("/api/generate", "native"),
    Endpoint(":streamGenerateContent", "generate", streams=True),
    Endpoint(":generateContent", "generate", streams=False),
    Endpoint(":streamRawPredict", "messages", streams=True),
    Endpoint(":rawPredict", "messages", streams=False),
    Endpoint("/converse-stream", "converse", streams=True),
    Endpoint("/converse", "converse", streams=False),
    Endpoint("/invoke-with-response-stream", "invoke", streams=True),
    Endpoint("/invoke", "invoke", streams=False),
    Endpoint("/count_tokens", "count", streams=False),
    Endpoint("/count-tokens", "count", streams=False),
    Endpoint(":countTokens", "count", streams=False),
)


def endpoint(path: str) -> Endpoint | None:
    """Whose endpoint a path (without its query) is; None for a path of no provider."""
    return next((e for e in _ENDPOINTS if path.endswith(e.suffix)), None)


_ANTHROPIC_TYPE: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_OPENAI_CODE: Final = {
    401: "invalid_api_key",
    404: "model_not_found",
    429: "rate_limit_exceeded",
}
_GOOGLE_STATUS: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def refusal(api: str | None, status: int, message: str) -> bytes:
    """The body of an error in the shape of the API's provider, as JSON.

    OpenAI: platform.openai.com/docs/guides/error-codes; Google: google.aip.dev/193; AWS: a bare
    message; Ollama: a bare error; Anthropic: docs.anthropic.com/en/api/errors. Strangers get
    OpenAI's.
    """
    return msgspec.json.encode(_refusal(api, status, message))


def _refusal(api: str | None, status: int, message: str) -> dict[str, Any]:
    if api in ("messages", "complete"):
        kind = _ANTHROPIC_TYPE.get(status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": message}, "request_id": None}
    if api == "generate":
        kind = _GOOGLE_STATUS.get(status, "UNKNOWN")
        return {"error": {"code": status, "message": message, "status": kind}}
    if api in ("converse", "invoke"):
        return {"message": message}
    if api == "native":
        return {"error": message}
    kind = "server_error" if status >= 500 else "invalid_request_error"
    code = _OPENAI_CODE.get(status)
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
