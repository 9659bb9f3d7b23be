"""The transport against scripted peers on loopback: pool, errors, cancellation, flow.

Every test runs on both loops, and must leave no socket and no descriptor behind.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import psutil
import pytest
from fakes.scripted import (
    CHUNKED,
    HELLO,
    LIMIT_S,
    OK,
    READ_BYTES,
    Names,
    Peer,
    Run,
    Script,
    Upstream,
    answers,
    blackhole,
    client_of,
    eventually,
    once,
)

from ringcast.providers.http.carrier import Origin
from ringcast.providers.http.connection import Connection
from ringcast.providers.http.transport import BODY, Body


@asynccontextmanager
async def streaming(script: Script) -> AsyncIterator[Body]:
    """The body of one GET, nobody reading it yet."""
    async with Upstream(script) as up, client_of() as (client, _):  # noqa: SIM117
        async with client.stream("GET", up.url) as response:
            yield response.extensions[BODY]


class Sink:
    """Collects what a body pushes."""

    def __init__(self, body: Body) -> None:
        self.body = body
        self.pieces: list[bytes] = []
        self.ends: list[Exception | None] = []
        self.ended = asyncio.Event()

    def on_data(self, data: bytes) -> None:
        assert not self.ends
        self.pieces.append(data)

    def on_end(self, error: Exception | None) -> None:
        self.ends.append(error)
        self.ended.set()

    @classmethod
    def start(cls, body: Body) -> Sink:
        sink = cls(body)
        body.start(sink.on_data, sink.on_end)
        return sink

    async def all(self) -> bytes:
        await asyncio.wait_for(self.ended.wait(), LIMIT_S)
        return b"".join(self.pieces)


# the pool


def test_a_connection_is_kept_after_a_whole_answer(run: Run) -> None:
    async def main() -> None:
        chunked = CHUNKED + b"5\r\nhello\r\n0\r\n\r\n"
        async with Upstream(answers(chunked, HELLO)) as up, client_of() as (client, transport):
            for _ in range(5):
                assert (await client.post(up.url, content=b"hi")).content == b"hello"
                assert transport.gauges == (1, 1, 0)
            async with client.stream("POST", up.url) as response:
                assert await Sink.start(response.extensions[BODY]).all() == b"hello"
            assert up.connections == 1

    run(main())


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(HELLO + b"HTTP/1.1 200 OK\r\n\r\n", id="P40-pipelined-junk"),
        pytest.param(
            OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            id="P39-both-framings",
        ),
        pytest.param(OK + b"Connection: close\r\nContent-Length: 5\r\n\r\nhello", id="close"),
        pytest.param(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", id="http-1.0"),
    ],
)
def test_a_connection_is_not_kept(run: Run, message: bytes) -> None:
    async def main() -> None:
        async with Upstream(answers(message)) as up, client_of() as (client, transport):
            for count in (1, 2):
                assert (await client.get(up.url)).content == b"hello"
                assert transport.gauges.idle == 0
                assert up.connections == count
            await eventually(lambda: transport.gauges.open == 0)

    run(main())


def test_the_last_connection_used_is_taken_first(run: Run) -> None:
    async def main() -> None:
        go = [asyncio.Event(), asyncio.Event()]

        async def script(peer: Peer) -> None:
            while True:
                await peer.request()
                await go[peer.number].wait()
                await peer.send(OK + b"Content-Length: 1\r\n\r\n%d" % peer.number)

        async with Upstream(script) as up, client_of() as (client, transport):
            both = [asyncio.create_task(client.get(up.url)) for _ in go]
            await eventually(lambda: up.connections == 2)
            for number in (1, 0):
                go[number].set()
                await eventually(lambda n=number: transport.gauges.idle == 2 - n)  # type: ignore[misc]
            await asyncio.gather(*both)
            assert [(await client.get(up.url)).content for _ in range(3)] == [b"0"] * 3
            assert transport.gauges.idle == up.connections == 2

    run(main())


def test_idle_connections_expire(run: Run) -> None:
    async def main() -> None:
        async with (
            Upstream(answers(HELLO)) as up,
            client_of(keepalive_s=0.05) as (client, transport),
        ):
            await client.get(up.url)
            await asyncio.wait_for(up.left.wait(), LIMIT_S)
            await eventually(lambda: transport.gauges.open == 0)

    run(main())


@pytest.mark.parametrize("farewell", [b"", b"surplus"])
def test_idle_connections_that_die_or_speak_are_dropped(run: Run, farewell: bytes) -> None:
    async def main() -> None:
        leave = asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(HELLO)
            await leave.wait()
            if farewell:
                await peer.send(farewell)
                await peer.gone()

        async with Upstream(script) as up, client_of() as (client, transport):
            await client.get(up.url)
            assert transport.gauges.idle == 1
            leave.set()
            await eventually(lambda: transport.gauges.open == 0)
            assert transport.gauges.idle == 0

    run(main())


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_a_stale_connection_costs_one_retry_and_no_more(run: Run, how: str) -> None:
    """P07, P08: the request is written at most twice."""

    async def main() -> None:
        requests: list[bytes] = []

        async def script(peer: Peer) -> None:
            requests.append(await peer.request())
            if peer.number == 0:
                await peer.send(HELLO)
                requests.append(await peer.request())
            if how == "rst":
                peer.reset()

        async with Upstream(script) as up, client_of() as (client, _):
            await client.get(up.url)
            with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
                await client.post(up.url, content=b"body")
            assert up.connections == 2
            assert len(requests) == 3
            assert requests[1] == requests[2]

    run(main())


def test_a_stale_connection_is_replaced(run: Run) -> None:
    async def main() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(HELLO)
            if peer.number == 0:
                await peer.request()

        async with Upstream(script) as up, client_of() as (client, _):
            for _ in range(2):
                assert (await client.get(up.url)).content == b"hello"
            assert up.connections == 2

    run(main())


def test_a_kept_connection_that_dies_inside_the_answer_is_not_retried(run: Run) -> None:
    async def main() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(HELLO)
            await peer.request()
            await peer.send(b"HTTP/1.1 2")

        async with Upstream(script) as up, client_of() as (client, _):
            await client.get(up.url)
            with pytest.raises(httpx.RemoteProtocolError, match="inside the response head"):
                await client.get(up.url)
            assert up.connections == 1

    run(main())


def test_200_rejections_then_one_success_leak_nothing(run: Run) -> None:
    async def main() -> None:
        body = b"x" * 20_000
        rejection = b"HTTP/1.1 429 Slow\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        served = 0

        async def script(peer: Peer) -> None:
            nonlocal served
            while True:
                await peer.request()
                served += 1
                await peer.send(rejection if served <= 200 else HELLO)

        async with Upstream(script) as up, client_of() as (client, transport):
            for turn in range(200):
                async with client.stream("POST", up.url, content=b"q") as response:
                    assert response.status_code == 429
                    if turn % 2:
                        assert await response.aread() == body
            assert (await client.post(up.url, content=b"q")).content == b"hello"
            assert served == 201
            await eventually(lambda: transport.gauges.open == 1)
            assert transport.gauges.idle == 1

    run(main())


def test_close_ends_what_waits(run: Run) -> None:
    async def main() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            if peer.number:
                await peer.send(CHUNKED)
            await peer.gone()

        async with Upstream(script) as up, client_of(timeout_s=None) as (client, transport):
            waiting = asyncio.create_task(client.get(up.url))
            await eventually(lambda: up.connections == 1)
            async with client.stream("GET", up.url) as response:
                sink = Sink.start(response.extensions[BODY])
                await asyncio.gather(transport.aclose(), transport.aclose())
                assert transport.gauges.open == 0
                with pytest.raises(httpx.CloseError):
                    await waiting
                assert [type(end) for end in sink.ends] == [httpx.CloseError]
            with pytest.raises(httpx.CloseError):
                await client.get(up.url)

    run(main())


# messages


def test_requests_arrive_whole(run: Run) -> None:
    async def main() -> None:
        requests: list[bytes] = []

        async def script(peer: Peer) -> None:
            while True:
                requests.append(await peer.request())
                await peer.send(HELLO)

        async def parts() -> AsyncIterator[bytes]:
            yield b"one "
            yield b"two"

        async with Upstream(script) as up, client_of() as (client, _):
            await client.post(up.url + "v1?x=1", content=parts())
            await client.post(up.url, content=b"m" * 3_000_000)
            await client.get(up.url)
        head, _, body = requests[0].partition(b"\r\n\r\n")
        assert head.startswith(b"POST /v1?x=1 HTTP/1.1\r\n")
        assert b"transfer-encoding" not in head.lower()
        assert body == b"one two"
        assert requests[1].endswith(b"\r\n\r\n" + b"m" * 3_000_000)
        assert b"content-length" not in requests[2].lower()

    run(main())


def test_small_writes_leave_at_once(run: Run) -> None:
    """TCP_NODELAY: a delayed request would wait 40 ms for an ACK."""

    async def main() -> None:
        async with Upstream(answers(HELLO)) as up, client_of() as (client, transport):
            await client.get(up.url)
            (connection,) = transport._pool._open
            assert isinstance(connection, Connection)
            assert connection._transport is not None
            sock = connection._transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0

    run(main())


def test_ipv6_literals_are_hosts_without_brackets() -> None:
    origin = Origin.of(httpx.URL("https://[::1]/v1"))
    assert origin[:3] == ("https", "::1", 443)
    assert origin.address == "[::1]:443"


def test_nothing_is_opened_for_a_request_that_cannot_be_sent(run: Run) -> None:
    async def main() -> None:
        async with Upstream(answers(HELLO)) as up, client_of() as (client, transport):
            with pytest.raises(httpx.LocalProtocolError):
                await client.get(up.url, headers={"x-api-key": "secret\r\nx: y"})
            with pytest.raises(httpx.UnsupportedProtocol):
                await client.get("ftp://127.0.0.1/")
            assert (up.connections, transport.gauges.open) == (0, 0)

    run(main())


def test_redirects_are_not_followed(run: Run) -> None:
    """P20."""

    async def main() -> None:
        location = b"Location: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n"
        moved = b"HTTP/1.1 307 Elsewhere\r\n" + location
        async with Upstream(answers(moved)) as up, client_of() as (client, _):
            response = await client.post(up.url, content=b"q")
            assert (response.status_code, up.connections) == (307, 1)

    run(main())


@pytest.mark.parametrize(
    ("method", "message", "status"),
    [
        ("HEAD", OK + b"Content-Length: 10\r\n\r\n", 200),
        ("POST", b"HTTP/1.1 204 No Content\r\n\r\n", 204),
        ("POST", b"HTTP/1.1 304 Not Modified\r\n\r\n", 304),
        (
            "POST",
            b"HTTP/1.1 100 Continue\r\n\r\n" * 50 + b"HTTP/1.1 205 R\r\nContent-Length: 0\r\n\r\n",
            205,
        ),
        ("POST", b"HTTP/1.1 999 Blocked\r\nContent-Length: 0\r\n\r\n", 999),
    ],
)
def test_answers_without_a_body(run: Run, method: str, message: bytes, status: int) -> None:
    async def main() -> None:
        async with Upstream(answers(message)) as up, client_of() as (client, _):
            for _ in range(2):
                response = await client.request(method, up.url)
                assert (response.status_code, response.content) == (status, b"")

    run(main())


def test_a_body_without_framing_ends_at_eof(run: Run) -> None:
    async def main() -> None:
        async with (
            Upstream(once(b"HTTP/1.0 200 OK\r\n\r\nto the end")) as up,
            client_of() as (c, t),
        ):
            assert (await c.get(up.url)).content == b"to the end"
            async with c.stream("GET", up.url) as response:
                sink = Sink.start(response.extensions[BODY])
                assert await sink.all() == b"to the end"
                assert sink.ends == [None]
            assert t.gauges.idle == 0

    run(main())


# errors

CUTS = {
    "before-any-byte": (0, b""),
    "in-status-line": (10, b""),
    "in-headers": (30, b""),
    "after-headers": (len(CHUNKED), b""),
    "after-first-event": (len(CHUNKED) + 15, b"first even"),
    "inside-an-event": (len(CHUNKED) + 22, b"first evenlast"),
    "before-last-byte": (len(CHUNKED) + 34, b"first evenlast event"),
}
EVENTS = CHUNKED + b"a\r\nfirst even\r\na\r\nlast event\r\n0\r\n\r\n"


@pytest.mark.parametrize("mode", ["pull", "push"])
@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("place", CUTS)
def test_a_cut_answer_is_an_error(run: Run, place: str, how: str, mode: str) -> None:
    """P07, P09, P10: what arrived is kept, and the end is told once."""

    async def main() -> None:
        seen = asyncio.Event()
        at, whole = CUTS[place]

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(EVENTS[:at])
            if at >= len(CHUNKED):
                await seen.wait()
            if how == "rst":
                peer.reset()

        error: Exception | None = None
        got = b""
        async with Upstream(script) as up, client_of() as (client, transport):
            try:
                async with client.stream("GET", up.url) as response:
                    body: Body = response.extensions[BODY]
                    if mode == "pull":
                        seen.set()
                        async for piece in response.aiter_raw():
                            got += piece
                    else:
                        sink = Sink.start(body)
                        seen.set()
                        got = await sink.all()
                        (error,) = sink.ends
            except httpx.TransportError as caught:
                error = caught
            assert up.connections == 1
            await eventually(lambda: transport.gauges.open == 0)
        if how == "rst":
            # A reset right behind data may swallow it, and may look like an end.
            assert isinstance(error, (httpx.ReadError, httpx.RemoteProtocolError))
        else:
            assert isinstance(error, httpx.RemoteProtocolError)
            assert got == whole

    run(main())


def test_unreachable_hosts_are_connect_errors(run: Run) -> None:
    async def main() -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
            async with client_of() as (client, transport):
                with pytest.raises(httpx.ConnectError, match="cannot resolve no-such-host"):
                    await client.get("http://no-such-host.invalid/")
                with pytest.raises(httpx.ConnectError, match=f"refused by 127.0.0.1:{port}"):
                    await client.get(f"http://127.0.0.1:{port}/")
                assert transport.gauges.open == 0

    run(main())


def test_dropped_syns_end_at_the_connect_clock(run: Run) -> None:
    """P03: not the read clock."""

    async def main() -> None:
        async with blackhole() as url, client_of() as (client, transport):
            with pytest.raises(httpx.ConnectTimeout, match=r"within 0\.1 s"):
                await client.get(url, timeout=httpx.Timeout(60, connect=0.1))
            assert transport.gauges.open == 0

    run(main())


@pytest.mark.parametrize("first", ["dead", "refusing"])
def test_a_bad_address_does_not_eat_the_connect_clock(
    run: Run, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """RFC 8305: the next address starts after 250 ms, or at once when the first fails."""

    async def main() -> None:
        async with blackhole() as dead, Upstream(answers(HELLO)) as up, client_of() as (client, t):
            names = Names(dead if first == "dead" else "http://127.0.0.1:1", up.url)
            monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", names)
            timeout = httpx.Timeout(LIMIT_S, connect=LIMIT_S)
            assert (await client.get("http://two.internal/", timeout=timeout)).content == b"hello"
            assert t.gauges.open == 1

    run(main())


def test_of_many_failures_the_first_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        names = Names("http://127.0.0.1:1", "http://127.0.0.1:2")
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", names)
        async with client_of() as (client, transport):
            with pytest.raises(httpx.ConnectError, match=r"refused by two\.internal:80"):
                await client.get("http://two.internal/")
            assert transport.gauges.open == 0

    run(main())


@pytest.mark.parametrize("drip", [b"", b"HTTP/1.1 200 OK\r\nx: " + b"y" * 4000])
def test_the_read_clock_runs_until_the_head_is_complete(run: Run, drip: bytes) -> None:
    """P12, P13: neither silence nor a byte now and then stretches it."""

    async def main() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            gone = asyncio.create_task(peer.gone())
            for at in range(len(drip)):
                if gone.done():
                    break
                await peer.send(drip[at : at + 1])
                await asyncio.sleep(0.01)
            await gone

        async with Upstream(script) as up, client_of() as (client, transport):
            with pytest.raises(httpx.ReadTimeout):
                await client.get(up.url, timeout=httpx.Timeout(60, read=0.2))
            await asyncio.wait_for(up.left.wait(), LIMIT_S)
            assert transport.gauges.open == 0

    run(main())


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (OK + b"a: " + b"b" * 200_000 + b"\r\n\r\n", "max_header_bytes"),
        (OK + b"a: b\r\n" * 5_000 + b"\r\n", "max_headers"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "bad response"),
    ],
)
def test_bad_heads_close_the_connection(run: Run, message: bytes, text: str) -> None:
    """P23, P24, P26."""

    async def main() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(message)
            await peer.gone()

        async with Upstream(script) as up, client_of() as (client, transport):
            with pytest.raises(httpx.RemoteProtocolError, match=text):
                await client.get(up.url)
            await asyncio.wait_for(up.left.wait(), LIMIT_S)
            assert transport.gauges.open == 0

    run(main())


def test_bad_framing_keeps_what_was_good(run: Run) -> None:
    """P38: the good chunks of the same read are delivered, then the error."""

    async def main() -> None:
        message = CHUNKED + b"5\r\nhello\r\nzz\r\n"
        async with streaming(answers(message)) as body:
            sink = Sink.start(body)
            assert await sink.all() == b"hello"
            assert [type(end) for end in sink.ends] == [httpx.RemoteProtocolError]

    run(main())


def test_an_endless_error_body_is_left_by_closing(run: Run) -> None:
    """P32: read 64 KiB of it, then leave; the server cannot go on sending."""

    async def main() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(b"HTTP/1.1 500 Oops\r\nContent-Length: 1000000000\r\n\r\n")
            while True:
                await peer.send(b"x" * READ_BYTES)

        async with Upstream(script) as up, client_of() as (client, transport):
            async with client.stream("GET", up.url) as response:
                got = 0
                async for piece in response.aiter_raw():
                    got += len(piece)
                    if got >= READ_BYTES:
                        break
            await asyncio.wait_for(up.left.wait(), LIMIT_S)
            assert transport.gauges.open == 0

    run(main())


# cancellation: the server sees the client go in every state


async def cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_cancel_while_resolving(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        asked = asyncio.Event()

        async def never(*_: object, **__: object) -> None:
            asked.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", never)
        async with client_of() as (client, transport):
            task = asyncio.create_task(client.get("http://example.com/"))
            await asked.wait()
            await cancel(task)
            assert transport.gauges.open == 0

    run(main())


def test_cancel_while_connecting(run: Run) -> None:
    """P16: the socket is gone, and with it the kernel's SYNs."""

    def sockets() -> int:
        return len(psutil.Process().net_connections("tcp"))

    async def main() -> None:
        async with blackhole() as url, client_of() as (client, transport):
            before = sockets()
            task = asyncio.create_task(client.get(url))
            await eventually(lambda: sockets() > before)
            await cancel(task)
            await eventually(lambda: sockets() == before)
            assert transport.gauges.open == 0

    run(main())


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="no-answer"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-", id="head-half-read"),
        pytest.param(CHUNKED, id="head-read"),
        pytest.param(CHUNKED + b"5\r\nhel", id="body-half-read"),
    ],
)
def test_cancel_closes_the_socket(run: Run, sent: bytes) -> None:
    async def main() -> None:
        waiting = asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(sent)
            waiting.set()
            await peer.gone()

        async with Upstream(script) as up, client_of() as (client, transport):
            task = asyncio.create_task(client.get(up.url))
            await waiting.wait()
            await asyncio.sleep(0.02)  # into the state: nothing tells that a half head was read
            await cancel(task)
            await asyncio.wait_for(up.left.wait(), LIMIT_S)
            assert transport.gauges.open == 0

    run(main())


