"""Bad answers of providers, up to their bodies: each ends its own stream with one clear line.

The names of the cases begin with their rows; `test_bad_input` has the table.
"""

from __future__ import annotations

import asyncio
import gzip
import re
import shutil
import ssl
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec
import pytest
from fakes.daemon import (
    CANARY_KEY,
    ONCE,
    Daemon,
    ask,
    canaries,
    daemon,
    free_port,
    in_loop,
    no_descriptor_left,
    replaying,
    take,
    texts,
)
from fakes.raw import (
    CHUNKED,
    Case,
    Script,
    answer,
    answering,
    blackhole,
    chunk,
    ended,
    events,
    greeting,
    said,
)

from ringcast.broker.client import Client
from ringcast.config import Limits
from ringcast.errors import Code, RequestError
from ringcast.providers.http.transport import TLSError, Transport
from ringcast.replay.numbered import numbered_tokens
from ringcast.shm.tokens import Done, Error

CANARIES = 8
REPLAY, RAW, CLOSED, TLS, HOLE = (free_port() for _ in range(5))
CONFIG = f"""
[providers.up]
kind = "openai-compatible"
base_url = "http://127.0.0.1:{REPLAY}/v1"
[providers.claude]
kind = "anthropic"
base_url = "http://127.0.0.1:{REPLAY}/v1"
[providers.raw]
kind = "openai-compatible"
base_url = "http://127.0.0.1:{RAW}/v1"
key = {{ env = "CANARY" }}
[providers.closed]
kind = "openai-compatible"
base_url = "http://127.0.0.1:{CLOSED}/v1"
[providers.nowhere]
kind = "openai-compatible"
base_url = "http://no-such-host.invalid/v1"
[providers.label]
kind = "openai-compatible"
base_url = "http://{"a" * 70}.example/v1"
[providers.plain]
kind = "openai-compatible"
base_url = "https://127.0.0.1:{REPLAY}/v1"
[providers.tls]
kind = "openai-compatible"
base_url = "https://127.0.0.1:{TLS}/v1"
[providers.hole]
kind = "openai-compatible"
base_url = "http://127.0.0.1:{HOLE}/v1"
[providers.locked]
kind = "openai"
key = {{ env = "NOT_SET_ANYWHERE" }}
[limits]
max_headers = 50
max_error_body_bytes = 20000
[timeouts]
connect_s = 2
first_byte_s = 2
idle_s = 2
"""
OK = b'data: {"choices":[{"index":0,"delta":{"content":"ok"},"finish_reason":null}]}\n\n'
DONE = b"data: [DONE]\n\n"
JSON = "content-type: application/json"
HTML = "content-type: text/html"
SSE = "content-type: text/event-stream"
KEY = CANARY_KEY.encode()
PROMPT = "a prompt that no error repeats"
BOMB = gzip.compress(bytes(50 << 20), 9)

# The six places at which an answer can break off, and what a reset and a close are there.
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
WHOLE = CHUNKED + chunk(OK + OK)
PLACES = {
    "before-all": (b"", "server disconnected without.*", ""),
    "in-status-line": (HEAD[:11], "server disconnected inside the response head", ""),
    "in-headers": (HEAD[:30], "server disconnected inside the response head", ""),
    "behind-headers": (CHUNKED, "HTTP 200: .*empty.*", ""),
    "behind-event": (CHUNKED + chunk(OK), "the stream ended before .* complete", "ok"),
    "in-event": (WHOLE[: len(CHUNKED) + 100], "the stream ended before .* complete", "ok"),
    "in-last-byte": (WHOLE[:-1], "the stream ended before .* complete", "okok"),
}
FIN_CODES = {"behind-headers": Code.EMPTY_RESPONSE} | dict.fromkeys(
    ("behind-event", "in-event", "in-last-byte"), Code.STREAM_INCOMPLETE
)
CUTS = {
    f"P09-rst-{place}": Case(
        Script(data, "rst"), Code.TRANSPORT, "connection to 127.0.0.1:.* broke: .+", text
    )
    for place, (data, _, text) in PLACES.items()
} | {
    f"P10-fin-{place}": Case(Script(data), FIN_CODES.get(place, Code.TRANSPORT), message, text)
    for place, (data, message, text) in PLACES.items()
}


