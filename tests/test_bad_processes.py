"""Processes that are killed, stopped, starved of memory or of descriptors: what is told, and
that nothing stays behind. What dies alone and at rest is in `ops/test_supervisor`."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest
from fakes.daemon import (
    CANARY_KEY,
    PATIENCE_S,
    Daemon,
    alive,
    ask,
    canaries,
    command,
    daemon,
    environment,
    free_port,
    in_loop,
    take,
    take_some,
    texts,
    until,
    until_async,
    workplace,
)
from fakes.peer import Peer, chat
from fakes.raw import Script, answering, events

from ringcast.broker.client import ClientStream
from ringcast.errors import Code
from ringcast.replay.numbered import numbered_tokens
from ringcast.replay.process import Spawned, spawned
from ringcast.shm.tokens import Done, Error, StreamToken

SHM = Path("/dev/shm")
FILES = 1024
STREAMS = 100
LARGE = 200_000  # less than half of an in-ring: a successor can read it again
RAW = free_port()


@pytest.fixture(scope="module")
def upstream() -> Iterator[Spawned]:
    with spawned(knobs="pace=0") as running:
        yield running


def config(upstream: Spawned, more: str = "") -> str:
    return f"""
        [providers.up]
        kind = "openai-compatible"
        base_url = "{upstream.url}/v1"
        key = {{ env = "CANARY" }}
        [providers.raw]
        kind = "openai-compatible"
        base_url = "http://127.0.0.1:{RAW}/v1"
        {more}
    """


@pytest.fixture
def running(upstream: Spawned) -> Iterator[Daemon]:
    with daemon(config(upstream, "[processes]\nrestarts = 100"), CANARY=CANARY_KEY) as one:
        yield one
        assert CANARY_KEY not in one.said


def check(tokens: list[StreamToken], count: int, seed: int) -> StreamToken:
    """Right as far as it goes, with one end, which is returned."""
    said = texts(tokens)
    assert said == list(numbered_tokens(count, seed))[: len(said)]
    assert [token for token in tokens if isinstance(token, Done | Error)] == tokens[-1:]
    assert isinstance(tokens[-1], Error) or len(said) == count
    return tokens[-1]


@in_loop
async def test_x01_each_is_killed_in_its_turn_under_load(running: Daemon) -> None:
    """Worker and broker cost nothing, the provider process its streams, the supervisor all."""
    segments = list(running.state.segments)
    async with running.connect() as client:
        for role in ("worker", "broker", "provider"):
            streams = [await ask(client, f"up/numbered;n=200;pace=200;seed={i}") for i in range(20)]
            begun = [await take_some(stream, 2) for stream in streams]
            await asyncio.to_thread(running.kill, role)
            rest = await asyncio.gather(*map(take, streams))
            ends = [check(begun[i] + tokens, 200, i) for i, tokens in enumerate(rest)]
            codes = {end.code if isinstance(end, Error) else "done" for end in ends}
            assert codes == ({"interrupted"} if role == "provider" else {"done"})
        await ask(client, "up/numbered;n=0;pace=200")
        before = running.pids
        running.process.kill()
        began = time.monotonic()
        await asyncio.to_thread(until, lambda: not any(map(alive, before[1:])), "all ends")
        print(f"all ended {time.monotonic() - began:.3f} s after the supervisor")
    running.process.wait(PATIENCE_S)
    for name in segments:  # nobody is left to do it, but the next start: see `test_supervisor`
        (SHM / name).unlink(missing_ok=True)


@in_loop
async def test_z24_the_broker_is_killed_under_a_hundred_clients(running: Daemon) -> None:
    """Each comes back by itself, and has every token once and in order."""
    clients = [running.connect() for _ in range(100)]
    for client in clients:
        await client.__aenter__()
    streams = [
        await ask(client, f"up/numbered;n=200;pace=50;seed={i}") for i, client in enumerate(clients)
    ]
    takers = [asyncio.create_task(take(stream)) for stream in streams]
    for _ in range(2):
        await asyncio.sleep(0.5)
        await asyncio.to_thread(running.kill, "broker")
    for i, tokens in enumerate(await asyncio.gather(*takers)):
        assert isinstance(check(tokens, 200, i), Done)
    for client in clients:
        await client.__aexit__(None, None, None)


@in_loop
async def test_x04_a_worker_without_memory_is_replaced(running: Daemon) -> None:
    """Its next large event finds no room: it ends like one that was killed, others go on."""
    worker = psutil.Process(running.pid("worker"))
    event = b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % (b"x" * LARGE)
    large = Script(events(event + b"data: [DONE]\n\n"))
    async with (
        answering(RAW, lambda _: large),
        canaries(running),
        running.connect() as client,
    ):
        worker.rlimit(psutil.RLIMIT_AS, (1 << 20, 1 << 20))  # less than it has: no more
        tokens = await take(await ask(client, "raw/large"))
        assert "".join(texts(tokens)) == "x" * LARGE
        assert isinstance(tokens[-1], Done)
    assert running.pid("worker") != worker.pid
    assert "MemoryError" in running.said
    assert running.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@in_loop
async def test_x05_an_end_under_a_hundred_streams(number: signal.Signals, running: Daemon) -> None:
    """Every one is told, by its last token, why; and it does not take long."""
    pids, segments = running.pids, running.state.segments
    async with running.connect() as client:
        streams = [await ask(client, f"up/numbered;n=0;pace=50;seed={i}") for i in range(100)]
        begun = [await take_some(stream, 1) for stream in streams]
        began = time.monotonic()
        running.process.send_signal(number)
        rest = await asyncio.gather(*map(take, streams))
        ends = [tokens[-1] for tokens in rest]
    assert {end.code for end in ends if isinstance(end, Error)} == {Code.SHUTTING_DOWN}
    assert all(isinstance(end, Error) for end in ends)
    for i, tokens in enumerate(rest):
        said = texts(begun[i] + tokens)
        assert said == list(numbered_tokens(len(said), i))
    assert await asyncio.to_thread(running.process.wait, PATIENCE_S) == 0
    print(f"ended after {time.monotonic() - began:.2f} s")
    assert not any(map(alive, pids))
    assert not any((SHM / name).exists() for name in segments)
    assert not list(running.directory.iterdir())


def test_z26_an_end_with_messages_that_nobody_takes(running: Daemon) -> None:
    """A peer that stopped listening holds nobody up: the sockets' linger is bounded."""
    with (
        closing(Peer(running).hello()) as owner,
        closing(Peer(running, rcvhwm=1).hello()) as deaf,
    ):
        opened = owner.ask("open", 0, chat("up/numbered;n=20000"))
        owner.tokens(0)
        for handle in range(50):
            deaf.send("attach", handle, opened[2], -1, 1 << 30)
        until(lambda: _backlog(running) > 8 << 20, "a backlog")
        began = time.monotonic()
        assert running.stop() == 0
        print(f"ended after {time.monotonic() - began:.2f} s")
    assert not list(running.directory.iterdir())


