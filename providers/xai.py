"""Request shaping for xAI: chat completions and Responses, as OpenAI has them.

Sources: docs.x.ai/docs/api-reference and docs.x.ai/docs/guides/reasoning.
"""

from __future__ import annotations

import re
from typing import ClassVar, Final

import msgspec

from ringcast.providers import responses
from ringcast.providers.openai import OpenAI, whole
from ringcast.providers.request import Api, Call, R
from ringcast.providers.vendor import AnyRequest, Capabilities, Model, Page
from ringcast.providers.wording import wording

# What models that think refuse. Grok 4 thinks as it likes; Grok 4.3 can be told how much.
_UNSTEERED: Final = re.compile(r"grok-4(?![.\d])")
_THINKING: Final = re.compile(r"grok-(4|3-mini|code)")
_FIXED: Final = ("frequency_penalty", "presence_penalty", "stop")


class _Listed(msgspec.Struct):
    """A model as xAI lists it."""

    id: str
    created: int | float | None = None
    owned_by: str | None = None
    input_modalities: list[str] | None = None
    output_modalities: list[str] | None = None


class _Models(msgspec.Struct):
    """All models that make text."""

    models: list[_Listed]


class _Tokenized(msgspec.Struct):
    """A text's tokens."""

    token_ids: list[msgspec.Raw]


class XAI(OpenAI):
    """xAI."""

    apis: ClassVar[tuple[Api, ...]] = ("chat", "responses")
    lacks: ClassVar = {
        "chat": ("top_k", "metadata", "cache_key", "reasoning.budget_tokens", "reasoning.summary"),
        "responses": responses.LACKS,
    }
    limit = "max_tokens"
    has_developer = False

    def model_lacks(self, model: str, request: R) -> tuple[str, ...]:
        """Return the fields that a model does not know, as far as its name tells."""
        refused = _FIXED if _THINKING.match(model) else ()
        return (*refused, "reasoning") if _UNSTEERED.match(model) else refused

    def capabilities(self, model: str = "") -> Capabilities:
        """Return what can be asked for."""
        return Capabilities(
            list(self.apis),
            tools=True,
            parallel_tool_calls=True,
            images=True,
            json_schema=True,
            reasoning=not _UNSTEERED.match(model),
            logprobs=True,
            several=True,
            seed=True,
            prompt_cache=True,
            count="provider",
        )

    def models(self, page: str = "") -> Call:
        """Return the GET of the models that make text."""
        return Call("/language-models", method="GET")

    def read_models(self, body: bytes) -> Page:
        """Read the list. Raises `msgspec.MsgspecError` if it is none."""
        return Page([_model(m) for m in msgspec.json.decode(body, type=_Models).models])

    def count(self, model: str, request: AnyRequest) -> Call | None:
        """Return the call that counts the tokens of a text; None for what is not all text.

        The few tokens between messages are not in it.
        """
        text = wording(request)
        return None if text is None else Call("/tokenize-text", {"model": model, "text": text})

    def read_count(self, body: bytes) -> int:
        """Read the answer to it. Raises `msgspec.MsgspecError` if it is none."""
        return len(msgspec.json.decode(body, type=_Tokenized).token_ids)


def _model(listed: _Listed) -> Model:
    return Model(
        listed.id,
        owner=listed.owned_by,
        created=whole(listed.created),
        inputs=listed.input_modalities,
        outputs=listed.output_modalities,
    )
