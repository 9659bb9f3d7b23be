"""Merging: an answer is the same whichever of its tokens were merged."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ringcast.shm.answer import joined
from ringcast.shm.merge import merge
from ringcast.shm.tokens import (
    Citation,
    Delta,
    Done,
    Error,
    FunctionCall,
    Logprob,
    Reasoning,
    Refusal,
    StreamToken,
    Text,
    ToolCall,
    Usage,
)

WORD = st.text("abc", max_size=3)
FEW = st.integers(0, 1)
NAME = st.sampled_from([None, "f", "g"])
LOGPROB = st.none() | st.just([Logprob("t", -0.5)])
PREVIEW = st.none() | st.just({"a": 1})
IDS = st.none() | st.lists(st.integers(0, 200_000), max_size=2)
TOKENS: st.SearchStrategy[StreamToken] = st.one_of(
    st.builds(Text, WORD),
    st.builds(Delta, WORD, FEW, LOGPROB, IDS, IDS),
    st.builds(Reasoning, WORD, FEW, FEW, NAME, NAME, st.none() | st.just({"id": "r"})),
    st.builds(Refusal, WORD, FEW, LOGPROB),
    st.builds(ToolCall, FEW, NAME, NAME, WORD, FEW, PREVIEW),
    st.builds(FunctionCall, NAME, WORD, FEW),
    st.builds(Citation, st.just("http://x")),
)


def merged(tokens: list[StreamToken]) -> list[StreamToken]:
    """As few tokens as merging neighbours gives."""
    few: list[StreamToken] = []
    for token in tokens:
        both = merge(few[-1], token) if few else None
        few[-1:] = [both] if both is not None else [*few[-1:], token]
    return few


@given(st.lists(TOKENS, max_size=12))
def test_the_answer_stays_what_it_was(tokens: list[StreamToken]) -> None:
    few = merged(tokens)
    assert joined(few) == joined(tokens)
    assert merged(few) == few


@given(TOKENS, TOKENS)
def test_nothing_that_a_model_token_has_is_lost(first: StreamToken, second: StreamToken) -> None:
    both = merge(first, second)
    if isinstance(both, Delta):
        assert isinstance(first, Delta)
        assert isinstance(second, Delta)
        assert (both.logprob or []) == (first.logprob or []) + (second.logprob or [])
        assert (both.token_ids or []) == (first.token_ids or []) + (second.token_ids or [])
        assert both.prompt_token_ids == first.prompt_token_ids


@given(TOKENS, TOKENS)
def test_a_token_can_do_it_itself(first: StreamToken, second: StreamToken) -> None:
    assert first.merge(second) == merge(first, second)


def test_what_can_be_merged() -> None:
    assert merge(Text("a"), Text("b")) == Text("ab")
    begun, rest = ToolCall(0, "id", "f", '{"a"'), ToolCall(0, arguments=": 1}")
    assert merge(begun, rest) == ToolCall(0, "id", "f", '{"a": 1}')
    seen = ToolCall(0, arguments="1", preview=[])
    assert merge(seen, ToolCall(0, arguments="2")) == ToolCall(0, arguments="12", preview=[])
    assert merge(seen, ToolCall(0, preview=[12])) == ToolCall(0, arguments="1", preview=[12])
    assert merge(Reasoning("a"), Reasoning("b", signature="s")) == Reasoning("ab", signature="s")
    usage = Usage(input_tokens=3, output_tokens=0)
    assert merge(usage, Usage(output_tokens=9)) == Usage(input_tokens=3, output_tokens=9)


def test_what_cannot() -> None:
    assert merge(Text("a"), Delta("b")) is None
    assert merge(Delta("a"), Delta("b", 1)) is None
    assert merge(ToolCall(0), ToolCall(1)) is None
    assert merge(ToolCall(0, "a"), ToolCall(0, "b")) is None
    assert merge(Reasoning("a", signature="s"), Reasoning("b")) is None
    assert merge(Text("a"), Done()) is None
    assert merge(Error("e", "m"), Text("a")) is None
    assert merge(Citation("u"), Citation("u")) is None
