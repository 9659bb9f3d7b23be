"""Previews of arguments: the same in the end however they are cut, and nothing is taken back."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import pytest
from fakes.transforms import END, batches, cuts, pieces, run
from hypothesis import given
from hypothesis import strategies as st

from ringcast.errors import ConfigError
from ringcast.providers import transform_spec
from ringcast.shm.tokens import StreamToken, Text, ToolCall
from ringcast.workers.transform import StreamTransformer
from ringcast.workers.transform_catalog import open_transforms
from ringcast.workers.transforms import Transforms

pytest.importorskip("jiter", reason="needs jiter: pip install 'ringcast[preview]'")

from ringcast.workers.json_preview import MAX_BYTES, JsonPreview

NUMBERS = st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text('ab"\\é🙂\n', max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text('a"é', max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)
TEXTS = st.builds(
    lambda value, ascii_, indent: json.dumps(value, ensure_ascii=ascii_, indent=indent),
    st.dictionaries(st.text("abc", min_size=1, max_size=3), VALUES, max_size=4) | st.lists(VALUES),
    st.booleans(),
    st.none() | st.integers(0, 2),
)


def make() -> list[StreamTransformer]:
    return [JsonPreview()]


def fragments(text: str, sizes: list[int], index: int = 0) -> list[StreamToken]:
    return [ToolCall(index, arguments=piece) for piece in pieces(text, sizes)]


def previews(tokens: list[StreamToken], index: int = 0) -> list[Any]:
    calls = [token for token in tokens if isinstance(token, ToolCall) and token.index == index]
    return [call.preview for call in calls if call.preview is not None]


def letters(text: str) -> list[Any]:
    """The previews of a text that comes letter by letter."""
    return previews(run(make, fragments(text, [1] * len(text))))


def begins(before: Any, after: Any) -> bool:
    """Whether a value is a beginning of another."""
    if isinstance(before, str):
        return isinstance(after, str) and after.startswith(before)
    if isinstance(before, list):
        same = isinstance(after, list) and len(before) <= len(after)
        return same and all(map(begins, before, after))
    if isinstance(before, dict):
        same = isinstance(after, dict) and before.keys() <= after.keys()
        return same and all(begins(value, after[name]) for name, value in before.items())
    return bool(before == after)


@given(TEXTS, cuts, batches, st.booleans())
def test_any_cut_ends_with_the_arguments_themselves(
    text: str, sizes: list[int], groups: list[int], restart: bool
) -> None:
    tokens = fragments(text, sizes)
    after = run(make, tokens, groups, restart=restart)
    assert previews(after)[-1] == json.loads(text)
    assert [call.arguments for call in after if isinstance(call, ToolCall)] == [
        call.arguments for call in tokens if isinstance(call, ToolCall)
    ]


@given(TEXTS, cuts, st.integers(0, 60))
def test_any_cut_of_what_is_broken_off_ends_the_same(text: str, sizes: list[int], at: int) -> None:
    cut = text[:at]
    assert previews(run(make, fragments(cut, sizes)))[-1:] == letters(cut)[-1:]


@given(TEXTS)
def test_each_preview_is_a_beginning_of_the_next(text: str) -> None:
    shown = letters(text)
    assert all(map(begins, shown, shown[1:]))


@given(TEXTS, TEXTS, cuts)
def test_a_successor_at_every_token_gives_the_same(one: str, two: str, sizes: list[int]) -> None:
    first, second = fragments(one, sizes), fragments(two, sizes, 1)
    mixed = [token for pair in zip(first, second, strict=False) for token in pair]
    mixed += first[len(second) :] + second[len(first) :]
    assert run(make, mixed, restart=True) == run(make, mixed)
    assert previews(run(make, mixed), 1)[-1] == json.loads(two)


def test_what_is_shown_letter_by_letter() -> None:
    text = '{"path": "a.py", "lines": [10, tru'
    seen: list[Any] = [{}, {"path": ""}, {"path": "a"}, {"path": "a."}, {"path": "a.p"}]
    seen += [{"path": "a.py"}, {"path": "a.py", "lines": []}, {"path": "a.py", "lines": [10]}]
    shown = letters(text)
    assert [value for n, value in enumerate(shown) if value not in shown[:n]] == seen


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("", None),
        (" ", None),
        ("12", 12),
        ("-", None),
        ("tru", None),
        ('"a', "a"),
        ('{"a": 12', {}),
        ("[1, 2", [1]),
        ('{"a": 1} ', {"a": 1}),
        ('{"a": 1} more', {"a": 1}),
        ('{"a": 123456789012345678901}', {"a": None}),
        ('{"a" 1}', {}),
        (r'{"a": "\ud83dx"}', {"a": ""}),
        ("[" * 300, None),
    ],
)
def test_the_last_of(text: str, last: Any) -> None:
    shown = letters(text)
    if text.startswith("[["):
        assert shown  # as deep as jiter goes, and then no more
    else:
        assert shown[-1:] == ([] if last is None else [last])


def test_other_tokens_and_empty_fragments_go_by() -> None:
    tokens: list[StreamToken] = [Text("{"), ToolCall(0, "id", "f"), Text("}")]
    assert run(make, tokens) == [*tokens, END]


def test_the_end_of_a_stream_says_what_is_left() -> None:
    text = '{"a": "' + "x" * 100
    (*_, last, end) = run(make, fragments(text + "yz", [len(text), 1]))
    assert (last, end) == (ToolCall(0, preview={"a": "x" * 100 + "yz"}), END)


def test_texts_under_way_are_bounded_and_those_that_ended_take_nothing() -> None:
    one = JsonPreview()
    for index in range(100):
        (call,) = one.feed([ToolCall(index, arguments='["' + "x" * 2000 + '"]')], 0)
        assert isinstance(call, ToolCall)
        assert call.preview == ["x" * 2000]
    assert len(one.state()) < 1000
    many = [
        ToolCall(200 + n // 100, arguments='["' if n % 100 == 0 else "y" * 50) for n in range(4000)
    ]
    one.feed(many, 0)
    assert MAX_BYTES * 0.9 < len(one.state()) < MAX_BYTES * 1.1


def test_the_cost_of_long_arguments_is_linear() -> None:
    """All previews together are about nine times the last, so twice the text is twice the work."""
    text = '{"content": "' + "line of code\\n" * 2200 + '"}'
    began = time.process_time()
    shown = previews(run(make, fragments(text, [10] * (len(text) // 10)), [64] * 100))
    assert time.process_time() - began < 5
    assert len(shown) < 100
    sizes = [len(value.get("content", "")) for value in shown]
    assert sum(sizes) < 10 * sizes[-1]


def test_without_jiter_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    payload = transform_spec.encoded([{"name": "json_preview"}])
    monkeypatch.setitem(sys.modules, "jiter", None)
    with pytest.raises(ConfigError, match=r"pip install 'ringcast\[preview\]'"):
        JsonPreview()
    chain = open_transforms(payload)  # it was there when the request was checked
    assert isinstance(chain, Transforms)
    (error,) = chain.feed([Text("a")], 0)
    assert "pip install" in str(error)
