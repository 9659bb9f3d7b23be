"""Bench of the rate limiter: what a request costs that is admitted and settled, in µs.

Run: `python -m ringcast.bench.limiter [--json]`. `words` is the limiter alone on words of its
own; `private` finds its row in a table on the heap; `shared` does in shared memory, under the
lock of the row; `admission` is what a provider process asks: provider and model in shared rows,
and the queue. aiolimiter, which has no tokens, refunds or other processes, stands beside it.
Each counts what it admits before it is timed; medians of seven rounds. `contended` is `shared`
by two processes in one row, a process's own µs, with how often the row was busy.
"""

from __future__ import annotations

import argparse
import asyncio
import json as codec
import multiprocessing
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from ringcast.config import Config, Provider
from ringcast.providers.traffic.admission import Admission
from ringcast.providers.traffic.limiter import AdaptiveRateLimiter, RateSettings
from ringcast.shm import segment
from ringcast.shm.shared_words import TABLE_BYTES, RowBusy, SharedWords

ROUNDS = 7
REQUESTS = 4000
TOKENS = 1000
SETTINGS = RateSettings(10**6, 10**9, 100)
FEW = RateSettings(60, 10**9, 100)

Round = Callable[[], float]


def run(json: bool = False) -> dict[str, Any]:
    """All cases by name, in µs a request; printed as one JSON object or as a table."""
    name = f"{segment.family()}-t"
    segment.create(name, TABLE_BYTES, setting="the bench").close()
    shared = SharedWords.attach(name)
    try:
        results: dict[str, Any] = {
            "words": _median(lambda: _words(SETTINGS)),
            "private": _median(lambda: _rows(SharedWords.private())),
            "shared": _median(lambda: _rows(shared)),
            "admission": _median(lambda: _admission(shared)),
            "contended": _contended(name),
        }
    finally:
        shared.close()
        segment.remove(name)
    results["aiolimiter"] = _aiolimiter()
    print(codec.dumps(results) if json else "\n".join(_lines(results)))
    return results


def _median(one: Round) -> float:
    return round(statistics.median(one() for _ in range(ROUNDS)), 2)


def _per_request(began: float, requests: int = REQUESTS) -> float:
    return (time.perf_counter() - began) / requests * 1e6


def _words(settings: RateSettings) -> float:
    _check()
    limiter = AdaptiveRateLimiter(settings)
    began = time.perf_counter()
    for _ in range(REQUESTS):
        limiter.admit(TOKENS, time.monotonic())
        limiter.settle(TOKENS, 900, time.monotonic())
    return _per_request(began)


def _check() -> None:
    """See that what is timed limits at all: a minute's worth but for 3 s goes at once."""
    limiter = AdaptiveRateLimiter(FEW)
    admitted = sum(not limiter.admit(TOKENS, 100.0) for _ in range(REQUESTS))
    if admitted != 57:
        raise AssertionError(f"{admitted} requests were admitted of 57 that fit")


def _rows(rows: SharedWords) -> float:
    began = time.perf_counter()
    for _ in range(REQUESTS):
        with rows.row("limit:bench") as words:
            AdaptiveRateLimiter(SETTINGS, words).admit(TOKENS, time.monotonic())
        with rows.row("limit:bench") as words:
            AdaptiveRateLimiter(SETTINGS, words).settle(TOKENS, 900, time.monotonic())
    return _per_request(began)


def _admission(rows: SharedWords) -> float:
    provider = Provider("openai", requests_per_min=10**6, tokens_per_min=10**9, concurrency=100)
    admission = Admission(rows, Config({"p": provider}), 0)
    began = time.perf_counter()
    for ticket in range(REQUESTS):
        wait_s = admission.ask(ticket, "p", "m", b"client", TOKENS, time.monotonic())
        assert not wait_s
        admission.settle(ticket, 900, time.monotonic())
    return _per_request(began)


def _contended(name: str) -> dict[str, float]:
    """Two processes in one row, as fast as they can."""
    context = multiprocessing.get_context("fork")
    ends = [context.Pipe() for _ in range(2)]
    children = [context.Process(target=_contend, args=(name, end)) for _, end in ends]
    for child in children:
        child.start()
    said = [end.recv() for end, _ in ends]
    for child in children:
        child.join()
    return {
        "us": round(max(us for us, _ in said), 2),
        "busy": round(sum(busy for _, busy in said) / (2 * 2 * REQUESTS), 4),
    }


def _contend(name: str, end: Connection) -> None:
    rows, busy = SharedWords.attach(name), 0
    began = time.perf_counter()
    for number in range(2 * REQUESTS):
        while True:
            try:
                with rows.row("limit:contended") as words:
                    limiter = AdaptiveRateLimiter(SETTINGS, words)
                    if number % 2:
                        limiter.settle(TOKENS, 900, time.monotonic())
                    else:
                        limiter.admit(TOKENS, time.monotonic())
            except RowBusy:
                busy += 1
            else:
                break
    end.send((_per_request(began), busy))


def _aiolimiter() -> float | str:
    try:
        from aiolimiter import AsyncLimiter
    except ImportError as error:
        return f"skipped: {error}"

    async def acquire() -> float:
        limiter = AsyncLimiter(10**6, 60)
        began = time.perf_counter()
        for _ in range(REQUESTS):
            await limiter.acquire()
        return _per_request(began)

    return _median(lambda: asyncio.run(acquire()))


def _lines(results: dict[str, Any]) -> list[str]:
    lines = []
    for name, result in results.items():
        text = result if isinstance(result, str) else ""
        if isinstance(result, float):
            text = f"{result:6.2f} µs a request"
        elif isinstance(result, dict):
            text = f"{result['us']:6.2f} µs a request, the row busy {result['busy']:.2%} of tries"
        lines.append(f"{name:11} {text}")
    return lines


def main(arguments: list[str] | None = None) -> None:
    """Print the figures, for people or as JSON."""
    parser = argparse.ArgumentParser(prog="ringcast bench limiter", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    run(parser.parse_args(arguments).json)


if __name__ == "__main__":
    main()
