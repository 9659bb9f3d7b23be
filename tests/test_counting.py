"""Counts of tokens in the real daemon: who counts, and what becomes of a count whose process dies.

The daemon takes small rank files of ours for OpenAI's.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from fakes.daemon import (
    Daemon,
    canaries,
    environment,
    free_port,
    in_loop,
    replaying,
    until,
    workplace,
)
from fakes.ranks import install
from fakes.rest import Reply, resting

from ringcast.providers import request
from ringcast.providers.estimate import estimate
from ringcast.workers.counter import NICENESS
from ringcast.workers.token_count import count_tokens

UP = free_port()
CONFIG = f"""
[providers.up]
kind = "openai-compatible"
base_url = "http://127.0.0.1:{UP}/v1"
[providers.router]
kind = "openrouter"
base_url = "http://127.0.0.1:{UP}/v1"
key = {{{{ env = "CANARY" }}}}
[processes]
hang_s = 2.0
restarts = {{restarts}}
[workers]
ranks = {{ranks}}
"""
SERVE = """
import os, sys
sys.path.insert(0, sys.argv.pop(1))
import pytest
from fakes import ranks
from ringcast import daemon
ranks.expect(pytest.MonkeyPatch())
sys.argv += ["--keys-fd", str(os.memfd_create("keys", 0))]
os.write(int(sys.argv[-1]), bytes([0x80]))
daemon.main()
"""
MODEL = "router/openai/gpt-4o"
HI = [{"role": "user", "content": "hello ring buffer"}]
SLOW = [{"role": "user", "content": "a" * (8 << 20)}]  # without a place to cut: seconds


@contextmanager
def counting(folder: Path, restarts: int = 5, ranks: str = "[]") -> Iterator[Daemon]:
    """A daemon that looks for rank files in `folder`, and nowhere else."""
    with workplace() as place:
        (place / "config.toml").write_text(CONFIG.format(restarts=restarts, ranks=ranks))
        run = place / "run"
        run.mkdir(mode=0o700)
        given = [str(Path(__file__).parent), "--config", str(place / "config.toml")]
        given += ["--run-dir", str(run), "--parent-pid", str(os.getpid())]
        places = {"RINGCAST_TIKTOKEN_DIR": str(folder), "XDG_CACHE_HOME": str(folder)}
        with (place / "stderr").open("wb") as said:
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", SERVE, *given],
                stderr=said,
                env=environment(CANARY="k", **places),
            )
        running = Daemon(run, process)
        try:
            until(lambda: (run / "state.json").exists() and _is_ready(running), "the daemon")
            yield running
            running.end()
        finally:
            running.stop()


def _is_ready(running: Daemon) -> bool:
    return running.state.status == "running"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    install(monkeypatch, tmp_path)
    return tmp_path


def exact(messages: list[dict[str, Any]]) -> dict[str, Any]:
    counted = count_tokens(MODEL, messages)
    assert counted.accuracy == "exact"
    return {"tokens": counted.tokens, "accuracy": "exact"}


def roughly(messages: list[dict[str, Any]]) -> dict[str, Any]:
    asked = request.of(model=MODEL, messages=messages)
    return {"tokens": estimate(asked), "accuracy": "estimate"}


def runs(running: Daemon) -> bool:
    return any(one.role == "counter" for one in running.state.processes)


@in_loop
async def test_counts_are_the_librarys_own(folder: Path) -> None:
    """By a process that gives way, starts with the first count, and needs no answer of a server."""
    with counting(folder) as running:
        assert not runs(running)
        async with running.connect() as client:
            assert await client.count(MODEL, HI) == exact(HI)
            assert psutil.Process(running.pid("counter")).nice() == NICENESS
            async with resting(UP, {}) as rest:  # it lacks the call
                assert await client.count("up/gpt-4o", HI) == exact(HI)
                assert len(rest.seen) == 1


@in_loop
async def test_long_texts_are_counted_one_after_the_other(folder: Path) -> None:
    long = [{"role": "user", "content": "hello ring, " * 100_000}]
    with counting(folder) as running:
        async with running.connect() as client:
            said = await asyncio.gather(*(client.count(MODEL, long) for _ in range(3)))
            assert said == [exact(long)] * 3


@in_loop
async def test_what_the_provider_counts_is_not_counted_again(folder: Path) -> None:
    with counting(folder) as running:
        tokenize = {"POST /tokenize": Reply({"count": 77, "max_model_len": 9, "tokens": []})}
        async with resting(UP, tokenize), running.connect() as client:
            assert await client.count("up/m", HI) == {"tokens": 77, "accuracy": "provider"}
        assert not runs(running)


@in_loop
async def test_without_rank_files_there_is_no_counting_process(tmp_path: Path) -> None:
    with counting(tmp_path, ranks='["o200k_base"]') as running:
        async with running.connect() as client:
            assert await client.count(MODEL, HI) == roughly(HI)
        assert not runs(running)
        assert "workers.ranks: o200k_base is not installed" in running.said


@in_loop
async def test_a_killed_counting_process_is_replaced_and_asked_again(folder: Path) -> None:
    with counting(folder, ranks='["o200k_base"]') as running:
        async with replaying(UP), running.connect() as client, canaries(running):
            assert await client.count(MODEL, HI) == exact(HI)
            os.kill(running.pid("counter"), signal.SIGSTOP)
            counts = [asyncio.create_task(client.count(MODEL, HI)) for _ in range(5)]
            await asyncio.sleep(0.2)
            await asyncio.to_thread(running.kill, "counter")
            assert await asyncio.gather(*counts) == [exact(HI)] * 5


@in_loop
async def test_a_counting_process_that_hangs_is_replaced(folder: Path) -> None:
    with counting(folder) as running:
        async with running.connect() as client:
            await client.count(MODEL, HI)
            os.kill(running.pid("counter"), signal.SIGSTOP)
            assert await client.count(MODEL, HI) == exact(HI)
        assert "counter 0 hangs; killing it" in running.said


@in_loop
async def test_what_two_processes_have_died_of_is_estimated(folder: Path) -> None:
    """And a third that dies within the minute ends nothing: counts are estimates then."""
    with counting(folder, restarts=2) as running:
        async with replaying(UP), running.connect() as client, canaries(running):
            await client.count(MODEL, HI)
            slow = asyncio.create_task(client.count(MODEL, SLOW))
            for _ in range(2):
                await asyncio.sleep(0.2)
                await asyncio.to_thread(running.kill, "counter")
            assert await slow == roughly(SLOW)
            assert await client.count(MODEL, HI) == exact(HI)
            os.kill(running.pid("counter"), signal.SIGKILL)
            until(lambda: "counts are estimates for now" in running.said, "the end of patience")
            assert await client.count(MODEL, HI) == roughly(HI)
        assert not runs(running)
        assert _is_ready(running)


@in_loop
async def test_a_new_broker_has_it_count_on(folder: Path) -> None:
    with counting(folder) as running:
        async with running.connect() as client:
            await client.count(MODEL, HI)
            before = running.pid("counter")
            os.kill(before, signal.SIGSTOP)
            asking = asyncio.create_task(client.count(MODEL, HI))
            await asyncio.sleep(0.2)
            await asyncio.to_thread(running.kill, "broker")
            os.kill(before, signal.SIGCONT)
            assert await asking == exact(HI)
            assert running.pid("counter") == before
