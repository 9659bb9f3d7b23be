"""The clients' side of the broker: takes their frames, answers them, sends what is due."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec
import zmq

from ringcast.broker import protocol
from ringcast.broker.count_queue import CountQueue
from ringcast.broker.dispatch import Dispatch
from ringcast.broker.gate import Rate
from ringcast.broker.inquiries import Inquiries
from ringcast.broker.protocol import Refused
from ringcast.broker.session import Sessions
from ringcast.broker.stream import Client, Stream, Subscription
from ringcast.config import ROUTE, Config
from ringcast.errors import Code, RequestError
from ringcast.providers import commands
from ringcast.providers.request import refuse
from ringcast.shm.counters import Block
from ringcast.sockets import Message, Socket
from ringcast.workers import ranks

SILENCE: Final = 3  # heartbeats that a client may miss
HOLD_S: Final = 5.0  # how long a request waits for a provider process
MAX_MODEL: Final = 512  # characters; it travels in records and is shown in tables
BAD_ANSWERS: Final = 10  # a second and peer


class _Named(msgspec.Struct):
    """The one field of a request that the broker reads."""

    model: str


_decode_named = msgspec.msgpack.Decoder(_Named).decode


class Desk:
    """Everything between clients and sessions. `socket` is null until clients are let in."""

    def __init__(
        self,
        sessions: Sessions,
        dispatch: Dispatch,
        config: Config,
        counters: Block,
        follow_up: Callable[[], None],
        status: Callable[[str], dict[str, Any]],
        loop: asyncio.AbstractEventLoop,
        count: Callable[[commands.Ask], bool],
    ) -> None:
        """`follow_up` sees to what the sessions noted; `status` answers for this daemon id.

        `count` gives the counting process a question, or has one started and returns False.
        """
        self._sessions = sessions
        self._dispatch = dispatch
        self._config = config
        self._counters = counters
        self._follow_up = follow_up
        self._status = status
        self._loop = loop
        self._daemon = secrets.token_hex(8)
        self._messages, self._bad_answers = Rate(), Rate()
        counts = CountQueue(count, ranks.are_installed)
        self._inquiries = Inquiries(dispatch.send, config.processes.providers, counts)
        self._held: list[tuple[Client, protocol.Open, float]] = []  # since when
        self.leases: dict[int, asyncio.TimerHandle] = {}
        self.last_slot = counters.get(counters.slot("streams"))
        self.socket: Socket | None = None

    def on_messages(self, messages: list[Message]) -> None:
        """Take one turn's frames, and send what follows from them."""
        now, limits = self._loop.time(), self._config.limits
        for head, body in messages:
            route = head[0]
            if (count := self._messages.count(route, now)) > (most := limits.max_messages_per_s):
                if count == most + 1:
                    self._cut_off(route)
                continue
            if len(head) != 1:
                self._bad(route, Code.BAD_MESSAGE, f"{len(head)} parts, expected 1")
                continue
            try:
                frame = protocol.decode_client(body)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
                self._bad(route, *protocol.why_bad(body, error))
                continue
            self._on_frame(route, frame)
        self._follow_up()
        self.flush()

    def _on_frame(self, route: bytes, frame: protocol.ClientFrame) -> None:
        client = self._sessions.clients.get(route)
        if isinstance(frame, protocol.Hello):
            self._hello(route, frame)
            return
        if client is None:
            self._bad(route, Code.HELLO_FIRST, "the first frame of a connection must be HELLO")
            return
        client.heard = self._loop.time()
        try:
            self._serve(client, frame)
        except RequestError as error:
            self._counters.add(self._counters.slot("refused"))
            handle = getattr(frame, "handle", -1)
            number = frame.request if isinstance(frame, protocol.Question) else -1
            refused = Refused(handle, error.code, error.message, error.detail, number)
            self._send(route, protocol.encode(refused))

    def _serve(self, client: Client, frame: protocol.ClientFrame) -> None:
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
                    self._dispatch.cancel(self._find(stream))
            case protocol.Detach(handle):
                self._let_go(lambda whose, held: whose is client and held.handle == handle)
                self._unsubscribe(client, handle)
            case protocol.Ping(nonce):
                self._send(client.route, protocol.encode(protocol.Pong(nonce)))
            case protocol.Bye():
                self.lose(client.route)
            case protocol.Models() | protocol.Count() | protocol.Health() | protocol.Capabilities():
                question = self._question(frame)
                self._inquiries.ask(client.route, frame.request, question, client.heard)
            case protocol.Status(request):
                result = protocol.Result(request, self._status(self._daemon))
                self._send(client.route, protocol.encode(result))

    def _question(self, frame: protocol.Question) -> commands.Ask:
        """Return what a provider process is asked; its number is still to be given."""
        if isinstance(frame, protocol.Count):
            provider, model = self._resolve(frame.asked)
            return commands.Ask(0, "count", provider, model, frame.asked)
        if isinstance(frame, protocol.Capabilities):
            if frame.provider in self._config.routes and not frame.model:
                return commands.Ask(0, "capabilities", ROUTE, frame.provider)
            self._check_known(frame.provider)
            return commands.Ask(0, "capabilities", frame.provider, frame.model[:MAX_MODEL])
        if frame.provider:
            self._check_known(frame.provider)
        what: Literal["models", "health"]
        what = "models" if isinstance(frame, protocol.Models) else "health"
        return commands.Ask(0, what, frame.provider)

    def on_answer(self, answer: commands.Answer) -> None:
        """A provider process has answered a question, or the counting process."""
        told = self._inquiries.answered(answer, self._loop.time())
        if told is not None and self.socket is not None:
            self._send(told[0], protocol.encode(told[1]))

    def ask_again(self, process: int) -> None:
        """A provider process is new: what its predecessor was asked is asked again."""
        self._inquiries.repeat(process)

    def recount(self) -> None:
        """The counting process is new."""
        self._inquiries.recount(self._loop.time())

    def look_at_counts(self, now: float) -> None:
        """Answer otherwise what the counting process does not count."""
        self._inquiries.look(now)

    def _cut_off(self, route: bytes) -> None:
        """Lose a peer that says too much; it is not heard for the rest of the second."""
        most = self._config.limits.max_messages_per_s
        text = f"over {most} messages a second (limits.max_messages_per_s); you are not heard now"
        self._counters.add(self._counters.slot("refused"))
        self._refuse(route, -1, Code.FLOOD, text, limit=most)
        self.lose(route)

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
        self.lose(route)  # it has connected again: what was under way to it is gone
        clients[route] = Client(route, frame.name[:64], frame.pid)
        clients[route].heard = self._loop.time()
        welcome = protocol.Welcome(
            protocol.VERSION, protocol.server(), self._daemon, self._config.timeouts.heartbeat_s
        )
        self._send(route, protocol.encode(welcome))

    def _open(self, client: Client, frame: protocol.Open, since: float) -> None:
        """Start a stream, or hold the request (since when) until a provider process is there."""
        window = self._window(frame.window)
        if frame.stream and len(frame.stream) != protocol.ID_BYTES:
            raise refuse("stream", f"has {len(frame.stream)} bytes, not {protocol.ID_BYTES}")
        if (known := self._sessions.by_id.get(frame.stream)) is not None:
            # asked before, and the answer was lost
            self._read(client, frame.handle, known, -1, window, waits=frame.waits)
            return
        if frame.handle in client.subscriptions:
            raise RequestError(Code.DUPLICATE_REQUEST, f"handle {frame.handle} is in use")
        live = sum(not stream.terminal for stream in self._sessions.streams.values())
        if live >= (limit := self._config.limits.max_streams):
            raise RequestError(
                Code.TOO_MANY_STREAMS, f"{limit} streams are live (limits.max_streams)"
            )
        provider, model = self._resolve(frame.request)
        process = self.last_slot % self._config.processes.providers
        ready = self._dispatch.ready.get(process)
        if ready is None:
            self._held.append((client, frame, since))  # it starts, or is being replaced
            return
        if provider in ready.disabled:
            raise RequestError(
                Code.PROVIDER_DISABLED, f"provider {provider}: {ready.disabled[provider]}"
            )
        self.last_slot += 1
        stream = Stream(
            self.last_slot,
            frame.stream or secrets.token_bytes(protocol.ID_BYTES),
            provider,
            model,
            process,
            self.last_slot % len(self._sessions.logs),
            self._dispatch.window(),
        )
        start = commands.Start(
            stream.slot, stream.id, stream.worker, provider, model, frame.request,
            stream.window.told, client.route,
        )  # fmt: skip
        if not self._dispatch.send(process, start):
            stream.window.close()
            self.last_slot -= 1
            self._held.append((client, frame, since))  # it starts, or is being replaced
            return
        stream.start = start
        self._sessions.add(stream)
        self._counters.add(self._counters.slot("streams"))
        self._read(client, frame.handle, stream, -1, window, waits=frame.waits)

    def _let_go(self, unwanted: Callable[[Client, protocol.Open], bool]) -> bool:
        """Forget held requests that nobody wants any more; return whether there were any."""
        gone = [one for one in self._held if unwanted(one[0], one[1])]
        self._held = [one for one in self._held if one not in gone]
        for client, frame, _ in gone:
            text = "cancelled before a provider process was there"
            self._refuse(client.route, frame.handle, Code.CANCELLED, text)
        return bool(gone)

    def look_at_held(self) -> None:
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
        most = self._config.limits.max_window_bytes
        return min(asked, most) or self._config.credit.client_window_bytes

    def _resolve(self, request: msgspec.Raw) -> tuple[str, str]:
        """Return provider and model of a request's `model`, or say what is wrong with it."""
        size, limit = memoryview(request).nbytes, self._config.limits.max_request_bytes
        if size > limit:
            text = f"has {size} bytes, {limit} are allowed (limits.max_request_bytes)"
            raise refuse("request", text)
        try:
            named = _decode_named(request).model
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise RequestError(Code.BAD_REQUEST, f"request: {error}") from None
        if len(named) > MAX_MODEL:
            raise refuse("model", f"has {len(named)} characters, {MAX_MODEL} are allowed")
        if named in self._config.routes:
            return ROUTE, named
        provider, slash, model = named.partition("/")
        if not slash or not model:
            routes = ", ".join(sorted(self._config.routes)) or "none"
            text = f"{named[:80]!r} is neither PROVIDER/model nor a route (there are: {routes})"
            raise refuse("model", text)
        self._check_known(provider)
        return provider, model

    def _check_known(self, provider: str) -> None:
        known = sorted(self._config.providers)
        if provider not in known:
            text = f"no provider {provider[:40]!r}; known are {', '.join(known)}"
            raise RequestError(Code.UNKNOWN_PROVIDER, text, known=known)

    def _reply_opened(self, client: Client, handle: int, stream: Stream) -> None:
        opened = protocol.Opened(handle, stream.id, stream.provider, stream.model)
        self._send(client.route, protocol.encode(opened))

    def _attach(self, client: Client, frame: protocol.Attach) -> None:
        stream = self._find(frame.stream)
        self._read(client, frame.handle, stream, frame.after, self._window(frame.window))

    def waiting(self, slot: int, reason: str, seconds: float) -> None:
        """A request waits, or goes now: tell whoever wants to know."""
        stream = self._sessions.streams.get(slot)
        if stream is None or self.socket is None:
            return
        stream.waiting = (reason, self._loop.time() + seconds) if seconds else ("", 0.0)
        for one in stream.subscriptions:
            if one.waits:
                frame = protocol.Waiting(one.handle, reason, seconds)
                self._send(one.client.route, protocol.encode(frame))

    def _read(
        self,
        client: Client,
        handle: int,
        stream: Stream,
        after: int,
        window: int,
        *,
        waits: bool = False,
    ) -> None:
        known = client.subscriptions.get(handle)
        if known is not None and known.stream is stream:  # asked twice on one connection
            self._reply_opened(client, handle, stream)
            return
        readers, most = client.subscriptions.values(), self._config.limits.max_streams
        if len(readers) >= most:
            text = f"{most} readers are on this connection (limits.max_streams)"
            raise RequestError(Code.TOO_MANY_STREAMS, text, limit=most)
        limit = self._config.limits.max_window_bytes
        if (under_way := sum(one.outstanding for one in readers)) > limit:
            text = f"{under_way} bytes are under way to you, {limit} are allowed: take some first"
            raise RequestError(Code.SLOW_CONSUMER, f"{text} (limits.max_window_bytes)", limit=limit)
        self._sessions.subscribe(client, handle, stream, after, window).waits = waits
        if (lease := self.leases.pop(stream.slot, None)) is not None:
            lease.cancel()
        self._reply_opened(client, handle, stream)  # before its tokens, sent by `_flush`
        if waits and stream.waiting[0]:
            reason, until = stream.waiting
            left = protocol.Waiting(handle, reason, max(0.0, until - self._loop.time()))
            self._send(client.route, protocol.encode(left))

    def _find(self, stream_id: bytes) -> Stream:
        stream = self._sessions.by_id.get(stream_id)
        if stream is None:
            raise RequestError(Code.UNKNOWN_STREAM, "no such stream, or it left the log")
        return stream

    def _unsubscribe(self, client: Client, handle: int) -> None:
        stream = self._sessions.unsubscribe(client, handle)
        if stream is not None and stream.slot in self._sessions.streams:
            self.lease(stream)

    def lease(self, stream: Stream) -> None:
        """Nobody reads a stream any more: keep it for a while, then end it."""
        self.leases[stream.slot] = self._loop.call_later(
            self._config.credit.lease_s, self._lease_over, stream
        )

    def _lease_over(self, stream: Stream) -> None:
        self.leases.pop(stream.slot, None)
        self._dispatch.cancel(stream)
        self._sessions.abandon(stream)

    def lose(self, route: bytes) -> None:
        """A client is gone: its streams go on until their leases end."""
        client = self._sessions.clients.pop(route, None)
        self._sessions.dirty.pop(route, None)
        self._inquiries.forget(route)
        if client is not None:
            for handle in list(client.subscriptions):
                self._unsubscribe(client, handle)

    def _bad(self, route: bytes, code: str, message: str) -> None:
        self._counters.add(self._counters.slot("bad_messages"))
        if self._bad_answers.count(route, self._loop.time()) <= BAD_ANSWERS:
            self._refuse(route, -1, code, message)

    def _refuse(self, route: bytes, handle: int, code: str, message: str, **detail: Any) -> None:
        self._send(route, protocol.encode(Refused(handle, code, message, detail)))

    def look_at_silent(self, now: float, late_s: float) -> None:
        """Lose clients that have not been heard; not for `late_s` in which nobody could be."""
        silence = now - self._config.timeouts.heartbeat_s * SILENCE
        for client in list(self._sessions.clients.values()):
            client.heard += late_s
            if client.heard < silence:
                self.lose(client.route)

    def cut(self, subscription: Subscription) -> None:
        """Take a reader off that was left behind, and say where it can attach again."""
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

    def flush(self) -> None:
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
        assert self.socket is not None
        try:
            if not self.socket.send((route, frame)):
                self.lose(route)  # 10,000 messages behind, although credit bounds its data
        except zmq.ZMQError:  # EHOSTUNREACH: the connection is gone
            self.lose(route)
