"""Bad shared memory under a running daemon: its streams end with a word, the others go on."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from fakes.daemon import (
    Daemon,
    alive,
    ask,
    daemon,
    in_loop,
    take,
    take_some,
    texts,
    until,
)
from fakes.pipeline import Pipeline, ring

from ringcast.broker.client import Client, ClientStream
from ringcast.errors import Fenced, RequestError, RingCorrupt, RingError
from ringcast.replay.numbered import numbered_tokens
from ringcast.replay.process import Spawned, spawned
from ringcast.shm import layout, segment
from ringcast.shm.ring import PATIENCE, Reader, Writer, hand_over
from ringcast.shm.tokens import Done, Error, StreamToken

OPS = Path(__file__).parents[2] / "ops"
RING = 1 << 16
COUNT = 300
SHARED = Path("/dev/shm")


@pytest.fixture(scope="module")
def upstream() -> Iterator[Spawned]:
    with spawned(knobs="pace=0") as running:
        yield running


@contextmanager
def scarred(upstream: Spawned, processes: str) -> Iterator[Daemon]:
    """A daemon whose processes may die of what is done to them; it ends clean all the same."""
    with daemon(
        f"""
        [providers.up]
        kind = "openai-compatible"
        base_url = "{upstream.url}/v1"
        [rings]
        in_bytes = {RING}
        out_bytes = {RING}
        [processes]
        restarts = 1000
        {processes}
        """
    ) as running:
        family = running.state.segments[0][:-1]
        yield running
        pids = running.pids
        assert running.stop() == 0, running.said
        assert not list(running.directory.iterdir())
        assert not list(SHARED.glob(f"{family}*"))
        assert not any(alive(pid) for pid in pids)


@pytest.fixture(scope="module")
def two_workers(upstream: Spawned) -> Iterator[Daemon]:
    with scarred(upstream, "workers = 2") as running:
        yield running


@pytest.fixture(scope="module")
def two_providers(upstream: Spawned) -> Iterator[Daemon]:
    with scarred(upstream, "providers = 2") as running:
        yield running


def number(running: Daemon, role: str, index: int) -> int:
    """The process of a role with an index."""
    rows = running.state.processes
    return next(one.pid for one in rows if (one.role, one.index) == (role, index))


def replaced(running: Daemon, role: str, index: int, before: int) -> bool:
    with suppress(StopIteration):
        return number(running, role, index) != before and running.state.status == "running"
    return False


def scribble(name: str, how: str) -> None:
    """Write what the rules forbid into a live ring."""
    with closing(segment.attach(name)) as one, one.memory[: layout.DATA + RING].cast("Q") as words:
        tail = words[layout.W_TAIL]
        match how:
            case "tail-ahead":
                words[layout.W_TAIL] = tail + 4 * RING
            case "tail-behind":
                words[layout.W_TAIL] = max(0, words[layout.W_RELEASED] - 8) & ~7 or WRONG
            case "tail-askew":
                words[layout.W_TAIL] = tail + 4
            case "record-too-long":
                at = layout.W_DATA + (tail & RING - 1) // 8
                words[at] = 0x7FFF_FFF0 + (tail << 29 & layout.SEQ_BITS)
                words[layout.W_TAIL] = tail + 64
            case "no-record":
                at = layout.W_DATA + (tail & RING - 1) // 8
                words[at] = words[at] ^ layout.SEQ_BITS
                words[layout.W_TAIL] = tail + 64
            case "all":
                for at in range(len(words)):
                    words[at] = WRONG


WRONG = 0x5555_5555_5555_5555
HOWS = ["tail-ahead", "tail-behind", "tail-askew", "record-too-long", "no-record", "all"]


async def streams_on(client: Client, count: int) -> list[ClientStream]:
    """Paced streams, taken up one after the other by each worker and each provider process."""
    return [await ask(client, f"up/numbered;n={COUNT};pace=400;seed={i}") for i in range(count)]


def check_prefix(tokens: list[StreamToken], seed: int) -> StreamToken:
    """All that was said is right; the only end is the last token, which is returned."""
    said = texts(tokens)
    assert said == list(numbered_tokens(COUNT, seed))[: len(said)]
    assert [token for token in tokens if isinstance(token, Done | Error)] == tokens[-1:]
    assert isinstance(tokens[-1], Error) or len(said) == COUNT
    return tokens[-1]


@pytest.mark.parametrize("how", HOWS)
@in_loop
async def test_s06_s08_an_out_ring_is_written_over(two_workers: Daemon, how: str) -> None:
    """Its streams end with `ring_corrupt`, those of the other worker are whole; then all works."""
    running = two_workers
    async with running.connect() as client:
        streams = await streams_on(client, 4)
        begun = [await take_some(stream, 5) for stream in streams]
        takers = [asyncio.create_task(take(stream)) for stream in streams]
        worker = number(running, "worker", 0)
        os.kill(worker, signal.SIGSTOP)  # or it would soon store what is right
        scribble(f"{running.state.segments[0][:-1]}3", how)
        broken = [await taker for taker in await ended(takers, 2)]
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGCONT)
        rest = await asyncio.gather(*takers)
        ends = [check_prefix(begun[i] + tokens, i) for i, tokens in enumerate(rest)]
    assert len(broken) == 2
    errors = [end for end in ends if isinstance(end, Error)]
    assert [one.code for one in errors] == ["ring_corrupt"] * 2
    assert all(one.retryable and one.message.isprintable() for one in errors)
    async with running.connect() as client:
        for tokens in await asyncio.gather(*(take(one) for one in await streams_on(client, 4))):
            assert isinstance(tokens[-1], Done)
    await asyncio.to_thread(until, lambda: replaced(running, "worker", 0, worker), "another worker")


async def ended(
    takers: list[asyncio.Task[list[StreamToken]]], count: int
) -> list[asyncio.Task[list[StreamToken]]]:
    """Wait for the first `count` ends."""
    done: set[asyncio.Task[list[StreamToken]]] = set()
    while len(done) < count:
        done, _ = await asyncio.wait(takers, return_when=asyncio.FIRST_COMPLETED)
        if len(done) < count:
            await asyncio.sleep(0.01)
    return list(done)


@pytest.mark.parametrize("how", HOWS)
@in_loop
async def test_s06_s08_an_in_ring_is_written_over(two_providers: Daemon, how: str) -> None:
    """Both of its ends are replaced; the streams of the other provider process are whole."""
    running = two_providers
    async with running.connect() as client:
        streams = await streams_on(client, 4)
        begun = [await take_some(stream, 5) for stream in streams]
        takers = [asyncio.create_task(take(stream)) for stream in streams]
        provider, worker = number(running, "provider", 0), number(running, "worker", 0)
        os.kill(provider, signal.SIGSTOP)
        scribble(f"{running.state.segments[0][:-1]}1", how)
        await asyncio.to_thread(
            until, lambda: replaced(running, "provider", 0, provider), "another provider process"
        )
        rest = await asyncio.gather(*takers)
        ends = [check_prefix(begun[i] + tokens, i) for i, tokens in enumerate(rest)]
    errors = [end for end in ends if isinstance(end, Error)]
    assert [one.code for one in errors] == ["interrupted"] * 2
    assert number(running, "worker", 0) != worker
    async with running.connect() as client:
        for tokens in await asyncio.gather(*(take(one) for one in await streams_on(client, 4))):
            assert isinstance(tokens[-1], Done)


SIGBUS = """
import os, sys
from ringcast.shm import layout, segment
from ringcast.shm.ring import Reader

