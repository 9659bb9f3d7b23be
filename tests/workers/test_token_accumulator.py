"""The accumulator: the same text in fewer tokens, none too long, none late, in the same order."""

from __future__ import annotations

import pytest
from fakes.transforms import END, batches, cuts, pieces, run, said, visible
from hypothesis import given
from hypothesis import strategies as st

from ringcast.shm.tokens import (
    Citation,
    Delta,
    Error,
    Logprob,
    Reasoning,
    Refusal,
    StreamToken,
    Text,
    ToolCall,
    Usage,
)
from ringcast.workers.token_accumulator import TokenAccumulator
from ringcast.workers.transform import StreamTransformer
from ringcast.workers.transforms import Transforms

MS = 1_000_000


def make() -> list[StreamTransformer]:
    return [TokenAccumulator(10, 15)]


@given(st.text(max_size=200), cuts, batches, st.booleans())
def test_any_cut_gives_the_same_text(
    text: str, sizes: list[int], groups: list[int], restart: bool
) -> None:
    tokens: list[StreamToken] = [Text(piece) for piece in pieces(text, sizes)]
    after = run(make, tokens, groups, restart=restart)
    joined = [token.content for token in after if isinstance(token, Text)]
    assert "".join(joined) == text
    assert all(0 < len(piece) <= 15 for piece in joined)
    assert after[-1] == END
    small = [len(piece) for piece in joined if len(piece) < 10]
    assert len(small) <= 1 + sum(len(piece) > 5 for piece in pieces(text, sizes))


ANY: st.SearchStrategy[StreamToken] = st.one_of(
    st.builds(Text, st.text("ab", max_size=4)),
    st.builds(Delta, st.text("ab", max_size=4), st.integers(0, 2)),
    st.builds(Reasoning, st.text("ab", max_size=4), st.integers(0, 1), st.integers(0, 1)),
    st.builds(Refusal, st.text("ab", max_size=4)),
    st.builds(ToolCall, st.integers(0, 1), st.none(), st.none(), st.text("ab", max_size=4)),
    st.just(Citation("u")),
    st.just(Delta("ab", 0, [Logprob("ab", -1.0)])),
    st.just(Reasoning("", signature="s")),
)


@given(st.lists(ANY, max_size=25), batches, st.booleans())
def test_nothing_changes_but_where_text_is_cut(
    tokens: list[StreamToken], groups: list[int], restart: bool
) -> None:
    after = run(make, tokens, groups, restart=restart)
    assert said(after) == said(tokens)
    for choice in range(3):  # what is no plain text stays where it is between the text
        assert marks(after[:-1], choice) == marks(tokens, choice)


def marks(tokens: list[StreamToken], choice: int) -> list[object]:
    """A choice's text by kind, joined, and in their places the tokens that are no plain text."""
    found: list[object] = []
    for token in tokens:
        if isinstance(token, Text | Delta | Reasoning | Refusal) and not (
            getattr(token, "logprob", None) or getattr(token, "signature", None)
        ):
            kind = (type(token), getattr(token, "block", 0))
            if getattr(token, "index", 0) != choice or not token.content:
                continue
            if found and isinstance(found[-1], list) and found[-1][0] == kind:
                found[-1][1] += token.content
            else:
                found.append([kind, token.content])
        elif getattr(token, "choice", getattr(token, "index", 0)) == choice:
            found.append(token)
    return found


@pytest.mark.parametrize("end", [END, Error("internal", "why")])
def test_the_end_comes_behind_what_was_held_back(end: StreamToken) -> None:
    assert Transforms(make()).feed([Text("a"), end], 1) == [Text("a"), end]


def test_a_tool_call_comes_behind_the_text_and_counts_do_not_matter() -> None:
    tokens: list[StreamToken] = [Text("a"), Usage(1), Text("b"), ToolCall(0, "i", "f")]
    assert Transforms(make()).feed(tokens, 1) == [Usage(1), Text("ab"), ToolCall(0, "i", "f")]


def test_a_slow_stream_is_not_held_back() -> None:
    one = TokenAccumulator(10, 15, idle_ms=50)
    chain = Transforms([one])
    assert chain.due_ns is None
    assert chain.feed([Text("a")], 7) == []
    assert chain.feed([Text("b")], 40 * MS) == []
    assert chain.due_ns == 7 + 50 * MS  # since the first of them
    assert chain.idle(50 * MS) == []
    assert chain.idle(7 + 50 * MS) == [Text("ab")]
    assert chain.due_ns is None


def test_many_small_ones_are_few_large_ones() -> None:
    after = run(lambda: [TokenAccumulator()], [Text("abc") for _ in range(1000)])
    assert visible(after) == "abc" * 1000
    assert {len(t.content) for t in after[:-2] if isinstance(t, Text)} == {21}


@pytest.mark.parametrize(("low", "high"), [(0, 5), (6, 5), (-1, 1)])
def test_sizes_that_make_no_sense(low: int, high: int) -> None:
    with pytest.raises(ValueError, match="must hold"):
        TokenAccumulator(low, high)


@pytest.mark.parametrize("idle_ms", [0, -1, float("nan")])
def test_a_time_that_makes_no_sense(idle_ms: float) -> None:
    with pytest.raises(ValueError, match="idle_ms must be above 0"):
        TokenAccumulator(1, 2, idle_ms)
