"""The official Anthropic SDK and we: every recorded answer read alike, every request written alike.

The SDK is the newest that speaks the version of the API that we do, with sampling and legacy
completions: 1.0 dropped these, 2.0 speaks another version.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import pytest

from oracles.answers import differing, name, ours, parsed, recordings, unknown
from oracles.anthropic_calls import COMPLETIONS, COUNTS, MESSAGES
from oracles.openai_calls import HELLO
from oracles.writing import KEY, Capture, Case, Json, Ours, title
from oracles.writing import differing as written_otherwise
from ringcast.config import Provider
from ringcast.replay.recording import Recording

anthropic = pytest.importorskip("anthropic")
from oracles.anthropic_sdk import Reader  # noqa: E402 - it imports the SDK

ANSWERS: Final = recordings("messages", "complete")
STREAMS: Final = [r for r in ANSWERS if r.streamed and r.api == "messages"]
DELIBERATE: Final[dict[str, dict[str, str]]] = {
    "anthropic/tool-partial-json-max-tokens": {
        "tool_calls": "the SDK mends arguments that are cut off, ours are as they came"
    },
}


@pytest.fixture(scope="module")
def reader(url: str) -> Reader:
    return Reader(url)


@pytest.mark.parametrize("recording", ANSWERS, ids=name)
def test_read_alike(recording: Recording, reader: Reader) -> None:
    theirs, own = reader.read(recording), ours(recording)
    if not recording.streamed:
        theirs, own = parsed(theirs), parsed(own)
    assert not differing(theirs, own)


@pytest.mark.parametrize("recording", STREAMS, ids=name)
def test_accumulated_alike(recording: Recording, reader: Reader) -> None:
    different = differing(parsed(reader.accumulate(recording)), parsed(ours(recording)))
    assert different == set(DELIBERATE.get(recording.name, ()))


REFUSED: Final = anthropic.BadRequestError
HEADERS: Final = ("x-api-key", "anthropic-version")
MODEL: Final[Json] = {"model": "claude-sonnet-4-5", "max_tokens": 100}


@pytest.fixture(scope="module")
def client(capture: Capture) -> Any:
    return anthropic.Anthropic(base_url=capture.url, api_key=KEY, max_retries=0)


@pytest.fixture(scope="module")
def provider(capture: Capture) -> Ours:
    return Ours(Provider("anthropic", base_url=f"{capture.url}/v1"))


def without_limit(asked: Json) -> Json:
    """What a count is asked, which makes no tokens."""
    return {name: value for name, value in asked.items() if name != "max_tokens"}


@pytest.mark.parametrize("case", MESSAGES, ids=title)
def test_messages_written_alike(case: Case, capture: Capture, client: Any, provider: Ours) -> None:
    theirs = capture.sent(client.messages.create, REFUSED, **MODEL | case.theirs)
    own = provider.generation(**MODEL | {"stream": False} | case.ours)
    assert written_otherwise(theirs, own, *HEADERS) == set(case.differs)


@pytest.mark.parametrize("case", COMPLETIONS, ids=title)
def test_completions_written_alike(
    case: Case, capture: Capture, client: Any, provider: Ours
) -> None:
    asked: Json = {"model": "claude-2.1", "max_tokens_to_sample": 100}
    theirs = capture.sent(client.completions.create, REFUSED, **asked | case.theirs)
    asked = {"model": "claude-2.1", "max_tokens": 100, "api": "complete", "stream": False}
    own = provider.generation(**asked | case.ours)
    assert written_otherwise(theirs, own, *HEADERS) == set(case.differs)


@pytest.mark.parametrize("case", COUNTS, ids=title)
def test_counts_written_alike(case: Case, capture: Capture, client: Any, provider: Ours) -> None:
    theirs = capture.sent(
        client.messages.count_tokens, REFUSED, **without_limit(MODEL | case.theirs)
    )
    own = provider.count(**MODEL | case.ours)
    assert written_otherwise(theirs, own, *HEADERS) == set(case.differs)


@pytest.mark.parametrize("page", ["", "claude-sonnet-4-5"])
def test_models_are_asked_for_alike(
    page: str, capture: Capture, client: Any, provider: Ours
) -> None:
    after = {"after_id": page} if page else {}
    theirs = capture.sent(client.models.list, REFUSED, limit=1000, **after)
    assert not written_otherwise(theirs, provider.models(page), *HEADERS)


def test_short_answers_read_alike(capture: Capture, client: Any, provider: Ours) -> None:
    born = {"type": "model", "created_at": "2025-09-29T00:00:00Z"}
    listed = [born | {"id": f"claude-{n}", "display_name": f"Claude {n}"} for n in (4, 5)]
    body = msgspec.json.encode({"data": listed, "has_more": True, "last_id": "claude-5"})
    theirs, own = capture.told(body, client.models.list), provider.vendor.read_models(body)
    said = [(m.id, m.display_name, m.created_at.timestamp()) for m in theirs.data]
    assert [(m.id, m.name, m.created) for m in own.models] == said
    assert theirs.next_page_info().params == {"after_id": own.next}
    body = b'{"input_tokens":11}'
    counted = capture.told(body, client.messages.count_tokens, model="claude-5", messages=HELLO)
    assert provider.vendor.read_count(body) == counted.input_tokens


@pytest.mark.parametrize("stream", [False, True])
def test_vertex_is_asked_alike(stream: bool, capture: Capture) -> None:
    client = anthropic.AnthropicVertex(
        base_url=f"{capture.url}/v1",
        project_id="proj",
        region="europe-west1",
        access_token=KEY,
        max_retries=0,
    )
    config = Provider("vertex", base_url=capture.url, project="proj", location="europe-west1")
    asked: Json = {"model": "claude-sonnet-4-5@20250929", "max_tokens": 100, "messages": HELLO}
    theirs = capture.sent(client.messages.create, REFUSED, **asked, stream=stream)
    assert not written_otherwise(theirs, Ours(config).generation(**asked, stream=stream))
    theirs = capture.sent(client.messages.count_tokens, REFUSED, **without_limit(asked))
    assert not written_otherwise(theirs, Ours(config).count(**asked))


@pytest.mark.parametrize("stream", [False, True])
def test_bedrock_is_asked_alike(stream: bool, capture: Capture) -> None:
    pytest.importorskip("boto3")
    client = anthropic.AnthropicBedrock(
        base_url=capture.url,
        aws_region="us-east-1",
        aws_access_key="none",
        aws_secret_key="none",
        max_retries=0,
    )
    config = Provider("bedrock", base_url=capture.url, region="us-east-1")
    asked: Json = {"model": "us.anthropic.claude-sonnet-4-6", "max_tokens": 100}
    theirs = capture.sent(client.messages.create, REFUSED, **asked, messages=HELLO, stream=stream)
    own = Ours(config).generation(**asked, messages=HELLO, stream=stream, api="invoke")
    assert not written_otherwise(theirs, own)


def test_what_is_listed_is_there() -> None:
    assert not unknown(DELIBERATE)
