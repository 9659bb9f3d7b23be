"""The configuration: one frozen tree, read once from TOML, passed down, never global.

Units are in the names (`_s`, `_bytes`). Keys of providers are never in the tree: a provider names
where its key comes from, and only its process resolves it.
"""

from __future__ import annotations

import re
from typing import Any, Final, Literal, TypeAlias

import msgspec

Kind: TypeAlias = Literal[
    "openai",
    "anthropic",
    "gemini",
    "bedrock",
    "azure",
    "vertex",
    "xai",
    "openrouter",
    "groq",
    "perplexity",
    "deepseek",
    "ollama",
    "openai-compatible",
]
# Other kinds are entry points of this group; only a provider process imports what they name.
KINDS_GROUP: Final = "ringcast.providers"

ROUTE: Final = "route"  # what stands for the provider where a route is asked


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a key comes from: exactly one of the four."""

    env: str | None = None
    file: str | None = None
    command: list[str] | None = None
    keyring: str | None = None


class Provider(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One upstream. `base_url` ends where the API's paths begin (usually in `/v1`).

    `kind` is a `Kind`, or what an installed package adds to them (providers/kinds.py).

    `resource` and `api_version` are Azure's (without a version its v1 API is spoken), `region` and
    `profile` AWS's, `project` and `location` Google's, and `credentials` the path of a Google
    credentials file; what is not given is looked for where the vendor's own tools look.
    `token_command` prints a bearer token that runs out, and is run again before it does.
    `keys` are several keys instead of one, used in turn. `requests_per_min`, `tokens_per_min` and
    `concurrency` hold for all its models and keys together; 0 is no limit but what it tells us.
    `allow_private` lets a public name lead to a private address. `http2` offers HTTP/2 where
    it is reached by https://.
    """

    kind: str
    base_url: str = ""
    key: Key | None = None
    token_command: list[str] | None = None
    headers: dict[str, str] = {}
    max_tokens: int = 4096
    resource: str = ""
    api_version: str = ""
    region: str = ""
    profile: str = ""
    project: str = ""
    location: str = ""
    credentials: str = ""
    keys: list[Key] = []
    requests_per_min: int = 0
    tokens_per_min: int = 0
    concurrency: int = 0
    allow_private: bool = False
    http2: bool = False


class Rings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sizes in bytes, powers of two. All rings together stay below 2 MiB by default."""

    in_bytes: int = 1 << 19
    out_bytes: int = 1 << 20


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds on what others may send, and on connections of one provider process to one host."""

    max_line_bytes: int = 8 << 20
    max_event_bytes: int = 16 << 20
    max_error_body_bytes: int = 64 << 10
    max_header_bytes: int = 64 << 10
    max_headers: int = 200
    max_request_bytes: int = 32 << 20
    max_answer_bytes: int = 8 << 20
    max_connections_per_host: int = 2048
    max_clients: int = 4096
    max_streams: int = 4096
    # A client that takes 835,000 tokens/s in batches of 64 says CREDIT 13,000 times a second.
    max_messages_per_s: int = 30_000
    max_window_bytes: int = 16 << 20
    drain_bytes: int = 64 << 10
    drain_s: float = 1.0


class Timeouts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Clocks of one request, in seconds; 0 switches a clock off.

    `idle_s` runs from one event to the next: keep-alives and pieces of an event do not wind it.
    """

    connect_s: float = 5.0
    first_byte_s: float = 120.0
    first_token_s: float = 300.0
    idle_s: float = 300.0
    total_s: float = 3600.0
    answer_s: float = 30.0
    keepalive_s: float = 60.0
    heartbeat_s: float = 5.0


class Credit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Flow control.

    `window_min_bytes` to `window_max_bytes`: raw bytes a stream may be ahead of its reader, by
    how fast that is; all streams together share `budget_bytes`. A reader that takes nothing
    for `stall_s` ends its stream; one that has left may come back for `lease_s`.
    """

    window_min_bytes: int = 1 << 10
    window_max_bytes: int = 256 << 10
    budget_bytes: int = 16 << 20
    client_window_bytes: int = 256 << 10
    lease_s: float = 30.0
    stall_s: float = 30.0


class Processes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many of each, and how long they may take."""

    providers: int = 1
    workers: int = 1
    ready_s: float = 10.0
    stop_s: float = 5.0
    hang_s: float = 5.0
    restarts: int = 5
    restart_window_s: float = 60.0


class Workers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What workers may load.

    `transforms` names entry points of the group `ringcast.transforms`; `ranks` are encodings of
    tiktoken that are loaded before the first process is forked.
    """

    transforms: list[str] = []
    ranks: list[str] = []


class Route(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"models": "try"}):
    """Models under one name, written `try`; the next is asked while nothing was said yet.

    `order`: as listed, by chance (`weights`, one for each), or the fastest first. `transforms` are
    for requests that name none.
    """

    models: list[str]
    order: Literal["listed", "weighted", "fastest"] = "listed"
    weights: list[float] = []
    transforms: list[Any] = []