def encoded(name: str, body: bytes) -> Case:
    """A body that is compressed, or says so: it is never looked at."""
    script = Script(answer("200 OK", body, SSE, f"content-encoding: {name}"))
    return Case(script, Code.BAD_ENCODING, rf".* \('{name[:20]}'\), although identity was asked.*")


def redirect(status: str, location: str, target: str) -> Case:
    """One that leads to `target`, as the message names it."""
    script = Script(answer(status, b"", f"location: {location}"))
    message = f"HTTP {status[:3]} to {re.escape(target)} is not followed"
    return Case(script, Code.UNEXPECTED_REDIRECT, message)


CASES = CUTS | {
    "P20-metadata": redirect("307 Go", "http://169.254.169.254/?key=x", "169.254.169.254"),
    "P20-localhost": redirect("302 Go", "http://localhost:1/", "localhost"),
    "P20-other-host": redirect("301 Go", "//evil.example/v1", "evil.example"),
    "P20-file": redirect("303 Go", "file:///etc/passwd", "file:"),
    "P20-no-location": Case(Script(answer("307 Go", b"")), Code.UNEXPECTED_REDIRECT, "HTTP 307"),
    "P22-loop": redirect("308 Go", f"http://127.0.0.1:{RAW}/v1/chat/completions", "127.0.0.1"),
    "P23-long-header": Case(
        Script(answer("200 OK", OK, "x: " + "x" * 200_000)),
        Code.BAD_RESPONSE,
        r".*limits\.max_header_bytes.*",
    ),
    "P23-endless-headers": Case(
        Script(b"HTTP/1.1 200 OK\r\nx", again=b"x" * 4096),
        Code.BAD_RESPONSE,
        r".*limits\.max_header_bytes.*",
    ),
    "P24-many-headers": Case(
        Script(answer("200 OK", b"", *(f"h{i}: x" for i in range(5000)))),
        Code.BAD_RESPONSE,
        r".*limits\.max_headers.*",
    ),
    "P25-nul": Case(Script(answer("200 OK", OK, "x: a\0b")), Code.BAD_RESPONSE, ".*header value.*"),
    "P25-cr": Case(Script(answer("200 OK", OK, "x: a\rb")), Code.BAD_RESPONSE, ".*"),
    "P25-escape": Case(
        Script(answer("500 Oh", OK, "content-type: \x1b[31m")), Code.BAD_RESPONSE, ".*header.*"
    ),
    "P25-not-ascii": Case(
        Script(answer("500 Oh", b"no", "content-type: té\x9b\u202ext")),
        Code.HTTP_STATUS,
        "HTTP 500 .*",
    ),
    "P26-no-http": Case(Script(b"SSH-2.0-OpenSSH\r\n\r\n"), Code.BAD_RESPONSE, ".+"),
    "P26-http-0.9": Case(Script(b"<html>hello</html>"), Code.BAD_RESPONSE, ".+"),
    "P27-999": Case(Script(answer("999 Oh", b"")), Code.HTTP_STATUS, "HTTP 999"),
    "P27-099": Case(Script(answer("099 Oh", b"")), Code.BAD_RESPONSE, ".*status.*"),
    "P28-204": Case(Script(b"HTTP/1.1 204 No\r\n\r\n"), Code.EMPTY_RESPONSE, "HTTP 204"),
    "P28-205": Case(Script(answer("205 No", b"")), Code.EMPTY_RESPONSE, "HTTP 205"),
    "P28-304": Case(Script(b"HTTP/1.1 304 No\r\n\r\n"), Code.EMPTY_RESPONSE, "HTTP 304"),
    "P29-no-type-no-events": Case(
        Script(answer("200 OK", b"hello")),
        Code.NOT_EVENT_STREAM,
        "HTTP 200, no content type, is no event stream: hello",
    ),
    "P31-json-error": Case(
        Script(answer("200 OK", b'{"error":{"message":"no"}}', JSON)), Code.PROVIDER_ERROR, "no"
    ),
    "P31-json-error-as-events": Case(
        Script(events(b'{"error":{"message":"no"}}')), Code.PROVIDER_ERROR, "no"
    ),
    "P31-html": Case(
        Script(answer("200 OK", b"<html>login</html>", HTML)),
        Code.NOT_EVENT_STREAM,
        "HTTP 200, text/html, is no event stream: <html>login</html>",
    ),
    "P31-html-long": Case(
        Script(answer("200 OK", b"<p>\n" + b"<b>login</b>\n\n" * 20_000, HTML)),
        Code.NOT_EVENT_STREAM,
        "HTTP 200, text/html, is no event stream: <p> <b>login.*",
    ),
    "P31-empty": Case(
        Script(answer("200 OK", b"", SSE)), Code.EMPTY_RESPONSE, "HTTP 200: .*empty.*"
    ),
    "P32-five-megabytes": Case(
        Script(answer("502 Oh", b"x" * 5_000_000)), Code.HTTP_STATUS, "HTTP 502: x+.*"
    ),
    "P32-endless": Case(
        Script(b"HTTP/1.1 400 Oh\r\n\r\n", again=b"y" * 65_536),
        Code.BAD_REQUEST,
        "HTTP 400: y+.*",
    ),
    "P33-openai": Case(
        Script(answer("401 Unauthorized", b'{"error":{"message":"Bad key.","type":"t"}}', JSON)),
        Code.AUTH,
        r"Bad key\.",
    ),
    "P33-other-shape": Case(
        Script(answer("400 Bad", b'[[{"detail":[{"msg":"a"},{"loc":7}]}]]', JSON)),
        Code.BAD_REQUEST,
        ".*a.*",
    ),
    "P33-deep": Case(
        Script(answer("400 Bad", b'{"error":' * 5000, JSON)), Code.BAD_REQUEST, "HTTP 400 .*"
    ),
    "P33-empty": Case(Script(answer("400 Bad Request", b"")), Code.BAD_REQUEST, "HTTP 400"),
    "P33-html": Case(
        Script(answer("500 Oh", b"<html>\n<b>down</b>\x1b[31m</html>", HTML)),
        Code.HTTP_STATUS,
        r"HTTP 500 \(text/html\): <html> <b>down</b>.*</html>",
    ),
    "P33-utf8": Case(Script(answer("500 Oh", b"\xff\xfe\x80")), Code.HTTP_STATUS, "HTTP 500: .*"),
    "P33-long-type": Case(
        Script(answer("500 Oh", b"", "content-type: " + "x" * 30_000)), Code.HTTP_STATUS, ".*"
    ),
    "P33-compressed": Case(
        Script(answer("500 Oh", BOMB, "content-encoding: gzip")), Code.HTTP_STATUS, "HTTP 500"
    ),
    "P34-401-key-echoed": Case(
        Script(
            answer(
                "401 Unauthorized",
                b'{"error":{"message":"Incorrect API key provided: %b."}}' % KEY,
                JSON,
            )
        ),
        Code.AUTH,
        r"Incorrect API key provided: \[masked\]\.",
    ),
    "P34-403-key-in-plain-text": Case(
        Script(answer("403 Forbidden", b"Bearer " + KEY + b" may not. x-api-key: " + KEY)),
        Code.AUTH,
        r"HTTP 403: Bearer \[masked\] may not\. x-api-key: \[masked\]",
    ),
    "P34-500-key-in-html": Case(
        Script(answer("500 Oh", b"<pre>" + KEY * 3 + b"</pre>" + KEY * 900, HTML)),
        Code.HTTP_STATUS,
        r"HTTP 500 \(text/html\): <pre>(\[masked\]){3}</pre>\[masked\].*",
    ),
    "P35-bomb": encoded("gzip", BOMB),
    "P36-no-gzip": encoded("gzip", b"\x1f\x8b"),
    "P36-plain": encoded("gzip", OK + DONE),
    "P36-truncated": encoded("deflate", BOMB[:1000]),
    "P37-br": encoded("br", OK + DONE),
    "P37-zstd": encoded("zstd", OK + DONE),
    "P37-twice": encoded("identity, x-secret-of-the-house", OK),
    "P38-bad-size": Case(
        Script(CHUNKED + chunk(OK) + b"zz\r\n"), Code.BAD_RESPONSE, "bad response: .+", "ok"
    ),
    "P38-size-2^70": Case(
        Script(CHUNKED + b"%x\r\n" % 2**70 + OK, "hang"), Code.BAD_RESPONSE, "bad response: .+"
    ),
    "P38-no-crlf": Case(
        Script(CHUNKED + chunk(OK)[:-2] + chunk(OK)), Code.BAD_RESPONSE, "bad response: .+", "ok"
    ),
    "P38-extension": Case(
        Script(CHUNKED + chunk(OK) + b"1;" + b"x" * 1_000_000, "hang"),
        Code.BAD_RESPONSE,
        r".*limits\.max_header_bytes.*",
        "ok",
    ),
    "P39-two-lengths": Case(
        Script(answer("200 OK", OK, SSE, "content-length: 5")), Code.BAD_RESPONSE, ".*Length.*"
    ),
    "404": Case(
        Script(answer("404 Not Found", b'{"error":{"message":"no model x"}}', JSON)),
        Code.MODEL_NOT_FOUND,
        "no model x",
    ),
    "400-context": Case(
        Script(answer("400 Bad Request", b'{"error":{"code":"context_length_exceeded"}}', JSON)),
        Code.CONTEXT_LENGTH,
        "HTTP 400.*",
    ),
    "503": Case(Script(answer("503 Oh", b'{"error":"full"}', JSON)), Code.OVERLOADED, "full"),
    "429": Case(
        Script(answer("429 Slow", b'{"error":{"message":"wait"}}', JSON, "retry-after: 7")),
        Code.RATE_LIMITED,
        "wait",
    ),
    "fin-close": Case(Script(events(OK)), Code.STREAM_INCOMPLETE, ".*complete", "ok"),
    "fin-length": Case(
        Script(answer("200 OK", OK + b"data:", SSE)[:-5]), Code.STREAM_INCOMPLETE, ".*", "ok"
    ),
}


