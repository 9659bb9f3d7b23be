"""The official AWS SDK and we: every recorded answer read alike, every request written alike."""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec
import pytest

from oracles.answers import differing, name, ours, parsed, recordings, unknown
from oracles.aws_calls import CONVERSATIONS, PROMPTS
from oracles.openai_calls import HELLO
from oracles.writing import Capture, Case, Json, Ours, title
from oracles.writing import differing as written_otherwise
from ringcast.config import Provider
from ringcast.replay.recording import Recording

boto3 = pytest.importorskip("boto3")
from botocore.exceptions import ClientError  # noqa: E402 - comes with the SDK

from oracles.aws_sdk import Reader, client  # noqa: E402 - it imports the SDK

ANSWERS: Final = recordings("converse", "invoke")
DELIBERATE: Final[dict[str, dict[str, str]]] = {
    "bedrock/converse-throttled": {
        "error": "within a stream the SDK tells no status; we tell that of the exception's name"
    },
}
# It has a colon, and so must be quoted in a path.
MODEL: Final[Json] = {"model": "us.anthropic.claude-sonnet-4-5-20250929-v1:0"}


@pytest.fixture(scope="module")
def reader(url: str) -> Reader:
    return Reader(url)


@pytest.fixture(scope="module")
def runtime(capture: Capture) -> Any:
    return client("bedrock-runtime", capture.url)


@pytest.fixture(scope="module")
def provider(capture: Capture) -> Ours:
    return Ours(Provider("bedrock", base_url=capture.url, region="us-east-1"))


@pytest.mark.parametrize("recording", ANSWERS, ids=name)
def test_read_alike(recording: Recording, reader: Reader) -> None:
    theirs, own = reader.read(recording), ours(recording)
    if not recording.streamed:
        theirs, own = parsed(theirs), parsed(own)
    assert differing(theirs, own) == set(DELIBERATE.get(recording.name, ()))


def named(asked: Json) -> Json:
    """What is asked, with the SDK's name of the model."""
    return {"modelId" if name == "model" else name: value for name, value in asked.items()}


@pytest.mark.parametrize("case", CONVERSATIONS, ids=title)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_conversations_written_alike(
    case: Case, stream: bool, capture: Capture, runtime: Any, provider: Ours
) -> None:
    ask = runtime.converse_stream if stream else runtime.converse
    theirs = capture.sent(ask, ClientError, **named(MODEL | case.theirs))
    own = provider.generation(**MODEL | {"stream": stream} | case.ours)
    assert written_otherwise(theirs, own) == set(case.differs)


@pytest.mark.parametrize("case", PROMPTS, ids=title)
def test_counts_written_alike(case: Case, capture: Capture, runtime: Any, provider: Ours) -> None:
    asked = MODEL | case.theirs
    model = asked.pop("model").removeprefix("us.")  # a profile's tokens are not counted
    theirs = capture.sent(
        runtime.count_tokens, ClientError, modelId=model, input={"converse": asked}
    )
    own = provider.count(**MODEL | case.ours)
    assert written_otherwise(theirs, own) == set(case.differs)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_invocations_written_alike(
    stream: bool, capture: Capture, runtime: Any, provider: Ours
) -> None:
    guard = {"guardrailIdentifier": "g1", "guardrailVersion": "1", "trace": "ENABLED"}
    own = provider.generation(**MODEL, messages=HELLO, stream=stream, api="invoke", extra=guard)
    ask = runtime.invoke_model_with_response_stream if stream else runtime.invoke_model
    theirs = capture.sent(
        ask,
        ClientError,
        **named(MODEL),
        body=json.dumps(own.body),
        contentType="application/json",
        **guard,
    )
    headers = [name for name in own.headers if name.startswith("x-amzn-bedrock")]
    assert len(headers) == len(guard)
    assert not written_otherwise(theirs, own, *headers)


def test_models_are_asked_for_alike(capture: Capture, provider: Ours) -> None:
    control = client("bedrock", capture.url)
    theirs = capture.sent(control.list_foundation_models, ClientError)
    assert not written_otherwise(theirs, provider.models())
    theirs = capture.sent(
        control.list_inference_profiles, ClientError, maxResults=1000, nextToken="a/b=="
    )
    page = "/inference-profiles?maxResults=1000&nextToken=a%2Fb%3D%3D"
    assert not written_otherwise(theirs, provider.models(page))


def test_short_answers_read_alike(capture: Capture, runtime: Any, provider: Ours) -> None:
    control, read = client("bedrock", capture.url), provider.vendor.read_models
    about = {"providerName": "Amazon", "inputModalities": ["TEXT"], "outputModalities": ["TEXT"]}
    arn = "arn:aws:bedrock:us-east-1::foundation-model/amazon.nova-lite-v1:0"
    listed = {"modelArn": arn, "modelId": "amazon.nova-lite-v1:0", "modelName": "Nova Lite"}
    body = msgspec.json.encode({"modelSummaries": [listed | about]})
    [theirs] = capture.told(body, control.list_foundation_models)["modelSummaries"]
    [own] = read(body).models
    assert (own.id, own.name, own.owner) == (
        theirs["modelId"],
        theirs["modelName"],
        theirs["providerName"],
    )
    profile = {"inferenceProfileId": "us.amazon.nova-lite-v1:0", "inferenceProfileName": "US"}
    body = msgspec.json.encode({"inferenceProfileSummaries": [profile], "nextToken": "a/b=="})
    said = capture.told(body, control.list_inference_profiles)
    [theirs], [own] = said["inferenceProfileSummaries"], read(body).models
    assert (own.id, own.name) == (theirs["inferenceProfileId"], theirs["inferenceProfileName"])
    body = b'{"inputTokens":11}'
    asked = {"modelId": "anthropic.claude", "input": {"converse": {}}}
    counted = capture.told(body, runtime.count_tokens, **asked)
    assert provider.vendor.read_count(body) == counted["inputTokens"]


def test_what_is_listed_is_there() -> None:
    assert not unknown(DELIBERATE)