def test_cancel_in_the_turn_of_the_answer_spares_the_next_user(run: Run) -> None:
    """A complete answer frees its connection; the late cancel must not close it under another."""

    async def main() -> None:
        async with Upstream(answers(HELLO)) as up, client_of() as (client, transport):
            task = asyncio.create_task(client.get(up.url))
            await eventually(lambda: transport.gauges.idle == 1 or task.done())
            other = asyncio.create_task(client.get(up.url))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert (await other).content == b"hello"

    run(main())


@pytest.mark.parametrize("state", ["unread", "pushing", "paused", "pulling", "ended"])
def test_abort_is_idempotent_and_silent_in_any_state(run: Run, state: str) -> None:
    async def main() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(HELLO if state == "ended" else CHUNKED + b"5\r\nhello\r\n")
            await peer.gone()

        async with Upstream(script) as up, client_of() as (client, transport):
            async with client.stream("GET", up.url) as response:
                body: Body = response.extensions[BODY]
                sink, pull = Sink(body), None
                if state in ("pushing", "paused", "ended"):
                    sink = Sink.start(body)
                if state == "paused":
                    body.pause()
                if state == "pulling":
                    pull = asyncio.create_task(response.aread())
                await asyncio.sleep(0.02)
                told = list(sink.ends)
                for _ in range(2):
                    body.abort()
                    body.pause()
                    body.resume()
                    await body.aclose()
                if pull is not None:
                    with pytest.raises(httpx.StreamClosed):
                        await pull
            assert sink.ends == told == ([None] if state == "ended" else [])
            if state != "ended":
                await asyncio.wait_for(up.left.wait(), LIMIT_S)
                assert transport.gauges.open == 0

    run(main())


