"""The replay upstream as a process: providers played from recordings, on a port of your own.

`python -m ringcast.replay` runs one: it prints `{"port": ...}` when ready and ends with its
stdin. `run` does the same inside a program, `spawned` beside it; `upstream.Upstream` is the
server itself, for a loop that is there already.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from ringcast.errors import StartupError
from ringcast.replay.behaviour import Behaviour, turned
from ringcast.replay.recording import Recording, bundled, corpus
from ringcast.replay.upstream import Stats, Upstream

__all__ = ["Spawned", "Stats", "Upstream", "run", "spawned"]

_STOP_S: Final = 5.0
_SOCKETS: Final = 10_240
_KEY_ENV: Final = "RINGCAST_REPLAY_KEY"


def run(
    recordings: Iterable[Recording],
    behaviour: Behaviour | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    on_ready: Callable[[int], None] = lambda port: None,
    *,
    with_stdin: bool = False,
) -> None:
    """Serve until SIGINT or SIGTERM, or until stdin closes if `with_stdin`. Raises OSError.

    `on_ready` gets the port once it is listened on.
    """
    uvloop.run(_serve(recordings, behaviour, host, port, on_ready, with_stdin))


async def _serve(
    recordings: Iterable[Recording],
    behaviour: Behaviour | None,
    host: str,
    port: int,
    on_ready: Callable[[int], None],
    with_stdin: bool,
) -> None:
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, over.set)
    upstream = Upstream(recordings, behaviour)
    on_ready(await upstream.start(host, port))
    if with_stdin:
        threading.Thread(target=_drain_stdin, args=(loop, over), daemon=True).start()
    await over.wait()
    await upstream.stop()


def _drain_stdin(loop: asyncio.AbstractEventLoop, over: asyncio.Event) -> None:
    # A thread, because a stdin that is a file or a terminal cannot be polled on every system.
    # It reads the descriptor itself: a daemon thread must hold no lock of sys.stdin at exit.
    while os.read(0, 4096):
        pass
    loop.call_soon_threadsafe(over.set)


class Spawned:
    """A replay upstream in a process of its own."""

    def __init__(self, port: int, pid: int) -> None:
        self.port = port
        self.pid = pid
        self.url = f"http://127.0.0.1:{port}"

    def stats(self) -> Stats:
        """Its counters, now. Raises OSError when it does not answer."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=_STOP_S)
        try:
            connection.request("GET", "/_stats")
            return msgspec.json.decode(connection.getresponse().read(), type=Stats)
        finally:
            connection.close()


@contextmanager
def spawned(
    *, folder: Path | None = None, knobs: str = "", key: str | None = None
) -> Iterator[Spawned]:
    """Run an upstream in a child process, so that it takes none of the caller's core.

    It serves the recordings of `folder`, or the shipped ones; `knobs` as in a
    model's name are its defaults. Raises StartupError when it does not become ready.
    """
    command = [sys.executable, "-m", "ringcast.replay", f"--knobs={knobs}"]
    if folder is not None:
        command.append(f"--corpus={folder}")
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_environment(key)
    )
    assert child.stdin is not None
    assert child.stdout is not None
    with child:
        try:
            yield Spawned(_port(child.stdout.readline()), child.pid)
        finally:
            child.stdin.close()
            _reap(child)


def _environment(key: str | None) -> dict[str, str]:
    # The key goes by the environment: arguments are for everybody on the machine to read.
    root = str(Path(__file__).parent.parent.parent)
    paths = filter(None, [root, os.environ.get("PYTHONPATH")])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    return environment if key is None else environment | {_KEY_ENV: key}


def _port(line: bytes) -> int:
    try:
        port: int = msgspec.json.decode(line, type=dict[str, int])["port"]
    except msgspec.DecodeError as error:
        raise StartupError("the replay upstream ended before it was ready") from error
    return port


def _reap(child: subprocess.Popen[bytes]) -> None:
    try:
        child.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        raise


def main() -> None:
    """The process that `spawned` starts."""
    _allow_sockets()
    parser = argparse.ArgumentParser(prog="python -m ringcast.replay", description=__doc__)
    parser.add_argument("--corpus", type=Path, help="folder with INDEX.tsv instead of our own")
    parser.add_argument("--knobs", default="", help="defaults, as pace=0;cut=7")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    given = parser.parse_args()
    recordings = corpus(given.corpus) if given.corpus else bundled()
    behaviour = turned(Behaviour(key=os.environ.get(_KEY_ENV)), given.knobs)
    run(recordings, behaviour, given.host, given.port, _announce, with_stdin=True)


def serve(folder: Path | None, host: str, port: int, knobs: str) -> None:
    """Serve for a person at a terminal. Raises `KnobError`, `ConfigError`, `StartupError`."""
    _allow_sockets()
    recordings = corpus(folder) if folder else bundled()

    def announce(bound: int) -> None:
        names = ", ".join(recording.name for recording in recordings[:3])
        print(f"{len(recordings)} recordings at http://{host}:{bound}/v1 (models: {names}, ...)")
        print("Ctrl-C ends it", flush=True)

    try:
        run(recordings, turned(Behaviour(), knobs), host, port, announce)
    except OSError as error:
        raise StartupError(f"cannot listen on {host}:{port}: {error.strerror}") from None


def _allow_sockets() -> None:
    # Many systems grant 1,024 descriptors until asked for more; a thousand streams need them.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard > _SOCKETS:
        hard = _SOCKETS
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _announce(port: int) -> None:
    print(msgspec.json.encode({"port": port}).decode(), flush=True)
