"""`<think>` at the beginning of a text, in pieces, against the definition letter by letter."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ringcast.providers.wire.think_tag import MAX_HELD_CHARS, Part, ThinkTag

NAME = "think"


def by_letter(text: str) -> list[tuple[bool, str]]:
    """Roo-Code's `TagMatcher`, as its states say, over all of a text at once."""
    parts: list[tuple[bool, str]] = []
    state, letters, depth, held = "text", 0, 0, ""

    for number, char in enumerate(text):
        held += char
        if state == "text" and char == "<" and (number == 0 or depth > 0):
            state, letters = "open", 0
            continue
        if state != "text":
            if char == ">" and letters == len(NAME):
                outermost = depth == 0 if state == "open" else depth <= 1
                depth = depth + 1 if state == "open" else depth - 1
                held = "" if outermost else held
                state = "text"
                continue
            if state == "open" and letters == 0 and char == "/":
                state = "close"
                continue
            if char == " " and letters in (0, len(NAME)):
                continue
            if NAME[letters : letters + 1] == char:
                letters += 1
                continue
            state = "text"
        parts.append((depth > 0, held))
        held = ""
    return [*parts, (depth > 0, held)]


def joined(parts: list[Part]) -> tuple[str, str]:
    """The text, and the thinking."""
    text = "".join(said for thinking, said in parts if not thinking)
    return text, "".join(said for thinking, said in parts if thinking)


def split(text: str, cuts: list[int]) -> list[Part]:
    tag, parts = ThinkTag(), []
    ends = sorted({min(cut, len(text)) for cut in cuts} | {len(text)})
    for begin, end in pairwise([0, *ends]):
        parts += tag.feed(text[begin:end])
        tag = msgspec.msgpack.decode(msgspec.msgpack.encode(tag), type=ThinkTag)
    return parts + tag.flush()


pieces = st.sampled_from(
    ["<think>", "</think>", "< / think >", "<", "/", ">", " ", "thin", "k", "é"]
)
texts = st.lists(pieces, max_size=12).map("".join)


@given(texts, st.lists(st.integers(0, 80), max_size=8))
@example("<think>a<think></think></think>b", [])
@example("</think>a</think>", [3])
@example("<<think>a", [1])
@example("<think>a<</think>b</think>c", [9])
def test_any_pieces_give_what_the_definition_gives(text: str, cuts: list[int]) -> None:
    assert joined(split(text, cuts)) == joined(by_letter(text))


@given(texts)
def test_neighbours_of_one_kind_are_one_part(text: str) -> None:
    parts = ThinkTag().feed(text)
    assert all(text for _, text in parts)
    assert all(a[0] != b[0] for a, b in pairwise(parts))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("<think>\nHm.\n</think>\n\nHi.", [(True, "\nHm.\n"), (False, "\n\nHi.")]),
        ("<think>never closed", [(True, "never closed")]),
        ("Hi <think>no</think>", [(False, "Hi <think>no</think>")]),
        ("\n<think>no</think>", [(False, "\n<think>no</think>")]),
        ("<think>a</think><think>b</think>", [(True, "a"), (False, "<think>b</think>")]),
        ("<thinking>", [(False, "<thinking>")]),
        ("<think>a < b</think>c", [(True, "a < b"), (False, "c")]),
        ("<think>a<think>b</think>c</think>d", [(True, "a<think>b</think>c"), (False, "d")]),
    ],
)
def test_what_comes_of_a_text(text: str, parts: list[Part]) -> None:
    assert ThinkTag().feed(text) == parts


@given(st.text("<think/> ", max_size=40))
def test_only_what_may_become_a_tag_is_held_back(text: str) -> None:
    tag, given_out = ThinkTag(), 0
    for at, char in enumerate(text):
        given_out += sum(len(part) for _, part in tag.feed(char))
        assert not tag.settled or not (tag.tag or tag.nested)
        assert given_out + len(tag.tag) + len(tag.nested) <= at + 1


@pytest.mark.parametrize(
    "flood", [["<think>x<", *[" "] * 9999], ["<", *[" "] * 9999], ["<think>"] * 2000]
)
def test_a_flood_is_not_held_back(flood: list[str]) -> None:
    tag = ThinkTag()
    for piece in flood:
        tag.feed(piece)
        assert len(tag.tag) + len(tag.nested) <= MAX_HELD_CHARS


def test_text_is_settled_at_its_first_letter() -> None:
    tag = ThinkTag()
    assert not tag.settled
    assert tag.feed("H") == [(False, "H")]
    assert tag.settled
