"""Follow one token: from the bytes of an answer to what a client holds in its hands.

Read this first. `test_follow_one_token` takes each step by hand, in the order of the
daemon's processes; the tests below it take the same steps in every order.
"""

from __future__ import annotations

import random

import msgspec
import pytest
from fakes.pipeline import Inbox, Pipeline, plain, ring, worker_counters
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ringcast.broker import protocol
from ringcast.broker.credit import BackpressureController
from ringcast.broker.log import Log
from ringcast.broker.session import Sessions
from ringcast.broker.stream import Client, Stream
from ringcast.errors import Code
from ringcast.providers.flow import Flow, Outlet
from ringcast.providers.wire.body import Ending
from ringcast.providers.wire.sse import SseFramer
from ringcast.providers.wire.summary import decode
from ringcast.replay.numbered import numbered_events, numbered_tokens
from ringcast.replay.recording import Recording, bundled
from ringcast.shm import records
from ringcast.shm.ring import Reader, Writer
from ringcast.shm.tokens import Done, Error, StreamToken, Text
from ringcast.workers.stage import Stage

APIS = ("chat", "completions", "messages", "complete")
RECORDINGS = [r for r in bundled() if r.api in APIS and r.status == 200 and r.streamed]
BODY = (
    b'data: {"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}]}\n\n'
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    b"data: [DONE]\n\n"
)


def test_follow_one_token() -> None:
    # Two rings in shared memory: one before the worker, one behind it. Here, two bytearrays.
    in_ring, out_ring = ring(1 << 16), ring(1 << 16)

    # 1. The provider process has asked for an answer. A Flow takes its body as it comes from
    #    the socket, cuts it at event boundaries, and writes whole events into the in-ring.
    outlet = Outlet(Writer(in_ring), wake=lambda: None)
    flow = Flow(slot=1, outlet=outlet, framer=SseFramer(), limit=1 << 16)
    flow.open(records.Open(b"the stream's id.", "chat", "openai", "gpt-4o"), now_ns=0)
    flow.data(BODY[:100], now_ns=1)  # the socket does not care where events end
    flow.data(BODY[100:], now_ns=2)
    flow.end(Ending("eof"), now_ns=3)
    outlet.writer.publish()  # one store makes the whole turn visible

    # 2. The worker reads the raw events, decodes them, numbers the tokens, and publishes them
    #    together with what a successor needs to know.
    stage = Stage([Reader(in_ring)], Writer(out_ring), worker_counters(), epoch=1)
    assert stage.step(now_ns=4)
    assert not stage.step(now_ns=5)  # nothing else to do: now it sleeps on its doorbell

    # 3. The broker knows the stream since it was opened, and who reads it.
    reader = Reader(out_ring)
    sessions = Sessions([Log(reader)])
    client = Client(route=b"a client", name="my-editor", pid=4711)
    stream = Stream(
        1,
        b"the stream's id.",
        "openai",
        "gpt-4o",
        0,
        0,
        BackpressureController(1024, 1 << 20, initial=1 << 16),
    )
    sessions.add(stream)
    sessions.subscribe(client, handle=7, stream=stream, after=-1, window=1 << 16)

    # 4. It indexes what came, and puts it into the client's outbox without decoding it.
    sessions.ingest(sessions.logs[0], reader.poll())
    frame = client.frame()

    # 5. The client decodes the frame, and has the token.
    tokens = protocol.decode_daemon(frame)
    assert isinstance(tokens, protocol.Tokens)
    taken: list[StreamToken] = []
    for handle, first, run in tokens.runs:
        assert (handle, first) == (7, len(taken))
        taken += run
    assert taken[0] == Text("Hi")
    assert isinstance(taken[-1], Done)
    assert taken[-1].finish_reason == "stop"

    # 6. It says that it is done with them all; the provider may send as much again.
    sessions.credit(client, handle=7, processed=len(taken))
    assert stream.processed == stream.end == len(taken)


def numbered(n: int, seed: int = 0, api: str = "chat") -> bytes:
    return b"".join(numbered_events(api, n, seed, clock=False))


