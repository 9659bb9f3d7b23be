"""Deaths and signals: what dies is replaced, what lives goes on, and nothing stays behind."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
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
    in_loop,
    take,
    take_some,
    texts,
    until,
    workplace,
)

from ringcast.errors import Code
from ringcast.replay.numbered import numbered_tokens
from ringcast.replay.process import Spawned, spawned
from ringcast.shm import records, segment
from ringcast.shm.ring import Reader, Writer
from ringcast.shm.tokens import Done, Error
from ringcast.shm.wiring import Wiring
from ringcast.workers.process import run as run_worker

SHM = Path("/dev/shm")
ENDLESS = "up/numbered;n=0;pace=200"


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
        {more}
    """


@pytest.fixture
def running(upstream: Spawned) -> Iterator[Daemon]:
    with daemon(config(upstream), CANARY=CANARY_KEY) as one:
        yield one
        assert CANARY_KEY not in one.said


def left(running: Daemon) -> set[str]:
    """What there is of a daemon's segments."""
    return {name for name in running.state.segments if (SHM / name).exists()}


async def answers(running: Daemon) -> None:
    """A new stream works."""
    async with running.connect() as client:
        tokens = await take(await ask(client, "up/numbered;n=50;seed=7"))
    assert texts(tokens) == list(numbered_tokens(50, 7))
    assert isinstance(tokens[-1], Done)


def roles(running: Daemon) -> list[str]:
    return sorted(one.role for one in running.state.processes)


def pids(running: Daemon) -> set[int]:
    return {one.pid for one in running.state.processes}


def await_end(pid: int) -> None:
    """Wait for the end of a process and of all its threads."""
    fd = os.pidfd_open(pid)
    try:
        assert select.select([fd], [], [], PATIENCE_S)[0]
    finally:
        os.close(fd)


def ready(running: Daemon) -> bool:
    return running.state.status == "running"


def children(running: Daemon) -> set[int]:
    """The daemon's processes as the kernel sees them."""
    found = psutil.Process(running.process.pid).children()
    return {one.pid for one in found if alive(one.pid)}


@pytest.mark.parametrize("role", ["worker", "broker"])
@in_loop
async def test_a_killed_process_is_replaced_and_its_streams_go_on(
    role: str, running: Daemon
) -> None:
    """SIGKILL at random moments under load: every token once, in order, and Done."""
    seed = int.from_bytes(os.urandom(4))
    print(f"seed {seed}")
    draw = random.Random(seed)
    async with running.connect() as client:
        streams = [await ask(client, f"up/numbered;n=600;pace=300;seed={i}") for i in range(10)]
        takers = [asyncio.create_task(take(stream)) for stream in streams]
        for _ in range(4):
            await asyncio.sleep(draw.uniform(0.1, 0.4))
            running.kill(role)
            until(lambda: ready(running) and pids(running) == children(running), "a successor")
        said = await asyncio.gather(*takers)
    for number, tokens in enumerate(said):
        assert texts(tokens) == list(numbered_tokens(600, number))
        assert isinstance(tokens[-1], Done)
    (row,) = (one for one in running.state.processes if one.role == role)
    assert row.restarts == 4


@pytest.mark.parametrize("role", ["worker", "broker"])
@in_loop
async def test_a_process_that_hangs_is_killed_and_its_streams_go_on(
    role: str, upstream: Spawned
) -> None:
    more = "[processes]\nhang_s = 2.0"
    with daemon(config(upstream, more), CANARY=CANARY_KEY) as running:
        async with running.connect() as client:
            stream = await ask(client, "up/numbered;n=900;pace=200")
            tokens = await take_some(stream, 20)
            os.kill(running.pid(role), signal.SIGSTOP)
            tokens += await take(stream)
        assert texts(tokens) == list(numbered_tokens(900, 0))
        assert isinstance(tokens[-1], Done)
        assert "hangs" in running.said


