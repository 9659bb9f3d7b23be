"""The real daemon in a process of its own, and the loop in which tests talk to it."""

from __future__ import annotations

import asyncio
import atexit
import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import uvloop

import ringcast
from ringcast import rundir
from ringcast.broker.client import Client, ClientStream
from ringcast.replay.behaviour import Behaviour
from ringcast.replay.numbered import numbered_tokens
from ringcast.replay.process import Upstream
from ringcast.replay.recording import Recording, bundled
from ringcast.rundir import State
from ringcast.shm.tokens import Done, StreamToken, Text

PATIENCE_S = 30.0
SETTLED_S = 0.3
# Must never be seen outside a request's headers. It has no provider's prefix, by which a
# decoder would mask it.
CANARY_KEY = "Canary5f0d9a3b7c1e"
# For tests of one failure each: it is told as it came, and neither earlier ones nor a look after
# the provider's health (every 30 s) come between a test and its upstream.
ONCE = """
[retry]
attempts = 1
[breaker]
failures = 1_000_000
least_calls = 1_000_000
[health]
interval_s = 0
"""
UNASKED = "\n[health]\ninterval_s = 0\n"
SHARED_MEMORY = Path("/dev/shm")
RECORDINGS = bundled()
_PORTS: list[socket.socket] = []
T = TypeVar("T")


def free_port() -> int:
    """A port that is ours until this process ends, and that nobody listens on.

    It stays bound: the kernel gives it to no other test beside this one, nor a client to call from,
    and refuses who connects. A server that sets `SO_REUSEADDR`, as asyncio's do, may take it.
    """
    kept = socket.socket()
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    kept.bind(("127.0.0.1", 0))
    _PORTS.append(kept)
    port: int = kept.getsockname()[1]
    return port


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test in a fresh uvloop, for at most `PATIENCE_S`."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        uvloop.run(asyncio.wait_for(test(*args, **kwargs), PATIENCE_S))

    return run


def environment(**more: str) -> dict[str, str]:
    """Ours, without what would configure a daemon or be written to by one, plus `more`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RINGCAST_")}
    kept["XDG_STATE_HOME"] = _state_home()
    return {k: v for k, v in kept.items() if not k.endswith("_API_KEY")} | more


@functools.cache
def _state_home() -> str:
    """A folder of this test run's own, which ends with it."""
    folder = tempfile.mkdtemp(prefix="rc-state-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def command(*arguments: str) -> list[str]:
    """`ringcast` as a command."""
    return [sys.executable, "-P", "-m", "ringcast", *arguments]


def until(holds: Callable[[], bool], what: str) -> None:
    """Wait for what only looking shows (a file, a process's end)."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"{what} did not come within {PATIENCE_S} s"
        time.sleep(0.01)


def settled(look: Callable[[], T]) -> T:
    """What is seen when it no longer changes: a connection may still be on its way out."""
    seen = [look()]

    def still() -> bool:
        time.sleep(SETTLED_S)
        seen.append(look())
        return seen[-1] == seen[-2]

    until(still, "rest")
    return seen[-1]


async def until_async(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    """The same, for what has to be asked for."""
    deadline = time.monotonic() + PATIENCE_S
    while not await holds():
        assert time.monotonic() < deadline, f"{what} did not come within {PATIENCE_S} s"
        await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


class Daemon:
    """A daemon that runs, its directory and what it has said."""

    def __init__(self, directory: Path, process: subprocess.Popen[bytes]) -> None:
        self.directory = directory
        self.process = process

    @property
    def state(self) -> State:
        """What the run directory says."""
        state = rundir.read(self.directory)
        assert state is not None
        return state

    @property
    def said(self) -> str:
        """Everything on its standard error so far."""
        return (self.directory.parent / "stderr").read_text()

    @property
    def pids(self) -> list[int]:
        """All its processes, the supervisor first."""
        return [self.state.pid, *(one.pid for one in self.state.processes)]

    def pid(self, role: str) -> int:
        """The process of a role."""
        return next(one.pid for one in self.state.processes if one.role == role)

    def kill(self, role: str) -> None:
        """Kill a role's process and wait until another has its place."""
        before = self.pid(role)
        os.kill(before, signal.SIGKILL)
        until(lambda: self._replaced(role, before), f"another {role}")

    def _replaced(self, role: str, before: int) -> bool:
        state = self.state
        pids = [one.pid for one in state.processes if one.role == role]
        return state.status == "running" and bool(pids) and before not in pids

    def descriptors(self) -> dict[int, int]:
        """How many descriptors each process has open, by its pid."""
        return {pid: len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in self.pids}

    def connect(self) -> Client:
        """A client of it."""
        return ringcast.connect(self.directory, name="test")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)

    def end(self) -> None:
        """End it as its user would; it must leave nothing, neither memory nor files.

        Nor may anything have gone wrong in it that nobody was told of.
        """
        segments = [SHARED_MEMORY / name.lstrip("/") for name in self.state.segments]
        assert segments
        assert all(one.exists() for one in segments)
        assert self.stop() == 0, self.said
        assert not any(one.exists() for one in segments)
        assert not list(self.directory.iterdir())
        assert "Traceback" not in self.said, self.said


