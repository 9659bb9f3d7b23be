"""How much Claude shall think, told in the words of its generation.

Sources: docs.anthropic.com/en/docs/build-with-claude/extended-thinking, /adaptive-thinking and
/effort. Claude thinks from 3.7 on, within a budget; from 4.6 on it finds its own, and takes an
effort. A name without a version is taken for the newest.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from ringcast.providers.request import ChatRequest, Effort, Json, Reasoning, given, refuse, without

LEAST: Final = 1024  # a smaller budget is refused
# How many tokens of thought an effort is for those that know only budgets.
_BUDGETS: Final[dict[Effort, int]] = {
    "minimal": LEAST,
    "low": 2048,
    "medium": 8192,
    "high": 16_384,
    "xhigh": 24_576,
    "max": 32_768,
}
_ADAPTIVE: Final = (4, 6)
_FIRST: Final = (3, 7)
_NEWEST: Final = (99, 0)
# claude-3-7-sonnet-20250219, claude-sonnet-4-5@20250929, us.anthropic.claude-opus-4-20250514-v1:0:
# a minor version is one or two digits, a date eight.
_version = re.compile(r"claude-(?:[a-z]+-)*(\d{1,2})(?:[-.](\d{1,2}))?(?!\d)").search


class Plan(msgspec.Struct, frozen=True):
    """What says how to think, and the limit that leaves room for it.

    `thinking` is the field of that name; `effort` goes into `output_config`.
    """

    max_tokens: int
    thinking: Json | None = None
    effort: str | None = None

    @property
    def thinks(self) -> bool:
        """Whether there will be thoughts, with which sampling must be left alone."""
        return self.thinking is not None and self.thinking["type"] != "disabled"


def version(model: str) -> tuple[int, int]:
    """Return the version in a model's name."""
    found = _version(model)
    return (int(found[1]), int(found[2] or 0)) if found else _NEWEST


def plan(model: str, request: ChatRequest, max_tokens: int) -> Plan:
    """Return how a model shall think for a request; `max_tokens` is the limit if it has none.

    That one is for the answer, and grows by the budget. Raises `RequestError` (bad_request).
    """
    limit = request.max_tokens or max_tokens
    asked = _known(model, request)
    if asked == Reasoning():
        return Plan(limit)
    if asked.budget_tokens == 0 or asked.effort == "none":
        return Plan(limit, {"type": "disabled"})
    if version(model) >= _ADAPTIVE and asked.budget_tokens in (None, -1):
        effort = "low" if asked.effort == "minimal" else asked.effort
        return Plan(limit, _shown({"type": "adaptive"}, asked), effort)
    budget = asked.budget_tokens or _budget(asked.effort, request.max_tokens)
    limit = request.max_tokens or max_tokens + budget
    if not LEAST <= budget < limit:
        raise refuse("reasoning.budget_tokens", f"{budget} is not in {LEAST}..{limit - 1}")
    thinking = _shown({"type": "enabled", "budget_tokens": budget}, asked)
    return Plan(limit, thinking, asked.effort if asked.budget_tokens else None)


def _known(model: str, request: ChatRequest) -> Reasoning:
    """Return what is asked of a model's thinking, without what its generation does not know."""
    asked = request.reasoning or Reasoning()
    if version(model) >= _ADAPTIVE:
        return asked
    if version(model) < _FIRST:
        return without(request, ("reasoning",), model).reasoning or Reasoning()
    if asked.budget_tokens == -1:
        why = f"{model} has no budget of its own"
        request = without(request, ("reasoning.budget_tokens",), model, why)
    elif asked.budget_tokens:
        request = without(request, ("reasoning.effort",), f"{model} with a budget")
    asked = request.reasoning or asked
    if asked.effort is None and asked.budget_tokens is None:
        why = f"{model} needs an effort or a budget"
        request = without(request, ("reasoning.summary",), model, why)
    return request.reasoning or Reasoning()


def _budget(effort: Effort | None, max_tokens: int | None) -> int:
    """Return the budget for an effort, which leaves a fifth of the limit to the answer."""
    budget = _BUDGETS[effort or "medium"]
    return min(budget, max_tokens * 4 // 5) if max_tokens else budget


def _shown(thinking: Json, asked: Reasoning) -> Json:
    return thinking | given(display="summarized" if asked.summary else None)
