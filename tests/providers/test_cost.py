"""What answers cost, against what vendors really charged and against their pages' examples."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringcast.providers.spending.cost import Prices, cost
from ringcast.providers.spending.prices import listed
from ringcast.providers.wire.usage import (
    anthropic_usage,
    bedrock_usage,
    gemini_usage,
    openai_usage,
    responses_usage,
)
from ringcast.shm.tokens import Usage

TICKS = 10**10  # xAI tells what it charged in these parts of a dollar
PRICE = (3.0, 15.0, 0.3, 3.75)


def price(kind: str, model: str) -> Prices:
    found = listed(kind, model)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("given", "cached", "made", "reasoning", "ticks"),
    [
        (306, 192, 88, 87, 4_009_000),
        (475, 320, 91, 59, 4_852_500),
        (199, 128, 160, 152, 5_143_500),
        (235, 128, 1703, 1530, 44_168_500),
    ],
)
def test_responses_cost_what_xai_charged(
    given: int, cached: int, made: int, reasoning: int, ticks: int
) -> None:
    """grok-4.3's own figures, as recorded."""
    usage = responses_usage(
        {
            "input_tokens": given,
            "input_tokens_details": {"cached_tokens": cached},
            "output_tokens": made,
            "output_tokens_details": {"reasoning_tokens": reasoning},
            "total_tokens": given + made,
        }
    )
    assert cost(usage, price("xai", "grok-4.3"), "responses") == pytest.approx(ticks / TICKS)


@pytest.mark.parametrize(
    ("given", "cached", "reasoning", "total", "ticks"),
    [(291, 290, 196, 513, 1_330_500), (307, 306, 227, 560, 1_497_500)],
)
def test_a_chat_whose_reasoning_stands_beside_its_output_costs_what_xai_charged(
    given: int, cached: int, reasoning: int, total: int, ticks: int
) -> None:
    """grok-3-mini's own figures, as recorded."""
    usage = openai_usage(
        {
            "prompt_tokens": given,
            "completion_tokens": 26,
            "total_tokens": total,
            "prompt_tokens_details": {"cached_tokens": cached},
            "completion_tokens_details": {"reasoning_tokens": reasoning},
        }
    )
    assert cost(usage, (0.3, 0.5, 0.075, 0.3), "chat") == pytest.approx(ticks / TICKS)


@pytest.mark.parametrize(
    ("kind", "model", "given", "made", "charged"),
    [
        ("anthropic", "claude-haiku-4-5", 626, 106, 0.001156),
        ("anthropic", "claude-sonnet-4-5", 43, 36, 0.000669),
        ("openai", "gpt-5-nano", 20, 19, 0.0000086),
    ],
)
def test_a_listed_price_gives_what_openrouter_passed_on(
    kind: str, model: str, given: int, made: int, charged: float
) -> None:
    """It charges what the vendor does; these are recorded."""
    usage = Usage(given, made, given + made)
    assert cost(usage, price(kind, model), "chat") == pytest.approx(charged)


def test_openai_counts_what_was_cached_within_its_input() -> None:
    """2,006 prompt tokens of which 1,920 were cached, the example of OpenAI's page on caching."""
    usage = openai_usage(
        {
            "prompt_tokens": 2006,
            "completion_tokens": 300,
            "total_tokens": 2306,
            "prompt_tokens_details": {"cached_tokens": 1920},
            "completion_tokens_details": {"reasoning_tokens": 100},
        }
    )
    expected = (86 * 2.5 + 1920 * 1.25 + 300 * 10) / 1e6
    assert cost(usage, price("openai", "gpt-4o"), "chat") == pytest.approx(expected)


@pytest.mark.parametrize("api", ["messages", "converse", "invoke"])
def test_claude_counts_reads_and_writes_beside_its_input(api: str) -> None:
    """21 + 188,086 written + 393 out, then the same read, after Anthropic's page on caching."""
    names = ("input_tokens", "output_tokens")
    caches = ("cache_creation_input_tokens", "cache_read_input_tokens")
    first = anthropic_usage(dict(zip((*names, *caches), (21, 393, 188_086, 0), strict=True)))
    again = anthropic_usage(dict(zip((*names, *caches), (21, 393, 0, 188_086), strict=True)))
    rest = 21 * 3 + 393 * 15
    assert cost(first, PRICE, api) == pytest.approx((rest + 188_086 * 3.75) / 1e6)
    assert cost(again, PRICE, api) == pytest.approx((rest + 188_086 * 0.3) / 1e6)


def test_converse_costs_as_messages_do() -> None:
    usage = bedrock_usage(
        {
            "inputTokens": 10,
            "outputTokens": 20,
            "totalTokens": 4030,
            "cacheReadInputTokens": 3000,
            "cacheWriteInputTokens": 1000,
        }
    )
    expected = (10 * 3 + 20 * 15 + 3000 * 0.3 + 1000 * 3.75) / 1e6
    assert cost(usage, PRICE, "converse") == pytest.approx(expected)


def test_gemini_charges_thoughts_as_output_and_what_tools_brought_as_input() -> None:
    usage = gemini_usage(
        {
            "promptTokenCount": 1000,
            "cachedContentTokenCount": 400,
            "candidatesTokenCount": 50,
            "thoughtsTokenCount": 250,
            "toolUsePromptTokenCount": 70,
            "totalTokenCount": 1370,
        }
    )
    expected = ((600 + 70) * 1.25 + 400 * 0.125 + 300 * 10) / 1e6
    assert cost(usage, price("gemini", "gemini-2.5-pro"), "generate") == pytest.approx(expected)


def test_the_providers_own_word_wins() -> None:
    """Perplexity's covers the fee for its search, which no price of tokens does."""
    usage = openai_usage(
        {"prompt_tokens": 8, "completion_tokens": 5, "cost": {"total_cost": 0.00501}}
    )
    assert cost(usage, PRICE, "chat") == 0.00501
    assert cost(usage, None, "chat") == 0.00501


@pytest.mark.parametrize("told", [-1.0, float("nan"), float("inf")])
def test_what_is_no_amount_is_not_the_providers_word(told: float) -> None:
    usage = Usage(1_000_000, 0, cost=told)
    assert cost(usage, (2.0, 8.0, 2.0, 2.0), "chat") == 2.0
    assert cost(usage, None, "chat") is None


def test_without_a_price_or_a_count_nobody_knows() -> None:
    assert cost(Usage(1, 2, 3), None, "chat") is None
    assert cost(Usage(), PRICE, "chat") is None
    assert cost(Usage(total_tokens=3), PRICE, "chat") is None


def test_what_costs_nothing_costs_zero() -> None:
    assert cost(Usage(100, 200), (0.0, 0.0, 0.0, 0.0), "native") == 0.0


COUNT = st.none() | st.integers(0, 2**63 - 1)
APIS = ["chat", "completions", "responses", "messages", "converse", "invoke", "generate"]


@given(st.builds(Usage, COUNT, COUNT, COUNT, COUNT, COUNT, COUNT), st.sampled_from(APIS))
def test_whatever_is_counted_the_cost_is_an_amount(usage: Usage, api: str) -> None:
    dollars = cost(usage, PRICE, api)
    assert (dollars is None) == (usage.input_tokens is None and usage.output_tokens is None)
    if dollars is not None:
        assert math.isfinite(dollars)
        made = (usage.output_tokens or 0) * PRICE[1] / 1e6
        assert dollars >= made * 0.999999
