"""Request shaping for Groq: chat completions and Responses, as OpenAI has them.

Sources: console.groq.com/docs/openai, /docs/reasoning and /docs/api-reference. How thoughts are
told (`reasoning_format`, `include_reasoning`) and `service_tier` go into `extra`.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from ringcast.providers import responses
from ringcast.providers.openai import OpenAI, whole
from ringcast.providers.request import Api, R
from ringcast.providers.vendor import AnyRequest, Capabilities, Model, Page


class _Listed(msgspec.Struct):
    """A model as Groq lists it."""

    id: str
    created: int | float | None = None
    owned_by: str | None = None
    active: bool = True
    context_window: int | None = None
    max_completion_tokens: int | None = None


class _Models(msgspec.Struct):
    """All models, also those that are no longer served."""

    data: list[_Listed]


class Groq(OpenAI):
    """Groq."""

    apis: ClassVar[tuple[Api, ...]] = ("chat", "responses")
    lacks: ClassVar = {
        "chat": (
            *("top_k", "n", "logprobs", "top_logprobs", "metadata", "cache_key"),
            *("reasoning.budget_tokens", "reasoning.summary"),
        ),
        "responses": (*responses.LACKS, "logprobs", "top_logprobs", "cache_key"),
    }
    limit = "max_tokens"
    has_developer = False

    def model_lacks(self, model: str, request: R) -> tuple[str, ...]:
        """Return nothing: what a model does not know, Groq says itself."""
        return ()

    def capabilities(self, model: str = "") -> Capabilities:
        """Return what can be asked for."""
        return Capabilities(
            list(self.apis),
            tools=True,
            parallel_tool_calls=True,
            images=True,
            json_schema=True,
            reasoning=True,
            seed=True,
        )

    def read_models(self, body: bytes) -> Page:
        """Read those models that are served. Raises `msgspec.MsgspecError` if it is no list."""
        listed = msgspec.json.decode(body, type=_Models).data
        return Page([_model(model) for model in listed if model.active])

    def count(self, model: str, request: AnyRequest) -> None:
        """Return None: there is no such call."""


def _model(listed: _Listed) -> Model:
    return Model(
        listed.id,
        owner=listed.owned_by,
        created=whole(listed.created),
        context_tokens=listed.context_window,
        output_tokens=listed.max_completion_tokens,
    )
