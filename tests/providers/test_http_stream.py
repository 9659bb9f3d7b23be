"""A response's body as a stream: its bytes, or one typed reason why there are none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

import httpx
import pytest
from fakes.daemon import CANARY_KEY, free_port, in_loop
from fakes.raw import CHUNKED, Script, answer, answering, chunk, events

from ringcast.config import Config, Timeouts
from ringcast.errors import Code
from ringcast.providers.credentials import Configured
from ringcast.providers.http.transport import open_client
from ringcast.providers.http_stream import BodyError, HttpStreamHandler

PORT = free_port()
URL = f"http://127.0.0.1:{PORT}/v1"
PATIENT = Config(timeouts=Timeouts(idle_s=0.2))


class Pieces(httpx.AsyncByteStream):
    """A body in pieces, then an error, then nothing for ever."""

    def __init__(self, *pieces: bytes, error: Exception | None = None, hang: bool = False) -> None:
        self.closed = False
        self._pieces = pieces
        self._error = error
        self._hang = hang

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece
        if self._error:
            raise self._error
        if self._hang:
            await asyncio.Event().wait()

    async def aclose(self) -> None:
        self.closed = True


async def read(response: httpx.Response, config: Config | None = None) -> tuple[bytes, Code | str]:
    """What comes, and the code of what ended it."""
    got = b""
    try:
        async for piece in HttpStreamHandler(response, config).into_stream():
            got += piece
    except BodyError as error:
        return got, error.code
    return got, ""


@in_loop
async def test_the_body_as_it_comes() -> None:
    body = Pieces(b"da", b"ta: 1\n\n")
    response = httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=body)
    handler = HttpStreamHandler(response)
    assert [piece async for piece in handler.into_stream()] == [b"da", b"ta: 1\n\n"]
    assert (handler.head.kind, handler.head.content_type) == ("eof", "text/event-stream")
    assert body.closed


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (httpx.ReadError("gone"), Code.TRANSPORT),
        (httpx.RemoteProtocolError("no chunk"), Code.BAD_RESPONSE),
        (httpx.ReadTimeout(""), Code.IDLE_TIMEOUT),
    ],
)
@in_loop
async def test_a_body_that_breaks_off(error: Exception, code: Code) -> None:
    body = Pieces(b"a", error=error)
    assert await read(httpx.Response(200, stream=body)) == (b"a", code)
    assert body.closed


@in_loop
async def test_a_body_that_stands_still() -> None:
    body = Pieces(b"a", hang=True)
    assert await read(httpx.Response(200, stream=body), PATIENT) == (b"a", Code.IDLE_TIMEOUT)
    assert body.closed


@in_loop
async def test_a_reader_may_take_longer_than_the_provider() -> None:
    stream = HttpStreamHandler(httpx.Response(200, stream=Pieces(b"a", b"b")), PATIENT)
    pieces = []
    async for piece in stream.into_stream():
        pieces.append(piece)
        await asyncio.sleep(0.3)  # longer than `idle_s`, which is the provider's
    assert pieces == [b"a", b"b"]


@in_loop
async def test_who_stops_reading_closes_the_response() -> None:
    body = Pieces(b"a", b"b", hang=True)
    stream: AsyncGenerator[bytes, None] = HttpStreamHandler(
        httpx.Response(200, stream=body)
    ).into_stream()
    assert await anext(stream) == b"a"
    await stream.aclose()
    assert body.closed


@in_loop
async def test_a_compressed_body() -> None:
    body = Pieces(b"x")
    response = httpx.Response(200, headers={"content-encoding": "gzip"}, stream=body)
    assert await read(response) == (b"", Code.BAD_ENCODING)
    assert body.closed


@in_loop
async def test_a_refusal_keeps_the_providers_words_but_no_key() -> None:
    said = b'{"error": {"message": "%b is no key"}}' % CANARY_KEY.encode()
    response = httpx.Response(401, headers={"retry-after": "2"}, stream=Pieces(said))
    handler = HttpStreamHandler(response, credential=Configured([f"Bearer {CANARY_KEY}"]))
    with pytest.raises(BodyError, match="http_status: the provider answered with HTTP 401") as seen:
        await anext(handler.into_stream())
    ending = seen.value.ending
    assert (ending.kind, ending.status, ending.retry_after_s) == ("http", 401, 2.0)
    assert ending.body == b'{"error": {"message": "[masked] is no key"}}'


async def answered(script: Script, ours: bool) -> tuple[bytes, Code | str]:
    """What comes of a script, by our transport or httpx's own."""
    client = open_client(Config()) if ours else httpx.AsyncClient(trust_env=False)
    async with answering(PORT, lambda _: script), client, client.stream("POST", URL, json={}) as up:
        return await read(up)


@pytest.mark.parametrize("ours", [True, False])
@in_loop
async def test_over_a_socket(ours: bool) -> None:
    script = Script(CHUNKED + chunk(b"data: 1\n\n") + chunk(b"data: 2\n\n") + b"0\r\n\r\n")
    assert await answered(script, ours) == (b"data: 1\n\ndata: 2\n\n", "")


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize(
    ("script", "code"),
    [
        (Script(events(b"data: 1\n\n"), "rst"), Code.TRANSPORT),
        (Script(CHUNKED + b"zz\r\n"), Code.BAD_RESPONSE),
        (Script(answer("500 X", b"oh", "content-type: text/plain")), Code.HTTP_STATUS),
        (Script(answer("302 Found", b"", "location: http://x/")), Code.UNEXPECTED_REDIRECT),
    ],
)
@in_loop
async def test_faults_over_a_socket(script: Script, code: Code, ours: bool) -> None:
    assert (await answered(script, ours))[1] == code
