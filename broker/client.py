"""The asyncio client. Needs pyzmq and msgspec, and nothing of the daemon's own weight.

async with ringcast.connect() as rc:
    stream = await rc.chat(model="openai/gpt-4o", messages=[{"role": "user", "content": "hi"}])
    async for token in stream:
        ...
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec
import zmq

from ringcast import rundir
from ringcast.broker import protocol
from ringcast.errors import Code, ConnectionLost, NotRunning, RequestError
from ringcast.shm.answer import Answer, joined
from ringcast.shm.tokens import Done, Error, StreamToken, Waiting
from ringcast.sockets import Message, Socket, make

# Tokens processed before credit is given at once; what is less waits for the next beat, so
# that a thousand slow streams cost a few frames a second and not one a token.
PROMPT_TOKENS: Final = 64
BEAT_S: Final = 0.05
ANSWER_S: Final = 10.0
PROVIDER_S: Final = 60.0  # what asks a provider: the daemon gives up before, and says why
PATIENCE_S: Final = 15.0  # of unanswered heartbeats make a connection lost


def connect(run_dir: Path | str | None = None, *, name: str = "") -> Client:
    """Return a client of the daemon in `run_dir` (this user's by default), to be entered."""
    return Client(Path(run_dir) if run_dir else rundir.default(), name=name)


class ClientStream:
    """A stream of tokens: iterate over it. `seq` is the number of the last token taken.

    The iteration ends after the terminal token, `Done` or `Error`. It raises `RequestError`
    when this reader was cut off (slow_consumer) and `ConnectionLost` when the daemon is gone.
    """

    def __init__(self, client: Client, handle: int, after: int, window: int) -> None:
        """Made by `Client.chat`, `complete` and `attach`."""
        self.id = b""
        self.provider = ""
        self.model = ""
        self.seq = after
        self._client = client
        self._handle = handle
        self._window = window
        self._next = after + 1  # the number expected from the daemon
        self._batches: list[list[StreamToken]] = []
        self._batch: list[StreamToken] = []
        self._waits: list[StreamToken] = []  # they have no number, and are not for the log
        self._index = 0
        self._granted = after + 1
        self._ended = False
        self._failure: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._opened: asyncio.Future[None] = client._loop.create_future()
        self._request: protocol.Open | protocol.Attach | None = None  # until it is answered
        self._repeated = False  # asked again, over another connection
        self._cancelled = False

    def __aiter__(self) -> Self:
        """Iterate over tokens."""
        return self

    async def __anext__(self) -> StreamToken:
        """Return the next token, waiting for it."""
        while True:
            index = self._index
            if index < len(self._batch):
                self._index = index + 1
                self.seq += 1
                return self._batch[index]
            if self._waits:
                return self._waits.pop(0)
            if not await self._refill():
                raise StopAsyncIteration

    async def batches(self) -> AsyncIterator[list[StreamToken]]:
        """Iterate over tokens as they came, a list at a time (cheaper than one by one)."""
        while True:
            batch = self._batch[self._index :]
            if batch:
                self._index = len(self._batch)
                self.seq += len(batch)
                yield batch
            if self._waits:
                waits, self._waits = self._waits, []
                yield waits
            if not await self._refill():
                return

    async def _refill(self) -> bool:
        """Take the next batch; return False after the last one."""
        self._give_credit()
        while not self._batches:
            if self._waits:
                return True
            if self._ended:
                return False
            if self._failure is not None:
                raise self._failure
            self._waiter = self._client._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if len(self._batches) == 1:
            self._batch = self._batches.pop()
        else:
            self._batch = [token for batch in self._batches for token in batch]
            self._batches.clear()
        self._index = 0
        return True

    def _give_credit(self) -> None:
        processed = self.seq + 1
        if processed > self._granted:
            prompt = processed - self._granted >= PROMPT_TOKENS or self._ended
            self._client._credit(self._handle, processed, prompt)
            if prompt:
                self._granted = processed

    async def answer(self) -> Answer:
        """Read to the end, and return all tokens from here on as one answer."""
        tokens = [token async for batch in self.batches() for token in batch]
        return joined(tokens, f"{self.provider}/{self.model}")

    async def cancel(self) -> None:
        """End the stream for everybody; its last token will be `Error(cancelled)`."""
        self._cancelled = True
        self._client._send(protocol.Cancel(self.id))

    async def detach(self) -> None:
        """Stop reading; the stream goes on until its lease ends, and can be attached again."""
        self._client._drop(self._handle)
        self._client._send(protocol.Detach(self._handle))
        self._ended = True
        self._wake()

    # the client's side

    def _wait(self, reason: str, seconds: float) -> None:
        self._waits.append(Waiting(reason, seconds))
        self._wake()

    def _feed(self, first: int, tokens: list[StreamToken]) -> None:
        """Take a run from the daemon, dropping what came before (a resume sends whole runs)."""
        if first > self._next:
            text = f"token {self._next} is missing, {first} came"
            self._fail(RequestError(Code.OFFSET_GONE, text, resume_after=self._next - 1))
            return
        fresh = tokens[self._next - first :] if first < self._next else tokens
        if not fresh:
            return
        self._next += len(fresh)
        self._batches.append(fresh)
        if isinstance(fresh[-1], Done | Error):
            self._ended = True
        self._wake()

    def _fail(self, error: Exception) -> None:
        if not self._ended:
            self._failure = error
        if not self._opened.done():
            self._opened.set_exception(error)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Client:
    """One connection to a daemon, for any number of streams. Enter it before use."""

    def __init__(self, run_dir: Path, *, name: str = "") -> None:
        """`run_dir` is the daemon's; `name` is shown in its status."""
        self.run_dir = run_dir
        self.name = name or Path(sys.argv[0]).name
        self.daemon = ""
        self._streams: dict[int, ClientStream] = {}
        self._answers: dict[int, tuple[protocol.Frame, asyncio.Future[Any]]] = {}
        self._number = 0
        self._credits: dict[int, int] = {}
        self._unanswered = 0  # pings since the daemon last said anything
        self._lost = False
        self._connections = 0
        self._greeting = False  # a HELLO is under way
        self._heartbeat_s = ANSWER_S

    async def __aenter__(self) -> Self:
        """Connect. Raises `NotRunning` if no daemon serves the directory."""
        rundir.running(self.run_dir)
        self._loop = asyncio.get_running_loop()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(1)
        dealer = make(
            self._context,
            zmq.DEALER,
            routing_id=b"c" + os.urandom(15),
            reconnect_ivl=20,
            sndhwm=0,  # what the caller asks for is never dropped
        )
        monitor = dealer.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        self._monitor = Socket(monitor, self._on_connections)
        dealer.connect(f"ipc://{self.run_dir / rundir.CLIENT_SOCKET}")
        self._socket = Socket(dealer, self._on_messages)
        self._welcome: asyncio.Future[None] = self._loop.create_future()
        self._beat = self._loop.create_task(self._keep_alive())
        self._hello()
        try:
            await asyncio.wait_for(self._welcome, ANSWER_S)
        except TimeoutError:
            await self.__aexit__(None, None, None)
            raise NotRunning(f"the daemon in {self.run_dir} does not answer") from None
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Disconnect. Streams go on until their leases end."""
        self._flush_credits()
        if not self._lost:
            self._send(protocol.Bye())  # or it would take the daemon a while to notice
        self._beat.cancel()
        self._monitor.close()
        self._socket.close()
        self._context.term()

    async def chat(
        self,
        model: str,
        messages: list[dict[str, Any]],
        *,
        window: int = 0,
        waiting: bool = False,
        **options: Any,
    ) -> ClientStream:
        """Start a chat with `model`: "PROVIDER/model", or the name of a route.

        `options` are the request's other fields (max_tokens, temperature, tools, extra, …). With
        `waiting`, the stream has `Waiting` tokens too. Raises `RequestError` if the daemon refuses.
        """
        return await self._open({"model": model, "messages": messages, **options}, window, waiting)

    async def complete(
        self, model: str, prompt: str, *, window: int = 0, waiting: bool = False, **options: Any
    ) -> ClientStream:
        """Have a text continued, by the first API of the provider that takes a prompt."""
        return await self._open({"model": model, "prompt": prompt, **options}, window, waiting)

    async def attach(
        self, stream: bytes | str, *, after: int = -1, window: int = 0
    ) -> ClientStream:
        """Read a stream from the token after number `after`, whoever opened it.

        Raises `RequestError`: unknown_stream, offset_gone, bad_offset.
        """
        stream_id = bytes.fromhex(stream) if isinstance(stream, str) else stream
        reader = self._new(after, window)
        return await self._ready(reader, protocol.Attach(reader._handle, stream_id, after, window))

    async def cancel(self, stream: bytes | str) -> None:
        """End a stream for everybody."""
        stream_id = bytes.fromhex(stream) if isinstance(stream, str) else stream
        self._send(protocol.Cancel(stream_id))

    async def models(self, provider: str = "") -> dict[str, Any]:
        """Return what a provider lists, or all of them; see `protocol.Models`.

        Raises `RequestError` with the provider's reason if that one does not tell.
        """
        return await self._ask(protocol.Models(self._next_number(), provider), PROVIDER_S)

    async def count(
        self,
        model: str,
        messages: list[dict[str, Any]] | None = None,
        *,
        prompt: str | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Return how many tokens a request has: {"tokens", "accuracy"}.

        Raises `RequestError` if it is none, or with the provider's reason.
        """
        asked = {"model": model, "messages": messages, "prompt": prompt, **options}
        raw = msgspec.Raw(protocol.encode(asked))
        return await self._ask(protocol.Count(self._next_number(), raw), PROVIDER_S)

    async def health(self, provider: str = "") -> dict[str, Any]:
        """Return whether a provider is well, or each of them; see `protocol.Health`."""
        return await self._ask(protocol.Health(self._next_number(), provider), PROVIDER_S)

    async def capabilities(self, model: str) -> dict[str, Any]:
        """Return what a provider can be asked for, by its name or for one "PROVIDER/model"."""
        provider, _, name = model.partition("/")
        question = protocol.Capabilities(self._next_number(), provider, name)
        return await self._ask(question, ANSWER_S)

    async def status(self) -> dict[str, Any]:
        """Return what the daemon does: clients, streams, counters of every process."""
        return await self._ask(protocol.Status(self._next_number()), ANSWER_S)

    async def _ask(
        self, question: protocol.Question | protocol.Status, patience_s: float
    ) -> dict[str, Any]:
        answer: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._answers[question.request] = question, answer
        self._send(question)
        try:
            return await asyncio.wait_for(answer, patience_s)
        except TimeoutError:
            raise ConnectionLost("the daemon does not answer") from None
        finally:
            self._answers.pop(question.request, None)

    def _next_number(self) -> int:
        self._number += 1
        return self._number

    async def _open(self, request: dict[str, Any], window: int, waits: bool) -> ClientStream:
        reader = self._new(-1, window)
        raw = msgspec.Raw(protocol.encode(request))
        stream = os.urandom(protocol.ID_BYTES)
        return await self._ready(reader, protocol.Open(reader._handle, raw, window, stream, waits))

    def _new(self, after: int, window: int) -> ClientStream:
        handle = self._next_number()
        reader = self._streams[handle] = ClientStream(self, handle, after, window)
        return reader

    async def _ready(
        self, reader: ClientStream, request: protocol.Open | protocol.Attach
    ) -> ClientStream:
        reader._request = request
        self._send(request)
        try:
            await asyncio.wait_for(asyncio.shield(reader._opened), ANSWER_S)
        except TimeoutError:
            self._drop(reader._handle)
            raise ConnectionLost("the daemon does not answer") from None
        except RequestError:
            self._drop(reader._handle)
            raise
        return reader

    def _hello(self) -> None:
        self._greeting = True
        self._send(protocol.Hello(protocol.VERSION, self.name, os.getpid()))

    def _send(self, frame: protocol.Frame) -> None:
        if self._lost:
            raise ConnectionLost("the daemon is gone")
        self._socket.send([protocol.encode(frame)])

    def _credit(self, handle: int, processed: int, prompt: bool) -> None:
        self._credits[handle] = processed
        if prompt:
            self._flush_credits()

    def _flush_credits(self) -> None:
        if self._credits and not self._lost:
            self._socket.send([protocol.encode(protocol.Credit(list(self._credits.items())))])
            self._credits = {}

    def _drop(self, handle: int) -> None:
        self._streams.pop(handle, None)
        self._credits.pop(handle, None)

    def _on_connections(self, messages: list[Message]) -> None:
        """The transport has connected; from the second time on another broker may be there."""
        if self._connections:
            self._hello()
        self._connections += len(messages)

    def _on_messages(self, messages: list[Message]) -> None:
        self._unanswered = 0
        for _, frame in messages:
            self._on_frame(protocol.decode_daemon(frame))

    def _on_frame(self, frame: protocol.DaemonFrame) -> None:
        match frame:
            case protocol.Tokens(runs):
                for handle, first, tokens in runs:
                    if (reader := self._streams.get(handle)) is not None:
                        reader._feed(first, tokens)
            case protocol.Waiting(handle, reason, seconds):
                if (reader := self._streams.get(handle)) is not None:
                    reader._wait(reason, seconds)
            case protocol.Opened(handle, stream, provider, model):
                if (reader := self._streams.get(handle)) is not None:
                    reader.id, reader.provider, reader.model = stream, provider, model
                    reader._request = None
                    if not reader._opened.done():
                        reader._opened.set_result(None)
            case protocol.Result(request, data):
                _, answer = self._answers.get(request, (None, None))
                if answer is not None and not answer.done():
                    answer.set_result(data)
            case protocol.Refused():
                self._refused(frame)
            case protocol.Welcome():
                self._welcomed(frame)
            case protocol.Pong():
                pass

    def _refused(self, frame: protocol.Refused) -> None:
        error = RequestError(frame.code, frame.message, **frame.detail)
        reader = self._streams.get(frame.handle)
        _, answer = self._answers.get(frame.request, (None, None))
        if answer is not None:
            if not answer.done():
                answer.set_exception(error)
        elif reader is not None:
            if frame.code == Code.UNKNOWN_STREAM and reader.id:  # lost with an earlier daemon
                text = "the daemon was restarted and the stream is gone"
                reader._feed(reader._next, [Error(Code.INTERRUPTED, text, retryable=True)])
            else:
                reader._fail(error)
                if reader._repeated and isinstance(reader._request, protocol.Open):
                    # The first asking may have been heard: nobody will read what it began.
                    self._send(protocol.Detach(frame.handle))
                    self._send(protocol.Cancel(reader._request.stream))
            self._drop(frame.handle)
        elif frame.code == Code.HELLO_FIRST:
            if not self._greeting:
                self._hello()
        elif not self._welcome.done():
            self._welcome.set_exception(error)

    def _welcomed(self, frame: protocol.Welcome) -> None:
        self._greeting = False
        self._heartbeat_s = frame.heartbeat_s
        self.daemon = frame.daemon
        if not self._welcome.done():
            self._welcome.set_result(None)
        else:
            self._rejoin()

    def _rejoin(self) -> None:
        """The broker was replaced, or had given us up: read every stream on where we are.

        What may have been lost on the way is said again; all of it may be said twice.
        """
        for handle, reader in list(self._streams.items()):
            if reader._request is not None:
                reader._repeated = True
                self._send(reader._request)
            elif not reader._ended:
                self._send(protocol.Attach(handle, reader.id, reader._next - 1, reader._window))
                if reader._cancelled:
                    self._send(protocol.Cancel(reader.id))
        for question, answer in list(self._answers.values()):
            if not answer.done():
                self._send(question)

    async def _keep_alive(self) -> None:
        """Give waiting credit each beat, and ping each heartbeat."""
        beats = 0
        while not self._lost:
            await asyncio.sleep(BEAT_S)
            for handle, reader in list(self._streams.items()):
                if reader._ended and not reader._batches:
                    # Whoever has the terminal token may never ask for what follows it.
                    self._streams.pop(handle)
                    self._credits[handle] = reader._next
            self._flush_credits()
            beats += 1
            if beats * BEAT_S < self._heartbeat_s:  # which WELCOME tells
                continue
            beats = 0
            # Counted and not timed: a client that was itself stopped has missed nothing.
            if self._unanswered * self._heartbeat_s >= PATIENCE_S:
                self._lost = True
                for reader in list(self._streams.values()):
                    reader._fail(ConnectionLost("the daemon stopped answering"))
            else:
                self._unanswered += 1
                self._send(protocol.Ping())