class Clock(NamedTuple):
    """A provider that makes somebody wait, and what ends that."""

    model: str
    script: Script
    code: Code
    message: str
    text: str = ""


# An event that never ends, one byte at a time; and 6 MB a second that say nothing.
DRIP, NOISE = 0.25, 0.01
CLOCKS = {
    "P03-dropped-syn": Clock(
        "hole/x", Script(b""), Code.CONNECT_TIMEOUT, r".* 2 s \(timeouts\.connect_s\)"
    ),
    "P06-no-handshake": Clock(
        "tls/x", Script(b""), Code.CONNECT_TIMEOUT, r".* 2 s \(timeouts\.connect_s\)"
    ),
    "P12-no-head": Clock(
        "raw/P12-no-head",
        Script(b"", "hang"),
        Code.FIRST_BYTE_TIMEOUT,
        r".*2 s \(timeouts\.first_byte_s\)",
    ),
    "P13-head-drips": Clock(
        "raw/P13-head-drips",
        Script(b"HTTP/1.1 200 OK\r\nx: ", again=b"x", pause_s=DRIP),
        Code.FIRST_BYTE_TIMEOUT,
        r".*2 s \(timeouts\.first_byte_s\)",
    ),
    "P13-body-drips": Clock(
        "raw/P13-body-drips",
        Script(events(OK + b"data: "), again=b"x", pause_s=DRIP),
        Code.IDLE_TIMEOUT,
        r"no event, only .*, came for 2 s \(timeouts\.idle_s\)",
        "ok",
    ),
    "P14-keep-alives": Clock(
        "raw/P14-keep-alives",
        Script(events(OK + b": keepalive\n\n"), again=b": keepalive\r\n\r\n\n", pause_s=DRIP),
        Code.IDLE_TIMEOUT,
        r"no event, only keep-alives .*, came for 2 s \(timeouts\.idle_s\)",
        "ok",
    ),
    "P14-pings": Clock(
        "raw/P14-pings",
        Script(events(OK), again=b'event: ping\ndata: {"type": "ping"}\n\n', pause_s=DRIP),
        Code.IDLE_TIMEOUT,
        r"no event, only keep-alives .*, came for 2 s \(timeouts\.idle_s\)",
        "ok",
    ),
    "P38-size-2^60": Clock(
        "raw/P38-size-2^60",
        Script(CHUNKED + b"%x\r\n" % 2**60 + OK, "hang"),
        Code.IDLE_TIMEOUT,
        r"nothing came for 2 s \(timeouts\.idle_s\)",
        "ok",
    ),
    "P52-comment": Clock(
        "raw/P52-comment",
        Script(events(OK + b":"), again=b"x" * 65_536, pause_s=NOISE),
        Code.IDLE_TIMEOUT,
        "no event.*",
        "ok",
    ),
    "P52-unknown-field": Clock(
        "raw/P52-unknown-field",
        Script(events(OK), again=b"unknown: x\n" * 6000, pause_s=NOISE),
        Code.IDLE_TIMEOUT,
        "no event.*",
        "ok",
    ),
    "error-never-ends": Clock(
        "raw/error-never-ends",
        Script(b"HTTP/1.1 500 Oh\r\ncontent-length: 99\r\n\r\npartial", "hang"),
        Code.HTTP_STATUS,
        "HTTP 500: partial",
    ),
}


