"""AWS event streams: every conformance vector, at any cut, and what becomes of other bodies."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import struct
import time
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fakes.frames import event, message
from hypothesis import given
from hypothesis import strategies as st

from ringcast.errors import Code
from ringcast.providers.wire.eventstream import EventStreamFramer, Header, headers, messages
from ringcast.providers.wire.framing import framer
from ringcast.providers.wire.sse import WireError
from ringcast.providers.wire.summary import decode, summarize
from ringcast.shm.tokens import Done, Error, Text

CONFORMANCE = Path(__file__).parents[1] / "conformance"
VECTORS: list[dict[str, Any]] = [
    vector
    for name in ("aws-vectors.json", "aws-vectors-large.json")
    for vector in json.loads((CONFORMANCE / name).read_text())
]
HELLO = event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "hello"}})
STOP = event("messageStop", {"stopReason": "end_turn"})

Found = tuple[list[tuple[dict[str, Header], bytes]], str | None]


def body(vector: dict[str, Any]) -> bytes:
    if "input" in vector:
        return base64.b64decode(vector["input"])
    return b"".join(base64.b64decode(part) * times for part, times in vector["input_parts"])


def read(chunks: list[bytes]) -> Found:
    """All messages up to the first error, and that error's code."""
    frames, found = EventStreamFramer(), []
    blocks: list[bytes] = []
    code = None
    try:
        blocks.extend(frames.feed(chunk) for chunk in chunks)  # as far as it gets
        frames.rest()
    except WireError as error:
        blocks.append(error.block)
        code = error.code
    try:
        for block in blocks:
            found += [(headers(head), payload) for head, payload in messages(block)]
    except WireError as error:
        code = error.code
    return found, code and code.removeprefix("aws_")


def cut(data: bytes, seed: int) -> list[bytes]:
    rng = random.Random(seed)
    mean, pieces, at = rng.choice([2, 20, 200]), [], 0
    while at < len(data):
        size = rng.randrange(0, 2 * mean)
        pieces.append(data[at : at + size])
        at += size
    return pieces


def plain(header: Header) -> dict[str, Any]:
    """A header as the vectors write it."""
    value = header.value
    shown = base64.b64encode(value).decode() if isinstance(value, bytes) else value
    if isinstance(shown, str) and len(shown) > 1000:
        digest = hashlib.sha256(shown.encode()).hexdigest()
        return {"type": header.type, "value_len": len(shown), "value_sha256": digest}
    return {"type": header.type, "value": shown}


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["id"])
def test_vectors(vector: dict[str, Any]) -> None:
    data = body(vector)
    ways = [[data], *(cut(data, seed) for seed in range(10))]
    if len(data) < 10_000:
        ways.append([data[i : i + 1] for i in range(len(data))])
    for way in ways:
        found, error = read(way)
        assert error == vector["error"]
        assert [
            {
                "headers": {name: plain(header) for name, header in about.items()},
                "payload": base64.b64encode(payload).decode(),
            }
            for about, payload in found
        ] == vector["expected"]


BODIES = st.lists(
    st.tuples(
        st.dictionaries(st.text(max_size=9).filter(bool), st.text(max_size=9), max_size=4),
        st.binary(max_size=300),
    ),
    max_size=8,
)


@given(BODIES, st.integers(0, 2**32))
def test_blocks_are_the_stream_at_any_cut(
    said: list[tuple[dict[str, str], bytes]], seed: int
) -> None:
    data = b"".join(message(about, payload) for about, payload in said)
    frames = EventStreamFramer()
    assert b"".join(frames.feed(piece) for piece in cut(data, seed)) == data
    assert frames.rest() == b""
    assert [p for _, p in messages(data)] == [p for _, p in said]


@given(st.integers(0, 10**9), st.integers(0, 7), st.integers(0, 2**32))
def test_a_bit_that_flips_is_noticed(at: int, bit: int, seed: int) -> None:
    good, bad = HELLO * 3, bytearray(HELLO)
    bad[at % len(bad)] ^= 1 << bit
    found, code = read(cut(good + bytes(bad) + HELLO, seed))
    assert [payload for _, payload in found] == [p for _, p in messages(good)]
    assert code in ("prelude_crc", "message_crc")


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_give_messages_or_an_error(data: bytes, sealed: bool) -> None:
    if sealed and len(data) >= 8:  # lengths that are believed, for once
        data = data[:8] + struct.pack(">I", zlib.crc32(data[:8])) + data[8:]
    whole, single = read([data]), read([data[i : i + 1] for i in range(len(data))])
    assert whole == single
    with suppress(WireError):
        assert sum(16 + len(head) + len(said) for head, said in messages(data)) == len(data)


def test_whole_messages_pass_as_they_are() -> None:
    data = HELLO * 3
    assert EventStreamFramer().feed(data) is data


