"""`ringcast usage`: what was used, summed up, without a daemon."""

from __future__ import annotations

import json
import subprocess
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from fakes.daemon import command, environment

from ringcast import config, spending
from ringcast.providers.spending.usage_file import Spent, UsageFile

TODAY = date.today()


def days_ago(days: int) -> str:
    return (TODAY - timedelta(days=days)).isoformat()


ROWS = [
    Spent(days_ago(8), "openai", "gpt-5", 1, 0, 1_000, 100, cost_micro=1_000_000),
    Spent(days_ago(6), "openai", "gpt-5", 2, 1, 20_000, 300, 5_000, cost_micro=30_000),
    Spent(days_ago(0), "anthropic", "claude-opus-5", 3, 0, 50, 9_999, 2_500_000, cost_micro=4_200),
    Spent(days_ago(0), "lab", "[bold]q", 4, 0, 70, 80, unpriced=4),
    Spent(days_ago(0), "openai", "gpt-5", 5, 0, 600, 700, cost_micro=500),
]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a configuration and a file of `ROWS`."""
    with closing(UsageFile(tmp_path / "usage.sqlite3")) as written:
        written.add(ROWS)
    file = json.dumps(str(tmp_path / "usage.sqlite3"))
    (tmp_path / "config.toml").write_text(f"[usage]\nfile = {file}\n")
    return tmp_path


def usage(
    *options: str, place: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    named = ["--config", str(place / "config.toml")] if place else []
    return subprocess.run(
        command("usage", *named, *options),
        env=environment(COLUMNS="80", PYTHONUTF8="1", **variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def plain(place: Path, *options: str) -> dict[str, Any]:
    done = usage("--json", *options, place=place)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_json_has_a_row_for_each_day_provider_and_model_and_their_sum(place: Path) -> None:
    report = plain(place)
    assert report["file"] == str(place / "usage.sqlite3")
    assert (report["days"], report["since"]) == (7, days_ago(6))
    assert [(row["day"], row["provider"], row["model"]) for row in report["rows"]] == [
        row.key for row in ROWS[1:]
    ]
    assert report["rows"][0] == {
        "day": days_ago(6),
        "provider": "openai",
        "model": "gpt-5",
        "requests": 2,
        "errors": 1,
        "input": 20_000,
        "output": 300,
        "cache_read": 5_000,
        "cache_write": 0,
        "reasoning": 0,
        "unpriced": 0,
        "cost": 0.03,
    }
    assert report["sum"]["requests"] == 14
    assert report["sum"]["cost"] == pytest.approx(0.0347)
    assert report["unpriced_models"] == ["lab/[bold]q"]
    assert (report["today"], report["daily_usd"]) == (0.0047, 0.0)


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("day", {days_ago(6): 0.03, days_ago(0): 0.0047}),
        ("provider", {"anthropic": 0.0042, "lab": 0.0, "openai": 0.0305}),
        ("model", {"anthropic/claude-opus-5": 0.0042, "lab/[bold]q": 0.0, "openai/gpt-5": 0.0305}),
    ],
)
def test_it_sums_by_what_is_asked_for(place: Path, by: str, expected: dict[str, float]) -> None:
    report = plain(place, "--by", by)
    assert {row[by]: row["cost"] for row in report["rows"]} == pytest.approx(expected)
    assert report["sum"]["requests"] == 14


def test_days_count_today(place: Path) -> None:
    assert {row["day"] for row in plain(place, "--days", "1")["rows"]} == {days_ago(0)}
    assert len(plain(place, "--days", "9")["rows"]) == len(ROWS)
    assert plain(place, "--days", "36500")["sum"]["requests"] == 15


def test_the_table_has_days_models_and_a_sum_and_names_what_has_no_price(place: Path) -> None:
    done = usage(place=place)
    lines = [line.split() for line in done.stdout.splitlines() if line.strip()]
    assert lines[0] == ["day,", "model", "calls", "failed", "input", "cached", "output", "cost"]
    assert [days_ago(6), "2", "1", "20.0K", "5,000", "300", "$0.0300"] in lines
    assert ["openai/gpt-5", "2", "1", "20.0K", "5,000", "300", "$0.0300"] in lines
    assert [days_ago(0), "12", "-", "720", "2.50M", "10.8K", "$0.0047+"] in lines
    assert ["lab/[bold]q", "4", "-", "70", "-", "80", "?"] in lines
    assert ["sum", "14", "1", "20.7K", "2.50M", "11.1K", "$0.0347+"] in lines
    said = " ".join(done.stdout.split())
    assert "cost not known of lab/[bold]q: no usage was told, or no price ([prices])" in said
    assert "today" not in said
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_a_store_that_is_empty_says_so(tmp_path: Path) -> None:
    done = usage(XDG_STATE_HOME=str(tmp_path))
    assert done.returncode == 0
    told = " ".join(done.stdout.split())
    assert told.startswith("nothing was used in the last 7 days (")
    assert not list(tmp_path.iterdir())
    report = json.loads(usage("--json", XDG_STATE_HOME=str(tmp_path)).stdout)
    assert (report["rows"], report["sum"]["cost"]) == ([], 0.0)


def test_what_is_spent_today_is_shown_against_the_budget(place: Path) -> None:
    with (place / "config.toml").open("a") as file:
        file.write("daily_usd = 1.5\n")
    assert "today $0.0047 of $1.50" in usage("--by", "model", place=place).stdout


def test_it_says_that_nothing_is_kept(place: Path) -> None:
    with (place / "config.toml").open("a") as file:
        file.write("keep = false\n")
    assert "usage.keep = false" in usage(place=place).stdout


def test_a_broken_file_is_one_line_and_a_failure(place: Path) -> None:
    (place / "usage.sqlite3").write_bytes(b"rubbish" * 100)
    done = usage(place=place)
    assert done.returncode == 1
    assert done.stderr == f"ringcast: {place}/usage.sqlite3: file is not a database\n"


def test_a_wrong_option_is_a_usage_error(place: Path) -> None:
    assert usage("--days", "0", place=place).returncode == 2
    assert usage("--by", "moon", place=place).returncode == 2


def test_the_first_days_of_the_calendar_can_be_asked_for(tmp_path: Path) -> None:
    settings = config.Usage(file=str(tmp_path / "none"))
    assert spending.report(settings, 7, None, date(1, 1, 2)).since == "0001-01-01"
