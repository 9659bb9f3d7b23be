"""How fast one core turns bytes into tokens: framing, typed decode, tokens, and their encoding.

Run it with `python ops/bench/parse.py [--json]`. Every case first checks its answer; then it is
timed in 7 rounds of about 50 ms, and the median counts. The peer, in the same run, is what a
client without a decoder writes: `bytes.split` and `json.loads` into dicts. `openai` repeats all
bytes but the text, as most servers do; `openai padded` has OpenAI's random `obfuscation`, as has
`responses`, whose events are numbered too.
"""

from __future__ import annotations

import argparse
import json as stdlib_json
import mmap
import statistics
import time
from collections.abc import Callable
from typing import Any

import msgspec

from ringcast.providers.wire.body import Body, open_body
from ringcast.providers.wire.chunk import PlainChunk, chunks
from ringcast.providers.wire.sse import SseFramer
from ringcast.shm.tokens import StreamToken, Text, encoder

ROUNDS = 7
ROUND_S = 0.05
READ_BYTES = 16 << 10
BATCH_BYTES = 64 << 10
OPENAI_BYTES = 290

_OPENAI = (
    b'data: {"id":"chatcmpl-A6jf5xUGAkKbqbBWuBy8GDvZW7q0J","object":"chat.completion.chunk",'
    b'"created":1726168855,"model":"gpt-4o-2024-08-06","service_tier":"default",'
    b'"system_fingerprint":"fp_f5bdcc3276","choices":[{"index":0,"delta":{"content":"%s"},'
    b'"logprobs":null,"finish_reason":null}],"usage":null%s}\n\n'
)
_ANTHROPIC = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
    b'"delta":{"type":"text_delta","text":"%s"}}\n\n'
)
_ANTHROPIC_START = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1","model":"m",'
    b'"content":[],"usage":{"input_tokens":1,"output_tokens":1}}}\n\n'
)
_RESPONSES = (
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta",'
    b'"content_index":0,"delta":" word","item_id":"msg_06a874b3b87dc3ad006a624e8b49c481948af1d9'
    b'f8ce0f7a82","logprobs":[],"obfuscation":"%011d","output_index":1,"sequence_number":%d}\n\n'
)
_RESPONSES_START = (
    b'event: response.created\ndata: {"type":"response.created","sequence_number":0,'
    b'"response":{"id":"resp_1","model":"m","status":"in_progress","background":false}}\n\n'
)


