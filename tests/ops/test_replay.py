"""The replay upstream: every recording byte for byte, every knob, every way a stream ends."""

from __future__ import annotations

import asyncio
import csv
import functools
import hashlib
import importlib.resources
import itertools
import json
import os
import re
import resource
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from ringcast.errors import ConfigError, StartupError
from ringcast.providers.wire.summary import decode, summarize
from ringcast.replay.behaviour import Behaviour, KnobError, pieces, turned
from ringcast.replay.exchange import Connection
from ringcast.replay.numbered import numbered_tokens
from ringcast.replay.process import Upstream, spawned
from ringcast.replay.recording import Framing, Library, Recording, bundled, corpus, events
from ringcast.replay.wheel import Wheel
from ringcast.shm.tokens import Done

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
TEXT = "openai/chat-text-usage"
FLAT = Behaviour(pace=0)
BUNDLED = {r.name: r for r in bundled()}
ROOT = Path(__file__).parents[2]
CORPUS = Path(os.environ.get("RINGCAST_CORPUS", ROOT.parent / "shared" / "corpus"))
needs_corpus = pytest.mark.skipif(
    not (CORPUS / "INDEX.tsv").is_file(), reason=f"no corpus of recordings in {CORPUS}"
)


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test in a fresh uvloop, for at most a minute."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        uvloop.run(asyncio.wait_for(test(*args, **kwargs), 60))

    return run


@asynccontextmanager
async def serving(behaviour: Behaviour = FLAT) -> AsyncIterator[tuple[Upstream, int]]:
    upstream = Upstream(BUNDLED.values(), behaviour)
    port = await upstream.start()
    try:
        yield upstream, port
    finally:
        await upstream.stop()


async def ask(
    port: int,
    model: str,
    path: str = CHAT,
    *,
    stream: bool = True,
    headers: dict[str, str] | None = None,
) -> httpx.Response:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        return await client.post(path, json={"model": model, "stream": stream}, headers=headers)


def request(model: str, path: str = CHAT, version: str = "1.1") -> bytes:
    body = json.dumps({"model": model, "stream": True}).encode()
    head = f"POST {path} HTTP/{version}\r\nhost: replay\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def opened(
    port: int, model: str, path: str = CHAT
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A raw connection with the request sent and the head of the answer read."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request(model, path))
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
    return reader, writer


