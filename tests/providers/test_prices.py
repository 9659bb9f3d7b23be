"""What models cost: the bundled table, the names under which it is asked, and the configuration."""

from __future__ import annotations

import pytest

from ringcast.config import Config, Price, Provider, complete
from ringcast.config_file import parse
from ringcast.errors import ConfigError
from ringcast.providers.spending.cost import Prices
from ringcast.providers.spending.prices import FREE, bundled, listed, price_of

SONNET = (3.0, 15.0, 0.3, 3.75)
TABLE = [(kind, model, p) for kind, table in bundled().items() for model, p in table.items()]


def test_each_vendor_has_a_table() -> None:
    assert {"openai", "anthropic", "gemini", "bedrock", "xai"} <= bundled().keys()
    assert {"groq", "perplexity", "deepseek"} <= bundled().keys()


@pytest.mark.parametrize(("kind", "model", "price"), TABLE)
def test_a_listed_price_is_plausible(kind: str, model: str, price: Prices) -> None:
    input, output, read, write = price
    assert 0 < input <= output <= 200
    assert 0 < read <= input
    assert input <= write <= 1.25 * input
    assert listed(kind, model) == price  # under the very name that a vendor uses


def test_a_global_profile_costs_what_its_maker_asks_and_a_region_no_less() -> None:
    bedrock = bundled()["bedrock"]
    for model, price in bedrock.items():
        if model.startswith("global."):
            plain = model.removeprefix("global.")
            assert bedrock[plain] == pytest.approx(tuple(1.1 * each for each in price))
            maker, _, name = plain.partition(".")
            assert bundled().get(maker, {}).get(name, price) == price


@pytest.mark.parametrize(
    ("kind", "model", "same"),
    [
        ("openai", "gpt-4o-2024-08-06", "gpt-4o"),
        ("openai", "gpt-5-chat-latest", "gpt-5-chat"),
        ("anthropic", "claude-sonnet-4-5-20250929", "claude-sonnet-4-5"),
        ("anthropic", "claude-3-7-sonnet-latest", "claude-3-7-sonnet"),
        ("gemini", "models/gemini-2.5-pro", "gemini-2.5-pro"),
        ("gemini", "gemini-2.5-flash-001", "gemini-2.5-flash"),
        ("gemini", "gemini-2.5-flash-preview-05-20", "gemini-2.5-flash"),
        ("gemini", "gemini-2.5-flash-lite-preview-09-2025", "gemini-2.5-flash-lite"),
        ("xai", "grok-4.5-latest", "grok-4.5"),
    ],
)
def test_a_dated_name_costs_as_the_model(kind: str, model: str, same: str) -> None:
    assert listed(kind, model) == bundled()[kind][same]


def test_a_snapshot_with_a_price_of_its_own_keeps_it() -> None:
    assert listed("openai", "gpt-4o-2024-05-13") == (5.0, 15.0, 5.0, 5.0)


@pytest.mark.parametrize(
    ("model", "same"),
    [
        ("claude-sonnet-4-5@20250929", ("anthropic", "claude-sonnet-4-5")),
        ("claude-opus-4-8@default", ("anthropic", "claude-opus-4-8")),
        ("gemini-2.5-flash", ("gemini", "gemini-2.5-flash")),
        ("publishers/google/models/gemini-2.5-pro-002", ("gemini", "gemini-2.5-pro")),
    ],
)
def test_vertex_costs_as_gemini_and_claude_do(model: str, same: tuple[str, str]) -> None:
    kind, name = same
    assert listed("vertex", model) == bundled()[kind][name]


ARN = "arn:aws:bedrock:us-east-1:123456789012"


@pytest.mark.parametrize(
    ("model", "input"),
    [
        ("anthropic.claude-sonnet-4-5-20250929-v1:0", 3.3),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", 3.3),
        ("global.anthropic.claude-sonnet-4-5-20250929-v1:0", 3.0),
        (f"{ARN}:inference-profile/global.anthropic.claude-sonnet-4-5-20250929-v1:0", 3.0),
        (f"{ARN}:inference-profile/eu.anthropic.claude-opus-4-6-v1", 5.5),
        ("global.anthropic.claude-sonnet-4-20250514-v1:0", 3.0),
        ("apac.amazon.nova-lite-v1:0", 0.06),
        ("amazon.nova-lite-v1:0:300k", 0.06),
        ("arn:aws:bedrock:us-east-1::foundation-model/meta.llama3-1-8b-instruct-v1:0", 0.22),
        ("openai.gpt-oss-20b-1:0", 0.07),
        ("amazon.titan-text-lite-v1", 0.15),
    ],
)
def test_bedrock_is_asked_by_ids_profiles_and_arns(model: str, input: float) -> None:
    price = listed("bedrock", model)
    assert price is not None
    assert price[0] == input


