"""A crowd: 1,000 streams at 20 tokens/s at once, and 1,000 idle clients beside them.

Streams and idle clients live in processes of their own; every token is compared with the
numbered sequence, every idle client pings each heartbeat and must be answered each time.
Meanwhile a client asks for the daemon's status, which must come within a second.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop

from ringcast.bench.dealer import Dealer, context
from ringcast.bench.e2e import cpu_seconds, daemon, processes
from ringcast.broker import protocol
from ringcast.broker.client import Client, connect
from ringcast.replay import process as replay
from ringcast.shm.tokens import Done
from ringcast.soak.sequence import Sequence, Tally

STREAMS: Final = 1000
IDLE: Final = 1000
HOLDERS: Final = 2  # processes for the streams, and as many for the idle clients
PACE: Final = 20  # tokens/s of each stream
SECONDS: Final = 15
ASK_S: Final = 0.5  # between two questions for the status
STATUS_LIMIT_S: Final = 1.0
PATIENCE_S: Final = 30.0


class Job(msgspec.Struct, frozen=True):
    """What a process is to hold: `count` streams of `tokens` from seed `first`, or idle clients."""

    run_dir: str
    count: int
    tokens: int = 0
    first: int = 0


class Told(msgspec.Struct, frozen=True):
    """What such a process says: `ready`, and at its end what it saw.

    `longest_s` is what its slowest stream took, from OPENED to the terminal token.
    """

    ready: bool = False
    tally: Tally = msgspec.field(default_factory=Tally)
    longest_s: float = 0.0
    pings: int = 0
    pongs: int = 0
    refused: list[str] = []


def _say(told: Told) -> None:
    print(msgspec.json.encode(told).decode(), flush=True)


# a process of streams


async def _stream(
    client: Client, job: Job, number: int, tally: Tally, ready: asyncio.Event
) -> float:
    seed = job.first + number
    model = f"mock/numbered;n={job.tokens};pace={PACE};seed={seed}"
    stream = await client.chat(model, [{"role": "user", "content": "go"}])
    began = time.monotonic()
    if number == job.count - 1:
        ready.set()
    sequence, last = Sequence(job.tokens, seed, tally), None
    async for batch in stream.batches():
        sequence.take(batch)
        last = batch[-1]
    sequence.end()
    if not isinstance(last, Done):
        tally.failed.append(f"stream {seed} ended with {last}")
    return time.monotonic() - began


async def _hold_streams(job: Job) -> None:
    tally, ready = Tally(), asyncio.Event()
    async with connect(job.run_dir, name="crowd") as client:
        streams = [
            asyncio.ensure_future(_stream(client, job, number, tally, ready))
            for number in range(job.count)
        ]
        await ready.wait()
        _say(Told(ready=True))
        durations = await asyncio.gather(*streams)
    _say(Told(tally=tally, longest_s=max(durations)))


# a process of idle clients


async def _hold_idle(job: Job) -> None:
    shared, refused = context(), list[str]()

    def on_frame(frame: protocol.DaemonFrame) -> None:
        refused.append(str(frame))

    dealers = [Dealer(shared, Path(job.run_dir), on_frame) for _ in range(job.count)]
    welcomes = await asyncio.gather(*(dealer.welcome for dealer in dealers))
    _say(Told(ready=True))
    over = asyncio.create_task(_until_stdin_ends())
    pause = welcomes[0].heartbeat_s / 2 / len(dealers)  # twice as often as they must
    while not over.done():
        for dealer in dealers:
            dealer.ping()
            await asyncio.wait({over}, timeout=pause)
            if over.done():
                break
    await _answered(dealers)
    pings, pongs = sum(dealer.pings for dealer in dealers), sum(dealer.pongs for dealer in dealers)
    _say(Told(pings=pings, pongs=pongs, refused=refused))
    for dealer in dealers:
        dealer.close()
    shared.term()


async def _answered(dealers: list[Dealer]) -> None:
    """Wait until every ping has its answer; one that never comes shows in the counts."""
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_S):
            for dealer in dealers:
                if dealer.pings:
                    await dealer.answered.wait()


async def _until_stdin_ends() -> None:
    reader = asyncio.StreamReader()
    pipe = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: pipe, sys.stdin)
    await reader.read()


# the bench


class Holder:
    """One of these processes, from outside."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        """`child` is at work."""
        self._child = child

    def told(self) -> Told:
        """Wait for what it says next. Raises AssertionError if it ended instead."""
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise AssertionError("a process of clients ended; its error is above")
        return msgspec.json.decode(line, type=Told)

    def release(self) -> None:
        """Let it end: idle clients wait for that."""
        assert self._child.stdin is not None
        self._child.stdin.close()


@contextmanager
def _holder(kind: str, job: Job) -> Iterator[Holder]:
    command = [sys.executable, "-P", "-m", "ringcast.bench.crowd", f"--{kind}"]
    command.append(msgspec.json.encode(job).decode())
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as child:
        holder = Holder(child)
        try:
            yield holder
        finally:
            holder.release()
            try:
                child.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                child.kill()


async def _ask(run_dir: Path, over: asyncio.Event) -> tuple[list[float], list[int]]:
    """Ask for the status until `over`; return seconds to each answer, and clients in each."""
    seconds, clients = [], []
    async with connect(run_dir, name="crowd status") as client:
        while not over.is_set():
            began = time.monotonic()
            report = await client.status()
            seconds.append(time.monotonic() - began)
            clients.append(report["clients"])
            try:
                await asyncio.wait_for(over.wait(), ASK_S)
            except TimeoutError:
                continue
    return seconds, clients


async def _watch(run_dir: Path, holders: list[Holder]) -> tuple[list[Told], dict[str, float]]:
    """Watch the daemon until all streams have ended."""
    group, over = processes(run_dir), asyncio.Event()
    asking = asyncio.create_task(_ask(run_dir, over))
    began, cpu = time.monotonic(), cpu_seconds(group)
    waiting = [asyncio.to_thread(holder.told) for holder in holders]
    gathered = asyncio.gather(*waiting)
    await asyncio.wait({gathered}, timeout=SECONDS / 2)
    pss = sum(process.memory_full_info().pss for process in group)
    told = await gathered
    elapsed = time.monotonic() - began
    cpu = cpu_seconds(group) - cpu
    over.set()
    seconds, clients = await asking
    tokens = sum(one.tally.tokens for one in told)
    return told, {
        "tokens": tokens,
        "longest_s": max(one.longest_s for one in told),
        "clients": min(clients),
        "pss_mb": pss / 1e6,
        "cpu_cores": cpu / elapsed,
        "cpu_us_per_token": cpu / tokens * 1e6,
        "status_p50_ms": statistics.median(seconds) * 1000,
        "status_max_ms": max(seconds) * 1000,
    }


def _judge(told: list[Told], idle: list[Told], figures: dict[str, float], wanted: int) -> None:
    faults = [line for one in told for line in one.tally.failed]
    faults += [line for one in idle for line in one.refused]
    if any(one.tally.wrong for one in told):
        faults.append(f"tokens are wrong: {[one.tally for one in told]}")
    if any(one.pongs != one.pings or not one.pings for one in idle):
        faults.append(f"pings unanswered: {[(one.pings, one.pongs) for one in idle]}")
    if figures["clients"] < wanted:
        faults.append(f"{figures['clients']} clients were connected, {wanted} should be")
    if figures["status_max_ms"] >= STATUS_LIMIT_S * 1000:
        faults.append(f"status took {figures['status_max_ms']:.0f} ms")
    if faults:
        raise AssertionError("; ".join(faults[:5]))


def run(streams: int = STREAMS, idle: int = IDLE, seconds: int = SECONDS) -> dict[str, Any]:
    """Hold a crowd for so long. Raises AssertionError naming whatever was not right."""
    with ExitStack() as stack:
        upstream = stack.enter_context(replay.spawned(knobs="pace=0"))
        run_dir = stack.enter_context(daemon(upstream.port))
        shares = [idle // HOLDERS + (i < idle % HOLDERS) for i in range(HOLDERS)]
        resting = [
            stack.enter_context(_holder("idle", Job(str(run_dir), share))) for share in shares
        ]
        for holder in resting:
            holder.told()
        shares = [streams // HOLDERS + (i < streams % HOLDERS) for i in range(HOLDERS)]
        busy = [
            stack.enter_context(
                _holder("streams", Job(str(run_dir), share, seconds * PACE, i * streams))
            )
            for i, share in enumerate(shares)
        ]
        for holder in busy:
            holder.told()
        told, figures = uvloop.run(_watch(run_dir, busy))
        for holder in resting:
            holder.release()
        rested = [holder.told() for holder in resting]
    _judge(told, rested, figures, idle + HOLDERS)
    pings = sum(one.pings for one in rested)
    return {"streams": streams, "idle": idle, "pings": pings, **figures}


def main(arguments: list[str] | None = None) -> None:
    """Print the figures, for people or as JSON."""
    parser = argparse.ArgumentParser(prog="ringcast bench crowd", description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--streams", help=argparse.SUPPRESS)
    parser.add_argument("--idle", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    for kind, hold in (("streams", _hold_streams), ("idle", _hold_idle)):
        if job := getattr(asked, kind):
            uvloop.run(hold(msgspec.json.decode(job, type=Job)))
            return
    figures = run()
    if asked.json:
        print(json.dumps({"cores": os.cpu_count(), **figures}))
        return
    for name, value in figures.items():
        print(f"{name:18} {value:,.1f}" if isinstance(value, float) else f"{name:18} {value:,}")


if __name__ == "__main__":
    main()
