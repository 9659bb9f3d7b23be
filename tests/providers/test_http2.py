"""HTTP/2: many exchanges on one connection, and what a server may do to them.

Against a server of h2 over real TLS, on both loops. Rules of `providers.http.http2`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
import shutil
import ssl
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from fakes.certificate import make_certificate, server_context
from fakes.daemon import ONCE, Daemon, ask, daemon, free_port, in_loop, take, texts
from fakes.http2 import Call, Http2Server, client_to
from fakes.scripted import LIMIT_S, READ_BYTES, Run, eventually
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from hypothesis import given, settings
from hypothesis import strategies as st

from ringcast import config_rules
from ringcast.config import Config, Limits, Provider, Timeouts
from ringcast.config_file import parse
from ringcast.errors import Code, ConfigError
from ringcast.providers import request as request_shapes
from ringcast.providers.credentials import Anonymous
from ringcast.providers.gateway import open_gateway
from ringcast.providers.http import http2
from ringcast.providers.http import offer as offers
from ringcast.providers.http.carrier import Origin, Unprocessed
from ringcast.providers.http.http1 import CutError
from ringcast.providers.http.http2 import (
    STREAM_WINDOW,
    Data,
    End,
    Happening,
    Head,
    Session,
    fields,
)
from ringcast.providers.http.multiplex import MAX_UNREAD_BYTES, Multiplex
from ringcast.providers.http.offer import HTTP2, offer_of
from ringcast.providers.http.pool import Pool
from ringcast.providers.http.reach import AddressRefused
from ringcast.providers.http.transport import BODY, Body
from ringcast.providers.response_ending import connection_ending, refusal
from ringcast.shm.tokens import Done, Error

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="needs the openssl command to make a certificate"
)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"))


def frame(kind: int, payload: bytes, flags: int = 0, stream: int = 0) -> bytes:
    """RFC 9113 §4.1."""
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + payload


def goaway(last: int, code: ErrorCodes = ErrorCodes.NO_ERROR) -> bytes:
    return frame(7, struct.pack(">II", last, code))


async def hello(call: Call) -> None:
    await call.answer()


async def echo(call: Call) -> None:
    await call.answer(call.path.encode())


class Reader:
    """Reads a body by push; `taken` bytes so far."""

    def __init__(self, response: httpx.Response) -> None:
        self.body: Body = response.extensions[BODY]
        self.taken = 0
        self.ends: list[Exception | None] = []
        self.done = asyncio.Event()

    def start(self) -> None:
        self.body.start(self.on_data, self.on_end)

    def on_data(self, data: bytes) -> None:
        self.taken += len(data)

    def on_end(self, error: Exception | None) -> None:
        self.ends.append(error)
        self.done.set()

    async def ended(self) -> Exception | None:
        await asyncio.wait_for(self.done.wait(), LIMIT_S)
        (error,) = self.ends
        return error


async def streamed(client: httpx.AsyncClient, url: str) -> httpx.Response:
    return await client.send(client.build_request("POST", url, content=b"q"), stream=True)


# one connection for many


def test_fifty_requests_at_once_share_one_connection(run: Run, certificate: Path) -> None:
    """Rule 5 of the host: who finds a connection being made waits for it."""

    async def main() -> None:
        together = asyncio.Barrier(50)

        async def script(call: Call) -> None:
            await together.wait()
            await echo(call)

        async with (
            Http2Server(script, certificate) as server,
            client_to(server.port, certificate) as (client, transport),
        ):
            urls = [f"{server.url}{i}" for i in range(50)]
            answers = await asyncio.gather(*map(client.get, urls))
            assert [one.content for one in answers] == [b"/%d" % i for i in range(50)]
            assert {one.http_version for one in answers} == {"HTTP/2"}
            assert (len(server.peers), transport.gauges) == (1, (1, 1, 0))

    run(main())


def test_no_more_streams_are_opened_than_the_server_allows(run: Run, certificate: Path) -> None:
    """The others get connections, as many as there are places, and then wait."""

    async def main() -> None:
        gate, most = asyncio.Event(), 0

        async def script(call: Call) -> None:
            nonlocal most
            most = max(most, call.peer.h2.open_inbound_streams)
            await gate.wait()
            await hello(call)

        limits = Limits(max_connections_per_host=2)
        async with (
            Http2Server(script, certificate, streams=5) as server,
            client_to(server.port, certificate, limits) as (client, transport),
        ):
            all_ = [asyncio.create_task(client.get(server.url)) for _ in range(16)]
            await eventually(lambda: transport.gauges == (2, 0, 6))
            gate.set()
            assert {(await one).content for one in all_} == {b"hello"}
            assert (len(server.peers), most) == (2, 5)
            assert transport.gauges == (2, 2, 0)

    run(main())


def test_a_request_travels_whole(run: Run, certificate: Path) -> None:
    """A body over every window, and no header that HTTP/2 does not know."""

    async def main() -> None:
        content = bytes(range(256)) * 4000
        headers = {"X-Api-Key": " canary", "Connection": "close", "Transfer-Encoding": "chunked"}
        async with (
            Http2Server(hello, certificate) as server,
            client_to(server.port, certificate) as (client, _),
        ):
            await client.post(f"{server.url}v1?a=b", content=content, headers=headers)
        (call,) = server.calls
        assert call.content == content
        assert call.headers[b":authority"] == b"localhost:%d" % server.port
        assert (call.headers[b":method"], call.path) == (b"POST", "/v1?a=b")
        assert call.headers[b"x-api-key"] == b"canary"
        assert call.headers[b"content-length"] == b"%d" % len(content)
        assert not {b"connection", b"transfer-encoding", b"host"} & call.headers.keys()

    run(main())


def test_an_answer_before_the_end_of_its_request_is_enough(run: Run, certificate: Path) -> None:
    async def main() -> None:
        async def script(call: Call) -> None:
            await call.head(413, end=True)
            await call.left.wait()

        async with (
            Http2Server(script, certificate, early=True, reading=False) as server,
            client_to(server.port, certificate) as (client, transport),
        ):
            answer = await client.post(server.url, content=b"x" * 1_000_000)
            assert answer.status_code == 413
            assert transport.gauges == (1, 1, 0)
            await eventually(lambda: server.calls[0].reset == ErrorCodes.NO_ERROR)

    run(main())


def test_a_server_that_takes_nothing_meets_the_first_byte_clock(
    run: Run, certificate: Path
) -> None:
    async def main() -> None:
        async def script(call: Call) -> None:
            await call.left.wait()

        async with (
            Http2Server(script, certificate, reading=False) as server,
            client_to(server.port, certificate) as (client, transport),
        ):
            clocks = httpx.Timeout(LIMIT_S, read=0.1)
            with pytest.raises(httpx.ReadTimeout, match="no complete response head"):
                await client.post(server.url, content=b"x" * 1_000_000, timeout=clocks)
            await eventually(lambda: server.calls[0].reset == ErrorCodes.CANCEL)
            assert transport.gauges == (1, 1, 0)

    run(main())


def test_a_server_that_chooses_http_1_1_is_spoken_to_so(run: Run, certificate: Path) -> None:
    """And each request makes its own connection, none waits for another's."""

    async def main() -> None:
        gate = asyncio.Event()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            await gate.wait()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
            await reader.read()
            writer.transport.abort()

        context = server_context(certificate, ["http/1.1"])
        server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        async with client_to(port, certificate) as (client, transport):
            url = f"https://localhost:{port}/"
            all_ = [asyncio.create_task(client.get(url)) for _ in range(5)]
            await eventually(lambda: transport.gauges == (5, 0, 0))
            gate.set()
            assert {(await one).http_version for one in all_} == {"HTTP/1.1"}
            assert transport.gauges == (5, 5, 0)
        server.close()

    run(main())