def test_abort_from_within_on_data(run: Run) -> None:
    async def main() -> None:
        message = CHUNKED + b"5\r\nhello\r\n0\r\n\r\n"
        split = len(CHUNKED)
        go = asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(message[:split])
            await go.wait()
            await peer.send(message[split:])
            await peer.gone()

        async with Upstream(script) as up, client_of() as (client, transport):
            async with client.stream("GET", up.url) as response:
                body: Body = response.extensions[BODY]
                calls: list[object] = []

                def on_data(data: bytes) -> None:
                    calls.append(data)
                    body.abort()

                body.start(on_data, calls.append)
                go.set()
                await asyncio.wait_for(up.left.wait(), LIMIT_S)
            assert calls == [b"hello"]
            assert transport.gauges.open == 0

    run(main())


def test_a_callback_that_raises_ends_its_stream_only(run: Run) -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(CHUNKED)
            await go.wait()
            await peer.send(b"5\r\nhello\r\n")
            await peer.gone()

        reported: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, info: reported.append(info))
        async with Upstream(script) as up, client_of() as (client, transport):
            async with client.stream("GET", up.url) as response:
                sink = Sink(response.extensions[BODY])

                def on_data(_: bytes) -> None:
                    raise KeyError("bug")

                sink.body.start(on_data, sink.on_end)
                go.set()
                await sink.all()
            assert [type(end) for end in sink.ends] == [httpx.ReadError]
            assert [type(info["exception"]) for info in reported] == [KeyError]
            await eventually(lambda: transport.gauges.open == 0)

    run(main())


