"""How much Gemini shall think.

Source: ai.google.dev/gemini-api/docs/thinking. Models before Gemini 3 think within a budget, later
ones by level (and understand a budget). Names without a version are taken for the newest.
"""

from __future__ import annotations

import re
from typing import Final

from ringcast.providers.request import ChatRequest, Effort, Json, given, refuse, without

# Google's own compatibility layer gives these budgets to efforts; 24,576 is the most Flash takes.
_BUDGETS: Final[dict[Effort, int]] = {
    "none": 0,
    "minimal": 512,
    "low": 1024,
    "medium": 8192,
    "high": 24_576,
    "xhigh": 24_576,
    "max": 24_576,
}
_LEVELS: Final[dict[Effort, str]] = {
    "minimal": "MINIMAL",
    "low": "LOW",
    "medium": "MEDIUM",
    "high": "HIGH",
    "xhigh": "HIGH",
    "max": "HIGH",
}
_FIRST: Final = (2, 5)
_version = re.compile(r"gemini-(\d+)(?:\.(\d+))?").search


def version(model: str) -> tuple[int, int]:
    """Return the version in a model's name."""
    found = _version(model)
    return (int(found[1]), int(found[2] or 0)) if found else (99, 0)


def thinking_config(model: str, request: ChatRequest) -> Json | None:
    """Return the `thinkingConfig`, which asks for the thoughts unless there shall be none.

    Raises `RequestError` (bad_request) for an effort together with a budget.
    """
    asked = request.reasoning
    if asked is None:
        return None
    if version(model) < _FIRST:
        without(request, ("reasoning",), model)
        return None
    if asked.effort and asked.budget_tokens is not None:
        raise refuse("reasoning", "gemini takes either an effort or budget_tokens")
    budget, level = asked.budget_tokens, None
    if asked.effort and version(model) < (3, 0):
        budget = _BUDGETS[asked.effort]
    elif asked.effort:
        level = thinking_level(model, request)
        if level is None:
            return None
    return given(includeThoughts=budget != 0, thinkingBudget=budget, thinkingLevel=level)


def thinking_level(model: str, request: ChatRequest) -> str | None:
    """Return the level for an effort; there is none for no thinking at all."""
    effort = request.reasoning and request.reasoning.effort
    if effort == "none":
        without(request, ("reasoning.effort",), model, why=f"{model} cannot stop thinking")
    return _LEVELS.get(effort) if effort else None