def test_private_addresses_stay_refused(run: Run, certificate: Path) -> None:
    async def main() -> None:
        async with client_to(443, certificate) as (client, _):
            with pytest.raises(AddressRefused):
                await client.get("https://169.254.169.254/")

    run(main())


# windows


def test_a_slow_reader_bounds_what_is_held_and_starves_nobody(run: Run, certificate: Path) -> None:
    """Rule 1: of 2 MiB one window comes, while another stream gets all of its own."""

    async def main() -> None:
        sent = 0

        async def script(call: Call) -> None:
            nonlocal sent
            await call.head()
            for _ in range(32):
                await call.data(b"x" * 65_536)
                sent += 65_536 if call.path == "/slow" else 0
            await call.data(b"x", end=True)

        async with (
            Http2Server(script, certificate) as server,
            client_to(server.port, certificate) as (client, _),
        ):
            slow = Reader(await streamed(client, f"{server.url}slow"))
            quick = Reader(await streamed(client, f"{server.url}quick"))
            quick.start()
            assert await quick.ended() is None
            assert quick.taken == 32 * 65_536 + 1
            assert sent <= STREAM_WINDOW
            slow.start()
            slow.body.pause()
            taken = slow.taken
            assert taken <= STREAM_WINDOW
            assert (await client.get(f"{server.url}again")).status_code == 200
            assert (slow.taken, slow.ends) == (taken, [])
            slow.body.resume()
            assert await slow.ended() is None
            assert slow.taken == quick.taken

    run(main())


