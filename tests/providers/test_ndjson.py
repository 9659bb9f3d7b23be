"""NDJSON: its framer at any cut, and bodies that are no lines."""

from __future__ import annotations

import json
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringcast.errors import Code
from ringcast.providers.wire.ndjson import NdjsonFramer
from ringcast.providers.wire.sse import WireError
from ringcast.providers.wire.summary import decode
from ringcast.shm.tokens import Done, Error, Text, Usage

LAST = b'{"model":"m","message":{"content":"c"},"done":true,"done_reason":"stop","eval_count":1}'
LINE = b'{"model":"m","message":{"content":"a"},"done":false}'
BOM = b"\xef\xbb\xbf"

JSON = st.dictionaries(st.text(max_size=9), st.text(max_size=30) | st.integers(), max_size=4)


def cut(data: bytes, seed: int) -> list[bytes]:
    rng = random.Random(seed)
    pieces, at = [], 0
    while at < len(data):
        size = rng.randrange(0, 30)
        pieces.append(data[at : at + size])
        at += size
    return pieces


@given(
    st.lists(JSON, min_size=1, max_size=20),
    st.sampled_from([b"\n", b"\r\n"]),
    st.integers(0, 2**32),
)
def test_blocks_are_the_lines_at_any_cut(said: list[object], end: bytes, seed: int) -> None:
    data = b"".join(json.dumps(one).encode() + end for one in said)
    frames = NdjsonFramer()
    blocks = [block for piece in cut(data, seed) if (block := frames.feed(piece))]
    assert all(block.endswith(b"\n") for block in blocks)
    assert b"".join(blocks) == data
    assert frames.rest() == b""


def test_whole_lines_pass_as_they_are() -> None:
    frames, data = NdjsonFramer(), (LINE + b"\n") * 3
    assert frames.feed(data) == data
    assert frames.feed(data) is data


def test_a_line_comes_out_with_its_last_byte() -> None:
    frames = NdjsonFramer()
    data = LINE + b"\n"
    out = [frames.feed(data[i : i + 1]) for i in range(len(data))]
    assert [bool(block) for block in out] == [False] * len(LINE) + [True]


@pytest.mark.parametrize("before", [b"", BOM, b"\n\n", BOM + b"\r\n "])
def test_what_stands_before_the_first_line_is_nothing(before: bytes) -> None:
    data = before + LINE + b"\n" + LAST + b"\n"
    for way in ([data], [data[i : i + 1] for i in range(len(data))]):
        tokens = decode("native", way)
        assert tokens[:2] == [Text("a"), Text("c")]
        assert isinstance(tokens[-1], Done)


def test_a_last_line_without_its_end_counts_if_it_is_whole() -> None:
    assert decode("native", [LINE + b"\n" + LAST])[-2:] == [
        Usage(None, 1),
        Done("stop", "stop", usage=Usage(None, 1), model="m"),
    ]
    for data in (LINE + b"\n" + LAST[:-1], LINE[:-1], LINE + b"\n", b"{"):
        last = decode("native", [data])[-1]
        assert isinstance(last, Error)
        assert (last.code, last.retryable) == (Code.STREAM_INCOMPLETE, True), data


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (b"<html>\n<body>no</body>\n</html>\n", Code.NOT_EVENT_STREAM),
        (b'{"error":"model not found"}', Code.PROVIDER_ERROR),
        (b'{"error":"model not found"}\n', Code.PROVIDER_ERROR),
        (b'{\n "error": {\n  "message": "m"\n }\n}\n', Code.PROVIDER_ERROR),
        (b'[{"a": 1}]\n', Code.NOT_EVENT_STREAM),
        (b"", Code.EMPTY_RESPONSE),
        (b"\n\n", Code.EMPTY_RESPONSE),
        (b"data: {}\n\n", Code.NOT_EVENT_STREAM),
    ],
)
def test_a_body_that_is_no_stream_of_lines(said: bytes, code: Code) -> None:
    for way in ([said], [said[i : i + 1] for i in range(len(said))]):
        (only,) = decode("native", way)
        assert isinstance(only, Error)
        assert only.code == code


def test_an_answer_with_indents_is_an_answer() -> None:
    answer = json.dumps(json.loads(LAST), indent=2).encode()
    assert decode("native", [answer]) == decode("native", [LAST + b"\n"])


def test_limits() -> None:
    frames = NdjsonFramer(max_line_bytes=1000)
    frames.feed(LINE + b"\n" + b"{" * 1000)
    with pytest.raises(WireError, match=r"limits.max_line_bytes") as caught:
        frames.feed(b"{")
    assert caught.value.code == Code.NDJSON_LINE_TOO_LONG
    frames = NdjsonFramer(max_event_bytes=1000)
    frames.feed(b"<p>\n" * 250)
    with pytest.raises(WireError, match=r"limits.max_event_bytes"):
        frames.feed(b"\n")


def test_boundaries_are_between_lines() -> None:
    frames, block = NdjsonFramer(), b"{}\n{}\n" + b"x" * 50 + b"\n"
    assert [frames.boundary(block, 0, stop) for stop in (2, 3, 7, 50, 57)] == [0, 3, 6, 6, 57]
    assert frames.boundary(block, 6, 40) == 6


def test_a_long_line_in_small_pieces_takes_linear_time() -> None:
    frames, piece = NdjsonFramer(), b"x" * 16
    frames.feed(LINE + b"\n")
    started = time.perf_counter()
    for _ in range(400_000):
        frames.feed(piece)
    # About 0.2 s; copying what is pending at every piece would move 1.3 TB.
    assert time.perf_counter() - started < 20
    assert len(frames.feed(b"\n")) == 6_400_001
