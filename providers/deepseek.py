"""Request shaping for DeepSeek: chat completions, and a text with a gap to be filled.

Sources: api-docs.deepseek.com/api/create-chat-completion, /guides/thinking_mode and
/guides/fim_completion.
"""

from __future__ import annotations

from typing import ClassVar

from ringcast.providers.chat_form import response_format
from ringcast.providers.openai import OpenAI
from ringcast.providers.request import Api, ChatRequest, Json, R, given
from ringcast.providers.thoughts import thoughts
from ringcast.providers.vendor import AnyRequest, Capabilities


class DeepSeek(OpenAI):
    """DeepSeek."""

    apis: ClassVar[tuple[Api, ...]] = ("chat", "completions")
    lacks: ClassVar = {
        "chat": (
            *("top_k", "seed", "n", "metadata", "user", "cache_key", "parallel_tool_calls"),
            *("reasoning.budget_tokens", "reasoning.summary"),
        ),
        "completions": ("top_k", "seed", "n", "metadata", "user", "cache_key"),
    }
    limit = "max_tokens"
    has_developer = False

    def path(self, api: Api, model: str) -> str:
        """Return where an API is; the one for prompts is a beta."""
        return "/beta/completions" if api == "completions" else super().path(api, model)

    def model_lacks(self, model: str, request: R) -> tuple[str, ...]:
        """Return what the API does not know of what is asked: JSON it makes, but to no schema."""
        wanted = request.response_format if isinstance(request, ChatRequest) else None
        strict = wanted is not None and response_format(wanted)[1] is not None
        return ("response_format",) if strict else ()

    def reasoning(self, model: str, request: ChatRequest) -> Json:
        """Return the fields that say whether to think, and how much."""
        effort = request.reasoning and request.reasoning.effort
        if effort is None:
            return {}
        thinking = {"type": "disabled" if effort == "none" else "enabled"}
        return given(thinking=thinking, reasoning_effort=None if effort == "none" else effort)

    def message(self, model: str, message: Json) -> Json:
        """Return a message; thoughts that led to calls belong to them, and no others go back."""
        said = super().message(model, message)
        if not message.get("tool_calls"):
            return said
        text = "\n\n".join(thought.text for thought in thoughts(message))
        return said | given(reasoning_content=text or None)

    def capabilities(self, model: str = "") -> Capabilities:
        """Return what can be asked for."""
        return Capabilities(list(self.apis), tools=True, reasoning=True, logprobs=True)

    def count(self, model: str, request: AnyRequest) -> None:
        """Return None: there is no such call."""