def test_push_honours_pause_and_limit(run: Run, certificate: Path) -> None:
    async def main() -> None:
        async def script(call: Call) -> None:
            await call.answer(b"x" * 500_000)

        async with (
            Http2Server(script, certificate) as server,
            client_to(server.port, certificate) as (client, _),
        ):
            reader = Reader(await streamed(client, server.url))
            sizes: list[int] = []
            loop, paused = asyncio.get_running_loop(), False

            def on_data(data: bytes) -> None:
                nonlocal paused
                assert not paused
                sizes.append(len(data))
                paused = True
                reader.body.pause()
                reader.body.limit_reads(7000)
                loop.call_later(0.001, resume)

            def resume() -> None:
                nonlocal paused
                paused = False
                reader.body.resume()

            reader.body.start(on_data, reader.on_end)
            assert await reader.ended() is None
            assert sum(sizes) == 500_000
            assert max(sizes[1:]) <= 7000

    run(main())


# ends


def test_a_cancel_resets_its_stream_only(run: Run, certificate: Path) -> None:
    """Before the head, in the body, twice: the connection stays."""

    async def main() -> None:
        async def script(call: Call) -> None:
            if call.path == "/body":
                await call.head()
                await call.data(b"hello")
            await call.left.wait()

        async with (
            Http2Server(script, certificate) as server,
            client_to(server.port, certificate) as (client, transport),
        ):
            waiting = asyncio.create_task(client.get(f"{server.url}head"))
            body = Reader(await streamed(client, f"{server.url}body"))
            body.start()
            await eventually(lambda: body.taken == 5)
            waiting.cancel()
            await asyncio.sleep(0)
            waiting.cancel()
            body.body.abort()
            body.body.abort()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await eventually(lambda: [one.reset for one in server.calls] == [ErrorCodes.CANCEL] * 2)
            assert (body.ends, transport.gauges) == ([], (1, 1, 0))
            assert len(server.peers) == 1

    run(main())


def test_a_reset_ends_its_stream_and_no_other(run: Run, certificate: Path) -> None:
    """P11: what came is kept, and the error is one that maps to `transport`."""

    async def main() -> None:
        gate = asyncio.Event()

        async def script(call: Call) -> None:
            await call.head()
            await call.data(b"hello")
            await gate.wait()
            if call.path == "/reset":
                await call.refuse(ErrorCodes.INTERNAL_ERROR)
            else:
                await call.data(b" world", end=True)

        async with (
            Http2Server(script, certificate) as server,
            client_to(server.port, certificate) as (client, _),
        ):
            reset = Reader(await streamed(client, f"{server.url}reset"))
            other = Reader(await streamed(client, server.url))
            reset.start()
            other.start()
            gate.set()
            error = await reset.ended()
            assert isinstance(error, httpx.ReadError)
            assert str(error) == "the server reset the stream (INTERNAL_ERROR)"
            assert connection_ending(error, Timeouts()).code == Code.TRANSPORT
            assert (await other.ended(), other.taken, reset.taken) == (None, 11, 5)

    run(main())


