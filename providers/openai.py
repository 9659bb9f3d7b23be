"""Request shaping for OpenAI and every server that speaks its API.

Sources: platform.openai.com/docs/api-reference/chat and /completions; the compatible
servers' own pages for what they leave out. `responses` shapes the third API.
"""

from __future__ import annotations

from typing import Final

from ringcast.providers import responses
from ringcast.providers.request import Call, ChatRequest, CompletionRequest, given, refuse
from ringcast.providers.vendor import AnyRequest, Capabilities, Vendor
from ringcast.shm.records import Cursor

# OpenAI's reasoning models refuse `max_tokens`; most compatible servers know nothing else.
_NEW_LIMIT: Final = {"openai"}


class OpenAI(Vendor):
    """OpenAI, and the servers that speak its API."""

    apis = ("chat", "completions", "responses")

    def generate(self, model: str, request: AnyRequest) -> Call:
        """Return the call for chat completions, or for Responses or legacy completions."""
        match self.api(request):
            case "responses":
                return responses.shape(self.config.kind, model, request)
            case "completions":
                return _completions(model, request)
            case _:
                return _chat(self.config.kind, model, request)

    def capabilities(self, model: str = "") -> Capabilities:
        """Return what can be asked for."""
        return Capabilities(list(self.apis))

    def reattach(self, api: str, cursor: Cursor) -> Call:
        """Return the GET that goes on with a background response."""
        return Call(responses.reattach(cursor), method="GET")

    def recall(self, api: str, cursor: Cursor) -> Call:
        """Return the call that cancels a background response."""
        return Call(responses.cancel_path(cursor))


def _chat(kind: str, model: str, request: AnyRequest) -> Call:
    if isinstance(request, CompletionRequest):
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


def _completions(model: str, request: AnyRequest) -> Call:
    if isinstance(request, ChatRequest):
        raise refuse("messages", "legacy completions take a prompt and no tools")
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
