"""Google's Vertex AI: Gemini and Claude, each in its own API, told apart by the model's name.

With a project the paths name it and the location; without one (express mode, an API key) they do
not. Sources: cloud.google.com/vertex-ai/generative-ai/docs/model-reference/inference,
/docs/partner-models/claude/use-claude and /docs/start/express-mode/overview.
"""

from __future__ import annotations

from typing import ClassVar, Final
from urllib.parse import quote

import msgspec

from ringcast.providers import claude_thinking, gemini_thinking
from ringcast.providers.anthropic import messages_body
from ringcast.providers.gemini import generation_body, generation_method
from ringcast.providers.request import Api, Call, ChatRequest, Json, accept, laid_over, refuse
from ringcast.providers.vendor import AnyRequest, Capabilities, Model, Page, Vendor

CLAUDE_VERSION: Final = "vertex-2023-10-16"
# Whose models are listed, one after the other.
_PUBLISHERS: Final = ("google", "anthropic")
_MODELS_A_PAGE: Final = 300
# What makes Claude's prompt; the call that counts refuses all else.
_COUNTED: Final = ("messages", "system", "tools", "tool_choice", "thinking")


class _Listed(msgspec.Struct):
    """A model; its name is `publishers/PUBLISHER/models/MODEL`."""

    name: str


class _Models(msgspec.Struct, rename="camel"):
    """A page of one publisher's models."""

    publisher_models: list[_Listed] = []
    next_page_token: str = ""


class _Counted(msgspec.Struct):
    """The size of a prompt, as Gemini counts it or as Claude does."""

    gemini: int | None = msgspec.field(default=None, name="totalTokens")
    claude: int | None = msgspec.field(default=None, name="input_tokens")


class Vertex(Vendor):
    """Vertex AI."""

    apis: ClassVar[tuple[Api, ...]] = ("generate", "messages")

    def api(self, request: AnyRequest) -> Api:
        """Return the API of the model that a request is for; another one is refused."""
        if not isinstance(request, ChatRequest):
            raise refuse("prompt", "vertex takes messages")
        asked = super().api(request)
        api = _api(request.model.partition("/")[2])
        if request.api is not None and asked != api:
            raise refuse("api", f"vertex has {api} for {request.model}, not {asked}")
        return api

    def generate(self, model: str, request: AnyRequest) -> Call:
        """Return the call for generated content, or for a message of Claude's."""
        if self.api(request) == "generate":
            body = generation_body(model, request, "vertex", ids=False)
            path = self._path("google", model, generation_method(request))
        else:
            body = self._message(model, request) | {"stream": request.stream}
            method = "streamRawPredict" if request.stream else "rawPredict"
            path = self._path("anthropic", model, method)
        return Call(path, laid_over(body, request.extra), accept(request))

    def capabilities(self, model: str = "") -> Capabilities:
        """Return what can be asked for; without a model, what Gemini can be."""
        claude = _api(model) == "messages"
        thinks = (
            claude_thinking.version(model) >= (3, 7)
            if claude
            else gemini_thinking.version(model) >= (2, 5)
        )
        return Capabilities(
            list(self.apis) if not model else [_api(model)],
            tools=True,
            parallel_tool_calls=claude,
            images=True,
            json_schema=True,
            reasoning=thinks,
            logprobs=not claude,
            several=not claude,
            seed=not claude,
            prompt_cache=claude,
            count="provider",
        )

    def models(self, page: str = "") -> Call:
        """Return the GET of a publisher's models; `page` is its name, a colon and a token."""
        publisher, _, token = (page or _PUBLISHERS[0]).partition(":")
        after = f"&pageToken={quote(token, safe='')}" if token else ""
        path = f"/v1beta1/publishers/{publisher}/models?pageSize={_MODELS_A_PAGE}{after}"
        return Call(path, method="GET")

    def read_models(self, body: bytes) -> Page:
        """Read a page of them. Raises `msgspec.MsgspecError` if it is none."""
        listed = msgspec.json.decode(body, type=_Models)
        if not listed.publisher_models:
            return Page([])
        models = [_model(model.name) for model in listed.publisher_models]
        publisher = models[0].owner
        if listed.next_page_token:
            return Page(models, f"{publisher}:{listed.next_page_token}")
        return Page(models, _PUBLISHERS[1] if publisher == _PUBLISHERS[0] else "")

    def count(self, model: str, request: AnyRequest) -> Call:
        """Return the call that counts what a generation would read."""
        if self.api(request) == "generate":
            body = generation_body(model, request, "vertex", ids=False)
            body.pop("toolConfig", None)  # unknown to this call
            return Call(self._path("google", model, "countTokens"), body)
        said = self._message(model, request)
        counted = {name: value for name, value in said.items() if name in _COUNTED}
        path = self._path("anthropic", "count-tokens", "rawPredict")
        return Call(path, {"model": model, "anthropic_version": CLAUDE_VERSION} | counted)

    def read_count(self, body: bytes) -> int:
        """Read the answer to it. Raises `msgspec.MsgspecError` if it is none."""
        counted = msgspec.json.decode(body, type=_Counted)
        tokens = counted.gemini if counted.claude is None else counted.claude
        if tokens is None:
            raise msgspec.ValidationError("neither totalTokens nor input_tokens")
        return tokens

    def _message(self, model: str, request: AnyRequest) -> Json:
        said = messages_body(model, request, self.config.max_tokens, "vertex")
        return {"anthropic_version": CLAUDE_VERSION} | said

    def _path(self, publisher: str, model: str, method: str) -> str:
        project, location = self.config.project, self.config.location
        place = f"/projects/{project}/locations/{location}" if project else ""
        name = quote(model, safe="@")  # a version stands behind it
        return f"/v1{place}/publishers/{publisher}/models/{name}:{method}"


def _model(name: str) -> Model:
    publisher, _, model = name.removeprefix("publishers/").partition("/models/")
    return Model(model or name, owner=publisher)


def _api(model: str) -> Api:
    """Return the API that a model has."""
    return "messages" if model.startswith("claude") else "generate"
