"""Finish reasons: the providers' words and what they mean to a client."""

from __future__ import annotations

from typing import Final

from ringcast.shm.tokens import FinishReason

MAX_REASON_CHARS: Final = 64

_MEANING: Final[dict[str, FinishReason]] = {
    # OpenAI: /docs/api-reference/chat/streaming
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "error": "error",
    "insufficient_system_resource": "error",
    # Anthropic: /en/api/handling-stop-reasons
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
    "pause_turn": "pause",
    "compaction": "pause",
}


def finish_reason(provider_reason: str | None) -> FinishReason:
    """The normalised reason; what is unknown is "other", and the raw word stays beside it."""
    return _MEANING.get(provider_reason or "", "other")
