"""A bearer token from a command, with the time at which it ends.

Commands print a token alone (`gcloud auth print-access-token`), or JSON: Azure's
`az account get-access-token` has `accessToken` with `expires_on` (seconds since 1970) and
`expiresOn` (local time; older versions have only that), RFC 6749 (5.1) has `access_token` with
`expires_in`.
"""

from __future__ import annotations

import asyncio
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Final

import msgspec

from ringcast.errors import Code, ConfigError, RequestError
from ringcast.providers.keys import Secret, bare_environment, sound
from ringcast.providers.renewable import FETCH_S, Fetched, until

# A token alone says nothing of its end: it is asked for again after this.
PLAIN_S: Final = 600.0


class _Said(msgspec.Struct):
    azure: str = msgspec.field(name="accessToken", default="")
    oauth: str = msgspec.field(name="access_token", default="")
    token: str = ""
    expires_on: float | str | None = None
    expires_at: str | None = msgspec.field(name="expiresOn", default=None)
    expires_in: float | str | None = None


async def run(
    command: list[str], clock: Callable[[], float] = time.time, limit_s: float = FETCH_S
) -> Fetched[Secret]:
    """Run a command and return its token; after `limit_s` it is killed.

    Raises `RequestError` (auth), which shows nothing of what the command said.
    """
    what = f"token command {command[0]}"
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, env=bare_environment()
        )
    except OSError as error:
        raise RequestError(Code.AUTH, f"{what}: {error.strerror}") from None
    printed = await _printed(process, what, limit_s)
    try:
        return read(what, printed, clock)
    except ConfigError as error:
        raise RequestError(Code.AUTH, str(error)) from None


async def _printed(process: Process, what: str, limit_s: float) -> str:
    try:
        async with asyncio.timeout(limit_s):
            printed, _ = await process.communicate()
    except TimeoutError:
        raise RequestError(Code.AUTH, f"{what} took longer than {limit_s:g} s") from None
    finally:
        with suppress(ProcessLookupError):
            process.kill()
    if process.returncode != 0:
        text = f"{what} ended with status {process.returncode} (run it by hand to see why)"
        raise RequestError(Code.AUTH, text)
    return printed.decode("utf-8", "replace")


def read(what: str, printed: str, clock: Callable[[], float]) -> Fetched[Secret]:
    """Read what a command has printed. Raises `ConfigError` if that is no token."""
    if not printed.lstrip().startswith("{"):
        return Fetched(sound(what, printed), until(clock() + PLAIN_S, clock))
    try:
        said = msgspec.json.decode(printed, type=_Said)
        ends_at = _ends_at(said, clock())
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
        raise ConfigError(f"{what} printed JSON that is not a token's") from None
    return Fetched(sound(what, said.azure or said.oauth or said.token), until(ends_at, clock))


def _ends_at(said: _Said, now: float) -> float:
    if said.expires_on:
        return float(said.expires_on)
    if said.expires_at:
        return datetime.fromisoformat(said.expires_at).timestamp()
    return now + float(said.expires_in or PLAIN_S)
