"""The registry: which kinds of providers there are, and the ways to those that are configured."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

import msgspec

from ringcast import config as settings
from ringcast.config import Config, Provider
from ringcast.errors import ConfigError
from ringcast.providers import kinds
from ringcast.providers.gateway import Gateway, open_gateway

Names: TypeAlias = list[str]
Gateways: TypeAlias = list[Gateway]


class Found(NamedTuple):
    """The ways to a provider, and for each key that is not to be had, where it was looked for."""

    ways: Gateways
    missing: Names


class ProviderRegistry:
    """Makes the ways to providers, any number of them of one kind.

    What a configuration leaves open (where a vendor is, the variable of its key) is found as in the
    daemon, in `environment`, which is the process's by default. What makes a gateway raises
    `ConfigError`: for an unknown kind with the nearest one, for an installed one that is of no use
    with its distribution, for a key that is not to be had with where it was looked for.
    """

    def list(self) -> Names:
        """Return all kinds: those built in, then those that installed packages add."""
        return kinds.names()

    def create(
        self,
        name: str,
        config: Provider | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Gateway:
        """Return the way to a provider, by its first key; without `config`, `name` is its kind."""
        whole = _complete(name, config or Provider(name))
        return open_gateway(name, whole, os.environ if environment is None else environment)

    def create_all(
        self,
        name: str,
        config: Provider | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Found:
        """Return a way for each key of a provider: `NAME#1`, `NAME#2` where it has `keys`.

        Of several keys some may be missing; there is a `ConfigError` only if all are.
        """
        environment = os.environ if environment is None else environment
        whole = _complete(name, config or Provider(name))
        if not whole.keys:
            return Found([open_gateway(name, whole, environment)], [])
        found = Found([], [])
        for number in range(len(whole.keys)):
            try:
                found.ways.append(_by_key(name, whole, number, environment))
            except ConfigError as error:
                found.missing.append(str(error))
        if not found.ways:
            raise ConfigError("; ".join(found.missing))
        return found


def _by_key(name: str, config: Provider, number: int, environment: Mapping[str, str]) -> Gateway:
    own = msgspec.structs.replace(config, key=config.keys[number], keys=[])
    try:
        gateway = open_gateway(name, own, environment)
    except ConfigError as error:
        raise ConfigError(f"keys[{number}]: {error}") from None
    return msgspec.structs.replace(gateway, name=f"{name}#{number + 1}", key=f"keys[{number}]")


def _complete(name: str, config: Provider) -> Provider:
    return settings.complete(Config(providers={name: config})).providers[name]
