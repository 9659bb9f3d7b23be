"""A failure: what went wrong with one sending, and what that means for the next one.

| code                                    | blame    | here       | elsewhere |
|-----------------------------------------|----------|------------|-----------|
| the provider's answers, the way to it   | provider | if passing | yes       |
| http_status 408, 424, 5xx               | provider | yes        | yes       |
| http_status, any other                  | ours     | 409        | yes       |
| rate_limited                            | limit    | F2         | yes       |
| auth, billing, model_not_found, context_length, unexpected_redirect | ours | no | yes |
| bad_request                             | ours     | no         | no        |
| tls_error, address_refused, circuit_open, overloaded_local, disabled | nobody | no | yes |
| cancelled, and all that is ringcast's or the client's | nobody | no | no   |

F1. "Here" is whether the same request may do better with the same provider soon. It is what the
    client is told as `retryable`, so also what `x-should-retry` says, for whatever status.
F2. A rate limit passes, but not soon if it is one of a day: the client may retry, we do not,
    whatever F1 says.
F3. What nobody is to blame for is not sent again here: it never was the provider's word.
F4. An error inside a stream has no status; its type and its code stand for one.
F5. A model's error (424) is worth one repetition: twice the same is the model's last word.
"""

from __future__ import annotations

import re
from typing import Final, Literal, TypeAlias

import msgspec

from ringcast.errors import Code, RequestError
from ringcast.providers.traffic.breaker import Outcome
from ringcast.providers.wire.body import Ending, last_error
from ringcast.shm.tokens import Error

Blame: TypeAlias = Literal["provider", "limit", "ours", "nobody"]


class Failure(msgspec.Struct, frozen=True):
    """Why one sending failed before a token was seen.

    `retryable` — the same provider may do better soon, `once` — but not a third time; `elsewhere` —
    another provider or model may. `after_s` is how long this one asks to be left alone, and
    `throttled` that it has too much to do; `status` is that of its answer, if it was no 200.
    """

    code: str
    message: str
    blame: Blame = "nobody"
    retryable: bool = False
    elsewhere: bool = False
    throttled: bool = False
    once: bool = False
    after_s: float | None = None
    status: int | None = None

    @property
    def named(self) -> str:
        """What is told of it while it is waited for: `http_status 503`."""
        return f"{self.code} {self.status}" if self.status else self.code

    @property
    def outcome(self) -> Outcome:
        """What a circuit breaker makes of it."""
        return "failure" if self.blame == "provider" else "neither"


_VERDICTS: Final[dict[str, tuple[Blame, bool]]] = {
    Code.RATE_LIMITED: ("limit", True),
    Code.BAD_REQUEST: ("ours", False),
    **dict.fromkeys(
        (
            Code.AUTH,
            Code.BILLING,
            Code.MODEL_NOT_FOUND,
            Code.CONTEXT_LENGTH,
            Code.UNEXPECTED_REDIRECT,
        ),
        ("ours", True),
    ),
    **dict.fromkeys(
        (
            Code.TLS_ERROR,
            Code.ADDRESS_REFUSED,
            Code.CIRCUIT_OPEN,
            Code.OVERLOADED_LOCAL,
            Code.UNKNOWN_PROVIDER,
            Code.PROVIDER_DISABLED,
        ),
        ("nobody", True),
    ),
    **dict.fromkeys(
        (
            Code.PROVIDER_ERROR,
            Code.OVERLOADED,
            Code.BAD_RESPONSE,
            Code.BAD_ENCODING,
            Code.NOT_EVENT_STREAM,
            Code.EMPTY_RESPONSE,
            Code.STREAM_INCOMPLETE,
            Code.BAD_EVENT,
            Code.SSE_LINE_TOO_LONG,
            Code.SSE_EVENT_TOO_LONG,
            Code.NDJSON_LINE_TOO_LONG,
            Code.AWS_PRELUDE_CRC,
            Code.AWS_MESSAGE_CRC,
            Code.AWS_TOO_LONG,
            Code.AWS_BAD_LENGTH,
            Code.AWS_HEADERS,
            Code.AWS_TRUNCATED,
            Code.CONNECT_FAILED,
            Code.CONNECT_TIMEOUT,
            Code.TRANSPORT,
            Code.FIRST_BYTE_TIMEOUT,
            Code.FIRST_TOKEN_TIMEOUT,
            Code.IDLE_TIMEOUT,
            Code.TOTAL_TIMEOUT,
        ),
        ("provider", True),
    ),
}
_NO_VERDICT: Final[tuple[Blame, bool]] = ("nobody", False)
_PROVIDERS_STATUS: Final = frozenset({408, 424, *range(500, 600)})
# What types and codes of errors inside a stream say, the first that fits.
_WORDS: Final = (
    (re.compile(r"insufficient_quota|billing|\b402\b"), Code.BILLING),
    (re.compile(r"rate.?limit|resource_exhausted|throttl|too_many|\b429\b"), Code.RATE_LIMITED),
    (re.compile(r"overloaded|unavailable|\b503\b|\b529\b"), Code.OVERLOADED),
    (re.compile(r"context_length"), Code.CONTEXT_LENGTH),
    (re.compile(r"authenti|permission|api_key|\b40[13]\b"), Code.AUTH),
    (re.compile(r"not_found|\b404\b"), Code.MODEL_NOT_FOUND),
    (re.compile(r"invalid_(?:request|argument)|bad_request|\b4(?:00|13|22)\b"), Code.BAD_REQUEST),
)
# Gemini's quotaId, OpenAI's and Groq's RPD and TPD, OpenRouter's free-models-per-day.
_daily = re.compile(rb"per[ _-]?day|\b[rt]pd\b|daily", re.IGNORECASE).search


def of_ending(ending: Ending) -> Failure | None:
    """Return what was wrong with a body; None for one that ended by itself: a worker knows."""
    if ending.kind == "eof":
        return None
    failure = of_error(last_error(ending))
    if failure.blame == "limit" and _daily(ending.body):
        return msgspec.structs.replace(failure, retryable=False)
    return failure


def of_error(error: Error) -> Failure:
    """Return what a stream's last token says of it."""
    meant = _meant(error)
    blame, elsewhere = _verdict(meant, error.status)
    daily = meant == Code.RATE_LIMITED and _daily(error.message.encode()) is not None
    return Failure(
        error.code,
        error.message,
        blame,
        retryable=error.retryable and blame != "nobody" and not daily,
        elsewhere=elsewhere,
        throttled=meant in (Code.RATE_LIMITED, Code.OVERLOADED),
        once=error.status == 424,
        after_s=error.retry_after_s,
        status=error.status,
    )


def of_refusal(refusal: RequestError) -> Failure:
    """Return what a request means that was not even sent, or the answer to a question."""
    after_s, status = refusal.detail.get("retry_after_s"), refusal.detail.get("status")
    return of_error(
        Error(
            refusal.code,
            refusal.message,
            retryable=refusal.detail.get("retryable") is True,
            status=status if isinstance(status, int) else None,
            retry_after_s=after_s if isinstance(after_s, float) else None,
        )
    )


def _meant(error: Error) -> str:
    if error.code != Code.PROVIDER_ERROR:
        return error.code
    words = f"{error.type} {error.provider_code}".lower()
    return next((code for found, code in _WORDS if found.search(words)), Code.PROVIDER_ERROR)


def _verdict(code: str, status: int | None) -> tuple[Blame, bool]:
    if code == Code.HTTP_STATUS:
        return "provider" if status in _PROVIDERS_STATUS else "ours", True
    return _VERDICTS.get(code, _NO_VERDICT)
