"""The whole daemon in one process, one small step at a time: no socket, no clock, no process.

A test decides who moves next: a provider reading a body, the worker, the broker, a client.
Each ring is a bytearray. Whatever the order, every token must arrive, once and in order.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import Any

import msgspec

from ringcast.broker import protocol
from ringcast.broker.credit import BackpressureController
from ringcast.broker.log import Log
from ringcast.broker.session import Sessions
from ringcast.broker.stream import Client, Stream, Subscription
from ringcast.providers.flow import Flow, Outlet
from ringcast.providers.upstream import CANCELLED
from ringcast.providers.wire.body import Ending
from ringcast.providers.wire.sse import SseFramer, WireError
from ringcast.shm import counters, layout, records
from ringcast.shm.ring import Reader, Writer, hand_over
from ringcast.shm.tokens import StreamToken
from ringcast.workers.stage import Stage


def ring(capacity: int) -> memoryview:
    """The memory of an empty ring."""
    memory = memoryview(bytearray(layout.size_of(capacity)))
    layout.initialise(memory, capacity)
    return memory


def worker_counters() -> counters.Block:
    """A block of counters that nobody looks at."""
    return counters.Block(memoryview(bytearray(counters.BLOCK_BYTES)), 0, "worker")


class Upstream:
    """A body on its way into a flow: chunks are taken only while the flow does not hold."""

    def __init__(self, flow: Flow, api: str, chunks: list[bytes], transforms: bytes = b"") -> None:
        self.flow = flow
        self._chunks = deque(chunks)
        identity = b"%016d" % flow.slot
        flow.open(records.Open(identity, api, "fake", "model", transforms=transforms), 0)

    def step(self) -> bool:
        """Read one chunk, or the end; return whether there was anything to do."""
        flow = self.flow
        if flow.ended or flow.held:
            return False
        if not self._chunks:
            flow.end(Ending(), 0)
            return True
        try:
            flow.data(self._chunks.popleft(), 0)
        except WireError as error:
            flow.end(Ending("failed", error.code, error.message), 0)
        return True


class Inbox:
    """A client's memory: the tokens of each handle, checked to be without gap or double."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.tokens: dict[int, list[StreamToken]] = {}
        self._start: dict[int, int] = {}

    def begin(self, handle: int, start: int) -> None:
        """Expect tokens from number `start` on."""
        self.tokens[handle] = []
        self._start[handle] = start

    def take(self, frame: bytes) -> None:
        """Decode a TOKENS frame as any client does."""
        decoded = protocol.decode_daemon(frame)
        assert isinstance(decoded, protocol.Tokens)
        for handle, first, tokens in decoded.runs:
            expected = self.next(handle)
            assert first <= expected, f"handle {handle}: {expected} is missing, {first} came"
            self.tokens[handle] += tokens[expected - first :]

    def next(self, handle: int) -> int:
        """The number of the token that comes next."""
        return self._start[handle] + len(self.tokens[handle])


class Killed(BaseException):
    """What SIGKILL is to a test in one process."""


class _End:
    """One end of a ring that dies at its `moment`th operation."""

    def __init__(self, end: Writer | Reader, moment: str) -> None:
        self._end = end
        self._moment = moment

    def __getattr__(self, name: str) -> Any:
        if name == self._moment:
            raise Killed
        return getattr(self._end, name)


def _doom(stage: Stage, moment: str) -> None:
    """Make a stage die in its next round."""
    if moment == "publish":
        stage._out = _End(stage._out, moment)  # type: ignore[assignment]
    else:
        stage._ins = [_End(end, moment) for end in stage._ins]  # type: ignore[misc]


