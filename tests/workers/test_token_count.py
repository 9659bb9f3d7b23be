"""`count_tokens`: what is called exact is, what is not is called so, and nothing takes long."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fakes.ranks import ALPHABET, install, needs_ranks
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ringcast
from ringcast.errors import RequestError
from ringcast.providers import request as requests
from ringcast.providers.estimate import estimate
from ringcast.providers.request import ChatRequest
from ringcast.workers import ranks, token_count
from ringcast.workers.token_count import TokenCount, count_request, count_tokens

CORPUS = Path(os.environ.get("RINGCAST_CORPUS") or Path(__file__).parents[3] / "shared/corpus")
MODELS = {"o200k_base": "gpt-4o", "cl100k_base": "gpt-4"}
HI = [{"role": "user", "content": "hello ring"}]

recorded = pytest.mark.skipif(not CORPUS.is_dir(), reason="no recordings ($RINGCAST_CORPUS)")
per_example = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def small(tmp_path: Path) -> Iterator[None]:
    """Small rank files instead of OpenAI's."""
    with pytest.MonkeyPatch.context() as patch:
        install(patch, tmp_path)
        yield


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[None]:
    """No rank files."""
    with pytest.MonkeyPatch.context() as patch:
        install(patch, tmp_path)
        for path in tmp_path.iterdir():
            path.unlink()
        yield


def whole(model: str, text: str) -> int:
    """The tokens of a text that is encoded in one piece."""
    encoding = ranks.encoding(token_count.encoding_of(model) or "")
    assert encoding is not None
    return len(encoding.encode_ordinary(text))


@pytest.mark.parametrize(
    ("model", "encoding"),
    [
        ("openai/gpt-4o-mini", "o200k_base"),
        ("openrouter/openai/gpt-5.1:online", "o200k_base"),
        ("ft:gpt-4o-2024-08-06:me::1", "o200k_base"),
        ("gpt-35-turbo-16k", "cl100k_base"),
        ("gpt-4-turbo", "cl100k_base"),
        ("gpt-4.1-nano", "o200k_base"),
        ("groq/openai/gpt-oss-120b", "o200k_base"),
        ("o3", "o200k_base"),
        ("o31", None),
        ("claude-sonnet-4-5", None),
        ("", None),
    ],
)
def test_encoding_of_a_model(model: str, encoding: str | None) -> None:
    assert token_count.encoding_of(model) == encoding


def test_models_are_tiktokens() -> None:
    """Of those whose encoding is here; gpt-oss's differs in special tokens only."""
    theirs: Any = importlib.import_module("tiktoken.model")
    tables = (theirs.MODEL_TO_ENCODING, theirs.MODEL_PREFIX_TO_ENCODING)
    known = [(m, e) for table in tables for m, e in table.items() if e in ranks.RECIPES]
    assert len(known) > 20
    for model, encoding in known:
        assert token_count.encoding_of(model.rstrip("-")) == ranks.RECIPES[encoding].file


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("encoding", MODELS)
@given(text=st.text(st.sampled_from(ALPHABET + "xyZ0’-–\r\u00a0\u0301。，😀_²①A"), max_size=120))
@settings(per_example, max_examples=300)
def test_slices_make_the_same_tokens(encoding: str, text: str) -> None:
    """Cut after a few characters instead of thousands: `exact` means what the whole gives."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_count, "SLICE", 3)
        patch.setattr(token_count, "SEARCH", 9)
        found = count_tokens(MODELS[encoding], text)
    if found.accuracy == "exact":
        assert found.tokens == whole(MODELS[encoding], text)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "text",
    [
        "the ring of the buffer, and so on. " * 2000,
        json.dumps(list(range(9000))),
        '{"a":1.5,"bc":[true,false]},\n' * 2000,
        "环环，环环。" * 8000,
        "def ring(a, b):\n\n    return a[1:]\n" * 2000,
    ],
    ids=["prose", "numbers", "json", "chinese", "code"],
)
def test_usual_texts_are_counted_exactly(text: str) -> None:
    for model in MODELS.values():
        assert count_tokens(model, text) == TokenCount(whole(model, text), "exact")


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("unit", ["a", " ", "\t", "😀", "!"])
def test_a_megabyte_without_a_place_to_cut(unit: str) -> None:
    """White space of this length overflows the stack of tiktoken 0.14: not an Exception even."""
    text = unit * (1 << 20)
    found = count_tokens("gpt-4o", text)
    assert found.accuracy == "estimate"
    assert 0 < found.tokens <= len(text.encode())


@pytest.mark.usefixtures("small")
def test_beyond_the_most_it_is_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_count, "MAX_CHARACTERS", 100)
    text = "hello ring " * 9 + "x"
    assert count_tokens("gpt-4o", text).accuracy == "exact"
    assert count_tokens("gpt-4o", text + "x" * 40) == TokenCount(
        whole("gpt-4o", text) + 10, "estimate"
    )


@pytest.mark.usefixtures("small")
def test_special_tokens_in_text_are_text() -> None:
    found = count_tokens("gpt-4o", "<|endoftext|>")
    assert found == TokenCount(whole("gpt-4o", "<|endoftext|>"), "exact")
    assert found.tokens > 5


@pytest.mark.parametrize("ranks_there", ["small", "bare"])
def test_half_a_surrogate_pair_is_counted(ranks_there: str, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(ranks_there)
    assert count_tokens("gpt-4o", "a\ud800b").tokens > 0


@pytest.mark.usefixtures("small")
def test_a_documented_chat() -> None:
    """Three a message and its parts, one for a name's border, three before the answer."""
    words = whole("gpt-4o", "user") + whole("gpt-4o", "hello ring")
    assert count_tokens("gpt-4o", HI) == TokenCount(3 + words + 3, "exact")
    named = [HI[0] | {"name": "ring"}]
    assert count_tokens("gpt-4o", named).tokens == 3 + words + 1 + whole("gpt-4o", "ring") + 3


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("model", "more"),
    [
        ("gpt-5", {}),
        ("o3-mini", {}),
        ("gpt-4.1", {}),
        ("anthropic/claude-sonnet-4-5", {}),
        ("gpt-4o", {"tools": [{"type": "function", "function": {"name": "f"}}]}),
        ("gpt-4o", {"response_format": {"type": "json_object"}}),
        ("gpt-4o", {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}),
    ],
)
def test_all_else_is_an_estimate(model: str, more: dict[str, Any]) -> None:
    found = count_request(requests.of(**{"model": model, "messages": HI} | more))
    assert found.accuracy == "estimate"
    assert found.tokens > 4


