"""AWS: where a region's Bedrock is, and whose signature or token a request carries.

Keys in the environment are used as they are. Everything else that AWS's tools know (profiles,
assumed roles, SSO, processes, web identity, containers, instance metadata) botocore finds and
refreshes, in a thread; it is imported by the first request that needs it.
Source: docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from importlib.util import find_spec
from typing import Final

import httpx
import msgspec

from ringcast.config import SECRET_VARIABLES, Provider, plain_name
from ringcast.errors import Code, ConfigError, RequestError
from ringcast.providers.aws_files import BEARER, KEY_ID, SECRET_KEY, TOKEN, Files
from ringcast.providers.credentials import Credential, HeaderKey
from ringcast.providers.keys import Secret, sound
from ringcast.providers.renewable import Fetched, Renewable, in_thread, never
from ringcast.providers.sigv4 import Keys, Scope, sign
from ringcast.providers.wire.printable import printable

EXTRA: Final = "bedrock"
# AWS takes signatures that are five minutes off; a clock less wrong than this is not the reason.
SKEW_S: Final = 240.0
_SIGNED: Final = ("host", "content-type")
# Keys that were good once: the files may hold others by now.
_STALE: Final = frozenset(
    ("ExpiredTokenException", "ExpiredToken", "UnrecognizedClientException", "InvalidClientTokenId")
)


def locate(provider: Provider, environment: Mapping[str, str]) -> Provider:
    """Return the provider with region and `base_url`. Raises `ConfigError` saying what it lacks."""
    files = Files(provider.profile, environment)
    region = provider.region or environment.get("AWS_REGION", "")
    region = region or environment.get("AWS_DEFAULT_REGION", "") or files.region()
    if not region:
        raise ConfigError(
            "no region: neither the setting region nor AWS_REGION nor AWS_DEFAULT_REGION is given, "
            f"and profile {files.profile} has none in {files.config}"
        )
    if not plain_name(region):
        raise ConfigError("the region of AWS's variables or files is not a region's name")
    domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    base_url = provider.base_url or f"https://bedrock-runtime.{region}.{domain}"
    return msgspec.structs.replace(provider, region=region, base_url=base_url)


def credential(provider: Provider, own_host: bool, environment: Mapping[str, str]) -> Credential:
    """Return how requests of a located provider are proved. Raises `ConfigError` if nothing can.

    The API key of the environment is for AWS's own hosts only.
    """
    if own_host and environment.get(BEARER):
        found = sound(BEARER, environment[BEARER])
        return HeaderKey("authorization", "Bearer ", found, BEARER)
    if not provider.profile and environment.get(KEY_ID) and environment.get(SECRET_KEY):
        source = f"{KEY_ID} and {SECRET_KEY}"
        given = _keys(environment[KEY_ID], environment[SECRET_KEY], environment.get(TOKEN))
        return Signature(Renewable(partial(_given, given), source), provider.region, source)
    source = Files(provider.profile, environment).source()
    if find_spec("botocore") is None:
        raise ConfigError(f"{source} needs botocore: pip install 'ringcast[{EXTRA}]'")
    secrets = {name: environment[name] for name in SECRET_VARIABLES[EXTRA] if name in environment}
    keys = Renewable(partial(_chain, provider.profile, secrets), source)
    return Signature(keys, provider.region, source)


def _keys(access_key: str, secret_key: str, token: str | None) -> Keys:
    """Return keys that can be sent. Raises `ConfigError`, which shows none."""
    return Keys(
        sound("the access key of AWS", access_key).reveal(),
        sound("the secret key of AWS", secret_key).reveal(),
        sound("the session token of AWS", token).reveal() if token else "",
    )


async def _given(keys: Keys, _: httpx.AsyncClient) -> Fetched[Keys]:
    return Fetched(keys, never)


async def _chain(profile: str, secrets: Mapping[str, str], _: httpx.AsyncClient) -> Fetched[Keys]:
    return await in_thread(partial(_found, profile, secrets))


def _found(profile: str, secrets: Mapping[str, str]) -> Fetched[Keys]:
    """Ask botocore, which reads all of its files anew; blocks for as long as it takes."""
    os.environ.update(secrets)  # a profile may name the environment as its source
    try:
        session = importlib.import_module("botocore.session").Session(profile=profile or None)
        found = session.get_credentials()
        if found is None:
            raise RequestError(Code.AUTH, "AWS has no credentials for us any more")
        frozen = found.get_frozen_credentials()
        keys = _keys(frozen.access_key, frozen.secret_key, frozen.token)
    except RequestError:
        raise
    except ConfigError as error:
        raise RequestError(Code.AUTH, str(error)) from None
    except Exception as error:  # botocore's, and those of the files, processes and sockets it uses
        text = printable(f"AWS credentials: {type(error).__name__}: {error}", 300)
        raise RequestError(Code.AUTH, text) from None
    return Fetched(keys, getattr(found, "refresh_needed", never))


class Signature(Credential):
    """Signature Version 4 over each request. A clock that is wrong is set right by AWS's."""

    def __init__(
        self,
        keys: Renewable[Keys],
        region: str,
        source: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` gives seconds since 1970."""
        self._keys = keys
        self._region = region
        self._clock = clock
        self._offset_s = 0.0
        self.source = source

    async def authorize(self, request: httpx.Request, client: httpx.AsyncClient) -> None:
        """Add date, token and signature."""
        keys = await self._keys.get(client)
        service = "bedrock-mantle" if request.url.host.startswith("bedrock-mantle") else "bedrock"
        added = sign(
            request.method,
            request.url.raw_path.decode("ascii"),
            {name: request.headers[name] for name in _SIGNED if name in request.headers},
            request.content,
            scope=Scope(self._region, service),
            keys=keys,
            at=datetime.fromtimestamp(self._clock() + self._offset_s, UTC),
        )
        request.headers.update(added)

    def mask(self, said: bytes) -> bytes:
        """Return `said` without keys: AWS repeats the session token in what it should have been."""
        for keys in self._keys.last:
            for secret in (keys.secret_key, keys.token, keys.access_key):
                said = Secret(secret).mask(said)
        return said

    def renew(self, request: httpx.Request, response: httpx.Response) -> bool:
        """Learn the time from a refusal, or drop keys that are not good any more."""
        if self._learns(response.headers.get("date", "")):
            return True
        used = request.headers.get("authorization", "")
        kind = response.headers.get("x-amzn-errortype", "").partition(":")[0]
        return kind in _STALE and self._keys.drop(lambda keys: f"={keys.access_key}/" in used)

    def _learns(self, date: str) -> bool:
        try:
            theirs = parsedate_to_datetime(date).timestamp()
        except (ValueError, TypeError, OverflowError):
            return False
        offset_s = theirs - self._clock()
        wrong = abs(offset_s - self._offset_s) > SKEW_S
        if wrong:
            self._offset_s = offset_s
        return wrong
