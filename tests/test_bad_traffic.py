"""Bad answers that pass: what becomes of a request that is sent again, or waits, or does neither.

The names of the tests begin with their rows; `test_bad_input` has the table. In `test_bad_upstream`
each failure is looked at by itself.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import psutil
import pytest
from fakes.daemon import ONCE, Daemon, ask, daemon, free_port, in_loop, take, until_async
from fakes.raw import CHUNKED, End, Raw, Script, answer, answering, chunk, ended, events, said
from fakes.scripted import Peer
from fakes.scripted import Script as Play

from ringcast.errors import Code
from ringcast.shm.tokens import Done, Error, StreamToken, Summary, Waiting

RAW, PLAYED, MANY = (free_port() for _ in range(3))
PROVIDERS = f"""
[providers.raw]
kind = "openai-compatible"
base_url = "http://127.0.0.1:{RAW}/v1"
[providers.played]
kind = "openai-compatible"
base_url = "http://127.0.0.1:{PLAYED}/v1"
[providers.many]
kind = "openai-compatible"
base_url = "http://127.0.0.1:{MANY}/v1"
concurrency = 100
"""
AGAIN = ONCE.replace("attempts = 1", "attempts = 3\npause_s = 0.02\nbudget_least = 1000")
SHORT = "[timeouts]\nfirst_byte_s = 2\nfirst_token_s = 2\nidle_s = 2\n"
QUEUE = 2000
KIB_A_REQUEST = 40  # that waits, in all processes together

ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
OK = b'data: {"choices":[{"index":0,"delta":{"content":"ok"},"finish_reason":null}]}\n\n'
DONE = b"data: [DONE]\n\n"
SSE = "content-type: text/event-stream"
WHOLE = answer("200 OK", OK + DONE, SSE)

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
TWO = CHUNKED + chunk(OK + OK)
# Where an answer breaks off while nothing of it was seen, and where something was (and what).
UNSEEN = {
    "before-all": b"",
    "in-status-line": HEAD[:11],
    "in-headers": HEAD[:30],
    "behind-headers": CHUNKED,
    "behind-role": CHUNKED + chunk(ROLE),
    "in-first-event": CHUNKED + chunk(OK)[:40],
}
SEEN = {
    "behind-event": (CHUNKED + chunk(OK), "ok"),
    "in-event": (TWO[: len(CHUNKED) + 100], "ok"),
    "in-last-byte": (TWO[:-1], "okok"),
}
DRIP = 0.25
STUCK = {
    "P12-no-head": Script(b"", "hang"),
    "P13-head-drips": Script(b"HTTP/1.1 200 OK\r\nx: ", again=b"x", pause_s=DRIP),
    "P13-body-drips": Script(events(ROLE + b"data: "), again=b"x", pause_s=DRIP),
    "P14-keep-alives": Script(events(ROLE), again=b": keepalive\n\n", pause_s=DRIP),
    "events-without-a-token": Script(events(ROLE), again=ROLE, pause_s=DRIP),
}


@pytest.fixture(scope="module")
def running() -> Iterator[Daemon]:
    with daemon(PROVIDERS + AGAIN + SHORT) as started:
        yield started


@asynccontextmanager
async def failing_once(scripts: dict[str, Script]) -> AsyncIterator[Raw]:
    """An upstream that does as `scripts` say for a model's first request, and then answers."""
    met: set[str] = set()

    def script(model: str) -> Script:
        known = model in met
        met.add(model)
        return Script(WHOLE) if known else scripts[model]

    async with answering(RAW, script) as raw:
        yield raw


@asynccontextmanager
async def playing(port: int, play: Play) -> AsyncIterator[None]:
    """An upstream whose every connection runs `play`."""
    numbers = itertools.count()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(next(numbers), reader, writer)
        try:
            await play(peer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the daemon needs it no more
        finally:
            await peer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port, backlog=200)
    try:
        yield
    finally:
        server.close()


async def asked(running: Daemon, model: str) -> list[StreamToken]:
    """All tokens of one chat."""
    async with running.connect() as client:
        return await take(await ask(client, model))


def summary(tokens: list[StreamToken]) -> Summary:
    """What a whole answer says of itself."""
    last = tokens[-1]
    assert isinstance(last, Done), last
    assert said(tokens) == "ok"
    assert last.summary is not None
    return last.summary


@pytest.mark.parametrize("end", ["fin", "rst"])
@in_loop
async def test_p07_p09_p10_what_breaks_off_unseen_is_sent_again(running: Daemon, end: End) -> None:
    async def one(place: str) -> None:
        assert summary(await asked(running, f"raw/{place}")).attempts == 2

    async with failing_once({place: Script(data, end) for place, data in UNSEEN.items()}) as raw:
        await asyncio.gather(*map(one, UNSEEN))
    assert Counter(raw.models) == dict.fromkeys(UNSEEN, 2)


@pytest.mark.parametrize("end", ["fin", "rst"])
@pytest.mark.parametrize("place", SEEN)
@in_loop
async def test_p09_p10_what_breaks_off_after_it_was_seen_is_not_sent_again(
    running: Daemon, place: str, end: End
) -> None:
    data, text = SEEN[place]
    seen = asyncio.Event()
    requests: list[bytes] = []

    async def play(peer: Peer) -> None:
        requests.append(await peer.request())
        await peer.send(data)
        await seen.wait()
        if end == "rst":
            peer.reset()

    async with playing(PLAYED, play), running.connect() as client:
        stream = await ask(client, f"played/{place}-{end}")
        tokens: list[StreamToken] = []
        while said(tokens) != text:
            tokens.append(await anext(stream))
        seen.set()
        tokens += await take(stream)
        code = Code.TRANSPORT if end == "rst" else Code.STREAM_INCOMPLETE
        ended(tokens, code, ".+")
        assert said(tokens) == text
    assert len(requests) == 1


