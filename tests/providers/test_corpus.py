"""Recorded bodies of real providers, against what the official TypeScript SDKs made of them.

The recordings are no part of this repository: `RINGCAST_CORPUS` names their folder, else
`../shared/corpus` beside it is tried. Without them these tests are skipped.
"""

from __future__ import annotations

import csv
import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from fakes.hostile import HOSTILE, check, fed, paths, put
from hypothesis import given, settings
from hypothesis import strategies as st

from ringcast.errors import Code
from ringcast.providers.wire.body import Body, Ending, open_body
from ringcast.providers.wire.framing import Framer, framer
from ringcast.providers.wire.sse import SseFramer, SseParser
from ringcast.providers.wire.summary import decode, summarize
from ringcast.replay.recording import Framing, events
from ringcast.shm.tokens import Error, StreamToken

CORPUS = Path(os.environ.get("RINGCAST_CORPUS") or Path(__file__).parents[3] / "shared" / "corpus")
RANDOM_CUTS = 20
SMALL_BYTES = 100_000
CUT = (Code.STREAM_INCOMPLETE, Code.EMPTY_RESPONSE, Code.AWS_TRUNCATED)

APIS = {
    "openai-chat": "chat",
    "azure-chat": "chat",
    "openai-completions": "completions",
    "openai-responses": "responses",
    "anthropic": "messages",
    "anthropic-vertex": "messages",
    "anthropic-complete": "complete",
    "genai": "generate",
    "genai-vertex": "generate",
    "bedrock-converse": "converse",
    "bedrock-invoke": "invoke",
    "ollama-native": "native",
}
GOOGLES_ERRORS = "the SDK wraps the whole JSON, and once more where it came as an event stream"

KEYS = [
    *("text", "reasoning", "refusal", "tool_calls", "finish_reason", "signatures", "annotations"),
    *("logprob_tokens", "usage", "choices"),
]
ERROR_KEYS = ["type", "code", "status", "message"]

# Where ours differs on purpose: file, key, what we say, and why the SDKs say something else.
DELIBERATE: dict[tuple[str, str], tuple[Any, str]] = {
    ("vertex/gemini-quotes-escaped.sse", "error"): (
        {
            "type": None,
            "code": "stream_incomplete",
            "status": None,
            "message": "the stream ended before the provider said that the answer was complete",
        },
        "the SDK takes any end for the end, but no chunk of this one has a finish reason",
    ),
    ("gemini/err-400-key.json", "error"): (
        {
            "type": "INVALID_ARGUMENT",
            "code": 400,
            "status": 400,
            "message": "API key not valid. Please pass a valid API key.",
        },
        GOOGLES_ERRORS,
    ),
    ("gemini/err-429-quota.json", "error"): (
        {
            "type": "RESOURCE_EXHAUSTED",
            "code": 429,
            "status": 429,
            "message": "You exceeded your current quota, "
            "please check your plan and billing details. "
            "For more information on this error, head to: "
            "https://ai.google.dev/gemini-api/docs/rate-limits. "
            "To monitor your current usage, head to: https://ai.dev/rate-limit. "
            "\\n* Quota exceeded for metric: "
            "generativelanguage.googleapis.com/generate_content_paid_tier_input_token_count, "
            "limit: 1000000, model: gemini-2.5-flash\\nPlease retry in 48.939935699s.",
        },
        GOOGLES_ERRORS,
    ),
    ("vertex/err-400.json", "error"): (
        {
            "type": "INVALID_ARGUMENT",
            "code": 400,
            "status": 400,
            "message": "The input token count (1250074) exceeds the maximum number of tokens "
            "allowed (1048576).",
        },
        GOOGLES_ERRORS,
    ),
    ("local/llamabox-error-field.sse", "error"): (
        {
            "type": None,
            "code": None,
            "status": None,
            "message": "failed to decode, try again, increasing context size or reducing parallel",
        },
        "the SDKs ignore an SSE field named `error`, and so lose that the answer is cut",
    ),
    ("bedrock/invoke-nova-tool.eventstream", "usage"): (
        {
            "input_tokens": 427,
            "output_tokens": 156,
            "total_tokens": None,
            "cache_read_tokens": 0,
            "cache_write_tokens": 0,
            "reasoning_tokens": None,
        },
        "the counts of the cache are there, under the names of older builds",
    ),
    ("anthropic/err-401.json", "error.message"): (
        "invalid x-api-key",
        "the SDK puts the whole JSON into the message",
    ),
    ("anthropic/err-404-model.json", "error.message"): (
        "model: this-model-does-not-exist-12345",
        "the SDK puts the whole JSON into the message",
    ),
}