reader = Reader(segment.attach(sys.argv[1]).memory)
os.truncate("/dev/shm/" + sys.argv[1], 0)
reader.poll()
"""


def test_s04_a_reader_of_a_ring_that_was_cut_off_dies_of_sigbus() -> None:
    """Nothing in the process can hold it; the next test shows that the daemon survives it."""
    name = f"{segment.family()}-1"
    with closing(segment.create(name, layout.size_of(RING), setting="x")) as one:
        layout.initialise(one.memory, RING)
        ended = subprocess.run(
            [sys.executable, "-c", SIGBUS, name], env=os.environ | {"PYTHONPATH": str(OPS)}
        )
    segment.remove(name)
    assert ended.returncode == -signal.SIGBUS


@pytest.mark.parametrize("number_", [1, 2], ids=["in", "out"])
@pytest.mark.parametrize("deed", ["truncated", "unlinked"])
@in_loop
async def test_s04_s14_a_live_ring_is_cut_off_or_unlinked(
    upstream: Spawned, deed: str, number_: int
) -> None:
    """Truncated, its users die and get another; unlinked, they go on, and so do successors."""
    with scarred(upstream, "") as running:
        path = SHARED / f"{running.state.segments[0][:-1]}{number_}"
        async with running.connect() as client:
            streams = await streams_on(client, 3)
            begun = [await take_some(stream, 5) for stream in streams]
            if deed == "truncated":
                os.truncate(path, 0)
            else:
                path.unlink()
            rest = await asyncio.gather(*map(told, streams))
            if deed == "unlinked":
                provider = running.pid("provider")
                ends = [check_prefix(begun[i] + tokens, i) for i, (tokens, _) in enumerate(rest)]
                assert all(isinstance(end, Done) for end in ends)
                await asyncio.to_thread(running.kill, "worker")
                if number_ == 1:  # it still has the ring without a name
                    await asyncio.to_thread(
                        until, lambda: replaced(running, "provider", 0, provider), "another"
                    )
            for i, (tokens, code) in enumerate(rest):
                said = texts(begun[i] + tokens)
                assert said == list(numbered_tokens(COUNT, i))[: len(said)]
                assert code in ("", "ring_corrupt", "interrupted", "offset_gone", "bad_offset")
        await asyncio.to_thread(until, lambda: path.exists(), "another ring of that name")
        await asyncio.to_thread(until, lambda: working(running), "all processes")
        async with running.connect() as client:
            again = await asyncio.gather(*(take(one) for one in await streams_on(client, 2)))
            assert all(isinstance(tokens[-1], Done) for tokens in again)


async def told(stream: ClientStream) -> tuple[list[StreamToken], str]:
    """What a stream still says, and by what code it fails: its own, or its reader's."""
    tokens: list[StreamToken] = []
    try:
        async for token in stream:
            tokens.append(token)  # noqa: PERF401 - what came before an exception counts
    except RequestError as error:
        return tokens, error.code
    last = tokens[-1]
    return tokens, last.code if isinstance(last, Error) else ""