def script_of(model: str) -> Script:
    """What the raw upstream does when it is asked for a case."""
    return CASES[model].script if model in CASES else CLOCKS[model].script


@pytest.fixture(scope="module")
def running() -> Iterator[Daemon]:
    with daemon(CONFIG + ONCE, CANARY=CANARY_KEY) as started:
        with no_descriptor_left(started, REPLAY):
            yield started
        assert CANARY_KEY not in (started.directory / "state.json").read_text()
        for pid in started.pids:
            for name in ("cmdline", "environ"):
                assert KEY not in Path(f"/proc/{pid}/{name}").read_bytes()
        started.end()
        assert CANARY_KEY not in started.said
        assert PROMPT not in started.said


@pytest.mark.parametrize("name", CASES)
@in_loop
async def test_answer(running: Daemon, name: str) -> None:
    case = CASES[name]
    async with (
        replaying(REPLAY),
        answering(RAW, script_of) as raw,
        canaries(running, count=CANARIES),
        running.connect() as client,
    ):
        before = await errors(client)
        tokens = await take(await client.chat(f"raw/{name}", [{"role": "user", "content": PROMPT}]))
        assert said(tokens) == case.text
        assert await errors(client) - before == Counter({f"error.{case.code}": 1})
        ended(tokens, case.code, case.message, CANARY_KEY, PROMPT)
        await raw.until_left()
        assert raw.models == [name]  # asked once: a redirect is not followed
        again = await take(await ask(client, "up/numbered;n=3"))  # nothing is left of the fault
        assert isinstance(again[-1], Done)