def test_a_refused_stream_is_sent_again_once(run: Run, certificate: Path) -> None:
    """By the same connection, if there is no place for another."""

    async def main() -> None:
        refused = 0

        async def script(call: Call) -> None:
            nonlocal refused
            if call.path == "/held":
                await call.head()
                await call.left.wait()
            elif call.path == "/twice" or not refused:
                refused += 1
                await call.refuse(ErrorCodes.REFUSED_STREAM)
            else:
                await hello(call)

        limits = Limits(max_connections_per_host=1)
        async with (
            Http2Server(script, certificate) as server,
            client_to(server.port, certificate, limits) as (client, _),
        ):
            held = await streamed(client, f"{server.url}held")
            for _ in range(2):
                assert (await client.post(server.url, content=b"q")).content == b"hello"
            assert (refused, len(server.calls)) == (1, 4)
            with pytest.raises(httpx.ReadError, match="refused the request") as twice:
                await client.post(f"{server.url}twice", content=b"q")
            assert connection_ending(twice.value, Timeouts()).code == Code.TRANSPORT
            assert (refused, len(server.calls), len(server.peers)) == (3, 6, 1)
            await held.aclose()

    run(main())


def test_after_a_goaway_what_was_begun_goes_on_and_the_rest_moves(
    run: Run, certificate: Path
) -> None:
    """Rule 2."""

    async def main() -> None:
        gate = asyncio.Event()

        async def script(call: Call) -> None:
            if call.peer.number:
                await hello(call)
            elif call.stream == 1:
                await call.head()
                await gate.wait()
                await call.data(b"begun", end=True)

        async with (
            Http2Server(script, certificate) as server,
            client_to(server.port, certificate) as (client, transport),
        ):
            begun = await streamed(client, server.url)
            moved = [asyncio.create_task(client.post(server.url, content=b"q")) for _ in range(20)]
            await eventually(lambda: len(server.calls) == 21)
            await server.peers[0].write(goaway(2**31 - 1) + goaway(1))
            assert {(await one).content for one in moved} == {b"hello"}
            assert len(server.peers) == 2
            gate.set()
            assert await begun.aread() == b"begun"
            await eventually(lambda: transport.gauges == (1, 1, 0))

    run(main())


def test_a_kept_connection_that_is_dead_costs_no_request(run: Run, certificate: Path) -> None:
    """P08: closed by the server while idle, noticed only by the next request."""

    async def main() -> None:
        async def script(call: Call) -> None:
            if len(server.calls) == 2:
                call.peer.cut()
            else:
                await hello(call)

        async with (
            Http2Server(script, certificate) as server,
            client_to(server.port, certificate) as (client, _),
        ):
            for _ in range(2):
                assert (await client.post(server.url, content=b"q")).content == b"hello"
            assert (len(server.peers), len(server.calls)) == (2, 3)

    run(main())


def test_a_cut_connection_ends_all_its_streams_after_what_came(run: Run, certificate: Path) -> None:
    async def main() -> None:
        async def script(call: Call) -> None:
            await call.head()
            await call.data(b"hello")

        async with (
            Http2Server(script, certificate) as server,
            client_to(server.port, certificate) as (client, transport),
        ):
            readers = [Reader(await streamed(client, server.url)) for _ in range(5)]
            for reader in readers:
                reader.start()
            readers[0].body.pause()
            await eventually(lambda: all(reader.taken == 5 for reader in readers[1:]))
            server.peers[0].cut()
            for reader in readers[1:]:
                assert isinstance(await reader.ended(), CutError | httpx.ReadError)
            assert readers[0].ends == []
            readers[0].body.resume()
            assert isinstance(await readers[0].ended(), CutError | httpx.ReadError)
            assert readers[0].taken == 5
            await eventually(lambda: transport.gauges == (0, 0, 0))

    run(main())


