"""What only Amazon's Nova can be told, and the body of its own API on Bedrock.

Source: docs.aws.amazon.com/nova/latest/nova2-userguide/request-response-schema.html.
"""

from __future__ import annotations

from typing import Final

from ringcast.providers.converse_message import conversation, tool_config, unmarked_for
from ringcast.providers.request import ChatRequest, Json, given, stops, without

LACKS: Final = (
    "frequency_penalty",
    "presence_penalty",
    "seed",
    "n",
    "logprobs",
    "top_logprobs",
    "metadata",
    "user",
    "cache_key",
    "parallel_tool_calls",
    "response_format",
    "reasoning.budget_tokens",
    "reasoning.summary",
)
_EFFORTS: Final = ("low", "medium", "high")


def body(model: str, request: ChatRequest) -> Json:
    """Return the body of Nova's own API, without the request's `extra`.

    Messages and tools are Converse's. Raises `RequestError` (bad_request).
    """
    request = unmarked_for("nova", without(request, LACKS, model))
    system, messages = conversation(request)
    inference = given(
        max_new_tokens=request.max_tokens,
        temperature=request.temperature,
        topP=request.top_p,
        topK=request.top_k,
        stopSequences=stops(request),
    )
    return given(
        schemaVersion="messages-v1",
        messages=messages,
        system=system or None,
        inferenceConfig=inference or None,
        toolConfig=tool_config(request),
        reasoningConfig=reasoning(request),
    )


def reasoning(request: ChatRequest) -> Json | None:
    """Return how much Nova 2 shall think: nothing, or one of three efforts."""
    effort = request.reasoning and request.reasoning.effort
    if effort == "none":
        return {"type": "disabled"}
    if effort is not None and effort not in _EFFORTS:
        without(request, ("reasoning.effort",), "", f"nova has none, {', '.join(_EFFORTS)}")
        return None
    return {"type": "enabled", "maxReasoningEffort": effort} if effort else None
