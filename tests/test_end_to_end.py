"""The whole daemon: what an upstream's body says is what a client gets, whatever its way.

Recordings in every dialect, many streams at once, and payloads larger than a ring, each
compared with the same body decoded in one piece.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fakes.daemon import (
    ONCE,
    RECORDINGS,
    SHARED_MEMORY,
    Daemon,
    ask,
    canaries,
    daemon,
    free_port,
    in_loop,
    replaying,
    take,
    take_some,
    texts,
    until_async,
)
from fakes.pipeline import plain
from fakes.raw import Script, answer, answering, events

from ringcast.broker.client import Client, ClientStream
from ringcast.errors import Code, RequestError
from ringcast.providers.wire.body import Ending
from ringcast.providers.wire.summary import decode, summarize
from ringcast.replay.numbered import numbered_tokens
from ringcast.replay.recording import Recording, corpus
from ringcast.shm.tokens import Done, Error, StreamToken, Text, ToolCall

REPLAY, RAW = free_port(), free_port()
CONFIG = f"""
[providers.up]
kind = "openai-compatible"
base_url = "http://127.0.0.1:{REPLAY}/v1"
[providers.claude]
kind = "anthropic"
base_url = "http://127.0.0.1:{REPLAY}/v1"
key = {{ env = "CLAUDE" }}
[providers.raw]
kind = "openai-compatible"
base_url = "http://127.0.0.1:{RAW}/v1"
"""
# The smallest rings: a record has 8 KiB at most, and a stream's window is larger than a ring.
SMALL = """
[rings]
in_bytes = 65536
out_bytes = 65536
[processes]
providers = 2
workers = 2
"""
PROVIDERS = {"chat": "up", "completions": "up", "messages": "claude", "complete": "claude"}
ROOT = Path(__file__).parents[1]
CORPUS = Path(os.environ.get("RINGCAST_CORPUS") or ROOT.parent / "shared" / "corpus")


@pytest.fixture(scope="module")
def running() -> Iterator[Daemon]:
    with daemon(CONFIG + ONCE, CLAUDE="key") as started:
        yield started


@pytest.fixture(scope="module")
def small() -> Iterator[Daemon]:
    with daemon(CONFIG + ONCE + SMALL, CLAUDE="key") as started:
        yield started


@pytest.fixture(params=["running", "small"])
def either(request: pytest.FixtureRequest) -> Daemon:
    started = request.getfixturevalue(request.param)
    assert isinstance(started, Daemon)
    return started


async def take_recording(client: Client, recording: Recording, knobs: str) -> list[StreamToken]:
    """All tokens of a recording's stream, through the daemon."""
    model = f"{PROVIDERS[recording.api]}/{recording.name}{knobs}"
    if recording.api in ("completions", "complete"):
        return await take(await client.complete(model, "hi", api=recording.api))
    return await take(await ask(client, model))


def expected(recording: Recording) -> list[StreamToken]:
    """The same body, decoded in one piece without a daemon."""
    if recording.status == 200:
        ending = Ending(content_type=recording.content_type)
        return decode(recording.api, [recording.body], ending)
    body, kind = recording.body, recording.content_type
    return decode(recording.api, [], Ending("http", "", "", recording.status, kind, None, body))


def joined(tokens: list[StreamToken]) -> tuple[Any, StreamToken]:
    """What a stream says, however its text was cut, and how it ended."""
    return summarize(tokens), plain(tokens)[-1]


async def take_into(taken: list[StreamToken], stream: ClientStream) -> None:
    """Append to `taken` what comes, batch by batch, until the end or an error."""
    async for batch in stream.batches():
        taken += batch


async def compare(running: Daemon, recordings: list[Recording], knobs: str) -> None:
    """Have all recordings on their way at once, and compare each."""
    known = [one for one in recordings if one.api in PROVIDERS]
    assert known
    async with replaying(REPLAY, recordings), running.connect() as client:
        every = await asyncio.gather(*(take_recording(client, one, knobs) for one in known))
    for recording, tokens in zip(known, every, strict=True):
        assert joined(tokens) == joined(expected(recording)), recording.name


@pytest.mark.parametrize(
    "knobs", ["", ";cut_seed=1;cut=300", ";length=close", ";length=length;cut=900"]
)
@in_loop
async def test_every_recording(either: Daemon, knobs: str) -> None:
    await compare(either, RECORDINGS, knobs)


