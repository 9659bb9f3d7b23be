"""Something that is fetched, runs out, and is fetched again: one fetch at a time for all.

Between `EARLY_S` and `LATE_S` before the end another is fetched while this one is still used;
after that everybody waits for it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

import httpx
import msgspec

from ringcast.errors import Code, RequestError

T = TypeVar("T")

EARLY_S: Final = 300.0
LATE_S: Final = 60.0
# A refusal of what is younger than this is meant: fetching it at once would fetch the same.
PROVEN_S: Final = 10.0
FETCH_S: Final = 30.0
_REMEMBERED: Final = 3


class Fetched(msgspec.Struct, Generic[T], frozen=True):
    """What was fetched. `due` says whether it runs out within so many seconds."""

    value: T
    due: Callable[[float], bool]


def until(ends_at: float, clock: Callable[[], float]) -> Callable[[float], bool]:
    """Return the `due` of what ends at a time of `clock`.

    What lives for less than `EARLY_S` all in all is used for three quarters of its life.
    """
    life = max(ends_at - clock(), 0.0)
    scale = min(1.0, life / 4 / EARLY_S)
    return lambda margin_s: clock() >= ends_at - margin_s * scale


def never(margin_s: float) -> bool:
    """Be the `due` of what does not run out."""
    return False


class Renewable(Generic[T]):
    """Keeps what `fetch` gave as long as it lasts."""

    def __init__(
        self,
        fetch: Callable[[httpx.AsyncClient], Awaitable[Fetched[T]]],
        what: str,
        *,
        limit_s: float = FETCH_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`what` names it in errors; nobody waits for it longer than `limit_s`."""
        self._fetch = fetch
        self._what = what
        self._limit_s = limit_s
        self._monotonic = monotonic
        self._held: Fetched[T] | None = None
        self._since = 0.0
        self._fetching: asyncio.Task[T] | None = None
        self.last: deque[T] = deque(maxlen=_REMEMBERED)

    async def get(self, client: httpx.AsyncClient) -> T:
        """Return a good one, fetched with `client` if need be.

        Raises what `fetch` raises, and `RequestError` (auth) if it hangs.
        """
        held = self._held
        if held is None or held.due(LATE_S):
            return await self._wait(client)
        if held.due(EARLY_S):
            self._begin(client)
        return held.value

    def drop(self, refused: Callable[[T], bool]) -> bool:
        """Forget what was refused; say whether another is there, or worth being fetched now."""
        held = self._held
        if held is None or not refused(held.value):
            return True
        self._held = None
        return self._monotonic() - self._since >= PROVEN_S

    async def _wait(self, client: httpx.AsyncClient) -> T:
        task = self._begin(client)
        try:
            async with asyncio.timeout(self._limit_s):
                return await asyncio.shield(task)  # who gives up waiting stops nobody else
        except TimeoutError:
            text = f"{self._what} did not come within {self._limit_s:g} s"
            raise RequestError(Code.AUTH, text) from None

    def _begin(self, client: httpx.AsyncClient) -> asyncio.Task[T]:
        if self._fetching is None:
            self._fetching = asyncio.get_running_loop().create_task(self._renew(client))
            self._fetching.add_done_callback(self._ended)
        return self._fetching

    async def _renew(self, client: httpx.AsyncClient) -> T:
        fetched = await self._fetch(client)
        self._held = fetched
        self._since = self._monotonic()
        self.last.append(fetched.value)
        return fetched.value

    def _ended(self, task: asyncio.Task[T]) -> None:
        self._fetching = None
        if not task.cancelled():
            task.exception()  # whoever waits is told; early on nobody does, and it is tried again


async def in_thread(work: Callable[[], T]) -> T:
    """Return what blocking `work` returns, or raise what it raises.

    The thread is a daemon: work that hangs (a metadata server that is none) holds up no exit.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]  # without an error it is a T

    def run() -> None:
        try:
            outcome: tuple[T | None, BaseException | None] = work(), None
        except BaseException as error:  # all of it belongs to who waits
            outcome = None, error
        try:
            loop.call_soon_threadsafe(settle, *outcome)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return

    threading.Thread(target=run, name="rc-credential", daemon=True).start()
    return await done
