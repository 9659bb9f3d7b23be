"""The configuration: one frozen tree, read once from TOML, passed down, never global.

Units are in the names (`_s`, `_bytes`). Unknown keys are refused with the nearest known
one; every problem is reported, not only the first. Keys of providers are never in the
tree: a provider names where its key comes from, and only its process resolves it.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args, get_origin

import msgspec

from ringcast.errors import ConfigError

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

Json: TypeAlias = dict[str, Any]

MAX_CONFIG_BYTES: Final = 1 << 20
# RFC 9110, 5.1: a header's name is a token.
_header = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a key comes from: exactly one of the four."""

    env: str | None = None
    file: str | None = None
    command: list[str] | None = None
    keyring: str | None = None


class Provider(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One upstream. `base_url` ends where the API's paths begin (usually in `/v1`).

    `resource` and `api_version` are Azure's (without a version its v1 API is spoken), `region` and
    `profile` AWS's, `project` and `location` Google's, and `credentials` the path of a Google
    credentials file; what is not given is looked for where the vendor's own tools look.
    `token_command` prints a bearer token that runs out, and is run again before it does.
    """

    kind: Kind
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


class Rings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sizes in bytes, powers of two. All rings together stay below 2 MiB by default."""

    in_bytes: int = 1 << 19
    out_bytes: int = 1 << 20


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds on what others may send."""

    max_line_bytes: int = 8 << 20
    max_event_bytes: int = 16 << 20
    max_error_body_bytes: int = 64 << 10
    max_header_bytes: int = 64 << 10
    max_headers: int = 200
    max_request_bytes: int = 32 << 20
    max_answer_bytes: int = 8 << 20
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
    """What workers may load. `transforms` names entry points of the group `ringcast.transforms`."""

    transforms: list[str] = []


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole tree."""

    providers: dict[str, Provider] = {}
    rings: Rings = Rings()
    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()
    credit: Credit = Credit()
    processes: Processes = Processes()
    workers: Workers = Workers()


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
# The fields that only some kinds have.
_FIELDS: Final[dict[str, tuple[str, ...]]] = {
    "azure": ("resource", "api_version"),
    "bedrock": ("region", "profile"),
    "vertex": ("project", "location", "credentials"),
}
_NAMES: Final = ("resource", "api_version", "region", "project", "location")
# What becomes part of a host's name or of a path may hold nothing that means something there.
plain_name = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?").fullmatch


def secret_variables(config: Config) -> set[str]:
    """Return the variables that hold secrets of the configured providers."""
    providers = config.providers.values()
    named = {provider.key.env for provider in providers if provider.key and provider.key.env}
    return named.union(*(SECRET_VARIABLES.get(provider.kind, ()) for provider in providers))


def complete(config: Config) -> Config:
    """Return the tree with the well-known providers added and every default filled in.

    What depends on the machine (a region, a project) is not: see `FOUND`.
    """
    providers: dict[str, Provider] = {kind: Provider(kind) for kind in FOUND}
    for kind in BASE_URLS:
        providers[kind] = Provider(kind)  # type: ignore[arg-type]  # every key is a Kind
    providers.update(config.providers)
    filled = {name: _filled(provider) for name, provider in providers.items()}
    return msgspec.structs.replace(config, providers=filled)


def _filled(provider: Provider) -> Provider:
    kind = provider.kind
    key = provider.key
    own_host = not provider.base_url or provider.base_url == BASE_URLS.get(kind)
    if key is None and own_host and kind in KEY_VARIABLES:
        key = Key(env=KEY_VARIABLES[kind])
    base_url = (provider.base_url or BASE_URLS.get(kind, "")).rstrip("/")
    return msgspec.structs.replace(provider, key=key, base_url=base_url)


def default_path() -> Path:
    """Return where the configuration is looked for: `$RINGCAST_CONFIG`, else the XDG place."""
    named = os.environ.get("RINGCAST_CONFIG")
    if named:
        return Path(named).expanduser()
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "ringcast" / "config.toml"


def load(path: Path | None = None) -> Config:
    """Read, check and complete the configuration; no file at the XDG place is fine.

    Raises `ConfigError` naming the file and every setting at fault.
    """
    chosen = path or default_path()
    if path is None and not os.environ.get("RINGCAST_CONFIG") and not chosen.exists():
        return complete(Config())
    config = parse(_read(chosen), str(chosen))
    return complete(config)


def _read(path: Path) -> str:
    try:
        if not path.is_file():
            raise ConfigError(
                f"{path}: {'not a regular file' if path.exists() else 'no such file'}"
            )
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    if len(data) > MAX_CONFIG_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 (byte {error.start})") from None


def parse(text: str, source: str = "config") -> Config:
    """Turn TOML into the tree. Raises `ConfigError` listing all problems at once."""
    try:
        tree = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also numbers of 5,000 digits, deep arrays
        raise ConfigError(f"{source}: {error}") from None
    problems: list[str] = []
    sound = _sifted(tree, Config, "", problems)
    config = msgspec.convert(sound, Config)
    problems += _ranges(config)
    if problems:
        raise ConfigError("\n".join(f"{source}: {problem}" for problem in problems))
    return config


def _sifted(tree: Json, shape: Any, where: str, problems: list[str]) -> Json | None:
    """Return what of a table fits `shape`, None if too little does; note what does not."""
    fields = {field.name: field for field in msgspec.structs.fields(shape)}
    sound: Json = {}
    for name, value in tree.items():
        if name not in fields:
            problems.append(f"unknown setting {where}{name}{_hint(name, list(fields), where)}")
        elif (fitting := _fitting(value, fields[name].type, where + name, problems)) is not None:
            sound[name] = fitting
    needed = {field.name for field in fields.values() if field.required}
    problems += [f"{where}{name}: must be given" for name in sorted(needed - tree.keys())]
    return sound if needed <= sound.keys() else None


def _fitting(value: Any, type_: Any, where: str, problems: list[str]) -> Any:
    """Return a setting's value without what is wrong in it, None (TOML has none) for nothing."""
    shape = next((one for one in (type_, *get_args(type_)) if _is_table(one)), None)
    if shape is not None and isinstance(value, dict):
        if get_origin(type_) is not dict:
            return _sifted(value, shape, f"{where}.", problems)
        inner = {k: _fitting(v, shape, f"{where}.{k}", problems) for k, v in value.items()}
        return {k: v for k, v in inner.items() if v is not None}
    try:
        return msgspec.convert(value, type_, strict=True)
    except msgspec.ValidationError as error:
        problems.append(f"{where}: {error}")
        return None


def _is_table(type_: Any) -> bool:
    return isinstance(type_, type) and issubclass(type_, msgspec.Struct)


def _hint(name: str, known: list[str], where: str) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f" (did you mean {where}{near[0]}?)" if near else ""


def _ranges(config: Config) -> list[str]:
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
    for group in ("limits", "timeouts", "credit", "processes"):
        for field in msgspec.structs.fields(type(getattr(config, group))):
            value = getattr(getattr(config, group), field.name)
            need(0 <= value <= 1 << 40, f"{group}.{field.name} = {value}: out of range")
    for name, least in (("max_messages_per_s", 100), ("max_window_bytes", 1024)):
        value = getattr(config.limits, name)
        need(value >= least, f"limits.{name} = {value}: must be at least {least}")
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
        if provider.kind == "openai-compatible":
            need(bool(provider.base_url), f"providers.{name}.base_url: needed for this kind")
        if provider.base_url:
            need(
                provider.base_url.startswith(("http://", "https://")),
                f"providers.{name}.base_url: must begin with http:// or https://",
            )
        problems += _misplaced(name, provider)
        if provider.key is not None:
            sources = [s for s in msgspec.structs.astuple(provider.key) if s is not None]
            need(
                len(sources) == 1, f"providers.{name}.key: give one of env, file, command, keyring"
            )
            need(all(sources), f"providers.{name}.key: must not be empty")
        for header, value in provider.headers.items():
            need(
                bool(_header(header)) and value.isascii() and value.isprintable(),
                f"providers.{name}.headers.{header!r}: not a header's name, or not printable ASCII",
            )
    return problems


def _misplaced(name: str, provider: Provider) -> list[str]:
    """Say what of a provider does not belong to its kind, or cannot be a name."""
    where = f"providers.{name}"
    problems = [
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
