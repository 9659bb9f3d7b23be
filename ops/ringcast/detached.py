"""The daemon in the background: start it and wait, stop it and wait."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from ringcast import config_file, rundir
from ringcast.errors import RingcastError, StartupError
from ringcast.rundir import State

LOG: Final = "ringcast.log"
START_S: Final = 15.0
STOP_S: Final = 20.0
LOOK_S: Final = 0.02


def start(directory: Path, config_path: Path | None) -> State:
    """Start a daemon that outlives us. Raises `AlreadyRunning` or `StartupError`."""
    directory = directory.absolute()  # the daemon works in /
    rundir.prepare(directory)
    rundir.refuse_second(directory)
    arguments = [sys.executable, "-P", "-m", "ringcast", "serve", "--run-dir", str(directory)]
    chosen = config_path or config_file.default_path()
    if chosen.exists():
        arguments += ["--config", str(chosen.absolute())]
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    log = os.open(directory / LOG, flags, 0o600)
    try:
        child = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
        )
    finally:
        os.close(log)
    return _await_ready(directory, child)


def _await_ready(directory: Path, child: subprocess.Popen[bytes]) -> State:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        state = rundir.read(directory)
        if state is not None and state.pid == child.pid and state.status == "running":
            return state
        if child.poll() is not None:
            break
        time.sleep(LOOK_S)
    child.terminate()  # it still removes what it has made
    said = (directory / LOG).read_text(errors="replace").strip().splitlines()
    late = f"the daemon was not ready within {START_S:g} s"
    raise StartupError(said[-1].removeprefix("ringcast: ") if said else late)


def stop(directory: Path) -> None:
    """Ask the daemon to end and wait until it has. Raises `NotRunning`, `RingcastError`."""
    state = rundir.running(directory)
    os.kill(state.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_S
    while rundir.locked(directory):
        if time.monotonic() > deadline:
            raise RingcastError(f"the daemon (pid {state.pid}) did not end within {STOP_S:g} s")
        time.sleep(LOOK_S)