def test_200_refusals_with_unread_bodies_then_one_success(run: Run, certificate: Path) -> None:
    async def main() -> None:
        async def script(call: Call) -> None:
            if len(server.calls) > 200:
                await hello(call)
            else:
                await call.head(429)
                await call.data(b"x" * 70_000, end=True)

        config = Config(limits=Limits(max_connections_per_host=1, max_error_body_bytes=100))
        async with (
            Http2Server(script, certificate, streams=10) as server,
            client_to(server.port, certificate, config.limits) as (client, transport),
        ):

            async def one() -> None:
                ending = await refusal(await streamed(client, server.url), Anonymous(), config)
                assert (ending.status, ending.body) == (429, b"x" * 100)

            for _ in range(10):
                await asyncio.gather(*(one() for _ in range(20)))
            assert (await client.post(server.url, content=b"q")).content == b"hello"
            assert transport.gauges == (1, 1, 0)
            assert len(server.peers) == 1

    run(main())


def test_an_idle_connection_is_closed_in_time_and_after_a_sleep(
    run: Run, certificate: Path
) -> None:
    async def main() -> None:
        asleep = 0.0

        def boot() -> float:
            return time.monotonic() + asleep

        async with Http2Server(hello, certificate) as server:
            async with client_to(server.port, certificate, boot=boot) as (client, transport):
                for _ in range(3):
                    await client.get(server.url)
                assert len(server.peers) == 1
                asleep += 3600
                await client.get(server.url)
                assert len(server.peers) == 2
            async with client_to(server.port, certificate, keepalive_s=0.05) as (client, transport):
                await client.get(server.url)
                await eventually(lambda: transport.gauges == (0, 0, 0))

    run(main())


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_whatever_happens_every_request_ends_and_nothing_is_left(
    run: Run, certificate: Path, seed: int
) -> None:
    """Refused, reset, cut, told to go away, cancelled at any time; two places with five streams."""

    async def main() -> None:
        draw = random.Random(seed)

        async def script(call: Call) -> None:
            await asyncio.sleep(draw.random() * 0.01)
            match draw.randrange(12):
                case 0:
                    await call.refuse(ErrorCodes.REFUSED_STREAM)
                case 1:
                    await call.head()
                    await call.refuse(ErrorCodes.INTERNAL_ERROR)
                case 2:
                    await call.peer.write(goaway(call.stream))
                    await hello(call)
                case 3:
                    call.peer.cut()
                case _:
                    await call.answer(bytes(draw.randrange(1, 100_000)))

        async with (
            Http2Server(script, certificate, streams=5) as server,
            client_to(server.port, certificate, Limits(max_connections_per_host=2)) as (client, t),
        ):

            async def one() -> bool:
                request = client.post(server.url, content=b"q" * draw.randrange(200_000))
                try:
                    async with asyncio.timeout(draw.choice([None, None, draw.random() * 0.1])):
                        return len((await request).content) > 0
                except (httpx.HTTPError, TimeoutError):
                    return False

            ended = await asyncio.gather(*(one() for _ in range(80)))
            assert any(ended)
            await eventually(lambda: t.gauges.waiting == 0 and t.gauges.open == t.gauges.idle)
            for carrier in t._pool._open:
                assert isinstance(carrier, Multiplex)
                assert not carrier._session._untaken
                assert not carrier._session._unsent

    run(main())


# hostile servers