@pytest.mark.usefixtures("small")
def test_another_encoding_does_not_make_an_exact_count(tmp_path: Path) -> None:
    (tmp_path / ranks.FILES["cl100k_base"].name).unlink()
    assert count_tokens("gpt-4", "hello") == TokenCount(whole("gpt-4o", "hello"), "estimate")


content = st.text(max_size=30) | st.lists(
    st.fixed_dictionaries({"type": st.just("text"), "text": st.text(max_size=9)})
    | st.fixed_dictionaries(
        {
            "type": st.just("image_url"),
            "image_url": st.fixed_dictionaries(
                {"url": st.sampled_from(["https://x/y.png", "data:image/png;base64," + "A" * 99])}
            ),
        }
    )
)
messages = st.lists(
    st.fixed_dictionaries({"role": st.just("user"), "content": content}), min_size=1, max_size=4
)


@pytest.mark.usefixtures("bare")
@given(said=messages, tools=st.none() | st.just([{"type": "function"}]))
@per_example
def test_without_ranks_it_is_the_daemons_estimate(
    said: list[dict[str, Any]], tools: list[dict[str, Any]] | None
) -> None:
    asked = requests.of(model="m", messages=said, tools=tools)
    assert count_tokens("m", said, tools=tools) == TokenCount(estimate(asked), "estimate")


@pytest.mark.usefixtures("bare")
def test_a_text_without_ranks() -> None:
    assert count_tokens("gpt-4o", "x" * 40) == TokenCount(10, "estimate")
    assert ringcast.count_tokens("gpt-4o", "") == TokenCount(0, "estimate")


@pytest.mark.parametrize("said", [[], [{"content": "a"}], [{"role": 1}]])
def test_what_is_no_request_is_refused(said: Any) -> None:
    with pytest.raises(RequestError, match=r"bad_request"):
        count_tokens("gpt-4o", said)


@pytest.mark.usefixtures("small")
def test_depth_does_not_matter() -> None:
    deep: Any = "ring"
    for _ in range(100_000):
        deep = [deep]
    assert count_request(ChatRequest(model="m", messages=[{"role": "user", "x": deep}])).tokens == 5


def recording(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What was asked, and what came of it."""
    asked = msgspec.json.decode((CORPUS / "requests" / f"{name}.json").read_bytes())
    answer = msgspec.json.decode((CORPUS / "expected" / f"{name}.json").read_bytes())
    return asked["request_body"], answer


@recorded
@needs_ranks
@pytest.mark.parametrize("name", ["chat-text-usage", "chat-n2-text"])
def test_an_exact_count_is_what_openai_bills(name: str) -> None:
    asked, answer = recording(f"openai/{name}")
    billed = answer["usage"]["input_tokens"]
    assert count_tokens(asked["model"], asked["messages"]) == TokenCount(billed, "exact")


# Answers of one text and nothing that is billed with it unseen.
TEXTS = (
    *("azure/ai-inference-grok-text", "azure/json-chat", "bedrock/converse-nova-text"),
    *("bedrock/invoke-llama2", "bedrock/invoke-titan", "gemini/citations", "groq/chat-text"),
    *("groq/json-chat", "anthropic/max-tokens-cache-read", "anthropic/max-tokens-cache-write"),
)


def off(name: str) -> float:
    """By which part of what was billed an estimate is wrong."""
    answer = msgspec.json.decode((CORPUS / "expected" / f"{name}.json").read_bytes())
    billed: int = answer["usage"]["output_tokens"]
    return abs(count_tokens("m", answer["text"]).tokens / billed - 1)


@recorded
@needs_ranks
@pytest.mark.parametrize("name", TEXTS)
def test_estimates_with_ranks_are_within_a_sixth(name: str) -> None:
    assert off(name) < 1 / 6


@recorded
@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("name", TEXTS)
def test_estimates_without_ranks_are_within_a_third(name: str) -> None:
    assert off(name) < 1 / 3