def run(json: bool = False) -> dict[str, Any]:
    """All cases, by name: MB/s, µs an event, and for decoding the ratio to the peer.

    With `json` the result is printed as one JSON object, otherwise as a table.
    """
    constant = [_openai_event(b"")] * (BATCH_BYTES // OPENAI_BYTES)
    padded = [_openai_event(b',"obfuscation":"%05d"' % i) for i in range(len(constant))]
    anthropic = [_ANTHROPIC % b" word"] * (BATCH_BYTES // len(_ANTHROPIC % b" word"))
    responses = [_RESPONSES % (i, i + 9) for i in range(BATCH_BYTES // len(_RESPONSES))]
    results = {
        "openai": _cases("chat", constant, constant[0], _openai_peer),
        "openai padded": _cases("chat", padded, padded[0], _openai_peer),
        "anthropic": _cases("messages", anthropic, _ANTHROPIC_START, _anthropic_peer),
        "responses": _cases("responses", responses, _RESPONSES_START, _responses_peer),
    }
    _print(results, json)
    return results


def _cases(
    api: str, batch: list[bytes], first: bytes, peer: Callable[[memoryview], list[str]]
) -> dict[str, Any]:
    size, count = sum(map(len, batch)), len(batch)
    whole, one = _shared(b"".join(batch)), _shared(batch[0])
    texts = peer(whole)
    if _texts(_fresh(api, first).feed(whole)) != texts or len(texts) != count:
        raise AssertionError(f"{api}: the decoder and json.loads disagree")
    body = _fresh(api, first)
    tokens = body.feed(whole)
    base = _time(lambda: peer(whole))
    timed = {
        "json.loads peer": base,
        "framing, 16 KiB reads": _time(_framing(b"".join(batch))),
        "tokens, batch": _time(lambda: body.feed(whole)),
        "framing and tokens, 16 KiB reads": _time(_framed_tokens(b"".join(batch), api, first)),
        "encode tokens": _time(lambda: encoder.encode(tokens)),
    }
    if api == "chat":
        timed["typed decode, batch"] = _time(_typed([whole], count))
        timed["framing and typed decode"] = _time(_typed(_reads(b"".join(batch)), count))
    result = {name: _result(t, size, count, base) for name, t in timed.items()}
    result["tokens, one event at a time"] = _result(_time(lambda: body.feed(one)), len(one), 1)
    return result


def _reads(data: bytes) -> list[memoryview]:
    return [_shared(data[i : i + READ_BYTES]) for i in range(0, len(data), READ_BYTES)]


def _framing(data: bytes) -> Callable[[], int]:
    reads = _reads(data)

    def work() -> int:
        framer = SseFramer()
        return sum(len(framer.feed(read)) for read in reads)

    if work() != len(data):
        raise AssertionError("the framer lost bytes")
    return work


def _framed_tokens(data: bytes, api: str, first: bytes) -> Callable[[], int]:
    reads = _reads(data)
    framer, body = SseFramer(), _fresh(api, first)

    def work() -> int:
        return sum(len(body.feed(block)) for read in reads if (block := framer.feed(read)))

    return work


def _typed(reads: list[memoryview], count: int) -> Callable[[], int]:
    decoder = msgspec.json.Decoder(PlainChunk)

    def work() -> int:
        framer = SseFramer()
        found = [chunks(decoder, framer.feed(read)[6:-2]) for read in reads]
        return sum(map(len, filter(None, found)))

    if work() != count:
        raise AssertionError("the typed decode lost chunks")
    return work


def _openai_peer(block: memoryview) -> list[str]:
    events = bytes(block).split(b"\n\n")[:-1]
    return [stdlib_json.loads(e[6:])["choices"][0]["delta"]["content"] for e in events]


def _anthropic_peer(block: memoryview) -> list[str]:
    events = bytes(block).split(b"\n\n")[:-1]
    return [stdlib_json.loads(e.split(b"\ndata: ")[1])["delta"]["text"] for e in events]


def _responses_peer(block: memoryview) -> list[str]:
    events = bytes(block).split(b"\n\n")[:-1]
    return [stdlib_json.loads(e.split(b"\ndata: ")[1])["delta"] for e in events]


def _fresh(api: str, first: bytes) -> Body:
    """A body past its first event, as it is nearly always."""
    body = open_body(api)
    body.feed(first)
    return body


def _texts(tokens: list[StreamToken]) -> list[str]:
    return [token.content for token in tokens if isinstance(token, Text)]


def _openai_event(more: bytes) -> bytes:
    """A chunk of exactly 290 bytes with `more` at its end."""
    short = len(_OPENAI % (b" word", more))
    return _OPENAI % (b" word" + b"s" * (OPENAI_BYTES - short), more)


def _shared(data: bytes) -> memoryview:
    """The bytes as a worker sees them: in memory that is mapped."""
    mapped = mmap.mmap(-1, len(data))
    mapped[:] = data
    return memoryview(mapped)


def _time(work: Callable[[], object]) -> float:
    """Median seconds of one call."""
    started = time.perf_counter()
    work()
    times = max(1, int(ROUND_S / max(time.perf_counter() - started, 1e-7)))
    rounds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for _ in range(times):
            work()
        rounds.append((time.perf_counter() - started) / times)
    return statistics.median(rounds)


def _result(seconds: float, size: int, events: int, base: float | None = None) -> dict[str, float]:
    result = {"mb_per_s": round(size / seconds / 1e6, 1), "us_per_event": seconds * 1e6 / events}
    result["us_per_event"] = round(result["us_per_event"], 3)
    if base is not None:
        result["times_peer"] = round(base / seconds, 2)
    return result


def _print(results: dict[str, Any], json: bool) -> None:
    if json:
        print(stdlib_json.dumps(results))
        return
    for dialect, cases in results.items():
        for name, case in cases.items():
            ratio = f"{case['times_peer']:6.1f} x peer" if "times_peer" in case else ""
            speed = f"{case['mb_per_s']:8.0f} MB/s {case['us_per_event']:8.3f} µs an event"
            print(f"{dialect:13} {name:34} {speed} {ratio}")


def main(arguments: list[str] | None = None) -> None:
    """Print the figures, for people or as JSON."""
    parser = argparse.ArgumentParser(prog="ringcast bench parse", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    run(parser.parse_args(arguments).json)


if __name__ == "__main__":
    main()
