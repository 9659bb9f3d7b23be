"""A response's body as a stream: its bytes, or one typed reason why there are none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator

import httpx
import pytest
from fakes.daemon import CANARY_KEY, free_port, in_loop
from fakes.frames import chunk as aws_chunk
from fakes.raw import CHUNKED, Script, answer, answering, chunk, events

from ringcast.config import Config, Limits, Timeouts
from ringcast.errors import Code
from ringcast.providers import http_stream
from ringcast.providers.credentials import Configured
from ringcast.providers.http.clocks import Clocks
from ringcast.providers.http.transport import open_client
from ringcast.providers.http_stream import BodyError, HttpStreamHandler

PORT = free_port()
URL = f"http://127.0.0.1:{PORT}/v1"
PATIENT = Config(timeouts=Timeouts(idle_s=0.2))
STREAM = {"content-type": "text/event-stream"}
AWS = {"content-type": "application/vnd.amazon.eventstream"}
AWS_PING = aws_chunk({"type": "ping"})
EVENT, PING = b'data: {"choices":[]}\n\n', b'event: ping\ndata: {"type": "ping"}\n\n'


class Pieces(httpx.AsyncByteStream):
    """A body in pieces, then an error, then nothing for ever."""

    def __init__(
        self,
        *pieces: bytes,
        error: Exception | None = None,
        hang: bool = False,
        apart_s: float = 0.0,
    ) -> None:
        self.closed = False
        self._apart_s = apart_s
        self._pieces = pieces
        self._error = error
        self._hang = hang

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            await asyncio.sleep(self._apart_s)
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


@pytest.mark.parametrize(
    ("headers", "piece"),
    [
        (STREAM, b": alive\n\n"),
        (STREAM, PING),
        (STREAM, b"data"),
        (AWS, aws_chunk({"type": "ping"})),
    ],
)
@in_loop
async def test_keep_alives_and_pieces_of_an_event_do_not_wind_the_idle_clock(
    headers: dict[str, str], piece: bytes
) -> None:
    config = Config(timeouts=Timeouts(idle_s=0.3))
    body = Pieces(*[piece] * 60, apart_s=0.05)
    handler = HttpStreamHandler(httpx.Response(200, headers=headers, stream=body), config)
    with pytest.raises(BodyError, match="no event, only keep-alives") as seen:
        async for _ in handler.into_stream():
            pass
    assert seen.value.code == Code.IDLE_TIMEOUT
    assert body.closed


class Spy(Clocks):
    """Clocks that note what they are told."""

    def __init__(self, timeouts: Timeouts, now: float) -> None:
        super().__init__(timeouts, now)
        self.told: list[bool | str] = []

    def came(self, now: float, event: bool) -> None:
        self.told.append(event)
        super().came(now, event)

    def token_seen(self) -> None:
        self.told.append("token")


@pytest.mark.parametrize(
    ("headers", "pieces", "told"),
    [
        (STREAM, [PING, EVENT[:9], EVENT[9:], PING + EVENT], [False, False, True, True]),
        (AWS, [AWS_PING, aws_chunk({"type": "x"}), AWS_PING[:30]], [False, True, False]),
        ({"content-type": "application/x-ndjson; a=b"}, [b"{", b"}\n"], [False, True]),
        ({}, [b"any", b"byte"], [True, True]),
    ],
)
@in_loop
async def test_whole_events_get_on_and_of_an_unknown_form_any_byte(
    headers: dict[str, str], pieces: list[bytes], told: list[bool | str]
) -> None:
    clocks = Spy(Timeouts(), time.monotonic())
    response = httpx.Response(200, headers=headers, stream=Pieces(*pieces))
    stream = HttpStreamHandler(response, clocks=clocks).into_stream()
    assert [piece async for piece in stream] == pieces
    assert clocks.told == told


@in_loop
async def test_without_a_sender_who_knows_better_the_first_event_is_the_first_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Spy] = []

    def spy(timeouts: Timeouts, now: float) -> Spy:
        made.append(Spy(timeouts, now))
        return made[-1]

    monkeypatch.setattr(http_stream, "Clocks", spy)
    body = Pieces(PING, EVENT)
    assert await read(httpx.Response(200, headers=STREAM, stream=body)) == (PING + EVENT, "")
    assert made[0].told == [False, True, "token"]


@in_loop
async def test_a_body_takes_no_longer_than_the_total() -> None:
    config = Config(timeouts=Timeouts(total_s=0.3))
    body = Pieces(*[EVENT] * 60, apart_s=0.05)
    response = httpx.Response(200, headers=STREAM, stream=body)
    assert (await read(response, config))[1] == Code.TOTAL_TIMEOUT
    assert body.closed


@in_loop
async def test_what_is_no_token_for_its_sender_does_not_stop_the_first_token_clock() -> None:
    clocks = Clocks(Timeouts(first_token_s=0.3), time.monotonic())
    body = Pieces(*[EVENT] * 60, apart_s=0.05)
    response = httpx.Response(200, headers=STREAM, stream=body)
    with pytest.raises(BodyError) as late:
        async for _ in HttpStreamHandler(response, clocks=clocks).into_stream():
            pass
    assert late.value.code == Code.FIRST_TOKEN_TIMEOUT


@in_loop
async def test_a_line_that_is_too_long_is_the_decoders_to_tell() -> None:
    config = Config(limits=Limits(max_line_bytes=10))
    response = httpx.Response(200, headers=STREAM, stream=Pieces(EVENT[:-2], EVENT))
    assert await read(response, config) == (EVENT[:-2] + EVENT, "")


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
