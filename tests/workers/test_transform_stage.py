"""Transformers within a worker: nothing lost or said twice with whoever goes on, nothing late."""

from __future__ import annotations

from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import msgspec
import pytest
from fakes.pipeline import Pipeline, plain
from fakes.transforms import said, visible
from hypothesis import given, settings
from hypothesis import strategies as st

from ringcast.errors import Code, RequestError
from ringcast.providers import transform_spec
from ringcast.providers.request import Json
from ringcast.shm.tokens import Done, Error, StreamToken, Text, ToolCall
from ringcast.workers.transform import PASS, SKIP, StreamTransformer, TransformResult

WORDS = ["<thi", "nk>thought", "</think>", "a ", "se", "cret", " is", " a secret", " sec", "ond"]
SPLIT_AND_JOIN: list[Json] = [{"name": "think_tags"}, {"name": "accumulate", "min": 6, "max": 9}]
FILTER: list[Json] = [{"name": "content_filter", "patterns": ["secret"], "replacement": "#"}]
WINDOW = 1 << 16


def event(text: str, reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": reason}
    return b"data: " + msgspec.json.encode({"choices": [choice]}) + b"\n\n"


BODY = [*map(event, WORDS), event("", "stop"), b"data: [DONE]\n\n"]


PREVIEW: list[Json] = [{"name": "json_preview"}]
ARGUMENTS = ['{"pa', 'th": "a', '.py", ', '"lines": [1', '2, 3], "text"', ': "é', '"}']
CALLED = [
    *(
        b"data: "
        + msgspec.json.encode(
            {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": f}]}}]}
        )
        + b"\n\n"
        for f in ({"name": "write", "arguments": piece} for piece in ARGUMENTS)
    ),
    event("", "tool_calls"),
    b"data: [DONE]\n\n",
]


def begun(transforms: list[Json], chunks: list[bytes] = BODY) -> tuple[Pipeline, Any]:
    """A pipeline with one stream and one reader."""
    pipeline = Pipeline()
    inbox = pipeline.connect(b"client")
    payload = transform_spec.encoded(transforms)
    stream = pipeline.open(1, "chat", chunks, WINDOW, payload)
    pipeline.attach(inbox, 1, stream, -1, WINDOW)
    return pipeline, inbox


def read_one(pipeline: Pipeline) -> None:
    pipeline.read(1)
    pipeline.publish()


@pytest.mark.parametrize("moment", ["idle", "publish", "release"])
@pytest.mark.parametrize("transforms", [SPLIT_AND_JOIN, FILTER], ids=["join", "filter"])
def test_a_worker_may_die_at_every_record(transforms: list[Json], moment: str) -> None:
    if transforms is FILTER:
        pytest.importorskip("re2", reason="needs google-re2: pip install 'ringcast[filter]'")
    whole, its = begun(transforms)
    whole.run()
    expected = its.tokens[1]
    assert isinstance(expected[-1], Done)
    joined = {("reasoning", 0, 0): "thought", ("text", 0, 0): "a secret is a secret second"}
    filtered = {("text", 0, 0): "<think>thought</think>a # is a # second"}
    assert said(expected) == (filtered if transforms is FILTER else joined)
    for at in range(len(BODY) + 1):
        pipeline, inbox = begun(transforms)
        for number in range(len(BODY)):
            read_one(pipeline)
            if number == at:
                pipeline.kill_worker(moment)
            pipeline.work()
        pipeline.run()
        assert said(inbox.tokens[1]) == said(expected)
        assert plain(inbox.tokens[1][-1:]) == plain(expected[-1:])


@pytest.mark.parametrize("moment", ["idle", "publish", "release"])
def test_a_preview_goes_on_with_a_successor(moment: str) -> None:
    pytest.importorskip("jiter", reason="needs jiter: pip install 'ringcast[preview]'")
    whole, its = begun(PREVIEW, CALLED)
    for _ in CALLED:
        read_one(whole)
        whole.work()
    whole.run()
    *calls, end = its.tokens[1]
    assert isinstance(end, Done)
    assert isinstance(calls[-1], ToolCall)
    assert calls[-1].preview == {"path": "a.py", "lines": [12, 3], "text": "é"}
    for at in range(len(CALLED) + 1):
        pipeline, inbox = begun(PREVIEW, CALLED)
        for number in range(len(CALLED)):
            read_one(pipeline)
            if number == at:
                pipeline.kill_worker(moment)
            pipeline.work()
        pipeline.run()
        assert plain(inbox.tokens[1]) == plain(its.tokens[1])


@settings(max_examples=60)
@given(st.lists(st.sampled_from(["read", "work", "fan_out", "kill"]), max_size=60))
def test_deaths_at_any_time(moves: list[str]) -> None:
    pipeline, inbox = begun(SPLIT_AND_JOIN)
    for move in moves:
        if move == "read":
            read_one(pipeline)
        elif move == "work":
            pipeline.work()
        elif move == "fan_out":
            pipeline.fan_out()
        else:
            pipeline.kill_worker()
    pipeline.run()
    assert visible(inbox.tokens[1]) == "a secret is a secret second"
    assert [isinstance(t, Done) for t in inbox.tokens[1]].count(True) == 1


@pytest.mark.parametrize("kill", [False, True])
def test_what_waits_for_more_is_said_in_time(kill: bool) -> None:
    pipeline, inbox = begun([{"name": "accumulate", "min": 50, "idle_ms": 50}], [event("slow")])
    read_one(pipeline)
    assert pipeline.stage.step(1_000)
    assert not pipeline.stage.step(49_000_000)
    if kill:
        pipeline.kill_worker()
    pipeline.stage.step(50_001_000)
    while pipeline.fan_out():
        pass
    pipeline.deliver(inbox)
    assert inbox.tokens[1] == [Text("slow")]


def test_what_is_removed_is_counted_and_only_counted() -> None:
    pytest.importorskip("re2", reason="needs google-re2: pip install 'ringcast[filter]'")
    pipeline, _ = begun(FILTER)
    pipeline.run()
    assert pipeline.counters.get(pipeline.counters.slot("removed")) == 2


class Picky(StreamTransformer):
    """What another package may have: drops one word, and ends the stream at another."""

    def __init__(self, last: str) -> None:
        self._last = last

    def transform(self, token: StreamToken, now_ns: int) -> TransformResult:
        """Look at texts."""
        if token == Text(self._last):
            return Error(Code.PROVIDER_ERROR, "no more")
        return SKIP if token == Text("a ") else PASS


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry points of a package that is not installed."""
    group = transform_spec.GROUP
    points = [EntryPoint("picky", "its:Picky", group), EntryPoint("odd", "builtins:dict", group)]
    monkeypatch.setattr("importlib.metadata.entry_points", EntryPoints(points).select)
    load = EntryPoint.load
    monkeypatch.setattr(
        EntryPoint, "load", lambda self: Picky if self.name == "picky" else load(self)
    )


def ended(transforms: list[Json]) -> list[StreamToken]:
    """What a stream says whose transformers are entry points."""
    pipeline = Pipeline()
    inbox = pipeline.connect(b"client")
    payload = transform_spec.encoded(transforms, ["picky", "odd"])
    stream = pipeline.open(1, "chat", BODY, WINDOW, payload)
    pipeline.attach(inbox, 1, stream, -1, WINDOW)
    pipeline.run()
    assert not pipeline.stage.busy
    return plain(inbox.tokens[1])


@pytest.mark.usefixtures("installed")
def test_one_of_another_author() -> None:
    after = ended([{"name": "picky", "last": " is"}])
    assert after[-1] == Error(Code.PROVIDER_ERROR, "no more")
    assert visible(after) == "<think>thought</think>secret"


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("transform", "why"),
    [
        ({"name": "picky"}, "missing 1 required positional argument"),
        ({"name": "odd"}, "gave a dict, not a StreamTransformer"),
    ],
)
def test_one_that_cannot_be_had_ends_its_stream(transform: Json, why: str) -> None:
    (error,) = ended([transform])
    assert isinstance(error, Error)
    assert error.code == Code.INTERNAL
    assert why in error.message


@pytest.mark.usefixtures("installed")
def test_names_that_the_configuration_does_not_list() -> None:
    with pytest.raises(RequestError, match=r"transforms\[0\].name: 'picky' is unknown"):
        transform_spec.encoded([{"name": "picky"}], ["odd"])
    with pytest.raises(RequestError, match="no installed package"):
        transform_spec.encoded([{"name": "gone"}], ["gone"])
