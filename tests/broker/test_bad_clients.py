"""Bad and hostile clients: each gets a typed answer or none, and no other client notices.

Every case runs beside paced streams that must end whole, and must leave processes,
descriptors and rings as it found them.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
import zmq
from fakes.daemon import (
    PATIENCE_S,
    Daemon,
    canaries,
    daemon,
    environment,
    in_loop,
    until,
)
from fakes.peer import Peer, chat

from ringcast.broker.gate import Rate
from ringcast.replay.numbered import numbered_tokens
from ringcast.replay.process import Spawned, spawned

MAX_REQUEST = 100_000
MAX_CLIENTS = 1_020
HEARTBEAT_S = 1.0
BAD = b"\xc1"
ENDLESS = "up/numbered;n=0;pace=200"


@pytest.fixture(scope="module")
def upstream() -> Iterator[Spawned]:
    with spawned(knobs="pace=0") as running:
        yield running


@pytest.fixture(scope="module")
def running(upstream: Spawned) -> Iterator[Daemon]:
    with daemon(
        f"""
        [providers.up]
        kind = "openai-compatible"
        base_url = "{upstream.url}/v1"
        [timeouts]
        heartbeat_s = {HEARTBEAT_S}
        [credit]
        lease_s = 1.0
        [limits]
        max_request_bytes = {MAX_REQUEST}
        max_clients = {MAX_CLIENTS}
        """
    ) as started:
        in_loop(beside)(started)
        yield started


async def beside(running: Daemon, case: Any = lambda: None) -> None:
    """Run a case in a thread of its own, beside the canaries."""
    async with canaries(running):
        await asyncio.to_thread(case)


def held(running: Daemon) -> tuple[list[int], set[str], list[int]]:
    """Its processes, its rings, and the descriptors of those that hold no upstream."""
    roles = ("broker", "worker")
    pids = [running.state.pid, *(running.pid(role) for role in roles)]
    family = running.state.segments[0][:-1]
    rings = {path.name for path in Path("/dev/shm").glob(f"{family}[0-9]*")}
    return running.pids, rings, [psutil.Process(pid).num_fds() for pid in pids]


@pytest.fixture(autouse=True)
def nothing_is_left(running: Daemon) -> Iterator[None]:
    until(lambda: clients(running) == 1, "silence")
    before = held(running)
    yield

    def as_before() -> bool:
        pids, rings, files = held(running)
        fewer = all(now <= then for now, then in zip(files, before[2], strict=True))
        return fewer and (pids, rings) == before[:2]

    until(as_before, f"what was there before, {before},")


@pytest.fixture
def peer(running: Daemon) -> Iterator[Peer]:
    with closing(Peer(running).hello()) as made:
        yield made


def status(running: Daemon) -> dict[str, Any]:
    with closing(Peer(running).hello()) as asking:
        answer = asking.ask("status", 1)
    result: dict[str, Any] = answer[2]
    return result


def clients(running: Daemon) -> int:
    """How many there are, who asks included."""
    number: int = status(running)["clients"]
    return number


def counter(running: Daemon, name: str) -> int:
    (row,) = (row for row in status(running)["counters"] if row["role"] == "broker")
    number: int = row[name]
    return number


def own_memory(running: Daemon) -> int:
    return int(psutil.Process(running.pid("broker")).memory_full_info().uss)


def knock(running: Daemon, name: str) -> socket.socket:
    one = socket.socket(socket.AF_UNIX)
    one.settimeout(PATIENCE_S)
    one.connect(str(running.directory / name))
    return one


@pytest.mark.parametrize("name", ["client.sock", "control.sock"])
@in_loop
async def test_z01_bytes_that_are_no_zmtp(running: Daemon, name: str) -> None:
    """A bad greeting is hung up on at once, an unfinished one after three seconds."""
    noise = random.Random(1).randbytes(1 << 20)
    greetings = [
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" * 10,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + noise[:500],
        noise,
        bytes(1 << 16),
        b"\xff" * 64,
        b"\xff\0\0\0\0\0\0\0\1\x7f",
        b"",
    ]

    def case() -> None:
        sockets = [knock(running, name) for _ in greetings]
        for one, greeting in zip(sockets, greetings, strict=True):
            with suppress(ConnectionError):  # it has seen enough of it
                one.sendall(greeting)
        for one in sockets:
            with suppress(ConnectionError):
                while one.recv(1 << 16):
                    pass
            one.close()

    await beside(running, case)


@in_loop
async def test_z01_messages_that_are_no_reports(running: Daemon) -> None:
    """A process of ours that speaks ZeroMQ, and nonsense, to the daemon's own socket."""
    before = counter(running, "bad_messages")
    with zmq.Context[zmq.Socket[bytes]](1) as context, context.socket(zmq.DEALER) as stranger:
        stranger.linger = 1000
        stranger.connect(f"ipc://{running.directory}/control.sock")
        for garbage in (b"", BAD, b"\x91" * 5000, msgspec.msgpack.encode(["ready", "x"])):
            stranger.send(garbage)
    until(lambda: counter(running, "bad_messages") == before + 4, "the count")
    await beside(running)