@pytest.mark.parametrize("end", ["fin", "rst"])
@in_loop
async def test_p08_of_a_dead_kept_connection_the_transport_makes_one_repetition(
    running: Daemon, end: End
) -> None:
    """The third sending is the second attempt: who owns retries counts the first two as one."""
    bodies: list[bytes] = []

    async def play(peer: Peer) -> None:
        if peer.number == 0:
            await peer.request()
            await peer.send(WHOLE)
        bodies.append((await peer.request()).partition(b"\r\n\r\n")[2])
        if len(bodies) > 2:
            await peer.send(WHOLE)
        elif end == "rst":
            peer.reset()

    async with playing(PLAYED, play):
        assert summary(await asked(running, f"played/first-{end}")).attempts == 1
        assert summary(await asked(running, f"played/second-{end}")).attempts == 2
    assert len(bodies) == 3
    assert len(set(bodies)) == 1


@in_loop
async def test_p12_p13_p14_who_says_nothing_is_asked_again(running: Daemon) -> None:
    """All of them at once, since each takes its two seconds."""

    async def one(name: str) -> None:
        assert summary(await asked(running, f"raw/{name}")).attempts == 2

    async with failing_once(STUCK) as raw:
        await asyncio.gather(*map(one, STUCK))
        await raw.until_left()
    assert Counter(raw.models) == dict.fromkeys(STUCK, 2)


def memory_of(running: Daemon) -> int:
    """The bytes that only this daemon's processes have."""
    return sum(psutil.Process(pid).memory_full_info().uss for pid in running.pids)


def test_p15_of_3000_at_once_100_are_sent_the_queue_is_full_and_all_end() -> None:
    async def run() -> None:
        gate = asyncio.Event()
        at_once = Counter[str]()

        async def play(peer: Peer) -> None:
            while True:
                await peer.request()
                at_once["now"] += 1
                at_once["most"] = max(at_once["most"], at_once["now"])
                await gate.wait()
                at_once["now"] -= 1
                await peer.send(WHOLE)

        async with playing(MANY, play), crowded.connect() as client:
            before = memory_of(crowded)
            streams = await asyncio.gather(*(ask(client, "many/m") for _ in range(3000)))
            ends = [asyncio.ensure_future(take(stream)) for stream in streams]

            async def refused() -> bool:
                over = [one.result() for one in ends if one.done()]
                return at_once["now"] == 100 and len(over) == 3000 - 100 - QUEUE

            await until_async(refused, "the refusals")
            for tokens in [one.result() for one in ends if one.done()]:
                text = f"{QUEUE} requests wait for many already .*, {QUEUE} may .queue.length."
                ended(tokens, Code.OVERLOADED_LOCAL, text)
            grown = (memory_of(crowded) - before) / (100 + QUEUE)
            print(f"{grown / 1024:.1f} KiB a request")
            assert grown < KIB_A_REQUEST * 1024
            gate.set()
            lasts = Counter(type(tokens[-1]) for tokens in await asyncio.gather(*ends))
            assert lasts == {Done: 100 + QUEUE, Error: 3000 - 100 - QUEUE}
            assert at_once["most"] == 100

    with daemon(PROVIDERS + ONCE + f"[queue]\nlength = {QUEUE}\n") as crowded:
        in_loop(run)()


@in_loop
async def test_p16_who_is_cancelled_between_two_sendings_is_not_sent_again(running: Daemon) -> None:
    refusal = {"P16": Script(answer("500 Oh", b"", "retry-after: 1"))}
    async with failing_once(refusal) as raw, running.connect() as client:
        stream = await ask(client, "raw/P16", waiting=True)
        assert isinstance(await anext(stream), Waiting)
        await stream.cancel()
        ended(await take(stream), Code.CANCELLED, ".+")
        await asyncio.sleep(1.5)
        assert raw.models == ["P16"]


@in_loop
async def test_p42_a_refusal_without_a_hint_is_waited_for(running: Daemon) -> None:
    async with failing_once({"P42": Script(answer("429 Slow", b""))}) as raw:
        began = time.monotonic()
        assert summary(await asked(running, "raw/P42")).attempts == 2
        assert time.monotonic() - began > 0.5
    assert raw.models == ["P42", "P42"]


@in_loop
async def test_p44_figures_that_nobody_understands_are_counted_and_change_nothing(
    running: Daemon,
) -> None:
    bad = ["x-ratelimit-remaining-requests: -5", "x-ratelimit-limit-tokens: abc"]
    script = Script(answer("200 OK", OK + DONE, SSE, *bad))
    async with answering(RAW, lambda _: script), running.connect() as client:
        for _ in range(3):
            began = time.monotonic()
            assert summary(await asked(running, "raw/P44")).attempts == 1
            assert time.monotonic() - began < 2
        blocks = (await client.status())["counters"]
        assert sum(block.get("bad_limits", 0) for block in blocks) >= 3