@in_loop
async def test_what_was_not_answered_yet_is_asked_again(running: Daemon, upstream: Spawned) -> None:
    """A provider process dies: its streams without a token begin anew, the others end."""
    async with running.connect() as client:
        said = await ask(client, "up/numbered;n=0;pace=200")
        first = await take_some(said, 5)
        before = upstream.stats().requests
        silent = [await ask(client, f"up/numbered;n=40;seed={i};delay_s=3") for i in range(5)]
        gone = await ask(client, "up/numbered;n=40;delay_s=3")
        until(lambda: upstream.stats().requests >= before + 6, "the requests")
        running.kill("provider")
        await gone.cancel()
        first += await take(said)
        for number, stream in enumerate(silent):
            tokens = await take(stream)
            assert texts(tokens) == list(numbered_tokens(40, number))
            assert isinstance(tokens[-1], Done)
        (last,) = await take(gone)
    assert texts(first) == list(numbered_tokens(len(texts(first)), 0))
    assert isinstance(first[-1], Error)
    assert first[-1].code == Code.INTERRUPTED
    assert first[-1].retryable
    assert first[-1].summary is not None  # it came by way of the worker, with what it knew
    assert isinstance(last, Error)
    assert last.code == Code.CANCELLED
    # The cancel may have come before the request was sent again, or after.
    assert upstream.stats().requests - before - 6 in (5, 6)


@in_loop
async def test_a_killed_provider_process_is_replaced_and_its_streams_end(running: Daemon) -> None:
    async with running.connect() as client:
        stream = await ask(client, ENDLESS)
        tokens = await take_some(stream, 5)
        running.kill("provider")
        tokens += await take(stream)
    said = texts(tokens)
    assert said == list(numbered_tokens(len(said), 0))
    assert isinstance(tokens[-1], Error)
    assert tokens[-1].code == Code.INTERRUPTED
    assert tokens[-1].retryable
    await answers(running)
    (row,) = (one for one in running.state.processes if one.role == "provider")
    assert row.restarts == 1
    assert children(running) == pids(running)


@in_loop
async def test_who_asks_while_a_process_is_replaced_is_served(running: Daemon) -> None:
    """A request waits for the provider process, and is asked again if the broker dies with it."""
    async with running.connect() as client:
        for role in ("provider", "broker", "worker", "provider"):
            running.kill(role)
            streams = await asyncio.gather(
                *(ask(client, f"up/numbered;n=20;pace=0;seed={i}") for i in range(5))
            )
            for number, stream in enumerate(streams):
                assert texts(await take(stream)) == list(numbered_tokens(20, number))


@pytest.mark.parametrize("others", [["worker"], ["provider"], ["worker", "provider"]], ids=str)
@in_loop
async def test_the_broker_and_others_killed_at_once(others: list[str], running: Daemon) -> None:
    """More than the design promises to survive: but no stream may hang, and none may lie."""
    killed = {running.pid(role) for role in ["broker", *others]}
    supervisor = psutil.Process(running.process.pid)
    async with running.connect() as client:
        streams = [await ask(client, f"up/numbered;n=900;pace=300;seed={i}") for i in range(5)]
        takers = [asyncio.create_task(take(stream)) for stream in streams]
        await asyncio.sleep(0.5)
        supervisor.suspend()  # so that it sees all deaths at once
        until(lambda: supervisor.status() == psutil.STATUS_STOPPED, "its stop")
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
            await_end(pid)
        supervisor.resume()
        until(lambda: ready(running) and not pids(running) & killed, "all others")
        said = await asyncio.gather(*takers)
        for number, tokens in enumerate(said):
            expected = list(numbered_tokens(900, number))
            assert texts(tokens) == expected[: len(texts(tokens))]
            assert isinstance(tokens[-1], Error) or texts(tokens) == expected
    await answers(running)
    assert roles(running) == ["broker", "provider", "worker"]
    assert children(running) == pids(running)
    assert running.said.count("starting another") == len(killed)


@in_loop
async def test_a_stopped_process_goes_on_when_it_may(running: Daemon) -> None:
    async with canaries(running):
        for role in ("worker", "provider", "broker"):
            os.kill(running.pid(role), signal.SIGSTOP)
            os.kill(running.pid(role), signal.SIGCONT)


