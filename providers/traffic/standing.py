"""What is known of each provider: how fast it is, whether it was well, what it was sent."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

import msgspec

from ringcast.config import Config
from ringcast.errors import Code
from ringcast.providers.inquiry import Health, Traffic
from ringcast.providers.traffic.breaker import State
from ringcast.providers.traffic.failure import Failure
from ringcast.providers.traffic.rate_headers import NOTHING, RateLimits
from ringcast.providers.traffic.retry import RetryBudget
from ringcast.providers.traffic.routing import Target

IN_USE_S: Final = 600.0  # whoever was asked nothing for so long is not asked how it is
MODELS: Final = 1000  # whose speeds are kept
REFUSED_S: Final = 300.0  # for so long a key that was refused comes last
SMOOTHING: Final = 0.3  # of speeds: the last five requests make five sixths of the mean


class Record(msgspec.Struct):
    """What is known of one provider."""

    budget: RetryBudget
    requests: int = 0
    failures: int = 0
    sent_again: int = 0
    first_token_s: float | None = None
    limits: RateLimits = NOTHING
    used_at: float = 0.0
    look_at: float | None = None  # when its health is asked next; None: it is not in use
    health: Health | None = None


class Standing:
    """All providers of one process, by name. Times are monotonic seconds."""

    def __init__(self, config: Config, names: Iterable[str], chance: random.Random) -> None:
        """`chance` spreads the questions for health."""
        self._interval_s = config.health.interval_s
        self._chance = chance
        self._records = {name: Record(RetryBudget(config.retry)) for name in names}
        self._speeds: OrderedDict[str, float] = OrderedDict()  # of models, the latest last
        self._refused: dict[tuple[str, int], float] = {}  # keys, and since when

    def __getitem__(self, provider: str) -> Record:
        return self._records[provider]

    def __contains__(self, provider: str) -> bool:
        return provider in self._records

    def speed(self, target: str) -> float | None:
        """Return about how many seconds a model's first token takes, None if that is unknown."""
        return self._speeds.get(target)

    def used(self, provider: str, now: float) -> None:
        """It is in use, so its health matters."""
        record = self._records[provider]
        record.used_at = now
        record.look_at = record.look_at or self._next_look(now)

    def sent(self, provider: str, now: float, *, again: bool) -> None:
        """Count a request that goes to it, `again` if it failed there before."""
        record = self._records[provider]
        record.requests += 1
        if again:
            record.sent_again += 1
        else:
            record.budget.first(now)

    def began(self, target: Target, took_s: float) -> None:
        """A first token took so long."""
        record = self._records[target.provider]
        record.first_token_s = _mean(record.first_token_s, took_s)
        self._speeds[target.name] = _mean(self._speeds.pop(target.name, None), took_s)
        if len(self._speeds) > MODELS:
            self._speeds.popitem(last=False)
        self._refused.pop((target.provider, target.key), None)

    def failed(self, target: Target, failure: Failure, now: float) -> None:
        """Note which key it was, if that is what a provider did not take."""
        if failure.code in (Code.AUTH, Code.BILLING):
            self._refused[target.provider, target.key] = now

    # health

    def to_ask(self, now: float) -> list[str]:
        """Return the providers whose health is to be asked now, of those that are in use."""
        if not self._interval_s:
            return []
        names = []
        for name, known in self._records.items():
            if known.look_at is None or now < known.look_at:
                continue
            if now - known.used_at > IN_USE_S:
                known.look_at = known.health = None
            else:
                known.look_at = self._next_look(now)
                names.append(name)
        return names

    def _next_look(self, now: float) -> float:
        return now + self._interval_s * self._chance.uniform(0.75, 1.25)

    def is_ill(self, target: Target, now: float) -> bool:
        """Whether it was not well when last asked, or has refused this key of late."""
        health = self._records[target.provider].health
        refused_at = self._refused.get((target.provider, target.key), -REFUSED_S)
        return (health is not None and not health.ok) or now - refused_at < REFUSED_S

    def traffic(self, provider: str, state: State) -> Traffic:
        """Return what was done with a provider whose breaker is in `state`."""
        known = self._records[provider]
        told, first_s = known.limits, known.first_token_s
        return Traffic(
            state,
            known.requests,
            known.failures,
            known.sent_again,
            None if first_s is None else round(first_s * 1e3, 1),
            told.requests.remaining if told.requests else None,
            told.tokens.remaining if told.tokens else None,
        )


def _mean(known: float | None, newest: float) -> float:
    return newest if known is None else known + SMOOTHING * (newest - known)