async def errors(client: Client) -> Counter[str]:
    """How often the workers ended a stream with each code."""
    blocks = (await client.status())["counters"]
    return Counter({k: n for block in blocks for k, n in block.items() if k.startswith("error.")})


@in_loop
async def test_clocks(running: Daemon) -> None:
    """All of them at once, since each takes its two seconds."""

    async def one(clock: Clock) -> None:
        tokens = await take(await ask(client, clock.model))
        assert said(tokens) == clock.text
        ended(tokens, clock.code, clock.message)

    async with (
        replaying(REPLAY),
        answering(RAW, script_of) as raw,
        greeting(TLS, b""),
        blackhole(HOLE),
        canaries(running, count=CANARIES),
        running.connect() as client,
    ):
        await asyncio.gather(*map(one, CLOCKS.values()))
        await raw.until_left()


@pytest.mark.parametrize(
    ("model", "code", "message"),
    [
        ("nowhere/x", Code.CONNECT_FAILED, "cannot resolve no-such-host.invalid: .+"),
        ("label/x", Code.CONNECT_FAILED, "cannot resolve a{70}.example: .+"),
        ("closed/x", Code.CONNECT_FAILED, f"connection refused by 127.0.0.1:{CLOSED}"),
        ("plain/x", Code.TLS_ERROR, "TLS with 127.0.0.1 failed: .+"),
        ("up/numbered;status=401", Code.AUTH, ".+"),
        ("claude/numbered;status=401", Code.AUTH, ".+"),
        ("claude/numbered;status=529", Code.OVERLOADED, ".+"),
        ("claude/no-such-knob;x=1", Code.BAD_REQUEST, ".*no such knob.*"),
        ("up/numbered;n=50;eof_at=3000", Code.STREAM_INCOMPLETE, ".+"),
        ("up/numbered;n=50;reset_at=3000", Code.TRANSPORT, ".+"),
        ("claude/numbered;n=50;eof_at=3000;length=close", Code.STREAM_INCOMPLETE, ".+"),
    ],
)
@in_loop
async def test_way(running: Daemon, model: str, code: Code, message: str) -> None:
    async with replaying(REPLAY), canaries(running, count=CANARIES), running.connect() as client:
        ended(await take(await ask(client, model)), code, message, CANARY_KEY)


