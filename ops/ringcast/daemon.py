"""The daemon: run directory, lock and supervisor put together, and nothing else.

`serve` replaces the process it is called in by `python -m ringcast.daemon`, which has
neither the keys in its environment nor the command line's modules in its memory.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn

from ringcast import child, config_file, keyring, rundir
from ringcast.errors import RingcastError
from ringcast.providers.traffic import routing
from ringcast.shm import segment
from ringcast.supervisor import Supervisor


def serve(config_path: Path | None, run_dir: Path, *, parent_pid: int = 0) -> NoReturn:
    """Become the daemon, in the foreground, until SIGTERM or SIGINT.

    Raises `ConfigError`, `RunDirError` and `AlreadyRunning` while that can still be told.
    """
    run_dir = run_dir.absolute()  # the state file names the socket to clients anywhere
    tree = config_file.load(config_path)
    rundir.prepare(run_dir)
    rundir.refuse_second(run_dir)
    arguments = [sys.executable, "-P", "-m", "ringcast.daemon", "--run-dir", str(run_dir)]
    if config_path is not None:
        arguments += ["--config", str(config_path)]
    arguments += ["--parent-pid", str(parent_pid)]
    arguments += ["--keys-fd", str(keyring.pack(tree, os.environ))]
    os.execve(sys.executable, arguments, keyring.without(tree, os.environ))


def main() -> None:
    """Run as `python -m ringcast.daemon`; errors are one line and an exit status."""
    parser = argparse.ArgumentParser(prog="ringcast.daemon")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--parent-pid", type=int, default=0)
    parser.add_argument("--keys-fd", type=int, required=True)
    asked = parser.parse_args()
    try:
        _run(asked.config, asked.run_dir, asked.keys_fd, asked.parent_pid)
    except RingcastError as error:
        print(f"ringcast: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _run(config_path: Path | None, run_dir: Path, keys_fd: int, parent_pid: int) -> None:
    os.set_inheritable(keys_fd, False)
    tree = config_file.load(config_path)
    routing.check(tree)
    rundir.verify(run_dir)
    lock = rundir.Lock(run_dir)
    try:
        _sweep(run_dir)
        Supervisor(
            tree,
            run_dir,
            keys_fd,
            private=[lock.fd],
            on_change=lambda state: rundir.write(run_dir, state),
            parent_pid=parent_pid,
        ).run()
    finally:
        lock.release()


def _sweep(run_dir: Path) -> None:
    """Remove what a daemon that was killed left behind; we hold its lock, so it is dead."""
    left = rundir.read(run_dir)
    if left is not None and child.start_time(left.pid) != left.start_time:
        for name in filter(None, (*left.segments, left.reserve)):
            segment.remove(name)
    for name in rundir.SOCKETS:
        (run_dir / name).unlink(missing_ok=True)


if __name__ == "__main__":
    main()
