"""The pool: places, who waits for one, what is closed and when. Rules of `providers.http.host`.

With a server on loopback, on both loops; no test may leave a socket or a descriptor.
"""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import time
from typing import Any, cast

import httpx
import psutil
import pytest
from fakes.scripted import (
    CHUNKED,
    HELLO,
    LIMIT_S,
    OK,
    Peer,
    Run,
    Script,
    Upstream,
    answers,
    blackhole,
    client_of,
    eventually,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from ringcast.config import Config, Limits, Timeouts
from ringcast.config_file import parse
from ringcast.errors import Code, ConfigError
from ringcast.providers.credentials import Anonymous
from ringcast.providers.http.carrier import Origin
from ringcast.providers.http.connection import Connection
from ringcast.providers.http.host import Host
from ringcast.providers.http.transport import Transport
from ringcast.providers.response_ending import connection_ending, refusal

TWO = Limits(max_connections_per_host=2)
ONE = Limits(max_connections_per_host=1)


def gated(gate: asyncio.Event) -> Script:
    """Every request is answered when the gate is open."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await gate.wait()
            await peer.send(HELLO)

    return script


# places


def test_no_more_connections_are_made_than_there_are_places(run: Run) -> None:
    """Rules 1 and 3: the others wait, and each is served."""

    async def main() -> None:
        gate = asyncio.Event()
        async with Upstream(gated(gate)) as up, client_of(TWO) as (client, transport):
            all_ = [asyncio.create_task(client.get(up.url)) for _ in range(20)]
            await eventually(lambda: transport.gauges == (2, 0, 18))
            gate.set()
            assert {(await one).content for one in all_} == {b"hello"}
            assert up.connections == 2
            assert transport.gauges == (2, 2, 0)

    run(main())


def test_who_came_first_is_served_first(run: Run) -> None:
    async def main() -> None:
        asked: list[bytes] = []

        async def script(peer: Peer) -> None:
            while True:
                asked.append((await peer.request()).split()[1])
                await peer.send(HELLO)

        async with Upstream(script) as up, client_of(ONE) as (client, _):
            await asyncio.gather(*(client.get(f"{up.url}{i}") for i in range(30)))
        assert asked == [b"/%d" % i for i in range(30)]

    run(main())


def test_waiting_for_a_place_counts_into_the_connect_clock(run: Run) -> None:
    """Its end names both settings, and is not told as the provider's fault."""

    async def main() -> None:
        gate = asyncio.Event()
        async with Upstream(gated(gate)) as up, client_of(ONE) as (client, transport):
            first = asyncio.create_task(client.get(up.url))
            await eventually(lambda: up.connections == 1)
            with pytest.raises(httpx.PoolTimeout) as late:
                await client.get(up.url, timeout=httpx.Timeout(LIMIT_S, connect=0.1))
            assert transport.gauges.waiting == 0
            gate.set()
            await first
        ending = connection_ending(late.value, Timeouts(connect_s=0.1))
        assert ending.code == Code.OVERLOADED_LOCAL
        assert ending.message == (
            f"no connection within 0.1 s (timeouts.connect_s): all 1 connections to "
            f"127.0.0.1:{up.port} were in use (limits.max_connections_per_host)"
        )

    run(main())


def test_a_host_without_any_place_cannot_be_configured() -> None:
    with pytest.raises(
        ConfigError, match=r"limits\.max_connections_per_host = 0: must be at least 1"
    ):
        parse("[limits]\nmax_connections_per_host = 0")


def test_other_hosts_have_places_of_their_own(run: Run) -> None:
    async def main() -> None:
        shut, open_ = asyncio.Event(), asyncio.Event()
        open_.set()
        async with (
            Upstream(gated(shut)) as slow,
            Upstream(gated(open_)) as quick,
            client_of(ONE) as (client, _),
        ):
            waiting = asyncio.create_task(client.get(slow.url))
            await eventually(lambda: slow.connections == 1)
            assert (await client.get(quick.url)).content == b"hello"
            shut.set()
            await waiting

    run(main())


def test_a_place_comes_free_however_its_connection_ends(run: Run) -> None:
    """Refused, cut off, left by its reader, or kept by a server that closes: none is lost."""

    async def main() -> None:
        endings = [
            OK + b"Connection: close\r\nContent-Length: 5\r\n\r\nhello",
            b"",
            b"junk\r\n\r\n",
        ]

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(endings[peer.number % 3])

        async with Upstream(script) as up, client_of(TWO) as (client, transport):
            with socket.socket() as unused:
                unused.bind(("127.0.0.1", 0))
                nobody = f"http://127.0.0.1:{unused.getsockname()[1]}/"
                urls = [up.url, nobody] * 20
                got = await asyncio.gather(*map(client.get, urls), return_exceptions=True)
            assert all(isinstance(one, httpx.Response | httpx.TransportError) for one in got)
            assert sum(isinstance(one, httpx.Response) for one in got) == 7
            await eventually(lambda: transport.gauges == (0, 0, 0))
            assert not transport._pool._hosts

    run(main())


def test_a_kept_connection_that_is_dead_gives_its_place_to_the_fresh_one(run: Run) -> None:
    """P08, with one place only."""

    async def main() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(HELLO)
            await peer.request()

        async with Upstream(script) as up, client_of(ONE) as (client, _):
            for _ in range(5):
                assert (await client.get(up.url, timeout=LIMIT_S)).content == b"hello"
            assert up.connections == 5

    run(main())


def test_p07_a_close_before_any_byte_on_a_fresh_connection_is_left_to_others(run: Run) -> None:
    """The transport sends once; `transport` is what a retry may mend."""

    async def main() -> None:
        requests: list[bytes] = []

        async def script(peer: Peer) -> None:
            requests.append(await peer.request())

        async with Upstream(script) as up, client_of() as (client, _):
            with pytest.raises(httpx.RemoteProtocolError) as closed:
                await client.post(up.url, content=b"body")
        ending = connection_ending(closed.value, Timeouts())
        assert (ending.kind, ending.code) == ("failed", Code.TRANSPORT)
        assert ending.message == "server disconnected without sending a response"
        assert len(requests) == 1

    run(main())


def test_200_refusals_with_unread_bodies_then_one_success(run: Run) -> None:
    """O: with four places a response that was not closed would starve the fifth request."""

    async def main() -> None:
        body = b"x" * 200_000
        slow = b"HTTP/1.1 429 Slow\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        served = 0

        async def script(peer: Peer) -> None:
            nonlocal served
            while True:
                await peer.request()
                served += 1
                await peer.send(slow if served <= 200 else HELLO)

        config = Config(limits=Limits(max_connections_per_host=4, max_error_body_bytes=100))
        async with Upstream(script) as up, client_of(config.limits) as (client, transport):

            async def one() -> None:
                request = client.build_request("POST", up.url, content=b"q")
                response = await client.send(request, stream=True)
                ending = await refusal(response, Anonymous(), config)
                assert (ending.status, ending.body) == (429, body[:100])

            for _ in range(10):
                await asyncio.gather(*(one() for _ in range(20)))
            assert (await client.post(up.url, content=b"q")).content == b"hello"
            await eventually(lambda: transport.gauges == (1, 1, 0))

    run(main())


# cancellation


async def cancelled_twice(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def sockets() -> int:
    return len(psutil.Process().net_connections("tcp"))


def test_p16_a_cancel_while_connecting_closes_at_once(run: Run) -> None:
    """100 ms are wanted; a busy machine has a second."""

    async def main() -> None:
        async with blackhole() as url, client_of() as (client, transport):
            before = sockets()
            task = asyncio.create_task(client.get(url))
            await eventually(lambda: sockets() > before)
            began = time.monotonic()
            await cancelled_twice(task)
            await eventually(lambda: sockets() == before)
            assert time.monotonic() - began < 1.0
            assert transport.gauges == (0, 0, 0)

    run(main())


def test_a_cancel_while_waiting_for_a_place_leaves_the_queue(run: Run) -> None:
    async def main() -> None:
        gate = asyncio.Event()
        async with Upstream(gated(gate)) as up, client_of(ONE) as (client, transport):
            first, second, third = (asyncio.create_task(client.get(up.url)) for _ in range(3))
            await eventually(lambda: transport.gauges.waiting == 2)
            await cancelled_twice(second)
            assert transport.gauges.waiting == 1
            gate.set()
            assert [(await one).content for one in (first, third)] == [b"hello"] * 2

    run(main())


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(None, id="in-the-handshake"),
        pytest.param(b"", id="before-the-head"),
        pytest.param(CHUNKED + b"5\r\nhel", id="in-the-body"),
    ],
)
def test_cancelled_twice_nothing_is_left(run: Run, sent: bytes | None) -> None:
    async def main() -> None:
        reached = asyncio.Event()

        async def script(peer: Peer) -> None:
            if sent is not None:
                await peer.request()
                await peer.send(sent)
            reached.set()
            await peer.gone()

        async with Upstream(script) as up, client_of() as (client, transport):
            url = up.url if sent is not None else up.url.replace("http:", "https:")
            task = asyncio.create_task(client.get(url))
            await reached.wait()
            await asyncio.sleep(0.02)  # into the state
            await cancelled_twice(task)
            await asyncio.wait_for(up.left.wait(), LIMIT_S)
            await eventually(lambda: transport.gauges == (0, 0, 0))

    run(main())


