"""What a model costs: what the configuration says, else the bundled table, else nothing.

The table (`prices.toml`) has the vendors' list prices of their usual tier. Not in it, so that no
guess looks like a price: tiers for long prompts, batches, priority and regions, hours of the day,
searches and other tools, discounts of one's own. A fine-tuned model and an Azure deployment, whose
name is its owner's choice, have no price; nor has a provider that is asked elsewhere than at its
vendor's own host, who may charge anything. Models on one's own Ollama cost nothing.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

from ringcast.config import BASE_URLS, Config, Price
from ringcast.providers.bedrock_model import foundation
from ringcast.providers.spending.cost import Prices

FREE: Final[Prices] = (0.0, 0.0, 0.0, 0.0)
# Where a kind's models stand, if not in a table of its own.
_TABLES: Final = {"vertex": ("gemini", "anthropic")}
# gpt-4o-2024-08-06, claude-sonnet-4-5-20250929, claude-sonnet-4-5@20250929, gpt-5-chat-latest
_SNAPSHOT: Final = re.compile(r"(?:-\d{4}-\d\d-\d\d|[-@]20\d{6}|[-@]latest|@default)\Z")
# gemini-2.5-flash-001, gemini-2.5-flash-preview-05-20, gemini-2.5-flash-preview-09-2025
_OF_GOOGLE: Final = re.compile(r"-(?:\d{3}|preview-\d\d-(?:\d\d|20\d\d))\Z")
# amazon.nova-lite-v1:0:300k, amazon.titan-text-lite-v1, openai.gpt-oss-20b-1:0
_VERSION: Final = re.compile(r"-(?:v\d+(?::\d+)?|\d+:\d+)(?::\w+)?\Z")


def price_of(config: Config, provider: str, model: str) -> Prices | None:
    """Return what a model costs at a provider, US dollars for a million tokens, or None.

    `[prices]` comes first: `PROVIDER/model`, then `PROVIDER/*` for all others of a provider.
    """
    own = config.prices.get(f"{provider}/{model}") or config.prices.get(f"{provider}/*")
    if own is not None:
        return _filled(own)
    settings = config.providers.get(provider)
    if settings is None or settings.base_url not in ("", BASE_URLS.get(settings.kind, "")):
        return None
    return listed(settings.kind, model)


def listed(kind: str, model: str) -> Prices | None:
    """Return the bundled price of a vendor's model, also by a dated or regional name, or None."""
    if kind == "ollama":
        return None if model.endswith("cloud") else FREE  # gpt-oss:120b-cloud is Ollama's host
    tables = [table for name in _TABLES.get(kind, (kind,)) if (table := bundled().get(name))]
    names = list(_NAMES.get(kind, _names)(model))
    return next((table[name] for name in names for table in tables if name in table), None)


@cache
def bundled() -> dict[str, dict[str, Prices]]:
    """Return the table in `prices.toml`, by kind and model."""
    tables = tomllib.loads(Path(__file__).with_name("prices.toml").read_text())
    return {
        kind: {model: _filled(Price(*prices)) for model, prices in table.items()}
        for kind, table in tables.items()
    }


def _filled(price: Price) -> Prices:
    read = price.input if price.cache_read is None else price.cache_read
    write = price.input if price.cache_write is None else price.cache_write
    return price.input, price.output, read, write


def _names(model: str) -> Iterator[str]:
    """Under what a model may stand in the table, the likeliest first."""
    yield model
    yield _SNAPSHOT.sub("", model)


def _google_names(model: str) -> Iterator[str]:
    """The same where Google serves, which has resource names and numbers its versions."""
    model = model.removeprefix("publishers/google/").removeprefix("models/")
    yield from _names(model)
    yield _OF_GOOGLE.sub("", model)


def _bedrock_names(model: str) -> Iterator[str]:
    """The same for Bedrock's ids, whose global profiles may be cheaper than the region's."""
    version = _VERSION.sub("", foundation(model))
    for name in (version, _SNAPSHOT.sub("", version)):
        if model.rpartition("/")[2].startswith("global."):
            yield f"global.{name}"
        yield name


_NAMES: Final = {"bedrock": _bedrock_names, "gemini": _google_names, "vertex": _google_names}
