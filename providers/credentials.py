"""Who asks: what a request needs before a provider takes it, put in just before it is sent.

A credential is held by a provider process only, and shows itself in no repr, log or error. It may
have to fetch something first (a token, temporary keys), and what it fetched may be refused before
its time: then it is dropped, and the request is sent once more with another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final

import httpx

from ringcast.providers.keys import Secret
from ringcast.providers.renewable import Renewable

REFUSALS: Final = (401, 403)


class Credential(ABC):
    """What proves who asks. `source` says where it comes from, and never what it is."""

    source: str = ""

    @abstractmethod
    async def authorize(self, request: httpx.Request, client: httpx.AsyncClient) -> None:
        """Add the headers, in place of those of an earlier call; `client` may fetch something.

        Raises `RequestError` (auth) if what they need is not to be had.
        """

    def mask(self, said: bytes) -> bytes:
        """Return `said` without any secret: some providers repeat what they refuse."""
        return said

    def renew(self, request: httpx.Request, response: httpx.Response) -> bool:
        """Learn from a refusal; say whether the request has another chance."""
        return False


class Anonymous(Credential):
    """Nobody has to say who asks."""

    async def authorize(self, request: httpx.Request, client: httpx.AsyncClient) -> None:
        """Add nothing."""


class Configured(Credential):
    """The configured headers say it themselves."""

    source = "the configured headers"

    def __init__(self, values: list[str]) -> None:
        """`values` are what the headers say, with a scheme or without."""
        self._secrets = [Secret(value.rpartition(" ")[2]) for value in values]

    async def authorize(self, request: httpx.Request, client: httpx.AsyncClient) -> None:
        """Add nothing."""

    def mask(self, said: bytes) -> bytes:
        """Return `said` without them."""
        for secret in self._secrets:
            said = secret.mask(said)
        return said


class HeaderKey(Credential):
    """A key that stays as it is, in a header of its own or behind a scheme."""

    def __init__(self, header: str, scheme: str, key: Secret, source: str) -> None:
        """`scheme` stands before the key, with the space that parts them."""
        self._header = header
        self._scheme = scheme
        self._key = key
        self.source = source

    async def authorize(self, request: httpx.Request, client: httpx.AsyncClient) -> None:
        """Add the header."""
        request.headers[self._header] = self._scheme + self._key.reveal()

    def mask(self, said: bytes) -> bytes:
        """Return `said` without the key."""
        return self._key.mask(said)


class Bearer(Credential):
    """A token that runs out (RFC 6750). A 401 for one that was good before fetches another."""

    def __init__(self, tokens: Renewable[Secret], source: str) -> None:
        """`tokens` fetches them."""
        self._tokens = tokens
        self.source = source

    async def authorize(self, request: httpx.Request, client: httpx.AsyncClient) -> None:
        """Add the token, which may have to be fetched."""
        token = await self._tokens.get(client)
        request.headers["authorization"] = f"Bearer {token.reveal()}"

    def mask(self, said: bytes) -> bytes:
        """Return `said` without the last tokens."""
        for token in self._tokens.last:
            said = token.mask(said)
        return said

    def renew(self, request: httpx.Request, response: httpx.Response) -> bool:
        """Drop a token that is refused although it was taken before."""
        refused = request.headers.get("authorization", "").removeprefix("Bearer ")
        return response.status_code == 401 and self._tokens.drop(
            lambda token: token.reveal() == refused
        )


async def send(
    client: httpx.AsyncClient, request: httpx.Request, credential: Credential
) -> httpx.Response:
    """Send with `credential` and return at the head of the answer; once more if that may help.

    Raises `RequestError` (auth) if the credential is not to be had, else what httpx raises.
    """
    await credential.authorize(request, client)
    response = await client.send(request, stream=True)
    if response.status_code in REFUSALS and credential.renew(request, response):
        await response.aclose()
        await credential.authorize(request, client)
        response = await client.send(request, stream=True)
    return response