@in_loop
async def test_signals_that_are_not_for_us_change_nothing(running: Daemon) -> None:
    before = pids(running)
    async with canaries(running):
        for pid in before:
            for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGUSR1):
                os.kill(pid, number)
        for number in (signal.SIGHUP, signal.SIGPIPE, signal.SIGUSR1):
            running.process.send_signal(number)
    assert pids(running) == before
    assert running.process.poll() is None
    assert running.said.count("most recent call first") >= 4  # stacks, for SIGUSR1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@in_loop
async def test_an_end_is_told_and_leaves_nothing(number: signal.Signals, running: Daemon) -> None:
    segments, before = set(running.state.segments), pids(running)
    assert left(running) == segments
    async with running.connect() as client:
        stream = await ask(client, ENDLESS)
        await take_some(stream, 5)
        running.process.send_signal(number)
        tokens = await take(stream)
    assert isinstance(tokens[-1], Error)
    assert tokens[-1].code == Code.SHUTTING_DOWN
    assert running.stop(number) == 0
    assert not any(alive(pid) for pid in before)
    assert not any((SHM / name).exists() for name in segments)
    assert list(running.directory.iterdir()) == []
    assert running.said == ""


def test_a_second_signal_ends_at_once(upstream: Spawned) -> None:
    with daemon(config(upstream, "[processes]\nstop_s = 1000"), CANARY="k") as running:
        broker, worker, segments = running.pid("broker"), running.pid("worker"), left(running)
        os.kill(worker, signal.SIGSTOP)
        running.process.send_signal(signal.SIGTERM)
        until(lambda: not alive(broker), "the end of the broker")
        assert running.process.poll() is None
        assert running.stop() == 0
        assert not alive(worker)
        assert not any((SHM / name).exists() for name in segments)


def test_a_killed_supervisor_takes_all_with_it_and_the_next_start_sweeps(
    running: Daemon,
) -> None:
    segments, before = left(running), pids(running)
    running.process.kill()
    running.process.wait(PATIENCE_S)
    until(lambda: not any(alive(pid) for pid in before), "the end of the children")
    assert left(running) == segments
    serve = command("serve", "--run-dir", str(running.directory))
    given = ["--config", str(running.directory.parent / "config.toml")]
    process = subprocess.Popen([*serve, *given], env=environment(CANARY="k"))
    successor = Daemon(running.directory, process)
    try:
        until(
            lambda: successor.state.pid == process.pid and successor.state.status == "running",
            "the next daemon",
        )
        assert not any((SHM / name).exists() for name in segments)
        in_loop(answers)(successor)
    finally:
        assert successor.stop() == 0


def test_it_gives_up_when_too_many_die(upstream: Spawned) -> None:
    with daemon(config(upstream, "[processes]\nrestarts = 1"), CANARY="k") as running:
        segments = left(running)
        running.kill("worker")
        os.kill(running.pid("worker"), signal.SIGKILL)
        assert running.process.wait(PATIENCE_S) == 73
        text = r"ringcast: 2 processes died within 60 s \(processes\.restarts\); giving up"
        assert re.fullmatch(text, running.said.splitlines()[-1])
        assert not any((SHM / name).exists() for name in segments)
        assert list(running.directory.iterdir()) == []


STILLBORN = """
import os, sys
from pathlib import Path
from ringcast import daemon, preload

mark = Path(sys.argv.pop(1))

def once(role):
    def run(*given):
        if mark.exists() and mark.read_text() == role.__module__:
            mark.unlink()
            os._exit(1)
        role(*given)
    return run

preload.worker, preload.broker = once(preload.worker), once(preload.broker)
sys.argv += ["--keys-fd", str(os.memfd_create("keys", 0))]
os.write(int(sys.argv[-1]), bytes([0x80]))
daemon.main()
"""


