"""The content filter: the same text however it is cut, and linear whatever is in it."""

from __future__ import annotations

import time
from typing import Any

import pytest
from fakes.transforms import END, batches, cuts, pieces, run, said, visible
from hypothesis import given, settings
from hypothesis import strategies as st

from ringcast.shm.tokens import (
    Delta,
    FunctionCall,
    Logprob,
    Reasoning,
    Refusal,
    StreamToken,
    Text,
    ToolCall,
    Usage,
)

re2: Any = pytest.importorskip("re2", reason="needs google-re2: pip install 'ringcast[filter]'")

from ringcast.providers.pattern import PatternError, parse  # noqa: E402
from ringcast.workers.content_filter import ContentFilter  # noqa: E402
from ringcast.workers.transform import StreamTransformer  # noqa: E402
from ringcast.workers.transforms import Transforms  # noqa: E402

PATTERNS = [
    ["foo"],
    ["a+b", "ba"],
    [r"\bab\b"],
    ["^ab", "b$"],
    ["a{2,4}", "abab"],
    ["(?i)É|ab*"],
    ["(a|b)*c"],
    [r"(?m)^a\b", r"a\Bb"],
    ["a.b"],
    ["[^a]b?"],
    [r"(?:ab|(?i:BA)){2}[[:space:]]", r"\x61{2}é"],
]
TEXT = st.text("aabbc é\n.fo🙂", max_size=60)


def make(patterns: list[str], longest: int = 256, **more: Any) -> list[StreamTransformer]:
    return [ContentFilter(patterns, "#", longest=longest, **more)]


def oracle(patterns: list[str], text: str) -> str:
    """What RE2 makes of the text as a whole."""
    options = re2.Options()
    options.longest_match = True
    whole = "|".join(f"(?:{pattern})" for pattern in patterns)
    replaced: str = re2.compile(whole, options).sub("#", text)
    return replaced


@given(st.sampled_from(PATTERNS), TEXT, cuts, batches, st.booleans())
def test_any_cut_gives_what_the_whole_text_gives(
    patterns: list[str], text: str, sizes: list[int], groups: list[int], restart: bool
) -> None:
    tokens: list[StreamToken] = [Text(piece) for piece in pieces(text, sizes)]
    after = run(lambda: make(patterns), tokens, groups, restart=restart)
    assert visible(after) == oracle(patterns, text)
    assert after[-1] == END


@given(st.sampled_from(PATTERNS), TEXT, cuts, batches, st.integers(5, 9), st.booleans())
def test_any_cut_gives_the_same_where_matches_are_too_long(
    patterns: list[str], text: str, sizes: list[int], groups: list[int], longest: int, again: bool
) -> None:
    def limited() -> list[StreamTransformer]:
        return make(patterns, longest)

    tokens: list[StreamToken] = [Text(piece) for piece in pieces(text, sizes)]
    whole = visible(run(limited, [Text(text)]))
    assert visible(run(limited, tokens, groups, restart=again)) == whole
    assert visible(run(limited, [Text(c) for c in text])) == whole


@given(st.lists(st.tuples(st.integers(0, 6), st.text("ab", max_size=3)), max_size=30), batches)
def test_every_part_is_a_text_of_its_own(given_: list[tuple[int, str]], groups: list[int]) -> None:
    kinds: list[Any] = [
        Text,
        lambda text: Delta(text, 1),
        Reasoning,
        lambda text: Reasoning(text, 1, 2),
        Refusal,
        lambda text: ToolCall(1, None, None, text),
        lambda text: FunctionCall(None, text),
    ]
    tokens = [kinds[number](text) for number, text in given_]
    parts = ["text", "reasoning", "refusal", "arguments"]
    for restart in (False, True):
        after = run(lambda: make(["ab+"], parts=parts), tokens, groups, restart=restart)
        assert said(after) == {key: oracle(["ab+"], text) for key, text in said(tokens).items()}


def test_only_what_may_begin_a_match_waits() -> None:
    chain = Transforms(make(["secret"]))
    assert chain.feed([Text("a public s")], 1) == [Text("a public ")]
    assert chain.feed([Text("ecre")], 1) == []
    assert chain.feed([Text("tion")], 1) == [Text("#ion")]
    plain: list[StreamToken] = [Text("of gal"), Text(" bil")]
    assert chain.feed(plain, 1) == plain
    assert chain.removed == 1


def test_what_is_not_asked_for_goes_by_untouched() -> None:
    tokens: list[StreamToken] = [
        Reasoning("secret", signature="s"),
        Usage(1),
        ToolCall(0, "id", "secret", '{"a":"secret"}'),
        Delta("public", 0, [Logprob("public", -1.0)]),
    ]
    assert run(lambda: make(["secret"]), tokens) == [*tokens, END]


def test_numbers_that_tell_the_text_go_with_it() -> None:
    tokens: list[StreamToken] = [
        Delta("a se", 0, [Logprob("a se", -1.0)], [7]),
        Delta("cret", 0, [Logprob("cret", -1.0)], [8]),
    ]
    assert run(lambda: make(["secret"]), tokens)[:-1] == [Delta("a "), Text("#")]


