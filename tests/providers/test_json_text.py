"""JSON that comes in pieces, against the standard library's decoder of all of it."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringcast.providers.wire.json_text import MAX_DEPTH, JsonText

SEEDS = [
    '{"path": "a/b.py", "n": [1, -2.5e+10, 0, true, false, null], "é\\u00e9\\n": {"": []}}',
    '[{"a": "\\"\\\\", "b": [[], {}]}, 0.0, 1E5, ""]',
    '"a string"',
    "-12.5e-3",
    "{}",
    "true",
    " \n[ ] ",
]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
)
VALUES = st.recursive(
    SCALARS,
    lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(max_size=3), one, max_size=3),
    max_leaves=8,
)
NOISE = st.text(
    st.sampled_from(' \n{}[]:,"\\/ubtfnrue+-.0123456789aslE\x00\x1f\u2028'), max_size=12
)


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def is_json(text: str) -> bool:
    """What JSON.parse says; nothing at all counts as no arguments."""
    if not text.strip(" \t\r\n"):
        return True
    try:
        json.loads(text, parse_constant=_no_constant)
    except ValueError:
        return False
    return True


def fed(text: str, seed: int) -> JsonText:
    """The check of `text` in pieces, each time by what another one has left."""
    rng, one, at = random.Random(seed), JsonText(), 0
    while at < len(text):
        size = rng.randrange(1, 5)
        before = one.want, one.open, one.piece
        changed = one.feed(text[at : at + size])
        assert changed == (before != (one.want, one.open, one.piece))
        one, at = JsonText(one.want, one.open, one.piece), at + size
    return one


@given(NOISE, st.integers(0, 99))
def test_any_text(text: str, seed: int) -> None:
    assert fed(text, seed).whole == is_json(text)


@given(VALUES, st.booleans(), st.integers(0, 99))
def test_json_and_its_beginnings(value: Any, ascii_only: bool, seed: int) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert fed(text, seed).whole
    for end in range(len(text)):
        assert fed(text[:end], seed).whole == is_json(text[:end])


@given(st.sampled_from(SEEDS), st.data())
def test_json_with_a_fault(text: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(text)))
    bad = text[:at] + data.draw(NOISE) + text[at + data.draw(st.integers(0, 2)) :]
    assert fed(bad, at).whole == is_json(bad)


@pytest.mark.parametrize(
    "bad", ["{]", "[}", "{,", "[1,]", '{"a"}', "[1 2]", "}", "nul ", "01", "\ufeff{}"]
)
def test_what_never_becomes_json(bad: str) -> None:
    one = JsonText()
    one.feed(bad)
    assert not one.whole
    assert not one.feed('"]}0')


def test_its_memory_is_small_however_long_a_token_is() -> None:
    one = JsonText()
    one.feed('{"a": "')
    for piece in ["x" * 10_000, '\\"' * 1000, "\\u12"]:
        one.feed(piece)
    assert one.piece == '"\\u12'
    one.feed('34", "n": -1' + "0" * 10_000 + "." + "5" * 10_000)
    assert one.piece == "-1.5"
    assert one.feed("}")
    assert one.whole


def test_nesting_ends_somewhere() -> None:
    one = JsonText()
    one.feed("[" * MAX_DEPTH)
    assert one.want
    one.feed("[")
    assert not one.want
