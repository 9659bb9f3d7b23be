"""`ringcast usage`: what was used and what it cost, from the file that every daemon writes to."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ringcast import config
from ringcast.providers.spending.budget import dollars
from ringcast.providers.spending.usage_file import Spent, path_of, read

if TYPE_CHECKING:
    from rich.table import Table

_FIGURES: Final = ("calls", "failed", "input", "cached", "output", "cost")


class Report(msgspec.Struct, frozen=True):
    """Rows of the last `days`, each of a day, provider and model, or of what is asked for.

    `since` is the first day; `unpriced` names the models whose cost is not all known; `kept` says
    whether anything is written at all. `today` are the dollars of this day, of `daily_usd`.
    """

    file: Path
    kept: bool
    days: int
    since: str
    by: str | None
    rows: list[Spent]
    unpriced: list[str]
    today: float
    daily_usd: float

    def plain(self) -> dict[str, Any]:
        """Return it for JSON; a column that was summed over is left out."""
        return {
            "file": str(self.file),
            "days": self.days,
            "since": self.since,
            "rows": [_plain(row) for row in self.rows],
            "sum": _plain(_sum(self.rows)),
            "unpriced_models": self.unpriced,
            "today": self.today,
            "daily_usd": self.daily_usd,
        }


def report(settings: config.Usage, days: int, by: str | None, today: date | None = None) -> Report:
    """Read the file; that there is none is fine. Raises `UsageFileError`."""
    file = path_of(settings.file)
    today = today or date.today()
    since = date.fromordinal(max(today.toordinal() - (days - 1), 1)).isoformat()
    rows = read(file, since)
    of_today = _sum(row for row in rows if row.day == today.isoformat()).cost
    unpriced = sorted({f"{row.provider}/{row.model}" for row in rows if row.unpriced})
    grouped, limit = _grouped(rows, by), settings.daily_usd
    return Report(file, settings.keep, days, since, by, grouped, unpriced, of_today, limit)


def _grouped(rows: list[Spent], by: str | None) -> list[Spent]:
    if by is None:
        return rows
    groups: dict[str, Spent] = {}
    for row in rows:
        name = f"{row.provider}/{row.model}" if by == "model" else getattr(row, by)
        group = groups.setdefault(name, Spent("", "", ""))
        setattr(group, by, name)
        group.add(row)
    return [groups[name] for name in sorted(groups)]


def _sum(rows: Iterable[Spent]) -> Spent:
    total = Spent("", "", "")
    for row in rows:
        total.add(row)
    return total


def _plain(row: Spent) -> dict[str, Any]:
    plain = msgspec.structs.asdict(row)
    del plain["cost_micro"]
    return {name: value for name, value in plain.items() if value != ""} | {"cost": row.cost}


def print_report(report: Report) -> None:
    """Print the rows, their sums, and for which models they are not all known."""
    from rich.console import Console

    console = Console(highlight=False, markup=False)  # a model's name may hold anything
    if not report.kept:
        console.print("nothing is written down (usage.keep = false)", style="dim")
    if report.rows:
        console.print(_table(report))
    else:
        span = "today" if report.days == 1 else f"in the last {report.days} days"
        console.print(f"nothing was used {span} ({report.file})")
    if report.unpriced:
        why = "no usage was told, or no price ([prices])"
        console.print(f"+ ? cost not known of {', '.join(report.unpriced)}: {why}")
    if report.daily_usd:
        console.print(f"today {dollars(report.today)} of {dollars(report.daily_usd)}")


def _table(report: Report) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_footer=True, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(report.by or "day, model", "sum", overflow="fold")
    for name, figure in zip(_FIGURES, _figures(_sum(report.rows)), strict=True):
        table.add_column(name, figure, justify="right", no_wrap=True)
    if report.by:
        for row in report.rows:
            table.add_row(getattr(row, report.by), *_figures(row))
    else:
        for day, rows in groupby(report.rows, lambda row: row.day):
            _add_day(table, day, list(rows))
    return table


def _add_day(table: Table, day: str, rows: list[Spent]) -> None:
    table.add_row(day, *_figures(_sum(rows)), style="bold")
    for row in rows:
        table.add_row(f"  {row.provider}/{row.model}", *_figures(row))


def _figures(row: Spent) -> tuple[str, ...]:
    counts = (row.requests, row.errors, row.input, row.cache_read, row.output)
    return (*(_short(count) if count else "-" for count in counts), _cost(row))


def _short(count: int) -> str:
    """Return 9,999, then 12.3K, 4.56M, 1.2B: what was used is not read to the last token."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if count >= max(size, 10_000):
            return f"{count / size:.{1 if count >= 10 * size else 2}f}{unit}"
    return f"{count:,}"


def _cost(row: Spent) -> str:
    if row.unpriced and not row.cost_micro:
        return "?"
    return f"${row.cost:,.4f}{'+' if row.unpriced else ''}"
