"""AWS's credentials: signatures that AWS takes, and where the keys for them come from."""

from __future__ import annotations

import sys
from pathlib import Path

import httpx
import pytest
from fakes.aws import Aws, Identity
from fakes.daemon import in_loop
from fakes.endpoint import asked, client_of, reply

from ringcast.config import Provider
from ringcast.errors import RequestError
from ringcast.providers import aws, renewable
from ringcast.providers.aws import Signature
from ringcast.providers.credentials import Credential, send
from ringcast.providers.renewable import Fetched, Renewable, never
from ringcast.providers.sigv4 import Keys

CANARY = "canary-0a1b2c3d4e5f"
NOBODY = httpx.AsyncClient(transport=httpx.AsyncBaseTransport())


async def given(_: httpx.AsyncClient) -> Fetched[Keys]:
    return Fetched(Keys("AKIDCANARY00", CANARY, f"{CANARY}-token"), never)


def signed_by(server: Aws) -> httpx.AsyncClient:
    return client_of(lambda one: server.refusal(one) or reply(200, b"ok"))


URL = "https://bedrock-runtime.us-east-1.amazonaws.com/model/anthropic.claude%3A0/converse?b=2&a=1"


@pytest.mark.parametrize("ahead_s", [0, 240, -240, 600, -600, 86400 * 400])
@in_loop
async def test_a_clock_that_is_wrong_is_set_right(ahead_s: int) -> None:
    server = Aws({"AKIDCANARY00": Identity(CANARY, f"{CANARY}-token")}, ahead_s=ahead_s)
    credential = Signature(Renewable(given, "it"), "us-east-1", "a test")
    for _ in range(2):
        assert (await send(signed_by(server), asked(URL), credential)).status_code == 200
    assert len(server.refusals) == (1 if abs(ahead_s) > 300 else 0)


@in_loop
async def test_a_wrong_secret_is_refused_once() -> None:
    server = Aws({"AKIDCANARY00": Identity("another", f"{CANARY}-token")})
    credential = Signature(Renewable(given, "it"), "us-east-1", "a test")
    response = await send(signed_by(server), asked(URL), credential)
    assert (response.status_code, server.refusals) == (403, ["InvalidSignatureException"])
    assert CANARY in response.text  # AWS shows the token in what should have been signed
    assert CANARY.encode() not in credential.mask(response.content)


def home(path: Path, credentials: str, config: str = "") -> dict[str, str]:
    """The environment of a user with these files."""
    folder = path / ".aws"
    folder.mkdir(exist_ok=True)
    (folder / "credentials").write_text(credentials)
    (folder / "config").write_text(config)
    return {"HOME": str(path), "AWS_REGION": "us-east-1"}


def chain(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, profile: str) -> Credential:
    """What a Bedrock provider uses there; botocore looks at the process's environment."""
    monkeypatch.setenv("HOME", environment["HOME"])
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    provider = aws.locate(Provider("bedrock", profile=profile), environment)
    return aws.credential(provider, True, environment)


def section(name: str, key: str, secret: str, token: str) -> str:
    return (
        f"[{name}]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n"
        f"aws_session_token = {token}\n"
    )


@in_loop
async def test_files_that_another_tool_has_renewed_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewable, "PROVEN_S", 0.0)
    server = Aws({"AKIDOLD": Identity("old-secret", "old-token")})
    environment = home(tmp_path, section("work", "AKIDOLD", "old-secret", "old-token"))
    credential = chain(environment, monkeypatch, "work")
    assert credential.source == "profile work of AWS"
    assert (await send(signed_by(server), asked(URL), credential)).status_code == 200
    server.identities["AKIDOLD"].ends_at = 0.0
    server.identities["AKIDNEW"] = Identity("new-secret", "new-token")
    home(tmp_path, section("work", "AKIDNEW", "new-secret", "new-token"))
    assert (await send(signed_by(server), asked(URL), credential)).status_code == 200
    assert server.refusals == ["ExpiredTokenException"]
    assert credential.mask(b"old-token new-token new-secret") == b"[masked] [masked] [masked]"


@in_loop
async def test_a_credential_process_is_asked_again_before_its_keys_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "process.py"
    script.write_text(
        "import json, pathlib, time\n"
        f"count = pathlib.Path({str(tmp_path)!r}) / 'count'\n"
        "number = len(count.read_text()) if count.exists() else 0\n"
        "count.write_text('x' * (number + 1))\n"
        "end = time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(time.time() + 3600 * number + 30))\n"
        "print(json.dumps({'Version': 1, 'AccessKeyId': f'AKID{number}', 'SecretAccessKey': "
        "f'secret-{number}', 'SessionToken': f'token-{number}', 'Expiration': end}))\n"
    )
    config = f"[default]\ncredential_process = {sys.executable} {script}\n"
    credential = chain(home(tmp_path, "", config), monkeypatch, "")
    numbers = range(3)
    server = Aws({f"AKID{n}": Identity(f"secret-{n}", f"token-{n}") for n in numbers})
    used = []
    for _ in range(3):
        assert (await send(signed_by(server), asked(URL), credential)).status_code == 200
        used.append(server.accepted[-1].headers["x-amz-security-token"])
    assert used == ["token-1"] * 3  # the first had 30 s to live, and botocore itself asked again


@in_loop
async def test_a_chain_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = "[default]\ncredential_process = /no/such/program\n"
    credential = chain(home(tmp_path, "", config), monkeypatch, "")
    with pytest.raises(RequestError, match="AWS credentials: FileNotFoundError"):
        await credential.authorize(asked(URL), NOBODY)