@in_loop
async def test_p05_a_peer_that_knows_sslv3_only(running: Daemon) -> None:
    alert = b"\x15\x03\x00\x00\x02\x02\x28"  # SSLv3, fatal: handshake_failure
    async with greeting(TLS, alert), running.connect() as client:
        tokens = await take(await ask(client, "tls/x"))
        ended(tokens, Code.TLS_ERROR, "TLS with 127.0.0.1 failed: .+")


needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="needs the openssl command to make a certificate"
)
AUTHORITY = """
[ca]
default_ca = it
[it]
database = index
new_certs_dir = .
serial = serial
default_md = sha256
policy = any
x509_extensions = names
[any]
commonName = supplied
[names]
subjectAltName = DNS:localhost
"""


def certificate(folder: Path, begins: str, ends: str) -> ssl.SSLContext:
    """A server's context whose self-signed certificate for localhost is `folder/cert.pem`."""

    def openssl(words: str) -> None:
        subprocess.run(["openssl", *words.split()], cwd=folder, check=True, capture_output=True)

    (folder / "ca.cnf").write_text(AUTHORITY)
    (folder / "index").touch()
    (folder / "serial").write_text("01")
    openssl(
        "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost"
        " -keyout key.pem -out asked.pem"
    )
    openssl(
        "ca -batch -notext -selfsign -config ca.cnf -keyfile key.pem -in asked.pem -out cert.pem"
        f" -startdate {begins} -enddate {ends}"
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


@needs_openssl
@in_loop
async def test_p04_a_certificate_that_has_expired(tmp_path: Path) -> None:
    """Others that are not to be trusted: `test_certificates_are_verified`."""
    context = certificate(tmp_path, "20200101000000Z", "20200102000000Z")
    transport = Transport(ssl.create_default_context(cafile=tmp_path / "cert.pem"), Limits(), 60)
    async with (
        answering(TLS, script_of, context) as raw,
        httpx.AsyncClient(transport=transport) as client,
    ):
        with pytest.raises(TLSError, match=r"TLS with localhost failed: .*has expired"):
            await client.post(f"https://localhost:{TLS}/", content=b"secret")
        assert raw.models == []


@needs_openssl
@in_loop
async def test_p04_a_certificate_that_nobody_vouches_for(running: Daemon, tmp_path: Path) -> None:
    """It is tried once, and never without a check."""
    context = certificate(tmp_path, "20200101000000Z", "22000101000000Z")
    hellos: list[Any] = []
    context.sni_callback = lambda *about: hellos.append(about)
    async with answering(TLS, script_of, context) as raw, running.connect() as client:
        tokens = await take(await ask(client, "tls/x"))
        ended(tokens, Code.TLS_ERROR, "TLS with 127.0.0.1 failed: .*self.signed.*")
        assert (len(hellos), raw.models) == (1, [])


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(events(OK + DONE).replace(b"event-stream", b"plain"), id="P29-text-plain"),
        pytest.param(
            answer("200 OK", OK + DONE, "content-type: application/octet-stream"), id="P29-octets"
        ),
        pytest.param(answer("200 OK", OK + DONE), id="P29-no-type"),
        pytest.param(
            answer("200 OK", OK + DONE, SSE + "; charset=iso-8859-1"), id="P30-other-charset"
        ),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000 + events(OK + DONE), id="P27-100s"),
        pytest.param(events(OK + DONE).replace(b"HTTP/1.1", b"HTTP/1.0"), id="http-1.0"),
        pytest.param(
            CHUNKED + b"".join(chunk(b"%c" % c) for c in OK + DONE), id="P38-1-byte-chunks"
        ),
        pytest.param(
            CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n")
            + chunk(OK + DONE)
            + b"0\r\n\r\n",
            id="P39-length-and-chunked",
        ),
        pytest.param(answer("200 OK", OK + DONE, SSE) + b"data: junk\n\n", id="P40-over-length"),
        pytest.param(CHUNKED + chunk(OK + DONE) + b"0\r\nx: y\r\n\r\n", id="P41-trailer"),
    ],
)
@in_loop
async def test_odd_but_whole(running: Daemon, data: bytes) -> None:
    """What is only odd is forgiven."""
    script = Script(data, "hang")
    async with answering(RAW, lambda _: script), running.connect() as client:
        tokens = await take(await ask(client, "raw/x"))
        assert texts(tokens) == ["ok"]
        assert isinstance(tokens[-1], Done)


