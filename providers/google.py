"""Google: where a project's Vertex AI is, and whose token a request carries."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from importlib.util import find_spec
from typing import Final

import httpx
import msgspec

from ringcast.config import Provider, plain_name
from ringcast.errors import ConfigError
from ringcast.providers.credentials import Bearer, Credential
from ringcast.providers.google_places import File, Places, read
from ringcast.providers.google_token import from_file, from_metadata
from ringcast.providers.keys import Secret
from ringcast.providers.renewable import Renewable

EXTRA: Final = "vertex"
METADATA: Final = "metadata.google.internal"


def locate(provider: Provider, environment: Mapping[str, str]) -> Provider:
    """Return the provider with project, location and `base_url`.

    Raises `ConfigError` saying what it lacks.
    """
    places = Places(provider, environment)
    location = provider.location or places.location()
    project = provider.project
    if not project:
        own = provider.key is None and provider.token_command is None
        path = places.file() if own else None
        project = places.project(read(path)[0] if path else File())
    for name in (project, location):
        if not plain_name(name):
            raise ConfigError("project and location may hold letters, digits and - only")
    base_url = provider.base_url or f"https://{_host(location)}"
    return msgspec.structs.replace(provider, project=project, location=location, base_url=base_url)


def _host(location: str) -> str:
    """Return the host of a location (cloud.google.com/vertex-ai/docs/general/locations)."""
    match location:
        case "global":
            return "aiplatform.googleapis.com"
        case "us" | "eu":
            return f"aiplatform.{location}.rep.googleapis.com"
        case _:
            return f"{location}-aiplatform.googleapis.com"


def credential(provider: Provider, own_host: bool, environment: Mapping[str, str]) -> Credential:
    """Return how requests of a located provider are proved. Raises `ConfigError` if nothing can.

    A token is good for all of a user's cloud: other hosts than Google's get one only from a
    file that their own settings name.
    """
    if not own_host and not provider.credentials:
        raise ConfigError("base_url is not Google's: give key, token_command or credentials")
    path = Places(provider, environment).file()
    if path is None:
        host = environment.get("GCE_METADATA_HOST") or METADATA
        tokens = Renewable(partial(from_metadata, host), "the metadata server's token")
        return Bearer(tokens, "the metadata server")
    said, _ = read(path)
    if find_spec("google") is None or find_spec("google.auth") is None:
        raise ConfigError(f"{path} needs google-auth: pip install 'ringcast[{EXTRA}]'")
    tokens = Renewable(partial(from_file, path), "Google's token")
    return Token(tokens, str(path), said.quota_project_id)


class Token(Bearer):
    """A token with the project that pays for it, where that is another."""

    def __init__(self, tokens: Renewable[Secret], source: str, quota_project: str) -> None:
        """Without a `quota_project` the one in the path pays."""
        super().__init__(tokens, source)
        self._quota_project = quota_project

    async def authorize(self, request: httpx.Request, client: httpx.AsyncClient) -> None:
        """Add both headers."""
        await super().authorize(request, client)
        if self._quota_project:
            request.headers["x-goog-user-project"] = self._quota_project
