"""Request shaping for OpenAI and every server that speaks its API.

Sources: platform.openai.com/docs/api-reference/chat and /completions; the compatible
servers' own pages for what they leave out. `responses` shapes the third API.
"""

from __future__ import annotations

from typing import Final

from ringcast.providers import responses
from ringcast.providers.request import Call, Request, given, refuse

# OpenAI's reasoning models refuse `max_tokens`; most compatible servers know nothing else.
_NEW_LIMIT: Final = {"openai"}


def shape(kind: str, model: str, request: Request) -> Call:
    """Return the call for chat completions, or for Responses or legacy completions when asked.

    Raises `RequestError` (bad_request) naming a field that the API does not have.
    """
    if (request.api or "chat") == "chat":
        return _chat(kind, model, request)
    if request.api == "completions":
        return _completions(model, request)
    if request.api == "responses":
        return responses.shape(kind, model, request)
    raise refuse("api", f"{kind} has chat, completions and responses, not {request.api}")


def _chat(kind: str, model: str, request: Request) -> Call:
    if request.messages is None:
        raise refuse("prompt", "chat takes messages; ask for api=completions to send a prompt")
    limit = "max_completion_tokens" if kind in _NEW_LIMIT else "max_tokens"
    body = given(
        model=model,
        messages=request.messages,
        stream=True,
        stream_options=None if kind == "perplexity" else {"include_usage": True},
        temperature=request.temperature,
        top_p=request.top_p,
        stop=request.stop,
        seed=request.seed,
        n=request.n,
        tools=request.tools,
        tool_choice=request.tool_choice,
        **{limit: request.max_tokens},
    )
    return Call("/chat/completions", body | request.extra)


def _completions(model: str, request: Request) -> Call:
    for field in ("messages", "tools", "tool_choice"):
        if getattr(request, field) is not None:
            raise refuse(field, "legacy completions take a prompt and no tools")
    body = given(
        model=model,
        prompt=request.prompt,
        stream=True,
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        stop=request.stop,
        seed=request.seed,
        n=request.n,
    )
    return Call("/completions", body | request.extra)
