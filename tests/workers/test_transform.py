"""The chain of transformers: what each result means, and that the end always passes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from fakes.transforms import END, batches, cuts, pieces, run, said
from hypothesis import given
from hypothesis import strategies as st

from ringcast.errors import Code
from ringcast.shm.tokens import Error, Reasoning, StreamToken, Text, Usage
from ringcast.workers.think_tag_splitter import ThinkTagSplitter
from ringcast.workers.token_accumulator import TokenAccumulator
from ringcast.workers.transform import (
    PASS,
    SKIP,
    Fail,
    Replace,
    StreamTransformer,
    TransformResult,
    Transforms,
)

FAULT = Error(Code.BAD_REQUEST, "enough")


class ByWord(StreamTransformer):
    """Does with a text what it says, and remembers how many there were."""

    def __init__(self) -> None:
        self.seen = 0

    def transform(self, token: StreamToken, now_ns: int) -> TransformResult:
        """Obey."""
        self.seen += 1
        self.changed = True
        match token:
            case Text("skip"):
                return SKIP
            case Text("twice"):
                return Replace([Text("once"), Text("more")])
            case Text("fail"):
                return Fail(FAULT)
            case Text("raise"):
                raise LookupError("a word that nobody may see")
        return PASS

    def flush(self, now_ns: int) -> list[StreamToken]:
        """Say how many."""
        return [Text(f"seen {self.seen}")]

    def state(self) -> bytes:
        """Return the number."""
        self.changed = False
        return b"%d" % self.seen

    def restore(self, state: bytes) -> None:
        """Go on counting."""
        self.seen = int(state)


class Upper(StreamTransformer):
    """Writes in capitals, and keeps nothing."""

    def transform(self, token: StreamToken, now_ns: int) -> TransformResult:
        """Replace one by one."""
        return Replace([Text(token.content.upper())]) if isinstance(token, Text) else PASS


def texts(*words: str) -> list[StreamToken]:
    return [Text(word) for word in words]


def chain() -> list[StreamTransformer]:
    return [ByWord(), Upper()]


@pytest.mark.parametrize("sizes", [[], [9], [2, 3]])
def test_results_and_what_is_flushed_go_down_the_chain(sizes: list[int]) -> None:
    after = run(chain, [*texts("a", "skip", "twice"), Usage(1)], sizes)
    assert after == [*texts("A", "ONCE", "MORE"), Usage(1), Text("SEEN 4"), END]


@pytest.mark.parametrize("sizes", [[], [9], [2, 3]])
def test_a_failure_ends_the_stream_behind_what_was_said(sizes: list[int]) -> None:
    after = run(chain, texts("a", "fail", "b", "twice"), sizes)
    assert after == [*texts("A", "SEEN 2"), FAULT]


def test_an_error_of_the_provider_passes_as_the_end_does() -> None:
    whole = Transforms(chain())
    assert whole.feed([Text("a"), FAULT], 1) == [*texts("A", "SEEN 1"), FAULT]
    assert whole.finished
    assert whole.feed(texts("b"), 1) == []
    assert whole.idle(1) == []


def test_one_that_raises_ends_its_stream_and_tells_nothing_of_the_text() -> None:
    (error,) = Transforms(chain()).feed(texts("raise"), 1)
    text = "the transformer ByWord failed with LookupError"
    assert error == Error(Code.INTERNAL, text)


@given(st.lists(st.sampled_from(["a", "skip", "twice", "b"]), max_size=20), batches)
def test_a_successor_goes_on_with_the_same_words(words: list[str], sizes: list[int]) -> None:
    assert run(chain, texts(*words), sizes, restart=True) == run(chain, texts(*words))


class Rash(StreamTransformer):
    """Gives what it must not."""

    def transform(self, token: StreamToken, now_ns: int) -> TransformResult:
        """Replace by what the text says."""
        wrong: list[Any] = [END, Text("more")] if token == Text("end") else ["no token"]
        return Replace(wrong)


def test_what_must_not_be_given_ends_the_stream_once() -> None:
    assert run(lambda: [Rash()], texts("end", "a")) == [END]
    (error,) = run(lambda: [Rash()], texts("other", "a"))
    assert error == Error(Code.INTERNAL, "a transformer gave what is no token: str")


def test_a_foreign_state_is_refused() -> None:
    with pytest.raises((ValueError, msgspec.MsgspecError)):
        Transforms([Upper()]).restore(Transforms([ByWord()]).state())
    with pytest.raises(ValueError, match="longer"):
        Transforms([ByWord()]).restore(Transforms(chain()).state())


@given(st.text("<think>/ ab", max_size=60), cuts, batches, st.booleans())
def test_the_built_in_ones_together(
    text: str, sizes: list[int], groups: list[int], restart: bool
) -> None:
    def both() -> list[StreamTransformer]:
        return [ThinkTagSplitter(), TokenAccumulator(5, 8)]

    whole = said(run(both, [Text("<think>" + text)]))
    tokens: list[StreamToken] = [Text(piece) for piece in pieces("<think>" + text, sizes)]
    after = run(both, tokens, groups, restart=restart)
    assert said(after) == whole
    assert after[-1] == END
    assert all(len(t.content) <= 8 for t in after if isinstance(t, Text | Reasoning))
