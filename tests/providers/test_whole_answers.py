"""An answer says the same in one piece of JSON as in a stream, by every API."""

from __future__ import annotations

from typing import Any

import pytest
from fakes.forms import FORMS, Call, Said
from hypothesis import given, settings
from hypothesis import strategies as st

from ringcast.providers.wire.body import Body, Ending, open_body
from ringcast.providers.wire.summary import decode, summarize
from ringcast.shm.tokens import Done, StreamToken

WORDS = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=8)
SEALS = st.just("") | st.binary(min_size=1, max_size=20).map(bytes.hex)
ARGUMENTS = st.dictionaries(
    st.text(max_size=5),
    st.text(max_size=9) | st.integers(-(2**40), 2**40) | st.booleans() | st.none(),
    max_size=3,
)
SAID = st.builds(
    Said,
    text=st.text(max_size=40),
    thoughts=st.text(max_size=30),
    seal=SEALS,
    redacted=SEALS,
    refusal=st.just("") | st.text(max_size=10),
    calls=st.lists(st.builds(Call, WORDS, WORDS, ARGUMENTS), max_size=3, unique_by=lambda c: c.id),
    sources=st.lists(WORDS.map("https://{}.example".format), max_size=2),
    given=st.integers(0, 10**6),
    made=st.integers(0, 10**6),
    cached=st.integers(0, 10**6),
    finish=st.integers(0, 9),
    seed=st.integers(0, 2**32),
)


def meant(tokens: list[StreamToken]) -> dict[str, Any]:
    """All that a client can make of the tokens.

    Of a call without arguments Anthropic's streams say nothing, and its whole answers `{}`.
    """
    done = tokens[-1]
    assert isinstance(done, Done), done
    summary = summarize(tokens)
    calls = [call | {"arguments": call["arguments"] or "{}"} for call in summary["tool_calls"]]
    about = {name: getattr(done, name) for name in done.__struct_fields__}
    return summary | about | {"tool_calls": calls}


@settings(max_examples=50, deadline=None)
@given(SAID)
def test_a_stream_amounts_to_the_whole_answer(said: Said) -> None:
    for name, form in FORMS.items():
        stream = form.stream(said)
        whole = meant(decode(form.api, [form.whole(said)]))
        assert meant(decode(form.api, stream)) == whole, name
        assert meant(decode(form.api, [b"".join(stream)])) == whole, name


@settings(max_examples=30, deadline=None)
@given(SAID)
def test_a_successor_goes_on_from_the_last_checkpoint(said: Said) -> None:
    for name, form in FORMS.items():
        frames, found, body = form.stream(said), [], open_body(form.api)
        state = body.state()
        for frame in frames:
            body = Body.restore(form.api, state)
            found += body.feed(frame)
            if body.dirty:
                state = body.state()
        found += Body.restore(form.api, state).end(Ending())
        assert found == decode(form.api, frames), name


FULL = Said(
    text="Hello",
    thoughts="hm",
    seal="s1",
    redacted="r1",
    refusal="no",
    calls=[Call("a", "f", {"x": 1}), Call("b", "g", {})],
    sources=["https://a.example"],
    given=3,
    made=5,
    cached=2,
)
ALL = {"text", "reasoning", "refusal", "signatures", "tool_calls", "usage", "annotations"}
PLAIN = ALL - {"text", "usage"}
LACKING = {
    "chat": {"signatures"},
    "completions": PLAIN,
    "responses": set[str](),
    "messages": {"refusal"},
    "generate": {"refusal"},
    "converse": {"refusal"},
    "invoke claude": {"refusal"},
    "invoke nova": {"refusal"},
    "invoke titan": PLAIN,
    "invoke llama": PLAIN,
    "invoke mistral": PLAIN | {"usage"},
    "invoke cohere": PLAIN | {"usage"},
    "native": {"refusal", "signatures", "annotations"},
}


@pytest.mark.parametrize("name", FORMS)
def test_the_forms_have_all_that_their_api_has(name: str) -> None:
    """Lest two empty answers be found equal."""
    found = summarize(decode(FORMS[name].api, FORMS[name].stream(FULL)))
    assert {key for key in ALL if not found[key]} == LACKING[name]
    assert found["text"] == "Hello"
    assert found["tool_calls"] == [] or [call["name"] for call in found["tool_calls"]] == ["f", "g"]
