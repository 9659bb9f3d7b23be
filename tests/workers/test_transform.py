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
from ringcast.workers.transform import PASS, SKIP, Replace, StreamTransformer, TransformResult
from ringcast.workers.transforms import Transforms

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
                return FAULT
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
    said, error = Transforms(chain()).feed(texts("a", "raise", "b"), 1)
    assert said == Text("A")
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
    assert run(lambda: [Rash(), ByWord()], texts("end", "a")) == [Text("seen 0"), END]
    (error,) = run(lambda: [Rash()], texts("other", "a"))
    text = "the transformer Rash gave what is no list of tokens"
    assert error == Error(Code.INTERNAL, text)


def test_a_foreign_state_is_refused() -> None:
    with pytest.raises(ValueError, match="2 states are not of 1"):
        Transforms([ByWord()]).restore(Transforms(chain()).state())
    with pytest.raises(msgspec.MsgspecError):
        Transforms([ByWord()]).restore(b"rubbish")


class Careless(StreamTransformer):
    """Holds back every text, and does one thing as another author may, by mistake."""

    def __init__(self, **wrong: Any) -> None:
        self.held: list[StreamToken] = []
        self.wrong = wrong

    def _or(self, name: str, right: Any) -> Any:
        wrong = self.wrong.get(name, right)
        if isinstance(wrong, Exception):
            raise wrong
        return wrong

    def transform(self, token: StreamToken, now_ns: int) -> TransformResult:
        if token == Text("b"):
            return self._or("transform", PASS)  # type: ignore[no-any-return]
        self.held.append(token)
        return SKIP

    def flush(self, now_ns: int) -> list[StreamToken]:
        held, self.held = self.held, []
        return self._or("flush", held)  # type: ignore[no-any-return]

    def idle(self, now_ns: int) -> list[StreamToken]:
        return self._or("idle", self.flush(now_ns))  # type: ignore[no-any-return]

    @property
    def due_ns(self) -> int | None:
        return self._or("due_ns", 5)  # type: ignore[no-any-return]

    @property
    def changed(self) -> bool:  # type: ignore[override]
        return self._or("changed", True)  # type: ignore[no-any-return]

    @property
    def removed(self) -> int:  # type: ignore[override]
        return self._or("removed", 0)  # type: ignore[no-any-return]

    def state(self) -> bytes:
        return self._or("state", b"held")  # type: ignore[no-any-return]

    def restore(self, state: bytes) -> None:
        self._or("restore", None)


RAISED = LookupError("a word that nobody may see")


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (RAISED, "failed with LookupError"),
        (None, "gave a NoneType, not Pass, Skip, Replace or Error"),
        (SKIP.__class__, "gave a StructMeta, not Pass, Skip, Replace or Error"),
        (Text("b"), "gave a Text, not Pass, Skip, Replace or Error"),
        (Replace([Text(5)]), "gave what is no list of tokens"),  # type: ignore[arg-type]
        (Replace([object()]), "gave what is no list of tokens"),  # type: ignore[list-item]
        (Replace(None), "gave what is no list of tokens"),  # type: ignore[arg-type]
        (Replace("ab"), "gave what is no list of tokens"),  # type: ignore[arg-type]
        (Error("c", None), "gave what is no list of tokens"),  # type: ignore[arg-type]
    ],
)
@pytest.mark.parametrize("sizes", [[], [9]])
def test_a_wrong_result_ends_the_stream_behind_what_was_said(
    wrong: Any, what: str, sizes: list[int]
) -> None:
    def both() -> list[StreamTransformer]:
        return [ByWord(), Careless(transform=wrong, flush=[]), ByWord()]

    end = Error(Code.INTERNAL, f"the transformer Careless {what}")
    assert run(both, texts("twice", "b", "c"), sizes) == [Text("seen 0"), end]


WRONG = [
    *((method, wrong) for method in ("flush", "idle", "due_ns", "state") for wrong in ("no", 1j)),
    *((method, RAISED) for method in ("flush", "idle", "due_ns", "state", "changed", "restore")),
]


@pytest.mark.parametrize(("method", "wrong"), WRONG)
def test_whatever_else_goes_wrong_ends_only_the_stream(method: str, wrong: Any) -> None:
    first, second = (Transforms([Careless(**{method: wrong}), ByWord()]) for _ in range(2))
    assert first.feed(texts("a"), 1) == []
    assert first.changed or method == "changed"
    second.restore(first.state())
    broken = second if method == "restore" else first
    due_ns = broken.due_ns
    assert due_ns is not None
    *before, end = broken.feed([END], 4) if method == "flush" else broken.idle(due_ns)
    assert before == [Text("seen 0")]
    assert isinstance(end, Error)
    assert end.message.startswith("the transformer Careless ")
    assert broken.finished
    assert (broken.due_ns, broken.idle(9), broken.feed([END], 9)) == (None, [], [])


@pytest.mark.parametrize("wrong", [RAISED, None, "many"])
def test_a_count_that_is_none_counts_nothing(wrong: Any) -> None:
    assert Transforms([Careless(removed=wrong)]).removed == 0


def test_half_a_character_does_not_end_a_stream() -> None:
    class Halving(StreamTransformer):
        def transform(self, token: StreamToken, now_ns: int) -> TransformResult:
            return Replace([Text("a\ud83d")])

    assert run(lambda: [Halving()], texts("b")) == [Text("a\ufffd"), END]


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
