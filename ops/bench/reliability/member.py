"""A client process that may be killed or stopped at any moment.

`python -m ringcast.bench.reliability.member RUN_DIR` connects and says so with an empty line.
Each line of its stdin is a `Place` whose stream it reads to the end. It writes a `Note` down
after every batch, before credit for it can leave: so whoever comes after it can be sure that
what it had not written down is still there. It ends when stdin has and everything is read.
"""

from __future__ import annotations

import asyncio
import ctypes
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from ringcast.bench.reliability.load import ask, model, read
from ringcast.bench.reliability.tally import Check, Tally
from ringcast.broker.client import Client, ClientStream, connect
from ringcast.errors import Code, RequestError, RingcastError

PR_SET_PDEATHSIG: Final = 1


class Place(msgspec.Struct, frozen=True):
    """A stream of `n` tokens to go on with, or to open if it has no id yet.

    `known` is the last token that was written down by a predecessor; reading begins behind
    `after`, which may be earlier. Who is `late` may be told that this has left the log: it is
    not the reader for whom it is kept. `lane` is a name that notes about it carry.
    """

    lane: int
    n: int
    seed: int
    stream: str = ""
    known: int = -1
    after: int = -1
    late: bool = False


class Note(msgspec.Struct, frozen=True):
    """Where the reader of a place is: it took token `seq` of `stream` at `at`.

    `fresh_at` is when it took the first that no predecessor had written down, 0 before that.
    """

    place: Place
    stream: str
    seq: int
    at: float
    fresh_at: float
    ended: bool
    tally: Tally


class Gone(RingcastError):
    """What a late reader came for has left the log."""


_decode = msgspec.json.Decoder(Place).decode


async def follow(client: Client, place: Place) -> None:
    """Read a place's stream to the end and write notes."""
    tally, fresh_at = Tally(), 0.0

    def note(stream: str, seq: int, ended: bool) -> None:
        said = Note(place, stream, seq, time.monotonic(), fresh_at, ended, tally)
        sys.stdout.buffer.write(msgspec.json.encode(said) + b"\n")
        sys.stdout.buffer.flush()

    def heard() -> None:
        nonlocal fresh_at
        if not fresh_at and stream.seq > place.known:
            fresh_at = time.monotonic()
        note(stream.id.hex(), stream.seq, False)

    try:
        stream = await _stream(client, place, tally)
        note(stream.id.hex(), stream.seq, False)  # its id, before there is anything of it
        check = Check(place.n, place.seed, tally, stream.seq + 1)
        await read(stream, check, heard)
        check.close()
        note(stream.id.hex(), stream.seq, True)
    except Gone:
        note(place.stream, place.known, True)
    except RingcastError as error:
        tally.faults.append(f"{place}: {type(error).__name__}: {error}")
        note(place.stream, place.known, True)


async def _stream(client: Client, place: Place, tally: Tally) -> ClientStream:
    """Open or attach. Raises `Gone` if a late reader finds nothing any more."""
    if not place.stream:
        return await ask(client, model(place.n, place.seed))
    try:
        return await client.attach(place.stream, after=place.after)
    except RequestError as error:
        if error.code == Code.OFFSET_GONE and place.after < place.known:
            # What was written down has been paid for and may leave the log; the rest must not.
            return await client.attach(place.stream, after=place.known)
        if not place.late or error.code not in (Code.OFFSET_GONE, Code.UNKNOWN_STREAM):
            raise
        tally.told += 1
        raise Gone from None


async def _places() -> AsyncIterator[Place]:
    stdin = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(stdin)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    async for line in stdin:
        yield _decode(line)


def _die_with_the_bench() -> None:
    """Be killed with it: who is stopped would never notice that its stdin has ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


async def _main(run_dir: Path) -> None:
    async with connect(run_dir, name="reliability member") as client:
        print(flush=True)
        async with asyncio.TaskGroup() as tasks:
            async for place in _places():
                tasks.create_task(follow(client, place))


if __name__ == "__main__":
    _die_with_the_bench()
    uvloop.run(_main(Path(sys.argv[1])))
