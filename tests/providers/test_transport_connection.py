"""A connection without a socket: the turns that real sockets reach too rarely to test."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from ringcast.config import Limits
from ringcast.providers.http import tcp
from ringcast.providers.http.body import READ_BYTES, Body
from ringcast.providers.http.carrier import Origin
from ringcast.providers.http.connection import Connection
from ringcast.providers.http.http1 import ResponseParser
from ringcast.providers.http.pool import Pool

ORIGIN = Origin("http", "h", 80)
HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
ENDLESS = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"


class Wire(asyncio.Transport):
    """Notes what a connection does to its socket."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.unsent = 0
        self.closing = False
        self.reading = True

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        self.written += data

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        self.closing = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class Exchange:
    """One connection of a pool with a request on its way."""

    def __init__(self) -> None:
        self.pool = Pool(ssl.create_default_context(), Limits(), 0)
        self.wire = Wire()
        self._buffer = memoryview(bytearray(READ_BYTES))
        self.connection = Connection(ORIGIN, self._buffer, Limits(), self.pool)
        self.connection.connection_made(self.wire)

    async def send(self) -> asyncio.Task[Body]:
        response = ResponseParser(Limits(), bodyless=False)
        task = asyncio.create_task(self.connection.send(b"request", response, timeout_s=None))
        await asyncio.sleep(0)
        assert self.wire.written == b"request"
        return task

    def receive(self, data: bytes) -> None:
        """As the loop does it, in as many reads as it takes."""
        assert self.wire.reading
        while data:
            size = min(len(self.connection.get_buffer(-1)), len(data))
            self._buffer[:size] = data[:size]
            self.connection.buffer_updated(size)
            data = data[size:]


def turns(main: Callable[[Exchange], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        await main(Exchange())

    asyncio.run(run())


def test_a_late_cancel_spares_a_connection_already_handed_on() -> None:
    async def main(exchange: Exchange) -> None:
        task = await exchange.send()
        exchange.receive(HELLO)
        assert await exchange.pool.acquire(ORIGIN, None) is exchange.connection
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not exchange.wire.closing

    turns(main)


def test_a_head_that_meets_a_cancelled_request_is_dropped() -> None:
    async def main(exchange: Exchange) -> None:
        task = await exchange.send()
        task.cancel()
        exchange.receive(ENDLESS)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert exchange.wire.closing

    turns(main)


def test_an_answer_that_overtakes_its_request_ends_the_connection() -> None:
    async def main(exchange: Exchange) -> None:
        task = await exchange.send()
        exchange.wire.unsent = 1
        exchange.receive(HELLO)
        await task
        assert exchange.wire.closing
        assert exchange.pool.gauges.idle == 0

    turns(main)


def test_an_abort_inside_the_last_read_does_not_keep_the_connection() -> None:
    async def main(exchange: Exchange) -> None:
        task = await exchange.send()
        exchange.receive(ENDLESS)
        body = await task
        told: list[Exception | None] = []
        body.start(lambda _: body.abort(), told.append)
        exchange.receive(b"x" * 1000)
        assert exchange.wire.closing
        assert (told, exchange.pool.gauges.idle) == ([], 0)

        exchange = Exchange()
        task = await exchange.send()
        exchange.receive(HELLO[:-5])
        body = await task
        body.start(lambda _: body.abort(), told.append)
        exchange.receive(b"hello")
        assert exchange.wire.closing
        assert (told, exchange.pool.gauges.idle) == ([], 0)

    turns(main)


def test_an_idle_connection_that_is_closing_is_not_taken() -> None:
    async def main(exchange: Exchange) -> None:
        task = await exchange.send()
        exchange.receive(HELLO)
        await task
        assert exchange.pool.gauges.idle == 1
        exchange.wire.closing = True
        assert exchange.pool._host(ORIGIN).take() is None

    turns(main)


def test_the_end_waits_for_data_that_is_held_back() -> None:
    async def main(exchange: Exchange) -> None:
        task = await exchange.send()
        exchange.receive(ENDLESS + b"abc")
        body = await task
        calls: list[object] = []
        body.pause()
        body.start(calls.append, lambda error: calls.append(type(error).__name__))
        exchange.connection.connection_lost(ConnectionResetError("reset"))
        assert calls == []
        body.resume()
        assert calls == [b"abc", "ReadError"]

    turns(main)


def test_before_a_reader_any_byte_stops_reading_and_then_64_kib_do() -> None:
    async def main(exchange: Exchange) -> None:
        task = await exchange.send()
        exchange.receive(ENDLESS)
        assert exchange.wire.reading
        exchange.receive(b"x")
        assert not exchange.wire.reading
        pieces = aiter(await task)
        assert await anext(pieces) == b"x"
        second = asyncio.ensure_future(anext(pieces))
        await asyncio.sleep(0)
        exchange.receive(b"y" * (READ_BYTES - 1))
        assert exchange.wire.reading
        exchange.receive(b"y")
        assert not exchange.wire.reading
        assert await second == b"y" * READ_BYTES
        exchange.connection.abort()

    turns(main)


def test_of_two_sockets_that_connect_at_once_one_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[socket.socket] = []

    async def main(_: Exchange) -> None:
        both = asyncio.Event()

        async def attempt(_: tcp.Address) -> socket.socket:
            mine = socket.socket()
            made.append(mine)
            if len(made) == 2:
                asyncio.get_running_loop().call_soon(both.set)
            await both.wait()
            return mine

        monkeypatch.setattr(tcp, "_attempt", attempt)
        monkeypatch.setattr(tcp, "STAGGER_S", 0)
        address = tcp.Address(socket.AF_INET, ("127.0.0.1", 1))
        winner = await tcp._race([address, address])
        await asyncio.sleep(0)
        assert winner.fileno() >= 0
        assert sorted(sock.fileno() >= 0 for sock in made) == [False, True]
        winner.close()

    turns(main)
