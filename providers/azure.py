"""Request shaping for Azure OpenAI, by the address and the version that are configured.

- With the version of a date, a model is the name of a deployment, which is in the path.
- Without one (or with `preview`) it is the v1 API, whose paths and bodies are OpenAI's.
- A base URL that ends in `/models` is Azure AI's inference, which has others' models too.

Claude on Azure is spoken to as Anthropic, with `…/anthropic/v1` as the base URL.
Sources: learn.microsoft.com/azure/ai-foundry/openai/reference, /openai/api-version-lifecycle and
/rest/api/aifoundry/modelinference.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote

from ringcast.providers import responses
from ringcast.providers.openai import OpenAI
from ringcast.providers.request import Api, Call, ChatRequest, Json, R, refuse
from ringcast.providers.vendor import AnyRequest, Capabilities
from ringcast.shm.records import Cursor

_DATED: Final = re.compile(r"\d{4}-\d{2}-\d{2}")
# The first version that knows `stream_options` and `max_completion_tokens`; before, unknown
# fields are refused.
_MODERN: Final = "2024-09-01"
_INFERENCE_VERSION: Final = "2024-05-01-preview"


class Azure(OpenAI):
    """Azure OpenAI. Its filters' verdicts come with the answers; nothing here asks for them."""

    def api(self, request: AnyRequest) -> Api:
        """Return the API that a request means."""
        api = super().api(request)
        if self._inference and api != "chat":
            raise refuse("api", f"Azure AI's inference has chat, not {api}")
        return api

    def path(self, api: Api, model: str) -> str:
        """Return where an API is, or a deployment."""
        deployment = "" if api == "responses" else f"/deployments/{quote(model, safe='')}"
        return self._path(super().path(api, model), deployment)

    def model_lacks(self, model: str, request: R) -> tuple[str, ...]:
        """Return nothing: a deployment is called what its owner likes."""
        return ()

    def chat_body(self, model: str, request: ChatRequest) -> Json:
        """Return the body for chat completions; older versions call the limit otherwise."""
        body = super().chat_body(model, request)
        if request.max_tokens is not None and not self._modern:
            del body[self.limit]
            body["max_tokens"] = request.max_tokens
        return body

    def stream_options(self, request: AnyRequest) -> Json | None:
        """Return what a stream must be asked for in particular."""
        return super().stream_options(request) if self._modern or self._inference else None

    def capabilities(self, model: str = "") -> Capabilities:
        """Return what can be asked for."""
        apis: list[Api] = ["chat"] if self._inference else list(self.apis)
        return Capabilities(
            apis,
            tools=True,
            parallel_tool_calls=True,
            images=True,
            json_schema=True,
            reasoning=True,
            logprobs=True,
            several=True,
            seed=True,
            prompt_cache=True,
            reattach="responses" in apis,
            models=not self._inference,
        )

    def models(self, page: str = "") -> Call | None:
        """Return the GET of the models that could be deployed; of deployments there is none."""
        return None if self._inference else Call(self._path("/models"), method="GET")

    def count(self, model: str, request: AnyRequest) -> None:
        """Return None: there is no such call."""

    def reattach(self, api: str, cursor: Cursor) -> Call:
        """Return the GET that goes on with a background response."""
        return Call(self._path(responses.reattach(cursor)), method="GET")

    def recall(self, api: str, cursor: Cursor) -> Call:
        """Return the call that cancels a background response."""
        return Call(self._path(responses.cancel_path(cursor)))

    def _path(self, end: str, deployment: str = "") -> str:
        """Return a path with the version in its query, in which there may be something already."""
        version = self.config.api_version
        if self._inference:
            version = version or _INFERENCE_VERSION
        elif _DATED.match(version):
            end = f"/openai{deployment}{end}"
        else:
            end = f"/openai/v1{end}"
        return f"{end}{'&' if '?' in end else '?'}api-version={version}" if version else end

    @property
    def _inference(self) -> bool:
        return self.config.base_url.endswith("/models")

    @property
    def _modern(self) -> bool:
        """Whether `max_completion_tokens` and `stream_options` are known."""
        version = self.config.api_version
        return not self._inference and (not _DATED.match(version) or version >= _MODERN)
