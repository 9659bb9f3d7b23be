"""What is lost when a worker is killed: nothing, and how long it takes to go on.

Streams of numbered tokens run through the real daemon while its worker is killed with
SIGKILL at seeded random moments. Every client checks each token against the numbered
sequence: one that is missing, doubled or changed is counted. An outage is the longest
silence over all streams after a kill.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import time
from itertools import pairwise
from typing import Any, Final

import msgspec
import uvloop

from ringcast import rundir
from ringcast.bench.e2e import daemon
from ringcast.broker.client import ClientStream, connect
from ringcast.replay import process as replay
from ringcast.replay.numbered import numbered_tokens
from ringcast.shm.tokens import Done, Error, Text

PACE: Final = 200  # tokens/s of each stream
TOKENS: Final = 2000
STREAMS: Final = 20
WATCH_S: Final = 0.3  # an outage that is not over by then is told as this long
SETTINGS: Final = "[processes]\nrestarts = 1000000\n"


class Tally(msgspec.Struct):
    """What the clients saw."""

    tokens: int = 0
    wrong: int = 0
    ended: int = 0
    failed: list[str] = []
    arrivals: list[float] = []


async def _follow(stream: ClientStream, seed: int, tally: Tally) -> None:
    expected = numbered_tokens(TOKENS, seed)
    async for batch in stream.batches():
        tally.arrivals.append(time.monotonic())
        for token in batch:
            if isinstance(token, Text):
                tally.tokens += 1
                tally.wrong += token.content != next(expected, None)
            elif isinstance(token, Error):
                tally.failed.append(token.code)
            elif isinstance(token, Done):
                tally.ended += 1
                tally.wrong += sum(1 for _ in expected)


async def _keep_streaming(run_dir: Any, tally: Tally, over: asyncio.Event) -> None:
    """Hold `STREAMS` streams open, a new one for each that ends."""
    seeds = iter(range(1 << 30))
    async with connect(run_dir, name="reliability") as client:

        async def one() -> None:
            while not over.is_set():
                seed = next(seeds)
                model = f"mock/numbered;n={TOKENS};pace={PACE};seed={seed}"
                stream = await client.chat(model, [{"role": "user", "content": "go"}])
                await _follow(stream, seed, tally)

        await asyncio.gather(*(one() for _ in range(STREAMS)))


async def _measure(run_dir: Any, kills: int, seed: int) -> dict[str, Any]:
    draw = random.Random(seed)
    tally, over = Tally(), asyncio.Event()
    streaming = asyncio.create_task(_keep_streaming(run_dir, tally, over))
    await asyncio.sleep(1)
    outages = []
    for _ in range(kills):
        await asyncio.sleep(draw.uniform(0.02, 0.2))
        pid = next(p.pid for p in rundir.running(run_dir).processes if p.role == "worker")
        tally.arrivals.clear()
        killed = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(WATCH_S)
        points = [killed, *tally.arrivals, time.monotonic()]
        outages.append(max(after - before for before, after in pairwise(points)))
    over.set()
    await asyncio.wait_for(streaming, 60 + TOKENS / PACE)
    outages.sort()
    return {
        "seed": seed,
        "kills": kills,
        "streams_ended": tally.ended,
        "tokens": tally.tokens,
        "lost_doubled_or_changed": tally.wrong,
        "streams_failed": len(tally.failed),
        "outage_p50_ms": statistics.median(outages) * 1000,
        "outage_p99_ms": outages[len(outages) * 99 // 100] * 1000,
        "outage_max_ms": outages[-1] * 1000,
    }


def run(kills: int, seed: int) -> dict[str, Any]:
    """Kill the worker `kills` times. Raises `AssertionError` if anything was lost."""
    with replay.spawned(knobs="pace=0") as upstream, daemon(upstream.port, SETTINGS) as run_dir:
        figures = uvloop.run(_measure(run_dir, kills, seed))
    if figures["lost_doubled_or_changed"] or figures["streams_failed"]:
        raise AssertionError(f"something was lost: {figures}")
    return figures


def main(arguments: list[str] | None = None) -> None:
    """Print the figures, for people or as JSON."""
    parser = argparse.ArgumentParser(prog="ringcast bench reliability", description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4)))
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    print(f"seed {asked.seed}", flush=True) if not asked.json else None
    figures = run(asked.kills, asked.seed)
    if asked.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:24} {value:,.1f}" if isinstance(value, float) else f"{name:24} {value:,}")


if __name__ == "__main__":
    main()
