"""The day's money, which all provider processes spend from together: one row of shared words."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from ringcast.config import Usage
from ringcast.providers.spending.budget import DailyBudget
from ringcast.shm.shared_words import RowBusy, SharedWords

ROW: Final = "budget"


class Purse:
    """What may be spent today. Without `usage.daily_usd` there is no bound."""

    def __init__(self, rows: SharedWords, settings: Usage) -> None:
        """`rows` are shared with other processes."""
        self._rows = rows
        self._settings = settings
        self._owed = 0.0  # dollars that a busy row could not take yet

    def check(self, wall_s: float) -> None:
        """Raise `RequestError` (budget_exceeded) if today's money is spent."""
        if not self._settings.daily_usd:
            return
        with suppress(RowBusy), self._rows.row(ROW, keep=True) as words:
            DailyBudget(words, self._settings).check(wall_s)

    def spent(self, cost: float | None, wall_s: float, *, so_far: float | None = None) -> None:
        """Count what a request cost, in dollars; `so_far` is what an earlier daemon spent today."""
        if not self._settings.daily_usd:
            return
        self._owed += cost or 0.0
        with suppress(RowBusy), self._rows.row(ROW, keep=True) as words:
            budget = DailyBudget(words, self._settings)
            if so_far is not None:
                budget.begin(so_far, wall_s)
            budget.add(self._owed, wall_s)
            self._owed = 0.0
