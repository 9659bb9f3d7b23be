"""Request shaping for Perplexity: chat completions whose answers come from a search.

What to search (`search_domain_filter`, `search_recency_filter`, `web_search_options`,
`return_images`, …) goes into `extra`. Source: docs.perplexity.ai/api-reference.
"""

from __future__ import annotations

from typing import ClassVar

from ringcast.providers.chat_form import content_parts, split
from ringcast.providers.openai import OpenAI
from ringcast.providers.request import Api, ChatRequest, Json, R, given, refuse
from ringcast.providers.vendor import AnyRequest, Capabilities


class Perplexity(OpenAI):
    """Perplexity. Streams have the usage without being asked for it, and tools there are none."""

    apis: ClassVar[tuple[Api, ...]] = ("chat",)
    # Old keys cannot list models, and are told so.
    alive = (400, 404)
    lacks: ClassVar = {
        "chat": (
            *("stop", "seed", "n", "logprobs", "top_logprobs", "metadata", "user", "cache_key"),
            *("tools", "tool_choice", "parallel_tool_calls"),
            *("reasoning.budget_tokens", "reasoning.summary"),
        ),
    }
    limit = "max_tokens"
    asks_for_usage = False
    has_developer = False

    def api(self, request: AnyRequest) -> Api:
        """Return the API that a request means."""
        if isinstance(request, ChatRequest):
            return super().api(request)
        raise refuse("prompt", "perplexity takes messages")

    def model_lacks(self, model: str, request: R) -> tuple[str, ...]:
        """Return nothing: it routes to others' models as well."""
        return ()

    def chat_body(self, model: str, request: ChatRequest) -> Json:
        """Return the body; instructions come first in it, then both sides take turns."""
        body = super().chat_body(model, request)
        return body | given(messages=_turns(body["messages"]), top_k=request.top_k)

    def capabilities(self, model: str = "") -> Capabilities:
        """Return what can be asked for."""
        return Capabilities(list(self.apis), images=True, json_schema=True, reasoning=True)

    def count(self, model: str, request: AnyRequest) -> None:
        """Return None: there is no such call."""


def _turns(messages: list[Json]) -> list[Json]:
    system, rest = split(messages)
    if rest[0]["role"] != "user":
        raise refuse("messages", "the user must begin")
    turns: list[Json] = []
    for message in system + rest:
        if message["role"] == "tool" or message.get("tool_calls"):
            raise refuse("messages[].tool_calls", "perplexity has no tools")
        if turns and turns[-1]["role"] == message["role"]:
            turns[-1] = _joined(turns[-1], message)
        else:
            turns.append(message)
    return turns


def _joined(one: Json, other: Json) -> Json:
    """Return two messages of one role as one."""
    contents = one.get("content"), other.get("content")
    if all(isinstance(content, str) for content in contents):
        return one | {"content": "\n\n".join(map(str, contents))}
    return one | {"content": [part for content in contents for part in content_parts(content)]}
