"""The soak: a real daemon, numbered streams flat out, clients that come, leave and are killed.

Every token is compared with the numbered sequence while the memory of all processes is
sampled; afterwards the daemon must be as large as it was. Leases and idle connections end
early (`SETTINGS`), so that what a run leaves behind is there within its warm-up and gone at
its end: with the defaults of 30 and 60 s a short run would be all warm-up.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import msgspec
import psutil
import uvloop

from ringcast.bench.e2e import daemon
from ringcast.replay import process as replay
from ringcast.soak.crew import Crew
from ringcast.soak.gauge import Gauge, Sample
from ringcast.soak.report import ALLOWANCE, Growth, Report, counts, growth

SETTINGS: Final = (
    "[processes]\nrestarts = 1000000\n"
    "[credit]\nlease_s = 3.0\n"
    "[timeouts]\nheartbeat_s = 2.0\nkeepalive_s = 2.0\n"
)
SAMPLE_S: Final = 0.05  # one takes 4 ms; a million tokens last little more than 2 s
KILL_TOKENS: Final = 250_000  # a client process is killed each time so many are checked
REST_S: Final = 60.0
SETTLED_S: Final = 4.0  # twice keepalive_s: what has not closed by then will not
PRIME_TOKENS: Final = 20_000  # checked before the daemon at rest is looked at


async def _sampling(gauge: Gauge, crew: Crew, samples: list[Sample]) -> None:
    while True:
        with suppress(psutil.NoSuchProcess):  # it is being replaced, which `deaths` tells
            samples.append(gauge.read(crew.tally.tokens))
        await asyncio.sleep(SAMPLE_S)


async def _primed(run_dir: Path, gauge: Gauge, seed: int, tokens: int) -> Sample:
    """Use the daemon a little, then return what it holds with no client."""
    async with Crew(run_dir, seed) as crew:
        await crew.until(tokens)
        await crew.finish()
    return await _settled(gauge)


async def _settled(gauge: Gauge) -> Sample:
    """Wait until nothing has changed for `SETTLED_S`."""
    sample, since = gauge.read(0), time.monotonic()
    while time.monotonic() - since < SETTLED_S:
        await asyncio.sleep(SETTLED_S / 20)
        now = gauge.read(0)
        if now.counts != sample.counts:
            since = time.monotonic()
        sample = now
    return sample


async def _rest(gauge: Gauge, tokens: int, before: Sample) -> Sample:
    """Wait until descriptors and threads are down to what they were; return what is left."""
    deadline = time.monotonic() + REST_S
    while True:
        sample = gauge.read(tokens)
        settled = all(sample.counts[name] <= n for name, n in before.counts.items())
        if settled or time.monotonic() > deadline:
            return sample
        await asyncio.sleep(SAMPLE_S)


async def _soak(run_dir: Path, tokens: int, seed: int, prime: int, allowance: float) -> Report:
    gauge, samples = Gauge(run_dir), list[Sample]()
    before = await _primed(run_dir, gauge, seed, prime)
    async with Crew(run_dir, seed) as crew:
        sampling = asyncio.create_task(_sampling(gauge, crew, samples))
        for mark in range(KILL_TOKENS, tokens, KILL_TOKENS):
            await crew.until(mark)
            await crew.replace_one()
        await crew.until(tokens)
        sampling.cancel()
        with suppress(asyncio.CancelledError):
            await sampling
        await crew.finish()
    after = await _rest(gauge, crew.tally.tokens, before)
    seconds = samples[-1].at - samples[0].at
    return Report(
        seed,
        seconds,
        samples[-1].tokens / seconds,
        crew.killed,
        gauge.deaths(),
        crew.tally,
        growth(samples, allowance),
        counts(samples, before, after),
        samples,
    )


def run(tokens: int, seed: int, prime: int = PRIME_TOKENS, allowance: float = ALLOWANCE) -> Report:
    """Soak a daemon of its own with so many tokens, after `prime` that are not counted."""
    with replay.spawned(knobs="pace=0") as upstream, daemon(upstream.port, SETTINGS) as run_dir:
        return uvloop.run(_soak(run_dir, tokens, seed, prime, allowance))


def _plain(report: Report) -> dict[str, Any]:
    """The report for JSON, with its verdicts."""
    plain: dict[str, Any] = msgspec.to_builtins(report)
    for role, one in report.growth.items():
        plain["growth"][role]["flat"] = one.flat
    for name, count in report.counts.items():
        plain["counts"][name]["steady"] = count.steady
    return plain | {"faults": report.faults}


def _print(report: Report) -> None:
    tally = report.tally
    print(
        f"{tally.tokens:,} tokens in {report.seconds:.1f} s, {report.tokens_per_s:,.0f}/s; "
        f"lost {tally.lost}, doubled {tally.doubled}, changed {tally.changed}\n"
        f"visits: {tally.whole} whole, {tally.cancelled} cancelled, {tally.moved} moved, "
        f"{tally.shared} shared ({tally.told} told they were too slow); "
        f"{report.clients_killed} client processes killed"
    )
    for role, one in report.growth.items():
        _print_growth(role, one)
    for name, count in report.counts.items():
        print(
            f"{name:20} {count.first_quarter:9,} in the first quarter, {count.last_quarter:,} in "
            f"the last; at rest {count.rest_before:,} before, {count.rest_after:,} after"
        )
    for fault in report.faults:
        print(f"FAULT: {fault}")


def _print_growth(role: str, one: Growth) -> None:
    hour, million = one.kib_per_hour, one.bytes_per_million_tokens
    print(
        f"{role:12} {one.uss_bytes / 1e6:6.1f} MB private, "
        f"{hour.slope:+,.0f} KiB/h [{hour.low:+,.0f}, {hour.high:+,.0f}], "
        f"{million.slope:+,.0f} B a million tokens [{million.low:+,.0f}, {million.high:+,.0f}] "
        f"{'flat' if one.flat else 'GROWS'}; allocated {one.anonymous.slope:+,.0f} "
        f"[{one.anonymous.low:+,.0f}, {one.anonymous.high:+,.0f}]; "
        f"{one.cpu_us_per_token:.2f} us CPU a token"
    )


def main(arguments: list[str] | None = None) -> None:
    """Soak, write `soak.json` and `soak.png`; the exit status is 1 if anything is wrong."""
    parser = argparse.ArgumentParser(prog="ringcast soak", description=__doc__)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument(
        "--warm-up", type=int, default=PRIME_TOKENS, help="tokens before the run, not counted"
    )
    parser.add_argument(
        "--allow",
        type=float,
        default=ALLOWANCE,
        help="growth that is let pass, in bytes a million tokens",
    )
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4)))
    parser.add_argument("--out", type=Path, default=Path(), help="where the two files go")
    parser.add_argument("--json", action="store_true", help="print soak.json, samples left out")
    asked = parser.parse_args(arguments)
    print(f"seed {asked.seed}", file=sys.stderr, flush=True)
    asked.out.mkdir(parents=True, exist_ok=True)
    report = run(asked.tokens, asked.seed, asked.warm_up, asked.allow)
    plain = _plain(report)
    (asked.out / "soak.json").write_text(json.dumps(plain) + "\n")
    if find_spec("matplotlib"):
        from ringcast.soak.chart import draw

        draw(report, asked.out / "soak.png")
    else:
        print("no soak.png: matplotlib is missing (pip install 'ringcast[dev]')", file=sys.stderr)
    if asked.json:
        print(json.dumps({name: plain[name] for name in plain if name != "samples"}))
    else:
        _print(report)
    sys.exit(1 if report.faults else 0)
