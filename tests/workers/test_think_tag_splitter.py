"""Thinking in tags becomes reasoning, wherever the tags are cut."""

from __future__ import annotations

import pytest
from fakes.transforms import END, batches, cuts, pieces, run, said
from hypothesis import given
from hypothesis import strategies as st

from ringcast.shm.tokens import Delta, Logprob, Reasoning, StreamToken, Text, ToolCall
from ringcast.workers.think_tag_splitter import ThinkTagSplitter
from ringcast.workers.transform import StreamTransformer
from ringcast.workers.transforms import Transforms


def make() -> list[StreamTransformer]:
    return [ThinkTagSplitter()]


@given(
    st.text("<>/ab", max_size=10),
    st.text("</think>b ", max_size=30),
    cuts,
    batches,
    st.booleans(),
)
def test_any_cut_gives_the_same_parts(
    thought: str, text: str, sizes: list[int], groups: list[int], restart: bool
) -> None:
    whole = f"<think>{thought}</think>{text}"
    tokens: list[StreamToken] = [Text(piece) for piece in pieces(whole, sizes)]
    after = run(make, tokens, groups, restart=restart)
    assert said(after) == said(run(make, [Text(whole)]))
    if "<" not in thought:
        parts = {("reasoning", 0, 0): thought, ("text", 0, 0): text}
        assert said(after) == {key: part for key, part in parts.items() if part}


@pytest.mark.parametrize(
    "tokens",
    [
        [Text("no tag"), Text(" <think>here</think>")],
        [Text("a < b"), ToolCall(0, "i", "f", "<think>")],
        [Delta("scored", 0, [Logprob("scored", -1.0)])],
    ],
)
def test_what_has_no_tags_goes_by_as_it_is(tokens: list[StreamToken]) -> None:
    assert run(make, tokens) == [*tokens, END]


def test_choices_have_tags_of_their_own() -> None:
    tokens: list[StreamToken] = [Text("<thi"), Delta("plain", 1), Text("nk>a</think>b")]
    after = Transforms(make()).feed([*tokens, END], 1)
    assert after == [Delta("plain", 1), Reasoning("a"), Text("b"), END]


def test_a_tag_that_never_ends_is_said_at_the_end() -> None:
    chain = Transforms(make())
    assert chain.feed([Text("<think>a</thi")], 1) == [Reasoning("a")]
    assert chain.feed([END], 1) == [Reasoning("</thi"), END]


SEVERAL = "\n<think>first</think>one `a<b` </thin <think>second <think>in it</think> too</think>two"


@given(cuts, batches, st.booleans())
def test_tags_anywhere(sizes: list[int], groups: list[int], restart: bool) -> None:
    tokens: list[StreamToken] = [Text(piece) for piece in pieces(SEVERAL, sizes)]
    after = run(lambda: [ThinkTagSplitter(anywhere=True)], tokens, groups, restart=restart)
    assert said(after) == {
        ("text", 0, 0): "\none `a<b` </thin two",
        ("reasoning", 0, 0): "firstsecond <think>in it</think> too",
    }


def test_tags_behind_the_beginning_are_text_unless_anywhere() -> None:
    assert run(make, [Text(SEVERAL)]) == [Text(SEVERAL), END]