# flow


def pieces_of(rng: random.Random, data: bytes) -> list[bytes]:
    edges = sorted({0, len(data), *(rng.randrange(len(data)) for _ in range(40))})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("framing", ["chunked", "length", "eof"])
def test_push_and_pull_give_the_same_bytes_at_any_cut(run: Run, framing: str, seed: int) -> None:
    rng = random.Random(f"{framing} {seed}")
    body = rng.randbytes(rng.randrange(1, 200_000))
    parts = pieces_of(rng, body)
    heads = {
        "chunked": CHUNKED,
        "length": OK + b"Content-Length: %d\r\n\r\n" % len(body),
        "eof": OK + b"\r\n",
    }
    wire = heads[framing]
    if framing == "chunked":
        wire += b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in parts) + b"0\r\n\r\n"
    else:
        wire += body

    async def script(peer: Peer) -> None:
        await peer.request()
        for piece in pieces_of(rng, wire):
            await peer.send(piece)
            await asyncio.sleep(0)

    async def main() -> None:
        async with Upstream(script) as up, client_of() as (client, _):
            assert (await client.get(up.url)).content == body
            async with client.stream("GET", up.url) as response:
                stream: Body = response.extensions[BODY]
                sink = Sink(stream)
                cap = READ_BYTES

                def on_data(data: bytes) -> None:
                    nonlocal cap
                    assert len(data) <= cap
                    sink.on_data(data)
                    match rng.randrange(4):
                        case 0:
                            stream.pause()
                            asyncio.get_running_loop().call_soon(stream.resume)
                        case 1:
                            cap = rng.randrange(1, 1 << 16)
                            stream.limit_reads(cap)

                stream.start(on_data, sink.on_end)
                assert await sink.all() == body
                assert sink.ends == [None]

    run(main())


