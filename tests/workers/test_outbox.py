"""Records that wait: whatever the tokens and the bounds, they fit, and say what was to be said."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ringcast.shm import records
from ringcast.shm.layout import HEADER
from ringcast.shm.records import Open, encode_open
from ringcast.shm.tokens import Done, Error, Reasoning, StreamToken, Text, ToolCall, decoder
from ringcast.workers.outbox import Outbox, Waiting, again, opened, start
from ringcast.workers.stream import Stream

SLOT = 3
TEXTS = st.text(st.sampled_from("aé中🙂"), max_size=60)
TOKENS = st.one_of(
    TEXTS.map(Text),
    TEXTS.map(lambda text: Reasoning(text, signature="s")),
    TEXTS.map(lambda text: ToolCall(0, "call", "name", text)),
)
ENDS: list[list[StreamToken]] = [[], [Done("stop")], [Error("transport", "it broke")]]


def stream() -> Stream:
    return Stream(encode_open(Open(b"%016d" % SLOT, "chat", "fake", "model")), 7)


def box(largest: int = 64, batch_tokens: int = 5, text_characters: int = 10) -> Outbox:
    odd: list[bool] = []
    return Outbox(largest, batch_tokens, text_characters, lambda: odd.append(True))


def read(waiting: list[Waiting]) -> list[StreamToken]:
    """The tokens of records, whose numbers and marks are checked on the way."""
    tokens: list[StreamToken] = []
    partial = b""
    for kind, slot, number, raw, payload, flags, count in waiting:
        assert (kind, slot, number, raw) == (records.TOKENS, SLOT, len(tokens), 99)
        assert bool(flags & records.BEGIN) == (not partial)
        partial += payload
        if flags & records.LAST:
            said = decoder.decode(partial)
            assert bool(flags & records.TERMINAL) == isinstance(said[-1], Done | Error)
            assert len(said) == count
            tokens, partial = tokens + said, b""
    assert not partial
    return tokens


def joined(tokens: list[StreamToken]) -> list[object]:
    """The tokens with texts that follow each other in one piece."""
    whole: list[object] = []
    for token in tokens:
        if isinstance(token, Text | Reasoning) and whole and type(whole[-1]) is tuple:
            kind, text = whole[-1]
            if kind is type(token):
                whole[-1] = (kind, text + token.content)
                continue
        text_like = isinstance(token, Text | Reasoning)
        whole.append((type(token), token.content) if text_like else token)  # type: ignore[union-attr]
    return whole


@given(st.lists(TOKENS), st.sampled_from(ENDS), st.integers(20, 400), st.integers(1, 20))
def test_any_tokens_fit_and_are_the_same(
    tokens: list[StreamToken], end: list[StreamToken], largest: int, batch_tokens: int
) -> None:
    """Rules 1 to 3."""
    tokens = tokens + end or [Text("")]
    its, waiting = stream(), box(largest, batch_tokens)
    its.raw = 99
    waiting.tokens(SLOT, its, tokens)
    assert all(len(payload) <= largest for _, _, _, _, payload, _, _ in waiting)
    assert all(count <= batch_tokens for *_, count in waiting)
    said = read(waiting)
    assert its.next_seq == len(said)
    assert joined(said) == joined(tokens)


def test_a_text_that_fits_is_not_cut() -> None:
    its, waiting = stream(), box(largest=400, text_characters=10)
    its.raw = 99
    waiting.tokens(SLOT, its, [Text("x" * 300)])
    assert read(waiting) == [Text("x" * 300)]


def test_numbers_go_on_from_one_list_to_the_next() -> None:
    its, waiting = stream(), box()
    its.raw = 99
    for text in ("a", "b", "c"):
        waiting.tokens(SLOT, its, [Text(text)])
    waiting.silence(SLOT, its)
    assert [number for _, _, number, *_ in waiting] == [0, 1, 2, 3]
    assert its.next_seq == 3


@given(st.binary(min_size=1, max_size=300), st.integers(1, 100))
def test_a_state_is_cut_and_can_be_joined(state: bytes, largest: int) -> None:
    waiting = box(largest)
    waiting.fragments(records.CHECKPOINT, SLOT, stream(), state)
    assert b"".join(payload for _, _, _, _, payload, _, _ in waiting) == state
    marks = [flags for _, _, _, _, _, flags, _ in waiting]
    assert [bool(mark & records.BEGIN) for mark in marks] == [True] + [False] * (len(marks) - 1)
    assert [bool(mark & records.LAST) for mark in marks] == [False] * (len(marks) - 1) + [True]


@given(st.integers(0, 5), st.integers(1, 5))
def test_a_step_goes_on_up_to_its_last_record(before: int, number: int) -> None:
    """Rule 4."""
    waiting = box()
    waiting.extend(again(SLOT, at) for at in range(before + number))
    waiting.join(before)
    more = [bool(flags & records.MORE) for _, _, _, _, _, flags, _ in waiting]
    assert more == [False] * before + [True] * (number - 1) + [False]
    assert [at for _, _, at, *_ in waiting] == list(range(before + number))


def test_its_size_is_enough_for_all_of_it() -> None:
    waiting = box()
    assert waiting.size == 0
    waiting.append(start(1, 2))
    waiting.append(opened(SLOT, stream()))
    room = sum(HEADER + len(payload) + 7 & -8 for _, _, _, _, payload, _, _ in waiting)
    assert room <= waiting.size <= room + 7 * len(waiting)