# dead peers


def test_after_a_sleep_of_the_machine_no_idle_connection_is_used(run: Run) -> None:
    async def main() -> None:
        asleep = 0.0

        def boot() -> float:
            return time.monotonic() + asleep

        async with Upstream(answers(HELLO)) as up, client_of(boot=boot) as (client, transport):
            for _ in range(3):
                await client.get(up.url)
            assert up.connections == 1
            asleep += 3600
            for _ in range(3):
                await client.get(up.url)
            assert up.connections == 2
            await eventually(lambda: transport.gauges == (1, 1, 0))

    run(main())


def test_sockets_send_at_once_and_notice_a_peer_that_is_gone(run: Run) -> None:
    async def main() -> None:
        async with Upstream(answers(HELLO)) as up, client_of() as (client, transport):
            await client.get(up.url)
            (connection,) = transport._pool._open
            assert isinstance(connection, Connection)
            assert connection._transport is not None
            sock = connection._transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            for name, value in (
                ("TCP_KEEPIDLE", 20),
                ("TCP_KEEPINTVL", 5),
                ("TCP_KEEPCNT", 3),
                ("TCP_USER_TIMEOUT", 35_000),
            ):
                if (option := getattr(socket, name, None)) is not None:
                    assert sock.getsockopt(socket.IPPROTO_TCP, option) == value, name

    run(main())


