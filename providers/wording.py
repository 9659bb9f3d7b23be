"""The wording of a request: what a provider is given that counts the tokens of a text."""

from __future__ import annotations

from ringcast.providers.chat_form import content_parts
from ringcast.providers.request import ChatRequest, CompletionRequest


def wording(request: ChatRequest | CompletionRequest) -> str | None:
    """Return all that is said in a request, None if there is more in it than text."""
    if isinstance(request, CompletionRequest):
        return request.prompt
    if request.tools or any(message.get("tool_calls") for message in request.messages):
        return None
    said = [part for message in request.messages for part in content_parts(message.get("content"))]
    texts = [part.get("text") for part in said]
    return "\n".join(map(str, texts)) if all(isinstance(text, str) for text in texts) else None