SETTINGS = frame(4, b"")
HOSTILE = {
    "garbage": (b"\xff" * 100, "a frame of 16777215 bytes"),
    "http-1.1": (b"HTTP/1.1 400 Bad Request\r\n\r\n", "a frame of"),
    "long-frame": (frame(0, b"", stream=1)[:1] + b"\x50\0" + bytes(6), "a frame of 20480 bytes"),
    "settings-flood": (SETTINGS * 1001, "1000 frames in a row"),
    "ping-flood": (frame(6, bytes(8)) * 1001, "1000 frames in a row"),
    "empty-data-flood": (frame(0, b"", stream=1) * 1001, "1000 frames in a row"),
    "header-bomb": (
        frame(1, b"\x88\x40\x01a\x7f\xa1\x1e" + b"b" * 4000 + b"\xbe" * 100, 4, 1),
        "limits.max_header_bytes",
    ),
    "continuation-flood": (frame(1, b"", 0, 1) + frame(9, b"\x88", 0, 1) * 65, "continuation"),
    "bad-hpack": (frame(1, b"\xff\xff\xff\xff\xff\xff\xff", 4, 1), "bad HTTP/2"),
    "window-overflow": (frame(8, struct.pack(">I", 2**31 - 1)) * 2, "flow control window"),
    "empty-increment": (frame(8, bytes(4)), "bad HTTP/2"),
    "push": (frame(5, struct.pack(">I", 2) + b"\x88", 4, 1), "pushed"),
    "stream-0-data": (frame(0, b"x"), "bad HTTP/2"),
    "unknown-stream": (frame(0, b"x", stream=99), "bad HTTP/2"),
    "more-than-its-window": (frame(0, bytes(16_384), stream=1) * 5, "[Ff]low control"),
    "bad-padding": (frame(0, b"\xffx", 8, 1), "bad HTTP/2"),
    "short-goaway": (frame(7, b"1234"), "bad HTTP/2"),
    "bad-settings": (frame(4, struct.pack(">HI", 4, 2**32 - 1)), "bad HTTP/2"),
}


def test_a_hostile_server_is_an_error_of_that_connection_only(run: Run, certificate: Path) -> None:
    """Rules 4 and 5; the next request is served by another connection."""

    async def main() -> None:
        async def script(call: Call) -> None:
            name = call.path[1:]
            if not name:
                await hello(call)
                return
            if name in ("empty-data-flood", "more-than-its-window", "bad-padding"):
                await call.head()
            await call.peer.write(HOSTILE[name][0])

        async with (
            Http2Server(script, certificate) as server,
            client_to(server.port, certificate) as (client, transport),
        ):
            for name, (_, text) in HOSTILE.items():
                with pytest.raises(httpx.RemoteProtocolError, match=text) as bad:
                    await client.post(f"{server.url}{name}", content=b"q")
                assert connection_ending(bad.value, Timeouts()).code == Code.BAD_RESPONSE
                await eventually(lambda: transport.gauges.open == 0)
            assert (await client.get(server.url)).content == b"hello"

    run(main())


@pytest.mark.parametrize(
    ("status", "headers", "text"),
    [(200, [("a", "b")] * 201, "over limits.max_headers"), (20, [], "bad status")],
)
def test_a_bad_head_ends_its_stream_only(
    run: Run, certificate: Path, status: int, headers: list[tuple[str, str]], text: str
) -> None:
    async def main() -> None:
        async def script(call: Call) -> None:
            if call.path == "/":
                await hello(call)
            else:
                await call.head(status, *headers)

        async with (
            Http2Server(script, certificate) as server,
            client_to(server.port, certificate) as (client, transport),
        ):
            with pytest.raises(httpx.RemoteProtocolError, match=text):
                await client.get(f"{server.url}bad")
            assert (await client.get(server.url)).content == b"hello"
            assert (len(server.peers), transport.gauges) == (1, (1, 1, 0))

    run(main())


def test_what_was_good_before_the_bad_is_given(run: Run, certificate: Path) -> None:
    """In one read; and the stream of another connection goes on."""

    async def main() -> None:
        gate = asyncio.Event()

        async def script(call: Call) -> None:
            await call.head()
            if call.path == "/hostile":
                await gate.wait()
                await call.peer.write(frame(0, b"good", stream=call.stream) + b"\xff" * 9)
            else:
                await gate.wait()
                await call.data(b"other", end=True)

        async with (
            Http2Server(script, certificate, streams=1) as server,
            client_to(server.port, certificate) as (client, transport),
        ):
            other = Reader(await streamed(client, server.url))
            hostile = Reader(await streamed(client, f"{server.url}hostile"))
            assert transport.gauges == (2, 0, 0)
            hostile.start()
            other.start()
            gate.set()
            assert isinstance(await hostile.ended(), httpx.RemoteProtocolError)
            assert (await other.ended(), hostile.taken, other.taken) == (None, 4, 5)

    run(main())


