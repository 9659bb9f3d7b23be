"""The SSE parser against the conformance vectors, whole, byte by byte and at random cuts."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringcast.errors import Code
from ringcast.providers.wire.sse import SseEvent, SseParser, WireError

CONFORMANCE = Path(__file__).parents[1] / "conformance"
VECTORS: list[dict[str, Any]] = json.loads((CONFORMANCE / "vectors.json").read_text())
LARGE: list[dict[str, Any]] = json.loads((CONFORMANCE / "vectors-large.json").read_text())
RETRY_MAX_MS = 2**53 - 1

PIECES = st.sampled_from(
    [
        b"data",
        b"event",
        b"id",
        b"retry",
        b"error",
        b":",
        b" ",
        b"\n",
        b"\r",
        b"\r\n",
        b"\xef\xbb\xbf",
        b"x",
        b"7",
        b"\x00",
        b"\xff",
        "😀".encode(),
        b"{}",
        b"[DONE]",
        b"\n\n",
    ]
)
BYTES = st.one_of(st.binary(max_size=200), st.lists(PIECES, max_size=60).map(b"".join))


def parse(
    chunks: Iterable[bytes], parser: SseParser | None = None
) -> tuple[list[SseEvent], SseParser]:
    parser = parser or SseParser()
    return [event for chunk in chunks for event in parser.parse_chunk(chunk)], parser


def cuts(data: bytes, seed: int) -> list[bytes]:
    rng = random.Random(seed)
    ends = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(1, 9)))
    return [data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True)]


def plain(event: SseEvent) -> dict[str, Any]:
    shown: dict[str, Any] = {"event": event.event, "data": event.data, "id": event.id}
    return shown if event.retry is None else shown | {"retry": event.retry}


def clamped(expected: Any) -> Any:
    """Our documented limit: a retry time that no double can hold exactly is the largest one."""
    if isinstance(expected, list):
        return [clamped(item) for item in expected]
    retry = expected.get("retry")
    return expected if retry is None else expected | {"retry": min(retry, RETRY_MAX_MS)}


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["id"])
def test_vector_at_every_kind_of_cut(vector: dict[str, Any]) -> None:
    data = base64.b64decode(vector["input"])
    ways = [[data], [data[i : i + 1] for i in range(len(data))]]
    ways += [cuts(data, seed) for seed in range(20)]
    if lengths := vector.get("chunks"):
        starts = [sum(lengths[:i]) for i in range(len(lengths))]
        ways.append([data[s : s + n] for s, n in zip(starts, lengths, strict=True)])
    for way in ways:
        events, parser = parse(way)
        final = {"last_event_id": parser.last_event_id, "retry": parser.retry}
        assert [plain(event) for event in events] == clamped(vector["expected"]), way
        assert final == clamped(vector["final"]), way


def large_input(vector: dict[str, Any]) -> bytes:
    return b"".join(base64.b64decode(part) * times for part, times in vector["input_parts"])


def check_large(vector: dict[str, Any], events: list[SseEvent]) -> None:
    assert len(events) == vector["expected_count"]
    if vector["expected"] is None:
        assert {tuple(plain(event).items()) for event in events} == {
            tuple(vector["expected_all_equal"].items())
        }
        return
    for event, expected in zip(events, vector["expected"], strict=True):
        assert len(event.data) == expected["data_len"]
        assert hashlib.sha256(event.data.encode()).hexdigest() == expected["data_sha256"]
        assert event.id == expected["id"]
        assert event.event == expected.get("event", event.event)
        assert len(event.event) == expected.get("event_len", len(event.event))


@pytest.mark.parametrize("size", [1 << 30, 16 << 10])
@pytest.mark.parametrize("vector", LARGE, ids=lambda v: v["id"])
def test_large_vector(vector: dict[str, Any], size: int) -> None:
    data = large_input(vector)
    parser = SseParser(max_line_bytes=16 << 20)
    events, _ = parse((data[i : i + size] for i in range(0, len(data), size)), parser)
    check_large(vector, events)
    assert parser.last_event_id == vector["final"]["last_event_id"]


def test_a_long_line_in_single_bytes_takes_linear_time() -> None:
    parser, byte = SseParser(), b"x"
    parser.parse_chunk(b"data: ")
    started = time.perf_counter()
    for _ in range(1_000_000):
        parser.parse_chunk(byte)
    # About 0.7 s; copying what is pending at every byte would move 500 GB.
    assert time.perf_counter() - started < 20
    [event] = parser.parse_chunk(b"\n\n")
    assert len(event.data) == 1_000_000


@pytest.mark.parametrize("field", [b":", b"zzzzzz"])
def test_endless_comment_or_unknown_field_is_not_stored(field: bytes) -> None:
    parser = SseParser(max_line_bytes=1000)
    parser.parse_chunk(field)
    for _ in range(1000):
        assert parser.parse_chunk(b"x" * 1000) == []
    assert [e.data for e in parser.parse_chunk(b"\ndata: ok\n\n")] == ["ok"]
    assert parser.comments + parser.unknown_fields == 1


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_line_above_the_limit(size: int) -> None:
    data = b"data: first\n\ndata: " + b"x" * 100 + b"\n\n"
    parser = SseParser(max_line_bytes=100)
    events: list[SseEvent] = []
    caught = None
    try:
        for i in range(0, len(data), size):
            events += parser.parse_chunk(data[i : i + size])
    except WireError as error:
        caught = error
    assert caught is not None
    assert caught.code == Code.SSE_LINE_TOO_LONG
    assert "longer than 100 bytes (limits.max_line_bytes)" in caught.message
    assert [event.data for event in events + caught.events] == ["first"]


def test_event_above_the_limits() -> None:
    line = b"data: " + b"x" * 10 + b"\n"
    with pytest.raises(WireError, match=r"limits.max_event_bytes") as caught:
        SseParser(max_event_bytes=100).parse_chunk(line * 10)
    assert caught.value.code == Code.SSE_EVENT_TOO_LONG
    with pytest.raises(WireError, match="more than 5 data lines"):
        SseParser(max_data_lines=5).parse_chunk(line * 6)
    assert SseParser(max_data_lines=5).parse_chunk(line * 5 + b"\n")


def test_pending_event_at_the_end() -> None:
    parser = SseParser()
    assert parser.parse_chunk(b"event: a\ndata: 1\ndata: 2") == []
    assert parser.end() == SseEvent("a", "1\n2")
    assert parser.end() is not None
    assert SseParser().end() is None


def test_error_field_is_an_event_only_on_request() -> None:
    data = b"error: {}\n\n"
    assert SseParser().parse_chunk(data) == []
    assert SseParser(error_field=True).parse_chunk(data) == [SseEvent("error", "{}")]


def test_counters() -> None:
    parser = SseParser()
    parser.parse_chunk(b": c\nData: x\ndata: \xff\n\ndata\n\n")
    assert parser.comments == 1
    assert parser.unknown_fields == 1
    assert parser.replaced == 1
    assert parser.empty_data == 1


@given(BYTES, st.integers(0, 2**32))
def test_any_bytes_at_any_cut_give_the_same_events(data: bytes, seed: int) -> None:
    events, parser = parse([data])
    again, other = parse(cuts(data, seed))
    single, third = parse(data[i : i + 1] for i in range(len(data)))
    assert events == again == single
    assert parser.end() == other.end() == third.end()
    assert parser.last_event_id == other.last_event_id == third.last_event_id
