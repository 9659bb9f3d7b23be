"""Access tokens of Google: asked for by google-auth with a file's secrets, or by the machine.

google-auth reads the files and says what is to be sent; it goes out over our own client.
google-auth is imported by the first token.
"""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import Mapping
from datetime import UTC
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

from ringcast.errors import Code, ConfigError, RequestError
from ringcast.providers.google_places import read
from ringcast.providers.http.reach import REACH, Reach
from ringcast.providers.keys import Secret, sound
from ringcast.providers.renewable import FETCH_S, Fetched, in_thread, until
from ringcast.providers.wire.printable import printable

SCOPE: Final = "https://www.googleapis.com/auth/cloud-platform"
MAX_ANSWER_BYTES: Final = 64 << 10
_SECRETS: Final = ("private_key", "refresh_token", "client_secret")


async def from_file(path: Path, client: httpx.AsyncClient) -> Fetched[Secret]:
    """Return a token for what a credentials file says. Raises `RequestError` (auth)."""
    requests = Requests(client, asyncio.get_running_loop())
    return await in_thread(partial(_load, path, requests))


def _load(path: Path, requests: Requests) -> Fetched[Secret]:
    """Read the file anew and have google-auth fetch a token; blocks for as long as it takes."""
    info: dict[str, Any] = {}
    try:
        _, info = read(path)
        loaded = _credentials(info, requests)
        loaded.refresh(requests)
        token = sound("the token that Google gave", loaded.token or "")
    except ConfigError as error:
        raise RequestError(Code.AUTH, str(error)) from None
    except Exception as error:  # google-auth's, and whatever a file with wrong contents makes
        raise RequestError(Code.AUTH, _refused(path, info, error)) from None
    ends_at = loaded.expiry.replace(tzinfo=UTC).timestamp() if loaded.expiry else time.time()
    return Fetched(token, until(ends_at, time.time))


def _credentials(info: dict[str, Any], requests: Requests) -> Any:
    """Return google-auth's credentials for what a file says."""
    match info.get("type"):
        case "service_account":
            accounts = importlib.import_module("google.oauth2.service_account")
            return accounts.Credentials.from_service_account_info(info, scopes=[SCOPE])
        case "authorized_user":
            users = importlib.import_module("google.oauth2.credentials")
            loaded = users.Credentials.from_authorized_user_info(info)
            return loaded.with_token_uri(info.get("token_uri") or loaded.token_uri)
        case _:  # workload identities, impersonation
            auth = importlib.import_module("google.auth")
            loaded, _ = auth.load_credentials_from_dict(info, scopes=[SCOPE], request=requests)
            return loaded


def _refused(path: Path, info: dict[str, Any], error: Exception) -> str:
    """Say why there is no token, without what is secret in the file."""
    said = str(error.args[0] if error.args else error).encode("utf-8", "replace")
    for name in _SECRETS:
        said = Secret(str(info.get(name, ""))).mask(said)
    text = f"Google credentials of {path}: {type(error).__name__}: {said.decode()}"
    return printable(text, 400)


class _Granted(msgspec.Struct, frozen=True):
    access_token: str
    expires_in: float


async def from_metadata(host: str, client: httpx.AsyncClient) -> Fetched[Secret]:
    """Ask the machine's own server (cloud.google.com/compute/docs/metadata/overview)."""
    url = f"http://{host}/computeMetadata/v1/instance/service-accounts/default/token"
    what = "the metadata server"
    try:
        request = client.build_request("GET", url, headers={"metadata-flavor": "Google"})
        answer = await _ask(client, request)
        if answer.status != 200:
            raise RequestError(Code.AUTH, f"{what} answered with HTTP {answer.status}")
        granted = msgspec.json.decode(answer.data, type=_Granted)
        token = sound(what, granted.access_token)
    except (httpx.HTTPError, httpx.InvalidURL, msgspec.MsgspecError, ConfigError) as error:
        raise RequestError(Code.AUTH, f"no token from {what}: {type(error).__name__}") from None
    return Fetched(token, until(time.time() + granted.expires_in, time.time))


class Answer(msgspec.Struct, frozen=True):
    """An answer as google-auth wants it (google.auth.transport.Response)."""

    status: int
    headers: Mapping[str, str]
    data: bytes


class Requests:
    """Requests of google-auth's threads, sent by our client in its loop.

    It is what google.auth.transport calls a Request.
    """

    def __init__(self, client: httpx.AsyncClient, loop: asyncio.AbstractEventLoop) -> None:
        """`loop` is the client's."""
        self._client = client
        self._loop = loop

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **_: object,
    ) -> Answer:
        """Send and wait. Raises google-auth's `TransportError`."""
        request = self._client.build_request(method, url, content=body, headers=headers)
        future = asyncio.run_coroutine_threadsafe(_ask(self._client, request), self._loop)
        try:
            return future.result(min(timeout or FETCH_S, FETCH_S))
        except (httpx.HTTPError, TimeoutError) as error:
            future.cancel()
            exceptions = importlib.import_module("google.auth.exceptions")
            text = f"{request.url.host}: {error or type(error).__name__}"
            raise exceptions.TransportError(text) from None


async def _ask(client: httpx.AsyncClient, request: httpx.Request) -> Answer:
    request.extensions[REACH] = Reach.METADATA  # where a Google machine keeps its token
    response = await client.send(request, stream=True)
    content = bytearray()
    try:
        async for piece in response.aiter_raw():
            content += piece
            if len(content) > MAX_ANSWER_BYTES:
                raise httpx.RemoteProtocolError("the answer is too long for a token")
    finally:
        await response.aclose()
    return Answer(response.status_code, response.headers, bytes(content))
