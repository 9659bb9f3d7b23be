"""TLS under the transport: real handshakes with a certificate made for the run."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

import httpx
import pytest
from fakes.certificate import make_certificate, server_context

from ringcast.config import Limits
from ringcast.providers.http.transport import BODY, Body, TLSError, Transport

LIMIT_S = 5.0
OK = b"HTTP/1.1 200 OK\r\n"
HELLO = OK + b"Content-Length: 5\r\n\r\nhello"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"

Run: TypeAlias = Callable[[Coroutine[Any, Any, None]], None]
Script: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="needs the openssl command to make a certificate"
)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@asynccontextmanager
async def serving(script: Script, certificate: Path | None) -> AsyncIterator[int]:
    """A port that speaks TLS, or with no certificate plain TCP; its scripts end with it."""
    context = None
    if certificate is not None:
        context = server_context(certificate, ["h2", "http/1.1"])
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with suppress(asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            await script(reader, writer)
        writer.transport.abort()

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.wait_for(asyncio.gather(*tasks), LIMIT_S)
        await server.wait_closed()


@asynccontextmanager
async def client_of(trusted: Path | None) -> AsyncIterator[tuple[httpx.AsyncClient, Transport]]:
    transport = Transport(ssl.create_default_context(cafile=trusted), Limits(), 60)
    async with httpx.AsyncClient(transport=transport, timeout=LIMIT_S) as client:
        yield client, transport
    assert transport.gauges == (0, 0, 0)


async def request_of(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


async def until_gone(reader: asyncio.StreamReader) -> None:
    with suppress(ConnectionError, ssl.SSLError):
        while await reader.read(1 << 16):
            pass


def test_a_verified_connection_speaks_http_1_1_and_is_kept(run: Run, certificate: Path) -> None:
    async def main() -> None:
        agreed: list[str | None] = []

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            agreed.append(writer.get_extra_info("ssl_object").selected_alpn_protocol())
            while True:
                await request_of(reader)
                writer.write(HELLO)

        async with serving(script, certificate) as port, client_of(certificate) as (client, t):
            for _ in range(3):
                assert (await client.get(f"https://localhost:{port}/")).content == b"hello"
            assert agreed == ["http/1.1"]
            assert t.gauges == (1, 1, 0)

    run(main())


@pytest.mark.parametrize(
    ("host", "trusted", "reason"),
    [
        pytest.param("127.0.0.1", True, "IP address mismatch", id="P04-wrong-host"),
        pytest.param("localhost", False, "self.signed certificate", id="P04-self-signed"),
    ],
)
def test_certificates_are_verified(
    run: Run, certificate: Path, host: str, trusted: bool, reason: str
) -> None:
    async def main() -> None:
        sent: list[bytes] = []

        async def script(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
            sent.append(await reader.read())

        # The server's own loop reports the failed handshake; that is not what is tested.
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        async with (
            serving(script, certificate) as port,
            client_of(certificate if trusted else None) as (client, transport),
        ):
            with pytest.raises(TLSError, match=f"TLS with {host} failed: .*{reason}") as caught:
                await client.get(f"https://{host}:{port}/")
            assert isinstance(caught.value, httpx.ConnectError)
            assert transport.gauges.open == 0
        assert b"".join(sent) == b""

    run(main())


def test_plain_http_on_a_tls_port_is_a_tls_error(run: Run) -> None:
    """P05."""

    async def main() -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            await until_gone(reader)

        async with serving(script, None) as port, client_of(None) as (client, transport):
            with pytest.raises(TLSError, match="TLS with localhost failed") as caught:
                await client.get(f"https://localhost:{port}/")
            assert "version" in caught.value.reason.lower()
            assert transport.gauges.open == 0

    run(main())


def test_a_close_in_the_handshake_is_no_tls_error(run: Run) -> None:
    """A balancer that drops us may take us later; a bad certificate stays bad."""

    async def main() -> None:
        async def script(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
            await reader.read(1)

        async with serving(script, None) as port, client_of(None) as (client, _):
            with pytest.raises(httpx.ConnectError) as caught:
                await client.get(f"https://localhost:{port}/")
            assert not isinstance(caught.value, TLSError)

    run(main())


@pytest.mark.parametrize("end", ["clock", "cancel"])
def test_a_stalled_handshake_is_left(run: Run, end: str) -> None:
    """P06, P16: the connect clock covers TLS, and the server sees the client go."""

    async def main() -> None:
        hello, left = asyncio.Event(), asyncio.Event()

        async def script(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
            await reader.read(1)
            hello.set()
            await until_gone(reader)
            left.set()

        async with serving(script, None) as port, client_of(None) as (client, transport):
            clock = 0.2 if end == "clock" else None
            timeout = httpx.Timeout(60, connect=clock)
            task = asyncio.create_task(client.get(f"https://localhost:{port}/", timeout=timeout))
            await hello.wait()
            if end == "cancel":
                task.cancel()
            with pytest.raises((httpx.ConnectTimeout, asyncio.CancelledError)) as caught:
                await task
            assert (caught.type is httpx.ConnectTimeout) == (end == "clock")
            await asyncio.wait_for(left.wait(), LIMIT_S)
            assert transport.gauges.open == 0

    run(main())


@pytest.mark.parametrize("state", ["no-answer", "body"])
def test_cancel_closes_the_socket(run: Run, certificate: Path, state: str) -> None:
    async def main() -> None:
        reached, left = asyncio.Event(), asyncio.Event()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await request_of(reader)
            if state == "body":
                writer.write(CHUNKED + b"5\r\nhel")
            reached.set()
            await until_gone(reader)
            left.set()

        async with serving(script, certificate) as port, client_of(certificate) as (client, t):
            task = asyncio.create_task(client.get(f"https://localhost:{port}/"))
            await reached.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.wait_for(left.wait(), LIMIT_S)
            assert t.gauges.open == 0

    run(main())


def test_a_connection_cut_without_goodbye_is_an_error(run: Run, certificate: Path) -> None:
    async def main() -> None:
        seen = asyncio.Event()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await request_of(reader)
            writer.write(CHUNKED + b"5\r\nhello\r\n")
            await seen.wait()

        async with serving(script, certificate) as port, client_of(certificate) as (client, t):
            async with client.stream("GET", f"https://localhost:{port}/") as response:
                pieces = response.aiter_raw()
                got = await anext(pieces)
                seen.set()
                with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
                    await anext(pieces)
            assert got == b"hello"
            assert t.gauges.idle == 0

    run(main())


def test_push_honours_pause_and_limit(run: Run, certificate: Path) -> None:
    """Not one callback comes while paused, though OpenSSL may hold what was read before."""

    async def main() -> None:
        total = 4 << 20

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await request_of(reader)
            writer.write(OK + b"Content-Length: %d\r\n\r\n" % total)
            for _ in range(0, total, 1 << 16):
                writer.write(b"x" * (1 << 16))
                await writer.drain()
            await until_gone(reader)

        async with serving(script, certificate) as port, client_of(certificate) as (client, t):
            async with client.stream("GET", f"https://localhost:{port}/") as response:
                body: Body = response.extensions[BODY]
                loop, done = asyncio.get_running_loop(), asyncio.Event()
                sizes: list[int] = []
                ends: list[Exception | None] = []
                paused = False

                def on_data(data: bytes) -> None:
                    nonlocal paused
                    assert not paused
                    sizes.append(len(data))
                    paused = True
                    body.pause()
                    body.limit_reads(20_000)
                    loop.call_later(0.001, resume)

                def resume() -> None:
                    nonlocal paused
                    paused = False
                    body.resume()

                def on_end(error: Exception | None) -> None:
                    ends.append(error)
                    done.set()

                body.start(on_data, on_end)
                await asyncio.wait_for(done.wait(), 30)
            assert (sum(sizes), ends) == (total, [None])
            assert max(sizes[1:]) <= 20_000
            assert t.gauges.idle == 1

    run(main())


def test_a_context_that_does_not_verify_is_refused() -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    with pytest.raises(ValueError, match="does not verify"):
        Transport(context, Limits(), 60)
    context.verify_mode = ssl.CERT_NONE
    with pytest.raises(ValueError, match="does not verify"):
        Transport(context, Limits(), 60)
