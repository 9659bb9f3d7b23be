"""How a provider fails before it has said anything, and what each failure is called in the end."""

from __future__ import annotations

import random
from typing import Final

import msgspec

from ringcast.errors import Code

ATTEMPTS: Final = 3  # sendings by one provider process


class Failure(msgspec.Struct, frozen=True):
    """What is sent in an answer's place, and the codes of the errors that it may mean.

    A refusal has a status and headers. The others are bodies in which no token is; `broken` ones
    end with a reset. After one that is `for_good` the same provider is not asked again.
    """

    codes: tuple[str, ...]
    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = {}
    broken: bool = False
    for_good: bool = False


_PING = b": ping%b\n\n"
_ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
_ERROR = {
    "chat": b'data: {"error":{"message":"it broke","type":"server_error","code":500}}\n\n',
    "responses": b'data: {"type":"error","sequence_number":0,"code":"server_error",'
    b'"message":"it broke"}\n\n',
}
_REFUSED = b'{"error":{"message":"not now","type":"server_error"}}'
_NEVER = b'data: {"type":"error","error":{"message":"never","type":"invalid_request_error"}}\n\n'
_FOR_GOOD = (
    Failure((Code.AUTH,), b'{"error":{"message":"no such key"}}', 401, for_good=True),
    Failure((Code.PROVIDER_ERROR,), _NEVER, for_good=True),
    Failure((Code.PROVIDER_ERROR,), _PING % b"" + _NEVER, for_good=True),
)


def _passing(api: str, draw: random.Random) -> Failure:
    silence = b"".join(
        draw.choice((_PING % b"", _PING % (b"." * 700), _ROLE if api == "chat" else _PING % b"!"))
        for _ in range(draw.choice((1, 1, 2, 5)))
    )
    hint = draw.choice(({}, *({"retry-after": after_s} for after_s in ("0", "0.05", "0.2"))))
    return draw.choice(
        (
            Failure((Code.HTTP_STATUS,), _REFUSED, 500),
            Failure((Code.OVERLOADED,), _REFUSED, 503, hint),
            Failure((Code.RATE_LIMITED,), _REFUSED, 429, hint),
            Failure((Code.PROVIDER_ERROR,), _ERROR[api]),
            Failure((Code.PROVIDER_ERROR,), silence + _ERROR[api] + silence),
            Failure((Code.TRANSPORT,), silence, broken=True),
            Failure((Code.TRANSPORT,), broken=True),
            Failure((Code.EMPTY_RESPONSE,)),
            Failure((Code.EMPTY_RESPONSE, Code.STREAM_INCOMPLETE), silence),
        )
    )


def drawn(api: str, draw: random.Random) -> list[Failure]:
    """How the first sendings of one request fail: mostly not at all."""
    failures = [_passing(api, draw) for _ in range(draw.choice((0, 0, 0, 0, 1, 1, 2, 2, 3, 4)))]
    if draw.random() < 0.1:
        failures.append(draw.choice(_FOR_GOOD))
    return failures
