"""The client protocol as any language speaks it: a DEALER socket, msgpack, none of our code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from fakes.daemon import Daemon, daemon
from fakes.peer import Peer, chat

from ringcast.broker import protocol
from ringcast.replay.numbered import numbered_tokens
from ringcast.replay.process import spawned
from ringcast.shm.tokens import Text

MAX_REQUEST = 100_000
UNLIMITED = 1 << 20


@pytest.fixture(scope="module")
def running() -> Iterator[Daemon]:
    with (
        spawned(knobs="pace=0") as upstream,
        daemon(
            f"""
            [providers.up]
            kind = "openai-compatible"
            base_url = "{upstream.url}/v1"
            [limits]
            max_request_bytes = {MAX_REQUEST}
            max_clients = 64
            max_streams = 2
            """
        ) as started,
    ):
        yield started


@pytest.fixture
def peer(running: Daemon) -> Iterator[Peer]:
    made = Peer(running)
    yield made
    made.socket.close()


def test_a_conversation(peer: Peer) -> None:
    welcome = peer.ask("hello", 1, "a-peer", 4711)
    assert welcome[:2] == ["welcome", 1]
    assert isinstance(welcome[3], str)
    assert isinstance(welcome[4], float)
    name, handle, stream, provider, model = peer.ask("open", 7, chat("up/numbered;n=3000"))
    assert (name, handle, provider, model) == ("opened", 7, "up", "numbered;n=3000")
    assert isinstance(stream, bytes)
    assert len(stream) == 16
    tokens = peer.tokens(7)
    assert [token[1] for token in tokens if token[0] == "text"] == list(numbered_tokens(3000))
    assert tokens[-1][:2] == ["done", "stop"]
    assert peer.ask("attach", 8, stream, 2990)[:2] == ["opened", 8]
    name, ((handle, first, run), *_) = peer.answer()
    assert (name, handle) == ("tokens", 8)
    assert run[2991 - first :] == tokens[2991:][: len(run) - (2991 - first)]
    assert peer.ask("ping", 5) == ["pong", 5]
    name, number, status = peer.ask("status", 9)
    assert (name, number) == ("result", 9)
    assert status["clients"] >= 1


def test_frames_of_the_future(peer: Peer) -> None:
    """More fields than we know are ignored; types that we do not know are answered."""
    assert peer.ask("hello", 1, "a-peer", 1, "more", {"fields": 1})[0] == "welcome"
    assert peer.ask("ping", 5, "more") == ["pong", 5]
    name, handle, code, message, *_ = peer.ask("resume-all", 1)
    assert (name, handle, code) == ("error", -1, "unknown_type")
    assert "'resume-all'" in message
    assert peer.ask("ping", 6) == ["pong", 6]


def test_hello_first(peer: Peer) -> None:
    for frame in (("ping", 1), ("open", 1, chat("up/x")), ("status", 1), ("detach", 1)):
        assert peer.ask(*frame)[:3] == ["error", -1, "hello_first"]
    assert peer.ask("hello", 2)[2] == "unsupported_version"
    assert peer.ask("ping", 1)[2] == "hello_first"
    assert peer.ask("hello", 1)[0] == "welcome"
    assert peer.ask("hello", 1)[0] == "welcome"  # twice is harmless


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\xc1",
        b"GET / HTTP/1.1\r\n\r\n",
        b'{"type": "hello"}',
        b"\x90",
        b"\x91\x01",
        b"\x91" * 5000,
        b"\xdd\xff\xff\xff\xff",
        b"\x91\xa4ping\xff",
        b"\x92\xa4ping\xa1x",
        b"\x92\xa4ping\xc0",
        b"\x91\xa2\xff\xfe",
        b"\x92\xa6credit\x91\x92\x01\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",
        b"\x83",
    ],
)
def test_garbage(peer: Peer, garbage: bytes) -> None:
    peer.hello()
    peer.socket.send(garbage)
    name, handle, code, message, *_ = peer.answer()
    assert (name, handle, code) == ("error", -1, "bad_message")
    assert message
    assert message.isprintable()
    assert peer.ask("ping", 1) == ["pong", 1]


def test_fifty_parts(peer: Peer) -> None:
    peer.hello()
    peer.socket.send_multipart([b"x"] * 50)
    assert peer.answer()[2:4] == ["bad_message", "50 parts, expected 1"]
    assert peer.ask("ping", 1) == ["pong", 1]


def test_too_large(peer: Peer) -> None:
    """libzmq drops the connection; the peer comes back, and nobody else has noticed."""
    peer.hello()
    peer.send("open", 1, chat("up/" + "x" * 2 * MAX_REQUEST))
    for _ in range(100):
        peer.send("ping", 77)
        if peer.socket.poll(200):
            break
    assert peer.answer()[0] in ("pong", "error")


def test_what_is_refused(peer: Peer) -> None:
    peer.hello()
    opened = peer.ask("open", 1, chat("up/numbered;n=0;pace=100"))
    stream = opened[2]

    def refused(*frame: Any) -> tuple[int, str]:
        peer.send(*frame)
        while (answer := peer.answer())[0] == "tokens":
            pass
        assert answer[0] == "error", answer
        return answer[1], answer[2]

    assert refused("open", 1, chat("up/x")) == (1, "duplicate_request")
    assert refused("open", 4, chat("up/x"), 0, b"short") == (4, "bad_request")
    assert refused("attach", 2, b"no such stream") == (2, "unknown_stream")
    assert refused("attach", 2, stream, 10**12) == (2, "bad_offset")
    assert refused("attach", 2, stream, -5) == (2, "bad_offset")
    assert refused("attach", 2, stream, -1, -1) == (2, "bad_request")
    assert refused("open", 2, chat("up/x"), -1) == (2, "bad_request")
    assert refused("open", 2, {"messages": []}) == (2, "bad_request")
    assert refused("open", 2, 5) == (2, "bad_request")
    assert refused("credit", [[1, 10**12]])[1] == "bad_credit"
    assert refused("credit", [[1, -1]])[1] == "bad_credit"
    assert refused("cancel", b"no such stream")[1] == "unknown_stream"
    peer.send("credit", [[99, 5]])  # a handle that is gone: may have crossed its end
    peer.send("detach", 99)
    peer.send("cancel", stream)
    while (frame := peer.answer())[1][-1][2][-1][0] != "error":
        assert frame[0] == "tokens"


def test_limits_of_clients_and_streams(running: Daemon) -> None:
    peers = [Peer(running) for _ in range(70)]
    answers = [one.ask("hello", 1) for one in peers]
    refused = [answer for answer in answers if answer[0] == "error"]
    assert refused
    assert {answer[2] for answer in refused} == {"too_many_clients"}
    first = peers[0]
    streams = [first.ask("open", n, chat("up/numbered;delay_s=60")) for n in range(2)]
    assert [answer[0] for answer in streams] == ["opened", "opened"]
    name, handle, code, message, *_ = first.ask("open", 9, chat("up/x"))
    assert (name, handle, code) == ("error", 9, "too_many_streams")
    assert "limits.max_streams" in message
    for answer in streams:
        first.send("cancel", answer[2])
    ended = 0
    while ended < 2:
        ended += len(first.answer()[1])
    for one in peers:
        one.socket.close()


def documented() -> Iterator[str]:
    """The frames of the module's head, one after the other."""
    told = protocol.__doc__ or ""
    told = told[told.index('["hello"') :].replace("->", "").replace("<-", "")
    told = told.replace("<16 bytes>", repr(b"x" * 16)).replace(", ...", "").replace("...", "")
    depth = start = 0
    for at, character in enumerate(told):
        start = at if character == "[" and not depth else start
        depth += (character == "[") - (character == "]")
        if character == "]" and not depth:
            yield told[start : at + 1]


