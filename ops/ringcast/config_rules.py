"""What must hold in a configuration beyond its types: ranges, names, what goes with what.

Every rule that is broken is a line that names the setting, its value and what it may be.
"""

from __future__ import annotations

import difflib
import re
from importlib.util import find_spec
from typing import Final, get_args

import msgspec

from ringcast.addresses import is_metadata
from ringcast.config import (
    BASE_URLS,
    ENCODINGS,
    FOUND,
    HTTP2_NEEDS,
    KINDS_GROUP,
    ROUTE,
    Config,
    Kind,
    Provider,
    Usage,
    plain_name,
)

# RFC 9110, 5.1: a header's name is a token.
_header = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
# The fields that only some kinds have.
_FIELDS: Final[dict[str, tuple[str, ...]]] = {
    "azure": ("resource", "api_version"),
    "bedrock": ("region", "profile"),
    "vertex": ("project", "location", "credentials"),
}
_BOUNDS: Final[dict[str, dict[str, tuple[float, float]]]] = {
    "retry": {
        "attempts": (1, 100),
        "pause_s": (0, 3600),
        "longest_pause_s": (0, 3600),
        "max_retry_after_s": (0, 86400),
        "budget_ratio": (0, 1),
        "budget_least": (0, 1_000_000),
    },
    "breaker": {
        "failures": (1, 1_000_000),
        "open_s": (0.1, 86400),
        "window_s": (1, 86400),
        "failure_rate": (0.01, 1),
        "least_calls": (1, 1_000_000),
    },
    "queue": {"length": (0, 1_000_000), "wait_s": (0, 86400)},
}
_MOST: Final = 1 << 40  # of what is bounded by its type's meaning only
_NAMES: Final = ("resource", "api_version", "region", "project", "location")


def problems_of(config: Config) -> list[str]:
    """Return a line for every rule that is broken."""
    problems: list[str] = []

    def need(condition: bool, text: str) -> None:
        if not condition:
            problems.append(text)

    for name in ("in_bytes", "out_bytes"):
        size: int = getattr(config.rings, name)
        need(
            size & (size - 1) == 0 and 1 << 16 <= size <= 1 << 28,
            f"rings.{name} = {size}: must be a power of two in {1 << 16}..{1 << 28}",
        )
    for name in ("providers", "workers"):
        count: int = getattr(config.processes, name)
        need(1 <= count <= 16, f"processes.{name} = {count}: must be in 1..16")
    for encoding in config.workers.ranks:
        need(
            encoding in ENCODINGS,
            f"workers.ranks: no encoding is called {encoding!r}; known are {', '.join(ENCODINGS)}",
        )
    for group in ("limits", "timeouts", "credit", "processes"):
        for field in msgspec.structs.fields(type(getattr(config, group))):
            value = getattr(getattr(config, group), field.name)
            need(0 <= value <= _MOST, f"{group}.{field.name} = {value}: must be in 0..{_MOST}")
    least_of = {"max_messages_per_s": 100, "max_window_bytes": 1024, "max_connections_per_host": 1}
    for name, least in least_of.items():
        value = getattr(config.limits, name)
        need(value >= least, f"limits.{name} = {value}: must be at least {least}")
    for group, bounds in _BOUNDS.items():
        for name, (low, high) in bounds.items():
            value = getattr(getattr(config, group), name)
            need(low <= value <= high, f"{group}.{name} = {value}: must be in {low}..{high}")
    problems += _bad_prices(config)
    problems += _bad_usage(config.usage)
    need(
        0 <= config.health.interval_s <= 86400,
        f"health.interval_s = {config.health.interval_s}: must be in 0 (never)..86400",
    )
    problems += _bad_routes(config)
    credit = config.credit
    need(
        1024 <= credit.window_min_bytes <= credit.window_max_bytes <= credit.budget_bytes,
        "credit: 1024 <= window_min_bytes <= window_max_bytes <= budget_bytes must hold",
    )
    for name, provider in config.providers.items():
        need(
            name.replace("-", "").replace("_", "").replace(".", "").isalnum(),
            f"providers.{name}: use letters, digits, - _ .",
        )
        if provider.base_url:
            need(
                provider.base_url.startswith(("http://", "https://")),
                f"providers.{name}.base_url: must begin with http:// or https://",
            )
            need(
                not is_metadata(provider.base_url),
                f"providers.{name}.base_url: leads to where machines keep their credentials",
            )
        for setting in ("requests_per_min", "tokens_per_min", "concurrency"):
            limit: int = getattr(provider, setting)
            need(
                0 <= limit <= _MOST,
                f"providers.{name}.{setting} = {limit}: must be in 0 (no limit)..{_MOST}",
            )
        problems += _unknown_kind(name, provider.kind) or _misplaced(name, provider)
        problems += _bad_keys(name, provider)
        problems += _bad_http2(name, provider)
        for header, value in provider.headers.items():
            need(
                bool(_header(header)) and value.isascii() and value.isprintable(),
                f"providers.{name}.headers.{header!r}: not a header's name, or not printable ASCII",
            )
    return problems


def _known(config: Config) -> list[str]:
    """Return the names of all providers, those of every configuration as well."""
    return sorted({*config.providers, *FOUND, *BASE_URLS})


