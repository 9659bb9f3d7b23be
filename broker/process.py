"""The broker process: the clients' ROUTER socket, the providers' ROUTER socket, the out-rings.

One turn of its loop reads what the rings have, files it in the sessions, and sends each
client one message with everything that became due. Control frames never wait behind data:
data is bounded by credit, and frames are answered as they are read.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import uvloop
import zmq

from ringcast import child
from ringcast.broker import protocol
from ringcast.broker.credit import LOOK_S, BackpressureController, Budget
from ringcast.broker.gate import DOMAIN, Gate
from ringcast.broker.log import Log
from ringcast.broker.protocol import Refused
from ringcast.broker.rebuild import Rebuild
from ringcast.broker.session import Sessions
from ringcast.broker.stream import Again, Client, Stream, Subscription
from ringcast.config import Config
from ringcast.errors import Code, RequestError
from ringcast.providers import commands
from ringcast.providers.request import refuse
from ringcast.shm import counters, segment
from ringcast.shm.records import Cursor, decode_checkpoint
from ringcast.shm.ring import Reader
from ringcast.shm.tokens import Error
from ringcast.shm.wiring import Line, Wiring
from ringcast.sockets import Message, Socket, make

TICK_S: Final = 0.02  # bounds what a lost wake-up costs (layout, R9)
IDLE_TICK_S: Final = 0.25
SILENCE: Final = 3  # heartbeats that a client may miss
LATE_S: Final = 1.0  # a tick this late means that the whole process stood still
POLL: Final = 256
ATTEMPTS: Final = 3  # sendings of one request, each by another provider process
FIRST_WINDOW: Final = 32 << 10  # bytes: more than a client processes before it gives credit
RESUMES: Final = 5  # attempts to go on with one answer: 0, 0.5, 1.5, 3.5 and 7.5 s apart
RESUME_PAUSE_S: Final = 0.5
REBUILD_S: Final = 1.0  # how long a new broker waits for a process that may be dead as well
REBUILD_LOOK_S: Final = 0.002
MAX_MODEL: Final = 512  # characters; it travels in records and is shown in tables


class _Named(msgspec.Struct):
    """The one field of a request that the broker reads."""

    model: str


_decode_named = msgspec.msgpack.Decoder(_Named).decode


def run(wiring: Wiring, config: Config, run_dir: Path, ready: Connection) -> None:
    """Be the broker until SIGTERM or the supervisor's end."""
    child.enter("rc-broker")
    uvloop.run(_main(wiring, config, run_dir, ready))


async def _main(wiring: Wiring, config: Config, run_dir: Path, ready: Connection) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_reader(child.parent_fd(), os._exit, 0)
    process = Process(wiring, config, run_dir)
    ready.send("ready")
    ready.close()
    await stop.wait()
    process.close()


