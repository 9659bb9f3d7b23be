"""The load: numbered streams held open in this process, every token checked."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from ringcast.bench.reliability.tally import Check, Promise, Tally
from ringcast.bench.reliability.watch import Watch
from ringcast.broker.client import Client, ClientStream, connect
from ringcast.errors import Code, RequestError, RingcastError

PACE: Final = 200  # tokens/s of each stream
FINISH_S: Final = 30.0  # later than it should a stream may end
AGAIN_S: Final = 0.005  # before a request is sent again that was told to come again
SLOW_SHARE: Final = 0.25  # of the streams answer late, so that faults meet them before a token
SLOW_S: Final = 0.3


class Shape(msgspec.Struct, frozen=True):
    """`lanes` streams at once, of `tokens` at most and half as many at least."""

    lanes: int = 20
    tokens: int = 2000


class Opened(msgspec.Struct, frozen=True):
    """A stream that others may read along."""

    lane: int
    n: int
    seed: int
    stream: str


def model(n: int, seed: int, delay_s: float = 0.0) -> str:
    """The name of a numbered stream at our pace."""
    return f"mock/numbered;n={n};pace={PACE};seed={seed};delay_s={delay_s}"


async def ask(client: Client, name: str) -> ClientStream:
    """Open a stream of a model with a message that does not matter."""
    return await client.chat(name, [{"role": "user", "content": "go"}])


async def read(stream: ClientStream, check: Check, heard: Callable[[], None]) -> None:
    """Take a stream's tokens to its end, and say so after every batch."""
    async for batch in stream.batches():
        check.take(batch)
        heard()


class Load:
    """Holds a stream in each lane, a new one for each that ends."""

    def __init__(self, run_dir: Path, seed: str, shape: Shape, promise: Promise) -> None:
        """`promise` is how streams may end; `opened` is told of every new one."""
        self.tally = Tally()
        self.deaths = 0
        self.watches: set[Watch] = set()
        self.opened: Callable[[Opened], None] = lambda opened: None
        self.over = asyncio.Event()
        self._run_dir = run_dir
        self._draw = random.Random(seed)
        self._shape = shape
        self._promise = promise
        self._lanes = set(range(shape.lanes))  # that are at work

    async def run(self, ready: asyncio.Event) -> None:
        """Stream until `over` and then to the end of what is open; `ready` once connected."""
        async with connect(self._run_dir, name="reliability") as client:
            ready.set()
            async with asyncio.TaskGroup() as lanes:
                for lane in range(self._shape.lanes):
                    lanes.create_task(self._lane(client, lane))

    async def finish(self, task: asyncio.Task[None]) -> None:
        """Let `run`'s task read what is open, or cancel it if there is no sense in that."""
        self.over.set()
        if self.tally.sound:
            _, late = await asyncio.wait({task}, timeout=FINISH_S + self._shape.tokens / PACE)
            if late:
                self.tally.faults.append(f"streams did not end within {FINISH_S:g} s")
        task.cancel()

    def watched(self, at: float, *, fresh: bool = False) -> Watch:
        """Watch all lanes until `watches` has this one no more."""
        watch = Watch(at, self._lanes, fresh=fresh)
        self.watches.add(watch)
        return watch

    async def _lane(self, client: Client, lane: int) -> None:
        while not self.over.is_set():
            try:
                await self._stream(client, lane)
            except RingcastError as error:
                self.tally.faults.append(f"{type(error).__name__}: {error}")
                self._lanes.remove(lane)
                for watch in self.watches:
                    watch.left(lane)
                return

    async def _stream(self, client: Client, lane: int) -> None:
        n = self._draw.randint(self._shape.tokens // 2, self._shape.tokens)
        seed = self._draw.getrandbits(32)
        slow = self._promise == "kept" and self._draw.random() < SLOW_SHARE
        check = Check(n, seed, self.tally)
        stream, deaths = await self._ask(client, model(n, seed, SLOW_S * slow))
        since = 0.0

        def heard() -> None:
            nonlocal since
            now = time.monotonic()
            if check.seen:  # and it is not merely interrupted
                since = since or now
                for watch in self.watches:
                    watch.arrived(lane, since, now)

        self.opened(Opened(lane, n, seed, stream.id.hex()))
        await read(stream, check, heard)
        check.close(self._promise, self.deaths - deaths)

    async def _ask(self, client: Client, name: str) -> tuple[ClientStream, int]:
        """Open a stream; return it, and the deaths until it was asked for."""
        while True:
            deaths = self.deaths
            try:
                return await ask(client, name), deaths
            except RequestError as error:
                if error.code != Code.INTERRUPTED or self._promise == "whole":
                    raise
                self.tally.refused += 1
                await asyncio.sleep(AGAIN_S)
