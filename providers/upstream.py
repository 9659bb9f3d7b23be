"""One request to a provider: sent with httpx, its body pushed into a flow. Owns a socket.

States: connecting (a task awaits the response head), streaming (the body is pushed, no task
and no coroutine per chunk), ended. Cancel works in each: the task is cancelled, or the
body's socket is closed; either way the upstream sees its connection go at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

import httpx

from ringcast import fault
from ringcast.config import Config
from ringcast.errors import Code, RequestError
from ringcast.providers import credentials
from ringcast.providers.credentials import Credential
from ringcast.providers.flow import Flow
from ringcast.providers.http.body import READ_BYTES
from ringcast.providers.http.clocks import Clocks
from ringcast.providers.http.transport import BODY, Body, CutError
from ringcast.providers.response_ending import (
    changed,
    compressed,
    connection_ending,
    encoding_of,
    head_of,
    refusal,
)
from ringcast.providers.wire.body import Ending
from ringcast.providers.wire.sse import WireError

# Reads shrink to the credit that is left, but not below this: a read has a cost of its own.
LEAST_READ: Final = 2048
_ALL: Final = 1 << 62
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
            self._broke(error)

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
            self._clocks.came(now_ns / 1e9, event)
            self.adapt()
        except WireError as error:
            self._abort()
            self._fail(error.code, str(error))
        except Exception as error:  # the transport would call it a connection that broke
            self._broke(error)

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
            self._end(changed(self._head, "eof", Code.STREAM_INCOMPLETE, str(error)))
        elif isinstance(error, httpx.RemoteProtocolError):
            self._fail(Code.BAD_RESPONSE, str(error))
        else:
            self._end(changed(self._head, "reset", Code.TRANSPORT, str(error)))

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

    def _broke(self, error: Exception) -> None:
        """End by a fault of ours, of which nobody is told more than type and place."""
        fault.report(error)
        self._abort()
        self._fail(Code.INTERNAL, f"the request could not be carried out: {fault.named(error)}")

    def _abort(self) -> None:
        self._task.cancel()
        if self._body is not None:
            self._body.abort()
            self._body = None

    def _fail(self, code: str, message: str) -> None:
        self._end(changed(self._head, "failed", code, message))

    def _end(self, ending: Ending) -> None:
        if not self._over:
            self._over = True
            # Behind the terminal token nothing is wanted: no rest may wait for credit.
            self._on_end(self, ending if self._drained < 0 else CANCELLED)