@pytest.mark.skipif(not (CORPUS / "INDEX.tsv").is_file(), reason=f"no recordings in {CORPUS}")
@in_loop
async def test_every_recording_of_the_corpus(either: Daemon) -> None:
    await compare(either, corpus(CORPUS), "")


@in_loop
async def test_many_streams_of_many_clients(either: Daemon) -> None:
    """240 streams in both dialects, as fast as they come: nothing lost, doubled or mixed up."""
    count, each = 60, 40
    async with replaying(REPLAY):

        async def one(number: int) -> None:
            async with either.connect() as client:
                provider = ("up", "claude")[number % 2]
                seeds = range(number * each, (number + 1) * each)
                model = f"{provider}/numbered;n={count}"
                streams = [await ask(client, f"{model};seed={seed}") for seed in seeds]
                every = await asyncio.gather(*map(take, streams))
                for seed, tokens in zip(seeds, every, strict=True):
                    assert texts(tokens) == list(numbered_tokens(count, seed))
                    assert isinstance(tokens[-1], Done)
                    assert sum(isinstance(token, Done | Error) for token in tokens) == 1

        await asyncio.gather(*map(one, range(6)))


@in_loop
async def test_a_long_stream(either: Daemon) -> None:
    """20,000 tokens, 5.6 MB of body: many times round each ring, and many windows."""
    async with replaying(REPLAY), either.connect() as client:
        stream = await ask(client, "up/numbered;n=20000")
        taken: list[StreamToken] = []
        await take_into(taken, stream)
        assert texts(taken) == list(numbered_tokens(20_000))
        assert stream.seq == len(taken) - 1


