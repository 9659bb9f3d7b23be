"""What `ringcast health` prints."""

from __future__ import annotations

from typing import Any

import pytest

from ringcast.questions import print_health

TRAFFIC: dict[str, Any] = {"breaker": "closed", "requests": 3, "failures": 3, "sent_again": 2}


def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, **health: Any) -> str:
    """What stands there for a provider, in one line."""
    monkeypatch.setenv("COLUMNS", "300")
    print_health({"up": {"ok": True, **health}})
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("traffic", "line"),
    [
        ({}, "up ok 3 sent (2 again), 3 failed"),
        ({"first_token_ms": 12.5}, "up ok 3 sent (2 again), 3 failed, first token in 12.5 ms"),
        ({"breaker": "open"}, "up ok 3 sent (2 again), 3 failed, breaker open"),
        (
            {"process": 2, "processes": 4, "queued": 7},
            "up ok process 2 of 4: 3 sent (2 again), 3 failed, 7 waiting",
        ),
        (
            {"requests": 0, "requests_per_min": 60, "concurrency": 4},
            "up ok limits 60 requests a minute, 4 at once",
        ),
        ({"requests": 0}, "up ok"),
    ],
)
def test_traffic_is_told_in_a_line(
    traffic: dict[str, Any],
    line: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert said(capsys, monkeypatch, traffic=TRAFFIC | traffic) == line


def test_who_answers_by_one_key_only_is_well_but(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = said(capsys, monkeypatch, message="keys[0]: auth: no", latency_ms=2.0)
    assert line == "up ok, but keys[0]: auth: no (2 ms)"