async def chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The HTTP chunks up to the last one."""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        yield (await reader.readexactly(size + 2))[:-2]
    assert await reader.readexactly(2) == b"\r\n"


async def all_chunks(port: int, model: str) -> list[bytes]:
    reader, writer = await opened(port, model)
    taken = [chunk async for chunk in chunks(reader)]
    writer.close()
    return taken


class Collector(asyncio.Protocol):
    """Keeps all bytes up to the end of the connection, which StreamReader drops at a reset."""

    def __init__(self) -> None:
        self.taken = b""
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.taken += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


async def broken_off(port: int, model: str) -> tuple[list[bytes], Exception | None]:
    """The chunks of an answer without a last one, and how its connection was lost."""
    loop = asyncio.get_running_loop()
    transport, collector = await loop.create_connection(Collector, "127.0.0.1", port)
    transport.write(request(model))
    lost = await collector.lost
    rest, taken = collector.taken.partition(b"\r\n\r\n")[2], []
    while rest:
        line, _, rest = rest.partition(b"\r\n")
        size = int(line, 16)
        assert size
        taken.append(rest[:size])
        assert rest[size : size + 2] == b"\r\n"
        rest = rest[size + 2 :]
    return taken, lost


# ---- the recordings


def test_bundled_bodies_are_as_they_were_written() -> None:
    folder = importlib.resources.files("ringcast.replay") / "bodies"
    index = (folder / "INDEX.tsv").read_text(encoding="utf-8").splitlines()
    rows = list(csv.DictReader(index, delimiter="\t"))
    assert [row["sha256_16"] for row in rows] == [
        hashlib.sha256(r.body).hexdigest()[:16] for r in BUNDLED.values()
    ]


@pytest.mark.parametrize("recording", BUNDLED.values(), ids=lambda r: str(r.name))
@in_loop
async def test_bundled_recording_is_served_byte_for_byte(recording: Recording) -> None:
    async with serving() as (_, port):
        answer = await ask(port, recording.name, recording.path)
    assert answer.content == recording.body
    assert answer.status_code == recording.status
    assert answer.headers["content-type"] == recording.content_type


@needs_corpus
@in_loop
async def test_corpus_is_served_byte_for_byte() -> None:
    recordings = [r for r in corpus(CORPUS) if r.api != "models"]
    assert len(recordings) > 100
    upstream = Upstream(recordings, FLAT)
    url = f"http://127.0.0.1:{await upstream.start()}"
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        for recording in recordings:
            asked = {"model": recording.name, "stream": recording.streamed}
            answer = await client.post(recording.path, json=asked)
            assert answer.content == recording.body, recording.name
            assert answer.status_code == recording.status, recording.name
    await upstream.stop()


@needs_corpus
def test_every_event_of_the_corpus_is_whole() -> None:
    for recording in corpus(CORPUS):
        parts = events(recording.body, recording.framing)
        assert b"".join(parts) == recording.body
        if recording.framing == "eventstream":
            assert all(int.from_bytes(part[:4], "big") == len(part) for part in parts)
        elif recording.framing == "sse":
            assert all(re.search(rb"(\r\n\r\n|\n\n|\r\r)\Z", p) for p in parts[:-1])


@given(st.text(alphabet="ab\r\n\0", max_size=40), st.sampled_from(["sse", "ndjson", "json"]))
def test_events_joined_are_the_body(text: str, framing: Framing) -> None:
    assert b"".join(events(text.encode(), framing)) == text.encode()


@given(st.binary(max_size=60))
def test_damaged_event_stream_is_served_nonetheless(body: bytes) -> None:
    assert b"".join(events(body, "eventstream")) == body


def test_folder_without_index_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(str(tmp_path))):
        corpus(tmp_path)


@pytest.mark.parametrize(
    ("name", "api", "stream", "found"),
    [
        ("groq/chat-text", "chat", True, "groq/chat-text"),
        ("chat-keep-alive", "chat", True, "openrouter/chat-keep-alive"),
        ("gpt-4o", "chat", True, TEXT),
        ("", "messages", True, "anthropic/thinking-text"),
        ("gpt-4o", "chat", False, "openai/json-chat"),
        (TEXT, "chat", False, "openai/json-chat"),
        ("openai/json-chat", "chat", True, "openai/json-chat"),
        ("err-529", "messages", False, "anthropic/err-529"),
        ("anthropic/tool-use", "chat", True, None),
        ("text-davinci", "completions", False, None),
        ("gemini-pro", "generate", True, None),
        ("claude", "converse", True, "bedrock/converse-thinking"),
        ("claude", "converse", False, "bedrock/json-converse"),
    ],
)
def test_which_recording_answers(name: str, api: str, stream: bool, found: str | None) -> None:
    recording = Library(BUNDLED.values()).find(name, api, stream=stream)
    assert (recording.name if recording else None) == found


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (CHAT, "openai/json-chat"),
        (MESSAGES, "anthropic/json-message"),
        ("/model/any/converse", "bedrock/json-converse"),
        ("/model/bedrock%2Fjson-converse/converse", "bedrock/json-converse"),
        ("/model/any/invoke", "bedrock/json-invoke-claude"),
        ("/api/chat", "ollama/json-native"),
        ("/api/generate", "ollama/json-native"),
    ],
)
@in_loop
async def test_an_answer_that_is_not_streamed_is_one_of_json(path: str, name: str) -> None:
    model = {} if path.startswith("/model/") else {"model": "any"}
    async with serving() as (_, port), httpx.AsyncClient() as client:
        asked = model | {"stream": False}
        answer = await client.post(f"http://127.0.0.1:{port}{path}", json=asked)
    assert answer.content == BUNDLED[name].body
    assert answer.headers["content-type"].startswith("application/json")
    api = BUNDLED[name].api
    whole = decode(api, [answer.content[:50], answer.content[50:]])
    assert isinstance(whole[-1], Done)
    stream = BUNDLED.get(name.replace("json-", "") + "-thinking")
    if stream is not None:
        assert summarize(decode(api, [stream.body])) == summarize(whole)


# ---- the knobs


def test_knobs_change_the_defaults() -> None:
    assert turned(Behaviour(pace=5), "cut=7;length=close;clock=1;") == Behaviour(
        pace=5, cut=7, length="close", clock=True
    )


@pytest.mark.parametrize(
    "knobs", ["speed=1", "key=x", "pace=-1", "pace=nan", "cut=x", "status=99", "length=long", "cut"]
)
def test_bad_knob_is_refused(knobs: str) -> None:
    with pytest.raises(KnobError):
        turned(FLAT, knobs)


offsets = st.none() | st.integers(0, 60)


@given(
    st.lists(st.binary(min_size=1, max_size=12), max_size=6),
    st.builds(
        Behaviour,
        cut=st.integers(0, 9),
        cut_seed=st.none() | st.integers(0, 99),
        drip=st.sampled_from([0.0, 1.0]),
        stall_at=offsets,
        reset_at=offsets,
        eof_at=offsets,
    ),
)
def test_pieces_are_the_body_up_to_its_break(parts: list[bytes], behaviour: Behaviour) -> None:
    body = b"".join(parts)[: behaviour.ends_at]
    cut = list(pieces(parts, behaviour))
    assert b"".join(cut) == body
    assert all(cut) or behaviour.ends_at is not None
    if behaviour.drip:
        assert all(len(piece) <= 1 for piece in cut)
    elif behaviour.cut:
        assert all(len(piece) <= behaviour.cut for piece in cut)
    if behaviour.stall_at is not None and behaviour.stall_at <= len(body):
        assert behaviour.stall_at in itertools.accumulate(map(len, cut), initial=0)


@in_loop
async def test_each_event_is_a_chunk_of_its_own() -> None:
    body = BUNDLED[TEXT].body
    async with serving() as (_, port):
        assert await all_chunks(port, TEXT) == events(body, "sse")


@in_loop
async def test_pace_is_never_exceeded() -> None:
    begun = time.monotonic()
    async with serving() as (_, port):
        await ask(port, "numbered;n=40;pace=20")
    assert time.monotonic() - begun >= 2.0


@in_loop
async def test_cut_sends_pieces_of_its_size_a_millisecond_apart() -> None:
    begun = time.monotonic()
    async with serving() as (_, port):
        cut = await all_chunks(port, f"{TEXT};cut=100")
    assert b"".join(cut) == BUNDLED[TEXT].body
    assert {len(piece) for piece in cut[:-1]} == {100}
    assert time.monotonic() - begun >= 0.001 * len(cut)


@in_loop
async def test_cut_seed_repeats_itself() -> None:
    async with serving() as (_, port):
        first, again, other = [
            [len(piece) for piece in await all_chunks(port, f"groq/chat-text;{knobs}")]
            for knobs in ("cut=500;cut_seed=3", "cut=500;cut_seed=3", "cut=500;cut_seed=4")
        ]
    assert first == again != other
    assert max(first) <= 500


@in_loop
async def test_drip_sends_single_bytes() -> None:
    begun = time.monotonic()
    async with serving() as (_, port):
        taken, _ = await broken_off(port, f"{TEXT};drip=0.1;eof_at=20")
    assert [len(chunk) for chunk in taken] == [1] * 20
    assert time.monotonic() - begun >= 2.0


@in_loop
async def test_stall_stops_at_its_offset_and_goes_on() -> None:
    async with serving() as (_, port):
        reader, _ = await opened(port, f"{TEXT};stall_at=700;stall_s=2")
        coming = chunks(reader)
        taken = b""
        while len(taken) < 700:
            taken += await anext(coming)
        assert taken == BUNDLED[TEXT].body[:700]
        stalled = time.monotonic()
        taken += await anext(coming)
        assert time.monotonic() - stalled >= 1.5
        taken += b"".join([chunk async for chunk in coming])
    assert taken == BUNDLED[TEXT].body


@pytest.mark.parametrize("at", [0, 1, 700])
@in_loop
async def test_reset_comes_after_its_offset(at: int) -> None:
    async with serving() as (upstream, port):
        taken, lost = await broken_off(port, f"{TEXT};reset_at={at}")
        assert upstream.seen[0].ended == "done"
    assert b"".join(taken) == BUNDLED[TEXT].body[:at]
    assert isinstance(lost, ConnectionResetError)


@pytest.mark.parametrize("at", [0, 1, 700])
@in_loop
async def test_eof_comes_without_the_closing_chunk(at: int) -> None:
    async with serving() as (_, port):
        taken, lost = await broken_off(port, f"{TEXT};eof_at={at}")
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
            await ask(port, f"{TEXT};eof_at={at}")
        with pytest.raises(httpx.RemoteProtocolError, match=f"received {at} bytes"):
            await ask(port, f"{TEXT};eof_at={at};length=length")
    assert b"".join(taken) == BUNDLED[TEXT].body[:at]
    assert lost is None


@pytest.mark.parametrize("length", ["chunked", "close", "length"])
@in_loop
async def test_length_is_told_in_three_ways(length: str) -> None:
    async with serving() as (_, port):
        headers = (answer := await ask(port, f"{TEXT};length={length}")).headers
    assert answer.content == BUNDLED[TEXT].body
    assert ("transfer-encoding" in headers) == (length == "chunked")
    assert ("content-length" in headers) == (length == "length")
    assert ("connection" in headers) == (length == "close")


@in_loop
async def test_status_turns_the_answer_into_the_providers_error() -> None:
    async with serving() as (_, port):
        limited = await ask(port, f"{TEXT};status=429;retry_after=1.5")
        overloaded = await ask(port, "any;status=529", MESSAGES)
        renamed = await ask(port, "openai/err-429;status=503")
        empty = await ask(port, f"{TEXT};status=204")
    assert (limited.status_code, limited.headers["retry-after"]) == (429, "1.5")
    assert limited.json()["error"]["code"] == "rate_limit_exceeded"
    assert (overloaded.status_code, overloaded.json()["type"]) == (529, "error")
    assert overloaded.json()["error"]["type"] == "overloaded_error"
    assert (renamed.status_code, renamed.content) == (503, BUNDLED["openai/err-429"].body)
    assert (empty.status_code, empty.content) == (204, b"")


@in_loop
async def test_content_type_and_delay() -> None:
    begun = time.monotonic()
    async with serving() as (_, port):
        answer = await ask(port, f"{TEXT};content_type=text/html;delay_s=2")
    assert answer.headers["content-type"] == "text/html"
    assert time.monotonic() - begun >= 2.0


# ---- numbered streams


def texts(body: bytes) -> list[str]:
    """The visible texts of an OpenAI or Anthropic stream, empty ones left out."""
    found = re.findall(rb'"(?:content|text)":"([^"]+)"', body)
    return [text.decode() for text in found]


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
@in_loop
async def test_numbered_stream_is_what_its_helper_says(path: str) -> None:
    async with serving() as (_, port):
        answer = await ask(port, "numbered;n=500;seed=7", path)
    assert texts(answer.content) == list(numbered_tokens(500, 7))
    for event in events(answer.content, "sse"):
        data = event.rstrip().rpartition(b"data: ")[2]
        assert data == b"[DONE]" or isinstance(json.loads(data), dict)


def test_streams_of_two_seeds_share_no_token() -> None:
    a, b = list(numbered_tokens(50, 1)), list(numbered_tokens(50, 2))
    assert not {text.partition(":")[2] for text in a} & {text.partition(":")[2] for text in b}


@in_loop
async def test_clock_tokens_are_stamped_before_their_write() -> None:
    begun = time.monotonic_ns()
    async with serving() as (_, port):
        answer = await ask(port, "numbered;n=20;clock=1")
    stamps = texts(answer.content)
    assert all(re.fullmatch(r"t\d{19}", stamp) for stamp in stamps)
    times = [int(stamp[1:]) for stamp in stamps]
    assert begun < times[0]
    assert times == sorted(times)
    assert times[-1] < time.monotonic_ns()


# ---- requests


@in_loop
async def test_models_lists_the_recordings() -> None:
    async with serving() as (_, port), httpx.AsyncClient() as client:
        listed = (await client.get(f"http://127.0.0.1:{port}/v1/models")).json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == [*BUNDLED, "numbered"]


@in_loop
async def test_refusals_have_the_providers_shape() -> None:
    async with serving() as (upstream, port), httpx.AsyncClient() as client:
        url = f"http://127.0.0.1:{port}"
        nowhere = await client.get(f"{url}/v2/nothing")
        garbled = await client.post(url + MESSAGES, content=b'{"model": 1')
        foreign = await ask(port, "anthropic/tool-use")
        knob = await ask(port, "gpt-4o;warp=9", MESSAGES)
        gemini = await client.post(f"{url}/v1beta/models/g:generateContent", json={})
        assert [seen.ended for seen in upstream.seen] == ["done"] * 5
    assert (nowhere.status_code, nowhere.json()["error"]["code"]) == (404, "model_not_found")
    assert (garbled.status_code, garbled.json()["type"]) == (400, "error")
    assert (foreign.status_code, foreign.json()["error"]["param"]) == (404, None)
    assert (knob.status_code, "warp" in knob.json()["error"]["message"]) == (400, True)
    assert (gemini.status_code, gemini.json()["error"]["status"]) == (404, "NOT_FOUND")


@in_loop
async def test_key_is_asked_for_and_never_kept() -> None:
    async with serving(Behaviour(pace=0, key="sk-canary")) as (upstream, port):
        without = await ask(port, TEXT)
        wrong = await ask(port, "any", MESSAGES, headers={"x-api-key": "sk-wrong"})
        bearer = await ask(port, TEXT, headers={"authorization": "Bearer sk-canary"})
        header = await ask(port, "any", MESSAGES, headers={"x-api-key": "sk-canary"})
        assert "sk-" not in repr(upstream.seen)
        assert upstream.seen[2].headers["authorization"] == "***"
    assert (without.status_code, without.json()["error"]["code"]) == (401, "invalid_api_key")
    assert (wrong.status_code, wrong.json()["error"]["type"]) == (401, "authentication_error")
    assert (bearer.status_code, header.status_code) == (200, 200)


@in_loop
async def test_requests_of_one_connection_are_answered_in_turn() -> None:
    async with serving() as (upstream, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request("openai/err-401") + request("openai/err-429"))
        for name in ("openai/err-401", "openai/err-429"):
            await reader.readuntil(b"\r\n\r\n")
            assert b"".join([c async for c in chunks(reader)]) == BUNDLED[name].body
        assert len(upstream.connections) == 1
        writer.close()


@in_loop
async def test_http10_and_garbage() -> None:
    async with serving() as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(TEXT, version="1.0"))
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        assert b"chunked" not in head
        assert body == BUNDLED[TEXT].body
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x16\x03\x01 hello\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")


# ---- what the upstream sees of its clients


@in_loop
async def test_end_of_a_stream_is_seen() -> None:
    async with serving() as (upstream, port):
        _, leaving = await opened(port, "numbered;n=0;pace=100")
        _, resetting = await opened(port, "numbered;n=0;pace=100;seed=1")
        await ask(port, TEXT)
        assert [seen.ended for seen in upstream.seen] == ["open", "open", "done"]
        assert upstream.open_streams == 2
        leaving.write_eof()  # a close with something unread would be a reset
        await upstream.until(lambda: upstream.seen[0].ended != "open")
        leaving.close()
        linger = struct.pack("ii", 1, 0)
        resetting.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        resetting.transport.abort()
        await upstream.until(lambda: upstream.open_streams == 0)
        assert [seen.ended for seen in upstream.seen] == ["fin", "rst", "done"]
        assert all(seen.ended_at is not None for seen in upstream.seen)
        assert msgspec.structs.asdict(upstream.stats) == {
            "requests": 3,
            "open_streams": 0,
            "bytes_sent": upstream.bytes_sent,
            "done": 1,
            "fin": 1,
            "rst": 1,
        }
        assert upstream.bytes_sent == sum(seen.sent for seen in upstream.seen)


@in_loop
async def test_looking_at_the_counters_does_not_count() -> None:
    async with serving() as (upstream, port):
        url = f"http://127.0.0.1:{port}/_stats"
        async with httpx.AsyncClient() as client:
            looks = [(await client.get(url)).json() for _ in range(2)]
            assert len(upstream.connections) == 1
        assert looks == [dict.fromkeys(looks[0], 0)] * 2
        assert not upstream.seen


@in_loop
async def test_request_is_seen_as_it_was_sent() -> None:
    async with serving() as (upstream, port):
        await ask(port, "gpt-4o;cut=9999", "/openai/v1/chat/completions", headers={"editor": "vim"})
        seen = upstream.seen[0]
    assert (seen.path, seen.model) == ("/openai/v1/chat/completions", "gpt-4o;cut=9999")
    assert seen.headers["editor"] == "vim"
    assert json.loads(seen.body) == {"model": "gpt-4o;cut=9999", "stream": True}
    assert seen.sent == len(BUNDLED[TEXT].body)


@in_loop
async def test_client_that_does_not_read_holds_its_stream_only() -> None:
    async with serving() as (upstream, port):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 10)
        sock.connect(("127.0.0.1", port))
        sock.sendall(request("numbered;n=20000"))
        await upstream.until(lambda: len(upstream.seen) == 1)
        connection: Connection = next(iter(upstream.connections))
        while not connection.paused:  # noqa: ASYNC110 - transports tell only their protocol
            await asyncio.sleep(0)
        assert (await ask(port, TEXT)).content == BUNDLED[TEXT].body
        held = upstream.seen[0]
        assert (held.ended, connection.paused) == ("open", True)
        assert held.sent < 1 << 20
        reader, writer = await asyncio.open_connection(sock=sock)
        await reader.readuntil(b"\r\n\r\n")
        body = b"".join([chunk async for chunk in chunks(reader)])
        assert texts(body) == list(numbered_tokens(20_000))
        assert (held.ended, held.sent) == ("done", len(body))
        writer.close()


@in_loop
async def test_stop_ends_what_is_open() -> None:
    async with serving() as (upstream, port):
        reader, writer = await opened(port, "numbered;n=0;pace=10")
    assert upstream.open_streams == 0
    await reader.read()
    writer.close()


@in_loop
async def test_wheel_is_never_early() -> None:
    wheel = Wheel(asyncio.get_running_loop())
    done = asyncio.Event()
    late: list[tuple[float, float]] = []
    start = time.monotonic()
    dues = [start + ms / 1000 for ms in (30, 5, 5.2, 0, 90, -3)]
    for due in dues:
        wheel.at(due, lambda due=due: late.append((due, time.monotonic())))  # type: ignore[misc]
    wheel.at(start + 0.1, done.set)
    await done.wait()
    assert sorted(due for due, _ in late) == sorted(dues)
    assert all(now >= due for due, now in late)
    wheel.at(time.monotonic(), lambda: pytest.fail("a closed wheel turned"))
    wheel.close()
    await asyncio.sleep(0.01)


# ---- in a process of its own


def test_spawned_upstream_serves_counts_and_ends() -> None:
    with spawned(knobs="pace=0", key="sk-x") as upstream:
        headers = {"authorization": "Bearer sk-x"}
        asked = {"model": TEXT, "stream": True}
        answer = httpx.post(upstream.url + CHAT, json=asked, headers=headers)
        assert answer.content == BUNDLED[TEXT].body
        stats = upstream.stats()
        assert (stats.requests, stats.done, stats.open_streams) == (1, 1, 0)
        assert stats.bytes_sent == len(answer.content)
    with pytest.raises(OSError, match="refused"):
        upstream.stats()


def test_spawned_upstream_that_cannot_start_says_so(tmp_path: Path) -> None:
    with pytest.raises(StartupError), spawned(folder=tmp_path):
        pytest.fail("it started")


class Counting(asyncio.Protocol):
    """Counts the events that it gets."""

    def __init__(self) -> None:
        self.events = 0

    def data_received(self, data: bytes) -> None:
        self.events += data.count(b"data: ")


def test_a_thousand_streams_hold_their_pace() -> None:
    async def count(port: int) -> tuple[list[int], float]:
        loop = asyncio.get_running_loop()
        clients = []
        for _ in range(1000):
            transport, client = await loop.create_connection(Counting, "127.0.0.1", port)
            transport.write(request("numbered;n=0;pace=20"))
            clients.append(client)
        before = [client.events for client in clients]
        begun = time.monotonic()
        await asyncio.sleep(2)
        taken = [c.events - b for c, b in zip(clients, before, strict=True)]
        return taken, time.monotonic() - begun

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.skip(f"only {hard} file descriptors are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    with spawned() as upstream:
        taken, seconds = uvloop.run(count(upstream.port))
        assert upstream.stats().requests == 1000
    expected = 20 * seconds
    assert min(taken) >= expected / 2
    assert sum(taken) <= 1000 * (expected * 1.1 + 2)