class Retry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a request is sent again of which no token was seen.

    `attempts` — sendings in all. Before the second one there is a pause of up to `pause_s`, and
    each later one may be twice as long, up to `longest_pause_s`; what the provider asks for is the
    least, but no more than `max_retry_after_s` is waited for. Of all requests of the last
    minute to a provider, `budget_ratio` may be repetitions, and `budget_least` in any case.
    """

    attempts: int = 3
    pause_s: float = 0.5
    longest_pause_s: float = 60.0
    max_retry_after_s: float = 120.0
    budget_ratio: float = 0.2
    budget_least: int = 10


class Queue(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Requests to one provider that wait for its rate limit: how many, and for how long."""

    length: int = 1000
    wait_s: float = 60.0


class Breaker(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a provider is left alone for `open_s`, and then tried with one request.

    After `failures` in a row, or when of at least `least_calls` within `window_s` the part
    `failure_rate` has failed by its fault.
    """

    failures: int = 5
    open_s: float = 60.0
    window_s: float = 30.0
    failure_rate: float = 0.5
    least_calls: int = 20


class Health(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How often providers in use are asked whether they are well; 0 is never."""

    interval_s: float = 30.0


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """US dollars for a million tokens; without its own price a cached one costs as any other."""

    input: float
    output: float
    cache_read: float | None = None
    cache_write: float | None = None


class Usage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is kept of what was used, and the dollars a day after which nothing more is sent.

    `file` is an SQLite file, by default in `$XDG_STATE_HOME/ringcast`. `daily_usd` 0 is no limit.
    """

    keep: bool = True
    file: str = ""
    daily_usd: float = 0.0


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole tree. `prices` come before the bundled ones, by `PROVIDER/model`."""

    providers: dict[str, Provider] = {}
    rings: Rings = Rings()
    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()
    credit: Credit = Credit()
    processes: Processes = Processes()
    workers: Workers = Workers()
    routes: dict[str, Route] = {}
    retry: Retry = Retry()
    queue: Queue = Queue()
    breaker: Breaker = Breaker()
    health: Health = Health()
    prices: dict[str, Price] = {}
    usage: Usage = Usage()


BASE_URLS: dict[str, str] = {
    "openai": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com/v1",
    "gemini": "https://generativelanguage.googleapis.com/v1beta",
    "xai": "https://api.x.ai/v1",
    "openrouter": "https://openrouter.ai/api/v1",
    "groq": "https://api.groq.com/openai/v1",
    "perplexity": "https://api.perplexity.ai",
    "deepseek": "https://api.deepseek.com",
}
KEY_VARIABLES: dict[str, str] = {
    "openai": "OPENAI_API_KEY",
    "anthropic": "ANTHROPIC_API_KEY",
    "gemini": "GEMINI_API_KEY",
    "xai": "XAI_API_KEY",
    "openrouter": "OPENROUTER_API_KEY",
    "groq": "GROQ_API_KEY",
    "perplexity": "PERPLEXITY_API_KEY",
    "deepseek": "DEEPSEEK_API_KEY",
}
HTTP2_NEEDS: Final = "needs h2: pip install 'ringcast[http2]'"
ENCODINGS: Final = ("o200k_base", "o200k_harmony", "cl100k_base")
# Where these are, and who asks them, is found out where they are asked (providers/access.py).
FOUND: Final[tuple[Kind, ...]] = ("bedrock", "azure", "vertex", "ollama")
# What else their own tools take from the environment and is as secret as a key.
SECRET_VARIABLES: Final[dict[str, tuple[str, ...]]] = {
    "bedrock": (
        "AWS_BEARER_TOKEN_BEDROCK",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    ),
    "azure": ("AZURE_OPENAI_API_KEY",),
}


# What becomes part of a host's name or of a path may hold nothing that means something there.
plain_name = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?").fullmatch


def secret_variables(config: Config) -> set[str]:
    """Return the variables that hold secrets of the configured providers."""
    providers = config.providers.values()
    keys = [key for provider in providers for key in (provider.key, *provider.keys) if key]
    named = {key.env for key in keys if key.env}
    return named.union(*(SECRET_VARIABLES.get(provider.kind, ()) for provider in providers))


def complete(config: Config) -> Config:
    """Return the tree with the well-known providers added and every default filled in.

    What depends on the machine (a region, a project) is not: see `FOUND`.
    """
    providers: dict[str, Provider] = {kind: Provider(kind) for kind in FOUND}
    for kind in BASE_URLS:
        providers[kind] = Provider(kind)
    providers.update(config.providers)
    filled = {name: _filled(provider) for name, provider in providers.items()}
    return msgspec.structs.replace(config, providers=filled)


def _filled(provider: Provider) -> Provider:
    kind = provider.kind
    key = provider.key
    own_host = not provider.base_url or provider.base_url == BASE_URLS.get(kind)
    if key is None and not provider.keys and own_host and kind in KEY_VARIABLES:
        key = Key(env=KEY_VARIABLES[kind])
    base_url = (provider.base_url or BASE_URLS.get(kind, "")).rstrip("/")
    return msgspec.structs.replace(provider, key=key, base_url=base_url)
