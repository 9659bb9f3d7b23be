"""The framer: its blocks, parsed one by one without a past, are the stream."""

from __future__ import annotations

import base64
import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringcast.errors import Code
from ringcast.providers.wire.sse import SseEvent, SseFramer, SseParser, WireError

CONFORMANCE = Path(__file__).parents[1] / "conformance"
VECTORS: list[dict[str, Any]] = json.loads((CONFORMANCE / "vectors.json").read_text())

LINES = st.sampled_from(
    [b"data: a", b"data:b", b"event: e", b": c", b"zzzzzzzz: u", b"error: f", b"data", b"", b"x"]
)
ENDS = st.sampled_from([b"\n", b"\r", b"\r\n"])
STREAMS = st.lists(st.tuples(LINES, ENDS), max_size=40).map(
    lambda lines: b"".join(line + end for line, end in lines)
)
COMPACT_BYTES = 64 << 10


def framed(chunks: list[bytes], framer: SseFramer | None = None) -> list[bytes]:
    framer = framer or SseFramer()
    blocks = [framer.feed(chunk) for chunk in chunks]
    return [block for block in [*blocks, framer.rest()] if block]


def cut(data: bytes, seed: int) -> list[bytes]:
    rng = random.Random(seed)
    pieces = []
    while data:
        size = rng.randrange(1, 20)
        pieces.append(data[:size])
        data = data[size:]
    return pieces


def events(blocks: list[bytes]) -> list[SseEvent]:
    """Each block in a parser of its own: a block needs nothing of those before it."""
    parsed = []
    for i, block in enumerate(blocks):
        parser = SseParser(error_field=True)
        parser.expect_bom = i == 0
        parsed += parser.parse_chunk(block)
    return parsed


def nameless(found: list[SseEvent]) -> list[tuple[str, str]]:
    """The last event ID is the one thing that outlives an event."""
    return [(event.event, event.data) for event in found]


def whole(data: bytes) -> list[SseEvent]:
    return SseParser(error_field=True).parse_chunk(data)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["id"])
def test_vectors(vector: dict[str, Any]) -> None:
    data = base64.b64decode(vector["input"])
    ways = [[data], [data[i : i + 1] for i in range(len(data))]]
    for way in ways + [cut(data, seed) for seed in range(10)]:
        assert nameless(events(framed(way))) == nameless(whole(data)), way


@given(STREAMS, st.integers(0, 2**32))
def test_blocks_are_the_stream_at_any_cut(data: bytes, seed: int) -> None:
    blocks = framed(cut(data, seed))
    assert nameless(events(blocks)) == nameless(whole(data))
    assert nameless(events(framed([data[i : i + 1] for i in range(len(data))]))) == nameless(
        whole(data)
    )


@given(STREAMS, st.integers(0, 2**32))
def test_compaction_changes_no_event(data: bytes, seed: int) -> None:
    """With a limit of some bytes on what is kept, comments and unknown fields vanish earlier."""
    framer = SseFramer()
    blocks = []
    for piece in cut(data, seed):
        framer._compact_at = 8
        blocks.append(framer.feed(piece))
    blocks.append(framer.rest())
    assert nameless(events([block for block in blocks if block])) == nameless(whole(data))


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("kept", [b"\n", b"\r\n", b"\r"])
def test_a_dropped_comment_leaves_line_ends_alone(kept: bytes, end: bytes) -> None:
    data = b"data: a" + kept + b": c" + end + end + b"data: b" + kept * 2
    framer, blocks = SseFramer(), []
    for i in range(len(data)):
        framer._compact_at = 1
        blocks.append(framer.feed(data[i : i + 1]))
    found = events([block for block in blocks if block])
    assert [event.data for event in found] == ["a", "b"]


def test_whole_events_pass_as_they_are() -> None:
    data = b"data: 1\n\ndata: 2\n\n"
    assert SseFramer().feed(data) is data


@pytest.mark.parametrize("end", [b"\r\n\r\n", b"\n\r\n", b"\r\r\n"])
def test_nothing_is_left_of_a_line_end_that_is_complete(end: bytes) -> None:
    framer, data = SseFramer(), b"data: 1" + end + b"data: 2" + end
    assert framer.feed(data) == data
    assert framer.rest() == b""
    assert framer.feed(data[:-1]) + framer.feed(data[-1:] + data) == data[:-1] + data


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n", b"\r\n\n", b"\n\r"])
def test_an_event_comes_out_with_its_last_byte(end: bytes) -> None:
    framer = SseFramer()
    data = b"data: x" + end
    out = [framer.feed(data[i : i + 1]) for i in range(len(data))]
    early = end == b"\r\n\r\n" or end == b"\n\r\n"
    at = len(data) - 2 if early else len(data) - 1
    assert [bool(block) for block in out] == [i == at for i in range(len(data))]
    assert framer.rest() == b""


@pytest.mark.parametrize("line", [b": x", b"zzzzzzz"])
@pytest.mark.parametrize("after", [b"", b"x", b"\n"])
def test_endless_comments_and_unknown_fields_are_not_stored(line: bytes, after: bytes) -> None:
    framer = SseFramer(max_line_bytes=1 << 20, max_event_bytes=1 << 20)
    framer.feed(b"data: kept\n" + line + after)
    for _ in range(200):
        assert framer.feed((line + after) * 5000) == b""
        assert len(framer._pending) < 2 * COMPACT_BYTES + 40_000
    block = framer.feed(b": end\ndata: too\n\n")
    assert [e.data for e in SseParser().parse_chunk(block)] == ["kept\ntoo"]


def test_limits() -> None:
    with pytest.raises(WireError, match=r"limits.max_line_bytes") as caught:
        framed([b"data: ", *[b"x" * 100] * 20], SseFramer(max_line_bytes=1000))
    assert caught.value.code == Code.SSE_LINE_TOO_LONG
    with pytest.raises(WireError, match=r"limits.max_event_bytes") as caught:
        framed([b"data: x\n"] * 200, SseFramer(max_event_bytes=1000))
    assert caught.value.code == Code.SSE_EVENT_TOO_LONG


def test_an_answer_in_json_is_kept_whole() -> None:
    answer = b'{\n "key": "' + b"x" * (3 * COMPACT_BYTES) + b'"\n}'
    assert framed([answer[i : i + 1000] for i in range(0, len(answer), 1000)]) == [answer]


def test_a_long_line_in_single_bytes_takes_linear_time() -> None:
    framer, byte = SseFramer(), b"x"
    framer.feed(b"data: ")
    started = time.perf_counter()
    for _ in range(1_000_000):
        framer.feed(byte)
    # About 0.6 s; copying what is pending at every byte would move 500 GB.
    assert time.perf_counter() - started < 20
    assert len(framer.feed(b"\n\n")) == 1_000_008