def _backlog(running: Daemon) -> int:
    with closing(Peer(running).hello()) as asking:
        counters = asking.ask("status", 1)[2]["counters"]
    (row,) = (row for row in counters if row["role"] == "broker")
    number: int = row["bytes_out"]
    return number


@in_loop
async def test_x06_each_is_stopped_for_a_while(running: Daemon) -> None:
    """As by a laptop's sleep: every stream goes on where it was, and nothing is replaced."""
    before = running.pids
    async with running.connect() as client:
        streams = [await ask(client, f"up/numbered;n=600;pace=100;seed={i}") for i in range(5)]
        takers = [asyncio.create_task(take(stream)) for stream in streams]
        for pid in before:
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(1)
            os.kill(pid, signal.SIGCONT)
        for i, tokens in enumerate(await asyncio.gather(*takers)):
            assert isinstance(check(tokens, 600, i), Done)
    assert running.pids == before
    assert running.said == ""


def scarce(place: Path, upstream: Spawned, files: int) -> Daemon:
    """A daemon that may have `files` open files a process."""
    (place / "config.toml").write_text(config(upstream))
    options = ["--config", str(place / "config.toml"), "--run-dir", str(place / "run")]
    options += ["--parent-pid", str(os.getpid())]
    with (place / "stderr").open("wb") as said:
        process = subprocess.Popen(
            command("serve", *options),
            stderr=said,
            env=environment(CANARY=CANARY_KEY),
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files)),
        )
    return Daemon(place / "run", process)