@pytest.mark.parametrize("role", ["worker", "broker"])
def test_a_successor_that_dies_at_birth_is_replaced_too(role: str) -> None:
    module = {"worker": "ringcast.workers.process", "broker": "ringcast.broker.process"}[role]
    with workplace() as place:
        mark, run = place / "mark", place / "run"
        run.mkdir(mode=0o700)
        given = ["-P", "-c", STILLBORN, str(mark), "--run-dir", str(run)]
        with (place / "stderr").open("wb") as said:
            process = subprocess.Popen([sys.executable, *given], stderr=said, env=environment())
        running = Daemon(run, process)
        try:
            until(lambda: (run / "state.json").exists() and ready(running), "the daemon")
            mark.write_text(module)
            running.kill(role)
            assert not mark.exists()
            assert roles(running) == ["broker", "provider", "worker"]
            assert children(running) == pids(running)
        finally:
            assert running.stop() == 0
        assert running.said.count("; starting another") == 2
        assert list(run.iterdir()) == []


def test_it_ends_with_the_process_that_it_was_told(upstream: Spawned) -> None:
    editor = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with daemon(config(upstream), "--parent-pid", str(editor.pid), CANARY="k") as running:
        editor.communicate(b"\n")
        assert running.process.wait(PATIENCE_S) == 0
        assert list(running.directory.iterdir()) == []


def test_it_ends_with_a_parent_that_nobody_has_collected(upstream: Spawned) -> None:
    editor = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert editor.stdin is not None
    with daemon(config(upstream), "--parent-pid", str(editor.pid), CANARY="k") as running:
        editor.stdin.close()
        assert running.process.wait(PATIENCE_S) == 0
    editor.wait(PATIENCE_S)


def test_only_the_provider_process_can_read_the_keys(running: Daemon) -> None:
    everyone = {"supervisor": running.process.pid}
    everyone |= {one.role: one.pid for one in running.state.processes}
    for role, pid in everyone.items():
        assert CANARY_KEY.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
        files = [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()]
        keys = any("ringcast-keys" in name for name in files)
        assert keys == (role in ("supervisor", "provider"))
    for file in running.directory.iterdir():
        if file.is_file():
            assert CANARY_KEY not in file.read_text()


def test_no_core_file_can_hold_a_key(running: Daemon) -> None:
    for pid in pids(running):
        assert re.search(r"Max core file size +0 +0 ", Path(f"/proc/{pid}/limits").read_text())


def test_children_are_named(running: Daemon) -> None:
    names = {Path(f"/proc/{pid}/comm").read_text().strip() for pid in pids(running)}
    assert names == {"rc-broker", "rc-worker-0", "rc-provider-0"}


@pytest.fixture
def wiring() -> Iterator[Wiring]:
    """One ring in, one ring out, and no process."""
    wiring = Wiring(1, 1, 1 << 16, 1 << 16, segment.family())
    made = wiring.create(os.getpid(), 0)
    yield wiring
    for one in made:
        one.close()
        segment.remove(one.name)
    wiring.close()


def test_a_worker_rings_for_a_predecessor_that_died_before_it_could(wiring: Wiring) -> None:
    line = wiring.ins[0][0]
    memory = segment.attach(line.name).memory
    producer, predecessor = Writer(memory), Reader(memory)
    while producer.append(records.DATA, 1, 0, 0, bytes(8000)):
        pass
    producer.publish()
    assert producer.wait()
    while predecessor.poll():
        pass
    assert predecessor.release(predecessor.position)  # and now it should ring
    fork = multiprocessing.get_context("fork")
    reading, writing = fork.Pipe(duplex=False)
    worker = fork.Process(target=run_worker, args=(wiring, 0, Path(), writing))
    worker.start()
    try:
        assert reading.poll(PATIENCE_S)
        assert select.select([line.room.fileno()], [], [], PATIENCE_S)[0]
    finally:
        worker.terminate()
        worker.join(PATIENCE_S)
    assert worker.exitcode == 0


def test_several_of_each(upstream: Spawned) -> None:
    counts = "[processes]\nworkers = 2\nproviders = 2"
    with daemon(config(upstream, counts), CANARY="k") as running:
        assert roles(running) == ["broker", "provider", "provider", "worker", "worker"]
        for _ in range(4):  # streams take turns
            in_loop(answers)(running)
