"""A slow upstream: 1,000 requests at once of which none is answered for 1.5 seconds, in rounds.

All must end whole, every token compared with the numbered sequence. The private memory of the
provider process, which holds a connection and its clocks for each, is taken after every round. It
grows for a third of the rounds, with what the allocator keeps and the collector has not looked at
yet; between the second third and the last one its median may not grow by a kilobyte a request.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import msgspec
import psutil
import uvloop

from ringcast import rundir
from ringcast.bench.e2e import daemon
from ringcast.broker.client import Client, connect
from ringcast.replay import process as replay
from ringcast.shm.tokens import Done
from ringcast.soak.sequence import Sequence, Tally

REQUESTS: Final = 1000
ROUNDS: Final = 12
DELAY_S: Final = 1.5
TOKENS: Final = 10
GROWTH_BYTES: Final = 1000  # a request
LATE_S: Final = 10.0


class Round(msgspec.Struct, frozen=True):
    """One round: its requests, seconds to the last token, bytes of the process after it."""

    requests: int
    seconds: float
    private_bytes: int


async def _one(client: Client, seed: int, tally: Tally) -> None:
    model = f"mock/numbered;n={TOKENS};delay_s={DELAY_S};seed={seed}"
    stream = await client.chat(model, [{"role": "user", "content": "go"}])
    sequence, last = Sequence(TOKENS, seed, tally), None
    async for batch in stream.batches():
        sequence.take(batch)
        last = batch[-1]
    sequence.end()
    if not isinstance(last, Done):
        tally.failed.append(f"stream {seed} ended with {last}")


async def _rounds(run_dir: Path, requests: int, rounds: int) -> tuple[list[Round], Tally]:
    state, tally = rundir.running(run_dir), Tally()
    (pid,) = [one.pid for one in state.processes if one.role == "provider"]
    provider, measured = psutil.Process(pid), list[Round]()
    async with connect(run_dir, name="slow") as client:
        for number in range(rounds):
            began = time.monotonic()
            seeds = range(number * requests, (number + 1) * requests)
            await asyncio.gather(*(_one(client, seed, tally) for seed in seeds))
            took, private = time.monotonic() - began, provider.memory_full_info().uss
            measured.append(Round(requests, took, private))
    return measured, tally


def growth_bytes(rounds: list[Round]) -> float:
    """Return the growth a request from the second third of the rounds to the last one."""
    third = len(rounds) // 3
    settled, last = rounds[-2 * third : -third], rounds[-third:]
    medians = [statistics.median(one.private_bytes for one in part) for part in (settled, last)]
    return (medians[1] - medians[0]) / sum(one.requests for one in last)


def judge(rounds: list[Round], tally: Tally) -> None:
    """Raise AssertionError naming whatever was not right."""
    faults = list(tally.failed)
    if tally.wrong:
        faults.append(f"tokens are wrong: {tally}")
    if (late := max(one.seconds for one in rounds)) > DELAY_S + LATE_S:
        faults.append(f"a round took {late:.1f} s")
    if (growth := growth_bytes(rounds)) > GROWTH_BYTES:
        faults.append(f"the provider process grew by {growth:.0f} bytes a request")
    if faults:
        raise AssertionError("; ".join(faults[:5]))


def run(requests: int = REQUESTS, rounds: int = ROUNDS) -> dict[str, Any]:
    """Ask, wait and check. Raises AssertionError naming whatever was not right."""
    with ExitStack() as stack:
        upstream = stack.enter_context(replay.spawned(knobs="pace=0"))
        run_dir = stack.enter_context(daemon(upstream.port))
        measured, tally = uvloop.run(_rounds(run_dir, requests, rounds))
    judge(measured, tally)
    return {
        "requests": requests,
        "tokens": tally.tokens,
        "longest_s": round(max(one.seconds for one in measured), 2),
        "provider_mb": [round(one.private_bytes / 1e6, 1) for one in measured],
        "growth_bytes_a_request": round(growth_bytes(measured)),
    }


def main(arguments: list[str] | None = None) -> None:
    """Print the figures, for people or as JSON."""
    parser = argparse.ArgumentParser(prog="ringcast bench slow", description=__doc__)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    figures = run()
    if asked.json:
        print(json.dumps({"cores": os.cpu_count(), **figures}))
        return
    for name, value in figures.items():
        print(f"{name:22} {value}")


if __name__ == "__main__":
    main()
