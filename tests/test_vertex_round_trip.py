"""Vertex AI through the daemon: tokens from a token endpoint that verifies what it is given."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from fakes.daemon import Daemon, ask, daemon, free_port, in_loop, take, texts
from fakes.endpoint import Asked, reply, serving
from fakes.google import CLIENT_SECRET, REFRESH_TOKEN, Google, authorized_user, service_account

from ringcast.broker.client import Client
from ringcast.shm.tokens import Done, Error, StreamToken

ROOT = Path(__file__).parents[1]
CORPUS = Path(os.environ.get("RINGCAST_CORPUS") or ROOT.parent / "shared" / "corpus")
NAME = "vertex/gemini-text"
SECRETS = ("PRIVATE KEY", REFRESH_TOKEN, CLIENT_SECRET, "ya29.canary")

pytestmark = pytest.mark.skipif(not CORPUS.is_dir(), reason="needs the recordings")


class Platform:
    """Token endpoint and Vertex AI in one, which plays one recording."""

    def __init__(self, google: Google) -> None:
        self.google = google
        self.asked: list[Asked] = []
        self._body = (CORPUS / f"{NAME}.sse").read_bytes()

    def answer(self, asked: Asked) -> bytes:
        if asked.target == "/token":
            return self.google.answer(asked)
        self.asked.append(asked)
        if self.google.takes(asked):
            return reply(200, self._body, content_type="text/event-stream")
        text = f"Request had invalid authentication credentials: {asked.headers['authorization']}"
        error = {"error": {"code": 401, "message": text, "status": "UNAUTHENTICATED"}}
        return reply(401, json.dumps(error).encode(), content_type="application/json")


@asynccontextmanager
async def running(
    google: Google, tmp_path: Path, write: Callable[[Path, str], Path]
) -> AsyncIterator[tuple[Platform, Daemon, Client]]:
    """A daemon of a user with a file of credentials, and a client of it."""
    port = free_port()
    path = write(tmp_path / "credentials.json", f"http://127.0.0.1:{port}/token")
    config = f"""
        [providers.vertex]
        kind = "vertex"
        base_url = "http://127.0.0.1:{port}"
        credentials = "{path}"
        location = "us-east5"
    """
    platform = Platform(google)
    with daemon(config, HOME=str(tmp_path)) as started:
        async with serving(port, platform.answer), started.connect() as client:
            yield platform, started, client
            report = json.dumps(await client.status())
            for secret in SECRETS:
                assert secret not in report + started.said


async def answer(client: Client) -> list[StreamToken]:
    return await take(await ask(client, "vertex/gemini-2.5-flash"))


def right(tokens: list[StreamToken]) -> bool:
    expected = json.loads((CORPUS / "expected" / f"{NAME}.json").read_bytes())
    return isinstance(tokens[-1], Done) and "".join(texts(tokens)) == expected["text"]


def refused(tokens: list[StreamToken]) -> str:
    (error,) = tokens
    assert isinstance(error, Error)
    assert error.code == "auth"
    assert not any(secret in error.message for secret in SECRETS)
    return error.message


@in_loop
async def test_a_service_account(tmp_path: Path) -> None:
    async with running(Google(), tmp_path, service_account) as (platform, _, client):
        for _ in range(3):
            assert right(await answer(client))
        assert len(platform.google.grants) == 1
        for asked in platform.asked:
            assert "/projects/canary-project/locations/us-east5/" in asked.target


@in_loop
async def test_a_user_whose_token_runs_out(tmp_path: Path) -> None:
    google = Google(told_s=0)
    async with running(google, tmp_path, authorized_user) as (platform, _, client):
        for _ in range(3):
            assert right(await answer(client))
        assert google.grants == ["refresh_token"] * 3
        assert {one.headers["x-goog-user-project"] for one in platform.asked} == {"paying-project"}


@in_loop
async def test_a_login_that_was_revoked(tmp_path: Path) -> None:
    google = Google(told_s=0)
    async with running(google, tmp_path, authorized_user) as (platform, _, client):
        assert right(await answer(client))
        google.refuses = f"Token has been expired or revoked. {REFRESH_TOKEN}"
        text = refused(await answer(client))
        assert text.endswith("invalid_grant: Token has been expired or revoked. [masked]")
        assert "credentials.json" in text
        assert len(platform.asked) == 1  # nothing is sent without a token
        google.refuses = ""
        assert right(await answer(client))


@in_loop
async def test_a_token_that_is_refused(tmp_path: Path) -> None:
    async with running(Google(life_s=0, told_s=3600), tmp_path, authorized_user) as (_, _, client):
        assert "[masked]" in refused(await answer(client))