def test_arguments_stay_json_and_keep_their_name() -> None:
    call = ToolCall(0, "id", "f", '{"a":"se')
    rest = ToolCall(0, None, None, 'cret"}')
    chain: list[StreamTransformer] = [ContentFilter(["secret"], 'a "b"', ["arguments"])]
    assert Transforms(chain).feed([call, rest, END], 1) == [
        ToolCall(0, "id", "f", '{"a":"'),
        ToolCall(0, None, None, r"a \"b\"" + '"}'),
        END,
    ]


def test_half_a_character_is_no_reason_to_fail() -> None:
    assert visible(run(lambda: make(["b"]), [Text("a\ud83d"), Text("b")])) == "a\ud83d#"


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("(x+x+)+y", "x"),
        ("(a|aa)+$", "a"),
        ("[ab]*a[ab]{200}c", "ab"),
        (".{0,200}z", "q"),
        ("a.{200,}b", "a" * 400 + "b"),
        ("a[^q]{250,}b", "a" * 600 + "b"),
    ],
)
def test_hostile_patterns_and_texts_take_linear_time(pattern: str, text: str) -> None:
    """Ten times the text in ten times the time, with room for a busy machine."""
    text = text * (100_000 // len(text))
    chain = Transforms(make([pattern]))
    began = time.process_time()
    chain.feed([Text(text)], 1)
    chain.feed([Text(text[at : at + 5]) for at in range(0, 5000, 5)], 1)
    for at in range(0, 5000, 5):
        chain.feed([Text(text[at : at + 5])], 1)
    chain.feed([END], 1)
    assert time.process_time() - began < 10  # 0.1 s as a rule; by backtracking, for ever


def test_what_is_held_back_is_bounded() -> None:
    chain = Transforms(make(["a.*b"], 64))
    for _ in range(1000):
        chain.feed([Text("aaaaa")], 1)
    assert len(chain.state()) < 200


@pytest.mark.parametrize(
    ("pattern", "position", "why"),
    [
        ("a(b", 0, "missing )"),
        ("x[z-a]", 2, "invalid character class range"),
        ("ab(?=c)", 2, "invalid perl operator"),
        ("a(?i)b", 1, "flags stand at the beginning"),
        (r"ab\Q*\E", 2, "is not understood"),
        (r"a\C", 1, "is not understood"),
        ("a*", 0, "where there is nothing"),
        (r"\b", 0, "where there is nothing"),
        ("(" * 60 + "a" + ")" * 60, 50, "nested more than 50 deep"),
        ("a{300}", 0, "over 256"),
        ("\ud83d", 0, "half a character"),
        ("((a{1000}){1000}){1000}", 3, "invalid repetition size"),
    ],
)
def test_patterns_that_cannot_be_used(pattern: str, position: int, why: str) -> None:
    with pytest.raises(PatternError, match="pattern 1, at character") as caught:
        ContentFilter(["fine", pattern])
    assert (caught.value.index, caught.value.position) == (1, position)
    assert why in str(caught.value)
    with pytest.raises(PatternError):
        ContentFilter([])


@settings(max_examples=200)
@given(
    st.recursive(
        st.sampled_from(["a", "b", ".", "[ab]", "[^b]", r"\x61", r"\b", "^", "$", r"\w"]),
        lambda inner: st.one_of(
            st.tuples(inner, inner).map("".join),
            st.tuples(inner, inner).map(lambda pair: f"(?:{pair[0]}|{pair[1]})"),
            st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "{0}", "{2,}"])).map(
                lambda pair: f"({pair[0]}){pair[1]}"
            ),
        ),
        max_leaves=8,
    ),
    st.text("ab \n", max_size=12),
    st.text("ab \n", max_size=4),
)
def test_every_beginning_of_every_match_is_known(pattern: str, text: str, before: str) -> None:
    try:
        node = parse(pattern)
    except PatternError:
        return
    options = re2.Options()
    options.longest_match = True
    same = re2.compile(node.pattern, options).search(before + text)
    found = re2.compile(pattern, options).search(before + text)
    assert (same and same.span()) == (found and found.span())
    if found:
        start, end = found.span()
        begun = re2.compile(rf"{node.beginning}\z", options)
        for cut in range(start, end + 1):
            assert begun.search((before + text)[:cut]).start() <= start


def test_a_string_is_no_list_of_its_characters() -> None:
    with pytest.raises(ValueError, match="are lists, not a string"):
        ContentFilter("secret")
    with pytest.raises(ValueError, match="are lists, not a string"):
        ContentFilter(["secret"], parts="text")  # type: ignore[arg-type]


def test_a_part_that_there_is_not_would_never_be_filtered() -> None:
    with pytest.raises(ValueError, match=r"'txt' is no part .*; those are arguments, reasoning"):
        ContentFilter(["secret"], parts=["txt"])  # type: ignore[list-item]