@pytest.mark.parametrize(
    ("kind", "model"),
    [
        ("openai", "ft:gpt-4o-mini-2024-07-18:acme::B1x"),
        ("openai", "ft:gpt-4o"),
        ("openai", "gpt-99"),
        ("openai", ""),
        ("azure", "gpt-4o"),
        ("gemini", "tunedModels/gemini-2.5-pro"),
        ("gemini", "gemini-2.5-flash-preview-tts"),
        ("openai", "gpt-4o-001"),
        ("bedrock", f"{ARN}:custom-model/amazon.nova-lite-v1:0:300k/abc123"),
        ("bedrock", f"{ARN}:application-inference-profile/k2hdv0zl"),
        ("bedrock", f"{ARN}:provisioned-model/anthropic"),
        ("openrouter", "openai/gpt-4o"),
        ("openai-compatible", "gpt-4o"),
        ("ollama", "gpt-oss:120b-cloud"),
    ],
)
def test_what_is_not_known_has_no_price(kind: str, model: str) -> None:
    assert listed(kind, model) is None


def test_ones_own_ollama_costs_nothing() -> None:
    assert listed("ollama", "llama3.2") == FREE


def configured(**prices: Price) -> Config:
    providers = {
        "mine": Provider("anthropic"),
        "elsewhere": Provider("anthropic", base_url="http://127.0.0.1:9/v1"),
    }
    return complete(Config(providers, prices={k.replace("__", "/"): p for k, p in prices.items()}))


def test_a_provider_of_any_name_costs_as_its_kind() -> None:
    assert price_of(configured(), "mine", "claude-sonnet-4-5") == SONNET
    assert price_of(configured(), "anthropic", "claude-sonnet-4-5") == SONNET
    assert price_of(configured(), "nobody", "claude-sonnet-4-5") is None


def test_another_host_than_the_vendors_may_charge_anything() -> None:
    assert price_of(configured(), "elsewhere", "claude-sonnet-4-5") is None


def test_the_configuration_comes_first_and_its_exact_names_before_the_rest() -> None:
    config = parse(
        """
        [providers]
        mine = { kind = "anthropic" }
        elsewhere = { kind = "anthropic", base_url = "http://127.0.0.1:9/v1" }
        [prices]
        "mine/claude-sonnet-4-5" = { input = 1, output = 2, cache_read = 0.5 }
        "elsewhere/*" = { input = 3, output = 4, cache_write = 0 }
        "elsewhere/dear" = { input = 5, output = 6 }
        """
    )
    full = complete(config)
    assert price_of(full, "mine", "claude-sonnet-4-5") == (1, 2, 0.5, 1)
    assert price_of(full, "mine", "claude-sonnet-4") == SONNET
    assert price_of(full, "elsewhere", "claude-sonnet-4-5") == (3, 4, 3, 0)
    assert price_of(full, "elsewhere", "dear") == (5, 6, 5, 5)


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ('[prices]\n"gpt-4o" = { input = 1, output = 2 }', "prices.gpt-4o"),
        ('[prices]\n"groq/b" = { input = -1, output = 2 }', "prices.groq/b"),
        ('[prices]\n"groq/b" = { input = nan, output = 2 }', "prices.groq/b"),
        ('[prices]\n"groq/b" = { input = 1, output = 2, cache_write = inf }', "prices.groq/b"),
        ('[prices]\n"groq/b" = { input = 1 }', "prices.groq/b.output"),
        ("[usage]\ndaily_usd = -5", "usage.daily_usd"),
        ("[usage]\ndaily_usd = nan", "usage.daily_usd"),
        ('[usage]\nkeep = "no"', "usage.keep"),
    ],
)
def test_a_wrong_price_or_budget_is_refused_by_its_name(text: str, setting: str) -> None:
    with pytest.raises(ConfigError, match=setting.replace(".", r"\.")):
        parse(text)