# without a socket


def transcript() -> bytes:
    """What a server sends: SETTINGS, a hint, a head, padded and plain DATA, PING, trailers."""
    server = H2Connection(H2Configuration(client_side=False))
    client, _ = begun()
    server.initiate_connection()
    server.receive_data(client.output())
    server.send_headers(1, [(":status", "103"), ("link", "x")])
    server.send_headers(1, [(":status", "200"), ("content-type", "text/event-stream")])
    server.send_data(1, b"one ", pad_length=9)
    server.ping(b"12345678")
    server.send_data(1, b"two ")
    server.send_headers(1, [("x-trailer", "y")], end_stream=True)
    return server.data_to_send()


def begun() -> tuple[Session, int]:
    session = Session(Limits())
    return session, session.open(httpx.Request("GET", "https://h/"), b"")


def happenings(session: Session, reads: list[bytes]) -> list[Happening]:
    return [one for read in reads for one in session.feed(memoryview(read))]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


TRANSCRIPT = transcript()


@settings(deadline=None)
@given(places=st.lists(st.integers(0, 1000), max_size=30))
def test_any_cut_gives_the_same_answer(places: list[int]) -> None:
    session, stream = begun()
    assert happenings(session, cut(TRANSCRIPT, places)) == [
        Head(stream, 200, [(b"content-type", b"text/event-stream")]),
        Data(stream, b"one "),
        Data(stream, b"two "),
        End(stream, None),
    ]


@settings(deadline=None, max_examples=150)
@given(
    changes=st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 255)), max_size=5),
    rest=st.binary(max_size=60),
)
def test_whatever_is_sent_one_kind_of_error_is_raised(
    changes: list[tuple[int, int]], rest: bytes
) -> None:
    octets = bytearray(TRANSCRIPT)
    for place, value in changes:
        octets[place % len(octets)] = value
    session, _ = begun()
    with contextlib.suppress(httpx.RemoteProtocolError):
        happenings(session, [bytes(octets) + rest])
        happenings(session, [frame(0, b"more", stream=1)])


def test_a_connection_is_left_after_its_most_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 6."""
    monkeypatch.setattr(http2, "MOST_REQUESTS", 2)
    session, _ = begun()
    happenings(session, [SETTINGS])
    assert not session.draining
    session.open(httpx.Request("GET", "https://h/"), b"")
    assert session.draining
    with pytest.raises(Unprocessed):
        session.open(httpx.Request("GET", "https://h/"), b"")


def test_keys_are_marked_as_never_to_be_indexed_and_reach_no_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """RFC 7541 §7.1.3; hpack tells a debug log what it encodes."""
    caplog.set_level(logging.DEBUG)
    headers = {"Authorization": "Bearer canary", "x-api-key": "canary", "accept": "*/*"}
    request = httpx.Request("GET", "https://h/", headers=headers)
    found = {bytes(one[0]): one.indexable for one in fields(request, 0)}
    assert (found[b"authorization"], found[b"x-api-key"], found[b"accept"]) == (False, False, True)
    Session(Limits()).open(request, b"")
    assert "canary" not in caplog.text


class Deaf(asyncio.Transport):
    """A socket whose peer reads nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.unsent = 0
        self.closing = False

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        self.unsent += len(data)

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def set_read_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        self.closing = True


def test_a_server_that_asks_and_does_not_read_is_left() -> None:
    """Each PING wants an answer; DATA in between makes it no flood."""

    async def main() -> None:
        buffer, wire = memoryview(bytearray(READ_BYTES)), Deaf()
        pool = Pool(ssl.create_default_context(), Limits(), 0)
        multiplex = Multiplex(Origin("https", "h", 443), buffer, Limits(), pool)
        multiplex.connection_made(wire)
        multiplex.take()
        request = httpx.Request("GET", "https://h/")
        task = asyncio.create_task(multiplex.exchange(request, b"", None))
        await asyncio.sleep(0)

        def receive(octets: bytes) -> None:
            buffer[: len(octets)] = octets
            multiplex.buffer_updated(len(octets))

        receive(SETTINGS + frame(1, b"\x88", 4, 1))
        reader = (await task).body
        ends: list[Exception | None] = []
        reader.start(lambda _: None, ends.append)
        spare = wire.unsent = MAX_UNREAD_BYTES - 100_000
        while not wire.closing:
            receive(frame(6, bytes(8)) * 900 + frame(0, b"x", stream=1))
            assert spare < wire.unsent < MAX_UNREAD_BYTES + 900 * 17
            spare = wire.unsent
        assert spare > MAX_UNREAD_BYTES
        (error,) = ends
        assert "does not read" in str(error)

    asyncio.run(main())


