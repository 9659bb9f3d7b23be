"""What users of the traffic rules trip over: who is counted, what is told, who dies meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest
from fakes.daemon import Daemon, alive, ask, daemon, free_port, in_loop, take, until, until_async
from fakes.raw import Script, answer, answering, events

from ringcast.broker.client import Client
from ringcast.errors import Code
from ringcast.shm.tokens import Done, Error, StreamToken, Waiting

PORT = free_port()
NAMES = [f"p{number}" for number in range(8)]  # one for each test: a breaker remembers
PROVIDER = f"""
kind = "openai-compatible"
base_url = "http://127.0.0.1:{PORT}/v1"
"""
CONFIG = (
    "".join(f"[providers.{name}]{PROVIDER}" for name in [*NAMES, "refusing"])
    + """
[routes.back]
try = ["p0/passing", "refusing/refused"]
[routes.nowhere]
try = ["openai/m"]
[prices]
"p1/*" = { input = 1.0, output = 2.0 }
[health]
interval_s = 0
"""
)
QUICK = "[credit]\nlease_s = 0.2\n[retry]\npause_s = 0.02\n[breaker]\nfailures = 3\n"
MORTAL = """
[processes]
providers = 2
[usage]
daily_usd = 0.006
"""
OK = events(
    b'data: {"choices":[{"index":0,"delta":{"content":"ok"},"finish_reason":"stop"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":1000,"completion_tokens":1000}}\n\n'
    b"data: [DONE]\n\n"
)
WITHIN = events(b'data: {"error":{"message":"no","type":"server_error"}}\n\n')
JSON = "content-type: application/json"
NOT_NOW = b'{"error":{"message":"not now"}}'
SCRIPTS = {
    "ok": Script(OK),
    "500": Script(answer("500 X", NOT_NOW, JSON)),
    "within": Script(WITHIN),
    "later": Script(answer("429 X", NOT_NOW, JSON, "retry-after: 30")),
    "never": Script(answer("429 X", NOT_NOW, JSON, "retry-after: 315360000")),
    "refused": Script(answer("401 X", NOT_NOW, JSON)),
}


def scripted(model: str) -> Script:
    """A model does as it is called."""
    return SCRIPTS[model]


@pytest.fixture(scope="module")
def quick() -> Iterator[Daemon]:
    """A daemon in which nobody dies."""
    with daemon(CONFIG + QUICK) as running:
        yield running


async def asked(running: Daemon, model: str) -> list[StreamToken]:
    """All tokens of one chat."""
    async with running.connect() as client:
        return await take(await ask(client, model))


def code_of(tokens: list[StreamToken]) -> str:
    """How it ended: an error's code, or "done"."""
    last = tokens[-1]
    assert isinstance(last, Done | Error)
    return last.code if isinstance(last, Error) else "done"


def kill_providers(running: Daemon) -> None:
    """Kill every provider process, and wait until each has been replaced."""
    before = [one.pid for one in running.state.processes if one.role == "provider"]
    for pid in before:
        os.kill(pid, signal.SIGKILL)

    def replaced() -> bool:
        now = [one.pid for one in running.state.processes if one.role == "provider"]
        return len(now) == len(before) and not {*now} & {*before} and all(map(alive, now))

    until(replaced, "other provider processes")


async def killed(running: Daemon) -> None:
    """The same, while streams go on being read."""
    await asyncio.get_running_loop().run_in_executor(None, kill_providers, running)


async def all_ended(client: Client) -> bool:
    """Whether nothing is under way."""
    return all(one["state"] == "ended" for one in (await client.status())["streams"])


def test_what_was_spent_outlives_the_provider_processes() -> None:
    async def run() -> None:
        async with answering(PORT, scripted) as raw:
            while code_of(await asked(running, "p1/ok")) != Code.BUDGET_EXCEEDED:
                assert len(raw.models) < 9
            sent = len(raw.models)
            assert sent >= 2
            await killed(running)
            assert code_of(await asked(running, "p1/ok")) == Code.BUDGET_EXCEEDED
            assert len(raw.models) == sent

    with daemon(CONFIG + MORTAL) as running:
        in_loop(run)()


def test_who_has_left_is_not_sent_again_when_the_pause_is_over(quick: Daemon) -> None:
    async def run() -> None:
        async with answering(PORT, scripted) as raw:
            async with quick.connect() as client:
                stream = await ask(client, "p2/later", waiting=True)
                assert isinstance(await anext(stream), Waiting)
            async with quick.connect() as client:
                await until_async(lambda: all_ended(client), "its end")
            assert raw.models == ["later"]

    in_loop(run)()


@pytest.mark.parametrize(("name", "fault"), [("p3", "500"), ("p4", "within")])
def test_a_breaker_counts_a_failure_once_wherever_it_stands(
    quick: Daemon, name: str, fault: str
) -> None:
    async def run() -> None:
        async with answering(PORT, scripted) as raw, quick.connect() as client:
            assert code_of(await asked(quick, f"{name}/{fault}")) != Code.CIRCUIT_OPEN
            assert code_of(await asked(quick, f"{name}/{fault}")) == Code.CIRCUIT_OPEN
            assert len(raw.models) == 3
            traffic = (await client.health(name))[name]["traffic"]
            assert (traffic["requests"], traffic["failures"]) == (3, 3)
            assert "first_token_ms" not in traffic

    in_loop(run)()


def test_a_hint_that_is_too_long_is_told_for_the_client_to_come_again(quick: Daemon) -> None:
    async def run() -> None:
        async with answering(PORT, scripted):
            (last,) = await asked(quick, "p5/never")
            assert isinstance(last, Error)
            assert last.retry_after_s == 315360000.0
            assert last.retryable

    in_loop(run)()


def test_a_route_goes_back_to_who_passes_when_the_others_will_not(quick: Daemon) -> None:
    def script(model: str) -> Script:
        seen.append(model)
        return SCRIPTS["refused" if model == "refused" else "500" if len(seen) == 1 else "ok"]

    async def run() -> None:
        async with answering(PORT, script):
            last = (await asked(quick, "back"))[-1]
            assert isinstance(last, Done)
            assert last.summary is not None
            assert (last.summary.served_by, last.summary.attempts) == ("p0/passing", 3)
            assert seen == ["passing", "refused", "passing"]

    seen: list[str] = []
    in_loop(run)()


def test_what_was_never_sent_was_served_by_nobody(quick: Daemon) -> None:
    async def run() -> None:
        async with answering(PORT, scripted):
            await asked(quick, "p6/500")
            for model in ("p6/500", "nowhere"):
                last = (await asked(quick, model))[-1]
                assert isinstance(last, Error)
                assert last.summary is not None
                assert (last.summary.served_by, last.summary.attempts) == (None, 0)

    in_loop(run)()
