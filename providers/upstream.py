"""One request to a provider: sent with httpx, its body pushed into a flow. Owns a socket.

States: connecting (a task awaits the response head), streaming (the body is pushed, no task
and no coroutine per chunk), ended. Cancel works in each: the task is cancelled, or the
body's socket is closed; either way the upstream sees its connection go at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final, Literal

import httpx
import msgspec

from ringcast.config import Config, Timeouts
from ringcast.errors import Code, RequestError
from ringcast.providers import credentials
from ringcast.providers.credentials import Credential
from ringcast.providers.flow import Flow
from ringcast.providers.http.body import READ_BYTES
from ringcast.providers.http.clocks import Clocks
from ringcast.providers.http.reach import AddressRefused
from ringcast.providers.http.tcp import Shortage
from ringcast.providers.http.transport import BODY, Body, CutError, TLSError
from ringcast.providers.traffic.retry_hints import retry_hints
from ringcast.providers.wire.body import Ending
from ringcast.providers.wire.printable import printable
from ringcast.providers.wire.sse import WireError

# Reads shrink to the credit that is left, but not below this: a read has a cost of its own.
LEAST_READ: Final = 2048
_ALL: Final = 1 << 62
LONGEST_TYPE: Final = 200  # characters; it is shown, and travels in one record
CANCELLED: Final = Ending("cancelled", code=Code.CANCELLED, message="cancelled by the client")


class Upstream:
    """A running request.

    `on_head` is told an answer's status and headers. `on_end` is called once, with how it ended,
    when nothing is left to do for it: the flow's END is its owner's to write, or another sending.
    """

    def __init__(
        self,
        flow: Flow,
        client: httpx.AsyncClient,
        request: httpx.Request,
        config: Config,
        credential: Credential,
        on_end: Callable[[Upstream, Ending], None],
        on_head: Callable[[int, httpx.Headers], None] = lambda status, headers: None,
    ) -> None:
        """Start sending `request` as who `credential` proves."""
        self.flow = flow
        self._client = client
        self._config = config
        self._credential = credential
        self._on_end = on_end
        self._on_head = on_head
        self._body: Body | None = None
        self._paused = False
        self._read_limit = READ_BYTES
        self._head = Ending("eof")
        self._drained = -1
        self._over = False
        self._clocks = Clocks(config.timeouts, time.monotonic())
        self._task = asyncio.get_running_loop().create_task(self._send(request))

    async def _send(self, request: httpx.Request) -> None:
        try:
            await self._exchange(request)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            self._end(connection_ending(error, self._config.timeouts))
        except RequestError as error:
            self._fail(error.code, error.message)
        except Exception as error:  # whatever it is, the stream must not wait for ever
            self._abort()
            text = f"the request could not be carried out: {type(error).__name__}"
            self._fail(Code.INTERNAL, text)
            raise

    async def _exchange(self, request: httpx.Request) -> None:
        response = await credentials.send(self._client, request, self._credential)
        self._head = head_of(response)
        self._on_head(response.status_code, response.headers)
        body: Body = response.extensions[BODY]
        if response.status_code != 200:
            self._end(await refusal(response, self._credential, self._config))
        elif (encoding := encoding_of(response)) != "identity":
            body.abort()
            self._fail(Code.BAD_ENCODING, compressed(encoding))
        else:
            self._body = body
            self._clocks.answered(time.monotonic())
            body.start(self._on_data, self._on_body_end)

    def _on_data(self, chunk: bytes) -> None:
        if self._drained >= 0:
            self._drain(len(chunk))
            return
        now_ns = time.monotonic_ns()
        try:
            event = self.flow.data(chunk, now_ns)
        except WireError as error:
            self._abort()
            self._fail(error.code, str(error))
            return
        self._clocks.came(now_ns / 1e9, event)
        self.adapt()

    def adapt(self) -> None:
        """Read on or hold, and let no read take more than the credit that is left."""
        body, flow = self._body, self.flow
        if body is None:
            return
        if flow.held != self._paused:
            self._paused = flow.held
            if self._paused:
                self._clocks.pause(time.monotonic())
                body.pause()
            else:
                self._clocks.resume(time.monotonic())
                body.resume()
        left = flow.limit - flow.sent
        if left < READ_BYTES or self._read_limit < READ_BYTES:
            self._read_limit = min(max(left, LEAST_READ), READ_BYTES)
            body.limit_reads(self._read_limit)

    def _on_body_end(self, error: Exception | None) -> None:
        self._body = None
        if error is None:
            self._end(self._head)
        elif isinstance(error, CutError):  # maybe all was said before
            self._end(_changed(self._head, "eof", Code.STREAM_INCOMPLETE, str(error)))
        elif isinstance(error, httpx.RemoteProtocolError):
            self._fail(Code.BAD_RESPONSE, str(error))
        else:
            self._end(_changed(self._head, "reset", Code.TRANSPORT, str(error)))

    def cancel(self) -> None:
        """Close the upstream connection now, in whatever state, and say so."""
        self._abort()
        self._end(CANCELLED)

    def drop(self) -> None:
        """Close the upstream connection now; nobody is told how it ended."""
        self._over = True
        self._abort()

    def fail(self, code: str, message: str) -> None:
        """Close the upstream connection, and end behind all that came: it needs no credit now."""
        self._abort()
        self.flow.grant(_ALL)
        self._fail(code, message)

    def finish(self) -> None:
        """The stream has had its terminal token: drain a little, so the connection is reused."""
        if self._body is None:
            self.cancel()
            return
        self._drained = 0
        self._body.resume()
        asyncio.get_running_loop().call_later(self._config.limits.drain_s, self._drain_over)

    def _drain(self, size: int) -> None:
        self._drained += size
        if self._drained > self._config.limits.drain_bytes:
            self._drain_over()

    def _drain_over(self) -> None:
        if not self._over:
            self.cancel()

    def token_seen(self) -> None:
        """Somebody has seen a token of the answer."""
        self._clocks.token_seen()

    def overdue(self, now: float) -> bool:
        """End the stream if one of its clocks has run out; return whether it has.

        To be called every `clocks.TICK_S`: what lies further apart counts as a standstill.
        """
        run_out = self._clocks.run_out(now)
        if run_out is None:
            return False
        self._abort()
        self._fail(run_out.code, run_out.message)
        return True

    def _abort(self) -> None:
        self._task.cancel()
        if self._body is not None:
            self._body.abort()
            self._body = None

    def _fail(self, code: str, message: str) -> None:
        self._end(_changed(self._head, "failed", code, message))

    def _end(self, ending: Ending) -> None:
        if not self._over:
            self._over = True
            # Behind the terminal token nothing is wanted: no rest may wait for credit.
            self._on_end(self, ending if self._drained < 0 else CANCELLED)


async def refusal(response: httpx.Response, credential: Credential, config: Config) -> Ending:
    """Return how an answer ended that is no 200, and close it.

    Of its body at most `limits.max_error_body_bytes` are read, of a compressed one none.
    """
    head = head_of(response)
    if response.has_redirect_location:
        await response.aclose()
        return _changed(head, "failed", Code.UNEXPECTED_REDIRECT, _not_followed(response))
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


def _changed(
    head: Ending, kind: Literal["eof", "reset", "failed"], code: str, message: str
) -> Ending:
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