def content(text: str) -> bytes:
    """An event of one piece of text, and the end of its stream."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": "stop"}
    return b"data: %b\n\ndata: [DONE]\n\n" % msgspec.json.encode({"choices": [choice]})


def call(arguments: str) -> bytes:
    """An event of one whole tool call, and the end of its stream."""
    made = {"index": 0, "id": "1", "function": {"name": "write", "arguments": arguments}}
    choice = {"index": 0, "delta": {"tool_calls": [made]}, "finish_reason": "tool_calls"}
    return b"data: %b\n\ndata: [DONE]\n\n" % msgspec.json.encode({"choices": [choice]})


# Two bytes and four in UTF-8: no cut may go through one of them.
LONG = "".join(f"{number:06} é😀" for number in range(20_000))


@in_loop
async def test_a_text_larger_than_the_ring(either: Daemon) -> None:
    script = Script(events(content(LONG)))
    async with (
        replaying(REPLAY),
        answering(RAW, lambda _: script),
        canaries(either),
        either.connect() as client,
    ):
        tokens = await take(await ask(client, "raw/x"))
    assert "".join(texts(tokens)) == LONG
    assert isinstance(tokens[-1], Done)


@in_loop
async def test_a_tool_call_larger_than_the_ring(either: Daemon) -> None:
    script = Script(events(call(LONG)))
    async with (
        replaying(REPLAY),
        answering(RAW, lambda _: script),
        canaries(either),
        either.connect() as client,
    ):
        tokens = await take(await ask(client, "raw/x"))
    assert "".join(t.arguments for t in tokens if isinstance(t, ToolCall)) == LONG
    assert isinstance(tokens[-1], Done)


@in_loop
async def test_an_error_body_larger_than_a_record(either: Daemon) -> None:
    """What says why comes first in it; the rest is cut to what the ring takes."""
    script = Script(answer("500 Oh", b"because " + b"x" * 100_000))
    async with answering(RAW, lambda _: script), either.connect() as client:
        error = (await take(await ask(client, "raw/x")))[-1]
    assert isinstance(error, Error)
    assert error.code == Code.HTTP_STATUS
    assert error.message.startswith("HTTP 500: because xxx")


@in_loop
async def test_a_content_type_larger_than_a_record(either: Daemon) -> None:
    script = Script(answer("500 Oh", b"why", "content-type: text/" + "x" * 60_000))
    async with answering(RAW, lambda _: script), either.connect() as client:
        error = (await take(await ask(client, "raw/x")))[-1]
    assert isinstance(error, Error)
    assert (error.code, error.status) == (Code.HTTP_STATUS, 500)


@in_loop
async def test_who_reads_too_slowly(small: Daemon) -> None:
    """A second reader that takes nothing falls out of the log; the first has all, undisturbed."""
    async with replaying(REPLAY), small.connect() as one, small.connect() as two:
        stream = await ask(one, "up/numbered;n=20000")
        first = await take_some(stream, 5)
        slow = await two.attach(stream.id, window=2000)
        first += await take(stream)
        assert texts(first) == list(numbered_tokens(20_000))
        behind: list[StreamToken] = []
        with pytest.raises(RequestError) as cut:
            await take_into(behind, slow)
        assert cut.value.code == Code.SLOW_CONSUMER
        assert cut.value.detail["resume_after"] == len(behind) - 1
        assert behind == first[: len(behind)]
        with pytest.raises(RequestError) as gone:
            await two.attach(stream.id, after=slow.seq)
        assert gone.value.code == Code.OFFSET_GONE
        kept = gone.value.detail["first"]
        assert isinstance(kept, int)
        assert await take(await two.attach(stream.id, after=kept - 1)) == first[kept:]


@in_loop
async def test_clients_that_come_and_go(either: Daemon) -> None:
    """Connections that close in the middle of their streams leave the others alone."""
    async with replaying(REPLAY), canaries(either):
        for number in range(10):
            async with either.connect() as client:
                stream = await ask(client, f"up/numbered;n=500;pace=500;seed={number}")
                assert (
                    texts(await take_some(stream, number))
                    == list(numbered_tokens(500, number))[:number]
                )
                await stream.cancel()
    async with either.connect() as client:

        async def over() -> bool:
            status = await client.status()
            return {one["state"] for one in status["streams"]} <= {"ended"}

        await until_async(over, "the end of the other clients' streams")


@in_loop
async def test_a_connection_is_used_again(running: Daemon) -> None:
    async with replaying(REPLAY) as upstream, running.connect() as client:
        for seed in range(5):
            tokens = await take(await ask(client, f"up/numbered;n=3;seed={seed}"))
            assert isinstance(tokens[-1], Done)
            await upstream.until(lambda: all(one.ended == "done" for one in upstream.seen))
        assert len(upstream.connections) == 1


@in_loop
async def test_the_request_as_the_provider_sees_it(running: Daemon) -> None:
    said: list[dict[str, Any]] = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hé\n"},
    ]
    async with replaying(REPLAY) as upstream, running.connect() as client:
        for model in ("up/numbered;n=1", "claude/numbered;n=1"):
            await take(await client.chat(model, said, temperature=0.5, extra={"user": "me"}))
    openai, claude = upstream.seen
    for seen, path in ((openai, "/v1/chat/completions"), (claude, "/v1/messages")):
        body = msgspec.json.decode(seen.body)
        assert seen.path == path
        assert seen.headers["accept-encoding"] == "identity"
        assert seen.headers["content-type"] == "application/json"
        assert (body["model"], body["stream"]) == ("numbered;n=1", True)
        assert (body["temperature"], body["user"]) == (0.5, "me")
    assert msgspec.json.decode(openai.body)["messages"] == said
    assert "authorization" not in openai.headers
    assert msgspec.json.decode(claude.body)["system"] == "be brief"
    assert msgspec.json.decode(claude.body)["messages"] == said[1:]
    assert claude.headers["x-api-key"] == "***"
    assert claude.headers["anthropic-version"]


@in_loop
async def test_status_shows_a_live_stream(running: Daemon) -> None:
    async with replaying(REPLAY), running.connect() as client:
        stream = await ask(client, "up/numbered;n=0;pace=100")
        await take_some(stream, 3)
        status = await client.status()
        shown = next(one for one in status["streams"] if one["id"] == stream.id.hex())
        assert (shown["provider"], shown["state"], shown["readers"]) == ("up", "streaming", 1)
        assert shown["seq"] >= 2
        assert status["providers"]["up"] == "ready"
        await stream.cancel()
        await take(stream)


def test_nobody_else_may_look(running: Daemon) -> None:
    """Run directory, sockets and segments are ours alone; while it runs they are there."""
    state = running.state
    names = [SHARED_MEMORY / name.lstrip("/") for name in state.segments]
    assert len(names) == 6  # counters, metrics, ledger, traffic, one in-ring, one out-ring
    for path in (running.directory, *running.directory.iterdir(), *names):
        assert stat.S_IMODE(path.lstat().st_mode) & 0o077 == 0, path


def test_text_is_most_of_it() -> None:
    """The comparison above is of something: the recordings have text and ends of both kinds."""
    tokens = [token for one in RECORDINGS if one.api in PROVIDERS for token in expected(one)]
    assert sum(isinstance(token, Text) for token in tokens) > 20
    assert {type(token) for token in tokens} >= {Text, ToolCall, Done, Error}
