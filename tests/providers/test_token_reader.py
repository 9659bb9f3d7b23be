"""A body read in one process: chunks that need no framer give what they would give with one."""

from __future__ import annotations

from itertools import accumulate, pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ringcast.providers.wire.token_reader import TokenReader
from ringcast.shm.tokens import Done, Error, StreamToken, Text

EVENTS = {
    "chat": b'data: {"id":"%b","model":"m","choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n',
    "completions": b'data: {"id":"%b","model":"m","choices":[{"index":0,"text":"%b"}]}\n\n',
    "messages": b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%b,'
    b'"delta":{"type":"text_delta","text":"%b"}}\n\n',
}
IDS = {"chat": b"c%d", "completions": b"c%d", "messages": b"%d"}
# Within JSON: plain, empty, escaped, halves of an emoji, a think tag, and what ends a string.
TEXTS = (
    *(b"word", b"", b"caf\xc3\xa9 ", rb"\n\"\\", rb"\ud83d", rb"\ude00", rb"\u00e9"),
    *(b"<think>", b"</think>", b"x" * 200, b"\\", b'"', b'"}}]}', b"\xff", b"a\nb", b"\r"),
)
OTHERS = (
    *(
        b": ping\n\n",
        b"\n",
        b"\r\n",
        b"\r\r",
        b": half",
        b"data: [DONE]\n\n",
        b"event: ping\ndata: {}\n\n",
    ),
    b'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"t","function":'
    b'{"name":"f","arguments":"{}"}}]}}]}\n\n',
    b'data: {"choices":[{"index":0,"delta":{"content":"late"},"finish_reason":"stop"}]}\n\n',
    b'data: {"error":{"message":"no more"}}\n\n',
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
    *(b'data: {"choices":[], "usage":{"total_tokens":1}}\n\n', b"data: rubbish\n\n", b"[]\n\n"),
)

WORD = (0, b"word")
said = st.tuples(st.integers(0, 1), st.sampled_from(TEXTS)) | st.sampled_from(OTHERS)
# Mostly as servers send them, some in two pieces, some together with the next.
breaks = st.lists(st.sampled_from(["whole", "whole", "cut", "joined"]), max_size=40)


def chunks(events: list[bytes], how: list[str], places: list[int]) -> list[bytes]:
    """Events as they are read: each by itself unless `how` says otherwise."""
    body, ends = b"".join(events), list(accumulate(map(len, events)))
    cuts = {0, len(body)}
    for number, (end, event) in enumerate(zip(ends, events, strict=True)):
        kind = how[number] if number < len(how) else "whole"
        if kind != "joined":
            cuts.add(end)
        if kind == "cut":
            cuts.add(end - places[number % len(places)] % len(event))
    return [body[start:stop] for start, stop in pairwise(sorted(cuts))]


@given(
    st.sampled_from(sorted(EVENTS)),
    st.sampled_from(["", "roo"]),
    st.lists(said, max_size=25),
    breaks,
    st.lists(st.integers(0, 300), min_size=1, max_size=5),
)
@example("chat", "", [WORD, WORD, WORD, (0, rb"\ud83d"), WORD, WORD], [], [1])
@example("messages", "", [WORD, WORD, WORD, (0, rb"\ud83d"), WORD, WORD], [], [1])
@example("chat", "", [WORD, WORD, WORD, b"event: error\n", WORD, WORD], [], [1])
@example("chat", "roo", [(0, b"<think>"), WORD, (0, b"</think>"), WORD, WORD, WORD], [], [1])
def test_a_chunk_without_a_framer_gives_the_same(
    api: str, compat: str, told: list[bytes | tuple[int, bytes]], how: list[str], places: list[int]
) -> None:
    made = [
        one if isinstance(one, bytes) else EVENTS[api] % (IDS[api] % one[0], one[1]) for one in told
    ]
    alone, framed = (TokenReader(api, compat=compat) for _ in range(2))
    for chunk in chunks(made, how, places):
        # What is no `bytes` is framed always.
        assert alone.read(chunk) == framed.read(memoryview(chunk))
        assert alone.finished == framed.finished
    assert alone.end() == framed.end()
    assert alone.oddities == framed.oddities


@pytest.mark.parametrize("api", sorted(EVENTS))
def test_an_event_like_the_last_ones_needs_no_framer(
    api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = TokenReader(api)
    events = [EVENTS[api] % (IDS[api] % 0, text) for text in (b"a", b"b", b"c", b"d")]
    for event in events[:3]:
        reader.read(event)
    monkeypatch.setattr(reader, "_framer", None)
    assert reader.read(events[3]) == [Text("d")]


@pytest.mark.parametrize("space", [b" ", b"\n", b"\n\n", b"\r"])
@pytest.mark.parametrize("api", sorted(EVENTS))
def test_space_around_the_text_may_be_the_end_of_a_line(api: str, space: bytes) -> None:
    event = EVENTS[api] % (IDS[api] % 0, b"word")
    for odd in (
        event.replace(b'"word', space + b'"word'),
        event.replace(b'word"', b'word"' + space),
    ):
        alone, whole = TokenReader(api), TokenReader(api)
        tokens = [token for chunk in (event, event, event, odd) for token in alone.read(chunk)]
        assert tokens + alone.end() == whole.read(event * 3 + odd) + whole.end()
        assert alone.oddities == whole.oddities


def test_nothing_is_read_behind_the_end() -> None:
    reader = TokenReader("chat")
    event = EVENTS["chat"] % (b"c", b"word")
    for _ in range(3):
        reader.read(event)
    (end,) = reader.end()
    assert isinstance(end, Error)
    assert (reader.read(event), reader.end()) == ([], [])


def test_the_end_that_a_provider_says_is_the_end() -> None:
    reader = TokenReader("chat")
    tokens: list[StreamToken] = []
    event = EVENTS["chat"] % (b"c", b"word")
    for chunk in (event, event, event, b"data: [DONE]\n\n", event):
        tokens += reader.read(chunk)
    assert tokens[:-1] == [Text("word")] * 3
    assert isinstance(tokens[-1], Done)