class Flood:
    """Sends `total` bytes of body as fast as the client lets it."""

    def __init__(self, total: int) -> None:
        self.total, self.sent = total, 0

    async def __call__(self, peer: Peer) -> None:
        await peer.request()
        await peer.send(OK + b"Content-Length: %d\r\n\r\n" % self.total)
        while self.sent < self.total:
            await peer.send(b"x" * READ_BYTES)
            self.sent += READ_BYTES
        await peer.gone()

    async def stalled(self) -> int:
        """Wait until nothing more is sent; how much was."""
        async with asyncio.timeout(30):
            while True:
                sent = self.sent
                await asyncio.sleep(0.2)
                if sent == self.sent:
                    return sent


@pytest.mark.parametrize("mode", ["push", "pull", "unread"])
def test_a_slow_reader_stalls_the_server(run: Run, mode: str) -> None:
    async def main() -> None:
        flood = Flood(64 << 20)
        async with Upstream(flood) as up, client_of() as (client, transport):
            async with client.stream("GET", up.url) as response:
                body: Body = response.extensions[BODY]
                got = 0

                def hold(data: bytes) -> None:
                    nonlocal got
                    got += len(data)
                    body.pause()

                if mode == "push":
                    done = asyncio.Event()
                    body.start(hold, lambda _: done.set())
                    assert await flood.stalled() < flood.total
                    for _ in range(50):
                        held = got
                        body.resume()
                        await eventually(lambda held=held: got > held)  # type: ignore[misc]
                        assert got - held <= READ_BYTES
                elif mode == "pull":
                    pieces = response.aiter_raw()
                    got += len(await anext(pieces))
                    assert await flood.stalled() < flood.total
                    held = len(await anext(pieces))
                    assert held <= 2 * READ_BYTES
                    async for piece in pieces:
                        held += len(piece)
                    assert got + held == flood.total
                else:
                    assert await flood.stalled() < flood.total
                    assert body._queued <= 4096
            await eventually(lambda: transport.gauges.open == transport.gauges.idle)

    run(main())


