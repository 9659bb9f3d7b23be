"""Token counts, read leniently: a stream never fails because of them.

Null means that the provider sent none. Counts are never negative, and never added up: within
one stream a later count replaces the earlier one, field by field.
"""

from __future__ import annotations

from typing import Any, Final

from ringcast.providers.wire.numbers import real, whole
from ringcast.shm.tokens import Usage

TICKS_A_DOLLAR: Final = 10**10  # xAI counts what it charges in these

_CACHE_READ: Final = (
    "prompt_cache_hit_tokens",
    "cached_tokens",
    "num_cached_tokens",
    "cache_read_input_tokens",
)


def openai_usage(usage: dict[str, Any]) -> Usage:
    """From a chat or completions chunk, in the dialects of DeepSeek, OpenRouter, Perplexity, xAI.

    What a cache gave and took has more names: Moonshot's and Mistral's (two), LiteLLM's.
    https://platform.openai.com/docs/api-reference/chat/streaming
    """
    prompt = _object(usage.get("prompt_tokens_details") or usage.get("prompt_token_details"))
    completion = _object(usage.get("completion_tokens_details"))
    return Usage(
        input_tokens=_count(usage.get("prompt_tokens")),
        output_tokens=_count(usage.get("completion_tokens")),
        total_tokens=_count(usage.get("total_tokens")),
        cache_read_tokens=_first(prompt.get("cached_tokens"), *map(usage.get, _CACHE_READ)),
        cache_write_tokens=_first(
            prompt.get("cache_write_tokens"), usage.get("cache_creation_input_tokens")
        ),
        reasoning_tokens=_first(completion.get("reasoning_tokens"), usage.get("reasoning_tokens")),
        cost=_cost(usage),
    )


def responses_usage(usage: dict[str, Any]) -> Usage:
    """From the `response` that ends a Responses stream; costs are told by OpenRouter and xAI.

    `input_tokens` includes what was cached, `output_tokens` includes reasoning.
    https://platform.openai.com/docs/api-reference/responses/object
    """
    given = _object(usage.get("input_tokens_details"))
    made = _object(usage.get("output_tokens_details"))
    return Usage(
        input_tokens=_count(usage.get("input_tokens")),
        output_tokens=_count(usage.get("output_tokens")),
        total_tokens=_count(usage.get("total_tokens")),
        cache_read_tokens=_count(given.get("cached_tokens")),
        cache_write_tokens=_count(given.get("cache_write_tokens")),
        reasoning_tokens=_count(made.get("reasoning_tokens")),
        cost=_cost(usage),
    )


def anthropic_usage(usage: dict[str, Any]) -> Usage:
    """From message_start or message_delta; `input_tokens` excludes what was cached.

    `output_tokens` includes thinking, of which the official SDKs tell no separate count. Costs
    are told by OpenRouter.
    https://docs.anthropic.com/en/api/messages-streaming
    """
    return Usage(
        input_tokens=_count(usage.get("input_tokens")),
        output_tokens=_count(usage.get("output_tokens")),
        cache_read_tokens=_count(usage.get("cache_read_input_tokens")),
        cache_write_tokens=_count(usage.get("cache_creation_input_tokens")),
        cost=_cost(usage),
    )


def gemini_usage(usage: dict[str, Any]) -> Usage:
    """From `usageMetadata`; `output_tokens` excludes thoughts, `input_tokens` includes the cached.

    https://ai.google.dev/api/generate-content#UsageMetadata
    """
    return Usage(
        input_tokens=_count(usage.get("promptTokenCount")),
        output_tokens=_count(usage.get("candidatesTokenCount")),
        total_tokens=_count(usage.get("totalTokenCount")),
        cache_read_tokens=_count(usage.get("cachedContentTokenCount")),
        reasoning_tokens=_count(usage.get("thoughtsTokenCount")),
    )


def interactions_usage(usage: dict[str, Any]) -> Usage:
    """From an interaction's `usage`; thoughts were called reasoning before May 2026.

    https://ai.google.dev/api/interactions-api#Resource:Usage
    """
    thoughts = _first(usage.get("total_thought_tokens"), usage.get("total_reasoning_tokens"))
    return Usage(
        input_tokens=_count(usage.get("total_input_tokens")),
        output_tokens=_count(usage.get("total_output_tokens")),
        total_tokens=_count(usage.get("total_tokens")),
        cache_read_tokens=_count(usage.get("total_cached_tokens")),
        reasoning_tokens=thoughts,
    )


def bedrock_usage(usage: dict[str, Any]) -> Usage:
    """From Converse's metadata or Nova's; `inputTokens` excludes what was cached.

    Older builds call the counts of the cache by longer names.
    https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_TokenUsage.html
    """
    read, written = "cacheReadInputToken", "cacheWriteInputToken"
    return Usage(
        input_tokens=_count(usage.get("inputTokens")),
        output_tokens=_count(usage.get("outputTokens")),
        total_tokens=_count(usage.get("totalTokens")),
        cache_read_tokens=_first(usage.get(f"{read}s"), usage.get(f"{read}Count")),
        cache_write_tokens=_first(usage.get(f"{written}s"), usage.get(f"{written}Count")),
    )


def invocation_usage(metrics: dict[str, Any]) -> Usage:
    """From `amazon-bedrock-invocationMetrics`, which the last chunk of any model carries."""
    return Usage(
        input_tokens=_count(metrics.get("inputTokenCount")),
        output_tokens=_count(metrics.get("outputTokenCount")),
        cache_read_tokens=_count(metrics.get("cacheReadInputTokenCount")),
        cache_write_tokens=_count(metrics.get("cacheWriteInputTokenCount")),
    )


def cohere_usage(meta: dict[str, Any]) -> Usage:
    """From an answer's `meta`: the tokens, which are more than those that are billed.

    https://docs.cohere.com/v1/reference/chat
    """
    tokens = _object(meta.get("tokens")) or _object(meta.get("billed_units"))
    return counted(tokens.get("input_tokens"), tokens.get("output_tokens"))


def counted(given: Any, made: Any) -> Usage:
    """From the counts of input and output, where a model tells no others."""
    return Usage(input_tokens=_count(given), output_tokens=_count(made))


def merged(old: Usage | None, new: Usage) -> Usage:
    """`old` overwritten by every field of `new` that is not null."""
    if old is None:
        return new
    fields = Usage.__struct_fields__
    return Usage(*(b if (b := getattr(new, f)) is not None else getattr(old, f) for f in fields))


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: Any) -> int | None:
    number = whole(value)
    return None if number is None else max(number, 0)


def _first(*values: Any) -> int | None:
    return next((n for value in values if (n := _count(value)) is not None), None)


def _cost(usage: dict[str, Any]) -> float | None:
    """US dollars: a number (OpenRouter), an object with `total_cost` (Perplexity), ticks (xAI).

    https://docs.x.ai/docs/api-reference
    """
    told = usage.get("cost")
    dollars = real(told["total_cost"] if isinstance(told, dict) and "total_cost" in told else told)
    ticks = real(usage.get("cost_in_usd_ticks"))
    if dollars is not None or ticks is None or ticks <= 0:  # Azure sells Grok and says 0
        return dollars
    return ticks / TICKS_A_DOLLAR
