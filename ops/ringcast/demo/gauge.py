"""Two figures of a running daemon, measured with numbered streams of the replay upstream."""

from __future__ import annotations

import itertools
import time
from typing import Final

import msgspec

from ringcast.broker.client import Client
from ringcast.errors import RingcastError
from ringcast.replay.numbered import numbered_tokens
from ringcast.shm.tokens import Text

MESSAGES: Final = [{"role": "user", "content": "Count."}]
PACED_TOKENS: Final = 400
PACE: Final = 250
FLAT_TOKENS: Final = 200_000


class Latency(msgspec.Struct, frozen=True):
    """From just before the upstream writes an event until the client has its token.

    In milliseconds, over `tokens` tokens that came `pace` a second.
    """

    tokens: int
    pace: int
    p50_ms: float
    p99_ms: float


class Throughput(msgspec.Struct, frozen=True):
    """One stream as fast as it goes, from the request to the last token.

    `intact` says that every number arrived once, in order and with its checksum.
    """

    tokens: int
    tokens_per_s: float
    intact: bool


async def latency(client: Client) -> Latency:
    """Measure with one paced stream whose tokens carry the time of their sending (about 2 s).

    Raises `RingcastError` when it ends early.
    """
    stream = await client.chat(f"openai/numbered;n={PACED_TOKENS};pace={PACE};clock=1", MESSAGES)
    delays: list[float] = []
    async for batch in stream.batches():
        now = time.monotonic_ns()
        delays += ((now - int(t.content[1:])) / 1e6 for t in batch if isinstance(t, Text))
    if len(delays) != PACED_TOKENS:
        raise RingcastError(f"{len(delays)} of {PACED_TOKENS} timed tokens arrived")
    delays.sort()
    return Latency(len(delays), PACE, delays[len(delays) // 2], delays[len(delays) * 99 // 100])


async def throughput(client: Client) -> Throughput:
    """Measure with one stream without a pace (about half a second), then check its tokens."""
    began = time.perf_counter()
    stream = await client.chat(f"anthropic/numbered;n={FLAT_TOKENS};pace=0", MESSAGES)
    batches = [batch async for batch in stream.batches()]
    seconds = time.perf_counter() - began
    texts = [t.content for t in itertools.chain(*batches) if isinstance(t, Text)]
    intact = texts == list(numbered_tokens(FLAT_TOKENS))
    return Throughput(len(texts), len(texts) / seconds, intact)