# from a configuration


def offering(**more: Any) -> Config:
    base: dict[str, Any] = {
        "kind": "openai-compatible",
        "base_url": "https://one.example/v1",
        "http2": True,
    }
    return Config(providers={"p": Provider(**(base | more))})


def test_http_2_is_offered_where_a_request_may_go_by_it_and_there_is_tls() -> None:
    assert offer_of(offering(http2=False)) is None
    offer = offer_of(offering())
    assert offer is not None
    for scheme, asked in itertools.product(("https", "http"), (True, False)):
        origin = Origin.of(httpx.URL(f"{scheme}://one.example"), http2=asked)
        assert offer.to(origin) is (scheme == "https" and asked)


@pytest.mark.parametrize("asked", [True, False])
def test_a_providers_requests_say_whether_they_may(asked: bool) -> None:
    """Wherever they go: some kinds find their host by the model."""
    config = Provider("openai-compatible", base_url="https://one.example", http2=asked)
    gateway = open_gateway("p", config, {})
    request = gateway.request(httpx.AsyncClient(), request_shapes.Call("/chat"))
    assert request.extensions[HTTP2] is asked


def test_without_its_library_it_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    toml = '[providers.p]\nkind = "openai"\nhttp2 = true'
    assert parse(toml).providers["p"].http2
    monkeypatch.setattr(config_rules, "find_spec", lambda _: None)
    monkeypatch.setattr(offers, "find_spec", lambda _: None)
    text = r"needs h2: pip install 'ringcast\[http2\]'"
    with pytest.raises(ConfigError, match=rf"providers\.p\.http2: {text}"):
        parse(toml)
    with pytest.raises(ConfigError, match=text):
        offer_of(offering())


def test_who_does_not_ask_for_it_does_not_import_it() -> None:
    code = "import sys, ringcast.providers.process; sys.exit('h2' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", code], timeout=60).returncode == 0


CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n'
DONE = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


def test_many_streams_of_a_daemon_travel_by_one_connection(certificate: Path) -> None:
    """And one that the server resets is `transport`, the others are whole."""
    port = free_port()
    toml = f"""
{ONCE}
[providers.two]
kind = "openai-compatible"
base_url = "https://localhost:{port}/v1"
http2 = true
"""

    async def script(call: Call) -> None:
        await call.head(200, ("content-type", "text/event-stream"))
        for word in (b"one ", b"two "):
            await call.data(CHUNK % word)
        if b"reset" in call.content:
            await asyncio.sleep(0.1)  # what it has been sent is on its way
            await call.refuse(ErrorCodes.INTERNAL_ERROR)
        else:
            await call.data(DONE, end=True)

    async def main(running: Daemon) -> None:
        async with Http2Server(script, certificate, port=port) as server, running.connect() as rc:
            streams = [await ask(rc, f"two/{name}") for name in ("a", "reset", "b", "c")]
            taken = [await take(stream) for stream in streams]
            assert [texts(tokens) for tokens in taken] == [["one ", "two "]] * 4
            ends = [tokens[-1] for tokens in taken]
            assert [isinstance(end, Done) for end in ends] == [True, False, True, True]
            assert isinstance(ends[1], Error)
            assert ends[1].code in (Code.TRANSPORT, Code.INTERRUPTED)
            assert len(server.peers) == 1

    with daemon(toml, SSL_CERT_FILE=str(certificate)) as running:
        in_loop(main)(running)
