"""Looking at a running daemon: its processes from the run directory, its streams by asking."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil

from ringcast import rundir
from ringcast.broker.client import connect

if TYPE_CHECKING:  # it takes 30 ms to load, and JSON needs none of it
    from rich.table import Table

LINES: Final = 20  # streams on the screen, the live ones and then the newest


def status(directory: Path) -> dict[str, Any]:
    """Return the daemon's own report, with its processes. Raises `NotRunning`."""
    state = rundir.running(directory)
    report = asyncio.run(_ask(directory))
    return {"status": state.status, "pid": state.pid, "run_dir": str(directory), **report}


def watch(directory: Path, interval_s: float, looks: int, as_json: bool) -> None:
    """Show what a daemon does, again and again: `looks` times, or until Ctrl-C if that is 0.

    As JSON it is one report a line, with `tokens_per_s` since the one before. Raises `NotRunning`.
    """
    rundir.running(directory)
    if as_json:
        asyncio.run(_watch(directory, interval_s, looks, _print_report))
        return
    from rich.live import Live

    with Live(auto_refresh=False, screen=not looks) as live:
        try:
            asyncio.run(
                _watch(
                    directory, interval_s, looks, lambda r: live.update(_screen(r), refresh=True)
                )
            )
        except KeyboardInterrupt:  # this is how to leave
            return


async def _watch(
    directory: Path, interval_s: float, looks: int, show: Callable[[dict[str, Any]], None]
) -> None:
    async with connect(directory, name="ringcast top") as client:
        tokens, at, seen = 0, 0.0, 0
        while True:
            report, now = await client.status(), time.monotonic()
            said = report["metrics"]["tokens"]
            rate = (said - tokens) / (now - at) if seen else 0.0
            show(report | {"tokens_per_s": round(rate, 1)})
            tokens, at, seen = said, now, seen + 1
            if seen == looks:
                return
            await asyncio.sleep(interval_s)


def _print_report(report: dict[str, Any]) -> None:
    print(json.dumps(report, ensure_ascii=False), flush=True)


async def _ask(directory: Path) -> dict[str, Any]:
    async with connect(directory, name="ringcast status") as client:
        return await client.status()


def processes(directory: Path) -> dict[str, Any]:
    """Return processes with memory and restarts, and streams. Raises `NotRunning`.

    `uss_bytes` is memory that only this process has; `pss_bytes` adds its part of what is
    shared. Both are null where the system does not tell.
    """
    state = rundir.running(directory)
    report = asyncio.run(_ask(directory))
    rows = [_process("supervisor", state.pid, 0, 0.0)]
    rows += [_process(p.role, p.pid, p.restarts, p.ready_ms) for p in state.processes]
    streams = [
        {key: stream[key] for key in ("id", "provider", "model", "state", "seq", "readers")}
        for stream in report["streams"]
    ]
    return {"processes": rows, "streams": streams}


def _process(role: str, pid: int, restarts: int, ready_ms: float) -> dict[str, Any]:
    row = {"role": role, "pid": pid, "uss_bytes": None, "pss_bytes": None, "restarts": restarts}
    if ready_ms:
        row["ready_ms"] = ready_ms
    try:
        memory = psutil.Process(pid).memory_full_info()
    except psutil.Error:
        return row
    return row | {"uss_bytes": memory.uss, "pss_bytes": getattr(memory, "pss", None)}


def print_status(report: dict[str, Any]) -> None:
    """Print a status for people."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False)
    live = sum(stream["state"] != "ended" for stream in report["streams"])
    console.print(
        f"[bold]{report['status']}[/] pid {report['pid']} in {escape(report['run_dir'])}, "
        f"version {report['version']}, up {report['uptime_s']:.0f} s"
    )
    console.print(f"clients {report['clients']}, live streams {live}")
    for line in _flow(report["metrics"]):
        console.print(line)
    for name, state in sorted(report["providers"].items()):
        colour = "green" if state.startswith("ready") else "dim"
        console.print(f"  [{colour}]{name:<20} {escape(state)}[/]")


def _flow(said: dict[str, Any]) -> list[str]:
    """Say how streams flowed since the daemon began, in two lines; in one if none had a token."""
    counts = f"streams {said['streams']:,}, tokens {said['tokens']:,}, errors {said['errors']:,}"
    if not said["tokens"]:
        return [counts]
    first, gap = _spread(said["first_token"]), _spread(said["gap"])
    return [
        f"{counts}; decoding {said['decode_us_per_token']:.1f} µs a token",
        f"first token {first}; between tokens {gap}",
    ]


def _spread(said: dict[str, Any]) -> str:
    return f"p50 {_ms(said['p50_ms'])}, p99 {_ms(said['p99_ms'])}"


def _ms(ms: float) -> str:
    """Write a duration with two digits that matter, in the unit that fits it."""
    if ms >= 1000:
        return f"{ms / 1000:.1f} s"
    return f"{ms:.0f} ms" if ms >= 10 else f"{ms:.1f} ms" if ms >= 0.1 else f"{ms * 1000:.0f} µs"


def _screen(report: dict[str, Any]) -> Table:
    from rich.table import Table

    streams = report["streams"]
    live = [stream for stream in streams if stream["state"] != "ended"]
    ended = [stream for stream in streams if stream["state"] == "ended"]
    whole = Table.grid()
    whole.add_row(f"up {report['uptime_s']:.0f} s, clients {report['clients']}")
    whole.add_row(f"live streams {len(live)}, {report['tokens_per_s']:,.0f} tokens/s now")
    for line in ["since it began:", *_flow(report["metrics"]), ""]:
        whole.add_row(line)
    whole.add_row(_streams([*live, *reversed(ended)][:LINES]))
    return whole


def print_processes(report: dict[str, Any]) -> None:
    """Print processes and streams as two tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)  # a model's name may hold anything
    table = Table("role", "pid", "private MB", "PSS MB", "restarts", "ready ms", box=None)
    for row in report["processes"]:
        table.add_row(
            row["role"],
            str(row["pid"]),
            _megabytes(row["uss_bytes"]),
            _megabytes(row["pss_bytes"]),
            str(row["restarts"]),
            str(row.get("ready_ms", "")),
        )
    table.add_section()
    table.add_row(
        "all", "", *(_total(report["processes"], name) for name in ("uss_bytes", "pss_bytes"))
    )
    console.print(table)
    if report["streams"]:
        console.print(_streams(report["streams"]))


def _streams(streams: list[dict[str, Any]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None)
    table.add_column("stream", min_width=32)  # whole, as `ringcast cancel` wants it
    for name in ("model", "state", "seq", "readers"):
        table.add_column(name)
    for stream in streams:
        model = Text(f"{stream['provider']}/{stream['model']}")  # which may hold anything
        row = (stream["id"], model, stream["state"], str(stream["seq"]))
        table.add_row(*row, str(stream["readers"]))
    return table


def _megabytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e6:.1f}"


def _total(rows: list[dict[str, Any]], name: str) -> str:
    return _megabytes(sum(row[name] or 0 for row in rows))
