"""The daemon as a user starts, asks and stops it: exit statuses and what is said."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from fakes.daemon import (
    PATIENCE_S,
    Daemon,
    alive,
    ask,
    command,
    daemon,
    environment,
    in_loop,
    until,
    workplace,
)

from ringcast import inspection, rundir
from ringcast.replay.process import Spawned, spawned
from ringcast.shm import layout, segment

OWNER = 8 * layout.W_OWNER_PID


@pytest.fixture
def place() -> Iterator[Path]:
    with workplace() as directory:
        yield directory


def ringcast(*arguments: object, cwd: Path | None = None, **variables: str) -> tuple[int, str, str]:
    """Run a command to its end: exit status, output, errors."""
    done = subprocess.run(
        command(*map(str, arguments)),
        env=environment(**variables),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def rings(pid: int) -> list[str]:
    """Names of the rings that a process has made and not removed."""
    found = []
    for path in segment.DIRECTORY.glob(f"{segment.PREFIX}-*"):
        with suppress(FileNotFoundError):  # another test's daemon has ended
            if int.from_bytes(path.read_bytes()[OWNER : OWNER + 8], sys.byteorder) == pid:
                found.append(path.name)
    return found


@pytest.fixture
def started(place: Path) -> Iterator[Path]:
    """The run directory of a daemon in the background."""
    run = place / "run"
    assert ringcast("start", "--run-dir", run)[0] == 0
    yield run
    if rundir.locked(run):
        assert ringcast("stop", "--run-dir", run)[0] == 0


def test_start_status_ps_stop(place: Path) -> None:
    run = place / "run"
    status, said, wrong = ringcast("start", "--run-dir", run)
    state = rundir.running(run)
    assert (status, wrong) == (0, "")
    assert said == f"ringcast is running (pid {state.pid}) in {run}\n"
    assert len(rings(state.pid)) == 2
    assert os.getsid(state.pid) == state.pid  # no terminal's Ctrl-C or hang-up reaches it

    status, said, _ = ringcast("status", "--run-dir", run, "--json")
    report = json.loads(said)
    assert (status, report["status"], report["pid"]) == (0, "running", state.pid)
    assert report["run_dir"] == str(run)
    assert report["providers"]["ollama"] == "ready"
    assert report["providers"]["openai"] == "OPENAI_API_KEY is not set"
    assert report["streams"] == []

    status, said, _ = ringcast("ps", "--run-dir", run, "--json")
    rows = json.loads(said)["processes"]
    assert [row["role"] for row in rows] == ["supervisor", "broker", "worker", "provider"]
    assert [row["pid"] for row in rows] == [state.pid, *(one.pid for one in state.processes)]
    assert all(row["uss_bytes"] > 0 and row["restarts"] == 0 for row in rows)

    assert ringcast("stop", "--run-dir", run) == (0, "ringcast has stopped\n", "")
    assert [path.name for path in run.iterdir()] == ["ringcast.log"]
    assert rings(state.pid) == []
    assert ringcast("status", "--run-dir", run)[0] == 3


@pytest.mark.parametrize("verb", ["start", "serve"])
def test_a_second_daemon_is_refused_in_one_line(verb: str, started: Path) -> None:
    state = rundir.running(started)
    status, said, wrong = ringcast(verb, "--run-dir", started)
    assert (status, said) == (1, "")
    assert wrong == f"ringcast: a daemon (pid {state.pid}) already serves {started}\n"
    assert rundir.running(started) == state


def test_of_several_started_at_once_one_serves(place: Path) -> None:
    run = place / "run"
    serve = [*command("serve", "--run-dir", str(run))]
    racers = [
        subprocess.Popen(serve, env=environment(), stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    until(lambda: sum(one.poll() is None for one in racers) == 1, "the end of all but one")
    (winner,) = (one for one in racers if one.returncode is None)
    until(lambda: (run / rundir.CLIENT_SOCKET).exists(), "the winner")
    winner.terminate()
    for one in racers:
        _, wrong = one.communicate(timeout=PATIENCE_S)
        assert one.returncode == (0 if one is winner else 1)
        assert ("already serves" in wrong) == (one is not winner)


def test_relative_paths_mean_what_they_mean_here(place: Path) -> None:
    (place / "c.toml").write_text("[processes]\nworkers = 2\n")
    try:
        assert ringcast("start", "--run-dir", "run", "--config", "c.toml", cwd=place)[0] == 0
        state = rundir.running(place / "run")
        assert state.socket == str(place / "run" / "client.sock")
        assert sum(one.role == "worker" for one in state.processes) == 2
        assert ringcast("status", "--run-dir", "run", cwd=place)[0] == 0
    finally:
        assert ringcast("stop", "--run-dir", "run", cwd=place)[0] == 0


def test_a_relative_path_in_the_environment_does_too(place: Path) -> None:
    (place / "c.toml").write_text("[processes]\nworkers = 2\n")
    variables = {"RINGCAST_CONFIG": "c.toml", "RINGCAST_RUN_DIR": "run"}
    assert ringcast("start", cwd=place, **variables)[0] == 0
    state = rundir.running(place / "run")
    assert sum(one.role == "worker" for one in state.processes) == 2
    assert ringcast("stop", cwd=place, **variables)[0] == 0


@pytest.mark.parametrize("verb", ["start", "serve"])
@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("open", "has mode 755; run chmod 700"),
        ("link", "is not a directory (links are not followed)"),
        ("file", "is not a directory"),
        ("long", "the system allows 107; choose a shorter --run-dir"),
    ],
)
def test_a_run_directory_that_others_could_reach(
    verb: str, kind: str, says: str, place: Path
) -> None:
    run = place / "run"
    match kind:
        case "open":
            run.mkdir(mode=0o755)
        case "link":
            run.symlink_to(place)
        case "file":
            run.touch()
        case "long":
            run = place / ("x" * 120)
    status, said, wrong = ringcast(verb, "--run-dir", run)
    assert (status, said) == (77, "")
    assert says in wrong
    assert wrong.count("ringcast: ") == len(wrong.splitlines()) == 1


@pytest.mark.parametrize("verb", ["start", "serve"])
def test_all_faults_of_a_configuration(verb: str, place: Path) -> None:
    path = place / "c.toml"
    path.write_text("[proccesses]\nworkers = 2\n[timeouts]\nidle_s = -1\n")
    status, said, wrong = ringcast(verb, "--run-dir", place / "run", "--config", path)
    assert (status, said) == (78, "")
    assert wrong.splitlines() == [
        f"ringcast: {path}: unknown setting proccesses (did you mean processes?)",
        f"{path}: timeouts.idle_s = -1.0: must be in 0..1099511627776",
    ]
    assert not (place / "run").exists()


def test_a_start_that_fails_says_why_once(place: Path) -> None:
    path = place / "c.toml"
    path.write_text("[processes]\nready_s = 0\n")
    status, said, wrong = ringcast("start", "--run-dir", place / "run", "--config", path)
    assert (status, said) == (73, "")
    assert wrong.startswith("ringcast: broker 0 was not ready within 0 s (processes.ready_s)")
    assert wrong.count("ringcast: ") == len(wrong.splitlines()) == 1
    assert [path.name for path in (place / "run").iterdir()] == ["ringcast.log"]
    assert not rundir.locked(place / "run")


def test_a_serve_that_fails_leaves_nothing(place: Path) -> None:
    (place / "c.toml").write_text("[processes]\nready_s = 0\n")
    options = ["--run-dir", str(place / "run"), "--config", str(place / "c.toml")]
    process = subprocess.Popen(command("serve", *options), env=environment())
    assert process.wait(PATIENCE_S) == 73
    assert rings(process.pid) == []
    assert list((place / "run").iterdir()) == []


def test_a_state_file_of_a_killed_daemon_is_no_daemon(started: Path) -> None:
    state = rundir.running(started)
    os.kill(state.pid, signal.SIGKILL)
    until(lambda: not (alive(state.pid) or rundir.locked(started)), "its end")
    assert rings(state.pid)
    status, _, wrong = ringcast("status", "--run-dir", started)
    assert status == 3
    assert wrong.startswith("ringcast: no daemon serves ")
    assert ringcast("start", "--run-dir", started)[0] == 0
    assert rundir.running(started).pid != state.pid
    assert rings(state.pid) == []


# Looking at a daemon


@pytest.fixture(scope="module")
def upstream() -> Iterator[Spawned]:
    with spawned() as running:
        yield running


@pytest.fixture(scope="module")
def running(upstream: Spawned) -> Iterator[Daemon]:
    config = f"""
        [providers.up]
        kind = "openai-compatible"
        base_url = "{upstream.url}/v1"
        [providers.odd]
        kind = "openai"
        key = {{ file = "/no/[/such]/[red]file" }}
    """
    with daemon(config) as one:
        yield one


@in_loop
async def test_what_clients_name_is_shown_as_it_is(running: Daemon) -> None:
    """Square brackets are markup to the library that draws the tables."""
    async with running.connect() as client:
        stream = await ask(client, "up/numbered;n=0;[/red]")
        done = await _ringcast("ps", "--run-dir", running.directory)
        assert done == (0, "")
        assert (await _ringcast("status", "--run-dir", running.directory)) == (0, "")
        await stream.cancel()


async def _ringcast(*arguments: object) -> tuple[int, str]:
    """Exit status and errors, while this loop goes on."""
    status, said, wrong = await asyncio.to_thread(ringcast, *arguments)
    assert "[/" in said
    return status, wrong


def test_processes_that_are_gone_have_no_memory(
    running: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    report = inspection.processes(running.directory)
    assert all(row["uss_bytes"] for row in report["processes"])
    gone = report["processes"][0] | {"uss_bytes": None}
    inspection.print_processes({"processes": [gone], "streams": []})
    assert " - " in capsys.readouterr().out


@in_loop
async def test_cancel_by_id(running: Daemon, upstream: Spawned) -> None:
    async with running.connect() as client:
        stream = await ask(client, "up/numbered;n=0")
        await anext(stream)
        status, said, wrong = await asyncio.to_thread(
            ringcast, "cancel", "--run-dir", running.directory, stream.id.hex()
        )
        assert (status, said, wrong) == (0, "", "")
        tokens = [token async for token in stream]
    assert getattr(tokens[-1], "code", None) == "cancelled"
    assert upstream.stats().open_streams == 0


def test_cancel_of_what_is_not_there(running: Daemon) -> None:
    status, said, wrong = ringcast("cancel", "--run-dir", running.directory, "00" * 16)
    assert (status, said) == (1, "")
    assert wrong == "ringcast: unknown_stream: no such stream, or it left the log\n"