@in_loop
async def test_p30_whatever_the_charset_it_is_utf_8(running: Daemon) -> None:
    latin = SSE + "; charset=iso-8859-1"
    body = OK.replace(b"ok", "é€".encode() + b"\xe9") + DONE
    async with (
        answering(RAW, lambda _: Script(answer("200 OK", body, latin))),
        running.connect() as client,
    ):
        assert said(await take(await ask(client, "raw/x"))) == "é€\ufffd"


@pytest.mark.parametrize("fault", ["eof_at", "reset_at"])
@pytest.mark.parametrize("provider", ["up", "claude"])
@pytest.mark.parametrize("length", ["chunked", "close"])
@in_loop
async def test_cut_anywhere(running: Daemon, fault: str, provider: str, length: str) -> None:
    """Wherever a body breaks off: what came whole is told, and the stream has one end."""
    whole = list(numbered_tokens(6))

    async def one(at: int) -> int:
        model = f"{provider}/numbered;n=6;{fault}={at};length={length}"
        tokens = await take(await ask(client, model))
        said = texts(tokens)
        assert said == whole[: len(said)]
        assert sum(isinstance(token, Done | Error) for token in tokens) == 1
        end = tokens[-1]
        if isinstance(end, Error):
            assert end.code in (Code.STREAM_INCOMPLETE, Code.TRANSPORT, Code.EMPTY_RESPONSE), end
        else:
            assert isinstance(end, Done)
            assert said == whole
        return len(said)

    async with replaying(REPLAY), running.connect() as client:
        counts = await asyncio.gather(*map(one, range(0, 2000, 23)))
    assert set(counts) >= {0, 3, 6}