def test_a_read_takes_no_more_than_the_credit(run: Run) -> None:
    """What comes with the head is at most 4 KiB; each later read at most what was granted."""

    async def main() -> None:
        async with streaming(Flood(1 << 20)) as body:
            sizes: list[int] = []
            enough = asyncio.Event()

            def on_data(data: bytes) -> None:
                sizes.append(len(data))
                if len(sizes) == 100:
                    body.pause()
                    enough.set()

            body.limit_reads(100)
            await asyncio.sleep(0.05)
            body.start(on_data, lambda _: None)
            await asyncio.wait_for(enough.wait(), LIMIT_S)
            assert max(sizes[:1]) <= 4096
            assert max(sizes[1:]) <= 100
            with pytest.raises(ValueError, match="at least one byte"):
                body.limit_reads(0)

    run(main())


def test_pause_before_start_holds_everything_back(run: Run) -> None:
    async def main() -> None:
        async with streaming(answers(HELLO)) as body:
            body.pause()
            sink = Sink.start(body)
            await asyncio.sleep(0.02)
            assert (sink.pieces, sink.ends) == ([], [])
            body.resume()
            assert (sink.pieces, sink.ends) == ([b"hello"], [None])

    run(main())


def test_a_body_has_one_reader(run: Run) -> None:
    async def main() -> None:
        async with streaming(answers(HELLO)) as body:
            assert b"".join([piece async for piece in body]) == b"hello"
            with pytest.raises(httpx.StreamConsumed):
                Sink.start(body)

    run(main())
