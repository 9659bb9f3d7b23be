"""Models, counts and health through the real daemon, and what goes wrong on the way."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator

import pytest
from fakes.daemon import CANARY_KEY, Daemon, command, daemon, environment, free_port, in_loop
from fakes.rest import REVOKED, Reply, resting

from ringcast.errors import Code, RequestError

UP, CLOSED = free_port(), free_port()
CONFIG = f"""
[providers.up]
kind = "openai-compatible"
base_url = "http://127.0.0.1:{UP}/v1"
key = {{ env = "CANARY" }}
[providers.claude]
kind = "anthropic"
base_url = "http://127.0.0.1:{UP}/v1"
key = {{ env = "CANARY" }}
[providers.gone]
kind = "openai-compatible"
base_url = "http://127.0.0.1:{CLOSED}/v1"
[providers.locked]
kind = "openai"
key = {{ env = "NOT_SET_ANYWHERE" }}
[providers.pair]
kind = "openai-compatible"
base_url = "http://127.0.0.1:{UP}/v1"
keys = [{{ env = "REVOKED" }}, {{ env = "NOT_SET_ANYWHERE" }}, {{ env = "CANARY" }}]
requests_per_min = 60
[timeouts]
answer_s = 1
[limits]
max_answer_bytes = 200000
"""
MODELS = "GET /v1/models"
LISTED = {"data": [{"id": "m1", "created": 5, "owned_by": "us"}, {"id": "m2"}]}
COUNTS = "POST /v1/messages/count_tokens"
LACKS = "keys[1]: NOT_SET_ANYWHERE is not set"
HI = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def running() -> Iterator[Daemon]:
    no_ranks = {"RINGCAST_TIKTOKEN_DIR": "/nowhere", "XDG_CACHE_HOME": "/nowhere"}
    keys = {"CANARY": CANARY_KEY, "REVOKED": REVOKED}
    with daemon(CONFIG, TIKTOKEN_CACHE_DIR="", **keys, **no_ranks) as running:
        yield running
        assert CANARY_KEY not in running.said


def anthropic(*ids: str, after: str = "") -> tuple[str, Reply]:
    """A page of Anthropic's models that has another behind it if `after` is empty."""
    models = [{"id": id, "display_name": id.title()} for id in ids]
    page = {"data": models, "has_more": not after, "last_id": ids[-1]}
    query = f"&after_id={after}" if after else ""
    return f"GET /v1/models?limit=1000{query}", Reply(page)


@in_loop
async def test_models_of_one_provider(running: Daemon) -> None:
    async with resting(UP, {MODELS: Reply(LISTED)}) as rest, running.connect() as client:
        said = await client.models("up")
    first, second = said["models"]
    assert (first["provider"], first["id"], first["owner"], first["created"]) == (
        "up",
        "m1",
        "us",
        5,
    )
    assert (second["id"], said["errors"]) == ("m2", {})
    asked, headers, _ = rest.seen[0]
    assert (asked, headers["authorization"]) == (MODELS, f"Bearer {CANARY_KEY}")


@in_loop
async def test_models_of_all_providers_and_who_did_not_answer(running: Daemon) -> None:
    pages = dict([anthropic("claude-1", "claude-2"), anthropic("claude-3", after="claude-2")])
    async with resting(UP, {MODELS: Reply(LISTED), **pages}), running.connect() as client:
        said = await client.models()
    ids = [(model["provider"], model["id"]) for model in said["models"]]
    claudes = [("claude", f"claude-{n}") for n in (1, 2, 3)]
    assert ids == [*claudes, *((name, model) for name in ("pair", "up") for model in ("m1", "m2"))]
    assert said["errors"]["gone"]["code"] == Code.CONNECT_FAILED
    assert said["errors"]["locked"] == {
        "code": Code.PROVIDER_DISABLED,
        "message": "provider locked: NOT_SET_ANYWHERE is not set",
    }


@pytest.mark.parametrize(
    ("reply", "code", "message"),
    [
        (Reply({"error": {"message": "No."}}, 401), Code.AUTH, "No."),
        (Reply({"error": f"{CANARY_KEY} is bad"}, 401), Code.AUTH, "[masked] is bad"),
        (Reply(b"<html>"), Code.BAD_RESPONSE, "models: "),
        (Reply([1]), Code.BAD_RESPONSE, "models: "),
        (Reply(b'{"data": [' + b"[" * 5000), Code.BAD_RESPONSE, "models: "),
        (
            Reply(b" " * 200001),
            Code.BAD_RESPONSE,
            "the answer is larger than 200000 bytes (limits.max_answer_bytes)",
        ),
        (
            Reply(hang=True),
            Code.TOTAL_TIMEOUT,
            "no whole answer within 1 s (timeouts.answer_s)",
        ),
    ],
)
@in_loop
async def test_a_provider_that_does_not_tell(
    running: Daemon, reply: Reply, code: Code, message: str
) -> None:
    async with resting(UP, {MODELS: reply}), running.connect() as client:
        with pytest.raises(RequestError) as caught:
            await client.models("up")
    assert caught.value.code == code
    assert caught.value.message.startswith(message)


@in_loop
async def test_ten_thousand_models_with_two_names(running: Daemon) -> None:
    ids = [{"id": f"../{n % 6000}"} for n in range(7000)]
    async with resting(UP, {MODELS: Reply({"data": ids})}), running.connect() as client:
        said = await client.models("up")
    assert [model["id"] for model in said["models"]] == [f"../{n}" for n in range(5000)]