@in_loop
async def test_retry_after_is_told(running: Daemon) -> None:
    async with answering(RAW, script_of), running.connect() as client:
        error = (await take(await ask(client, "raw/429")))[-1]
        assert isinstance(error, Error)
        assert (error.retryable, error.retry_after_s, error.status) == (True, 7.0, 429)


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        ({"model": "x"}, Code.BAD_REQUEST, r"model: .*a route \(none is configured\)"),
        ({"model": "nobody/x"}, Code.UNKNOWN_PROVIDER, "no provider 'nobody'; known are .*up.*"),
        ({"model": "locked/x"}, Code.PROVIDER_DISABLED, ".*NOT_SET_ANYWHERE is not set"),
        ({"model": "up/" + "x" * 600}, Code.BAD_REQUEST, "model: has 603 characters, .*"),
        ({"model": 5}, Code.BAD_REQUEST, "request: .*"),
        ({"model": "up/x", "window": -1}, Code.BAD_REQUEST, "window: -1 is negative"),
    ],
)
@in_loop
async def test_refused_before_it_is_a_stream(
    running: Daemon, request_: dict[str, Any], code: Code, message: str
) -> None:
    async with running.connect() as client:
        with pytest.raises(RequestError) as refused:
            await ask(client, **request_)
        assert refused.value.code == code
        assert re.fullmatch(message, refused.value.message), refused.value.message


CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{bad"}}
CALLED = {"role": "assistant", "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "1", "content": "done"}
USER = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("provider", "fields", "named"),
    [
        ("up", {"messages": []}, "messages"),
        ("up", {"messages": None}, "messages"),
        ("up", {"messages": [{"content": "x"}]}, r"messages\[0\]\.role"),
        ("up", {"temperature": 9.0}, "temperature"),
        ("up", {"temperature": float("nan")}, "temperature"),
        ("up", {"max_tokens": -1}, "max_tokens"),
        ("up", {"n": 0}, "n"),
        ("up", {"no_such_field": 1}, ".*unknown field .no_such_field."),
        ("up", {"api": "messages"}, "api"),
        ("up", {"prompt": "x"}, "messages"),
        ("claude", {"seed": 1}, "seed"),
        ("claude", {"tools": [{"function": {}}]}, r"tools\[\]\.function"),
        ("claude", {"tools": [{"function": 5}]}, r"tools\[\]\.function"),
        ("claude", {"tool_choice": "perhaps"}, "tool_choice"),
        ("claude", {"tool_choice": {"function": {}}}, r"tool_choice\.function"),
        ("claude", {"messages": [CALLED, RESULT]}, ".*arguments"),
        ("claude", {"messages": [{"role": "assistant", "tool_calls": [{}]}]}, ".*tool_calls"),
        ("claude", {"messages": [{"role": "assistant", "tool_calls": 7}]}, ".*tool_calls"),
        ("claude", {"messages": [{"role": "user", "content": 7}]}, ".*content"),
        ("claude", {"messages": [{"role": "user", "content": ["x"]}]}, ".*content"),
        ("claude", {"messages": [USER | {"content": [{"type": "image_url"}]}]}, r".*content\[\]"),
        ("claude", {"messages": [USER, {"role": "system", "content": 7}]}, ".*content"),
    ],
)
@in_loop
async def test_bad_request(
    running: Daemon, provider: str, fields: dict[str, Any], named: str
) -> None:
    """Nothing is sent; the stream ends with the field's name. It never hangs."""
    async with replaying(REPLAY) as upstream, running.connect() as client:
        request = {"model": f"{provider}/numbered;n=1", "messages": [USER]} | fields
        tokens = await take(await client.chat(**request))
        ended(tokens, Code.BAD_REQUEST, named + "(: .*|)")
        assert not upstream.seen


@in_loop
async def test_a_value_that_json_does_not_have(running: Daemon) -> None:
    async with replaying(REPLAY) as upstream, running.connect() as client:
        odd = msgspec.msgpack.Ext(5, b"x")
        tokens = await take(await ask(client, "up/numbered;n=1", extra={"odd": odd}))
        ended(tokens, Code.BAD_REQUEST, ".+")
        assert not upstream.seen
