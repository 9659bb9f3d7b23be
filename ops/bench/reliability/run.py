"""The command: which scenarios, how often, with which seed."""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import Final

import msgspec
import uvloop

from ringcast.bench.reliability import scenario
from ringcast.bench.reliability.load import Shape
from ringcast.bench.reliability.report import HEAD, Report, judge, line, report
from ringcast.bench.reliability.scenario import SCENARIOS
from ringcast.bench.reliability.service import service
from ringcast.replay import process as replay

SHORT: Final = Shape(tokens=600)


def run(name: str, times: int, seed: int, shape: Shape, port: int) -> Report:
    """Run one scenario with a daemon of its own, its provider at `port`."""
    began = time.monotonic()
    with service(port) as served:
        seen = uvloop.run(scenario.run(served, name, times, f"{seed}/{name}", shape))
        faults = served.stop()
    return report(name, seed, seen, faults, time.monotonic() - began)


def main(arguments: list[str] | None = None) -> None:
    """Print a row for each scenario. Raises AssertionError with the seed if one fails."""
    parser = argparse.ArgumentParser(prog="ringcast bench reliability")
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="may be repeated")
    parser.add_argument("--kills", type=int, help="strikes of each scenario")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4)))
    parser.add_argument("--short", action="store_true", help="all within two minutes")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    print(f"seed {asked.seed}", file=sys.stderr, flush=True)
    shape = SHORT if asked.short else Shape()
    found: list[Report] = []
    with replay.spawned(knobs="pace=0") as upstream:
        for name in asked.scenario or SCENARIOS:
            wanted = SCENARIOS[name]
            times = asked.kills or (wanted.short if asked.short else wanted.kills)
            one = run(name, times, asked.seed, shape, upstream.port)
            if not asked.json:
                print(line(one) if found else f"{HEAD}\n{line(one)}", flush=True)
            judge(one)
            found.append(one)
    if asked.json:
        print(msgspec.json.encode(found).decode())
