"""The official Google SDK and we: every recorded answer read alike, every request written alike."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec
import pytest

from oracles.answers import differing, name, ours, parsed, recordings, unknown
from oracles.google_calls import GENERATIONS, HI, PROMPTS
from oracles.interaction_calls import INTERACTIONS
from oracles.openai_calls import HELLO
from oracles.writing import KEY, Capture, Case, Json, Ours, Sent, title
from oracles.writing import differing as written_otherwise
from ringcast.config import Provider
from ringcast.replay.recording import Recording

genai = pytest.importorskip("google.genai")
from google.oauth2.credentials import Credentials  # noqa: E402 - comes with the SDK

from oracles.google_sdk import Reader  # noqa: E402 - it imports the SDK

# The enumeration of categories that the SDK knows is newer than a recording's.
pytestmark = pytest.mark.filterwarnings("ignore:HARM_CATEGORY_.* is not a valid HarmCategory")

ANSWERS: Final = recordings("generate")
_STREAMED: Final = {"tool_calls": "the SDK leaves arguments in pieces, ours are put together"}
DELIBERATE: Final[dict[str, dict[str, str]]] = {
    "gemini/err-429-quota": {"error": "we escape line feeds in messages, to be shown in one line"},
    "gemini/streamed-function-args": _STREAMED,
    "vertex/gemini-quotes-escaped": {"error": "the SDK takes any end of a stream for its end"},
    "vertex/gemini-streamed-args-nested": _STREAMED,
}


@pytest.fixture(scope="module")
def reader(url: str) -> Reader:
    return Reader(url)


@pytest.mark.parametrize("recording", ANSWERS, ids=name)
def test_read_alike(recording: Recording, reader: Reader) -> None:
    different = differing(parsed(reader.read(recording)), parsed(ours(recording)))
    assert different == set(DELIBERATE.get(recording.name, ()))


MODEL: Final[Json] = {"model": "gemini-2.5-flash"}


@pytest.fixture(scope="module")
def client(capture: Capture) -> Any:
    where = {"base_url": capture.url, "api_version": "v1beta"}  # has what the SDK's own lacks
    return genai.Client(api_key=KEY, http_options=where)


@pytest.fixture(scope="module")
def provider(capture: Capture) -> Ours:
    return Ours(Provider("gemini", base_url=f"{capture.url}/v1beta"))


def sent(capture: Capture, ask: Any, **asked: Any) -> Sent:
    """What the SDK sends, before it hears that it is refused.

    Inner names that it leaves as it is given them are spelled in the other way of Google's, and
    a configuration of nothing is none.
    """
    seen = capture.sent(lambda: list(ask(**asked)), genai.errors.ClientError)
    body = camel(seen.body) if seen.body else None
    if body and body.get("generationConfig") == {}:
        del body["generationConfig"]
    return msgspec.structs.replace(seen, body=body)


def camel(value: Any) -> Any:
    if isinstance(value, list):
        return [camel(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    spelled = {re.sub("_([a-z])", lambda m: m[1].upper(), name): name for name in value}
    return {name: camel(value[given]) for name, given in spelled.items()}


@pytest.mark.parametrize("case", GENERATIONS, ids=title)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_generations_written_alike(
    case: Case, stream: bool, capture: Capture, client: Any, provider: Ours
) -> None:
    ask = client.models.generate_content_stream if stream else client.models.generate_content
    theirs = sent(capture, ask, **MODEL | case.theirs)
    own = provider.generation(**MODEL | {"stream": stream} | case.ours)
    assert written_otherwise(theirs, own, "x-goog-api-key") == set(case.differs)


@pytest.mark.parametrize("case", INTERACTIONS, ids=title)
def test_interactions_written_alike(
    case: Case, capture: Capture, client: Any, provider: Ours
) -> None:
    theirs = capture.sent(client.interactions.create, Exception, **MODEL | case.theirs)
    own = provider.generation(**MODEL | {"api": "interactions", "stream": False} | case.ours)
    assert written_otherwise(theirs, own, "x-goog-api-key") == set(case.differs)


@pytest.mark.parametrize("case", PROMPTS, ids=title)
def test_counts_written_alike(case: Case, capture: Capture, client: Any, provider: Ours) -> None:
    theirs = sent(capture, client.models.count_tokens, **MODEL | case.theirs)
    own = provider.count(**MODEL | case.ours)
    counted = own.body["generateContentRequest"]  # which counts instructions and tools as well
    assert counted.pop("model") == f"models/{MODEL['model']}"
    assert not written_otherwise(
        theirs, msgspec.structs.replace(own, body=counted), "x-goog-api-key"
    )


@pytest.mark.parametrize("page", ["", "next/page=="])
def test_models_are_asked_for_alike(
    page: str, capture: Capture, client: Any, provider: Ours
) -> None:
    asked = {"page_size": 1000} | ({"page_token": page} if page else {})
    theirs = sent(capture, client.models.list, config=asked)
    assert not written_otherwise(theirs, provider.models(page), "x-goog-api-key")


def test_short_answers_read_alike(capture: Capture, client: Any, provider: Ours) -> None:
    sizes = {"inputTokenLimit": 1_048_576, "outputTokenLimit": 65_536}
    listed = [{"name": f"models/gemini-{n}", "displayName": f"Gemini {n}"} | sizes for n in (2, 3)]
    body = msgspec.json.encode({"models": listed, "nextPageToken": "next"})
    theirs, own = capture.told(body, client.models.list), provider.vendor.read_models(body)
    assert [(f"models/{m.id}", m.name, m.context_tokens, m.output_tokens) for m in own.models] == [
        (m.name, m.display_name, m.input_token_limit, m.output_token_limit) for m in theirs.page
    ]
    assert theirs.config["page_token"] == own.next
    body = b'{"totalTokens":11}'
    counted = capture.told(body, client.models.count_tokens, **MODEL, contents=[HI])
    assert provider.vendor.read_count(body) == counted.total_tokens


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_vertex_is_asked_alike(stream: bool, capture: Capture) -> None:
    client = genai.Client(
        vertexai=True,
        project="proj",
        location="europe-west1",
        credentials=Credentials(token=KEY),
        http_options={"base_url": capture.url, "api_version": "v1"},
    )
    config = Provider("vertex", base_url=capture.url, project="proj", location="europe-west1")
    ask = client.models.generate_content_stream if stream else client.models.generate_content
    theirs = sent(capture, ask, **MODEL, contents=[HI])
    own = Ours(config).generation(**MODEL, messages=HELLO, stream=stream)
    assert not written_otherwise(theirs, own)
    theirs = sent(capture, client.models.count_tokens, **MODEL, contents=[HI])
    assert not written_otherwise(theirs, Ours(config).count(**MODEL, messages=HELLO))


def test_what_is_listed_is_there() -> None:
    assert not unknown(DELIBERATE)