class Pipeline:
    """One provider process, one worker, one broker."""

    def __init__(self, in_bytes: int = 1 << 16, out_bytes: int = 1 << 16) -> None:
        """Capacities of the two rings, in bytes."""
        self.in_memory, self.out_memory = ring(in_bytes), ring(out_bytes)
        self.outlet = Outlet(Writer(self.in_memory), lambda: None)
        self.worker_reader = Reader(self.in_memory)
        self.counters = worker_counters()
        self.deaths = 0
        self.stage = Stage([self.worker_reader], Writer(self.out_memory), self.counters, 1)
        self.broker_reader = Reader(self.out_memory)
        self.log = Log(self.broker_reader)
        self.sessions = Sessions([self.log])
        self.upstreams: dict[int, Upstream] = {}
        self.inboxes: dict[bytes, Inbox] = {}
        self.cut: list[Subscription] = []

    # who is there

    def connect(self, route: bytes) -> Inbox:
        """A new client."""
        client = self.sessions.clients[route] = Client(route, "fake", 1)
        inbox = self.inboxes[route] = Inbox(client)
        return inbox

    def open(
        self, slot: int, api: str, chunks: list[bytes], window: int, transforms: bytes = b""
    ) -> Stream:
        """Begin a stream whose body comes in `chunks`."""
        stream = Stream(
            slot,
            b"%016d" % slot,
            "fake",
            "model",
            0,
            0,
            BackpressureController(1024, 1 << 20, initial=window),
        )
        self.sessions.add(stream)
        flow = Flow(slot, self.outlet, SseFramer(), stream.window.told)
        self.upstreams[slot] = Upstream(flow, api, chunks, transforms)
        return stream

    def attach(self, inbox: Inbox, handle: int, stream: Stream, after: int, window: int) -> None:
        """Subscribe a client to a stream."""
        inbox.begin(handle, after + 1)
        self.sessions.subscribe(inbox.client, handle, stream, after, window)
        self._told()

    def detach(self, inbox: Inbox, handle: int) -> None:
        """Take a client off a stream."""
        self.sessions.unsubscribe(inbox.client, handle)
        self._told()

    # one step each; all return whether anything moved

    def read(self, slot: int) -> bool:
        """A provider process reads from one socket."""
        return self.upstreams[slot].step()

    def publish(self) -> bool:
        """The provider process ends a loop turn."""
        outlet = self.outlet
        marked, outlet.marked = outlet.marked, False
        outlet.writer.publish()
        waiting, outlet.waiting = outlet.waiting, {}
        before = outlet.writer.position
        for flow in waiting.values():
            flow.pump()
        return marked and outlet.writer.position != before

    def work(self) -> bool:
        """The worker does one round."""
        return self.stage.step(1)

    def kill_worker(self, moment: str = "idle") -> None:
        """The worker dies, between two rounds or within one, and another stands in for it.

        `moment` is idle, publish (nothing of its round is visible) or release (all is, but
        its input was not given back). The broker reads what the dead one said first.
        """
        if moment != "idle":
            _doom(self.stage, moment)
            with suppress(Killed):
                self.stage.step(1)
        self.deaths += 1
        hand_over(self.in_memory, consumer=True)
        hand_over(self.out_memory, producer=True)
        while self.fan_out():
            pass
        left = self.sessions.of_worker(0)
        self.worker_reader = Reader(self.in_memory)
        writer = Writer(self.out_memory)
        self.stage = Stage([self.worker_reader], writer, self.counters, 1 + self.deaths, left)

    def fan_out(self, limit: int = 256) -> bool:
        """The broker does one turn, and sends what is due."""
        batch = self.broker_reader.poll(limit)
        if not batch:
            return False
        self.sessions.ingest(self.log, batch)
        self.sessions.make_room(self.log)
        self._told()
        return True

    def deliver(self, inbox: Inbox) -> bool:
        """A client gets what waits for it."""
        self.sessions.dirty.pop(inbox.client.route, None)
        if not inbox.client.runs:
            return False
        inbox.take(inbox.client.frame())
        return True

    def credit(self, inbox: Inbox, handle: int, processed: int) -> None:
        """A client says how many tokens it is done with."""
        self.sessions.credit(inbox.client, handle, processed)
        self._told()

    def credit_all(self) -> bool:
        """Every client is done with all it has."""
        moved = False
        for inbox in self.inboxes.values():
            for handle, subscription in list(inbox.client.subscriptions.items()):
                if subscription.outstanding and inbox.next(handle) == subscription.next:
                    self.credit(inbox, handle, inbox.next(handle))
                    moved = True
        return moved

    def run(self) -> None:
        """Let everybody go on until nobody can."""
        moved = True
        while moved:
            moved = False
            for slot in self.upstreams:
                moved |= self.read(slot)
            moved |= self.publish()
            moved |= self.work()
            moved |= self.fan_out()
            for inbox in self.inboxes.values():
                moved |= self.deliver(inbox)
            moved |= self.credit_all()

    def _told(self) -> None:
        """Cut who is left behind; tell the flows of new limits and of terminal tokens."""
        behind, granted, ended = self.sessions.behind, self.sessions.granted, self.sessions.ended
        while behind:
            subscription = behind.pop()
            self.cut.append(subscription)
            self.sessions.unsubscribe(subscription.client, subscription.handle)
        while granted:
            stream = granted.pop()
            self.upstreams[stream.slot].flow.grant(stream.window.told)
        while ended:
            self.upstreams[ended.pop().slot].flow.end(CANCELLED, 0)


def plain(tokens: list[StreamToken]) -> list[StreamToken]:
    """The tokens without what only a clock knows, for comparison."""
    return [
        msgspec.structs.replace(token, summary=None) if hasattr(token, "summary") else token
        for token in tokens
    ]
