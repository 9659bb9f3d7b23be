"""What Azure is asked, by the address and the version that are configured."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import pytest

from ringcast.config import Provider
from ringcast.errors import RequestError
from ringcast.providers import request
from ringcast.providers.azure import Azure
from ringcast.providers.request import Call, Json
from ringcast.shm.records import Cursor

USER: Final[Json] = {"role": "user", "content": "hi"}
HOST: Final = "https://res.openai.azure.com"
FOUNDRY: Final = "https://res.services.ai.azure.com/models"


def azure(version: str = "", base_url: str = HOST) -> Azure:
    return Azure(Provider("azure", base_url, api_version=version))


def shaped(azure: Azure, model: str = "my deployment", **fields: Any) -> Call:
    said = {} if "prompt" in fields else {"messages": [USER]}
    asked = request.decode(msgspec.msgpack.encode({"model": f"azure/{model}"} | said | fields))
    return azure.generate(model, asked)


DATED: Final = "api-version=2024-10-21"


@pytest.mark.parametrize(
    ("version", "base_url", "fields", "path"),
    [
        ("", HOST, {}, "/openai/v1/chat/completions"),
        ("preview", HOST, {}, "/openai/v1/chat/completions?api-version=preview"),
        ("", HOST, {"api": "responses"}, "/openai/v1/responses"),
        ("", HOST, {"prompt": "p"}, "/openai/v1/completions"),
        (
            "2024-10-21",
            HOST,
            {},
            f"/openai/deployments/my%20deployment/chat/completions?{DATED}",
        ),
        (
            "2024-10-21",
            HOST,
            {"prompt": "p"},
            f"/openai/deployments/my%20deployment/completions?{DATED}",
        ),
        ("2024-10-21", HOST, {"api": "responses"}, f"/openai/responses?{DATED}"),
        ("", FOUNDRY, {}, "/chat/completions?api-version=2024-05-01-preview"),
        ("2025-01-01", FOUNDRY, {}, "/chat/completions?api-version=2025-01-01"),
    ],
)
def test_places(version: str, base_url: str, fields: Json, path: str) -> None:
    call = shaped(azure(version, base_url), **fields)
    assert call.path == path
    assert call.body["model"] == "my deployment"


@pytest.mark.parametrize(
    ("version", "base_url", "limit", "usage"),
    [
        ("", HOST, "max_completion_tokens", True),
        ("2024-09-01-preview", HOST, "max_completion_tokens", True),
        ("2024-08-01-preview", HOST, "max_tokens", False),
        ("2023-07-01-preview", HOST, "max_tokens", False),
        ("", FOUNDRY, "max_tokens", True),
    ],
)
def test_older_versions_know_less(version: str, base_url: str, limit: str, usage: bool) -> None:
    body = shaped(azure(version, base_url), max_tokens=9).body
    assert body[limit] == 9
    assert ("stream_options" in body) == usage
    assert not {"max_tokens", "max_completion_tokens"} - {limit} & body.keys()


def test_a_deployments_name_tells_nothing() -> None:
    assert shaped(azure(), "gpt-5", temperature=0.5).body["temperature"] == 0.5


def test_inference_has_chat_alone() -> None:
    inference = azure(base_url=FOUNDRY)
    for fields in ({"api": "responses"}, {"prompt": "p"}):
        with pytest.raises(RequestError, match="Azure AI's inference has chat, not "):
            shaped(inference, **fields)
    assert inference.capabilities().apis == ["chat"]
    assert inference.models() is None
    assert not inference.capabilities().models


def test_models() -> None:
    assert azure().models() == Call("/openai/v1/models", method="GET")
    assert azure("2024-10-21").models() == Call(f"/openai/models?{DATED}", method="GET")


def test_background_responses() -> None:
    cursor = Cursor("resp_1", "7")
    again = "/responses/resp_1?stream=true&starting_after=7"
    assert azure().reattach("responses", cursor).path == f"/openai/v1{again}"
    dated = azure("2025-04-01-preview")
    version = "api-version=2025-04-01-preview"
    assert dated.reattach("responses", cursor).path == f"/openai{again}&{version}"
    assert dated.recall("responses", cursor) == Call(f"/openai/responses/resp_1/cancel?{version}")
