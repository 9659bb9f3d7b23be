"""Credentials: fetched once for all, renewed in time, never shown."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable

import httpx
import pytest
from fakes.daemon import in_loop
from fakes.endpoint import asked

from ringcast.errors import Code, ConfigError, RequestError
from ringcast.providers import renewable, token_command
from ringcast.providers.credentials import Bearer, Configured, HeaderKey, send
from ringcast.providers.keys import Secret
from ringcast.providers.renewable import Fetched, Renewable, in_thread, never, until

CANARY = "canary-0a1b2c3d4e5f"
NOBODY = httpx.AsyncClient(transport=httpx.AsyncBaseTransport())
Due = Callable[[float], bool]


class Source:
    """Gives 1, 2, 3, ...; with `gate` only once that is set."""

    def __init__(self, due: Due = never, gate: asyncio.Event | None = None) -> None:
        self.due = due
        self.fetched = 0
        self.fault: RequestError | None = None
        self._gate = gate

    async def fetch(self, _: httpx.AsyncClient) -> Fetched[int]:
        self.fetched += 1
        if self._gate is not None:
            await self._gate.wait()
        if self.fault is not None:
            raise self.fault
        return Fetched(self.fetched, self.due)


@in_loop
async def test_one_fetch_serves_all_who_wait() -> None:
    gate = asyncio.Event()
    source = Source(gate=gate)
    kept = Renewable(source.fetch, "it")
    waiting = [asyncio.ensure_future(kept.get(NOBODY)) for _ in range(9)]
    await asyncio.sleep(0)
    waiting[0].cancel()  # who asked first goes away, and the others get it nevertheless
    gate.set()
    assert await asyncio.gather(*waiting[1:]) == [1] * 8
    assert await kept.get(NOBODY) == 1
    assert source.fetched == 1


@in_loop
async def test_early_the_old_one_is_used_while_another_is_fetched() -> None:
    source = Source(lambda margin_s: margin_s >= renewable.EARLY_S)
    kept = Renewable(source.fetch, "it")
    assert await kept.get(NOBODY) == 1
    assert await kept.get(NOBODY) == 1
    await asyncio.sleep(0)
    assert source.fetched == 2
    assert await kept.get(NOBODY) == 2


@in_loop
async def test_early_a_fault_is_nobodys() -> None:
    source = Source(lambda margin_s: margin_s >= renewable.EARLY_S)
    kept = Renewable(source.fetch, "it")
    await kept.get(NOBODY)
    source.fault = RequestError(Code.AUTH, "no")
    for _ in range(3):
        assert await kept.get(NOBODY) == 1
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert source.fetched == 4


@in_loop
async def test_late_all_wait_for_the_next() -> None:
    source = Source(lambda margin_s: margin_s >= renewable.LATE_S)
    kept = Renewable(source.fetch, "it")
    assert [await kept.get(NOBODY) for _ in range(3)] == [1, 2, 3]


@in_loop
async def test_a_fault_is_told_to_all_and_tried_again() -> None:
    source = Source()
    source.fault = RequestError(Code.AUTH, "no")
    kept = Renewable(source.fetch, "it")
    both = await asyncio.gather(kept.get(NOBODY), kept.get(NOBODY), return_exceptions=True)
    assert list(both) == [source.fault] * 2
    source.fault = None
    assert await kept.get(NOBODY) == 2


@in_loop
async def test_nobody_waits_for_ever() -> None:
    kept = Renewable(Source(gate=asyncio.Event()).fetch, "it", limit_s=0.01)
    for _ in range(2):
        with pytest.raises(RequestError, match=r"auth: it did not come within 0\.01 s"):
            await kept.get(NOBODY)


@in_loop
async def test_what_is_refused_is_dropped() -> None:
    now = [100.0]
    source = Source()
    kept = Renewable(source.fetch, "it", monotonic=lambda: now[0])
    assert await kept.get(NOBODY) == 1
    assert not kept.drop(lambda one: one == 1)  # another would be just as bad now
    assert await kept.get(NOBODY) == 2  # but maybe not for the next who asks
    now[0] += renewable.PROVEN_S
    assert kept.drop(lambda one: one == 2)
    assert await kept.get(NOBODY) == 3
    assert kept.drop(lambda one: one == 2)  # somebody else has dropped it
    assert await kept.get(NOBODY) == 3
    assert list(kept.last) == [1, 2, 3]


@pytest.mark.parametrize(("life_s", "early_s", "late_s"), [(3600, 300, 60), (60, 15, 3), (0, 0, 0)])
def test_what_lives_short_is_used_nevertheless(life_s: int, early_s: int, late_s: int) -> None:
    now = [1000.0]
    due = until(1000.0 + life_s, lambda: now[0])
    for margin_s, wanted in ((renewable.EARLY_S, early_s), (renewable.LATE_S, late_s)):
        now[0] = 1000.0 + life_s - wanted
        assert due(margin_s)
        now[0] -= 0.001
        assert not due(margin_s)


@in_loop
async def test_work_in_a_thread() -> None:
    assert await in_thread(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        await in_thread(lambda: 1 // 0)


def refusing(good: Callable[[httpx.Request], bool], **headers: str) -> httpx.AsyncClient:
    """A client of a provider that says 401 to what is not good."""

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200 if good(request) else 401, headers=headers)

    return httpx.AsyncClient(transport=httpx.MockTransport(answer))


def bearer(source: Source, now: list[float]) -> Bearer:
    async def fetch(client: httpx.AsyncClient) -> Fetched[Secret]:
        number = (await source.fetch(client)).value
        return Fetched(Secret(f"{CANARY}-{number}"), never)

    return Bearer(Renewable(fetch, "a token", monotonic=lambda: now[0]), "a test")


@in_loop
async def test_a_token_that_was_good_is_renewed_once() -> None:
    now, source = [0.0], Source()
    credential = bearer(source, now)
    client = refusing(lambda request: request.headers["authorization"].endswith("2"))
    assert (await send(client, asked(), credential)).status_code == 401  # fresh, and refused
    assert source.fetched == 1
    now[0] = 3600.0
    assert (await send(client, asked(), credential)).status_code == 200
    assert source.fetched == 2
    nothing_is_good = refusing(lambda _: False)
    now[0] = 7200.0
    assert (await send(nothing_is_good, asked(), credential)).status_code == 401
    assert source.fetched == 3
    assert credential.mask(f"no {CANARY}-2, no {CANARY}-3".encode()) == b"no [masked], no [masked]"


@in_loop
async def test_a_key_in_a_header() -> None:
    credential = HeaderKey("x-key", "K ", Secret(CANARY), "A_KEY")
    request = asked()
    await credential.authorize(request, NOBODY)
    assert request.headers["x-key"] == f"K {CANARY}"
    assert credential.mask(f"bad: {CANARY}".encode()) == b"bad: [masked]"
    given = Configured([f"Bearer {CANARY}"])
    assert given.mask(f"bad: {CANARY}".encode()) == b"bad: [masked]"


def test_credentials_show_nothing() -> None:
    keys = Renewable(Source().fetch, "it")
    shown: list[object] = [HeaderKey("a", "", Secret(CANARY), "A"), Configured([CANARY]), keys]
    assert CANARY not in repr(shown)


# a token from a command


AT = 1_800_000_000.0


@pytest.mark.parametrize(
    ("printed", "ends_at"),
    [
        (f"{CANARY}\n", AT + token_command.PLAIN_S),
        (f'{{"accessToken": "{CANARY}", "expires_on": {int(AT) + 900}}}', AT + 900),
        (f'{{"accessToken": "{CANARY}", "expires_on": "{int(AT) + 900}"}}', AT + 900),
        (f'{{"access_token": "{CANARY}", "expires_in": 700}}', AT + 700),
        (f'{{"token": "{CANARY}"}}', AT + token_command.PLAIN_S),
    ],
)
def test_what_a_command_prints(printed: str, ends_at: float) -> None:
    now = [AT]
    fetched = token_command.read("it", printed, lambda: now[0])
    assert fetched.value.reveal() == CANARY
    now[0] = ends_at - 1
    assert not fetched.due(0)
    now[0] = ends_at
    assert fetched.due(0)


def test_an_end_in_local_time() -> None:
    """As versions of az before 2.54 say it."""
    local = time.strftime("%Y-%m-%d %H:%M:%S.000000", time.localtime(AT + 900))
    printed = f'{{"accessToken": "{CANARY}", "expiresOn": "{local}"}}'
    due = token_command.read("it", printed, lambda: AT).due
    assert not due(0)
    due = token_command.read("it", printed, lambda: AT + 900).due
    assert due(0)


@pytest.mark.parametrize("printed", ["", "{}", "{", '{"token": 3}', f"{CANARY} x", "{" * 9999])
def test_what_is_no_token(printed: str) -> None:
    with pytest.raises(ConfigError) as caught:
        token_command.read("it", printed, lambda: AT)
    assert CANARY not in str(caught.value)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


@in_loop
async def test_a_command_is_run_without_others_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
    code = "import os; print('ok-' + os.environ.get('AWS_SECRET_ACCESS_KEY', 'none'))"
    assert (await token_command.run(python(code))).value.reveal() == "ok-none"


@in_loop
async def test_a_command_that_fails() -> None:
    failing = python(f"import sys; print('{CANARY}', file=sys.stderr); sys.exit(3)")
    for command, text in (
        (failing, "ended with status 3 (run it by hand to see why)"),
        (["/no/such"], "token command /no/such: No such file or directory"),
        (python(""), "is empty"),
    ):
        with pytest.raises(RequestError) as caught:
            await token_command.run(command)
        assert caught.value.code == Code.AUTH
        assert caught.value.message.endswith(text)
    with pytest.raises(RequestError, match=r"took longer than 0\.05 s"):
        await token_command.run(python("import time; time.sleep(60)"), limit_s=0.05)