@in_loop
async def test_z02_a_flood_of_bad_messages_has_few_answers(running: Daemon, peer: Peer) -> None:
    """All are counted; ten a second are answered, and then the peer is a client still."""
    before, count = counter(running, "bad_messages"), 8000

    def case() -> None:
        began = time.monotonic()
        for number in range(count // 4):
            peer.socket.send(b"")
            peer.socket.send(BAD)
            peer.socket.send_multipart([b"", b"", msgspec.msgpack.encode(["ping", number])])
            peer.socket.send_multipart([BAD] * 50)
        answers = []
        peer.send("ping", 77)
        while (answer := peer.answer()) != ["pong", 77]:
            answers.append(answer)
        windows = int(time.monotonic() - began) + 2
        assert {answer[2] for answer in answers} == {"bad_message"}
        assert 10 <= len(answers) <= 10 * windows

    await beside(running, case)
    assert counter(running, "bad_messages") == before + count


@in_loop
async def test_z06_a_hundred_thousand_parts(running: Daemon, peer: Peer) -> None:
    before = own_memory(running)

    def case() -> None:
        for count in (0, 2, 100_000):
            peer.socket.send_multipart([b"x"] * count or [b"", b""])
            assert peer.answer()[2:4] == ["bad_message", f"{count or 2} parts, expected 1"]

    await beside(running, case)
    assert own_memory(running) - before < 64 << 20


@in_loop
async def test_z08_credit_of_every_wrong_kind(running: Daemon, peer: Peer) -> None:
    def case() -> None:
        opened = peer.ask("open", 1, chat("up/numbered;n=30"))
        assert opened[0] == "opened"
        for wrong in (-1, -(2**63), 10**6, 2**31, 2**63, 2**64 - 1):
            assert peer.refusal("credit", [[1, wrong]])[1] == "bad_credit"
        before = counter(running, "bad_messages")
        kinds: list[object] = [float("nan"), 1.5, float("inf"), "3", None, [], {}, b"\0", True]
        for kind in kinds:
            peer.send("credit", [[1, kind]])
        for grants in (5, [1, 2], [[1]], None, "x"):
            peer.send("credit", grants)
        bad = before + len(kinds) + 5
        until(lambda: counter(running, "bad_messages") == bad, "the count of them all")
        peer.send("credit", [[1, 0]] * 1000)
        peer.send("credit", [[99, -1]])
        with closing(Peer(running).hello()) as other:  # the stream is whole
            assert other.ask("attach", 2, opened[2])[0] == "opened"
            said = [token[1] for token in other.tokens(2) if token[0] == "text"]
        assert said == list(numbered_tokens(30))

    await beside(running, case)


@pytest.mark.parametrize("window", [1, 2**31, 2**62])
@in_loop
async def test_z08_windows_of_any_size(running: Daemon, peer: Peer, window: int) -> None:
    def case() -> None:
        assert peer.ask("open", 1, chat("up/numbered;n=300"), window)[0] == "opened"
        said = [token[1] for token in peer.tokens(1) if token[0] == "text"]
        assert said == list(numbered_tokens(300))

    await beside(running, case)


def test_z11_a_peers_messages_are_counted_by_the_second() -> None:
    rate = Rate()
    assert [rate.count(b"a", 10.0 + n / 10) for n in range(4)] == [1, 2, 3, 4]
    assert rate.count(b"b", 10.9) == 1
    assert [rate.count(b"a", now) for now in (11.0, 11.5, 12.1)] == [1, 2, 1]


@in_loop
async def test_z11_a_flood_is_cut_off_and_nobody_else_waits(running: Daemon) -> None:
    """A million messages: who sends them is told `flood`, another's pings come back."""
    ping = msgspec.msgpack.encode(["detach", 5])
    waits: list[float] = []

    def case() -> None:
        over = threading.Event()

        def look() -> None:
            with closing(Peer(running).hello()) as other:
                while not over.is_set():
                    began = time.monotonic()
                    assert other.ask("ping", 1) == ["pong", 1]
                    waits.append(time.monotonic() - began)

        looking = threading.Thread(target=look)
        looking.start()
        with closing(Peer(running).hello()) as flooder:
            for _ in range(1_000_000):
                flooder.socket.send(ping)
            name, handle, code, text, detail, _ = flooder.answer()
            over.set()
            looking.join()
        assert (name, handle, code) == ("error", -1, "flood")
        assert text.startswith("over 30000 messages a second (limits.max_messages_per_s)")
        assert detail == {"limit": 30_000}

    await beside(running, case)
    waits.sort()
    print(f"{len(waits)} pings, p50 {waits[len(waits) // 2]:.4f} s, longest {waits[-1]:.4f} s")
    assert waits[len(waits) * 99 // 100] < 1.0


@in_loop
async def test_z12_what_is_unknown_leaves_no_trace(running: Daemon, peer: Peer) -> None:
    before, memory = len(status(running)["streams"]), own_memory(running)

    def case() -> None:
        for number in range(3000):
            wanted = number.to_bytes(16, "big")
            assert peer.refusal("attach", number, wanted)[:2] == (number, "unknown_stream")
            assert peer.refusal("cancel", wanted)[:2] == (-1, "unknown_stream")
            peer.send("detach", number)
            peer.send("credit", [[number, 1]])

    await beside(running, case)
    assert len(status(running)["streams"]) <= before + 3
    assert own_memory(running) - memory < 8 << 20


def test_z13_an_id_is_what_lets_a_process_of_the_same_user_in(running: Daemon, peer: Peer) -> None:
    """Ids are 128 random bits; one bit off is as unknown as any other, in the same words."""
    with closing(Peer(running).hello()) as owner:
        opened = owner.ask("open", 1, chat(ENDLESS))
        near = bytes([opened[2][0] ^ 1]) + opened[2][1:]
        refusals = {peer.refusal("attach", 1, one)[1:] for one in (near, bytes(16), b"", b"x" * 99)}
        assert refusals == {("unknown_stream", "no such stream, or it left the log")}
        assert peer.ask("attach", 1, opened[2])[:2] == ["opened", 1]
        owner.send("cancel", opened[2])


@in_loop
async def test_z14_two_peers_of_one_identity(running: Daemon) -> None:
    """The first keeps what is its own, and the second takes nothing from it."""

    def case() -> None:
        with closing(Peer(running, b"the-same").hello()) as first:
            assert first.ask("open", 1, chat("up/numbered;n=400;pace=400"))[0] == "opened"
            with closing(Peer(running, b"the-same")) as second:
                for _ in range(3):
                    second.send("hello", 1, "impostor", 1)
                    second.send("open", 1, chat("up/numbered;n=3"))
                said = [token[1] for token in first.tokens(1) if token[0] == "text"]
                assert said == list(numbered_tokens(400))
                assert first.ask("ping", 7) == ["pong", 7]
        with closing(Peer(running).hello()) as third:
            assert third.ask("ping", 8) == ["pong", 8]

    await beside(running, case)


@pytest.mark.parametrize(
    "identity",
    [b"x" * 255, bytes(range(1, 256)), b"p0", b"w0-1", b"\xff\xfe", b"'; drop", b"c" * 16],
    ids=len,
)
def test_z15_identities(running: Daemon, identity: bytes) -> None:
    """They name a connection and mean nothing, whatever they look like."""
    with closing(Peer(running, identity).hello()) as peer, closing(Peer(running)) as other:
        assert peer.ask("ping", 1) == ["pong", 1]
        assert other.ask("ping", 1)[2] == "hello_first"


@pytest.mark.parametrize("after", [-(2**63), -2, 4, 2**31, 2**63 - 1])
def test_z16_offsets(running: Daemon, peer: Peer, after: int) -> None:
    opened = peer.ask("open", 1, chat("up/numbered;n=2"))
    peer.tokens(1)
    _, code, text = peer.refusal("attach", 2, opened[2], after)
    assert (code, text) == ("bad_offset", f"cannot attach after token {after}: the stream has 4")


@in_loop
async def test_z17_replays_of_a_long_history(running: Daemon) -> None:
    """Ten thousand readers who take nothing: what is under way to a client is bounded."""
    before = own_memory(running)

    def case() -> None:
        with closing(Peer(running, rcvhwm=1).hello()) as owner:
            opened = owner.ask("open", 0, chat("up/numbered;n=20000"), 2**40)
            owner.tokens(0)
            with closing(Peer(running, rcvhwm=1).hello()) as greedy:
                codes = set()
                for start in range(0, 10_000, 1000):
                    for handle in range(start, start + 1000):
                        greedy.send("attach", handle, opened[2], -1, 2**40)
                    while (answer := greedy.answer())[:2] != ["error", start + 999]:
                        codes.add(answer[2] if answer[0] == "error" else answer[0])
                assert codes == {"opened", "tokens", "slow_consumer"}
                assert own_memory(running) - before < 96 << 20

    await beside(running, case)


def test_z18_asking_twice_is_asking_once(running: Daemon, peer: Peer, upstream: Spawned) -> None:
    """The same id is the same stream, for the same handle or another; the provider hears one."""
    before, identity = upstream.stats().requests, os.urandom(16)
    model = "up/numbered;n=50;delay_s=0.2"
    assert peer.refusal("attach", 1, identity)[1] == "unknown_stream"  # it overtook its OPEN
    for handle in (1, 1, 2):
        answer = peer.ask("open", handle, chat(model), 0, identity)
        assert answer[:3] == ["opened", handle, identity]
    assert peer.refusal("open", 1, chat(model), 0, os.urandom(16))[1] == "duplicate_request"
    said = {1: 0, 2: 0}
    while min(said.values()) < 52:  # 50 texts, the usage, the end
        name, runs = peer.answer()
        assert name == "tokens"
        for handle, first, run in runs:
            assert first == said[handle]
            said[handle] += len(run)
    assert upstream.stats().requests == before + 1


@in_loop
async def test_z20_a_thousand_clients_at_once(running: Daemon) -> None:
    """All are let in; those over `limits.max_clients` are told so, and no other."""
    context = zmq.Context[zmq.Socket[bytes]](1)
    context.set(zmq.MAX_SOCKETS, 2000)

    def case() -> None:
        hello = msgspec.msgpack.encode(["hello", 1, "one of many", 1])
        sockets = [context.socket(zmq.DEALER) for _ in range(1000)]
        began = time.monotonic()
        for one in sockets:
            one.linger = 0
            one.connect(f"ipc://{running.directory}/client.sock")
            one.send(hello)
        answers = [msgspec.msgpack.decode(one.recv()) for one in sockets]
        print(f"1,000 clients in {time.monotonic() - began:.2f} s")
        assert {answer[0] for answer in answers} == {"welcome"}
        more = [Peer(running) for _ in range(30)]
        refused = [answer for one in more if (answer := one.ask("hello", 1))[0] == "error"]
        assert refused
        assert {answer[2] for answer in refused} == {"too_many_clients"}
        assert {answer[3] for answer in refused} == {
            f"{MAX_CLIENTS} clients are connected (limits.max_clients)"
        }
        for socket_ in sockets:
            socket_.close()
        for peer in more:
            peer.close()

    try:
        await beside(running, case)
    finally:
        context.destroy(0)


VICTIM = """
import asyncio, sys
import ringcast

async def main():
    async with ringcast.connect(sys.argv[1]) as rc:
        stream = await rc.chat(sys.argv[2], [{"role": "user", "content": "hi"}])
        await anext(stream)
        print(stream.id.hex(), flush=True)
        async for token in stream:
            pass

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@in_loop
async def test_z21_a_client_that_is_gone(
    running: Daemon, upstream: Spawned, number: signal.Signals
) -> None:
    """Found by its silence; its stream goes on for the lease, then the provider is let go."""
    path = os.pathsep.join(sys.path)

    def case() -> None:
        command = [sys.executable, "-P", "-c", VICTIM, str(running.directory), ENDLESS]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, env=environment(PYTHONPATH=path)
        ) as victim:
            assert victim.stdout is not None
            stream = victim.stdout.readline().decode().strip()
            victim.send_signal(number)
            state = {"state": "streaming"}
            began = time.monotonic()
            while state["state"] != "ended":
                assert time.monotonic() - began < PATIENCE_S
                rows = status(running)["streams"]
                state = next((row for row in rows if row["id"] == stream), {"state": "ended"})
            victim.kill()

    await beside(running, case)
    until(lambda: upstream.stats().open_streams == 0, "the end of all upstream connections")


@in_loop
async def test_z23_connections_that_come_and_go(running: Daemon) -> None:
    """State is kept for as long as a silent client has, and then no more."""

    def case() -> None:
        for _ in range(300):
            Peer(running).hello().socket.close()

    await beside(running, case)
    until(lambda: clients(running) == 1, "the end of all that were silent")


@in_loop
async def test_z27_a_client_that_asks_and_never_listens(running: Daemon) -> None:
    """Its answers pile up to 10,000 messages; then it is lost, and told so once it listens."""
    before = own_memory(running)

    def case() -> None:
        with closing(Peer(running, rcvhwm=1).hello()) as deaf, closing(Peer(running)) as other:
            other.hello()
            for _ in range(3):
                for number in range(15_000):
                    deaf.send("ping", number)
                began = time.monotonic()
                while time.monotonic() - began < 1.1:  # a second's window of messages
                    assert other.ask("ping", 1) == ["pong", 1]
            assert clients(running) <= 4  # the canaries', the two askers, and nobody else
            last = 0
            while deaf.socket.poll(1000):
                answer = deaf.answer()
                assert answer[0] in ("pong", "error")
                if answer[0] == "pong":
                    assert answer[1] in (last, last + 1) or answer[1] == 0
                    last = answer[1]

    await beside(running, case)
    assert own_memory(running) - before < 32 << 20


@in_loop
async def test_z29_a_request_over_its_limit(running: Daemon, peer: Peer, upstream: Spawned) -> None:
    """Told by its own handle, before anything is sent; many messages are no other matter."""
    long = chat("up/x") | {"prompt": "x" * MAX_REQUEST}
    many = chat("up/x") | {"messages": [{"role": "user", "content": "x"}] * 10_000}

    def case() -> None:
        for handle, request in enumerate((long, many)):
            where, code, text = peer.refusal("open", handle, request)
            assert (where, code) == (handle, "bad_request")
            assert text.startswith("request: has ")
            assert text.endswith(f"bytes, {MAX_REQUEST} are allowed (limits.max_request_bytes)")

    seen = upstream.stats().requests
    await beside(running, case)
    assert upstream.stats().requests == seen + 3  # the canaries'


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("base_url", "http://169.254.169.254/"),
        ("api_key", "stolen"),
        ("headers", {"authorization": "x"}),
        ("api_base", "http://localhost/"),
        ("temperature", 1e308),
        ("max_tokens", -1),
        ("model", "up/x\r\nx-evil: 1"),
        ("model", "up/x\0"),
    ],
)
@in_loop
async def test_z30_z31_requests_that_are_not_sent(
    running: Daemon, peer: Peer, upstream: Spawned, field: str, value: object
) -> None:
    """Endpoints and keys come from the configuration alone; bad fields are named."""
    seen = upstream.stats().requests
    peer.send("open", 1, chat("up/numbered;n=1") | {field: value})
    answer = peer.answer()
    assert answer[0] == "opened"
    (error,) = peer.tokens(1)
    assert error[:2] == ["error", "bad_request"]
    assert field in error[2]
    assert "stolen" not in error[2]
    assert error[2].isprintable()
    assert upstream.stats().requests == seen
