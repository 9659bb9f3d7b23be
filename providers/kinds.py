"""The kinds of providers, and the vendor that speaks for each.

Most are built in. A package adds others as entry points of the group `ringcast.providers`, each of
them a subclass of `Vendor`, by the name that a configuration gives as `kind`:

[project.entry-points."ringcast.providers"]
mine = "my_package:Mine"

It is imported when a provider of that kind is first opened, and never otherwise.
"""

from __future__ import annotations

import difflib
from functools import cache
from typing import TYPE_CHECKING, Final, get_args

from ringcast.config import KINDS_GROUP, Provider
from ringcast.errors import ConfigError
from ringcast.providers.anthropic import Anthropic
from ringcast.providers.azure import Azure
from ringcast.providers.bedrock import Bedrock
from ringcast.providers.compatible import Compatible
from ringcast.providers.deepseek import DeepSeek
from ringcast.providers.gemini import Gemini
from ringcast.providers.groq import Groq
from ringcast.providers.ollama import Ollama
from ringcast.providers.openai import OpenAI
from ringcast.providers.openrouter import OpenRouter
from ringcast.providers.perplexity import Perplexity
from ringcast.providers.request import Api
from ringcast.providers.vendor import Vendor
from ringcast.providers.vertex import Vertex
from ringcast.providers.wire.printable import printable
from ringcast.providers.xai import XAI

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

_VENDORS: Final[dict[str, type[Vendor]]] = {
    "openai": OpenAI,
    "anthropic": Anthropic,
    "gemini": Gemini,
    "bedrock": Bedrock,
    "azure": Azure,
    "vertex": Vertex,
    "xai": XAI,
    "openrouter": OpenRouter,
    "groq": Groq,
    "perplexity": Perplexity,
    "deepseek": DeepSeek,
    "ollama": Ollama,
    "openai-compatible": Compatible,
}


def names() -> list[str]:
    """Return all kinds: those built in, and then those installed."""
    from importlib.metadata import entry_points  # 3.5 MB that only this needs

    return list(dict.fromkeys([*_VENDORS, *sorted(entry_points(group=KINDS_GROUP).names)]))


def vendor(config: Provider) -> Vendor:
    """Return what speaks for a configured provider.

    Raises `ConfigError`: for an unknown kind with the nearest one, for one that is installed but
    cannot be used with its distribution.
    """
    built_in = _VENDORS.get(config.kind)
    if built_in is not None:
        return built_in(config)
    installed = _installed(config.kind)
    try:
        return installed(config)
    except Exception as error:  # of another author: this provider's matter, not the process's
        raise _unusable(_entry_point(config.kind), f"cannot be opened: {_said(error)}") from None


@cache
def _installed(kind: str) -> type[Vendor]:
    """Import what speaks for a kind of another author."""
    found = _entry_point(kind)
    try:
        loaded = found.load()
    except Exception as error:
        raise _unusable(found, f"cannot be imported: {_said(error)}") from None
    if not (isinstance(loaded, type) and issubclass(loaded, Vendor)):
        raise _unusable(found, "is no subclass of Vendor")
    if lacking := sorted(loaded.__abstractmethods__):
        raise _unusable(found, f"lacks {', '.join(lacking)}")
    if not set(getattr(loaded, "apis", ())).intersection(get_args(Api)):
        raise _unusable(found, f"has no apis; there are {', '.join(get_args(Api))}")
    return loaded


def _entry_point(kind: str) -> EntryPoint:
    from importlib.metadata import entry_points  # 3.5 MB that only this needs

    found = list(entry_points(group=KINDS_GROUP, name=kind))
    if not found:
        near = difflib.get_close_matches(kind, known := names(), 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        raise ConfigError(f"unknown kind of provider {kind!r} ({hint})")
    if len(found) > 1:
        whose = " and ".join(map(_distribution, found))
        raise ConfigError(f"kind {kind!r} comes with {whose}: uninstall one of them")
    return found[0]


def _unusable(found: EntryPoint, why: str) -> ConfigError:
    return ConfigError(f"kind {found.name!r}: {found.value} of {_distribution(found)} {why}")


def _distribution(found: EntryPoint) -> str:
    return "an unnamed distribution" if found.dist is None else found.dist.name


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {printable(str(error), 200)}"