def test_all_recordings_arrive_whole() -> None:
    pipeline = Pipeline()
    inbox = pipeline.connect(b"client")
    for slot, recording in enumerate(RECORDINGS, 1):
        stream = pipeline.open(slot, recording.api, [recording.body], 4096)
        pipeline.attach(inbox, slot, stream, -1, 4096)
    pipeline.run()
    for slot, recording in enumerate(RECORDINGS, 1):
        expected = plain(decode(recording.api, [recording.body]))
        assert plain(inbox.tokens[slot]) == expected, recording.name


def cut(draw: random.Random, body: bytes, largest: int) -> list[bytes]:
    """`body` in pieces of random sizes, as sockets give it."""
    pieces, at = [], 0
    while at < len(body):
        size = draw.randint(1, largest)
        pieces.append(body[at : at + size])
        at += size
    return pieces


BODIES = st.one_of(
    st.sampled_from(RECORDINGS).map(lambda r: (r.api, r.body)),
    st.tuples(st.integers(1, 400), st.integers(0, 9)).map(lambda a: ("chat", numbered(*a))),
    st.integers(1, 60_000).map(lambda n: ("chat", one_event("x" * n))),
    st.integers(1, 40_000).map(lambda n: ("chat", tool_call("y" * n))),
    st.integers(1, 200).map(lambda n: ("messages", b"event: ping\ndata: {}\n\n" * n)),
    st.integers(1, 40_000).map(lambda n: ("chat", b"<html>" + b"z" * n)),
    st.binary(max_size=3000).map(lambda b: ("messages", b)),
)


def one_event(text: str) -> bytes:
    chunk = {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": "stop"}]}
    return b"data: " + msgspec.json.encode(chunk) + b"\n\ndata: [DONE]\n\n"


def tool_call(arguments: str) -> bytes:
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": arguments}}
    chunk = {"choices": [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}]}
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n" + numbered(3)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    bodies=st.lists(BODIES, min_size=1, max_size=6),
    windows=st.lists(st.integers(1024, 20_000), min_size=6, max_size=6),
    client_window=st.sampled_from([1, 300, 1 << 18]),
    seed=st.integers(0, 1 << 32),
)
def test_any_order_of_steps(
    bodies: list[tuple[str, bytes]], windows: list[int], client_window: int, seed: int
) -> None:
    """Tiny rings, tiny windows, everybody at random times: each token once and in order."""
    draw = random.Random(seed)
    pipeline = Pipeline(1 << 16, 1 << 16)
    inboxes = [pipeline.connect(b"one"), pipeline.connect(b"two")]
    for slot, (api, body) in enumerate(bodies, 1):
        chunks = cut(draw, body, draw.choice([7, 300, 5000, 1 << 16]))
        stream = pipeline.open(slot, api, chunks, windows[slot - 1])
        pipeline.attach(inboxes[slot % 2], slot, stream, -1, client_window)
    steps = [pipeline.publish, pipeline.work, pipeline.fan_out, pipeline.credit_all]
    steps += [lambda slot=slot: pipeline.read(slot) for slot in pipeline.upstreams]  # type: ignore[misc]
    steps += [lambda inbox=inbox: pipeline.deliver(inbox) for inbox in inboxes]  # type: ignore[misc]
    for _ in range(300):
        draw.choice(steps)()
    pipeline.run()
    for slot, (api, body) in enumerate(bodies, 1):
        taken = inboxes[slot % 2].tokens[slot]
        assert plain(joined(taken)) == plain(joined(decode(api, [body])))
        assert sum(type(token).__name__ in ("Done", "Error") for token in taken) == 1
    assert not pipeline.cut
    assert pipeline.stage._streams == {}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    bodies=st.lists(BODIES, min_size=1, max_size=5),
    window=st.integers(1024, 60_000),
    in_bytes=st.sampled_from([1 << 16, 1 << 19]),
    seed=st.integers(0, 1 << 32),
)
def test_workers_that_die_at_any_moment(
    bodies: list[tuple[str, bytes]], window: int, in_bytes: int, seed: int
) -> None:
    """Killed before, within and after any round: each token still comes once and in order."""
    draw = random.Random(seed)
    pipeline = Pipeline(in_bytes, 1 << 16)
    inbox = pipeline.connect(b"one")
    for slot, (api, body) in enumerate(bodies, 1):
        chunks = cut(draw, body, draw.choice([7, 300, 5000, 1 << 16]))
        stream = pipeline.open(slot, api, chunks, window)
        pipeline.attach(inbox, slot, stream, -1, 1 << 18)
    steps = [pipeline.publish, pipeline.work, pipeline.fan_out, pipeline.credit_all]
    steps += [lambda slot=slot: pipeline.read(slot) for slot in pipeline.upstreams]  # type: ignore[misc]
    steps += [lambda: pipeline.deliver(inbox)]
    for _ in range(200):
        draw.choice(steps)()
        if draw.random() < 0.1:
            pipeline.kill_worker(draw.choice(["idle", "publish", "release"]))
    pipeline.run()
    for slot, (api, body) in enumerate(bodies, 1):
        taken = inbox.tokens[slot]
        last = taken[-1]
        if isinstance(last, Error) and last.code == Code.WORKER_LOST:
            # Only an event that takes more than half of the in-ring may be lost this way.
            assert max(map(len, body.split(b"\n\n"))) > in_bytes >> 1
            continue
        assert plain(joined(taken)) == plain(joined(decode(api, [body])))
        assert sum(type(token).__name__ in ("Done", "Error") for token in taken) == 1


