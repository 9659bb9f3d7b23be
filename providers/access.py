"""Access to a configured provider: where it is, and what proves who asks.

What the configuration leaves open is looked for where the vendor's own tools look, and only by
the process that uses it. A key of the environment goes to the vendor's own hosts only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

import httpx
import msgspec

from ringcast.config import Key, Provider
from ringcast.errors import ConfigError
from ringcast.providers import aws, entra, google, keys, token_command
from ringcast.providers.credentials import Anonymous, Bearer, Configured, Credential, HeaderKey
from ringcast.providers.keys import Secret
from ringcast.providers.renewable import Fetched, Renewable

_GIVEN: Final = "the given key"
OLLAMA: Final = "http://127.0.0.1:11434"
# The header that carries the key, and what stands before it; the others' is this one.
_HEADERS: Final = {
    "anthropic": ("x-api-key", ""),
    "gemini": ("x-goog-api-key", ""),
    "azure": ("api-key", ""),
    "vertex": ("x-goog-api-key", ""),
}
_AUTHORIZATION: Final = ("authorization", "Bearer ")
_OWN_HOSTS: Final = {
    "bedrock": (".amazonaws.com", ".amazonaws.com.cn", ".api.aws"),
    "azure": (".openai.azure.com", ".services.ai.azure.com", ".cognitiveservices.azure.com"),
    "vertex": (".googleapis.com",),
}


def grant(
    name: str, provider: Provider, environment: Mapping[str, str], given_key: str | None = None
) -> tuple[Provider, Credential]:
    """Return the provider with nothing left open, and its credential; nothing is fetched yet.

    `given_key` comes before the configured one. Raises `ConfigError` saying what is missing and
    where it was looked for.
    """
    if given_key is not None:
        provider = msgspec.structs.replace(provider, key=Key(env=_GIVEN), token_command=None)
        environment = {**environment, _GIVEN: given_key}
    located = locate(provider, environment)
    header, scheme = _HEADERS.get(provider.kind, _AUTHORIZATION)
    enough = {header, "authorization"}
    given = [value for one, value in provider.headers.items() if one.lower() in enough]
    if given:
        return located, Configured(given)
    if provider.token_command is not None:
        return located, _commanded(provider.token_command)
    key = keys.resolve(name, provider, environment)
    if key is not None:
        return located, HeaderKey(header, scheme, key, _source(provider))
    return located, _found(provider, located, environment)


def _found(given: Provider, located: Provider, environment: Mapping[str, str]) -> Credential:
    """Return what a provider without a key of its own has by its kind."""
    own_host = _own_host(located)
    match located.kind:
        case "bedrock":
            return aws.credential(located, own_host, environment)
        case "vertex":
            return google.credential(located, own_host, environment)
        case "azure":  # an endpoint in the environment is as trusted as the key beside it
            return _azure(own_host or not given.base_url, environment)
        case _:
            return Anonymous()


def locate(provider: Provider, environment: Mapping[str, str]) -> Provider:
    """Return the provider with its place in the world. Raises `ConfigError`."""
    match provider.kind:
        case "bedrock":
            return aws.locate(provider, environment)
        case "azure":
            return entra.locate(provider, environment)
        case "vertex":
            return google.locate(provider, environment)
        case "ollama" if not provider.base_url:
            base_url = _ollama(environment.get("OLLAMA_HOST", ""))
            return msgspec.structs.replace(provider, base_url=base_url)
        case _:
            return provider


def _own_host(provider: Provider) -> bool:
    url = urlsplit(provider.base_url)
    own = _OWN_HOSTS.get(provider.kind, ())
    return url.scheme == "https" and (url.hostname or "").endswith(own)


def _commanded(command: list[str]) -> Bearer:
    async def fetch(_: httpx.AsyncClient) -> Fetched[Secret]:
        return await token_command.run(command)

    source = f"token command {command[0]}"
    return Bearer(Renewable(fetch, source), source)


def _azure(own_host: bool, environment: Mapping[str, str]) -> Credential:
    if not own_host:
        raise ConfigError("base_url is not Azure's: give key or token_command")
    if environment.get(entra.KEY):
        key = keys.sound(entra.KEY, environment[entra.KEY])
        return HeaderKey(*_HEADERS["azure"], key, entra.KEY)
    return _commanded(entra.token_command(environment))


def _source(provider: Provider) -> str:
    key = provider.key
    assert key is not None
    return key.env or key.file or (key.command or ["the keyring"])[0]


def _ollama(host: str) -> str:
    """Return where OLLAMA_HOST is (docs.ollama.com/faq): a host, a port or both, or an URL.

    An URL without a port has its scheme's. A server that listens everywhere listens here too.
    """
    if not host.strip():
        return OLLAMA
    schemed = "://" in host
    try:
        url = urlsplit(host.strip() if schemed else f"http://{host.strip()}")
        port = url.port or (None if schemed else 11434)
    except ValueError:
        raise ConfigError("OLLAMA_HOST is not a host with a port") from None
    if url.scheme not in ("http", "https"):
        raise ConfigError("OLLAMA_HOST is neither http:// nor https://")
    name = url.hostname or "127.0.0.1"
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(name, name)
    name = f"[{name}]" if ":" in name else name
    return f"{url.scheme}://{name}" + (f":{port}" if port else "")
