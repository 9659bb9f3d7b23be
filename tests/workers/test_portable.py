"""The last line of defence: a token that can not be encoded is said in other words."""

from __future__ import annotations

import pytest
from fakes.pipeline import ring, worker_counters

from ringcast.providers.wire.body import Body, Ending
from ringcast.shm import records
from ringcast.shm.records import Open, encode_open
from ringcast.shm.ring import Reader, Writer
from ringcast.shm.tokens import Citation, Done, Error, StreamToken, Text, ToolCall, Usage, decoder
from ringcast.workers.stage import Stage

DEEP: list[object] = []
for _ in range(100_000):  # deeper than the stack of any Python
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (Text("a\ud83d"), Text("a\ufffd")),
        (ToolCall(0, "\ude00", "f"), ToolCall(0, "\ufffd", "f")),
        (Citation(start=2**70, raw={"\ud83d": -(2**70)}), Citation(raw={"\ufffd": None})),
        (Usage(2**64, 5), Usage(None, 5)),
        (Citation("u" * 100_000, "\ud83d"), Citation("u" * 100_000, "\ufffd")),
    ],
    ids=lambda token: type(token).__name__,
)
def test_a_token_that_can_not_be_encoded(
    bad: StreamToken, said: StreamToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert told([Text("before"), bad, Text("after")], monkeypatch) == [
        Text("before"),
        said,
        Text("after"),
    ]


def test_nesting_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    (citation,) = told([Citation(raw={"deep": DEEP})], monkeypatch)
    assert isinstance(citation, Citation)
    assert citation.raw is not None


def told(tokens: list[StreamToken], monkeypatch: pytest.MonkeyPatch) -> list[StreamToken]:
    """What a stage tells of a stream whose dialect gave these tokens, all but the last one."""
    monkeypatch.setattr(Body, "feed", lambda body, block: tokens)
    source, sink, counters = ring(1 << 16), ring(1 << 20), worker_counters()
    feed, out = Writer(source), Reader(sink)
    stage = Stage([Reader(source)], Writer(sink), counters, 1)
    opened = encode_open(Open(b"0123456789abcdef", "chat", "fake", "model"))
    assert feed.append(records.OPEN, 1, 0, 0, opened, records.WHOLE)
    assert feed.append(records.DATA, 1, 0, 3, b"any", records.WHOLE)
    ending = records.encode(Ending("failed", "internal"))
    assert feed.append(records.END, 1, 0, 3, ending, records.WHOLE)
    feed.publish()
    while stage.step(1):
        pass
    payload, found = b"", list[StreamToken]()
    while batch := out.poll():
        for record in batch:
            if record.kind == records.TOKENS:
                payload += bytes(record.payload)
                if record.flags & records.LAST:
                    found, payload = found + decoder.decode(payload), b""
        out.release(batch[-1].end)
    assert [isinstance(t, Done | Error) for t in found] == [False] * (len(found) - 1) + [True]
    assert counters.get(counters.slot("oddities")) == 1
    return found[:-1]
