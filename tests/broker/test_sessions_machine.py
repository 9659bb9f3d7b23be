"""The stream log against a model: a list of all tokens of each stream, and nothing else.

Whatever readers do (attach anywhere, acknowledge late or in the middle of a record, leave),
they get exactly the model's tokens, byte for byte, or a word for why not.
"""

from __future__ import annotations

import random

import pytest
from fakes.pipeline import Inbox, ring
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ringcast.broker.credit import BackpressureController
from ringcast.broker.log import Log
from ringcast.broker.session import Sessions
from ringcast.broker.stream import Client, Stream
from ringcast.errors import Code, RequestError
from ringcast.shm import records
from ringcast.shm.ring import Reader, Writer
from ringcast.shm.tokens import Done, Error, StreamToken, Text, encoder

CAPACITY = 1 << 12
WINDOW = 1500


class Readers(RuleBasedStateMachine):
    """One worker's ring of 4 KiB, up to three streams in it, any number of readers."""

    def __init__(self) -> None:
        super().__init__()
        memory = ring(CAPACITY)
        self.writer, self.reader = Writer(memory), Reader(memory)
        self.log = Log(self.reader)
        self.sessions = Sessions([self.log])
        self.model: dict[int, list[StreamToken]] = {}
        self.streams: dict[int, Stream] = {}
        self.seen: dict[int, int] = {}  # tokens of a stream that the broker has read
        self.unread: list[tuple[int, int]] = []
        self.inboxes: dict[int, tuple[Inbox, int, int]] = {}  # handle: inbox, slot, start
        self.handles = 0
        self.draw = random.Random(0)

    @rule()
    @precondition(lambda self: len(self.streams) < 3)
    def open(self) -> None:
        slot = len(self.streams) + 1
        self.streams[slot] = stream = Stream(
            slot,
            b"%16d" % slot,
            "p",
            "m",
            0,
            0,
            BackpressureController(1024, 1 << 20, initial=WINDOW),
        )
        self.sessions.add(stream)
        self.model[slot], self.seen[slot] = [], 0

    @rule(slot=st.integers(1, 3), sizes=st.lists(st.integers(0, 90), min_size=1, max_size=4))
    def say(self, slot: int, sizes: list[int]) -> None:
        self._append(slot, [Text(chr(97 + size % 26) * size) for size in sizes], 0)

    @rule(slot=st.integers(1, 3))
    def end(self, slot: int) -> None:
        self._append(slot, [Text("z"), Done("stop")], records.TERMINAL)

    def _append(self, slot: int, tokens: list[StreamToken], flags: int) -> None:
        said = self.model.get(slot)
        if said is None or (said and isinstance(said[-1], Done | Error)):
            return
        payload = encoder.encode(tokens)
        raw = sum(len(encoder.encode(token)) for token in said + tokens)
        if self.writer.append(
            records.TOKENS, slot, len(said), raw, payload, records.WHOLE | flags, len(tokens)
        ):
            self.writer.publish()
            said += tokens
            self.unread.append((slot, len(said)))

    @rule(limit=st.integers(1, 8))
    def turn(self, limit: int) -> None:
        batch = self.reader.poll(limit)
        if not batch:
            return
        for _ in batch:
            slot, end = self.unread.pop(0)
            self.seen[slot] = max(self.seen[slot], end)
        self.sessions.ingest(self.log, batch)
        self.sessions.make_room(self.log)
        self._cut()

    def _cut(self) -> None:
        """Take off who is left behind, as the broker does at the end of its turn."""
        behind = self.sessions.behind
        while behind:
            subscription = behind.pop()
            handle, stream = subscription.handle, subscription.stream
            if handle in self.inboxes:
                pays = stream.subscriptions[0] is subscription
                assert not pays or subscription.next < stream.processed
                self.sessions.unsubscribe(subscription.client, handle)
                self._check(handle)
                del self.inboxes[handle]

    @rule(slot=st.integers(1, 3), at=st.floats(-0.2, 1.2), window=st.sampled_from([1, 100, 9999]))
    def attach(self, slot: int, at: float, window: int) -> None:
        stream = self.streams.get(slot)
        if stream is None or slot not in self.sessions.streams:
            return
        after = int(at * (self.seen[slot] + 1)) - 1
        self.handles += 1
        inbox = Inbox(Client(b"%d" % self.handles, "fake", 1))
        start = after + 1
        known = range(stream.first, stream.end + (not stream.terminal))
        if start not in known:
            with pytest.raises(RequestError) as refused:
                self.sessions.subscribe(inbox.client, self.handles, stream, after, window)
            gone = 0 <= start < stream.first
            assert refused.value.code == (Code.OFFSET_GONE if gone else Code.BAD_OFFSET)
            assert not inbox.client.subscriptions
            return
        self.sessions.subscribe(inbox.client, self.handles, stream, after, window)
        inbox.begin(self.handles, start)
        self.inboxes[self.handles] = (inbox, slot, start)
        with pytest.raises(RequestError, match="duplicate_request"):
            self.sessions.subscribe(inbox.client, self.handles, stream, after, window)

    @rule(pick=st.integers(0, 99), part=st.floats(0, 1))
    def acknowledge(self, pick: int, part: float) -> None:
        if not self.inboxes:
            return
        handle = list(self.inboxes)[pick % len(self.inboxes)]
        inbox, slot, start = self.inboxes[handle]
        self._deliver(inbox)
        number = start + round((inbox.next(handle) - start) * part)
        self.sessions.credit(inbox.client, handle, number)
        self._cut()
        if handle not in self.inboxes:
            return
        if handle in inbox.client.subscriptions:
            sent = inbox.client.subscriptions[handle].next
            with pytest.raises(RequestError, match="bad_credit"):
                self.sessions.credit(inbox.client, handle, sent + 1)
            with pytest.raises(RequestError, match="bad_credit"):
                self.sessions.credit(inbox.client, handle, -1)
        else:  # it is done with all of it
            self._check(handle)
            assert isinstance(self.model[slot][-1], Done | Error)
            assert inbox.next(handle) == len(self.model[slot])
            del self.inboxes[handle]

    @rule(pick=st.integers(0, 99))
    def detach(self, pick: int) -> None:
        if self.inboxes:
            handle = list(self.inboxes)[pick % len(self.inboxes)]
            inbox, _, _ = self.inboxes.pop(handle)
            self.sessions.unsubscribe(inbox.client, handle)
            self._cut()

    @rule(slot=st.integers(1, 3))
    def fail(self, slot: int) -> None:
        stream = self.streams.get(slot)
        if stream is None or stream.terminal or stream.end != len(self.model[slot]):
            return
        error = Error(Code.INTERRUPTED, "lost", retryable=True)
        self.sessions.fail(stream, error)
        self.model[slot].append(error)
        self.seen[slot] = stream.end

    @rule(slot=st.integers(1, 3))
    def abandon(self, slot: int) -> None:
        stream = self.streams.get(slot)
        if stream is not None and stream.terminal and not stream.subscriptions:
            self.sessions.abandon(stream)
            assert stream.heaped == 0

    def _deliver(self, inbox: Inbox) -> None:
        self.sessions.dirty.pop(inbox.client.route, None)
        if inbox.client.runs:
            inbox.take(inbox.client.frame())

    def _check(self, handle: int) -> None:
        inbox, slot, start = self.inboxes[handle]
        self._deliver(inbox)
        tokens = inbox.tokens[handle]
        assert tokens == self.model[slot][start : start + len(tokens)]

    @invariant()
    def everybody_has_what_the_model_says(self) -> None:
        for handle in self.inboxes:
            self._check(handle)

    @invariant()
    def nothing_piles_up(self) -> None:
        """Entries lie in the ring or are wanted by the reader who pays for them."""
        assert self.reader.free + self.reader.pending >= CAPACITY >> 2
        for stream in self.streams.values():
            heap = list(stream.entries)[: stream.heaped]
            assert all(record.a + record.count > stream.processed for record in heap)
            assert stream.heaped <= len(stream.entries)
            if stream.subscriptions:
                assert stream.processed >= stream.subscriptions[0].acked

    def teardown(self) -> None:
        """At the end every reader can have all of it."""
        while self.reader.pending:
            self.turn(8)
        for handle, (inbox, slot, _) in list(self.inboxes.items()):
            before = -1
            while handle in self.inboxes and inbox.next(handle) != before:
                self._check(handle)
                before = inbox.next(handle)
                self.sessions.credit(inbox.client, handle, before)
                self._cut()
                if handle in self.inboxes:
                    self._check(handle)
            if handle in self.inboxes:
                assert inbox.next(handle) == len(self.model[slot])


TestReaders = Readers.TestCase
TestReaders.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