def test_an_unfinished_event_survives_its_worker() -> None:
    pipeline = Pipeline(1 << 19, 1 << 16)
    inbox = pipeline.connect(b"one")
    body = one_event("x" * 200_000)
    chunks = [body[i : i + 1000] for i in range(0, len(body), 1000)]
    pipeline.attach(inbox, 1, pipeline.open(1, "chat", chunks, 1 << 20), -1, 1 << 18)
    while pipeline.read(1):
        pipeline.publish()
        pipeline.work()
        pipeline.kill_worker("idle")
    pipeline.run()
    assert plain(joined(inbox.tokens[1])) == plain(joined(decode("chat", [body])))


@pytest.mark.parametrize("name", [r.name for r in RECORDINGS])
def test_any_part_of_a_round_is_enough_for_a_successor(name: str) -> None:
    """Only so many records of a worker's last round were visible: the next one says the rest."""
    (recording,) = [r for r in RECORDINGS if r.name == name]
    in_ring, out_ring = ring(1 << 19), ring(1 << 20)
    outlet = Outlet(Writer(in_ring), wake=lambda: None)
    flow = Flow(slot=1, outlet=outlet, framer=SseFramer(), limit=1 << 19)
    flow.open(records.Open(b"the stream's id.", recording.api, "fake", "model"), now_ns=0)
    for chunk in cut(random.Random(name), recording.body, 1500):
        flow.data(chunk, now_ns=1)
    flow.end(Ending("eof"), now_ns=2)
    outlet.writer.publish()
    before = bytes(in_ring)
    stage = Stage([Reader(in_ring)], Writer(out_ring), worker_counters(), epoch=1)
    assert stage.step(now_ns=3)
    round_ = Reader(out_ring).poll(10_000)
    for visible in range(len(round_) + 1):
        log = Log(Reader(ring(1 << 16)))
        sessions, client = Sessions([log]), Client(b"one", "fake", 1)
        stream = Stream(
            1,
            b"the stream's id.",
            "fake",
            "model",
            0,
            0,
            BackpressureController(1024, 1 << 20, initial=1 << 19),
        )
        sessions.add(stream)
        sessions.subscribe(client, 1, stream, -1, 1 << 19)
        if visible:
            sessions.ingest(log, round_[:visible])
        again, rest = memoryview(bytearray(before)), ring(1 << 20)
        left = sessions.of_worker(0)
        successor = Stage([Reader(again)], Writer(rest), worker_counters(), 2, left)
        while successor.step(now_ns=4):
            pass
        sessions.ingest(log, Reader(rest).poll(10_000))
        inbox = Inbox(client)
        inbox.begin(1, 0)
        inbox.take(client.frame())
        expected = plain(decode(recording.api, [recording.body]))
        assert plain(joined(inbox.tokens[1])) == plain(joined(expected)), visible


