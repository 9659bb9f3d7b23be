"""Questions to all providers of a process at once: which models there are, and who is well."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import httpx
import msgspec

from ringcast.config import Config
from ringcast.errors import Code, RequestError
from ringcast.providers import inquiry
from ringcast.providers.gateway import Gateway
from ringcast.providers.inquiry import Health
from ringcast.providers.vendor import Model

T = TypeVar("T")


class Survey:
    """Asks one provider, or each of them side by side."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        gateways: Mapping[str, list[Gateway]],
        disabled: Mapping[str, str],
        lacking: Mapping[str, str],
        config: Config,
    ) -> None:
        """`gateways` has one for each key, of which `lacking` says what is missing.

        `disabled` says of the others why they cannot be asked.
        """
        self._client = client
        self._gateways = gateways
        self._disabled = disabled
        self._lacking = lacking
        self._config = config

    async def models(self, provider: str = "") -> dict[str, Any]:
        """Return {"models": [{"provider", "id", ...}], "errors": {provider: {"code", "message"}}}.

        Raises `RequestError` if one provider is asked and does not say.
        """
        if provider:
            return {"models": _listed(provider, await self._models(provider)), "errors": {}}
        models: list[dict[str, Any]] = []
        errors: dict[str, dict[str, str]] = {}
        for name, said in (await self._each(self._models)).items():
            if isinstance(said, RequestError):
                errors[name] = {"code": said.code, "message": said.message}
            else:
                models += _listed(name, said)
        return {"models": models, "errors": errors}

    async def health(self, provider: str = "") -> dict[str, Health]:
        """Return the health of one provider, or of each."""
        said = await self._each(self._health, [provider] if provider else None)
        return {
            name: Health(False, None, one.code, one.message)
            if isinstance(one, RequestError)
            else one
            for name, one in said.items()
        }

    async def _models(self, name: str) -> list[Model]:
        """Ask by the first key that is taken."""
        *earlier, last = self._by_key(name)
        for gateway in earlier:
            try:
                return await inquiry.models(self._client, gateway, self._config)
            except RequestError as error:
                if error.code != Code.AUTH:
                    raise
        return await inquiry.models(self._client, last, self._config)

    async def _health(self, name: str) -> Health:
        by_key = self._by_key(name)
        asked = (inquiry.health(self._client, gateway, self._config) for gateway in by_key)
        said = await asyncio.gather(*asked)
        keys = [gateway.key for gateway in by_key]
        return of_all_keys(dict(zip(keys, said, strict=True)), self._lacking.get(name))

    def _by_key(self, name: str) -> list[Gateway]:
        if name not in self._gateways:
            why = self._disabled.get(name, "is not configured")
            raise RequestError(Code.PROVIDER_DISABLED, f"provider {name}: {why}")
        return self._gateways[name]

    async def _each(
        self, ask: Callable[[str], Awaitable[T]], names: list[str] | None = None
    ) -> dict[str, T | RequestError]:
        async def one(name: str) -> T | RequestError:
            try:
                return await ask(name)
            except RequestError as error:
                return error

        names = sorted({*self._gateways, *self._disabled}) if names is None else names
        return dict(zip(names, await asyncio.gather(*map(one, names)), strict=True))


def of_all_keys(said: Mapping[str, Health], lacking: str | None = None) -> Health:
    """A provider is well if one of its keys is; `message` says which are not, or are missing."""
    first = next((one for one in said.values() if one.ok), next(iter(said.values())))
    if len(said) == 1 and not lacking:
        return first
    ill = [f"{key}: {one.code}: {one.message}" for key, one in said.items() if not one.ok]
    text = "; ".join([*ill, lacking] if lacking else ill)
    return msgspec.structs.replace(first, message=text or None)


def _listed(provider: str, models: list[Model]) -> list[dict[str, Any]]:
    return [{"provider": provider, **msgspec.to_builtins(model)} for model in models]