def recordings() -> list[dict[str, str]]:
    index = CORPUS / "INDEX.tsv"
    if not index.is_file():
        return []
    with index.open(newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    return [row for row in rows if row["oracle"].removeprefix("json:") in APIS]


ROWS = recordings()
STREAMS = [row for row in ROWS if not row["file"].endswith(".json")]
SSE = [row for row in STREAMS if row["file"].endswith(".sse")]
pytestmark = pytest.mark.skipif(not ROWS, reason=f"no recordings in {CORPUS}")


def name(row: dict[str, str]) -> str:
    return row["file"]


def api(row: dict[str, str]) -> str:
    return APIS[row["oracle"].removeprefix("json:")]


def body(row: dict[str, str]) -> bytes:
    return (CORPUS / row["file"]).read_bytes()


def ending(row: dict[str, str], data: bytes) -> Ending:
    status = int(row["http_status"])
    kind: Any = "eof" if status == 200 else "http"
    return Ending(kind, status=status, content_type=row["content_type"], body=data)


def cuts(data: bytes, seed: int) -> list[bytes]:
    rng = random.Random(seed)
    mean = rng.choice([3, 30, 300, 3000])
    pieces, at = [], 0
    while at < len(data):
        size = rng.randrange(1, 2 * mean)
        pieces.append(data[at : at + size])
        at += size
    return pieces


def expected(row: dict[str, str]) -> dict[str, Any]:
    path = CORPUS / "expected" / row["file"]
    truth: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
    return truth


def error_of(truth: dict[str, Any] | None, status: int) -> dict[str, Any] | None:
    """The SDK's error without its class, and its message without the status in front."""
    if truth is None:
        return None
    return {key: truth[key] for key in ERROR_KEYS} | {
        "message": truth["message"].removeprefix(f"{status} ")
    }


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_summary_is_the_sdks(row: dict[str, str]) -> None:
    data, truth, file = body(row), expected(row), row["file"]
    end = ending(row, data)
    got = summarize(decode(api(row), [data] if end.kind == "eof" else [], end))
    for key in KEYS:
        assert got.get(key) == DELIBERATE.get((file, key), (truth.get(key),))[0], key
    want = error_of(truth["error"], end.status)
    if (file, "error") in DELIBERATE:
        want, _ = DELIBERATE[file, "error"]
    if want is not None and (file, "error.message") in DELIBERATE:
        want["message"], _ = DELIBERATE[file, "error.message"]
    error = got["error"]
    assert (error and {key: error[key] for key in ERROR_KEYS}) == want


@pytest.mark.parametrize("row", [r for r in ROWS if r["http_status"] == "200"], ids=name)
def test_tokens_do_not_depend_on_the_cuts(row: dict[str, str]) -> None:
    data = body(row)
    end = ending(row, data)
    whole = summarize(decode(api(row), [data], end))
    ways = [cuts(data, seed) for seed in range(RANDOM_CUTS if len(data) < SMALL_BYTES else 4)]
    ways.append(
        [data[i : i + 1] for i in range(min(len(data), SMALL_BYTES))] + [data[SMALL_BYTES:]]
    )
    for seed, way in enumerate(ways):
        assert summarize(decode(api(row), way, end)) == whole, f"cut {seed}"


def blocks(row: dict[str, str], frames: Framer) -> Iterator[bytes]:
    """A block for every event."""
    for piece in events(body(row), cast(Framing, row["file"].rpartition(".")[2])):
        if block := frames.feed(piece):
            yield block


def run(row: dict[str, str], feed: Callable[[Body, bytes], list[StreamToken]]) -> list[StreamToken]:
    """The tokens with every event as a block of its own, and again all of them in one block."""
    data = body(row)
    decoder, tokens = open_body(api(row)), []
    for block in blocks(row, SseFramer()):
        tokens += feed(decoder, block)
    decoder_of_all, framer = open_body(api(row)), SseFramer()
    tokens += feed(decoder_of_all, framer.feed(data))
    return tokens


@pytest.mark.parametrize("row", SSE, ids=name)
def test_fast_paths_decode_as_the_general_one(row: dict[str, str]) -> None:
    fast = run(row, lambda decoder, block: decoder.feed(block))
    slow = run(row, lambda decoder, block: [] if decoder.finished else decoder._events(block))
    assert fast == slow


@pytest.mark.parametrize("row", STREAMS, ids=name)
def test_hand_over_at_every_event(row: dict[str, str]) -> None:
    data, tokens = body(row), []
    frames, decoder = framer(api(row)), open_body(api(row))
    largest = 0
    for block in blocks(row, frames):
        state = decoder.state()
        largest = max(largest, len(state))
        decoder = Body.restore(api(row), state)
        tokens += decoder.feed(block)
    tokens += decoder.tail(frames.rest()) + decoder.end(ending(row, data))
    assert summarize(tokens) == summarize(decode(api(row), [data]))
    # A checkpoint is small, but for Perplexity's sources.
    assert largest < (2048 if row["provider"] != "perplexity" else 64 << 10)


@pytest.mark.parametrize("row", STREAMS, ids=name)
def test_only_what_matters_makes_a_checkpoint(row: dict[str, str]) -> None:
    """Restoring an older state is harmless as long as `dirty` was false."""
    frames, decoder = framer(api(row)), open_body(api(row))
    state = decoder.state()
    for block in blocks(row, frames):
        decoder = Body.restore(api(row), state)
        decoder.feed(block)
        if decoder.dirty:
            state = decoder.state()
    tokens = decoder.tail(frames.rest()) + decoder.end(ending(row, b""))
    whole = decode(api(row), [body(row)])[-1]
    assert not tokens or tokens[-1] == whole


@pytest.mark.parametrize("row", STREAMS, ids=name)
def test_every_cut_off_stream_is_an_error_or_complete(row: dict[str, str]) -> None:
    data = body(row)
    rng = random.Random(row["file"])
    full = summarize(decode(api(row), [data]))
    for _ in range(10):
        end = rng.randrange(len(data))
        tokens = decode(api(row), [data[:end]])
        summary = summarize(tokens)
        assert full["text"].startswith(summary["text"])
        if isinstance(tokens[-1], Error) and full["error"] is None:
            assert tokens[-1].code in CUT, end


@pytest.mark.parametrize("row", SSE, ids=name)
def test_the_parser_meets_nothing_unknown(row: dict[str, str]) -> None:
    parser = SseParser()
    parser.parse_chunk(body(row))
    assert parser.replaced == 0
    assert parser.unknown_fields == (row["file"] == "local/llamabox-error-field.sse")


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(SSE or [{}]),
    st.integers(0),
    st.integers(0),
    st.sampled_from(list(HOSTILE)),
)
def test_a_hostile_value_anywhere_in_a_recording(
    row: dict[str, str], number: int, place: int, hostile: str
) -> None:
    """One place in one JSON text of a stream; a prime number of events makes a block."""
    lines = body(row).splitlines(keepends=True)
    said = [at for at, line in enumerate(lines) if line.startswith(b"data: {")]
    at = said[number % len(said)]
    event = json.loads(lines[at][len("data: ") :])
    places = list(paths(event))
    lines[at] = f"data: {put(event, places[place % len(places)], HOSTILE[hostile])}\n".encode()
    framer = SseFramer()
    blocks = filter(
        None, (framer.feed(b"".join(lines[n : n + 7])) for n in range(0, len(lines), 7))
    )
    check(fed(api(row), list(blocks), framer.rest()))
