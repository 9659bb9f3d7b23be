"""How an answer ended, or why there is none, as far as HTTP tells: in the words of `Ending`."""

from __future__ import annotations

import asyncio
import time
from typing import Final, Literal

import httpx
import msgspec

from ringcast.config import Config, Timeouts
from ringcast.errors import Code
from ringcast.providers.credentials import Credential
from ringcast.providers.http.reach import AddressRefused
from ringcast.providers.http.tcp import Shortage
from ringcast.providers.http.transport import CutError, TLSError
from ringcast.providers.traffic.retry_hints import retry_hints
from ringcast.providers.wire.body import Ending
from ringcast.providers.wire.printable import printable

LONGEST_TYPE: Final = 200  # characters; it is shown, and travels in one record


async def refusal(response: httpx.Response, credential: Credential, config: Config) -> Ending:
    """Return how an answer ended that is no 200, and close it.

    Of its body at most `limits.max_error_body_bytes` are read, of a compressed one none.
    """
    head = head_of(response)
    if response.has_redirect_location:
        await response.aclose()
        return changed(head, "failed", Code.UNEXPECTED_REDIRECT, _not_followed(response))
    plain = encoding_of(response) == "identity"
    limit = config.limits.max_error_body_bytes if plain else 0
    content = bytearray()
    try:
        async with asyncio.timeout(config.timeouts.first_byte_s or None):
            async for piece in response.aiter_raw():
                content += piece
                if len(content) >= limit:
                    break
    except (httpx.HTTPError, TimeoutError):
        pass  # what was read of the message is still the best there is
    finally:
        await response.aclose()
    hints = retry_hints(response.headers, time.time())
    return msgspec.structs.replace(
        head,
        kind="http",
        retry_after_s=hints.after_s,
        should_retry=hints.should_retry,
        # ValidationException:http://internal.amazon.com/coral/...
        fault=response.headers.get("x-amzn-errortype", "").partition(":")[0][:LONGEST_TYPE],
        body=credential.mask(bytes(content))[:limit],
    )


def head_of(response: httpx.Response) -> Ending:
    """Return the ending of a body that ends by itself, as far as its head tells."""
    kind = response.headers.get("content-type", "")[:LONGEST_TYPE]
    return Ending("eof", status=response.status_code, content_type=kind)


def compressed(encoding: str) -> str:
    """Say what is wrong with a body that is compressed."""
    return f"the answer is compressed ({encoding[:20]!r}), although identity was asked for"


def encoding_of(response: httpx.Response) -> str:
    """Return how a body is compressed: "identity" if it is not (RFC 9110, 8.4)."""
    said: str = response.headers.get("content-encoding", "").strip().lower()
    return said or "identity"


def _not_followed(response: httpx.Response) -> str:
    """Say where a redirect leads: the host only, for the rest may be anything."""
    try:
        url = response.request.url.join(response.headers["location"])
        target = url.host or f"{url.scheme}:"
    except (httpx.InvalidURL, ValueError):
        target = "an unreadable address"
    return f"HTTP {response.status_code} to {target[:LONGEST_TYPE]} is not followed"


def changed(
    head: Ending, kind: Literal["eof", "reset", "failed"], code: str, message: str
) -> Ending:
    """Return another way in which an answer with this head ended."""
    text = printable(message)
    return Ending(kind, code=code, message=text, status=head.status, content_type=head.content_type)


def connection_ending(error: httpx.HTTPError | httpx.InvalidURL, timeouts: Timeouts) -> Ending:
    """Say in one line why no answer came, with the clock's setting where one ran out."""
    text = str(error) or type(error).__name__
    match error:
        case TLSError():
            code = Code.TLS_ERROR
        case httpx.PoolTimeout():  # our limit, and no fault of the provider
            code, text = (
                Code.OVERLOADED_LOCAL,
                f"no connection within {timeouts.connect_s:g} s (timeouts.connect_s): {text}",
            )
        case httpx.ConnectTimeout():
            code, text = (
                Code.CONNECT_TIMEOUT,
                f"no connection within {timeouts.connect_s:g} s (timeouts.connect_s)",
            )
        case httpx.ReadTimeout():
            code, text = (
                Code.FIRST_BYTE_TIMEOUT,
                f"no answer within {timeouts.first_byte_s:g} s (timeouts.first_byte_s)",
            )
        case AddressRefused():
            code = Code.ADDRESS_REFUSED
        case Shortage():
            code = Code.OVERLOADED_LOCAL
        case httpx.ConnectError():
            code = Code.CONNECT_FAILED
        case httpx.LocalProtocolError() | httpx.UnsupportedProtocol() | httpx.InvalidURL():
            code = Code.BAD_REQUEST
        case CutError():
            code = Code.TRANSPORT
        case httpx.RemoteProtocolError():
            code = Code.BAD_RESPONSE
        case _:
            code = Code.TRANSPORT
    return Ending("failed", code=code, message=printable(text))
