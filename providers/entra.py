"""Azure: where a resource is, and its key or a token of Microsoft Entra.

Sources: learn.microsoft.com/azure/ai-foundry/openai/reference (authentication), the variables of
the OpenAI SDK's Azure client, `az account get-access-token --help`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

import msgspec

from ringcast.config import Provider, plain_name
from ringcast.errors import ConfigError

ENDPOINT: Final = "AZURE_OPENAI_ENDPOINT"
KEY: Final = "AZURE_OPENAI_API_KEY"
VERSION: Final = "OPENAI_API_VERSION"
SCOPE: Final = "https://cognitiveservices.azure.com"
LOGGED_IN: Final = ["az", "account", "get-access-token", "--resource", SCOPE, "--output", "json"]


def locate(provider: Provider, environment: Mapping[str, str]) -> Provider:
    """Return the provider with `base_url` and version. Raises `ConfigError` saying what it lacks.

    Paths begin with `/openai`, which some write into the endpoint.
    """
    base_url = provider.base_url
    if not base_url and provider.resource:
        base_url = f"https://{provider.resource}.openai.azure.com"
    if not base_url and environment.get(ENDPOINT):
        base_url = _origin(environment[ENDPOINT])
    if not base_url:
        text = f"no endpoint: neither the setting resource nor base_url nor {ENDPOINT} is given"
        raise ConfigError(text)
    version = provider.api_version or environment.get(VERSION, "")
    if version and not plain_name(version):
        raise ConfigError(f"{VERSION} is not a version")
    return msgspec.structs.replace(provider, base_url=base_url, api_version=version)


def token_command(environment: Mapping[str, str]) -> list[str]:
    """Return the command that gives the token of who is logged in. Raises `ConfigError`."""
    if shutil.which(LOGGED_IN[0], path=environment.get("PATH")) is None:
        text = f"no credentials: neither key nor token_command nor {KEY} is given"
        raise ConfigError(f"{text}, and there is no `az` command")
    return LOGGED_IN


def _origin(endpoint: str) -> str:
    try:
        parts = urlsplit(endpoint.strip())
        host = parts.hostname
    except ValueError:
        host = None
    if not host or parts.scheme != "https":
        raise ConfigError(f"{ENDPOINT} is not an https:// address")
    return f"https://{parts.netloc}"
