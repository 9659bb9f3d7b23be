"""The pipeline in-process: how fast bytes become tokens, and what memory a token costs.

Run it with `python ops/bench/pipeline.py [--json]`. Events are OpenAI's, of 290 bytes, each with
another text. Every case first shows that its texts are right; then it is timed in 7 rounds of
CPU time, and the median counts. Memory is looked at over a million tokens, that are dropped as
they come: what is left afterwards, of Python's (tracemalloc) and of the process's own pages (USS).
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json as stdlib_json
import statistics
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import islice
from typing import Any, Final, TypeAlias

import psutil

from ringcast.broker.credit import BackpressureController
from ringcast.shm.tokens import StreamToken, Text
from ringcast.workers.pipeline import StreamingPipeline, StreamPipelineBuilder
from ringcast.workers.stream_metrics import StreamMetrics
from ringcast.workers.transform import PASS, StreamTransformer, TransformResult

ROUNDS: Final = 7
TOKENS: Final = 50_000
MANY: Final = 1_000_000
READ_BYTES: Final = 16 << 10
EVENT_BYTES: Final = 290
SAMPLES: Final = 10

_HEAD: Final = (
    b'data: {"id":"chatcmpl-A6jf5xUGAkKbqbBWuBy8GDvZW7q0J","object":"chat.completion.chunk",'
    b'"created":1726168855,"model":"gpt-4o-2024-08-06",'
    b'"system_fingerprint":"fp_f5bdcc3276","choices":[{"index":0,"delta":{"content":"'
)
_TAIL: Final = b'"},"logprobs":null,"finish_reason":null}],"usage":null}\n\n'
_DIGITS: Final = EVENT_BYTES - len(_HEAD) - len(_TAIL)

Read: TypeAlias = Callable[[StreamingPipeline, list[bytes]], list[StreamToken]]


class Through(StreamTransformer):
    """Lets everything through: what a transformer costs that does nothing."""

    def transform(self, token: StreamToken, now_ns: int) -> TransformResult:
        """Pass."""
        return PASS


def run(json: bool = False, *, tokens: int = TOKENS, many: int = MANY) -> dict[str, Any]:
    """Speed of each case, and memory: tokens/s, µs a token, blocks and bytes a token.

    With `json` the result is printed as one JSON object, otherwise as a table.
    """
    reads = list(_reads(tokens))
    single = [_event(i) for i in range(tokens)]
    plain = StreamPipelineBuilder
    metrics = StreamMetrics()
    results = {
        "speed": {
            "process_chunk, 16 KiB reads": _speed(plain(), reads, _by_chunk),
            "process_stream, 16 KiB reads": _speed(plain(), reads, _by_stream),
            "… with metrics": _speed(plain().enable_metrics(metrics), reads, _by_stream),
            "… with a transformer": _speed(plain().add_transformer(Through), reads, _by_stream),
            "… read ahead in a window": _speed(
                plain().with_backpressure(BackpressureController()), reads, _by_stream
            ),
            "process_chunk, one event a read": _speed(plain(), single, _by_chunk),
            "… with metrics, one event a read": _speed(
                plain().enable_metrics(metrics), single, _by_chunk
            ),
        },
        "token": _token(),
        "flat": _flat(many),
    }
    _print(results, json)
    return results


def _event(number: int) -> bytes:
    return b"%b%0*d%b" % (_HEAD, _DIGITS, number, _TAIL)


def _reads(tokens: int) -> Iterator[bytes]:
    """Yield the body as a socket gives it: cut anywhere."""
    events = (_event(i) for i in range(tokens))
    rest = b""
    while batch := b"".join(islice(events, 256)):
        rest += batch
        whole = len(rest) - len(rest) % READ_BYTES
        yield from (rest[i : i + READ_BYTES] for i in range(0, whole, READ_BYTES))
        rest = rest[whole:]
    yield rest


def _by_chunk(pipeline: StreamingPipeline, chunks: list[bytes]) -> list[StreamToken]:
    return [token for chunk in chunks for token in pipeline.process_chunk(chunk)]


def _by_stream(pipeline: StreamingPipeline, chunks: list[bytes]) -> list[StreamToken]:
    async def origin() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    async def take() -> list[StreamToken]:
        return [token async for token in pipeline.process_stream(origin())]

    return asyncio.run(take())


def _speed(builder: StreamPipelineBuilder, chunks: list[bytes], read: Read) -> dict[str, float]:
    tokens = [token for token in read(builder.build(), chunks) if isinstance(token, Text)]
    if any(int(token.content) != i for i, token in enumerate(tokens)):
        raise AssertionError("the pipeline changed the texts")
    if len(tokens) != sum(map(len, chunks)) // EVENT_BYTES:
        raise AssertionError("the pipeline lost tokens")
    rounds = []
    for _ in range(ROUNDS):
        pipeline = builder.build()
        began = time.process_time()
        read(pipeline, chunks)
        rounds.append(time.process_time() - began)
    seconds = statistics.median(rounds)
    return {
        "tokens_per_s": round(len(tokens) / seconds),
        "us_per_token": round(seconds / len(tokens) * 1e6, 3),
    }


def _token() -> dict[str, float]:
    """What a token that is kept holds: allocations, and bytes; and what its read needs beside, at
    the most, as long as it is decoded."""
    pipeline = StreamPipelineBuilder().build()
    # Whole events only, and so many that their list is small beside them.
    *warm, block = (b"".join(map(_event, range(i, i + 1000))) for i in range(0, 4000, 1000))
    for chunk in warm:
        pipeline.process_chunk(chunk)
    gc.collect()
    tracemalloc.start()
    kept = pipeline.process_chunk(block)
    gc.collect()
    size, peak = tracemalloc.get_traced_memory()
    blocks = len(tracemalloc.take_snapshot().traces)
    tracemalloc.stop()
    if len(kept) != 1000:
        raise AssertionError("the pipeline lost tokens")
    return {
        "blocks": round(blocks / 1000, 2),
        "bytes": round(size / 1000, 1),
        "bytes_of_its_text": float(sys.getsizeof("0" * _DIGITS)),
        "bytes_beside_while_decoded": round((peak - size) / 1000, 1),
    }


def _flat(many: int) -> dict[str, float]:
    """What `many` tokens leave behind, in bytes, by the two counts, in runs of their own."""
    return {
        "tokens": many,
        "uss_bytes_grown": _grown(many, _uss),  # before tracing, which leaves pages of its own
        "traced_bytes_grown": _grown(many, _traced),
    }


def _grown(many: int, measure: Callable[[], int]) -> int:
    """Return by how much the later half of the samples is above the first, in the middle."""
    tracing = measure is _traced
    if tracing:
        tracemalloc.start()
    samples = asyncio.run(_sampled(many, measure))
    if tracing:
        tracemalloc.stop()
    return round(statistics.median(samples[SAMPLES // 2 :])) - samples[0]


async def _sampled(many: int, measure: Callable[[], int]) -> list[int]:
    async def origin() -> AsyncIterator[bytes]:
        for start in range(0, many, 100):
            yield b"".join(map(_event, range(start, start + 100)))

    samples: list[int] = []
    taken = 0
    pipeline = StreamPipelineBuilder().enable_metrics().build()
    async for token in pipeline.process_stream(origin()):
        taken += isinstance(token, Text)
        if taken == (len(samples) + 1) * many // SAMPLES:
            gc.collect()
            samples.append(measure())
    if taken != many or len(samples) != SAMPLES:
        raise AssertionError("the pipeline lost tokens")
    return samples


def _traced() -> int:
    return tracemalloc.get_traced_memory()[0]


def _uss() -> int:
    used: int = psutil.Process().memory_full_info().uss
    return used


def _print(results: dict[str, Any], json: bool) -> None:
    if json:
        print(stdlib_json.dumps(results))
        return
    for name, case in results["speed"].items():
        speed = (
            f"{case['tokens_per_s'] / 1e6:6.2f} M tokens/s {case['us_per_token']:7.3f} µs a token"
        )
        print(f"{name:34} {speed}")
    token, flat = results["token"], results["flat"]
    print(
        f"a token that is kept: {token['blocks']} blocks, {token['bytes']} bytes, "
        f"{token['bytes_of_its_text']:.0f} of them its text; "
        f"{token['bytes_beside_while_decoded']} beside while its read is decoded"
    )
    print(
        f"{flat['tokens']:,} tokens that are dropped: {flat['traced_bytes_grown']:,} bytes more "
        f"of Python's, {flat['uss_bytes_grown']:,} of the process"
    )


def main(arguments: list[str] | None = None) -> None:
    """Print the figures, for people or as JSON."""
    parser = argparse.ArgumentParser(prog="ringcast bench pipeline", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    run(parser.parse_args(arguments).json)


if __name__ == "__main__":
    main()