class Process:
    """Everything of the broker."""

    def __init__(self, wiring: Wiring, config: Config, run_dir: Path) -> None:
        """Attach to the out-rings and bind both sockets."""
        self._config = config
        self._loop = asyncio.get_running_loop()
        self._daemon = secrets.token_hex(8)
        self._started = time.monotonic()
        page = segment.attach(wiring.counters)
        self._page = page
        number = wiring.block("broker", 0)
        self._counters = counters.Block(page.memory, number, "broker", pid=os.getpid())
        self._lines: list[Line] = wiring.outs
        self._readers = [Reader(segment.attach(line.name).memory) for line in self._lines]
        logs = [Log(reader, worker) for worker, reader in enumerate(self._readers)]
        self._sessions = Sessions(logs)
        self._sessions.tokens = self._counters.get(self._counters.slot("tokens_in"))
        self._providers: dict[int, commands.Ready] = {}
        credit = config.credit
        self._budget = Budget(credit.budget_bytes, credit.window_min_bytes)
        self._leases: dict[int, asyncio.TimerHandle] = {}
        self._pauses: dict[int, asyncio.TimerHandle] = {}  # streams that go on in a while
        self._slot = self._counters.get(self._counters.slot("streams"))
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(1)
        self._gate = Gate(self._context)
        self._control = Socket(
            _bound(self._context, run_dir / "control.sock", sndhwm=0, rcvhwm=0), self._on_reports
        )
        self._clients: Socket | None = None
        self._rebuild: Rebuild | None = None
        self._tasks = [self._loop.create_task(self._tick())]
        if self._counters.starts > 1:
            self._rebuild = Rebuild(self._sessions, config.processes.providers, self._nameless)
            self._tasks.append(self._loop.create_task(self._take_over(run_dir)))
        else:
            self._let_in(run_dir)
        for number, (line, reader) in enumerate(zip(self._lines, self._readers, strict=True)):
            reader.release(reader.released)
            self._loop.add_reader(line.bell.fileno(), self._on_bell, number)
            self._loop.call_soon(self._drain, number)
            line.room.ring()  # a predecessor may have died before it did, or we are new to it

    def _let_in(self, run_dir: Path) -> None:
        """Bind the clients' socket: from now on anybody may ask for anything."""
        router = _bound(
            self._context,
            run_dir / "client.sock",
            maxmsgsize=self._config.limits.max_request_bytes,
            sndhwm=10_000,
        )
        self._clients = Socket(router, self._on_clients)

    # after a predecessor's death

    def _nameless(self, slot: int, worker: int) -> Stream:
        process = (slot - 1) % self._config.processes.providers
        return Stream(slot, b"", "", "", process, worker, self._open_window())

    def _open_window(self) -> BackpressureController:
        largest = self._config.credit.window_max_bytes
        return self._budget.open(largest, initial=FIRST_WINDOW, clock=self._loop.time)

    async def _take_over(self, run_dir: Path) -> None:
        """Put the index together again, then let the clients in."""
        rebuild, deadline = self._rebuild, self._loop.time() + REBUILD_S
        assert rebuild is not None
        asked: set[int] = set()
        while not rebuild.complete:
            for index in rebuild.silent - asked:
                if self._command(index, commands.Report()):  # else it has not reconnected yet
                    asked.add(index)
            await asyncio.sleep(REBUILD_LOOK_S if self._clients is None else TICK_S)
            if self._clients is None and self._loop.time() > deadline:
                self._rebuilt(rebuild, run_dir)
        if self._clients is None:
            self._rebuilt(rebuild, run_dir)

    def _rebuilt(self, rebuild: Rebuild, run_dir: Path) -> None:
        self._slot = max(self._slot, rebuild.last_slot)
        for stream in rebuild.nameless():
            self._command(stream.process, commands.Stop(stream.slot, True))
        for index in self._providers:
            self._reconcile(index)
        for stream in self._sessions.streams.values():
            if stream.slot not in self._leases:
                self._lease(stream)
        self._let_in(run_dir)

    # the out-rings

    def _on_bell(self, number: int) -> None:
        self._lines[number].bell.clear()
        self._drain(number)

    def _drain(self, number: int) -> None:
        """Read what a ring has, a turn's worth at a time, then sleep on its doorbell."""
        reader, sessions = self._readers[number], self._sessions
        reader.wake()
        batch = reader.poll(POLL)
        if batch:
            sessions.ingest(sessions.logs[number], batch)
            self._make_room(number)
            self._follow_up()
            self._flush()
        if len(batch) == POLL or not reader.sleep():
            self._loop.call_soon(self._drain, number)

    def _follow_up(self) -> None:
        """See to what the sessions noted: readers left behind, new limits, streams that ended."""
        behind, again = self._sessions.behind, self._sessions.again
        while behind:
            self._cut(behind.pop())
        if self._clients is None:  # our predecessor has seen to it, or `_reconcile` will
            again.clear()
        while again:
            self._go_on(again.pop())
        granted, ended = self._sessions.granted, self._sessions.ended
        if granted:
            limits: dict[int, list[tuple[int, int]]] = {}
            for stream in granted:
                limits.setdefault(stream.process, []).append((stream.slot, stream.window.told))
            granted.clear()
            for process, told in limits.items():
                self._command(process, commands.Grant(told))
        while ended:
            stream = ended.pop()
            self._command(stream.process, commands.Stop(stream.slot, stream.failed))
            if not stream.subscriptions and stream.slot not in self._leases:
                self._lease(stream)

    def _make_room(self, number: int) -> None:
        if self._sessions.make_room(self._sessions.logs[number]):
            self._lines[number].room.ring()

    def _cut(self, subscription: Subscription) -> None:
        stream, client, handle = subscription.stream, subscription.client, subscription.handle
        if client.subscriptions.get(handle) is not subscription:  # it has left meanwhile
            return
        self._flush_client(client)
        self._refuse(
            client.route,
            handle,
            Code.SLOW_CONSUMER,
            f"token {subscription.next} left the log before it was taken",
            resume_after=subscription.next - 1,
            first=stream.first,
        )
        self._unsubscribe(client, handle)

    def _flush(self) -> None:
        """Send every client what its outbox holds, one message each."""
        dirty = self._sessions.dirty
        while dirty:
            _, client = dirty.popitem()
            self._flush_client(client)

    def _flush_client(self, client: Client) -> None:
        if not client.runs:
            return
        add, slot = self._counters.add, self._counters.slot
        add(slot("messages_out"))
        add(slot("bytes_out"), client.size)
        self._send(client.route, client.frame())

    def _send(self, route: bytes, frame: bytes) -> None:
        assert self._clients is not None
        try:
            if not self._clients.send((route, frame)):
                self._lose(route)  # 10,000 messages behind, although credit bounds its data
        except zmq.ZMQError:  # EHOSTUNREACH: the connection is gone
            self._lose(route)

    # the clients

    def _on_clients(self, messages: list[Message]) -> None:
        for parts in messages:
            route = parts[0]
            if len(parts) != 2:
                self._bad(route, Code.BAD_MESSAGE, f"{len(parts) - 1} parts, expected 1")
                continue
            try:
                frame = protocol.decode_client(parts[1])
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
                self._bad(route, *_why_bad(parts[1], error))
                continue
            self._on_frame(route, frame)
        self._follow_up()
        self._flush()

    def _on_frame(self, route: bytes, frame: protocol.ClientFrame) -> None:
        client = self._sessions.clients.get(route)
        if isinstance(frame, protocol.Hello):
            self._hello(route, frame)
            return
        if client is None:
            self._bad(route, Code.HELLO_FIRST, "the first frame of a connection must be HELLO")
            return
        client.heard = self._loop.time()
        handle = getattr(frame, "handle", -1)
        try:
            self._dispatch(client, frame)
        except RequestError as error:
            self._counters.add(self._counters.slot("refused"))
            self._refuse(route, handle, error.code, error.message, **error.detail)

    def _dispatch(self, client: Client, frame: protocol.ClientFrame) -> None:
        match frame:
            case protocol.Credit(grants):
                for handle, processed in grants:
                    self._sessions.credit(client, handle, processed)
            case protocol.Open():
                self._open(client, frame)
            case protocol.Attach():
                self._attach(client, frame)
            case protocol.Cancel(stream):
                self._cancel(self._find(stream))
            case protocol.Detach(handle):
                self._unsubscribe(client, handle)
            case protocol.Ping(nonce):
                self._send(client.route, protocol.encode(protocol.Pong(nonce)))
            case protocol.Bye():
                self._lose(client.route)
            case protocol.Status(request):
                result = protocol.Result(request, self._status())
                self._send(client.route, protocol.encode(result))

    def _hello(self, route: bytes, frame: protocol.Hello) -> None:
        if frame.version != protocol.VERSION:
            text = f"version {frame.version} is not spoken here, {protocol.VERSION} is"
            self._bad(route, Code.UNSUPPORTED_VERSION, text)
            return
        clients, limit = self._sessions.clients, self._config.limits.max_clients
        if route not in clients and len(clients) >= limit:
            text = f"{limit} clients are connected (limits.max_clients)"
            self._bad(route, Code.TOO_MANY_CLIENTS, text)
            return
        self._lose(route)  # it has connected again: what was under way to it is gone
        clients[route] = Client(route, frame.name[:64], frame.pid)
        clients[route].heard = self._loop.time()
        welcome = protocol.Welcome(
            protocol.VERSION, _version(), self._daemon, self._config.timeouts.heartbeat_s
        )
        self._send(route, protocol.encode(welcome))

    def _open(self, client: Client, frame: protocol.Open) -> None:
        window = self._window(frame.window)
        if frame.stream and len(frame.stream) != protocol.ID_BYTES:
            raise refuse("stream", f"has {len(frame.stream)} bytes, not {protocol.ID_BYTES}")
        if (known := self._sessions.by_id.get(frame.stream)) is not None:
            self._read(client, frame.handle, known, -1, window)  # asked before, answer lost
            return
        if frame.handle in client.subscriptions:
            raise RequestError(Code.DUPLICATE_REQUEST, f"handle {frame.handle} is in use")
        live = sum(not stream.terminal for stream in self._sessions.streams.values())
        if live >= (limit := self._config.limits.max_streams):
            raise RequestError(
                Code.TOO_MANY_STREAMS, f"{limit} streams are live (limits.max_streams)"
            )
        process = self._slot % self._config.processes.providers
        provider, model = self._resolve(frame.request, process)
        self._slot += 1
        stream = Stream(
            self._slot,
            frame.stream or secrets.token_bytes(protocol.ID_BYTES),
            provider,
            model,
            process,
            self._slot % len(self._lines),
            self._open_window(),
        )
        start = commands.Start(
            stream.slot, stream.id, stream.worker, provider, model, frame.request,
            stream.window.told,
        )  # fmt: skip
        if not self._command(process, start):
            stream.window.close()
            raise RequestError(Code.INTERRUPTED, "the provider process is being restarted")
        stream.start = start
        self._sessions.add(stream)
        self._counters.add(self._counters.slot("streams"))
        self._reply_opened(client, frame.handle, stream)
        self._sessions.subscribe(client, frame.handle, stream, -1, window)

    def _window(self, asked: int) -> int:
        """Return the window of a reader, in bytes; 0 asks for the default."""
        if asked < 0:
            raise refuse("window", f"{asked} is negative")
        return asked or self._config.credit.client_window_bytes

    def _resolve(self, request: msgspec.Raw, process: int) -> tuple[str, str]:
        """Return provider and model of a request's `model`, or say what is wrong with it."""
        try:
            named = _decode_named(request).model
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise RequestError(Code.BAD_REQUEST, f"request: {error}") from None
        provider, slash, model = named.partition("/")
        known = self._config.providers
        if not slash or not model:
            raise refuse("model", f"{named[:80]!r} is not PROVIDER/model")
        if len(named) > MAX_MODEL:
            raise refuse("model", f"has {len(named)} characters, {MAX_MODEL} are allowed")
        if provider not in known:
            raise RequestError(
                Code.UNKNOWN_PROVIDER,
                f"no provider {provider[:40]!r}; known are {', '.join(sorted(known))}",
                known=sorted(known),
            )
        ready = self._providers.get(process)
        if ready is None:
            raise RequestError(Code.INTERRUPTED, "the provider process is not ready yet")
        if provider in ready.disabled:
            raise RequestError(
                Code.PROVIDER_DISABLED, f"provider {provider}: {ready.disabled[provider]}"
            )
        return provider, model

    def _reply_opened(self, client: Client, handle: int, stream: Stream) -> None:
        opened = protocol.Opened(handle, stream.id, stream.provider, stream.model)
        self._send(client.route, protocol.encode(opened))

    def _attach(self, client: Client, frame: protocol.Attach) -> None:
        stream = self._find(frame.stream)
        self._read(client, frame.handle, stream, frame.after, self._window(frame.window))

    def _read(self, client: Client, handle: int, stream: Stream, after: int, window: int) -> None:
        known = client.subscriptions.get(handle)
        if known is not None and known.stream is stream:  # asked twice: the later one counts
            self._sessions.unsubscribe(client, handle)
        self._sessions.subscribe(client, handle, stream, after, window)
        self._reply_opened(client, handle, stream)  # before its tokens, sent by `_flush`
        if (lease := self._leases.pop(stream.slot, None)) is not None:
            lease.cancel()

    def _find(self, stream_id: bytes) -> Stream:
        stream = self._sessions.by_id.get(stream_id)
        if stream is None:
            raise RequestError(Code.UNKNOWN_STREAM, "no such stream, or it left the log")
        return stream

    def _cancel(self, stream: Stream) -> None:
        stream.cancelled = True
        if stream.terminal:
            return
        if (pause := self._pauses.pop(stream.slot, None)) is not None:
            pause.cancel()
            self._abandon(stream, "cancelled")
        else:
            self._command(stream.process, commands.Stop(stream.slot, True))
        if stream.state and (cursor := decode_checkpoint(stream.state).cursor) is not None:
            self._command(stream.process, commands.Recall(stream.provider, stream.api, cursor))

    def _unsubscribe(self, client: Client, handle: int) -> None:
        stream = self._sessions.unsubscribe(client, handle)
        if stream is not None and stream.slot in self._sessions.streams:
            self._lease(stream)

    def _lease(self, stream: Stream) -> None:
        """Nobody reads a stream any more: keep it for a while, then end it."""
        self._leases[stream.slot] = self._loop.call_later(
            self._config.credit.lease_s, self._lease_over, stream
        )

    def _lease_over(self, stream: Stream) -> None:
        self._leases.pop(stream.slot, None)
        self._cancel(stream)
        self._sessions.abandon(stream)

    def _lose(self, route: bytes) -> None:
        """A client is gone: its streams go on until their leases end."""
        client = self._sessions.clients.pop(route, None)
        self._sessions.dirty.pop(route, None)
        if client is not None:
            for handle in list(client.subscriptions):
                self._unsubscribe(client, handle)

    def _bad(self, route: bytes, code: str, message: str) -> None:
        self._counters.add(self._counters.slot("bad_messages"))
        self._refuse(route, -1, code, message)

    def _refuse(self, route: bytes, handle: int, code: str, message: str, **detail: Any) -> None:
        self._send(route, protocol.encode(Refused(handle, code, message, detail)))

    def _status(self) -> dict[str, Any]:
        """What `ringcast status` and `ringcast ps` show of streams and counters."""
        streams = [
            {
                "id": stream.id.hex(),
                "provider": stream.provider,
                "model": stream.model,
                "state": stream.phase,
                "seq": stream.end - 1,
                "readers": len(stream.subscriptions),
            }
            for stream in self._sessions.streams.values()
        ]
        return {
            "daemon": self._daemon,
            "version": _version(),
            "uptime_s": round(time.monotonic() - self._started, 3),
            "clients": len(self._sessions.clients),
            "streams": streams,
            "providers": {
                name: next(
                    (r.disabled[name] for r in self._providers.values() if name in r.disabled),
                    "ready",
                )
                for name in self._config.providers
            },
            "counters": counters.read(self._page.memory),
        }

    # the provider processes

    def _command(self, process: int, command: commands.Command) -> bool:
        try:
            return self._control.send((b"p%d" % process, commands.encode(command)))
        except zmq.ZMQError:  # EHOSTUNREACH: it is being restarted, and will say so
            return False

    def _on_reports(self, messages: list[Message]) -> None:
        for parts in messages:
            match commands.decode_report(parts[-1]):
                case commands.Ready(index, epoch, live=live) as report:
                    before = self._providers.get(index)
                    self._providers[index] = report
                    if before is None and self._rebuild is not None:
                        self._rebuild.report(index, live, time.monotonic_ns())
                    if self._clients and (before is None or before.epoch != epoch):
                        self._reconcile(index)
                    self._command(index, commands.Welcome())
                case commands.Takeover(index):
                    self._hand_over(parts[0], index)

    def _hand_over(self, route: bytes, index: int) -> None:
        """Tell a new worker where the streams are, after all that its predecessor said."""
        while self._readers[index].pending:
            self._drain(index)
        answer = commands.Adopt(self._sessions.of_worker(index))
        try:
            self._control.send((route, commands.encode(answer)))
        except zmq.ZMQError:  # EHOSTUNREACH: it has died as well, and another will ask
            return

    def _reconcile(self, index: int) -> None:
        """Compare what a provider process has under way with what it should have.

        What died with its predecessor is ended by the new one, through the in-ring, behind
        all that was received: so the worker says what the stream still had, or that it can go
        on. An end too many is ignored.
        """
        live = {one.slot for one in self._providers[index].live}
        streams = self._sessions.streams.values()
        ours = [stream for stream in streams if stream.process == index]
        left = [(s.slot, s.worker) for s in ours if not s.terminal and s.slot not in live]
        if left:
            self._command(index, commands.Abandon(left))
        for stream in ours:
            if stream.terminal and stream.slot in live:
                self._command(index, commands.Stop(stream.slot, True))

    def _abandon(self, stream: Stream, how: Literal["for good", "cancelled"]) -> None:
        left = [(stream.slot, stream.worker)]
        self._command(stream.process, commands.Abandon(left, how))

    def _go_on(self, again: Again) -> None:
        """A stream has lost its connection: go on with another, or say why not."""
        stream = again.stream
        if again.cursor is not None:
            self._resume(stream, again.cursor, again.raw)
        elif again.lost:
            text = "the worker and the broker died at once, and with them what was decoded"
            self._sessions.fail(stream, Error(Code.WORKER_LOST, text, retryable=True))
        elif stream.cancelled:
            self._sessions.fail(stream, Error(Code.CANCELLED, "cancelled by the client"))
        else:
            self._ask_again(stream)

    def _ask_again(self, stream: Stream) -> None:
        """Send a request once more whose first sending made no visible token."""
        if stream.start is not None and stream.attempts < ATTEMPTS:
            stream.attempts += 1
            stream.again_ns = time.monotonic_ns()  # ends written before this are answered by it
            stream.window.close()
            stream.window = self._open_window()
            stream.start = msgspec.structs.replace(stream.start, limit=stream.window.told)
            if self._command(stream.process, stream.start):
                return
        text = "the provider process died, and the connection with it"
        self._sessions.fail(stream, Error(Code.INTERRUPTED, text, retryable=True))

    def _resume(self, stream: Stream, cursor: Cursor, raw: int) -> None:
        """Ask the provider for the rest of an answer that it keeps.

        At once, then in pauses that double; given up after `RESUMES` without a new token.
        """
        if stream.end > stream.resumed_at:
            stream.attempts, stream.resumed_at = 1, stream.end
        if stream.cancelled or stream.attempts > RESUMES:
            self._abandon(stream, "cancelled" if stream.cancelled else "for good")
            return
        pause_s = RESUME_PAUSE_S * ((1 << stream.attempts - 1) - 1)
        stream.attempts += 1
        self._pauses[stream.slot] = self._loop.call_later(
            pause_s, self._resume_now, stream, cursor, raw
        )

    def _resume_now(self, stream: Stream, cursor: Cursor, raw: int) -> None:
        del self._pauses[stream.slot]
        stream.again_ns = time.monotonic_ns()
        command = commands.Resume(
            stream.slot, stream.id, stream.worker, stream.provider, stream.model, stream.api,
            cursor, raw, stream.window.told,
        )  # fmt: skip
        self._command(stream.process, command)  # a process that is gone will report, and so ask

    # housekeeping

    async def _tick(self) -> None:
        slots = {name: self._counters.slot(name) for name in counters.NAMES["broker"]}
        before = looked = self._loop.time()
        while True:
            busy = any(not stream.terminal for stream in self._sessions.streams.values())
            await asyncio.sleep(TICK_S if busy else IDLE_TICK_S)
            now = self._loop.time()
            for number, reader in enumerate(self._readers):
                if reader.pending:
                    self._drain(number)
            if now - before > LATE_S:  # we were stopped ourselves, so nobody could be heard
                for client in self._sessions.clients.values():
                    client.heard += now - before
            before = now
            silence = now - self._config.timeouts.heartbeat_s * SILENCE
            for client in list(self._sessions.clients.values()):
                if client.heard < silence:
                    self._lose(client.route)
            if now - looked >= LOOK_S:
                looked = now
                self._look_at_windows(now)
            self._follow_up()
            self._counters.beat(time.monotonic_ns())
            self._counters.set(slots["clients"], len(self._sessions.clients))
            self._counters.set(slots["tokens_in"], self._sessions.tokens)
            moved = sum(log.moved for log in self._sessions.logs)
            self._counters.set(slots["log_moved"], moved)

    def _look_at_windows(self, now: float) -> None:
        """Let the windows of quiet streams adapt, and end those whose readers take nothing."""
        limit_s = self._config.credit.stall_s
        for stream in self._sessions.streams.values():
            if stream.terminal:
                continue
            if stream.window.processed(stream.window.released):
                self._sessions.granted.append(stream)
            if stream.stalled(now) > limit_s > 0:
                text = f"nobody took a token for {limit_s:g} s (credit.stall_s)"
                command = commands.Fail(stream.slot, Code.BACKPRESSURE_TIMEOUT, text)
                self._command(stream.process, command)

    def close(self) -> None:
        """End every live stream with `shutting_down` and close the sockets."""
        for stream in list(self._sessions.streams.values()):
            error = Error(Code.SHUTTING_DOWN, "the daemon is shutting down", retryable=True)
            self._sessions.fail(stream, error)
        self._flush()
        for task in self._tasks:
            task.cancel()
        for socket in (self._clients, self._control, self._gate):
            if socket is not None:
                socket.close()
        self._context.term()


def _bound(
    context: zmq.Context[zmq.Socket[bytes]], path: Path, **options: object
) -> zmq.Socket[bytes]:
    """Return a ROUTER bound to a socket that only we may open; the run directory is locked."""
    path.unlink(missing_ok=True)
    router = make(context, zmq.ROUTER, router_mandatory=1, zap_domain=DOMAIN, **options)
    mask = os.umask(0o177)
    try:
        router.bind(f"ipc://{path}")
    finally:
        os.umask(mask)
    return router


def _why_bad(data: bytes, error: Exception) -> tuple[str, str]:
    """Tell a frame of an unknown type from a broken one."""
    known = {type_.__struct_config__.tag for type_ in protocol.ClientFrame.__args__}
    try:
        tag = protocol.tag_of(data)[0]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError, IndexError):
        return Code.BAD_MESSAGE, "the frame is not a msgpack array with a name"
    if isinstance(tag, str) and tag not in known:
        return Code.UNKNOWN_TYPE, f"no frame is called {tag[:40]!r}"
    return Code.BAD_MESSAGE, str(error)[:200]


def _version() -> str:
    from ringcast import __version__

    return __version__