@contextmanager
def workplace() -> Iterator[Path]:
    """A short directory of our own: socket paths have 107 bytes."""
    place = Path(tempfile.mkdtemp(prefix="rc", dir="/tmp"))
    try:
        yield place
    finally:
        shutil.rmtree(place)


@contextmanager
def daemon(config: str, *arguments: str, **variables: str) -> Iterator[Daemon]:
    """Run `ringcast serve` with `config` (TOML) until the block ends; it must leave nothing.

    It asks no provider for its health by itself, unless the configuration says when: tests count
    the requests that an upstream gets, and such a test may take longer than the 30 s between two.
    """
    with workplace() as place:
        (place / "config.toml").write_text(config if "[health]" in config else config + UNASKED)
        directory = place / "run"
        options = ["--config", str(place / "config.toml"), "--run-dir", str(directory)]
        options += ["--parent-pid", str(os.getpid())]  # a killed test run leaves no daemon
        with (place / "stderr").open("wb") as said:
            process = subprocess.Popen(
                command("serve", *options, *arguments),
                stderr=said,
                env=environment(**{"XDG_STATE_HOME": str(place / "state")} | variables),
            )
        running = Daemon(directory, process)
        try:
            until(lambda: _ready(running), "the daemon")
            yield running
            if process.poll() is None:  # else the test has seen to its end
                running.end()
        finally:
            running.stop()


def _ready(running: Daemon) -> bool:
    assert running.process.poll() is None, running.said
    state = rundir.read(running.directory)
    return state is not None and state.status == "running"


@asynccontextmanager
async def replaying(port: int, recordings: list[Recording] = RECORDINGS) -> AsyncIterator[Upstream]:
    """A replay upstream in this loop, as fast as its reader."""
    upstream = Upstream(recordings, Behaviour(pace=0))
    await upstream.start(port=port)
    try:
        yield upstream
    finally:
        await upstream.stop()


@contextmanager
def no_descriptor_left(running: Daemon, port: int) -> Iterator[None]:
    """No process ends the block with more than it has after a first stream (from `port`).

    Nor is one replaced in it.
    """

    async def first() -> None:
        async with replaying(port), running.connect() as client:
            await take(await ask(client, "up/numbered;n=1"))

    in_loop(first)()
    before = settled(running.descriptors)
    yield

    def none_left() -> bool:
        now = running.descriptors()
        return now.keys() == before.keys() and all(now[pid] <= before[pid] for pid in now)

    until(none_left, "as many descriptors as before")


async def ask(client: Client, model: str, **options: Any) -> ClientStream:
    """Open a chat with a message that does not matter."""
    return await client.chat(model, [{"role": "user", "content": "hi"}], **options)


async def take(stream: ClientStream) -> list[StreamToken]:
    """All tokens to the end."""
    return [token async for token in stream]


async def take_some(stream: ClientStream, n: int) -> list[StreamToken]:
    """The next `n` tokens."""
    return [await anext(stream) for _ in range(n)]


def texts(tokens: list[StreamToken]) -> list[str]:
    """The contents of the text tokens."""
    return [token.content for token in tokens if isinstance(token, Text)]


@asynccontextmanager
async def canaries(running: Daemon, provider: str = "up", *, count: int = 3) -> AsyncIterator[None]:
    """Paced streams beside a fault: they must end whole, whatever happens to others."""
    async with running.connect() as client:
        model = f"{provider}/numbered;n=60;pace=300"
        streams = [await ask(client, f"{model};seed={seed}") for seed in range(count)]
        readers = [asyncio.ensure_future(take(stream)) for stream in streams]
        yield
        for seed, tokens in enumerate(await asyncio.gather(*readers)):
            assert texts(tokens) == list(numbered_tokens(60, seed))
            assert isinstance(tokens[-1], Done)
