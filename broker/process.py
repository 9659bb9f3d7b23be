"""The broker process: the clients' ROUTER socket, the providers' ROUTER socket, the out-rings.

One turn of its loop reads what the rings have, files it in the sessions, and sends each
client one message with everything that became due. Control frames never wait behind data:
data is bounded by credit, and frames are answered as they are read.
"""

from __future__ import annotations

import asyncio
import os
import resource
import secrets
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import uvloop
import zmq

from ringcast import child
from ringcast.broker import protocol
from ringcast.broker.credit import LOOK_S, BackpressureController, Budget
from ringcast.broker.gate import DOMAIN, Door, Gate, Rate
from ringcast.broker.log import Log
from ringcast.broker.protocol import Refused
from ringcast.broker.rebuild import Rebuild
from ringcast.broker.session import RING_CORRUPT, Sessions
from ringcast.broker.spill import Spill, capacity_for
from ringcast.broker.stream import Again, Client, Stream, Subscription
from ringcast.config import Config
from ringcast.errors import Code, Fenced, RequestError, RingCorrupt
from ringcast.providers import commands
from ringcast.providers.request import refuse
from ringcast.shm import counters, segment
from ringcast.shm.ledger import Ledger
from ringcast.shm.records import Cursor, decode_checkpoint
from ringcast.shm.reserve import Reserve
from ringcast.shm.ring import Reader, hand_over
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
HOLD_S: Final = 5.0  # how long a request waits for a provider process
MAX_MODEL: Final = 512  # characters; it travels in records and is shown in tables
# What one peer may do a second. A client that takes 835,000 tokens/s in batches of 64 says
# CREDIT 13,000 times; over twice that nobody is served any more, but the others are.
MESSAGES: Final = 30_000
BAD_ANSWERS: Final = 10
FLOOD: Final = "flood"
BACKLOG: Final = 64  # connections that wait when the door is shut, and are let in all the same
MAX_WINDOW: Final = 16 << 20  # bytes: of one reader, and under way to a client that asks for more
# A request over its limit is still read, up to so many times as much, to say so.
READ_FACTOR: Final = 4


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
        self._segments = [segment.attach(line.name) for line in self._lines]
        self._readers = [Reader(one.memory) for one in self._segments]
        self._condemned: set[int] = set()  # out-rings that are not read any more
        spill_bytes = capacity_for(config.credit.budget_bytes)
        parent = os.getppid()
        self._spill = Spill(
            Reserve(
                wiring.spill,
                spill_bytes,
                "credit.budget_bytes",
                pid=parent,
                start_time=child.start_time(parent),
            )
        )
        keep = self._spill.keep
        logs = [Log(reader, worker, keep) for worker, reader in enumerate(self._readers)]
        self._ledger = segment.attach(wiring.ledger)
        self._sessions = Sessions(logs, Ledger(self._ledger.memory))
        self._sessions.tokens = self._counters.get(self._counters.slot("tokens_in"))
        self._providers: dict[int, commands.Ready] = {}
        credit = config.credit
        self._budget = Budget(credit.budget_bytes, credit.window_min_bytes)
        self._leases: dict[int, asyncio.TimerHandle] = {}
        self._held: list[tuple[Client, protocol.Open, float]] = []  # since when
        self._pauses: dict[int, asyncio.TimerHandle] = {}  # streams that go on in a while
        self._slot = self._counters.get(self._counters.slot("streams"))
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(1)
        self._gate = Gate(self._context)
        control = _router(self._context, sndhwm=0, rcvhwm=0)
        _bind(control, run_dir / "control.sock")
        self._control = Socket(control, self._on_reports)
        self._clients: Socket | None = None
        self._door: Door | None = None
        self._messages, self._bad_answers = Rate(MESSAGES), Rate(BAD_ANSWERS)
        self._rebuild: Rebuild | None = None
        self._asked: set[int] = set()  # provider processes that were asked to report
        self._tasks = [self._loop.create_task(self._tick())]
        if self._counters.starts > 1:
            self._rebuild = Rebuild(self._sessions, config.processes.providers, self._nameless)
            self._rebuild.spilled(self._spill, len(self._lines))
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
        router = _router(
            self._context,
            maxmsgsize=READ_FACTOR * self._config.limits.max_request_bytes,
            sndhwm=10_000,
            backlog=BACKLOG,
        )
        path = run_dir / "client.sock"
        self._door = Door(router, path, _free_descriptors() // 2)
        _bind(router, path)
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
        while not rebuild.complete:
            for index in rebuild.silent - self._asked:
                if self._command(index, commands.Report(self._counters.starts)):
                    self._asked.add(index)  # else it has not reconnected yet
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
        live = {one.slot for ready in self._providers.values() for one in ready.live}
        again = self._sessions.again  # of all others our predecessor knew, or `_reconcile` asks
        again[:] = [one for one in again if one.lost or one.stream.slot in live]
        for stream in self._sessions.streams.values():
            if stream.slot not in self._leases and not stream.settled:
                self._lease(stream)
        self._let_in(run_dir)

    # the out-rings

    def _on_bell(self, number: int) -> None:
        self._lines[number].bell.clear()
        self._drain(number)

    def _drain(self, number: int) -> None:
        """Read what a ring has, a turn's worth at a time, then sleep on its doorbell."""
        if number in self._condemned:
            return
        reader, sessions = self._readers[number], self._sessions
        reader.wake()
        try:
            batch = reader.poll(POLL)
            if batch:
                sessions.ingest(sessions.logs[number], batch)
                self._make_room(number)
        except (RingCorrupt, Fenced, msgspec.DecodeError, UnicodeDecodeError) as error:
            self._condemn(number, str(error))
            return
        if batch:
            self._follow_up()
            self._flush()
        if len(batch) == POLL or not reader.sleep():
            self._loop.call_soon(self._drain, number)

    def _condemn(self, number: int, why: str) -> None:
        """Believe nothing more that an out-ring says, and have its worker replaced.

        The worker finds itself fenced when it next publishes; the supervisor makes another
        ring, and the worker's successor asks us where its streams are: see `_hand_over`.
        """
        self._condemned.add(number)
        print(f"ringcast: out-ring of worker {number}: {why}", file=sys.stderr)
        self._readers[number].corrupt(why)
        hand_over(self._segments[number].memory, producer=True)
        text = "shared memory was written over, and what came from it cannot be believed"
        self._sessions.condemn(number, Error(RING_CORRUPT, text, retryable=True))
        self._follow_up()
        self._flush()

    def _look_again(self, number: int) -> None:
        """Attach to an out-ring anew if another is in its place."""
        fresh = segment.attach(self._lines[number].name)
        if fresh.inode == self._segments[number].inode:
            fresh.close()
            return
        if number not in self._condemned:
            self._condemn(number, "another ring is in its place")
        self._segments[number], self._readers[number] = fresh, Reader(fresh.memory)
        self._sessions.renew(Log(self._readers[number], number, self._spill.keep))
        self._condemned.discard(number)
        self._loop.call_soon(self._drain, number)

    def _follow_up(self) -> None:
        """See to what the sessions noted: readers left behind, new limits, streams that ended."""
        behind, again = self._sessions.behind, self._sessions.again
        while behind:
            self._cut(behind.pop())
        while again and self._clients is not None:
            self._go_on(again.pop())
        while self._rebuild is not None and self._rebuild.orphans:
            orphan = self._rebuild.orphans.pop()
            self._command(orphan.process, commands.Abandon([(orphan.slot, orphan.worker)]))
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
        now = self._loop.time()
        for parts in messages:
            route = parts[0]
            if (count := self._messages.count(route, now)) > MESSAGES:
                if count == MESSAGES + 1:
                    self._cut_off(route)
                continue
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
                self._open(client, frame, client.heard)
            case protocol.Attach():
                self._attach(client, frame)
            case protocol.Cancel(stream):
                if not self._let_go(lambda _, held: held.stream == stream != b""):
                    self._cancel(self._find(stream))
            case protocol.Detach(handle):
                self._let_go(lambda whose, held: whose is client and held.handle == handle)
                self._unsubscribe(client, handle)
            case protocol.Ping(nonce):
                self._send(client.route, protocol.encode(protocol.Pong(nonce)))
            case protocol.Bye():
                self._lose(client.route)
            case protocol.Status(request):
                result = protocol.Result(request, self._status())
                self._send(client.route, protocol.encode(result))

    def _cut_off(self, route: bytes) -> None:
        """Lose a peer that says too much; it is not heard for the rest of the second."""
        text = f"over {MESSAGES} messages a second; what was open goes on for its lease"
        self._counters.add(self._counters.slot("refused"))
        self._refuse(route, -1, FLOOD, text, limit=MESSAGES)
        self._lose(route)

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

    def _open(self, client: Client, frame: protocol.Open, since: float) -> None:
        """Start a stream, or hold the request (since when) until a provider process is there."""
        window = self._window(frame.window)
        size, limit = memoryview(frame.request).nbytes, self._config.limits.max_request_bytes
        if size > limit:
            text = f"has {size} bytes, {limit} are allowed (limits.max_request_bytes)"
            raise refuse("request", text)
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
        provider, model = self._resolve(frame.request)
        process = self._slot % self._config.processes.providers
        ready = self._providers.get(process)
        if ready is None:
            self._held.append((client, frame, since))  # it starts, or is being replaced
            return
        if provider in ready.disabled:
            raise RequestError(
                Code.PROVIDER_DISABLED, f"provider {provider}: {ready.disabled[provider]}"
            )
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
            self._slot -= 1
            self._held.append((client, frame, since))  # it starts, or is being replaced
            return
        stream.start = start
        self._sessions.add(stream)
        self._counters.add(self._counters.slot("streams"))
        self._read(client, frame.handle, stream, -1, window)


    def _let_go(self, unwanted: Callable[[Client, protocol.Open], bool]) -> bool:
        """Forget held requests that nobody wants any more; return whether there were any."""
        gone = [one for one in self._held if unwanted(one[0], one[1])]
        self._held = [one for one in self._held if one not in gone]
        for client, frame, _ in gone:
            text = "cancelled before a provider process was there"
            self._refuse(client.route, frame.handle, Code.CANCELLED, text)
        return bool(gone)

    def _look_at_held(self) -> None:
        """Try again to open what was held, and refuse what has waited long enough."""
        held, self._held = self._held, []
        for client, frame, since in held:
            if self._sessions.clients.get(client.route) is not client:
                continue
            try:
                if self._loop.time() - since > HOLD_S:
                    text = f"no provider process was ready for {HOLD_S:g} s"
                    raise RequestError(Code.INTERRUPTED, text)
                self._open(client, frame, since)
            except RequestError as error:
                self._refuse(client.route, frame.handle, error.code, error.message, **error.detail)

    def _window(self, asked: int) -> int:
        """Return the window of a reader, in bytes; 0 asks for the default."""
        if asked < 0:
            raise refuse("window", f"{asked} is negative")
        return min(asked, MAX_WINDOW) or self._config.credit.client_window_bytes

    def _resolve(self, request: msgspec.Raw) -> tuple[str, str]:
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
        return provider, model

    def _reply_opened(self, client: Client, handle: int, stream: Stream) -> None:
        opened = protocol.Opened(handle, stream.id, stream.provider, stream.model)
        self._send(client.route, protocol.encode(opened))

    def _attach(self, client: Client, frame: protocol.Attach) -> None:
        stream = self._find(frame.stream)
        self._read(client, frame.handle, stream, frame.after, self._window(frame.window))

    def _read(self, client: Client, handle: int, stream: Stream, after: int, window: int) -> None:
        known = client.subscriptions.get(handle)
        if known is not None and known.stream is stream:  # asked twice on one connection
            self._reply_opened(client, handle, stream)
            return
        readers, most = client.subscriptions.values(), self._config.limits.max_streams
        if len(readers) >= most:
            text = f"{most} readers are on this connection (limits.max_streams)"
            raise RequestError(Code.TOO_MANY_STREAMS, text, limit=most)
        if (under_way := sum(one.outstanding for one in readers)) > MAX_WINDOW:
            text = f"{under_way} bytes are under way to you, the most is {MAX_WINDOW}: take some"
            raise RequestError(Code.SLOW_CONSUMER, text, limit=MAX_WINDOW)
        self._sessions.subscribe(client, handle, stream, after, window)
        if (lease := self._leases.pop(stream.slot, None)) is not None:
            lease.cancel()
        self._reply_opened(client, handle, stream)  # before its tokens, sent by `_flush`

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
        if self._bad_answers.count(route, self._loop.time()) <= BAD_ANSWERS:
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
            try:
                said = commands.decode_report(parts[-1])
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                self._counters.add(self._counters.slot("bad_messages"))
                continue
            match said:
                case commands.Ready() as report:
                    self._on_ready(report)
                case commands.Takeover(index):
                    self._hand_over(parts[0], index)

    def _on_ready(self, report: commands.Ready) -> None:
        index, before = report.index, self._providers.get(report.index)
        if self._rebuild is not None and index in self._rebuild.silent:
            if report.nonce != self._counters.starts:  # said to our predecessor, or at its start
                self._asked.discard(index)
                return
            self._rebuild.report(index, report.live, report.now_ns)
        self._providers[index] = report
        if self._clients and (before is None or before.epoch != report.epoch):
            self._reconcile(index)
        self._command(index, commands.Welcome())
        self._look_at_held()

    def _hand_over(self, route: bytes, index: int) -> None:
        """Tell a new worker where the streams are, after all that its predecessor said."""
        while index not in self._condemned and self._readers[index].pending:
            self._drain(index)
        self._look_again(index)
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
        elif stream.cancelled:
            self._sessions.fail(stream, Error(Code.CANCELLED, "cancelled by the client"))
        elif again.lost:
            text = "the worker and the broker died at once, and with them what was decoded"
            self._sessions.fail(stream, Error(Code.WORKER_LOST, text, retryable=True))
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
            self._command(stream.process, stream.start)  # one that is gone will report, and so ask
            return
        text = "the provider process died, and the connection with it"
        self._sessions.fail(stream, Error(Code.INTERRUPTED, text, retryable=True))

    def _resume(self, stream: Stream, cursor: Cursor, raw: int) -> None:
        """Ask the provider for the rest of an answer that it keeps.

        At once, then in pauses that double; given up after `RESUMES` without a new token.
        """
        if stream.slot in self._pauses:  # two processes that died have each written its end
            return
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
        if stream.terminal:  # an earlier process had written more than we knew
            return
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
                self._look_at_held()
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
        self._spill.rest(empty=not any(s.heaped for s in self._sessions.streams.values()))
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
        for socket in (self._door, self._clients, self._control, self._gate):
            if socket is not None:
                socket.close()
        self._context.term()


def _router(context: zmq.Context[zmq.Socket[bytes]], **options: object) -> zmq.Socket[bytes]:
    return make(context, zmq.ROUTER, router_mandatory=1, zap_domain=DOMAIN, **options)


def _bind(router: zmq.Socket[bytes], path: Path) -> None:
    """Bind to a socket that only we may open; the run directory is locked."""
    path.unlink(missing_ok=True)
    mask = os.umask(0o177)
    try:
        router.bind(f"ipc://{path}")
    finally:
        os.umask(mask)


def _free_descriptors() -> int:
    """How many more files this process may open."""
    probe = os.open(os.devnull, os.O_RDONLY)  # the lowest that is free
    os.close(probe)
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] - probe


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
