"""Google's tokens: from files of each kind and from the metadata server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from fakes.daemon import free_port, in_loop
from fakes.endpoint import Asked, asked, reply, serving
from fakes.google import (
    CLIENT_SECRET,
    REFRESH_TOKEN,
    Google,
    authorized_user,
    service_account,
)

from ringcast.config import Provider
from ringcast.errors import Code, ConfigError, RequestError
from ringcast.providers import google
from ringcast.providers.credentials import Credential

NOBODY = httpx.AsyncClient(transport=httpx.AsyncBaseTransport())


async def with_google(
    told_s: float, test: Callable[[Google, str, httpx.AsyncClient], Awaitable[None]]
) -> None:
    port = free_port()
    fake, url = Google(told_s=told_s), f"http://127.0.0.1:{port}/token"
    async with serving(port, fake.answer), httpx.AsyncClient(trust_env=False) as client:
        await test(fake, url, client)


def of_file(path: Path) -> Credential:
    provider = Provider("vertex", project="p", location="l", credentials=str(path))
    return google.credential(provider, False, {})


@in_loop
async def test_a_service_account_signs_for_its_token(tmp_path: Path) -> None:
    async def test(fake: Google, url: str, client: httpx.AsyncClient) -> None:
        credential = of_file(service_account(tmp_path / "key.json", url))
        for _ in range(3):
            request = asked()
            await credential.authorize(request, client)
            assert request.headers["authorization"] == "Bearer ya29.canary-token-1"
        assert fake.grants == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
        assert credential.mask(b"no: ya29.canary-token-1") == b"no: [masked]"

    await with_google(3600, test)


@in_loop
async def test_a_user_has_a_project_that_pays(tmp_path: Path) -> None:
    async def test(fake: Google, url: str, client: httpx.AsyncClient) -> None:
        credential = of_file(authorized_user(tmp_path / "adc.json", url))
        request = asked()
        await credential.authorize(request, client)
        assert request.headers["x-goog-user-project"] == "paying-project"
        assert fake.grants == ["refresh_token"]

    await with_google(3600, test)


@in_loop
async def test_a_token_that_has_run_out_is_fetched_again(tmp_path: Path) -> None:
    async def test(fake: Google, url: str, client: httpx.AsyncClient) -> None:
        credential = of_file(authorized_user(tmp_path / "adc.json", url))
        for number in (1, 2):
            request = asked()
            await credential.authorize(request, client)
            assert request.headers["authorization"] == f"Bearer ya29.canary-token-{number}"

    await with_google(0, test)


@in_loop
async def test_a_refusal_is_told_without_secrets(tmp_path: Path) -> None:
    async def test(fake: Google, url: str, client: httpx.AsyncClient) -> None:
        credential = of_file(authorized_user(tmp_path / "adc.json", url))
        fake.refuses = f"Token has been revoked: {REFRESH_TOKEN} {CLIENT_SECRET}"
        with pytest.raises(RequestError) as caught:
            await credential.authorize(asked(), client)
        assert caught.value.code == Code.AUTH
        assert caught.value.message == (
            f"Google credentials of {tmp_path / 'adc.json'}: RefreshError: "
            "invalid_grant: Token has been revoked: [masked] [masked]"
        )

    await with_google(3600, test)


@in_loop
async def test_nobody_at_the_token_endpoint(tmp_path: Path) -> None:
    path = service_account(tmp_path / "key.json", f"http://127.0.0.1:{free_port()}/token")
    async with httpx.AsyncClient(trust_env=False) as client:
        with pytest.raises(RequestError, match=r"TransportError: 127\.0\.0\.1: "):
            await of_file(path).authorize(asked(), client)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"type": "service_account"}',
        b'{"type": "service_account", "private_key": "x"}',
        b'{"type": "authorized_user"}',
        b"\xff",
        b"[" * 9999,
    ],
)
@in_loop
async def test_a_file_that_is_none(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(data)
    with pytest.raises((ConfigError, RequestError)) as caught:
        await of_file(path).authorize(asked(), NOBODY)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@in_loop
async def test_the_metadata_server() -> None:
    def answer(one: Asked) -> bytes:
        assert one.headers["metadata-flavor"] == "Google"
        assert one.target.endswith("/service-accounts/default/token")
        return reply(200, b'{"access_token": "ya29.canary-meta", "expires_in": 3599}')

    port = free_port()
    environment = {"GCE_METADATA_HOST": f"127.0.0.1:{port}", "HOME": "/no/such"}
    credential = google.credential(Provider("vertex"), True, environment)
    async with serving(port, answer), httpx.AsyncClient(trust_env=False) as client:
        request = asked()
        await credential.authorize(request, client)
    assert request.headers["authorization"] == "Bearer ya29.canary-meta"
    async with httpx.AsyncClient(trust_env=False) as client:
        other = google.credential(Provider("vertex"), True, environment)
        with pytest.raises(RequestError, match="no token from the metadata server: ConnectError"):
            await other.authorize(asked(), client)
