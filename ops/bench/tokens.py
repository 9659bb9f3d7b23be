"""What counting and decoding tokens costs: time, memory, and what streams notice of it.

Run it with `python ops/bench/tokens.py [--json]`; it needs the rank files (`ringcast tokenizers
install`). Every case first checks its answer. Memory is what a forked process has for itself
alone (USS); the streams are 100 timers of 50 a second in one uvloop, late by so much at their
99th percentile while a thread counts for 30 clients, 5 MB each.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json as stdlib_json
import os
import statistics
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import psutil
import uvloop
from tiktoken import Encoding

from ringcast.workers import ranks
from ringcast.workers.token_count import count_tokens
from ringcast.workers.token_decoder import TokenDecoder

MIB = 1 << 20
MODELS = {"o200k_base": "gpt-4o", "cl100k_base": "gpt-4"}
PROSE = "A ring buffer lets a producer and a consumer share memory without a lock. " * 14000
HOSTILE = {"one letter": "a" * MIB, "white space": " " * MIB, "emoji": "😀" * (MIB // 4)}
ROUNDS = 5
STREAMS = 100
STREAM_S = 0.02
QUIET_S = 2.0
CLIENTS = 30
CLIENT_BYTES = 5 << 20


def run(json: bool = False) -> dict[str, Any]:
    """All cases. Raises `AssertionError` if an answer is wrong, `LookupError` without ranks."""
    if any(ranks.find(file) is None for file in ranks.FILES.values()):
        raise LookupError("no rank files: ringcast tokenizers install")
    results: dict[str, Any] = {name: _encoding(name) for name in MODELS}
    results["streams"] = uvloop.run(_streams())
    if json:
        print(stdlib_json.dumps(results))
    else:
        for group, cases in results.items():
            for case, value in cases.items():
                print(f"{group:12} {case:34} {value:10.2f}")
    return results


def _encoding(name: str) -> dict[str, float]:
    model = MODELS[name]
    load_ms, load_mib = in_fork(lambda: _loading(name))
    encoding = _ranks(name)
    ids = encoding.encode_ordinary(PROSE)
    assert count_tokens(model, PROSE).tokens == len(ids)
    assert TokenDecoder(encoding).decode(ids) == PROSE
    seconds = _time(lambda: count_tokens(model, PROSE))
    result = {
        "load, ms": load_ms,
        "load, MiB": load_mib,
        "private MiB of a fork that counts": private_mib(model),
        "count prose, MB/s": len(PROSE) / seconds / 1e6,
        "count prose, M tokens/s": len(ids) / seconds / 1e6,
        "decode one by one, M ids/s": _decoding(encoding, ids, 1),
        "decode in batches of 64, M ids/s": _decoding(encoding, ids, 64),
    }
    for case, text in HOSTILE.items():
        result[f"count 1 MiB of {case}, ms"] = _time(partial(count_tokens, model, text)) * 1e3
    return result


def _ranks(name: str) -> Encoding:
    encoding = ranks.encoding(name)
    assert encoding is not None
    return encoding


def _loading(name: str) -> tuple[float, float]:
    before, began = _uss_mib(), time.perf_counter()
    _ranks(name)
    return (time.perf_counter() - began) * 1e3, _uss_mib() - before


def private_mib(model: str) -> float:
    """Return what a fork of this process gets for itself by counting 1 MB in texts of 16 KB."""
    texts = [PROSE[start : start + (16 << 10)] for start in range(0, len(PROSE), 16 << 10)]

    def counting() -> tuple[float, float]:
        before = _uss_mib()
        tokens = sum(count_tokens(model, text).tokens for text in texts)
        return tokens, _uss_mib() - before

    gc.collect()
    gc.freeze()  # as the supervisor does before it forks
    try:
        return in_fork(counting)[1]
    finally:
        gc.unfreeze()


def in_fork(work: Callable[[], tuple[float, float]]) -> tuple[float, float]:
    """Return what `work` returns in a process of its own, forked from this one."""
    outward, inward = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(inward, stdlib_json.dumps(work()).encode())
        except BaseException:
            traceback.print_exc()  # nobody above us: the frames below are the parent's
        finally:
            os._exit(0)
    os.close(inward)
    with os.fdopen(outward, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    assert answer, "the forked process failed"
    first, second = stdlib_json.loads(answer)
    return first, second


def _uss_mib() -> float:
    uss: int = psutil.Process().memory_full_info().uss
    return uss / MIB


def _decoding(encoding: Encoding, ids: list[int], size: int) -> float:
    groups = [ids[start : start + size] for start in range(0, len(ids), size)]

    def work() -> None:
        decode = TokenDecoder(encoding).decode
        for group in groups:
            decode(group)

    return len(ids) / _time(work) / 1e6


def _time(work: Callable[[], object]) -> float:
    """Median seconds of a call."""
    rounds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        rounds.append(time.perf_counter() - began)
    return statistics.median(rounds)


async def _streams() -> dict[str, float]:
    """How late streams are, alone and beside a thread that counts."""
    quiet = await _late_ms(asyncio.sleep(QUIET_S))
    text = (PROSE * (CLIENT_BYTES // len(PROSE) + 1))[:CLIENT_BYTES]
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as pool:
        counts = [loop.run_in_executor(pool, count_tokens, "gpt-4o", text) for _ in range(CLIENTS)]
        began = time.perf_counter()
        busy = await _late_ms(asyncio.gather(*counts))
    return {
        "quiet, p99 ms late": quiet,
        "while 30 x 5 MB are counted": busy,
        "times": busy / quiet,
        "counting took, s": time.perf_counter() - began,
    }


async def _late_ms(meanwhile: Awaitable[object]) -> float:
    late: list[float] = []
    streams = [asyncio.create_task(_stream(late, i / STREAMS)) for i in range(STREAMS)]
    await meanwhile
    for stream in streams:
        stream.cancel()
    await asyncio.gather(*streams, return_exceptions=True)
    return statistics.quantiles(late, n=100)[98] * 1e3


async def _stream(late: list[float], phase: float) -> None:
    due = time.perf_counter() + phase * STREAM_S
    while True:
        due += STREAM_S
        await asyncio.sleep(max(due - time.perf_counter(), 0))
        late.append(time.perf_counter() - due)


def main(arguments: list[str] | None = None) -> None:
    """Print the figures, for people or as JSON."""
    parser = argparse.ArgumentParser(prog="ringcast bench tokens", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    try:
        run(parser.parse_args(arguments).json)
    except LookupError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
