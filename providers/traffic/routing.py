"""Where a request may go: one target for each key of each model that it can be answered by.

A route is a list of models; anything else is a single one. A provider with several keys is as
many targets, taken in turn. The order is what a request tries, one after the other, while
nothing has been said.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

import msgspec

from ringcast.config import ROUTE, Config, Route
from ringcast.errors import Code, ConfigError, RequestError
from ringcast.providers.transform_spec import encoded


def check(config: Config) -> None:
    """Look at what routes do to their tokens. Raises `ConfigError` naming route and field."""
    for name, route in config.routes.items():
        try:
            encoded(route.transforms, config.workers.transforms)
        except RequestError as error:
            raise ConfigError(f"routes.{name}: {error.message}") from None


class Target(msgspec.Struct, frozen=True):
    """A model of a provider, asked with its key number `key`."""

    provider: str
    key: int
    model: str

    @property
    def name(self) -> str:
        """How a client would address it."""
        return f"{self.provider}/{self.model}"

    @property
    def lane(self) -> str:
        """What a provider's limits hold for: a model, asked by one key."""
        return f"{self.key}/{self.model}"


class Routing:
    """The order of targets. `speed` tells how long a model took lately to say something, in s."""

    def __init__(
        self,
        config: Config,
        keys: Mapping[str, int],
        speed: Callable[[str], float | None],
        chance: random.Random,
    ) -> None:
        """`keys` counts the usable keys of each provider; one that is disabled is not in it."""
        self._routes = config.routes
        self._keys = keys
        self._speed = speed
        self._chance = chance
        self._turns = dict.fromkeys(keys, 0)

    def targets(self, provider: str, model: str) -> list[Target]:
        """Return where to try, first things first. Raises `RequestError` (provider_disabled)."""
        names = self._ordered(self._routes[model]) if provider == ROUTE else [f"{provider}/{model}"]
        found = [target for name in names for target in self._by_key(name)]
        if not found:
            whose = f"route {model}: none of its providers" if provider == ROUTE else provider
            raise RequestError(Code.PROVIDER_DISABLED, f"{whose} is usable in this process")
        return found

    def _by_key(self, name: str) -> list[Target]:
        provider, _, model = name.partition("/")
        if not (keys := self._keys.get(provider, 0)):
            return []
        first = self._turns[provider] = (self._turns[provider] + 1) % keys
        return [Target(provider, (first + number) % keys, model) for number in range(keys)]

    def _ordered(self, route: Route) -> list[str]:
        match route.order:
            case "weighted":
                return self._drawn(route)
            case "fastest":  # what was never asked comes first: else it never would
                return sorted(route.models, key=lambda name: self._speed(name) or 0.0)
            case _:
                return route.models

    def _drawn(self, route: Route) -> list[str]:
        """Draw all models, the likelier first (Efraimidis and Spirakis, 2006)."""

        def key(number: int) -> float:
            weight = route.weights[number]
            drawn: float = self._chance.random() ** (1.0 / weight) if weight else 0.0
            return -drawn

        return [route.models[number] for number in sorted(range(len(route.models)), key=key)]
