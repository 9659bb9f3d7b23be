"""Looking at a running daemon: its processes from the run directory, its streams by asking."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import psutil

from ringcast import rundir
from ringcast.broker.client import connect


def status(directory: Path) -> dict[str, Any]:
    """Return the daemon's own report, with its processes. Raises `NotRunning`."""
    state = rundir.running(directory)
    report = asyncio.run(_ask(directory))
    return {"status": state.status, "pid": state.pid, "run_dir": str(directory), **report}


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
    for name, state in sorted(report["providers"].items()):
        colour = "green" if state == "ready" else "dim"
        console.print(f"  [{colour}]{name:<20} {escape(state)}[/]")


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
        table = Table("stream", "model", "state", "seq", "readers", box=None)
        for stream in report["streams"]:
            model = f"{stream['provider']}/{stream['model']}"
            row = (stream["id"], model, stream["state"], str(stream["seq"]))
            table.add_row(*row, str(stream["readers"]))
        console.print(table)


def _megabytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e6:.1f}"


def _total(rows: list[dict[str, Any]], name: str) -> str:
    return _megabytes(sum(row[name] or 0 for row in rows))
