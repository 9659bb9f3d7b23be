"""A daemon and a replay upstream in a directory of their own; nothing of them stays behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from ringcast import rundir
from ringcast.config import BASE_URLS, KEY_VARIABLES
from ringcast.errors import StartupError
from ringcast.replay.process import spawned
from ringcast.replay.recording import Recording
from ringcast.shm import segment

START_S: Final = 15.0
STOP_S: Final = 15.0
LOOK_S: Final = 0.02
LOG: Final = "ringcast.log"
CONFIG: Final = "config.toml"
# A recorded failure is played once, and no number of them keeps the next recording waiting.
_SETTINGS: Final = """
[retry]
attempts = 1
[breaker]
failures = 1_000_000
least_calls = 1_000_000
[usage]
keep = false
"""
_KINDS: Final = {
    "messages": "anthropic",
    "complete": "anthropic",
    "generate": "gemini",
    "converse": "bedrock",
    "native": "ollama",
}
# Signed with, and looked at by nobody.
_AWS: Final = {"AWS_ACCESS_KEY_ID": "AKIDDEMO", "AWS_SECRET_ACCESS_KEY": "demo"}


@contextmanager
def opened(recordings: Iterable[Recording], corpus: Path | None) -> Iterator[Path]:
    """Run a daemon whose providers play `recordings`; yield its run directory.

    The upstream serves the folder `corpus`, or the shipped recordings. Raises `StartupError`,
    and `RunDirError` where the temporary directory's path is too long for a socket.
    """
    with ExitStack() as stack:
        with _no_interrupt():
            where = stack.enter_context(tempfile.TemporaryDirectory(prefix="rc-", dir=_base()))
            run_dir = rundir.verify(Path(where))
            upstream = stack.enter_context(spawned(folder=corpus))
            (run_dir / CONFIG).write_text(_config(recordings, upstream.url), encoding="utf-8")
            stack.enter_context(_daemon(run_dir))
        yield run_dir


def _base() -> str:
    """Where run directories are, or at least a short path."""
    named = os.environ.get("XDG_RUNTIME_DIR", "")
    return named if os.access(named, os.W_OK) else tempfile.gettempdir()


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Hold Ctrl-C back, for good in the processes started meanwhile: we alone end them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def gateway(recording: Recording) -> tuple[str, str]:
    """Return name and kind of the provider that a recording is asked from.

    What speaks a vendor's own API elsewhere (and the other way round) gets a name of its own.
    """
    provider, api = recording.provider, recording.api
    if api in _KINDS:
        kind = _KINDS[api]
        return (provider if kind == provider else f"{provider}-{api}"), kind
    if provider in _KINDS.values():
        return f"{provider}-{api}", "openai-compatible"
    return provider, provider if provider in BASE_URLS else "openai-compatible"


def _config(recordings: Iterable[Recording], url: str) -> str:
    kinds = {"openai": "openai", "anthropic": "anthropic"}
    kinds.update(gateway(recording) for recording in recordings)
    return _SETTINGS + "\n".join(
        f"[providers.{json.dumps(name)}]\nkind = {json.dumps(kind)}\nbase_url = {json.dumps(url)}\n"
        + ('region = "us-east-1"\n' if kind == "bedrock" else "")
        for name, kind in kinds.items()
    )


@contextmanager
def _daemon(run_dir: Path) -> Iterator[None]:
    arguments = [sys.executable, "-P", "-m", "ringcast", "serve", "--run-dir", str(run_dir)]
    arguments += ["--config", str(run_dir / CONFIG), "--parent-pid", str(os.getpid())]
    keys = KEY_VARIABLES.values()
    environment = {name: value for name, value in os.environ.items() if name not in keys} | _AWS
    with (run_dir / LOG).open("wb") as log:
        child = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
        )
    try:
        _await_ready(run_dir, child)
        yield
    finally:
        _stop(run_dir, child)


def _await_ready(run_dir: Path, child: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        state = rundir.read(run_dir)
        if state is not None and state.status == "running":
            return
        if child.poll() is not None:
            break
        time.sleep(LOOK_S)
    said = (run_dir / LOG).read_text(errors="replace").strip().splitlines()
    raise StartupError(said[-1] if said else f"the daemon was not ready within {START_S:g} s")


def _stop(run_dir: Path, child: subprocess.Popen[bytes]) -> None:
    state = rundir.read(run_dir)
    child.terminate()
    try:
        child.wait(STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()  # its own children die with it
        child.wait()
        for name in filter(None, (*state.segments, state.reserve)) if state else ():
            segment.remove(name)
