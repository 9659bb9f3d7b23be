"""Azure through the daemon: a key, and tokens that a command prints."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from fakes.daemon import ask, daemon, free_port, in_loop, take
from fakes.endpoint import Asked, reply, serving

from ringcast.shm.tokens import Done, Error

ROOT = Path(__file__).parents[1]
CORPUS = Path(os.environ.get("RINGCAST_CORPUS") or ROOT.parent / "shared" / "corpus")
CANARY = "canary-0a1b2c3d4e5f"
# Prints a token with its number, good for as many seconds as it is told.
COMMAND = """
import json, pathlib, sys, time
count = pathlib.Path(sys.argv[1])
number = len(count.read_text()) + 1 if count.exists() else 1
count.write_text("x" * number)
token = f"canary-0a1b2c3d4e5f-{number}"
print(json.dumps({"accessToken": token, "expires_on": int(time.time() + float(sys.argv[2]))}))
"""

pytestmark = pytest.mark.skipif(not CORPUS.is_dir(), reason="needs the recordings")


class Resource:
    """An Azure resource that plays one recording, and notes who asked."""

    def __init__(self) -> None:
        self.seen: list[dict[str, str]] = []
        self.refuses = False
        self._body = (CORPUS / "azure/chat-usage.sse").read_bytes()

    def answer(self, asked: Asked) -> bytes:
        self.seen.append(asked.headers)
        if self.refuses:
            said = f'{{"error": {{"code": "401", "message": "no: {asked.headers}"}}}}'
            return reply(401, said.encode(), content_type="application/json")
        return reply(200, self._body, content_type="text/event-stream")


@pytest.mark.parametrize(("life_s", "tokens"), [(3600, [1, 1, 1]), (0, [1, 2, 3])])
@in_loop
async def test_tokens_of_a_command(life_s: int, tokens: list[int], tmp_path: Path) -> None:
    port, resource = free_port(), Resource()
    command = [sys.executable, "-c", COMMAND, str(tmp_path / "count"), str(life_s)]
    config = f"""
        [providers.azure]
        kind = "azure"
        base_url = "http://127.0.0.1:{port}"
        token_command = {json.dumps(command)}
    """
    with daemon(config) as started:
        async with serving(port, resource.answer), started.connect() as client:
            for _ in tokens:
                assert isinstance((await take(await ask(client, "azure/gpt")))[-1], Done)
            resource.refuses = True
            (error,) = await take(await ask(client, "azure/gpt"))
        assert CANARY not in started.said
    used = [headers["authorization"] for headers in resource.seen]
    assert used[:3] == [f"Bearer {CANARY}-{number}" for number in tokens]
    assert isinstance(error, Error)
    assert (error.code, "[masked]" in error.message) == ("auth", True)
    assert CANARY not in error.message


@in_loop
async def test_a_key_and_what_is_missing_elsewhere(tmp_path: Path) -> None:
    port, resource = free_port(), Resource()
    config = f"""
        [providers.azure]
        kind = "azure"
        base_url = "http://127.0.0.1:{port}"
        key = {{ env = "AZURE_OPENAI_API_KEY" }}
    """
    variables = {"AZURE_OPENAI_API_KEY": CANARY, "HOME": str(tmp_path), "AWS_REGION": ""}
    with daemon(config, **variables) as started:
        async with serving(port, resource.answer), started.connect() as client:
            assert isinstance((await take(await ask(client, "azure/gpt")))[-1], Done)
            providers = (await client.status())["providers"]
    assert resource.seen[0]["api-key"] == CANARY
    assert "authorization" not in resource.seen[0]
    assert providers["azure"] == "ready"
    assert providers["bedrock"].startswith("no region: ")
    assert "application_default_credentials.json" in providers["vertex"]
