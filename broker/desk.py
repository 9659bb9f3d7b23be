"""The clients' side of the broker: takes their frames, and sees to what each of them asks."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any, Final

import msgspec

from ringcast.broker import protocol
from ringcast.broker.addressee import question
from ringcast.broker.count_queue import CountQueue
from ringcast.broker.dispatch import Dispatch
from ringcast.broker.gate import Rate
from ringcast.broker.inquiries import Inquiries
from ringcast.broker.openings import Held, Openings
from ringcast.broker.readers import Readers
from ringcast.broker.replies import Replies
from ringcast.broker.session import Sessions
from ringcast.broker.stream import Client
from ringcast.config import Config
from ringcast.errors import Code, RequestError
from ringcast.providers import commands
from ringcast.shm.counters import Block
from ringcast.sockets import Message, Socket
from ringcast.workers import ranks

SILENCE: Final = 3  # heartbeats that a client may miss
BAD_ANSWERS: Final = 10  # a second and peer


class Desk:
    """Everything between clients and sessions."""

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
        self._replies = Replies(sessions, counters, self.lose)
        counts = CountQueue(count, ranks.are_installed)
        self.inquiries = Inquiries(dispatch.send, config.processes.providers, counts)
        self.openings = Openings(sessions, dispatch, config, counters)
        self.readers = Readers(sessions, dispatch, config, self._replies, loop)

    # the socket

    @property
    def is_open(self) -> bool:
        """Whether clients are let in."""
        return self._replies.socket is not None

    def open(self, socket: Socket) -> None:
        """Let clients in: `socket` passes on to `on_messages`."""
        self._replies.socket = socket

    def close(self) -> None:
        """Close the socket."""
        if self._replies.socket is not None:
            self._replies.socket.close()

    def on_messages(self, messages: list[Message]) -> None:
        """Take one turn's frames, and send what follows from them."""
        now = self._loop.time()
        for head, body in messages:
            if self._is_heard(head[0], now):
                self._take(head, body)
        self._follow_up()

    def flush(self) -> None:
        """Send every client the tokens that are due."""
        self._replies.flush()

    # frames

    def _is_heard(self, route: bytes, now: float) -> bool:
        """Count a peer's message. Who says too much is lost, and unheard until the next second."""
        most = self._config.limits.max_messages_per_s
        count = self._messages.count(route, now)
        if count == most + 1:
            self._cut_off(route, most)
        return count <= most

    def _take(self, head: list[bytes], body: bytes | memoryview) -> None:
        route = head[0]
        if len(head) != 1:
            self._bad(route, Code.BAD_MESSAGE, f"{len(head)} parts, expected 1")
            return
        try:
            frame = protocol.decode_client(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
            self._bad(route, *protocol.why_bad(body, error))
            return
        self._on_frame(route, frame)

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
            refused = protocol.Refused(handle, error.code, error.message, error.detail, number)
            self._replies.send(route, refused)

    def _serve(self, client: Client, frame: protocol.ClientFrame) -> None:
        match frame:
            case protocol.Credit(grants):
                for handle, processed in grants:
                    self._sessions.credit(client, handle, processed)
            case protocol.Open():
                self._open(client, frame, client.heard)
            case protocol.Attach():
                stream, window = self.readers.find(frame.stream), self.readers.window(frame.window)
                self.readers.read(client, frame.handle, stream, frame.after, window)
            case protocol.Cancel(stream_id):
                if not self._let_go(lambda held: held.frame.stream == stream_id != b""):
                    self._dispatch.cancel(self.readers.find(stream_id))
            case protocol.Detach(handle):
                self._let_go(lambda held: held.client is client and held.frame.handle == handle)
                self.readers.unsubscribe(client, handle)
            case protocol.Ping(nonce):
                self._replies.send(client.route, protocol.Pong(nonce))
            case protocol.Bye():
                self.lose(client.route)
            case protocol.Models() | protocol.Count() | protocol.Health() | protocol.Capabilities():
                asked = question(frame, self._config)
                self.inquiries.ask(client.route, frame.request, asked, client.heard)
            case protocol.Status(request):
                result = protocol.Result(request, self._status(self._daemon))
                self._replies.send(client.route, result)

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
        self._replies.send(route, welcome)

    def _bad(self, route: bytes, code: str, message: str) -> None:
        self._counters.add(self._counters.slot("bad_messages"))
        if self._bad_answers.count(route, self._loop.time()) <= BAD_ANSWERS:
            self._replies.refuse(route, -1, code, message)

    def _cut_off(self, route: bytes, most: int) -> None:
        text = f"over {most} messages a second (limits.max_messages_per_s); you are not heard now"
        self._counters.add(self._counters.slot("refused"))
        self._replies.refuse(route, -1, Code.FLOOD, text, limit=most)
        self.lose(route)

    def on_answer(self, answer: commands.Answer) -> None:
        """A provider process has answered a question, or the counting process."""
        told = self.inquiries.answered(answer, self._loop.time())
        if told is not None and self.is_open:
            self._replies.send(*told)

    # requests

    def _open(self, client: Client, frame: protocol.Open, since: float) -> None:
        """Start a stream, or hold the request (since when) until a provider process is there."""
        window = self.readers.window(frame.window)
        stream = self.openings.known(frame)  # asked before, and the answer was lost
        if stream is None:
            stream = self.openings.open(client, frame, since)
        if stream is not None:
            self.readers.read(client, frame.handle, stream, -1, window, waits=frame.waits)

    def _let_go(self, unwanted: Callable[[Held], bool]) -> bool:
        """Forget held requests that nobody wants any more; return whether there were any."""
        gone = self.openings.let_go(unwanted)
        text = "cancelled before a provider process was there"
        for held in gone:
            self._replies.refuse(held.client.route, held.frame.handle, Code.CANCELLED, text)
        return bool(gone)

    def look_at_held(self) -> None:
        """Try again to open what was held, and refuse what has waited long enough."""
        for held in self.openings.take_held():
            route, handle = held.client.route, held.frame.handle
            try:
                held.check(self._loop.time())
                self._open(held.client, held.frame, held.since)
            except RequestError as error:
                self._replies.refuse(route, handle, error.code, error.message, **error.detail)

    # clients that leave

    def lose(self, route: bytes) -> None:
        """A client is gone: its streams go on until their leases end."""
        client = self._sessions.clients.pop(route, None)
        self._sessions.dirty.pop(route, None)
        self.inquiries.forget(route)
        if client is not None:
            for handle in list(client.subscriptions):
                self.readers.unsubscribe(client, handle)

    def look_at_silent(self, now: float, late_s: float) -> None:
        """Lose clients that have not been heard; not for `late_s` in which nobody could be."""
        silence = now - self._config.timeouts.heartbeat_s * SILENCE
        for client in list(self._sessions.clients.values()):
            client.heard += late_s
            if client.heard < silence:
                self.lose(client.route)
