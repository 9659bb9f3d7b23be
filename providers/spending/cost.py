"""What an answer cost, from its token counts and its model's price.

| API                            | `input_tokens`                | `output_tokens`              |
|--------------------------------|-------------------------------|------------------------------|
| chat, completions, responses   | with what the cache gave      | with reasoning; xAI's without|
| generate, interactions         | with what the cache gave      | without thoughts             |
| messages, converse, invoke     | without reads, without writes | with thinking                |

All that a model wrote is charged as output, thoughts as well. Of Gemini's prompt tokens those that
a tool brought in stand in the total only. Sources: the vendors' pages that `prices.toml` names, and
the docstrings of `wire/usage.py`.
"""

from __future__ import annotations

from math import inf
from typing import Final, TypeAlias

from ringcast.shm.tokens import Usage

# US dollars for a million tokens: input, output, cache read, cache write.
Prices: TypeAlias = tuple[float, float, float, float]

MILLION: Final = 1_000_000
_CACHE_APART: Final = ("messages", "converse", "invoke")
_THOUGHTS_APART: Final = ("generate", "interactions")


def cost(usage: Usage, price: Prices | None, api: str) -> float | None:
    """Return US dollars, or None where neither the provider nor a price tells.

    What the provider itself says that it charges (OpenRouter, Perplexity) always wins, if it is an
    amount: -1 and NaN are none.
    """
    if usage.cost is not None and 0 <= usage.cost < inf:
        return usage.cost
    if price is None or (usage.input_tokens is None and usage.output_tokens is None):
        return None
    read, written = usage.cache_read_tokens or 0, usage.cache_write_tokens or 0
    counts = (_plain_input(usage, api), _output(usage, api), read, written)
    return sum(tokens * each for tokens, each in zip(counts, price, strict=True)) / MILLION


def _plain_input(usage: Usage, api: str) -> int:
    """Return the prompt's tokens that were neither read from a cache nor written to one."""
    given = usage.input_tokens or 0
    if api in _CACHE_APART:
        return given
    if api in _THOUGHTS_APART and usage.total_tokens is not None:
        given = max(given, usage.total_tokens - _output(usage, api))
    return max(given - (usage.cache_read_tokens or 0) - (usage.cache_write_tokens or 0), 0)


def _output(usage: Usage, api: str) -> int:
    """Return all that the model wrote, also to itself."""
    made, thoughts = usage.output_tokens or 0, usage.reasoning_tokens or 0
    total = (usage.input_tokens or 0) + made + thoughts
    apart = api in _THOUGHTS_APART or (api == "chat" and usage.total_tokens == total)
    return made + thoughts if apart else made