@in_loop
async def test_counting_by_the_provider_or_by_an_estimate(running: Daemon) -> None:
    async with (
        resting(UP, {COUNTS: Reply({"input_tokens": 8})}) as rest,
        running.connect() as client,
    ):
        assert await client.count("claude/c", HI) == {"tokens": 8, "accuracy": "provider"}
        assert await client.count("up/m", HI) == {"tokens": 5, "accuracy": "estimate"}
        assert await client.count("up/m", prompt="x" * 40) == {"tokens": 10, "accuracy": "estimate"}
    assert rest.seen[0][2] == {"model": "c", "messages": HI}


@in_loop
async def test_what_cannot_be_counted(running: Daemon) -> None:
    async with running.connect() as client:
        for model, code in [
            ("nobody/m", Code.UNKNOWN_PROVIDER),
            ("m", Code.BAD_REQUEST),
            ("locked/m", Code.PROVIDER_DISABLED),
        ]:
            with pytest.raises(RequestError) as caught:
                await client.count(model, HI)
            assert caught.value.code == code
        with pytest.raises(RequestError, match="temperature: 9"):
            await client.count("up/m", HI, temperature=9.0)


@in_loop
async def test_health_of_each(running: Daemon) -> None:
    async with resting(UP, {MODELS: Reply(LISTED)}), running.connect() as client:
        said = await client.health()
        assert said["up"]["ok"]
        assert said["up"]["latency_ms"] > 0
        assert not said["gone"]["ok"]
        assert said["gone"]["code"] == Code.CONNECT_FAILED
        assert said["locked"]["message"] == "provider locked: NOT_SET_ANYWHERE is not set"
        assert (await client.health("up")).keys() == {"up"}
        with pytest.raises(RequestError, match="no provider 'x'"):
            await client.health("x")


@in_loop
async def test_a_provider_goes_on_with_one_of_its_keys_and_names_the_others(
    running: Daemon,
) -> None:
    async with resting(UP, {MODELS: Reply(LISTED)}), running.connect() as client:
        health = (await client.health("pair"))["pair"]
        assert health["ok"]
        assert re.fullmatch(rf"keys\[0\]: auth: .*revoked.*; {re.escape(LACKS)}", health["message"])
        assert (await client.status())["providers"]["pair"] == f"ready, but {LACKS}"
        assert len((await client.models("pair"))["models"]) == 2


@in_loop
async def test_capabilities_of_a_provider_and_of_a_model(running: Daemon) -> None:
    async with running.connect() as client:
        said = await client.capabilities("claude")
        assert (said["apis"], said["tools"], said["count"]) == (
            ["messages", "complete"],
            True,
            "provider",
        )
        assert (await client.capabilities("up/m"))["apis"][0] == "chat"
        with pytest.raises(RequestError, match="no provider 'x'"):
            await client.capabilities("x")
        with pytest.raises(RequestError, match="provider_disabled"):
            await client.capabilities("locked")


@pytest.mark.parametrize("role", ["provider", "broker"])
@in_loop
async def test_who_dies_over_a_question_is_replaced_and_asked_again(
    running: Daemon, role: str
) -> None:
    async with resting(UP, {MODELS: Reply(hang=True)}) as rest, running.connect() as client:
        asking = asyncio.create_task(client.models("up"))
        await rest.asked.wait()
        rest.replies[MODELS] = Reply(LISTED)
        os.kill(running.pid(role), signal.SIGKILL)
        assert len((await asking)["models"]) == 2


@in_loop
async def test_too_many_questions_of_one_client(running: Daemon) -> None:
    async with resting(UP, {MODELS: Reply(hang=True)}), running.connect() as client:
        asking = [asyncio.create_task(client.models("up")) for _ in range(70)]
        said = await asyncio.gather(*asking, return_exceptions=True)
    codes = [one.code for one in said if isinstance(one, RequestError)]
    assert sorted(codes) == [Code.FLOOD] * 6 + [Code.TOTAL_TIMEOUT] * 64


@in_loop
async def test_the_command_line(running: Daemon) -> None:
    async def ringcast(*arguments: str) -> tuple[int, str]:
        run = asyncio.to_thread(
            subprocess.run,
            [*command(*arguments), "--run-dir", str(running.directory)],
            capture_output=True,
            env=environment(COLUMNS="200"),
            check=False,
        )
        done = await run
        return done.returncode, (done.stdout + done.stderr).decode()

    async with resting(UP, {MODELS: Reply(LISTED)}):
        status, said = await ringcast("models", "up", "--json")
        assert (status, len(json.loads(said)["models"])) == (0, 2)
        status, said = await ringcast("models")
        assert status == 0
        assert "up/m1" in said
        assert "gone: connect_failed" in said
        assert await ringcast("count", "-m", "up/m", "hi") == (0, "about 5 tokens (estimate)\n")
        assert (await ringcast("health", "up"))[0] == 0
        status, said = await ringcast("health", "pair")
        assert status == 0
        assert "ok, but keys[0]: auth: " in said
        assert said.split()[-4:] == ["60", "requests", "a", "minute"]
        status, said = await ringcast("health", "gone")
        assert status == 1
        assert "connect_failed" in said
        status, said = await ringcast("models", "nobody")
        assert status == 1
        assert "unknown_provider" in said