def test_a_connection_that_was_lost_before_it_was_used_says_so() -> None:
    """Nobody would ever tell it of its end."""

    async def main() -> None:
        transport = Transport(ssl.create_default_context(), Limits(), 0)
        async with Upstream(answers(HELLO)) as up:
            origin = Origin.of(httpx.URL(up.url))
            connection = await transport._pool.acquire(origin, LIMIT_S)
            connection.abort()
            with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
                await connection.exchange(httpx.Request("GET", up.url), b"", None)
            await transport.aclose()

    asyncio.run(main())


# any history


class Stub:
    """A connection that knows only whether it is open, and carries one exchange at a time."""

    room = False
    idle = True

    def __init__(self, host: Host) -> None:
        self.kept = False
        self.usable = True
        self._host = host

    def take(self) -> None: ...

    def give_back(self) -> None:
        self.abort()

    def abort(self) -> None:
        self.usable = False
        asyncio.get_running_loop().call_soon(self._host.drop, cast(Connection, self))


def test_who_was_handed_a_connection_and_is_gone_hands_it_on() -> None:
    """Rule 4: cancelled in the very turn in which the place came free."""

    async def main() -> None:
        host = Host(1)
        stubs = [cast(Connection, Stub(host)) for _ in range(3)]
        first, second, third = (
            asyncio.create_task(host.place(stub, fresh=False)) for stub in stubs
        )
        assert await first is stubs[0]
        stubs[0].kept = True
        host.release(stubs[0], None)
        second.cancel()
        assert await asyncio.wait_for(third, LIMIT_S) is stubs[2]
        assert host.placed == {stubs[2]}

    asyncio.run(main())


class Crowd:
    """Askers of one host's places, as a seed wants them."""

    def __init__(self, limit: int, draw: random.Random) -> None:
        self.host = Host(limit)
        self.limit = limit
        self.draw = draw
        self.used: list[Stub] = []
        self.asking: list[asyncio.Task[None]] = []

    async def ask(self) -> None:
        own = Stub(self.host)
        try:
            given = await self.host.place(cast(Connection, own), fresh=self.draw.random() < 0.2)
            self.used.append(cast(Stub, given))
        finally:
            if own not in self.used:
                self.host.drop(cast(Connection, own))

    def done(self, stub: Stub) -> None:
        self.used.remove(stub)
        if stub.usable and self.draw.random() < 0.6:
            stub.kept = True
            self.host.release(cast(Connection, stub), None)
        else:
            stub.abort()

    def check(self) -> None:
        assert len(self.host.placed) <= self.limit
        assert not set(self.used) & cast("set[Stub]", set(self.host.free))

    async def step(self) -> None:
        match self.draw.randrange(4):
            case 0 | 1:
                self.asking.append(asyncio.create_task(self.ask()))
            case 2 if self.used:
                self.done(self.draw.choice(self.used))
            case 3 if self.asking and self.draw.random() < 0.5:
                self.draw.choice(self.asking).cancel()
        if self.draw.random() < 0.5:
            await asyncio.sleep(0)
        self.check()

    async def leave(self) -> None:
        """Everybody is served in the end."""
        while self.used or not all(task.done() for task in self.asking):
            await asyncio.sleep(0)
            self.check()
            for stub in self.used[:]:
                self.done(stub)
        while (idle := self.host.take()) is not None:
            idle.abort()
        await asyncio.sleep(0)
        assert self.host.empty


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 32), limit=st.integers(1, 4))
def test_whatever_happens_places_are_kept_and_nobody_waits_for_ever(seed: int, limit: int) -> None:
    async def main() -> None:
        crowd = Crowd(limit, random.Random(seed))
        for _ in range(80):
            await crowd.step()
        await crowd.leave()

    asyncio.run(asyncio.wait_for(main(), 30))
