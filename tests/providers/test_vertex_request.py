"""What Vertex AI is asked for Gemini and for Claude."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import pytest

from ringcast.config import Provider
from ringcast.errors import RequestError
from ringcast.providers import request
from ringcast.providers.request import Call, Json
from ringcast.providers.vendor import AnyRequest, Model
from ringcast.providers.vertex import Vertex

VERTEX: Final = Vertex(Provider("vertex", "https://x", project="p", location="us-east5"))
EXPRESS: Final = Vertex(Provider("vertex", "https://x"))
PLACE: Final = "/v1/projects/p/locations/us-east5/publishers"
USER: Final[Json] = {"role": "user", "content": "hi"}
CLAUDE: Final = "claude-sonnet-4-5@20250929"
GEMINI: Final = "gemini-2.5-pro"


def asked(model: str, **fields: Any) -> AnyRequest:
    said = {"model": f"vertex/{model}", "messages": [USER]} | fields
    return request.decode(msgspec.msgpack.encode(said))


def shaped(model: str, **fields: Any) -> Call:
    return VERTEX.generate(model, asked(model, **fields))


def test_gemini() -> None:
    contents = [{"role": "user", "parts": [{"text": "hi"}]}]
    call = shaped(GEMINI, max_tokens=9, extra={"labels": {"a": "b"}})
    assert call.path == f"{PLACE}/google/models/{GEMINI}:streamGenerateContent?alt=sse"
    config = {"maxOutputTokens": 9}
    assert call.body == {"contents": contents, "generationConfig": config, "labels": {"a": "b"}}
    whole = shaped(GEMINI, stream=False)
    assert whole.path == f"{PLACE}/google/models/{GEMINI}:generateContent"
    assert whole.headers == {"accept": "application/json"}


def test_calls_have_no_ids_for_gemini() -> None:
    called = {"id": "c", "function": {"name": "f", "arguments": "{}"}}
    contents = shaped(
        GEMINI,
        messages=[
            USER,
            {"role": "assistant", "tool_calls": [called]},
            {"role": "tool", "tool_call_id": "c", "content": "r"},
        ],
    ).body["contents"]
    assert contents[1]["parts"][0]["functionCall"].keys() == {"name", "args"}
    assert contents[2]["parts"][0]["functionResponse"].keys() == {"name", "response"}


def test_claude() -> None:
    call = shaped(CLAUDE, max_tokens=9, extra={"top_k": 3})
    assert call.path == f"{PLACE}/anthropic/models/{CLAUDE}:streamRawPredict"
    assert call.body == {
        "anthropic_version": "vertex-2023-10-16",
        "max_tokens": 9,
        "messages": [USER],
        "stream": True,
        "top_k": 3,
    }
    whole = shaped(CLAUDE, stream=False)
    assert whole.path == f"{PLACE}/anthropic/models/{CLAUDE}:rawPredict"
    assert whole.body["stream"] is False


def test_without_a_project_nothing_is_said_of_one() -> None:
    path = EXPRESS.generate(GEMINI, asked(GEMINI)).path
    assert path == f"/v1/publishers/google/models/{GEMINI}:streamGenerateContent?alt=sse"


def test_the_model_decides_the_api() -> None:
    assert VERTEX.api(asked(GEMINI)) == "generate"
    assert VERTEX.api(asked(CLAUDE)) == "messages"
    assert VERTEX.api(asked(CLAUDE, api="messages")) == "messages"
    for model, api in ((GEMINI, "messages"), (CLAUDE, "generate"), (GEMINI, "chat")):
        with pytest.raises(RequestError, match=r"^bad_request: api: vertex has "):
            VERTEX.generate(model, asked(model, api=api))


def test_there_are_no_prompts() -> None:
    prompt = request.decode(msgspec.msgpack.encode({"model": "vertex/m", "prompt": "p"}))
    with pytest.raises(RequestError, match=r"^bad_request: prompt: vertex takes messages$"):
        VERTEX.generate("m", prompt)


def test_a_model_is_one_part_of_the_path() -> None:
    path = shaped("../x?y").path
    assert path == f"{PLACE}/google/models/..%2Fx%3Fy:streamGenerateContent?alt=sse"


def test_counts() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    call = VERTEX.count(GEMINI, asked(GEMINI, tools=[tool], tool_choice="auto"))
    assert call.path == f"{PLACE}/google/models/{GEMINI}:countTokens"
    assert call.body.keys() == {"contents", "tools"}
    assert VERTEX.read_count(b'{"totalTokens": 7, "totalBillableCharacters": 30}') == 7
    call = VERTEX.count(CLAUDE, asked(CLAUDE, temperature=0.5, metadata={"user_id": "u"}))
    assert call.path == f"{PLACE}/anthropic/models/count-tokens:rawPredict"
    assert call.body == {
        "model": CLAUDE,
        "anthropic_version": "vertex-2023-10-16",
        "messages": [USER],
    }
    assert VERTEX.read_count(b'{"input_tokens": 8}') == 8
    with pytest.raises(msgspec.ValidationError):
        VERTEX.read_count(b"{}")


def test_models_are_those_of_google_and_then_of_anthropic() -> None:
    first = VERTEX.models()
    assert first.path == "/v1beta1/publishers/google/models?pageSize=300"
    page = b'{"publisherModels": [{"name": "publishers/google/models/gemini-2.5-pro"}]%b}'
    more = VERTEX.read_models(page % b', "nextPageToken": "a/b"')
    assert more.models == [Model(GEMINI, owner="google")]
    assert VERTEX.models(more.next).path == f"{first.path}&pageToken=a%2Fb"
    last = VERTEX.read_models(page % b"")
    assert VERTEX.models(last.next).path == "/v1beta1/publishers/anthropic/models?pageSize=300"
    assert VERTEX.read_models(page.replace(b"google", b"anthropic") % b"").next == ""
    assert VERTEX.read_models(b"{}").next == ""
