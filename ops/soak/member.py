"""A client process of the soak: two connections, a few streams at once, every token checked.

`python -m ringcast.soak.member RUN_DIR SEED LANES` visits stream after stream until its
stdin ends, writes a `Tally` of what is new to stdout (a JSON object a line), and ends when
the streams it has begun are read. It may be killed at any moment.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from ringcast.broker.client import Client, ClientStream, connect
from ringcast.errors import Code, RequestError, RingcastError
from ringcast.shm.tokens import Done, Error, StreamToken
from ringcast.soak.sequence import Sequence, Tally
from ringcast.soak.visit import Visit, visits

REPORT_S: Final = 0.1
PROVIDER: Final = "mock"


class Unexpected(RingcastError):
    """A stream ended otherwise than its visit wanted."""


class Member:
    """Carries out visits. `tally` counts them since the last report."""

    def __init__(self, clients: tuple[Client, Client]) -> None:
        """Visit over these connections, both entered."""
        self.tally = Tally()
        self.over = asyncio.Event()
        self._clients = clients

    async def lane(self, seed: str, number: int) -> None:
        """Visit one stream after the other until `over`, or until one fails."""
        near, far = self._clients[number % 2], self._clients[1 - number % 2]
        for visit in visits(f"{seed}/{number}"):
            if self.over.is_set():
                return
            try:
                await self._visit(visit, near, far)
            except RingcastError as error:
                self.tally.failed.append(f"{visit}: {error!r}")
                return

    async def _visit(self, visit: Visit, near: Client, far: Client) -> None:
        request = [{"role": "user", "content": "go"}]
        stream = await near.chat(f"{PROVIDER}/{visit.model}", request)
        sequence = Sequence(visit.n, visit.seed, self.tally)
        match visit.kind:
            case "whole":
                await self._to_the_end(stream, sequence)
            case "cancelled":
                await self._cancel(stream, sequence, visit.until)
            case "moved":
                await self._move(stream, sequence, visit.until, far)
            case "shared":
                other = self._other_reader(stream, visit, far)
                await asyncio.gather(self._to_the_end(stream, sequence), other)
        setattr(self.tally, visit.kind, getattr(self.tally, visit.kind) + 1)

    async def _to_the_end(self, stream: ClientStream, sequence: Sequence) -> None:
        last = await _read(stream, sequence)
        if not isinstance(last, Done):
            raise Unexpected(f"ended with {last}")
        sequence.end()

    async def _cancel(self, stream: ClientStream, sequence: Sequence, until: int) -> None:
        if await _read(stream, sequence, until) is None:
            await stream.cancel()
            last = await _read(stream, sequence)
            if isinstance(last, Error) and last.code != Code.CANCELLED:
                raise Unexpected(f"ended with {last}")

    async def _move(
        self, stream: ClientStream, sequence: Sequence, until: int, far: Client
    ) -> None:
        if await _read(stream, sequence, until) is None:
            await stream.detach()
            stream = await far.attach(stream.id, after=stream.seq)
            await self._to_the_end(stream, sequence)
        else:
            sequence.end()

    async def _other_reader(self, first: ClientStream, visit: Visit, far: Client) -> None:
        """Read along. Only who pays is waited for, so this reader may be cut off, and told."""
        try:
            stream = await far.attach(first.id)
            await self._to_the_end(stream, Sequence(visit.n, visit.seed, self.tally))
        except RequestError as error:
            if error.code != Code.SLOW_CONSUMER:
                raise
            self.tally.told += 1

    def report(self) -> None:
        """Write what is new."""
        sys.stdout.buffer.write(msgspec.json.encode(self.tally) + b"\n")
        sys.stdout.buffer.flush()
        for name, value in msgspec.structs.asdict(Tally()).items():
            setattr(self.tally, name, value)  # in place: open sequences count in it


async def _read(stream: ClientStream, sequence: Sequence, until: int = 0) -> StreamToken | None:
    """Take tokens until `until` are taken (0: to the end); return the terminal one if it came."""
    async for batch in stream.batches():
        sequence.take(batch)
        if isinstance(batch[-1], Done | Error):
            return batch[-1]
        if until and sequence.at >= until:
            return None
    raise Unexpected("ended without a terminal token")


async def _reporting(member: Member) -> None:
    while True:
        await asyncio.sleep(REPORT_S)
        member.report()


async def _until_stdin_ends(over: asyncio.Event) -> None:
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    await reader.read()
    over.set()


async def _main(run_dir: Path, seed: str, lanes: int) -> None:
    async with AsyncExitStack() as stack:
        near = await stack.enter_async_context(connect(run_dir, name="soak near"))
        far = await stack.enter_async_context(connect(run_dir, name="soak far"))
        member = Member((near, far))
        ending = asyncio.create_task(_until_stdin_ends(member.over))
        reporting = asyncio.create_task(_reporting(member))
        await asyncio.gather(*(member.lane(seed, number) for number in range(lanes)))
        reporting.cancel()
        ending.cancel()
        member.report()


if __name__ == "__main__":
    uvloop.run(_main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
