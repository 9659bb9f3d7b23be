"""Bedrock through the daemon: real requests, verified by a server that knows the secret."""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from fakes.aws import Aws, Identity
from fakes.daemon import Daemon, ask, daemon, free_port, in_loop, take, texts
from fakes.endpoint import Asked, reply, serving

from ringcast.broker.client import Client
from ringcast.shm.tokens import Done, Error, StreamToken

ROOT = Path(__file__).parents[1]
CORPUS = Path(os.environ.get("RINGCAST_CORPUS") or ROOT.parent / "shared" / "corpus")
NAME = "bedrock/converse-claude-tool"
MODEL = "bedrock/anthropic.claude-3-7-sonnet-20250219-v1:0"
SECRET, TOKEN = "canary-Secret/0a1b2c3d", "canary-Token+4e5f6a7b=="

pytestmark = pytest.mark.skipif(not CORPUS.is_dir(), reason="needs the recordings")


class Runtime:
    """A Bedrock runtime: it lets in whose signature is good, and plays one recording."""

    def __init__(self, aws: Aws) -> None:
        self.aws = aws
        self._body = (CORPUS / f"{NAME}.eventstream").read_bytes()

    def answer(self, asked: Asked) -> bytes:
        good = reply(200, self._body, content_type="application/vnd.amazon.eventstream")
        return self.aws.refusal(asked) or good


@asynccontextmanager
async def running(aws: Aws, **variables: str) -> AsyncIterator[tuple[Daemon, Client]]:
    """A daemon of a user with these variables, and a client of it."""
    port = free_port()
    config = f"""
        [providers.bedrock]
        kind = "bedrock"
        base_url = "http://127.0.0.1:{port}"
    """
    settings = {"HOME": "/no/such", "AWS_REGION": "us-east-1"} | variables
    with daemon(config, **settings) as started:
        async with serving(port, Runtime(aws).answer), started.connect() as client:
            yield started, client
            report = json.dumps(await client.status())
            for secret in (SECRET, TOKEN):
                assert secret not in report + started.said


async def answer(client: Client) -> list[StreamToken]:
    return await take(await ask(client, MODEL))


def right(tokens: list[StreamToken]) -> bool:
    expected = json.loads((CORPUS / "expected" / f"{NAME}.json").read_bytes())
    return isinstance(tokens[-1], Done) and "".join(texts(tokens)) == expected["text"]


def refused(tokens: list[StreamToken]) -> str:
    (error,) = tokens
    assert isinstance(error, Error)
    assert error.code == "auth"
    assert SECRET not in error.message
    assert TOKEN not in error.message
    return error.message


def shown(pid: int) -> list[str]:
    """Which secrets a process was started with."""
    there = Path(f"/proc/{pid}/environ").read_bytes()
    return [secret for secret in (SECRET, TOKEN) if secret.encode() in there]


GIVEN = {
    "AWS_ACCESS_KEY_ID": "AKIDCANARY00",
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_SESSION_TOKEN": TOKEN,
}


@pytest.mark.parametrize("ahead_s", [0, 600, -600])
@in_loop
async def test_keys_of_the_environment_and_a_clock(ahead_s: int) -> None:
    aws = Aws({"AKIDCANARY00": Identity(SECRET, TOKEN)}, ahead_s=ahead_s)
    async with running(aws, **GIVEN) as (started, client):
        for _ in range(3):
            assert right(await answer(client))
        assert len(aws.refusals) == (1 if ahead_s else 0)  # the time is learnt once
        assert aws.accepted[0].target.startswith(
            "/model/anthropic.claude-3-7-sonnet-20250219-v1%3A0/"
        )
        for pid in started.pids:
            assert not shown(pid)


@in_loop
async def test_keys_that_have_run_out_and_were_renewed_by_another_tool(tmp_path: Path) -> None:
    folder = tmp_path / ".aws"
    folder.mkdir()

    def write(key: str) -> None:
        lines = f"aws_access_key_id = {key}\naws_secret_access_key = {SECRET}\n"
        text = f"[work]\n{lines}aws_session_token = {TOKEN}\n"
        (folder / "credentials").write_text(text)

    write("AKIDOLD00000")
    aws = Aws({"AKIDOLD00000": Identity(SECRET, TOKEN, ends_at=time.time() - 1)})
    async with running(aws, HOME=str(tmp_path), AWS_PROFILE="work") as (_, client):
        assert refused(await answer(client)).endswith(
            "The security token included in the request is expired"
        )
        write("AKIDNEW00000")
        aws.identities["AKIDNEW00000"] = Identity(SECRET, TOKEN)
        assert right(await answer(client))


@in_loop
async def test_a_wrong_secret_is_not_shown_back() -> None:
    """AWS answers with what should have been signed, and the token is in that."""
    aws = Aws({"AKIDCANARY00": Identity("another", TOKEN)})
    async with running(aws, **GIVEN) as (_, client):
        assert "does not match" in refused(await answer(client))


@in_loop
async def test_a_key_of_bedrock() -> None:
    def check(asked: Asked) -> bytes:
        assert asked.headers["authorization"] == f"Bearer {SECRET}"
        assert "x-amz-date" not in asked.headers
        return reply(403, f'{{"message": "no {SECRET}"}}'.encode(), content_type="application/json")

    port = free_port()
    config = f"""
        [providers.bedrock]
        kind = "bedrock"
        region = "us-east-1"
        base_url = "http://127.0.0.1:{port}"
        key = {{ env = "AWS_BEARER_TOKEN_BEDROCK" }}
    """
    with daemon(config, AWS_BEARER_TOKEN_BEDROCK=SECRET) as started:
        async with serving(port, check), started.connect() as client:
            assert "no [masked]" in refused(await answer(client))
