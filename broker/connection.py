"""A client's connection to the daemon: the socket, HELLO and WELCOME, heartbeats, answers."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any, Final

import zmq

from ringcast import rundir
from ringcast.broker import protocol
from ringcast.broker.exchange import Exchange
from ringcast.broker.inbox import Inbox
from ringcast.errors import Code, ConnectionLost, NotRunning
from ringcast.sockets import Message, Socket, make

BEAT_S: Final = 0.05
ANSWER_S: Final = 10.0
PATIENCE_S: Final = 15.0  # of unanswered heartbeats make a connection lost
_HELLO: Final = 0  # by which number WELCOME is waited for


class Connection:
    """One connection; what goes over it is the `exchange`. `daemon` is who has answered last."""

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop) -> None:
        """`name` is shown in the daemon's status."""
        self.daemon = ""
        self.exchange = Exchange(self._transmit, self._answered)
        self._name = name
        self._loop = loop
        self._answers: dict[int, asyncio.Future[Any]] = {}  # by handle, or number of a question
        self._connected = False  # the transport, at least once
        self._greeting = False  # a HELLO is under way
        self._heartbeat_s = ANSWER_S
        self._beats = 0  # since the last heartbeat
        self._unanswered = 0  # pings since the daemon last said anything

    async def open(self, run_dir: Path) -> None:
        """Connect to the daemon in `run_dir`. Raises `NotRunning` if it does not answer."""
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(1)
        dealer = make(
            self._context,
            zmq.DEALER,
            routing_id=b"c" + os.urandom(15),
            reconnect_ivl=20,
            sndhwm=0,  # what the caller asks for is never dropped
        )
        monitor = dealer.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        self._monitor = Socket(monitor, self.on_connected)
        dealer.connect(f"ipc://{run_dir / rundir.CLIENT_SOCKET}")
        self.start(Socket(dealer, self.on_messages))
        try:
            await self._answer(_HELLO, ANSWER_S)
        except BaseException as error:
            self.close()
            if isinstance(error, ConnectionLost):
                raise NotRunning(f"the daemon in {run_dir} does not answer") from None
            raise

    def start(self, socket: Socket) -> None:
        """Say HELLO through `socket`, and keep alive."""
        self._socket = socket
        self._beat = self._loop.create_task(self._keep_alive())
        self._hello()

    def close(self) -> None:
        """Disconnect. Streams go on until their leases end."""
        self.exchange.flush()
        if not self.exchange.lost:
            self.exchange.say(protocol.Bye())  # or it would take the daemon a while to notice
        self._beat.cancel()
        self._monitor.close()
        self._socket.close()
        self._context.term()

    # answers

    async def ask(
        self, question: protocol.Question | protocol.Status, patience_s: float = ANSWER_S
    ) -> dict[str, Any]:
        """Return the answer to a question. Raises `RequestError` and `ConnectionLost`."""
        self.exchange.ask(question)
        try:
            answer: dict[str, Any] = await self._answer(question.request, patience_s)
        finally:
            self.exchange.withdraw(question.request)
        return answer

    async def subscribe(self, inbox: Inbox, request: protocol.Open | protocol.Attach) -> None:
        """Have a stream read into `inbox`. Raises `RequestError` and `ConnectionLost`."""
        self.exchange.request(inbox, request)
        try:
            await self._answer(inbox.handle, ANSWER_S)
        except Exception:
            self.exchange.drop(inbox)
            raise

    async def _answer(self, number: int, patience_s: float) -> Any:
        answer = self._answers[number] = self._loop.create_future()
        try:
            return await asyncio.wait_for(answer, patience_s)
        except TimeoutError:
            raise ConnectionLost("the daemon does not answer") from None
        finally:
            del self._answers[number]

    def _answered(self, number: int, answer: object) -> None:
        waiting = self._answers.get(number)
        if waiting is None or waiting.done():
            return
        if isinstance(answer, Exception):
            waiting.set_exception(answer)
        else:
            waiting.set_result(answer)

    # the socket

    def _transmit(self, frame: protocol.Frame) -> None:
        self._socket.send([protocol.encode(frame)])

    def on_connected(self, messages: list[Message]) -> None:
        """The transport has connected; from the second time on another broker may be there."""
        if self._connected:
            self._hello()
        self._connected = True

    def on_messages(self, messages: list[Message]) -> None:
        """Take what the daemon says."""
        self._unanswered = 0
        heard = self.exchange.heard
        for _, body in messages:
            frame = protocol.decode_daemon(body)
            if heard(frame):
                continue
            if isinstance(frame, protocol.Welcome):
                self._welcomed(frame)
            elif isinstance(frame, protocol.Refused):
                self._refused(frame)

    def _hello(self) -> None:
        self._greeting = True
        self.exchange.say(protocol.Hello(protocol.VERSION, self._name, os.getpid()))

    def _welcomed(self, frame: protocol.Welcome) -> None:
        again, self.daemon = bool(self.daemon), frame.daemon
        self._greeting = False
        self._heartbeat_s = frame.heartbeat_s
        if again:
            self.exchange.repeat()
        else:
            self._answered(_HELLO, None)

    def _refused(self, frame: protocol.Refused) -> None:
        if frame.code != Code.HELLO_FIRST:
            self._answered(_HELLO, frame.error)
        elif not self._greeting:
            self._hello()

    # time

    async def _keep_alive(self) -> None:
        """Give waiting credit each beat, and ping each heartbeat."""
        while not self.exchange.lost:
            await asyncio.sleep(BEAT_S)
            self.exchange.beat()
            self._beats += 1
            if self._beats * BEAT_S >= self._heartbeat_s:  # which WELCOME tells
                self._beats = 0
                self._ping()

    def _ping(self) -> None:
        # Counted and not timed: a client that was itself stopped has missed nothing.
        if self._unanswered * self._heartbeat_s >= PATIENCE_S:
            self.exchange.lose()
        else:
            self._unanswered += 1
            self.exchange.say(protocol.Ping())