def test_four_gigabytes_are_refused_by_the_prelude() -> None:
    for total, headers_ in ((0xFFFFFFFF, 0), (1 << 31, 8), (64, 1 << 20)):
        lengths = struct.pack(">II", total, headers_)
        frames = EventStreamFramer()
        assert frames.feed(HELLO + lengths) == HELLO
        with pytest.raises(WireError) as caught:
            frames.feed(struct.pack(">I", zlib.crc32(lengths)))
        assert caught.value.code == Code.AWS_TOO_LONG


def test_a_limit_names_its_setting() -> None:
    ((_, payload),) = messages(HELLO)
    assert EventStreamFramer(max_event_bytes=len(payload)).feed(HELLO) == HELLO
    frames = EventStreamFramer(max_event_bytes=len(payload) - 1)
    with pytest.raises(WireError, match=r"limits.max_event_bytes"):
        frames.feed(HELLO)


def test_the_thousandth_message_is_bad() -> None:
    bad = HELLO[:-1] + bytes([HELLO[-1] ^ 1])
    tokens = decode("converse", [HELLO * 999 + bad + HELLO])
    assert tokens[:-1] == [Text("hello")] * 999
    last = tokens[-1]
    assert isinstance(last, Error)
    assert (last.code, last.retryable) == (Code.AWS_MESSAGE_CRC, True)


def test_a_cut_message_is_an_error_but_not_the_reason_of_another() -> None:
    last = decode("converse", [HELLO + STOP + HELLO[:40]])[-1]
    assert isinstance(last, Error)
    assert (last.code, last.retryable) == (Code.AWS_TRUNCATED, True)
    assert last.provider_reason == "end_turn"


def test_bad_headers_are_found_by_the_decoder() -> None:
    twice = message({"a": "b"})[12:-4]
    lengths = struct.pack(">II", 16 + 2 * len(twice), 2 * len(twice))
    bad = lengths + struct.pack(">I", zlib.crc32(lengths)) + twice * 2
    tokens = decode("converse", [HELLO + bad + struct.pack(">I", zlib.crc32(bad)) + HELLO])
    assert tokens[0] == Text("hello")
    assert [getattr(token, "code", "") for token in tokens[1:]] == [Code.AWS_HEADERS]


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (b'{"message": "The security token is invalid."}', Code.PROVIDER_ERROR),
        (b' \r\n{"message":\n "m"}', Code.PROVIDER_ERROR),
        (b'\xef\xbb\xbf{"message": "m"}', Code.PROVIDER_ERROR),
        (b"<html><body>502 Bad Gateway</body></html>", Code.NOT_EVENT_STREAM),
        (b'data: {"x":1}\n\n', Code.NOT_EVENT_STREAM),
        (b"", Code.EMPTY_RESPONSE),
        (b"\n", Code.EMPTY_RESPONSE),
    ],
)
@pytest.mark.parametrize("api", ["converse", "invoke"])
def test_a_body_that_is_no_event_stream(api: str, said: bytes, code: Code) -> None:
    for way in ([said], [said[i : i + 1] for i in range(len(said))]):
        (only,) = decode(api, way)
        assert isinstance(only, Error)
        assert only.code == code


@pytest.mark.parametrize("lengths", [(0, 0), (15, 0), (16, 1), (19, 4), (33, 0), (32, 17)])
def test_what_is_no_block_has_no_messages(lengths: tuple[int, int]) -> None:
    with pytest.raises(WireError) as caught:
        list(messages(struct.pack(">II", *lengths).ljust(32, b"x")))
    assert caught.value.code == Code.AWS_BAD_LENGTH


def test_a_text_has_a_limit() -> None:
    frames = framer("converse", max_event_bytes=1000)
    frames.feed(b"{" * 1000)
    with pytest.raises(WireError, match=r"limits.max_event_bytes"):
        frames.feed(b"{")


@given(st.lists(st.integers(0, 400), max_size=30), st.integers(120, 1000))
def test_boundaries_are_between_messages(sizes: list[int], limit: int) -> None:
    parts = [message({"a": "b"}, b"x" * size) for size in sizes]
    block, ends = b"".join(parts), {0}
    for part in parts:
        ends.add(max(ends) + len(part))
    frames, start = EventStreamFramer(), 0
    while start < len(block):
        end = frames.boundary(block, start, min(start + limit, len(block)))
        assert end == max(at for at in ends if at <= start + limit)
        if end == start:
            break
        start = end


def test_a_long_message_in_small_pieces_takes_linear_time() -> None:
    data, frames = message({"a": "b"}, b"x" * (8 << 20)), EventStreamFramer()
    started = time.perf_counter()
    blocks = [frames.feed(data[i : i + 16]) for i in range(0, len(data), 16)]
    # About 0.2 s; copying what is pending at every piece would move 2 TB.
    assert time.perf_counter() - started < 20
    assert blocks[-1] == data
    assert not any(blocks[:-1])


def test_a_stream_is_done() -> None:
    tokens = decode("converse", [HELLO + STOP])
    assert tokens == [Text("hello"), Done("stop", "end_turn")]
    assert summarize(tokens)["text"] == "hello"
