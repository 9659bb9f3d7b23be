"""The official OpenAI SDK and we: every recorded answer read alike, every request written alike."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import pytest

from oracles.answers import differing, name, ours, recordings, unknown
from oracles.openai_calls import CHAT, COMPLETIONS, COUNTS, HELLO, RESPONSES
from oracles.writing import KEY, Capture, Case, Json, Ours, title
from oracles.writing import differing as written_otherwise
from ringcast.config import Kind, Provider
from ringcast.providers.kinds import vendor
from ringcast.providers.request import Api, ChatRequest
from ringcast.replay.recording import Recording

openai = pytest.importorskip("openai")
from oracles.openai_sdk import Reader  # noqa: E402 - it imports the SDK

ANSWERS: Final = recordings("chat", "completions", "responses")
STREAMS: Final = [r for r in ANSWERS if r.streamed and r.api != "completions"]

_GROQ: Final = {"usage": "Groq's counts are in `x_groq`, where the SDK does not look"}
DELIBERATE: Final[dict[str, dict[str, str]]] = {
    "azure/deepseek-reasoning": {"usage": "DeepSeek counts thoughts beside the other counts"},
    "groq/chat-text": _GROQ,
    "groq/chat-executed-tools": _GROQ,
    "local/llamabox-error-field": {"error": "the SDK ignores an SSE field named `error`"},
}
_USAGE: Final = {"usage": "the SDK takes the counts of the last chunk, which has none"}
_REASON: Final = {"finish_reason": "the SDK passes over the last chunk, a `chat.completion.done`"}
FORGOTTEN: Final[dict[str, dict[str, str]]] = {
    "openai/chat-moderation": _USAGE,
    "local/litellm-proxy-n2": _USAGE,
    "perplexity/chat-citations": _REASON,
    "perplexity/chat-citations-2": _REASON,
    "perplexity/chat-text": _REASON,
}
_MIDWAY: Final = ("APIError", "an error within a stream leaves nothing of it")
_UNNUMBERED: Final = ("RuntimeError", "the SDK joins no lists whose entries have no `index`")
RAISED: Final[dict[str, tuple[str, str]]] = {
    "azure/chat-text-filters": ("AttributeError", "a choice without `delta`"),
    "groq/chat-error-event": _MIDWAY,
    "local/vllm-chat": ("LengthFinishReasonError", "an answer that was cut off is none"),
    "openai/resp-error-quota": _MIDWAY,
    "openai/resp-failed-rate-limit": _MIDWAY,
    "openai/resp-incomplete": ("RuntimeError", "only `response.completed` makes a response"),
    "openrouter/chat-annotations": _UNNUMBERED,
    "openrouter/chat-error-mid-stream": _MIDWAY,
    "openrouter/chat-nocost": _UNNUMBERED,
}
# What those who have OpenAI's chat are asked otherwise.
OTHERS: Final[dict[Kind, dict[str, str]]] = {
    "perplexity": {"stream_options": "it tells the counts unasked"},
}
REFUSED: Final = openai.BadRequestError


@pytest.fixture(scope="module")
def reader(url: str) -> Reader:
    return Reader(url)


@pytest.mark.parametrize("recording", ANSWERS, ids=name)
def test_read_alike(recording: Recording, reader: Reader) -> None:
    different = differing(reader.read(recording), ours(recording))
    assert different == set(DELIBERATE.get(recording.name, ()))


@pytest.mark.parametrize("recording", STREAMS, ids=name)
def test_accumulated_alike(recording: Recording, reader: Reader) -> None:
    if recording.name in RAISED:
        wanted, _ = RAISED[recording.name]
        with pytest.raises((openai.OpenAIError, RuntimeError, AttributeError)) as raised:
            reader.accumulate(recording)
        assert raised.typename == wanted
        return
    different = differing(reader.accumulate(recording), ours(recording))
    why = DELIBERATE.get(recording.name, {}) | FORGOTTEN.get(recording.name, {})
    assert different == set(why)


@pytest.fixture(scope="module")
def client(capture: Capture) -> Any:
    return openai.OpenAI(base_url=f"{capture.url}/v1", api_key=KEY, max_retries=0)


@pytest.fixture(scope="module")
def provider(capture: Capture) -> Ours:
    return Ours(Provider("openai", base_url=f"{capture.url}/v1"))


@pytest.mark.parametrize("case", CHAT, ids=title)
def test_chats_written_alike(case: Case, capture: Capture, client: Any, provider: Ours) -> None:
    theirs = capture.sent(
        client.chat.completions.create, REFUSED, **{"model": "gpt-4o"} | case.theirs
    )
    asked: Json = {"model": "gpt-4o", "stream": False} | case.ours
    own = provider.generation(api="chat", **asked)
    assert written_otherwise(theirs, own, "authorization") == set(case.differs)


@pytest.mark.parametrize("case", COMPLETIONS, ids=title)
def test_completions_written_alike(
    case: Case, capture: Capture, client: Any, provider: Ours
) -> None:
    theirs = capture.sent(client.completions.create, REFUSED, model="davinci-002", **case.theirs)
    asked: Json = {"model": "davinci-002", "stream": False} | case.ours
    own = provider.generation(api="completions", **asked)
    assert written_otherwise(theirs, own, "authorization") == set(case.differs)


@pytest.mark.parametrize("case", RESPONSES, ids=title)
def test_responses_written_alike(case: Case, capture: Capture, client: Any, provider: Ours) -> None:
    theirs = capture.sent(client.responses.create, REFUSED, **{"model": "gpt-4o"} | case.theirs)
    asked: Json = {"model": "gpt-4o", "stream": False} | case.ours
    own = provider.generation(api="responses", **asked)
    assert written_otherwise(theirs, own, "authorization") == set(case.differs)


@pytest.mark.parametrize("case", COUNTS, ids=title)
def test_counts_written_alike(case: Case, capture: Capture, client: Any, provider: Ours) -> None:
    theirs = capture.sent(
        client.responses.input_tokens.count, REFUSED, **{"model": "gpt-4o"} | case.theirs
    )
    asked: Json = {"model": "gpt-4o", "api": "responses"} | case.ours
    assert not written_otherwise(theirs, provider.count(**asked), "authorization")


def test_models_are_asked_for_alike(capture: Capture, client: Any, provider: Ours) -> None:
    theirs = capture.sent(client.models.list, REFUSED)
    assert not written_otherwise(theirs, provider.models(), "authorization")


def test_short_answers_read_alike(capture: Capture, client: Any, provider: Ours) -> None:
    listed = [{"id": f"gpt-{n}", "object": "model", "created": n, "owned_by": "o"} for n in (4, 5)]
    body = msgspec.json.encode({"object": "list", "data": listed})
    theirs = [(m.id, m.created, m.owned_by) for m in capture.told(body, client.models.list)]
    page = provider.vendor.read_models(body)
    assert [(m.id, m.created, m.owner) for m in page.models] == theirs
    body = b'{"object":"response.input_tokens","input_tokens":11}'
    count = client.responses.input_tokens.count
    assert provider.vendor.read_count(body) == capture.told(body, count, input="hi").input_tokens


@pytest.mark.parametrize(
    ("kind", "model"),
    [
        ("deepseek", "deepseek-chat"),
        ("groq", "llama-3.3-70b-versatile"),
        ("ollama", "qwen3"),
        ("openai-compatible", "qwen3"),
        ("openrouter", "openai/gpt-4o"),
        ("perplexity", "sonar"),
        ("xai", "grok-4"),
    ],
)
def test_others_are_asked_alike(kind: Kind, model: str, capture: Capture, client: Any) -> None:
    asked: Json = {"model": model, "temperature": 0.5, "max_tokens": 50, "stream": True}
    asked["messages"] = [{"role": "system", "content": "be brief"}, *HELLO]
    base_url = capture.url if kind == "ollama" else f"{capture.url}/v1"
    own = Ours(Provider(kind, base_url=base_url)).generation(api="chat", **asked)
    asked["stream_options"] = {"include_usage": True}
    theirs = capture.sent(client.chat.completions.create, REFUSED, **asked)
    assert written_otherwise(theirs, own, "authorization") == set(OTHERS.get(kind, ()))


@pytest.mark.parametrize("version", ["2024-10-21", "2025-04-01-preview"])
@pytest.mark.parametrize("api", ["chat", "completions", "responses"])
def test_azure_is_asked_alike(api: Api, version: str, capture: Capture) -> None:
    client = openai.AzureOpenAI(
        azure_endpoint=capture.url, api_version=version, api_key=KEY, max_retries=0
    )
    usage = {"stream_options": {"include_usage": True}}
    asks: dict[str, tuple[Any, Json, Json]] = {
        "chat": (client.chat.completions.create, {"messages": HELLO} | usage, {"messages": HELLO}),
        "completions": (client.completions.create, {"prompt": "a"} | usage, {"prompt": "a"}),
        "responses": (client.responses.create, {"input": HELLO}, {"messages": HELLO}),
    }
    ask, theirs, own = asks[api]
    provider = Ours(Provider("azure", base_url=capture.url, api_version=version))
    written = provider.generation("gpt 4o", api=api, stream=True, **own)
    seen = capture.sent(ask, REFUSED, model="gpt 4o", stream=True, **theirs)
    assert not written_otherwise(seen, written, "api-key")


def test_bedrock_is_where_the_sdk_has_it() -> None:
    client = openai.BedrockOpenAI(aws_region="eu-west-1", api_key=KEY)
    config = Provider("bedrock", base_url="https://bedrock-runtime.eu-west-1.amazonaws.com")
    asked = ChatRequest(model="p/openai.gpt-oss-20b", api="responses", messages=HELLO)
    call = vendor(config).generate("openai.gpt-oss-20b", asked)
    assert call.path == f"{client.base_url}responses"


def test_what_is_listed_is_there() -> None:
    assert not unknown(DELIBERATE, FORGOTTEN, RAISED)
