"""What streams notice while tokens are counted: 30 clients count 5 MB each beside 100 streams.

Every count must be the library's own, and exact; it needs the rank files (`ringcast tokenizers
install`). The streams have 20 tokens/s each, which carry the time of their sending (see `e2e`).
Their latency is taken for some quiet seconds, while the clients ask one after the other faster than
is counted, and after all have asked at once: 150 MB then come by the thread that tokens go by. The
clients that count have a process of their own, which gives way: the daemon is measured.
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
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import uvloop

from ringcast.bench.e2e import SCENARIOS, WARM_UP_S, Meter, Upstream, daemon, upstream
from ringcast.broker.client import Client, connect
from ringcast.workers import ranks
from ringcast.workers.token_count import count_tokens

CLIENTS: Final = 30
CLIENT_BYTES: Final = 5 << 20
QUIET_S: Final = 3.0
APART_S: Final = 0.1  # a count takes 0.12 to 0.2
REPEAT: Final = 5
NICENESS: Final = 10
SCENARIO: Final = SCENARIOS["light"]
MODEL: Final = "texts/openai/gpt-4o"
# Of a kind that does not count itself.
SETTINGS: Final = """
[providers.texts]
kind = "openrouter"
base_url = "http://127.0.0.1:{}/v1"
key = {{env = "RINGCAST_BENCH_KEY"}}
"""
_SENTENCE: Final = "A ring buffer lets a producer and a consumer share memory without a lock. "


# the clients that count


async def _ask(run_dir: str, clients: int) -> None:
    """For every line, a number of seconds, ask by one client after the other, so long apart.

    Say how long it took until all had their counts.
    """
    os.nice(NICENESS)
    text = (_SENTENCE * (CLIENT_BYTES // len(_SENTENCE) + 1))[:CLIENT_BYTES]
    messages = [{"role": "user", "content": text}]
    wanted = {"tokens": count_tokens(MODEL, messages).tokens, "accuracy": "exact"}
    async with AsyncExitStack() as stack:
        asking = [await stack.enter_async_context(connect(run_dir)) for _ in range(clients)]
        print("ready", flush=True)
        while apart := await asyncio.to_thread(sys.stdin.readline):
            began, counting = time.perf_counter(), []
            for one in asking:
                counting.append(asyncio.create_task(one.count(MODEL, messages)))
                await asyncio.sleep(float(apart))
            counts = await asyncio.gather(*counting)
            if wrong := [one for one in counts if one != wanted]:
                raise AssertionError(f"{len(wrong)} counts are not {wanted} but {wrong[0]}")
            print(time.perf_counter() - began, flush=True)


class Askers:
    """Their process, from outside."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        """`child` has begun."""
        self._child = child

    def told(self) -> str:
        """Wait for its next line. Raises AssertionError if it has ended instead."""
        assert self._child.stdout is not None
        if not (line := self._child.stdout.readline()):
            raise AssertionError("the clients that count have ended; their error is above")
        return line

    def count(self, apart_s: float) -> float:
        """Have them ask so far apart; return the seconds until all had their counts."""
        assert self._child.stdin is not None
        self._child.stdin.write(f"{apart_s}\n")
        self._child.stdin.flush()
        return float(self.told())


@contextmanager
def _askers(run_dir: Path, clients: int) -> Iterator[Askers]:
    arguments = [sys.executable, "-P", "-m", "ringcast.bench.count", "--ask", str(run_dir)]
    arguments += ["--clients", str(clients)]
    pipe = subprocess.PIPE
    with subprocess.Popen(arguments, stdin=pipe, stdout=pipe, text=True) as child:
        askers = Askers(child)
        askers.told()
        yield askers


# the bench


async def _quiet(_: Askers) -> float:
    await asyncio.sleep(QUIET_S)
    return QUIET_S


async def _spread(askers: Askers) -> float:
    return await asyncio.to_thread(askers.count, APART_S)


async def _at_once(askers: Askers) -> float:
    return await asyncio.to_thread(askers.count, 0)


def _latencies(meter: Meter) -> dict[str, float]:
    ordered = sorted(meter.latencies)
    meter.latencies = []
    return {
        "p50_ms": ordered[len(ordered) // 2] / 1e6,
        "p99_ms": ordered[len(ordered) * 99 // 100] / 1e6,
        "max_ms": ordered[-1] / 1e6,
    }


async def _round(meter: Meter, askers: Askers) -> dict[str, float]:
    figures: dict[str, float] = {}
    for name, meanwhile in (("quiet", _quiet), ("spread", _spread), ("at_once", _at_once)):
        meter.open = True
        figures[f"{name}_s"] = await meanwhile(askers)
        meter.open = False
        figures |= {f"{name}_{key}": value for key, value in _latencies(meter).items()}
    for name in ("spread", "at_once"):
        figures[f"{name}_times"] = figures[f"{name}_p99_ms"] / figures["quiet_p99_ms"]
    return figures


async def _stream(client: Client, source: Upstream, streams: int) -> tuple[Meter, Any]:
    """Open the streams; return their meter and what ends them."""
    meter, model = Meter(), "mock/" + source.model(0, SCENARIO)
    opened = [await client.chat(model, [{"role": "user", "content": "go"}]) for _ in range(streams)]
    reading = [asyncio.create_task(meter.read(stream, timed=True)) for stream in opened]

    async def end() -> None:
        for stream in opened:
            await stream.cancel()
        await asyncio.gather(*reading)  # raises if any stream had a gap

    return meter, end


async def _measure(
    run_dir: Path, source: Upstream, askers: Askers, streams: int, repeat: int
) -> dict[str, float]:
    async with connect(run_dir, name="bench") as client:
        meter, end = await _stream(client, source, streams)
        await asyncio.sleep(WARM_UP_S)
        await _at_once(askers)  # the counting process starts, and loads its ranks
        rounds = [await _round(meter, askers) for _ in range(repeat)]
        await end()
    return {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}


def run(
    streams: int = SCENARIO.streams, clients: int = CLIENTS, repeat: int = REPEAT
) -> dict[str, Any]:
    """Return medians of `repeat` rounds.

    Raises AssertionError if a count is wrong or a token lost, `LookupError` without rank files.
    """
    if not ranks.are_installed():
        raise LookupError("no rank files: ringcast tokenizers install")
    with ExitStack() as stack:
        source = stack.enter_context(upstream())
        run_dir = stack.enter_context(daemon(source.port, SETTINGS.format(source.port)))
        askers = stack.enter_context(_askers(run_dir, clients))
        figures = uvloop.run(_measure(run_dir, source, askers, streams, repeat))
    return {"upstream": source.kind, "streams": streams, "clients": clients, **figures}


def main(arguments: list[str] | None = None) -> None:
    """Print the figures, for people or as JSON."""
    parser = argparse.ArgumentParser(prog="ringcast bench count", description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--repeat", type=int, default=REPEAT)
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--ask", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.ask:
        uvloop.run(_ask(asked.ask, asked.clients))
        return
    try:
        figures = run(clients=asked.clients, repeat=asked.repeat)
    except LookupError as error:
        sys.exit(str(error))
    if asked.json:
        print(json.dumps({"cores": os.cpu_count(), **figures}))
        return
    for name, value in figures.items():
        print(f"{name:18} {value:,.2f}" if isinstance(value, float) else f"{name:18} {value}")


if __name__ == "__main__":
    main()
