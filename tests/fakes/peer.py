"""A client as any language has one: a DEALER socket, msgpack, none of our code."""

from __future__ import annotations

from typing import Any

import msgspec
import zmq

from fakes.daemon import Daemon

ANSWER_MS = 20_000


class Peer:
    """A client of few lines."""

    def __init__(self, running: Daemon, routing_id: bytes = b"", *, rcvhwm: int = 1000) -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self.socket = context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.rcvhwm = rcvhwm
        if routing_id:
            self.socket.routing_id = routing_id
        self.socket.connect(f"ipc://{running.directory}/client.sock")

    def send(self, *frame: Any) -> None:
        self.socket.send(msgspec.msgpack.encode(frame))

    def answer(self) -> list[Any]:
        """The next frame."""
        assert self.socket.poll(ANSWER_MS), "no answer"
        frame: list[Any] = msgspec.msgpack.decode(self.socket.recv())
        return frame

    def ask(self, *frame: Any) -> list[Any]:
        """Send, and return the answer."""
        self.send(*frame)
        return self.answer()

    def hello(self) -> Peer:
        """Be let in."""
        assert self.ask("hello", 1, "a-peer", 1)[0] == "welcome"
        return self

    def tokens(self, handle: int) -> list[list[Any]]:
        """All tokens of a stream, with credit for each batch."""
        tokens: list[list[Any]] = []
        while not tokens or tokens[-1][0] not in ("done", "error"):
            name, runs = self.answer()
            assert name == "tokens"
            for run_handle, first, run in runs:
                assert (run_handle, first) == (handle, len(tokens))
                tokens += run
            self.send("credit", [[handle, len(tokens)]])
        return tokens

    def refusal(self, *frame: Any) -> tuple[int, str, str]:
        """Send what is to be refused; handle, code and text of the refusal."""
        self.send(*frame)
        while (answer := self.answer())[0] != "error":
            assert answer[0] == "tokens", answer
        _, handle, code, text, *_ = answer
        assert text.isprintable()
        assert len(text) <= 500
        return handle, code, text

    def close(self) -> None:
        """Say goodbye, so that nobody waits for our heartbeats, and hang up."""
        self.send("bye")
        self.socket.close(1000)


def chat(model: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "hi"}]}
