"""Finish reasons: the providers' words and what they mean to a client."""

from __future__ import annotations

import reprlib
from typing import Any, Final

from ringcast.providers.wire.portable import whole_text
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
    # Servers that speak its API: TGI and Together, Mistral, vLLM and SGLang, Zhipu, Moonshot
    "eos_token": "stop",
    "eos": "stop",
    "end": "stop",
    "model_length": "length",
    "tool_call": "tool_calls",
    "sensitive": "content_filter",
    "abort": "error",
    "network_error": "error",
    # OpenAI Responses: /docs/api-reference/responses/object, `status` or `status:reason`
    "completed": "stop",
    "incomplete:max_output_tokens": "length",
    "incomplete:content_filter": "content_filter",
    "failed": "error",
    # Anthropic: /en/api/handling-stop-reasons
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
    "pause_turn": "pause",
    "compaction": "pause",
    # Bedrock: /bedrock/latest/APIReference/API_runtime_ConverseStream, then Titan's and Cohere's
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
    "malformed_model_output": "error",
    "malformed_tool_use": "error",
    "FINISH": "stop",
    "LENGTH": "length",
    "CONTENT_FILTERED": "content_filter",
    "COMPLETE": "stop",
    "STOP_SEQUENCE": "stop",
    "ERROR_TOXIC": "content_filter",
    "ERROR_LIMIT": "length",
    "ERROR": "error",
    # Ollama: github.com/ollama/ollama/blob/main/docs/api.md, a model loaded or unloaded
    "load": "pause",
    "unload": "pause",
    # Gemini: ai.google.dev/api/generate-content#FinishReason
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "LANGUAGE": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "MODEL_ARMOR": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "IMAGE_RECITATION": "content_filter",
    "IMAGE_OTHER": "content_filter",
    "MALFORMED_FUNCTION_CALL": "error",
    "MALFORMED_RESPONSE": "error",
    "UNEXPECTED_TOOL_CALL": "error",
    "TOO_MANY_TOOL_CALLS": "error",
    "MISSING_THOUGHT_SIGNATURE": "error",
    "OTHER": "error",
    "CONTINUATION": "pause",
    # Gemini's interactions, whose other words are those of Responses: their `status`
    "requires_action": "tool_calls",
    "incomplete": "length",
    "budget_exceeded": "length",
    "requires_continuation": "pause",
}


def finish_reason(provider_reason: str | None) -> FinishReason:
    """The normalised reason; what is unknown is "other", and the raw word stays beside it."""
    return _MEANING.get(provider_reason or "", "other")


def reason_word(said: Any) -> str | None:
    """What a provider gives for its reason as a short word; null and empty text are none."""
    if said is None or said == "":
        return None
    return whole_text(said if isinstance(said, str) else reprlib.repr(said))[:MAX_REASON_CHARS]
