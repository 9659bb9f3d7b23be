"""The circuit breakers of all providers, each in a row of words that all provider processes share.

A row that is busy is another process's, for microseconds. Nobody waits for it: a request comes
again, and an outcome is not counted (the lease of a probe ends by itself).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from ringcast.config import Breaker
from ringcast.providers.traffic.breaker import CircuitBreaker, Closed, Open, Outcome, Probe, State
from ringcast.shm.shared_words import RowBusy, SharedWords

BUSY_S: Final = 0.01  # after which to come again


class Breakers:
    """All of them, by provider."""

    def __init__(self, rows: SharedWords, settings: Breaker) -> None:
        """`rows` are shared with other processes."""
        self._rows = rows
        self._settings = settings

    def ask(self, provider: str, now: float) -> Closed | Probe:
        """Return a permit to send. Raises `RequestError` (circuit_open), `RowBusy`."""
        with self._breaker(provider) as breaker:
            said = breaker.ask(now)
        if isinstance(said, Open):
            raise said.refusal(provider, now)
        return said

    def check(self, provider: str, now: float) -> None:
        """Raise `RequestError` (circuit_open) for a provider that is left alone; nobody queues."""
        if (said := self._refusing(provider, now)) is not None:
            raise said.refusal(provider, now)

    def refuses(self, provider: str, at: float) -> bool:
        """Whether a provider will still be left alone at that time, as far as is known now."""
        return self._refusing(provider, at) is not None

    def _refusing(self, provider: str, at: float) -> Open | None:
        said: Open | None = None
        with suppress(RowBusy), self._breaker(provider) as breaker:
            said = breaker.refusing(at)
        return said

    def record(
        self, provider: str, outcome: Outcome, now: float, permit: Closed | Probe | None
    ) -> None:
        """Take what became of a sending, with the permit that it had."""
        probe = permit if isinstance(permit, Probe) else None
        with suppress(RowBusy), self._breaker(provider) as breaker:
            breaker.record(outcome, now, probe)

    def state(self, provider: str, now: float) -> State:
        """Return a breaker's state; closed if that cannot be seen now."""
        with suppress(RowBusy), self._breaker(provider) as breaker:
            return breaker.state(now)
        return "closed"

    @contextmanager
    def _breaker(self, provider: str) -> Iterator[CircuitBreaker]:
        """Hold a provider's breaker. Raises `RowBusy`."""
        with self._rows.row(f"breaker:{provider}", keep=True) as words:
            yield CircuitBreaker(words, self._settings)
