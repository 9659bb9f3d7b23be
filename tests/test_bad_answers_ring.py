"""Bodies on their way through a ring: keep-alives, all vectors, all its places (P14, P55, P56)."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fakes.pipeline import Pipeline, plain, ring

from ringcast.providers.flow import Flow, Outlet
from ringcast.providers.wire.body import Ending
from ringcast.providers.wire.sse import SseEvent, SseFramer, SseParser
from ringcast.providers.wire.summary import decode
from ringcast.shm import records
from ringcast.shm.layout import COMMIT
from ringcast.shm.ring import Reader, Writer

CONFORMANCE = Path(__file__).parent / "conformance"
VECTORS: list[dict[str, Any]] = json.loads((CONFORMANCE / "vectors.json").read_text())
CAPACITY = 1 << 12
ROUNDS = 20


def blocks(reader: Reader, writer: Writer, flow: Flow) -> Iterator[bytes]:
    """What a worker would parse: whole records, and fragments joined."""
    parts: list[bytes] = []
    while batch := _next(reader, writer, flow):
        for record in batch:
            if record.kind == records.DATA:
                parts.append(bytes(record.payload))
                if record.flags & records.LAST:
                    yield b"".join(parts)
                    parts.clear()
        reader.release(batch[-1].end)


def _next(reader: Reader, writer: Writer, flow: Flow) -> list[Any]:
    flow.pump()
    writer.publish()
    return reader.poll()


def parsed(parts: list[bytes]) -> list[tuple[str, str]]:
    """Each block by a parser without a past; only the first may begin with a byte order mark."""
    found: list[SseEvent] = []
    for number, part in enumerate(parts):
        parser = SseParser(error_field=True)
        parser.expect_bom = number == 0
        found += parser.parse_chunk(part)
    return [(event.event, event.data) for event in found]


def test_p55_every_vector_at_random_places_of_the_ring() -> None:
    draw = random.Random(55)
    memory = ring(CAPACITY)
    writer, reader = Writer(memory), Reader(memory)
    outlet = Outlet(writer, lambda: None)
    for vector in VECTORS * ROUNDS:
        data = base64.b64decode(vector["input"])
        flow = Flow(1, outlet, SseFramer(), 1 << 30)
        found: list[bytes] = []
        at = 0
        while at < len(data):
            size = draw.randint(1, 64)
            flow.data(data[at : at + size], 0)
            at += size
            found += blocks(reader, writer, flow)
        flow.end(Ending(), 0)
        found += blocks(reader, writer, flow)
        whole = SseParser(error_field=True).parse_chunk(data)
        assert parsed(found) == [(event.event, event.data) for event in whole], vector["id"]
    assert writer.position > 100 * CAPACITY


def test_p14_what_only_keeps_alive_is_not_written() -> None:
    """But for the first of it: a byte order mark may stand there, and only there."""
    writer = Writer(ring(CAPACITY))
    flow = Flow(1, Outlet(writer, lambda: None), SseFramer(), 1 << 30)
    flow.data(b": first\n\n", 0)
    sent = flow.sent
    for quiet in (b": more\n\n", b":\r\n\r\n\n\n", b"\r\r", b": in", b" pieces\n", b"\n"):
        flow.data(quiet, 0)
    assert flow.sent == sent == len(b": first\n\n")
    flow.data(b": and\n\ndata: x\n\n", 0)
    assert flow.sent > sent


def answer() -> bytes:
    """One of every kind of field, over several lines, and a piece larger than a record."""
    piece = {"choices": [{"index": 0, "delta": {"content": "é" * 20}, "finish_reason": None}]}
    said = json.dumps(piece, ensure_ascii=False).encode()
    longer = said.replace("é".encode(), "wörd ".encode() * 8)
    lines = b"".join(
        b"data: " + line + b"\r\n" for line in json.dumps(piece, indent=1).encode().split(b"\n")
    )
    return (
        b": comment\nid: 7\nretry: 10\nevent: message\ndata: " + said + b"\n\n"
        + lines + b"\r\n" + b"data: " + longer + b"\r\r" + b"data: [DONE]\n\n"
    )  # fmt: skip


def test_p56_the_same_tokens_wherever_the_ring_wraps() -> None:
    body = answer()
    whole = plain(decode("chat", [body]))
    assert len(whole) == 4
    for shift in range(0, CAPACITY, COMMIT):
        pipeline = Pipeline(in_bytes=CAPACITY)
        inbox = pipeline.connect(b"client")
        filler = b":" * (shift + 1) + b"\n\n"  # the first comment of a body passes
        for slot, chunks in enumerate([[filler], [body[:shift], body[shift:]]], 1):
            stream = pipeline.open(slot, "chat", chunks, 1 << 14)
            pipeline.attach(inbox, slot, stream, -1, 1 << 14)
            pipeline.run()
        assert plain(inbox.tokens[2]) == whole, shift
