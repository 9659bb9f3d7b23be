"""The day's money, which all provider processes spend from together: one row of shared words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from ringcast.config import Config
from ringcast.providers.spending.budget import DailyBudget
from ringcast.providers.spending.cost import MILLION, Prices
from ringcast.providers.spending.prices import FREE, price_of
from ringcast.shm.shared_words import RowBusy, SharedWords

ROW: Final = "budget"


class Purse:
    """What may be spent today. Without `usage.daily_usd` there is no bound."""

    def __init__(self, rows: SharedWords, config: Config, process: int) -> None:
        """`rows` are shared with other processes; a predecessor as `process` holds nothing."""
        self._rows = rows
        self._config = config
        self._process = process
        self._owed = 0.0  # dollars that a busy row could not take yet
        self._held = 0.0  # dollars that are estimated of requests under way

    def check(self, provider: str, model: str, wall_s: float) -> None:
        """Raise `RequestError` (budget_exceeded) if today's money is spent, and it costs some."""
        if self._config.usage.daily_usd and self._price(provider, model) != FREE:
            with suppress(RowBusy), self._budget() as budget:
                budget.check(wall_s)

    def hold(self, provider: str, model: str, given: int, made: int, wall_s: float) -> float:
        """Hold about what a request of `given` tokens costs that makes `made`; return the dollars.

        Raises `RequestError` (budget_exceeded), as `check` does.
        """
        if not self._config.usage.daily_usd or (price := self._price(provider, model)) == FREE:
            return 0.0
        held = 0.0 if price is None else (given * price[0] + made * price[1]) / MILLION
        with suppress(RowBusy), self._budget() as budget:
            budget.check(wall_s)
            budget.hold(self._process, self._held + held)
        self._held += held
        return held

    def release(self, held: float) -> None:
        """Give back what was held for a request: what it costs is known, or it was not sent."""
        if held:
            self._held = max(self._held - held, 0.0)
            with suppress(RowBusy), self._budget() as budget:
                budget.hold(self._process, self._held)

    def spent(self, cost: float | None, wall_s: float, *, so_far: float | None = None) -> None:
        """Count what a request cost, in dollars; `so_far` is what an earlier daemon spent today."""
        if not self._config.usage.daily_usd:
            return
        self._owed += cost or 0.0
        with suppress(RowBusy), self._budget() as budget:
            if so_far is not None:
                budget.begin(so_far, wall_s)
            budget.hold(self._process, self._held)
            budget.add(self._owed, wall_s)
            self._owed = 0.0

    def _price(self, provider: str, model: str) -> Prices | None:
        return price_of(self._config, provider, model)

    @contextmanager
    def _budget(self) -> Iterator[DailyBudget]:
        """Hold the day's row. Raises `RowBusy`."""
        with self._rows.row(ROW, keep=True) as words:
            yield DailyBudget(words, self._config.usage)
