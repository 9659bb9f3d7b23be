"""Fan-out: one stream, flat out, to 1, 10 and 100 clients.

A few processes hold the readers, each of them a connection of its own. The first opens the
stream and gives no credit, so that it stands within its window until everybody has attached
at its first token; then it is let go. A first run compares every token at every reader with
the numbered sequence; the runs that are timed only count them, and must count all.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Final

import msgspec
import uvloop

from ringcast.bench.dealer import Dealer, context
from ringcast.bench.e2e import cpu_seconds, daemon, processes
from ringcast.broker import protocol
from ringcast.replay import process as replay
from ringcast.replay.numbered import numbered_tokens
from ringcast.shm.tokens import Done, Error, StreamToken, Text

PROCESSES: Final = 4
# Readers, and tokens of the stream: enough for a second or more.
SIZES: Final = {1: 600_000, 10: 400_000, 100: 100_000}
CREDIT_TOKENS: Final = 64
HANDLE: Final = 1


class Job(msgspec.Struct, frozen=True):
    """What a process of readers is to do; one without `stream` opens it."""

    run_dir: str
    model: str
    readers: int
    tokens: int
    check: bool
    stream: str = ""


class Told(msgspec.Struct, frozen=True):
    """What such a process says: `stream` when all are attached, the rest at the end.

    `ended` is CLOCK_MONOTONIC in seconds, `deliveries` counts text tokens of all readers,
    and `early` those of them that came within the window, before the stream was let go.
    """

    stream: str = ""
    ended: float = 0.0
    deliveries: int = 0
    early: int = 0


class Reader:
    """One client of the stream; `over` is done when its terminal token has come."""

    def __init__(self, job: Job, release: asyncio.Event | None) -> None:
        """`release`: give no credit before it is set."""
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[bytes] = loop.create_future()
        self.over: asyncio.Future[None] = loop.create_future()
        self.deliveries = 0
        self.dealer: Dealer
        self._expected = numbered_tokens(job.tokens) if job.check else None
        self._release = release
        self._next = 0
        self._granted = 0

    def take(self, frame: protocol.DaemonFrame) -> None:
        """Take a frame; what is not as it should be ends `over` with an AssertionError."""
        match frame:
            case protocol.Opened(_, stream):
                self.opened.set_result(stream)
            case protocol.Tokens(runs):
                for _, first, tokens in runs:
                    self._take(first, tokens)
                self.credit()
            case _:
                self._fail(f"{frame}")

    def credit(self) -> None:
        """Give credit for what is taken, now and then."""
        held = self._release is not None and not self._release.is_set()
        if not held and self._next - self._granted >= CREDIT_TOKENS:
            self._granted = self._next
            self.dealer.send(protocol.Credit([(HANDLE, self._next)]))

    def _take(self, first: int, tokens: list[StreamToken]) -> None:
        if first != self._next:
            self._fail(f"token {self._next} is missing, {first} came")
        self._next = first + len(tokens)
        for token in tokens:
            if type(token) is Text:
                self.deliveries += 1
                if self._expected and token.content != next(self._expected, None):
                    self._fail(f"token {self.deliveries - 1} is {token.content!r}")
        if isinstance(tokens[-1], Error):
            self._fail(f"{tokens[-1]}")
        elif isinstance(tokens[-1], Done) and not self.over.done():
            self.over.set_result(None)

    def _fail(self, text: str) -> None:
        if not self.over.done():
            self.over.set_exception(AssertionError(text))
        if not self.opened.done():
            self.opened.set_exception(AssertionError(text))


async def _read(job: Job, wait: asyncio.StreamReader) -> None:
    """Attach all readers, say so, and when told read to the end."""
    shared, release, readers = context(), asyncio.Event(), list[Reader]()
    for number in range(job.readers):
        pays = not job.stream and number == 0
        reader = Reader(job, release if pays else None)
        reader.dealer = Dealer(shared, Path(job.run_dir), reader.take)
        readers.append(reader)
    await asyncio.gather(*(reader.dealer.welcome for reader in readers))
    stream = bytes.fromhex(job.stream)
    for reader in readers:
        if not stream:
            request = {"model": job.model, "messages": [{"role": "user", "content": "go"}]}
            raw = msgspec.Raw(protocol.encode(request))
            reader.dealer.send(protocol.Open(HANDLE, raw))
            stream = await reader.opened
        else:
            reader.dealer.send(protocol.Attach(HANDLE, stream))
    await asyncio.gather(*(reader.opened for reader in readers))
    _say(Told(stream=stream.hex()))
    await wait.readline()
    early = sum(reader.deliveries for reader in readers)
    release.set()
    readers[0].credit()
    await asyncio.gather(*(reader.over for reader in readers))
    deliveries = sum(reader.deliveries for reader in readers)
    _say(Told(stream.hex(), time.monotonic(), deliveries, early))
    for reader in readers:
        reader.dealer.close()
    shared.term()


def _say(told: Told) -> None:
    print(msgspec.json.encode(told).decode(), flush=True)


async def _be_readers() -> None:
    stdin = asyncio.StreamReader()
    protocol_ = asyncio.StreamReaderProtocol(stdin)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol_, sys.stdin)
    await _read(msgspec.json.decode(await stdin.readline(), type=Job), stdin)


class Holder:
    """A process of readers, from outside."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        """`child` waits for its job."""
        assert child.stdin is not None
        assert child.stdout is not None
        self._stdin: IO[bytes] = child.stdin
        self._stdout: IO[bytes] = child.stdout

    def start(self, job: Job) -> None:
        """Hand a job over."""
        self._stdin.write(msgspec.json.encode(job) + b"\n")
        self._stdin.flush()

    def release(self) -> None:
        """Let the readers go."""
        self._stdin.write(b"go\n")
        self._stdin.flush()

    def told(self) -> Told:
        """Wait for what it says next. Raises AssertionError if it ended instead."""
        line = self._stdout.readline()
        if not line:
            raise AssertionError("a process of readers ended; its error is above")
        return msgspec.json.decode(line, type=Told)


@contextmanager
def _holder() -> Iterator[Holder]:
    command = [sys.executable, "-P", "-m", "ringcast.bench.fanout", "--reader"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as child:
        try:
            yield Holder(child)
        finally:
            if child.stdin is not None:
                child.stdin.close()
            try:
                child.wait(5)
            except subprocess.TimeoutExpired:
                child.kill()


def measure(run_dir: Path, readers: int, tokens: int, *, check: bool = False) -> dict[str, float]:
    """Send one stream to so many readers. Raises AssertionError if one misses a token."""
    shares = [readers // PROCESSES + (i < readers % PROCESSES) for i in range(PROCESSES)]
    model = f"mock/numbered;n={tokens};pace=0"
    group = processes(run_dir)
    with ExitStack() as stack:
        holders, stream = [], ""
        for share in filter(None, shares):
            holder = stack.enter_context(_holder())
            holder.start(Job(str(run_dir), model, share, tokens, check, stream))
            stream = holder.told().stream
            holders.append(holder)
        began, cpu = time.monotonic(), cpu_seconds(group)
        for holder in reversed(holders):  # the one whose reader pays comes last
            holder.release()
        told = [holder.told() for holder in holders]
        cpu = cpu_seconds(group) - cpu
    deliveries = sum(one.deliveries for one in told)
    if deliveries != readers * tokens:
        raise AssertionError(f"{deliveries} of {readers * tokens} tokens were delivered")
    elapsed = max(one.ended for one in told) - began
    timed = deliveries - sum(one.early for one in told)
    return {
        "deliveries_per_s": timed / elapsed,
        "tokens_per_s": timed / readers / elapsed,
        "cpu_us_per_delivery": cpu / timed * 1e6,
    }


def run(sizes: dict[int, int], repeat: int) -> dict[int, dict[str, float]]:
    """Check, then measure; medians of `repeat`. `sizes`: readers, and tokens for each."""
    found = {}
    with replay.spawned(knobs="pace=0") as upstream, daemon(upstream.port) as run_dir:
        for readers, tokens in sizes.items():
            measure(run_dir, readers, tokens, check=True)
            runs = [measure(run_dir, readers, tokens) for _ in range(repeat)]
            found[readers] = {
                name: statistics.median(one[name] for one in runs) for name in runs[0]
            }
    return found


def main(arguments: list[str] | None = None) -> None:
    """Print the figures, for people or as JSON."""
    parser = argparse.ArgumentParser(prog="ringcast bench fanout", description=__doc__)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--reader", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.reader:
        uvloop.run(_be_readers())
        return
    result = run(SIZES, asked.repeat)
    if asked.json:
        print(json.dumps({"cores": os.cpu_count(), "readers": result}))
        return
    for readers, figures in result.items():
        print(f"{readers:4} readers", end="  ")
        print("  ".join(f"{name} {value:,.3g}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
