"""The body of an httpx response, and a typed account of why there is none or no more of it.

async with client.stream("POST", url, json=request) as response:
    stream = HttpStreamHandler(response)
    async for chunk in stream.into_stream():
        ...
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

import httpx

from ringcast.config import Config
from ringcast.errors import Code, RingcastError
from ringcast.providers.credentials import Anonymous, Credential
from ringcast.providers.http.clocks import Clocks
from ringcast.providers.lookout import Lookout, RanOut
from ringcast.providers.response_ending import (
    compressed,
    connection_ending,
    encoding_of,
    head_of,
    refusal,
)
from ringcast.providers.wire.body import Ending
from ringcast.providers.wire.framing import Framer, framer
from ringcast.providers.wire.liveness import keeps_alive
from ringcast.providers.wire.sse import WireError

# An API of each form that streams have, by the type that their heads give.
_FORMS: Final = {
    "text/event-stream": "chat",
    "application/vnd.amazon.eventstream": "converse",
    "application/x-ndjson": "native",
}


class BodyError(RingcastError):
    """A body broke off, or is none: `ending` says how, in the words that decoders take.

    `code` is an `errors.Code`; of an answer that is no 200 it is `http_status`, and only the
    decoder knows better.
    """

    def __init__(self, ending: Ending) -> None:
        self.ending = ending
        self.code = ending.code or Code.HTTP_STATUS
        self.message = ending.message or f"the provider answered with HTTP {ending.status}"
        super().__init__(f"{self.code}: {self.message}")


class HttpStreamHandler:
    """One response of `httpx.AsyncClient.stream`, or of `send(..., stream=True)`.

    It must not be compressed, since a decompressor holds tokens back: ask with the header
    `accept-encoding: identity`.
    """

    def __init__(
        self,
        response: httpx.Response,
        config: Config | None = None,
        credential: Credential | None = None,
        clocks: Clocks | None = None,
    ) -> None:
        """`config` has limits and clocks; of `credential` nothing is shown in an error's text.

        Without `clocks` the request begins now, and its first event is taken for a token. Who sent
        it gives its own, and tells them when a token was seen.
        """
        self._response = response
        self._config = config or Config()
        self._credential = credential or Anonymous()
        self._clocks = clocks or Clocks(self._config.timeouts, time.monotonic())
        self._token_is_event = clocks is None
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        self._framer = _framer(kind, self._config)

    @property
    def head(self) -> Ending:
        """How the body ends if it ends by itself: a decoder names its status and type in errors."""
        return head_of(self._response)

    async def into_stream(self) -> AsyncGenerator[bytes, None]:
        """Yield the body as it comes, cut anywhere, and close the response. Once only.

        Raises `BodyError` for any other status than 200, a compressed body, a connection that
        breaks, and when a clock of `timeouts` runs out (`http.clocks`): keep-alives wind none, and
        none runs while a chunk is used.
        """
        await self._refuse()
        response = self._response
        self._clocks.answered(time.monotonic())
        try:
            chunks = response.aiter_raw()
            while (chunk := await self._next(chunks)) is not None:
                yield chunk
        finally:
            await response.aclose()

    async def _refuse(self) -> None:
        """Raise `BodyError` if the head says that no stream follows."""
        response = self._response
        if response.status_code != 200:
            raise BodyError(await refusal(response, self._credential, self._config))
        if (encoding := encoding_of(response)) != "identity":
            await response.aclose()
            raise BodyError(Ending("failed", Code.BAD_ENCODING, compressed(encoding)))

    async def _next(self, chunks: AsyncIterator[bytes]) -> bytes | None:
        try:
            async with Lookout(self._clocks):
                chunk = await anext(chunks, None)
                if chunk is not None:
                    self._came(chunk)
                return chunk
        except RanOut as error:
            ending = Ending("failed", error.code, error.message)
        except httpx.ReadTimeout:  # of a client that is not ours, and has its own clock
            text = "nothing came for as long as the client waits (its read timeout)"
            ending = Ending("failed", Code.IDLE_TIMEOUT, text)
        except httpx.HTTPError as error:
            ending = connection_ending(error, self._config.timeouts)
        raise BodyError(ending)

    def _came(self, chunk: bytes) -> None:
        event = self._completes_event(chunk)
        self._clocks.came(time.monotonic(), event)
        if event and self._token_is_event:
            self._clocks.token_seen()

    def _completes_event(self, chunk: bytes) -> bool:
        """Whether an event is whole now that is no keep-alive; of unknown forms any byte is one."""
        if self._framer is None:
            return True
        try:
            block = self._framer.feed(chunk)
        except WireError:  # the decoder's to tell
            self._framer = None
            return True
        return bool(block) and not keeps_alive(block)


def _framer(content_type: str, config: Config) -> Framer | None:
    if (api := _FORMS.get(content_type)) is None:
        return None
    limits = config.limits
    return framer(api, max_line_bytes=limits.max_line_bytes, max_event_bytes=limits.max_event_bytes)