def test_poison_ends_its_stream_and_no_other() -> None:
    """Two workers die at one record: the third one leaves it alone."""
    pipeline = Pipeline()
    inbox = pipeline.connect(b"one")
    for slot in (1, 2):
        pipeline.attach(inbox, slot, pipeline.open(slot, "chat", [numbered(9)], 1 << 16), -1, 9999)
    at = pipeline.counters.slot("at")
    pipeline.read(1)
    pipeline.publish()
    position = pipeline.outlet.writer.position
    pipeline.read(2)
    for _ in range(2):
        pipeline.counters.set(at, position << 4)  # what a worker leaves that dies in a record
        pipeline.kill_worker("publish")
        pipeline.counters.set(at, position << 4)
        pipeline.kill_worker("publish")
    pipeline.run()
    (error,) = [token for token in inbox.tokens[1] if isinstance(token, Error)]
    assert error.code == Code.POISON_INPUT
    assert plain(inbox.tokens[2]) == plain(decode("chat", [numbered(9)]))


def joined(tokens: list[StreamToken]) -> list[StreamToken]:
    """Texts that follow one another made one: where a long one is cut is nobody's business."""
    whole: list[StreamToken] = []
    for token in tokens:
        if isinstance(token, Text) and whole and isinstance(whole[-1], Text):
            whole[-1] = Text(whole[-1].content + token.content)
        else:
            whole.append(token)
    return whole


@pytest.mark.parametrize("window", [1024, 4096, 1 << 20])
def test_an_event_larger_than_every_ring(window: int) -> None:
    text = "".join(f"{i} " for i in range(60_000))
    body = one_event(text)
    assert len(body) > 4 * (1 << 16)
    pipeline = Pipeline(1 << 16, 1 << 16)
    inbox = pipeline.connect(b"client")
    other = pipeline.open(2, "chat", cut(random.Random(1), numbered(500), 900), 2000)
    pipeline.attach(inbox, 2, other, -1, 2000)
    stream = pipeline.open(1, "chat", cut(random.Random(2), body, 1 << 16), window)
    pipeline.attach(inbox, 1, stream, -1, window)
    pipeline.run()
    assert "".join(t.content for t in inbox.tokens[1] if isinstance(t, Text)) == text
    assert isinstance(inbox.tokens[1][-1], Done)
    texts = [t.content for t in inbox.tokens[2] if isinstance(t, Text)]
    assert texts == list(numbered_tokens(500))


def test_a_reader_that_stops_stops_its_provider_only() -> None:
    pipeline = Pipeline()
    slow, quick = pipeline.connect(b"slow"), pipeline.connect(b"quick")
    body = numbered(2000)
    for slot, inbox in ((1, slow), (2, quick)):
        stream = pipeline.open(slot, "chat", cut(random.Random(slot), body, 1000), 4096)
        pipeline.attach(inbox, slot, stream, -1, 1 << 20)
    del pipeline.inboxes[b"slow"]  # it neither reads nor gives credit
    pipeline.run()
    assert isinstance(quick.tokens[2][-1], Done)
    flow = pipeline.upstreams[1].flow
    assert flow.held
    assert flow.sent <= 4096 + pipeline.outlet.writer.max_payload
    pipeline.inboxes[b"slow"] = slow
    pipeline.run()
    assert texts_of(slow, 1) == list(numbered_tokens(2000))


def texts_of(inbox: Inbox, handle: int) -> list[str]:
    return [t.content for t in inbox.tokens[handle] if isinstance(t, Text)]


def test_recordings_are_there() -> None:
    assert {r.api for r in RECORDINGS} == set(APIS)
    assert all(isinstance(r, Recording) for r in RECORDINGS)
