"""The body of an httpx response, and a typed account of why there is none or no more of it.

async with client.stream("POST", url, json=request) as response:
    stream = HttpStreamHandler(response)
    async for chunk in stream.into_stream():
        ...
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

import httpx

from ringcast.config import Config
from ringcast.errors import Code, RingcastError
from ringcast.providers.credentials import Anonymous, Credential
from ringcast.providers.upstream import (
    compressed,
    connection_ending,
    encoding_of,
    head_of,
    refusal,
)
from ringcast.providers.wire.body import Ending


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
    ) -> None:
        """`config` has limits and clocks; of `credential` nothing is shown in an error's text."""
        self._response = response
        self._config = config or Config()
        self._credential = credential or Anonymous()

    @property
    def head(self) -> Ending:
        """How the body ends if it ends by itself: a decoder names its status and type in errors."""
        return head_of(self._response)

    async def into_stream(self) -> AsyncGenerator[bytes, None]:
        """Yield the body as it comes, cut anywhere, and close the response. Once only.

        Raises `BodyError` for any other status than 200, a compressed body, a connection that
        breaks, and after `timeouts.idle_s` seconds without a byte.
        """
        await self._refuse()
        response = self._response
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
        clocks = self._config.timeouts
        try:
            async with asyncio.timeout(clocks.idle_s or None):
                return await anext(chunks, None)
        except TimeoutError:
            text = f"nothing came for {clocks.idle_s:g} s (timeouts.idle_s)"
        except httpx.ReadTimeout:  # of a client that is not ours, and has its own clock
            text = "nothing came for as long as the client waits (its read timeout)"
        except httpx.HTTPError as error:
            raise BodyError(connection_ending(error, clocks)) from error
        raise BodyError(Ending("failed", Code.IDLE_TIMEOUT, text))
