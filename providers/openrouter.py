"""Request shaping for OpenRouter: chat completions, Responses, Anthropic's messages, and prompts.

Who serves a model (`provider`, `models`, `route`, `transforms`, `plugins`) goes into `extra`.
Sources: openrouter.ai/docs/api-reference and /docs/use-cases/reasoning-tokens.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from ringcast.providers import responses
from ringcast.providers.anthropic import messages_body
from ringcast.providers.openai import OpenAI, whole
from ringcast.providers.request import (
    Api,
    Call,
    ChatRequest,
    CompletionRequest,
    Json,
    R,
    Reasoning,
    given,
)
from ringcast.providers.thoughts import Thought
from ringcast.providers.vendor import AnyRequest, Capabilities, Model, Page


class _Architecture(msgspec.Struct, frozen=True):
    """What goes in and comes out."""

    input_modalities: list[str] | None = None
    output_modalities: list[str] | None = None


class _Server(msgspec.Struct, frozen=True):
    """The limits of whoever serves the model best."""

    max_completion_tokens: int | None = None


class _Listed(msgspec.Struct):
    """A model as OpenRouter lists it."""

    id: str
    name: str | None = None
    created: int | float | None = None
    context_length: int | None = None
    architecture: _Architecture = _Architecture()
    top_provider: _Server = _Server()


class _Models(msgspec.Struct):
    """All models."""

    data: list[_Listed]


class OpenRouter(OpenAI):
    """OpenRouter, which gives prompt-cache marks and thoughts on to those who know them."""

    apis: ClassVar[tuple[Api, ...]] = ("chat", "responses", "messages", "completions")
    lacks: ClassVar = {
        "chat": ("n", "cache_key", "reasoning.summary"),
        "responses": responses.LACKS,
        "completions": ("n", "metadata", "cache_key"),
    }
    limit = "max_tokens"
    has_marks = True

    def model_lacks(self, model: str, request: R) -> tuple[str, ...]:
        """Return nothing: parameters that a model does not know are passed over."""
        return ()

    def path(self, api: Api, model: str) -> str:
        """Return where an API is."""
        return "/messages" if api == "messages" else super().path(api, model)

    def body(self, api: Api, model: str, request: AnyRequest) -> Json:
        """Return the body for a request that is `sendable`, without its `extra`."""
        if api != "messages":
            return super().body(api, model, request)
        claude = model.rpartition("/")[2]
        said = messages_body(claude, request, self.config.max_tokens, "openrouter")
        return {"model": model, "stream": request.stream} | said

    def chat_body(self, model: str, request: ChatRequest) -> Json:
        """Return the body for chat completions."""
        return super().chat_body(model, request) | given(top_k=request.top_k)

    def completion_body(self, model: str, request: CompletionRequest) -> Json:
        """Return the body for legacy completions."""
        return super().completion_body(model, request) | given(top_k=request.top_k)

    def reasoning(self, model: str, request: ChatRequest) -> Json:
        """Return the field that says how much to think, whoever's model it is."""
        return given(reasoning=_reasoning(request.reasoning or Reasoning()) or None)

    def recalled(self, earlier: list[Thought]) -> Json:
        """Return thoughts as they came, each in its kind."""
        details = [_detail(thought) for thought in earlier if thought.proven]
        return given(reasoning_details=details or None)

    def capabilities(self, model: str = "") -> Capabilities:
        """Return what can be asked for."""
        return Capabilities(
            list(self.apis),
            tools=True,
            parallel_tool_calls=True,
            images=True,
            json_schema=True,
            reasoning=True,
            logprobs=True,
            seed=True,
            prompt_cache=True,
        )

    def health(self) -> Call:
        """Return the GET of what the key may do; the list of models needs none."""
        return Call("/key", method="GET")

    def read_models(self, body: bytes) -> Page:
        """Read the list. Raises `msgspec.MsgspecError` if it is none."""
        return Page([_model(model) for model in msgspec.json.decode(body, type=_Models).data])

    def count(self, model: str, request: AnyRequest) -> None:
        """Return None: there is no such call."""


def _reasoning(wanted: Reasoning) -> Json:
    """Return an effort, or a number of tokens; 0 switches it off, -1 on."""
    if wanted.effort is not None or wanted.budget_tokens is None:
        return given(effort=wanted.effort)
    if wanted.budget_tokens > 0:
        return {"max_tokens": wanted.budget_tokens}
    return {"enabled": wanted.budget_tokens != 0}


def _detail(thought: Thought) -> Json:
    """Return one of `reasoning_details`."""
    about = {"type": "reasoning.text"} | (thought.detail or {})
    if about["type"] == "reasoning.summary":
        return about | {"summary": thought.text}
    if thought.encrypted is not None:
        return about | {"data": thought.encrypted}
    return about | given(text=thought.text, signature=thought.signature)


def _model(listed: _Listed) -> Model:
    return Model(
        listed.id,
        name=listed.name,
        owner=listed.id.partition("/")[0],
        created=whole(listed.created),
        context_tokens=listed.context_length,
        output_tokens=listed.top_provider.max_completion_tokens,
        inputs=listed.architecture.input_modalities,
        outputs=listed.architecture.output_modalities,
    )