def test_the_documented_frames_are_the_frames() -> None:
    """The conversation in the module's head decodes, field by field."""
    frames = [ast.literal_eval(text) for text in documented()]
    sent = [protocol.decode_client(msgspec.msgpack.encode(frame)) for frame in frames[::2][:2]]
    assert sent[0] == protocol.Hello(1, "my-editor", 4711)
    assert isinstance(sent[1], protocol.Open)
    credit = protocol.decode_client(msgspec.msgpack.encode(frames[5]))
    assert credit == protocol.Credit([(7, 2)])
    answers = [frames[n] for n in (1, 3, 4, 6)]
    told = [protocol.decode_daemon(msgspec.msgpack.encode(frame)) for frame in answers]
    assert [type(frame) for frame in told] == [
        protocol.Welcome,
        protocol.Opened,
        protocol.Tokens,
        protocol.Tokens,
    ]
    assert told[2] == protocol.Tokens([(7, 0, [Text("Hi"), Text("!")])])


@pytest.mark.parametrize("runs", [1, 15, 16, 70_000])
def test_a_frame_made_of_parts_is_that_frame(runs: int) -> None:
    run = msgspec.msgpack.encode((7, 3, [["text", "x"]]))
    frame = protocol.tokens_frame(runs, [run] * runs)
    decoded = msgspec.msgpack.decode(frame)
    assert decoded == ["tokens", [[7, 3, [["text", "x"]]]] * runs]