def working(running: Daemon) -> bool:
    return running.state.status == "running" and all(map(alive, running.pids))


def test_s09_a_frame_out_of_sequence_poisons_its_ring() -> None:
    """The commit word is a frame's only check (layout, R5); from there on nothing is believed."""
    memory = ring(RING)
    writer, reader = Writer(memory), Reader(memory)
    for stream in range(3):
        writer.append(2, stream, 0, 0, b"payload!")
    writer.publish()
    (first,) = reader.poll(1)
    with memory.cast("Q") as words:
        words[layout.W_DATA + first.end // 8] ^= 1 << 40
    for _ in range(PATIENCE):  # on a weakly ordered machine it might be on its way
        assert reader.poll() == []
    with pytest.raises(RingCorrupt, match=f"no record at {first.end}"):
        reader.poll()
    for end in (Reader, Writer):
        with pytest.raises(RingCorrupt, match="found corrupt before"):
            end(memory)


def test_s17_what_was_sent_does_not_change_when_its_bytes_are_used_again() -> None:
    """The broker copies at its boundary: a client's frame owns its bytes."""
    pipeline = Pipeline()
    inbox = pipeline.connect(b"a")
    body = b'data: {"choices":[{"index":0,"delta":{"content":"said"}}]}\n\ndata: [DONE]\n\n'
    stream = pipeline.open(1, "chat", [body], 1 << 16)
    pipeline.attach(inbox, 7, stream, -1, 1 << 16)
    while pipeline.read(1) or pipeline.publish() or pipeline.work() or pipeline.fan_out():
        pass
    pipeline.out_memory[layout.DATA :] = b"\xa5" * (len(pipeline.out_memory) - layout.DATA)
    pipeline.deliver(inbox)
    assert texts(inbox.tokens[7]) == ["said"]


def test_s21_of_two_producers_the_first_stops() -> None:
    """Whoever attaches takes the next number; who finds another's in the ring publishes no more."""
    memory = ring(RING)
    first = Writer(memory)
    first.append(2, 1, 0, 0, b"first's")
    second = Writer(memory)
    second.append(2, 2, 0, 0, b"second's")
    assert not second.publish()
    with pytest.raises(Fenced):
        first.publish()
    assert [bytes(record.payload) for record in Reader(memory).poll()] == [b"second's"]
    hand_over(memory, producer=True)
    with pytest.raises(Fenced):
        second.publish()


def cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


@in_loop
async def test_s18_s19_a_reader_that_stands_still(upstream: Spawned) -> None:
    """Its rings fill and reading stops at the sockets, with no busy loop; the other worker's
    streams go on. Awake again, it has lost nothing."""
    with scarred(upstream, "workers = 2\nhang_s = 0") as running:
        async with running.connect() as client:
            warm = await take(await ask(client, "up/numbered;n=3"))  # by worker 1
            assert isinstance(warm[-1], Done)
            worker, provider = number(running, "worker", 0), number(running, "provider", 0)
            os.kill(worker, signal.SIGSTOP)
            stopped, going = [await ask(client, f"up/numbered;n=20000;seed={i}") for i in (1, 2)]
            waiting = asyncio.create_task(take(stopped))
            assert texts(await take(going)) == list(numbered_tokens(20_000, 2))
            before = cpu_s(provider) + cpu_s(running.pid("broker"))
            await asyncio.sleep(3)
            used = cpu_s(provider) + cpu_s(running.pid("broker")) - before
            print(f"while it stands: {used / 3:.1%} of a core")
            assert used < 0.6
            assert not waiting.done()
            os.kill(worker, signal.SIGCONT)
            assert texts(await waiting) == list(numbered_tokens(20_000, 1))


def test_s22_no_process_has_a_ring_that_is_not_its_own(two_workers: Daemon) -> None:
    """Nor does one inherit a mapping by the fork, whoever died before it was started."""
    running = two_workers
    for role in ("worker", "provider", "broker"):
        running.kill(role)
    mapped = {
        (row.role, row.index): {
            name[-1]
            for name in Path(f"/proc/{row.pid}/maps").read_text().split()
            if name.startswith("/dev/shm/rc-")
        }
        for row in running.state.processes
    }
    own = Path(f"/proc/{running.process.pid}/maps").read_text()
    assert {name for name in own.split() if "/dev/shm/rc-" in name} == {
        f"/dev/shm/{running.state.segments[0]}"
    }
    assert mapped == {
        ("provider", 0): {"0", "1", "2", "t"},  # and the words that they share
        ("worker", 0): {"0", "1", "3", "m"},  # and the metrics
        ("worker", 1): {"0", "2", "4", "m"},
        ("broker", 0): {"0", "3", "4", "l"},  # and the ledger
    }


def test_r17_a_ring_that_is_poisoned_is_refused_by_its_next_user() -> None:
    """R17: by either end's word, and whoever attaches."""
    for word in (layout.W_PRODUCER_POISON, layout.W_CONSUMER_POISON):
        memory = ring(RING)
        with memory.cast("Q") as words:
            words[word] = 1
        with pytest.raises(RingError, match="is to be replaced"):
            layout.check(memory)
