"""What an answer costs, from the provider's usage to the file, the budget and the command."""

from __future__ import annotations

import json
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from fakes.daemon import (
    RECORDINGS,
    ask,
    command,
    daemon,
    environment,
    free_port,
    in_loop,
    replaying,
    take,
)
from fakes.raw import Script, answering, events

from ringcast.broker.client import Client
from ringcast.providers.spending.usage_file import Spent, UsageFile, read
from ringcast.providers.spending.usage_store import day
from ringcast.shm.tokens import Done, Error, Text

ANSWER = "up/chat-text-usage"  # 23 tokens in, 126 out
COST = (23 * 2 + 126 * 8) / 1e6


def settings(port: int, file: Path, daily_usd: float = 0.0) -> str:
    return f"""
[usage]
file = {json.dumps(str(file))}
daily_usd = {daily_usd}
[prices]
"up/*" = {{ input = 2.0, output = 8.0 }}
[providers.up]
kind = "openai-compatible"
base_url = "http://127.0.0.1:{port}/v1"
"""


async def last(client: Client) -> Done | Error:
    """The last token of an answer."""
    *_, end = await take(await ask(client, ANSWER))
    assert isinstance(end, Done | Error)
    return end


def shown(config: Path) -> dict[str, Any]:
    done = subprocess.run(
        command("usage", "--json", "--config", str(config)),
        env=environment(),
        capture_output=True,
        check=True,
        timeout=60,
    )
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_an_answer_is_charged_written_down_and_held_against_the_budget(tmp_path: Path) -> None:
    assert any(recording.name.endswith("chat-text-usage") for recording in RECORDINGS)
    port, file = free_port(), tmp_path / "usage.sqlite3"
    config = settings(port, file, daily_usd=1.5 * COST)
    (tmp_path / "config.toml").write_text(config)

    with daemon(config) as running:

        @in_loop
        async def first() -> None:
            async with replaying(port), running.connect() as client:
                for _ in range(2):  # the first half is left when the second is sent
                    end = await last(client)
                    assert isinstance(end, Done)
                    assert end.usage is not None
                    assert end.usage.cost == pytest.approx(COST)
                    assert end.summary is not None
                    assert end.summary.served_by == ANSWER
                refused = await last(client)
                assert isinstance(refused, Error)
                assert refused.code == "budget_exceeded"
                assert "spent $0.0021 of $0.0016 today (usage.daily_usd)" in refused.message

        first()

    (row,) = read(file)
    assert (row.provider, row.model) == ("up", "chat-text-usage")
    assert (row.requests, row.errors, row.input, row.output) == (2, 0, 46, 252)
    assert shown(tmp_path / "config.toml")["sum"]["cost"] == pytest.approx(2 * COST)


def test_a_stream_that_its_user_cancels_did_not_fail_and_has_no_known_cost(tmp_path: Path) -> None:
    port, file = free_port(), tmp_path / "usage.sqlite3"
    begun = events(b'data: {"choices":[{"index":0,"delta":{"content":"so"}}]}\n\n')
    with daemon(settings(port, file)) as running:

        @in_loop
        async def cancelled() -> None:
            script = Script(begun, "hang")
            async with answering(port, lambda _: script), running.connect() as client:
                stream = await ask(client, "up/m")
                assert isinstance(await anext(stream), Text)
                await stream.cancel()
                *_, end = await take(stream)
                assert isinstance(end, Error)
                assert end.code == "cancelled"

        cancelled()
        assert running.stop() == 0

    (row,) = read(file)
    assert (row.requests, row.errors, row.unpriced, row.cost_micro) == (1, 0, 1, 0)


def test_a_usage_file_that_is_broken_hurts_no_stream_and_is_told_once(tmp_path: Path) -> None:
    port, file = free_port(), tmp_path / "usage.sqlite3"
    file.write_bytes(b"rubbish" * 1000)
    with daemon(settings(port, file)) as running:

        @in_loop
        async def answers() -> None:
            async with replaying(port), running.connect() as client:
                for _ in range(3):
                    assert isinstance(await last(client), Done)

        answers()
        assert running.stop() == 0
        assert running.said.count("usage is not kept") == 1
        assert str(file) in running.said
        assert "Traceback" not in running.said


def test_a_daemon_knows_what_the_ones_before_it_have_spent_today(tmp_path: Path) -> None:
    port, file = free_port(), tmp_path / "usage.sqlite3"
    today = Spent(day(time.time()), "up", "m", 1, cost_micro=2_000_000)
    with closing(UsageFile(file)) as written:
        written.add([today])
    with daemon(settings(port, file, daily_usd=1.5)) as running:

        @in_loop
        async def refused() -> None:
            async with replaying(port), running.connect() as client:
                end = await last(client)
                assert isinstance(end, Error)
                assert end.code == "budget_exceeded"
                assert "spent $2.00 of $1.50 today" in end.message

        refused()
