"""The daemon: run directory, lock and supervisor put together, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

from ringcast import child, rundir
from ringcast.config import Config
from ringcast.shm import segment
from ringcast.supervisor import Supervisor


def serve(config: Config, run_dir: Path, *, parent_pid: int = 0) -> None:
    """Serve in the foreground until SIGTERM or SIGINT.

    Raises `RunDirError`, `AlreadyRunning` or `StartupError`. Keys that the configuration
    names by variable leave this process's environment before any child is started.
    """
    rundir.prepare(run_dir)
    lock = rundir.Lock(run_dir)
    try:
        _sweep(run_dir)
        supervisor = Supervisor(
            config,
            run_dir,
            _take_keys(config),
            on_change=lambda state: rundir.write(run_dir, state),
            parent_pid=parent_pid,
        )
        supervisor.run()
    finally:
        lock.release()


def _sweep(run_dir: Path) -> None:
    """Remove what a daemon that was killed left behind; we hold its lock, so it is dead."""
    left = rundir.read(run_dir)
    if left is not None and child.start_time(left.pid) != left.start_time:
        for name in left.segments:
            segment.remove(name)
    for name in rundir.SOCKETS:
        (run_dir / name).unlink(missing_ok=True)


def _take_keys(config: Config) -> dict[str, str]:
    """Move the key variables from the environment into a dict for the provider processes."""
    taken: dict[str, str] = {}
    for provider in config.providers.values():
        name = provider.key.env if provider.key else None
        if name and name in os.environ:
            taken[name] = os.environ.pop(name)
    return taken
