"""`ringcast status` and `top`: how streams flowed, for people and as JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fakes.daemon import ask, daemon, free_port, in_loop, replaying, take

from ringcast import inspection
from ringcast.errors import NotRunning
from ringcast.shm.tokens import Done

UP = free_port()
CONFIG = f"""
[providers.up]
kind = "openai-compatible"
base_url = "http://127.0.0.1:{UP}/v1"
[processes]
workers = 2
"""
SPREAD = {"p50_ms": 0.0451, "p99_ms": 12.3}
REPORT: dict[str, Any] = {
    "status": "running",
    "pid": 1,
    "run_dir": "/[run]",
    "version": "1",
    "uptime_s": 7.0,
    "clients": 2,
    "providers": {"up": "ready", "off": "no [key]"},
    "streams": [
        {
            "id": f"{n:032x}",
            "provider": "up",
            "model": "[m]",
            "state": state,
            "seq": 9,
            "readers": 1,
        }
        for n, state in enumerate(["ended"] * 30 + ["streaming"] * 3)
    ],
    "metrics": {
        "streams": 33,
        "tokens": 1234,
        "errors": 1,
        "decode_us_per_token": 1.26,
        "first_token": {"p50_ms": 1234.5, "p99_ms": 9.96},
        "gap": SPREAD,
    },
    "tokens_per_s": 99.6,
}


def test_a_status_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    inspection.print_status(REPORT)
    said = capsys.readouterr().out
    assert "running pid 1 in /[run], version 1, up 7 s" in said
    assert "clients 2, live streams 3" in said
    assert "streams 33, tokens 1,234, errors 1; decoding 1.3 µs a token" in said
    assert "first token p50 1.2 s, p99 10.0 ms; between tokens p50 45 µs, p99 12 ms" in said
    assert "no [key]" in said


def test_what_nothing_was_measured_of_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    inspection.print_status(REPORT | {"metrics": REPORT["metrics"] | {"tokens": 0}})
    said = capsys.readouterr().out
    assert "streams 33, tokens 0, errors 1\n" in said
    assert "p50" not in said


def test_a_screen_has_live_streams_first_and_then_the_newest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from rich.console import Console

    Console(width=100).print(inspection._screen(REPORT))
    said = capsys.readouterr().out
    assert "live streams 3, 100 tokens/s now" in said
    rows = [line for line in said.splitlines() if "up/[m]" in line]
    numbers = [int(row.split()[0], 16) for row in rows]
    assert numbers == [30, 31, 32, *range(29, 12, -1)]
    assert len(rows) == inspection.LINES


@in_loop
async def _spoken(running: Any, count: int) -> None:
    async with replaying(UP), running.connect() as client:
        for _ in range(count):
            *_, end = await take(await ask(client, "up/numbered;n=50"))
            assert isinstance(end, Done)
            assert end.summary is not None
            assert (end.summary.decode_ms or 0) > 0
            assert end.summary.transform_ms is None


def test_what_a_daemon_says_of_its_streams_outlives_its_processes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with daemon(CONFIG) as running:
        _spoken(running, 3)
        for role in ("worker", "broker"):
            running.kill(role)
        _spoken(running, 1)
        said = inspection.status(running.directory)["metrics"]
        assert (said["streams"], said["errors"], said["first_token"]["count"]) == (4, 0, 4)
        assert said["tokens"] == said["gap"]["count"] + 4 >= 200
        assert said["decode_us_per_token"] > 0
        inspection.watch(running.directory, 0.1, 2, as_json=True)
        first, second = map(json.loads, capsys.readouterr().out.splitlines())
        assert first["metrics"]["tokens"] == second["metrics"]["tokens"] == said["tokens"]
        assert second["tokens_per_s"] == 0.0
        inspection.watch(running.directory, 0.1, 1, as_json=False)
        assert "streams 4," in capsys.readouterr().out
    with pytest.raises(NotRunning):
        inspection.watch(running.directory, 0.1, 1, as_json=True)