def test_x08_too_few_descriptors_to_begin_with(upstream: Spawned) -> None:
    with workplace() as place:
        running = scarce(place, upstream, 64)
        assert running.process.wait(PATIENCE_S) == 73
        text = "only 64 files may be open, 1024 must be (RLIMIT_NOFILE, ulimit -n)"
        assert running.said == f"ringcast: {text}\n"
        assert not list(running.directory.iterdir())


@in_loop
async def test_x08_descriptors_that_run_out(upstream: Spawned) -> None:
    """The new one is told, or waits outside; those who are in go on, and nothing spins."""
    with workplace() as place:
        running = scarce(place, upstream, FILES)
        try:
            await asyncio.to_thread(until, lambda: _ready(running), "the daemon")
            pids = running.pids
            async with canaries(running), running.connect() as client:
                provider = psutil.Process(running.pid("provider"))
                provider.rlimit(psutil.RLIMIT_NOFILE, (provider.num_fds() + STREAMS // 2,) * 2)
                knockers = [_knock(running, 0) for _ in range(3 * FILES)]
                knockers += await asyncio.to_thread(_fill, running)
                text = "no more until some close, for want of descriptors (RLIMIT_NOFILE)"
                await asyncio.to_thread(until, lambda: text in running.said, "a shut door")
                assert running.pids == pids, running.said
                streams = [await ask(client, "up/numbered;n=0;pace=20") for _ in range(STREAMS)]
                errors = await _errors(streams)
                broker = psutil.Process(running.pid("broker"))
                before, began = sum(broker.cpu_times()[:2]), time.monotonic()
                await asyncio.sleep(2)
                used = sum(broker.cpu_times()[:2]) - before
                share = used / (time.monotonic() - began)
                print(f"{len(errors)} of {STREAMS} refused; broker at {share:.1%} of a core")
                for stream in streams:
                    await stream.cancel()
                for one in knockers:
                    one.close()

            async def welcome() -> bool:
                with suppress(Exception):
                    async with running.connect() as late:
                        return bool(await late.status())
                return False

            await until_async(welcome, "an open door")
            assert share < 0.4
            assert errors
            assert all("Too many open files" in error.message for error in errors)
            assert {error.code for error in errors} == {Code.OVERLOADED_LOCAL}  # no breaker opened
            assert all(error.message.isprintable() for error in errors)
            assert running.pids == pids
        finally:
            assert await asyncio.to_thread(running.stop) == 0
        assert "Traceback" not in running.said


def _ready(running: Daemon) -> bool:
    assert running.process.poll() is None, running.said
    return (running.directory / "state.json").exists() and running.state.status == "running"


def _knock(running: Daemon, patience_s: float) -> socket.socket:
    """A connection that says nothing; it may be left outside."""
    one = socket.socket(socket.AF_UNIX)
    one.settimeout(patience_s)
    with suppress(OSError):
        one.connect(str(running.directory / "client.sock"))
    return one


def _fill(running: Daemon) -> list[socket.socket]:
    """Connect until there is nowhere to connect to."""
    inside = []
    while (running.directory / "client.sock").exists():
        inside.append(_knock(running, PATIENCE_S))
    return inside


async def _errors(streams: list[ClientStream]) -> list[Error]:
    """The ends of those that end at once; the others say something."""
    firsts = await asyncio.gather(*(anext(stream) for stream in streams))
    return [first for first in firsts if isinstance(first, Error)]