def _bad_prices(config: Config) -> list[str]:
    """Say which prices are of nothing, and which are none."""
    known = _known(config)
    problems = []
    for model, price in config.prices.items():
        provider, _, of_provider = model.partition("/")
        if not of_provider:
            problems.append(f"prices.{model}: must be PROVIDER/model, or PROVIDER/* for all others")
        elif provider not in known:
            hint = nearest(provider, known, "")
            problems.append(f"prices.{model}: no provider {provider!r}{hint}")
        amounts = [amount for amount in msgspec.structs.astuple(price) if amount is not None]
        if not all(0 <= amount <= 1e6 for amount in amounts):
            text = "must be US dollars for a million tokens, 0 to 1,000,000"
            problems.append(f"prices.{model}: {text}")
    return problems


def _bad_usage(usage: Usage) -> list[str]:
    """Say what cannot be kept, or not be kept to."""
    problems = []
    if not 0 <= usage.daily_usd <= 1e9:
        text = "must be in 0 (no limit)..1,000,000,000"
        problems.append(f"usage.daily_usd = {usage.daily_usd}: {text}")
    if usage.daily_usd and not usage.keep:
        text = "needs usage.keep = true: else a restart forgets what was spent today"
        problems.append(f"usage.daily_usd: {text}")
    if usage.file[:1] not in ("", "/", "~"):
        text = "must begin with / or ~ (each command has its own working directory)"
        problems.append(f"usage.file = {usage.file!r}: {text}")
    return problems


def _bad_routes(config: Config) -> list[str]:
    """Say what is wrong with routes: their names, where they lead, how they choose."""
    known = _known(config)
    problems = []
    if ROUTE in config.providers:
        problems.append(f"providers.{ROUTE}: is what routes are addressed by; use another name")
    for name, route in config.routes.items():
        where = f"routes.{name}"
        if not name or "/" in name:
            problems.append(f"{where}: a route's name has no / in it")
        if not route.models:
            problems.append(f"{where}.try: name at least one PROVIDER/model")
        for model in route.models:
            provider, _, of_provider = model.partition("/")
            if not of_provider:
                problems.append(f"{where}.try: {model!r} is not PROVIDER/model")
            elif provider not in known:
                hint = nearest(provider, known, "")
                problems.append(f"{where}.try: no provider {provider!r}{hint}")
        weights, drawn = route.weights, route.order == "weighted"
        if len(weights) != (len(route.models) if drawn else 0):
            problems.append(f"{where}.weights: goes with order = 'weighted', one for each of try")
        if not all(0 <= weight <= 1e6 for weight in weights) or (weights and not any(weights)):
            problems.append(f"{where}.weights: must be in 0..1,000,000, and not all 0")
    return problems


def _unknown_kind(name: str, kind: str) -> list[str]:
    """Say that no such kind is built in or installed, with the nearest that is."""
    built_in = get_args(Kind)
    if kind in built_in:
        return []
    from importlib.metadata import entry_points  # 3.5 MB that only this needs

    known = [*built_in, *entry_points(group=KINDS_GROUP).names]
    if kind in known:
        return []
    near = difflib.get_close_matches(kind, known, 1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
    return [f"providers.{name}.kind = {kind!r}: unknown ({hint})"]


def _bad_keys(name: str, provider: Provider) -> list[str]:
    """Say what is wrong with where the keys come from."""
    where = f"providers.{name}"
    given = [] if provider.key is None else [(f"{where}.key", provider.key)]
    given += [(f"{where}.keys[{i}]", key) for i, key in enumerate(provider.keys)]
    problems: list[str] = []
    if provider.keys and (provider.key or provider.token_command is not None):
        problems.append(f"{where}: give keys or one key or token_command")
    for i, key in enumerate(provider.keys):
        if key in provider.keys[:i]:
            first = provider.keys.index(key)
            problems.append(f"{where}.keys[{i}]: is keys[{first}] once more")
    for place, key in given:
        sources = [source for source in msgspec.structs.astuple(key) if source is not None]
        if len(sources) != 1:
            problems.append(f"{place}: give one of env, file, command, keyring")
        if not all(sources):
            problems.append(f"{place}: must not be empty")
    return problems


def _bad_http2(name: str, provider: Provider) -> list[str]:
    """Say what HTTP/2 lacks: its library."""
    lacks = provider.http2 and find_spec("h2") is None
    return [f"providers.{name}.http2: {HTTP2_NEEDS}"] if lacks else []


def _misplaced(name: str, provider: Provider) -> list[str]:
    """Say what of a provider does not belong to its kind, is missing, or cannot be a name."""
    where = f"providers.{name}"
    has_place = provider.kind in BASE_URLS or provider.kind in FOUND
    problems = [] if provider.base_url or has_place else [f"{where}.base_url: needed for this kind"]
    problems += [
        f"{where}.{field}: goes with kind {kind}, not with {provider.kind}"
        for kind, fields in _FIELDS.items()
        for field in fields
        if kind != provider.kind and getattr(provider, field)
    ]
    problems += [
        f"{where}.{field}: use letters, digits and -"
        for field in _NAMES
        if (value := getattr(provider, field)) and not plain_name(value)
    ]
    if provider.token_command is not None:
        if not provider.token_command:
            problems.append(f"{where}.token_command: must not be empty")
        if provider.key is not None:
            problems.append(f"{where}: give key or token_command, not both")
        if provider.kind == "bedrock":
            problems.append(f"{where}.token_command: not for bedrock (AWS has credential_process)")
    return problems


def nearest(name: str, known: list[str], where: str) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f" (did you mean {where}{near[0]}?)" if near else ""
