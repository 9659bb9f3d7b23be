"""What a request says of transformers, checked field by field before anything is sent."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from ringcast.errors import Code, RequestError
from ringcast.providers.provider import Provider
from ringcast.providers.transform_spec import MAX_BYTES, Accumulate, ThinkTags, decoded, encoded


def refused(*transforms: dict[str, Any]) -> str:
    with pytest.raises(RequestError) as caught:
        encoded(transforms)
    assert caught.value.code == Code.BAD_REQUEST
    assert str(caught.value.detail["field"]) in caught.value.message
    return caught.value.message


def test_what_is_said_is_what_is_done() -> None:
    said: list[dict[str, Any]] = [
        {"name": "think_tags", "anywhere": True},
        {"name": "accumulate", "min": 3, "idle_ms": 7},
    ]
    assert decoded(encoded(said)) == [ThinkTags(True), Accumulate(3, idle_ms=7.0)]
    assert encoded([]) == b""
    assert decoded(b"") == []


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        ({}, "transforms[1].name: must be a string"),
        ({"name": 1}, "transforms[1].name: must be a string"),
        ({"name": "think"}, "there are content_filter, accumulate, think_tags, json_preview"),
        ({"name": "json_preview", "deep": True}, "unknown field `deep`"),
        ({"name": "think_tags", "deep": True}, "unknown field `deep`"),
        ({"name": "accumulate", "min": "1"}, "Expected `int`, got `str` - at `$.min`"),
        ({"name": "accumulate", "min": 0}, "transforms[1].min: 0 is not in 1..4096"),
        ({"name": "accumulate", "max": 5}, "transforms[1].max: 5 is not in 20..4096"),
        ({"name": "accumulate", "idle_ms": float("nan")}, "transforms[1].idle_ms: nan is not"),
        ({"name": "content_filter"}, "required field `patterns`"),
        ({"name": "content_filter", "patterns": "a"}, "Expected `array`, got `str`"),
        ({"name": "content_filter", "patterns": [], "in": ["title"]}, "Invalid enum value"),
        ({"name": "content_filter", "patterns": ["a"], "longest": 0}, "transforms[1].longest: 0"),
    ],
)
def test_what_is_wrong_is_named(transform: dict[str, Any], message: str) -> None:
    assert message in refused({"name": "think_tags"}, transform)


def test_too_many_and_too_much() -> None:
    assert "17 are more than 16" in refused(*[{"name": "think_tags"}] * 17)
    long = {"name": "content_filter", "patterns": ["a"], "replacement": "x" * MAX_BYTES}
    assert "are more than 8192" in refused(long)


def test_a_pattern_is_named_with_its_position() -> None:
    pytest.importorskip("re2", reason="needs google-re2: pip install 'ringcast[filter]'")
    bad = {"name": "content_filter", "patterns": ["fine", "ab[z-a]"]}
    message = "transforms[0].patterns[1]: at character 3: invalid character class range: z-a"
    assert refused(bad) == message
    none = {"name": "content_filter", "patterns": []}
    assert "there must be at least one pattern" in refused(none)


def test_without_re2_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "re2", None)
    message = refused({"name": "content_filter", "patterns": ["of no other test"]})
    assert "pip install 'ringcast[filter]'" in message


def test_nothing_is_shown_before_it_is_filtered() -> None:
    pytest.importorskip("re2", reason="needs google-re2: pip install 'ringcast[filter]'")
    preview = {"name": "json_preview"}
    every = {"name": "content_filter", "patterns": ["a"], "in": ["text", "arguments"]}
    assert "transforms[1]: json_preview would show arguments" in refused(preview, every)
    assert encoded([every, preview])
    assert encoded([preview, {"name": "content_filter", "patterns": ["a"]}])


def test_without_jiter_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jiter", None)
    assert "pip install 'ringcast[preview]'" in refused({"name": "json_preview"})


def test_without_a_daemon_they_are_refused_and_not_forgotten() -> None:
    asked = {
        "messages": [{"role": "user", "content": "hi"}],
        "transforms": [{"name": "think_tags"}],
    }
    with pytest.raises(RequestError, match="StreamPipelineBuilder"):
        Provider("ollama").chat_stream("m", **asked)
