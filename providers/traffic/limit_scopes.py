"""The two limiters that a request passes, each a row of words that provider processes share.

What is configured holds for a provider (`limit:NAME`), what it tells or what is found out for
one of its models (`limit:NAME/MODEL`). A request is charged to both or to none, with both rows
held. A change that finds its row busy is noted, and stored 10 ms later; those of a row stay in
order, and no row waits for another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple, TypeAlias

from ringcast.config import Config, Provider
from ringcast.providers.traffic.limiter import AdaptiveRateLimiter, Bound, RateSettings
from ringcast.shm.shared_words import RowBusy, SharedWords

BUSY_S: Final = 0.01
UNLIMITED: Final = RateSettings()
MOST_NOTED: Final = 4096  # for a row; a process that was stopped for good holds it

Change: TypeAlias = Callable[[AdaptiveRateLimiter], None]


class Refused(NamedTuple):
    """Ask again in `wait_s`: for this model, or for any of the provider's. `bound` says why."""

    wait_s: float
    whole: bool
    bound: Bound = Bound()


NOT_REFUSED: Final = Refused(0.0, whole=False)


class LimitScopes:
    """The rows of all providers and models, as one process uses them."""

    def __init__(self, rows: SharedWords, config: Config, process: int) -> None:
        """Forget what a predecessor as `process` had under way; all else stays."""
        self._rows = rows
        self._process = process
        self._limits = {name: _limits(one) for name, one in config.providers.items()}
        self._noted: dict[tuple[str, str], deque[Change]] = {}
        self.store_at: float | None = None  # when `store_noted` has something to do
        for name, limits in self._limits.items():
            if limits.concurrency:
                self.change(name, "", AdaptiveRateLimiter.reset, 0.0)

    def admit(self, provider: str, model: str, tokens: int, now: float) -> Refused | None:
        """Charge a request that may go; say when to ask again for one that may not."""
        limits = self._limits.get(provider, UNLIMITED)
        try:
            if limits == UNLIMITED:
                return self._model_admits(provider, model, tokens, now)
            with self._rows.row(_row(provider), keep=True) as words:
                limiter = AdaptiveRateLimiter(limits, words, self._process)
                if wait_s := limiter.wait(tokens, now):
                    return Refused(wait_s, True, limiter.bound(tokens, now))
                if refused := self._model_admits(provider, model, tokens, now):
                    return refused
                limiter.charge(tokens, now)
                return None
        except RowBusy:
            return Refused(BUSY_S, whole=False)

    def _model_admits(self, provider: str, model: str, tokens: int, now: float) -> Refused | None:
        with self._rows.row(_row(provider, model)) as words:
            limiter = AdaptiveRateLimiter(UNLIMITED, words, self._process)
            wait_s = limiter.admit(tokens, now)
            return Refused(wait_s, False, limiter.bound(tokens, now)) if wait_s else None

    def wait(self, provider: str, model: str, tokens: int, now: float) -> float:
        """Return for how long a model's own limits have no room, as far as is known."""
        with suppress(RowBusy), self._rows.row(_row(provider, model)) as words:
            return AdaptiveRateLimiter(UNLIMITED, words, self._process).wait(tokens, now)
        return 0.0

    def concurrency(self, provider: str) -> int:
        """Return how many requests may be under way at once, 0 if it does not matter."""
        return self._limits.get(provider, UNLIMITED).concurrency

    def change_both(self, provider: str, model: str, change: Change, now: float) -> None:
        """Change both limiters of a request."""
        if self._limits.get(provider, UNLIMITED) != UNLIMITED:
            self.change(provider, "", change, now)
        self.change(provider, model, change, now)

    def change(self, provider: str, model: str, change: Change, now: float) -> None:
        """Change the limiter of a model, or without one the provider's."""
        noted = self._noted.get((provider, model))
        if noted is None and self._stored(provider, model, change):
            return
        self._noted.setdefault((provider, model), deque(maxlen=MOST_NOTED)).append(change)
        self.store_at = now + BUSY_S if self.store_at is None else self.store_at

    def store_noted(self, now: float) -> None:
        """Store the changes whose rows are free by now."""
        if self.store_at is None or now < self.store_at:
            return
        for (provider, model), changes in list(self._noted.items()):
            while changes and self._stored(provider, model, changes[0]):
                changes.popleft()
            if not changes:
                del self._noted[provider, model]
        self.store_at = now + BUSY_S if self._noted else None

    def _stored(self, provider: str, model: str, change: Change) -> bool:
        limits = UNLIMITED if model else self._limits[provider]
        try:
            with self._rows.row(_row(provider, model), keep=not model) as words:
                change(AdaptiveRateLimiter(limits, words, self._process))
        except RowBusy:
            return False
        return True


def _limits(provider: Provider) -> RateSettings:
    return RateSettings(provider.requests_per_min, provider.tokens_per_min, provider.concurrency)


def _row(provider: str, model: str = "") -> str:
    return f"limit:{provider}/{model}" if model else f"limit:{provider}"
