"""What OpenAI's models differ in, as far as their names tell.

The o-series and GPT-5 think before they answer: they take an effort, and neither sampling nor
log-probabilities unless they are told not to think. Names of others (deployments, other servers'
models) tell nothing, and nothing is refused for them.
Source: platform.openai.com/docs/guides/reasoning.
"""

from __future__ import annotations

import re
from typing import Final

from ringcast.providers.request import ChatRequest, Request

_THINKING: Final = re.compile(r"o[1-9](?![a-z0-9])|gpt-[5-9](?!.*chat)|codex")
_PLAIN: Final = re.compile(r"gpt-[34]|gpt-[5-9].*chat|chatgpt|davinci|babbage")
# The first two of the series take no instructions at all, and neither effort nor tools.
_FIRST: Final = re.compile(r"o1-(mini|preview)")
_SAMPLING: Final = (
    "temperature",
    "top_p",
    "frequency_penalty",
    "presence_penalty",
    "logprobs",
    "top_logprobs",
    "stop",
)
_TOOLS: Final = ("tools", "tool_choice", "parallel_tool_calls")


def reasons(model: str) -> bool | None:
    """Return whether a model thinks; None if its name does not tell."""
    name = _name(model)
    return True if _THINKING.match(name) else False if _PLAIN.match(name) else None


def lacks(model: str, request: Request) -> tuple[str, ...]:
    """Return the fields that a model refuses."""
    if not reasons(model):
        return ("reasoning",) if reasons(model) is False else ()
    if _FIRST.match(_name(model)):
        return (*_SAMPLING, "reasoning", *_TOOLS)
    asked = request.reasoning if isinstance(request, ChatRequest) else None
    return () if asked and asked.effort == "none" else _SAMPLING


def instructor(model: str, role: str) -> str:
    """Return who instructs a model."""
    if _FIRST.match(_name(model)):
        return "user"
    return "developer" if reasons(model) else role


def _name(model: str) -> str:
    return model.rpartition("/")[2].removeprefix("ft:").lower()
