"""Streams, their log and their readers: what each rule of `session` promises."""

from __future__ import annotations

import pytest
from fakes.pipeline import Inbox, Pipeline

from ringcast.broker.credit import BackpressureController
from ringcast.broker.log import Log
from ringcast.broker.session import Sessions
from ringcast.broker.stream import Stream
from ringcast.errors import Code, RequestError
from ringcast.replay.numbered import numbered_events, numbered_tokens
from ringcast.shm import records
from ringcast.shm.ring import Reader, Writer, hand_over
from ringcast.shm.tokens import Text, encoder


def numbered(n: int) -> list[bytes]:
    return list(numbered_events("chat", n, 0, clock=False))


def texts(inbox: Inbox, handle: int) -> list[str]:
    return [token.content for token in inbox.tokens[handle] if isinstance(token, Text)]


def test_readers_have_windows_of_their_own() -> None:
    pipeline = Pipeline()
    quick, slow = pipeline.connect(b"quick"), pipeline.connect(b"slow")
    stream = pipeline.open(1, "chat", numbered(100), 1 << 20)
    pipeline.attach(quick, 1, stream, -1, 1 << 20)
    pipeline.attach(slow, 1, stream, -1, 1)
    while pipeline.read(1):
        pass
    pipeline.publish()
    while pipeline.work():
        pipeline.fan_out()
    pipeline.deliver(quick)
    pipeline.deliver(slow)
    assert texts(quick, 1) == list(numbered_tokens(100))
    assert 0 < len(slow.tokens[1]) < 100
    pipeline.run()
    assert slow.tokens[1] == quick.tokens[1]


def test_a_finished_stream_stays_until_its_bytes_are_needed() -> None:
    pipeline = Pipeline()
    inbox = pipeline.connect(b"client")
    stream = pipeline.open(1, "chat", numbered(50), 1 << 16)
    pipeline.attach(inbox, 1, stream, -1, 1 << 16)
    pipeline.run()
    assert stream.terminal
    assert not stream.subscriptions
    pipeline.attach(inbox, 2, stream, 20, 1 << 16)
    pipeline.run()
    assert inbox.tokens[2] == inbox.tokens[1][21:]
    assert stream.slot in pipeline.sessions.streams
    for slot in range(2, 12):
        other = pipeline.open(slot, "chat", numbered(500), 1 << 16)
        pipeline.attach(inbox, slot + 10, other, -1, 1 << 16)
        pipeline.run()
    assert stream.slot not in pipeline.sessions.streams
    assert stream.id not in pipeline.sessions.by_id


def test_an_old_offset_is_gone_and_a_late_reader_is_cut_off() -> None:
    pipeline = Pipeline()
    payer, late = pipeline.connect(b"payer"), pipeline.connect(b"late")
    stream = pipeline.open(1, "chat", numbered(5000), 1 << 14)
    pipeline.attach(payer, 1, stream, -1, 1 << 16)
    pipeline.attach(late, 1, stream, -1, 1)
    del pipeline.inboxes[b"late"]
    pipeline.run()
    assert texts(payer, 1) == list(numbered_tokens(5000))
    (cut,) = pipeline.cut
    assert cut.client is late.client
    late.take(late.client.frame())
    assert late.next(1) == cut.next
    with pytest.raises(RequestError) as refused:
        pipeline.attach(late, 2, stream, cut.next - 1, 1 << 16)
    assert refused.value.code == Code.OFFSET_GONE
    first = refused.value.detail["first"]
    assert isinstance(first, int)
    pipeline.attach(late, 2, stream, first - 1, 1 << 16)
    pipeline.inboxes[b"late"] = late
    pipeline.run()
    assert late.tokens[2] == payer.tokens[1][first:]


def test_the_payers_records_move_to_the_heap() -> None:
    """It has stopped, others fill the ring again and again; nothing of it is lost."""
    pipeline = Pipeline()
    stopped, busy = pipeline.connect(b"stopped"), pipeline.connect(b"busy")
    stream = pipeline.open(1, "chat", numbered(200), 8192)
    pipeline.attach(stopped, 1, stream, -1, 1 << 16)
    del pipeline.inboxes[b"stopped"]
    for slot in range(2, 12):
        other = pipeline.open(slot, "chat", numbered(500), 1 << 16)
        pipeline.attach(busy, slot, other, -1, 1 << 16)
        pipeline.run()
    assert stream.heaped == len(stream.entries) > 0
    assert sum(len(record.payload) for record in stream.entries) <= 8192 * 2
    pipeline.inboxes[b"stopped"] = stopped
    pipeline.run()
    assert texts(stopped, 1) == list(numbered_tokens(200))
    assert not pipeline.cut
    assert stream.heaped == 0


def test_who_leaves_hands_the_payment_over() -> None:
    pipeline = Pipeline()
    one, two = pipeline.connect(b"one"), pipeline.connect(b"two")
    stream = pipeline.open(1, "chat", numbered(500), 2048)
    pipeline.attach(one, 1, stream, -1, 1 << 16)
    pipeline.attach(two, 1, stream, -1, 1 << 16)
    del pipeline.inboxes[b"one"]
    pipeline.run()
    assert 0 < len(two.tokens[1]) < 500  # it has all there is, but does not pay
    pipeline.detach(one, 1)
    pipeline.run()
    assert texts(two, 1) == list(numbered_tokens(500))


def test_who_comes_back_pays_from_where_it_is() -> None:
    pipeline = Pipeline()
    inbox = pipeline.connect(b"client")
    stream = pipeline.open(1, "chat", numbered(500), 2048)
    pipeline.attach(inbox, 1, stream, -1, 1 << 16)
    del pipeline.inboxes[b"client"]
    pipeline.run()
    pipeline.deliver(inbox)
    has = inbox.next(1)
    pipeline.detach(inbox, 1)
    pipeline.inboxes[b"client"] = inbox
    pipeline.attach(inbox, 2, stream, has - 1, 1 << 16)  # it says so only by attaching here
    pipeline.run()
    assert inbox.tokens[1] + inbox.tokens[2][:0] == inbox.tokens[1]
    assert texts(inbox, 1) + texts(inbox, 2) == list(numbered_tokens(500))


@pytest.mark.parametrize("window", [1024, 2048, 5000])
def test_bytes_that_make_no_token_need_no_reader(window: int) -> None:
    """20 KB of pings, then an answer; also when the pings come after tokens."""
    pipeline = Pipeline()
    inbox = pipeline.connect(b"client")
    quiet = [b'data: {"choices":[]}\n\n'] * 1000
    answer = numbered(20)
    stream = pipeline.open(1, "chat", answer[:10] + quiet + answer[10:], window)
    pipeline.attach(inbox, 1, stream, -1, window)
    pipeline.run()
    assert texts(inbox, 1) == list(numbered_tokens(20))


def test_what_a_successor_says_again_is_taken_once() -> None:
    """Records that were read before are dropped, one that reaches further is cut."""
    pipeline = Pipeline()
    inbox = pipeline.connect(b"client")
    pipeline.attach(inbox, 1, pipeline.open(1, "chat", [], 1 << 16), -1, 1 << 16)
    writer = Writer(pipeline.out_memory)
    whole = records.WHOLE
    texts = [Text(letter) for letter in "abcdef"]
    writer.append(records.TOKENS, 1, 0, 10, encoder.encode(texts[:3]), whole | records.MORE, 3)
    writer.append(records.START, 0, 2, 0)
    writer.append(records.TOKENS, 1, 0, 5, encoder.encode(texts[:2]), whole, 2)
    writer.append(records.TOKENS, 1, 2, 20, encoder.encode(texts[2:]), whole, 4)
    writer.publish()
    assert pipeline.fan_out()
    pipeline.deliver(inbox)
    assert inbox.tokens[1] == texts
    assert pipeline.sessions.streams[1].base == (6, 20)


def test_records_of_no_stream_are_ignored() -> None:
    pipeline = Pipeline()
    writer = Writer(pipeline.out_memory)
    writer.append(records.TOKENS, 99, 0, 10, encoder.encode([Text("a")]), records.WHOLE, 1)
    writer.append(200, 1, 0, 0, b"of a later version")
    writer.publish()
    assert pipeline.fan_out()
    assert pipeline.sessions.tokens == 0


def test_a_ring_of_nothing_but_checkpoints_is_released() -> None:
    pipeline = Pipeline()
    writer = Writer(pipeline.out_memory)
    for number in range(2000):
        if not writer.append(records.CHECKPOINT, 1, 0, number, b"x" * 300):
            writer.publish()
            assert pipeline.fan_out(), "the ring is full, and nobody makes room"
    assert pipeline.broker_reader.released > 0


def test_a_reader_behind_the_heap_is_cut_when_the_payer_moves_on() -> None:
    """What the payer is done with leaves the heap; a slower reader must not be given a gap."""
    pipeline = Pipeline()
    payer, slow, busy = (pipeline.connect(name) for name in (b"payer", b"slow", b"busy"))
    stream = pipeline.open(1, "chat", numbered(200), 8192)
    pipeline.attach(payer, 1, stream, -1, 1 << 16)
    pipeline.attach(slow, 1, stream, -1, 1)
    del pipeline.inboxes[b"payer"], pipeline.inboxes[b"slow"]
    for slot in range(2, 12):
        other = pipeline.open(slot, "chat", numbered(500), 1 << 16)
        pipeline.attach(busy, slot, other, -1, 1 << 16)
        pipeline.run()
    assert stream.heaped
    pipeline.deliver(slow)
    pipeline.inboxes[b"payer"] = payer
    pipeline.run()
    assert texts(payer, 1) == list(numbered_tokens(200))
    (cut,) = pipeline.cut
    assert cut.client is slow.client
    assert slow.next(1) == cut.next < stream.first


def test_no_gap_is_served_before_the_cut() -> None:
    """The payer's credit and the slow reader's come in one turn: the cut is still to come."""
    pipeline = Pipeline()
    payer, slow = pipeline.connect(b"payer"), pipeline.connect(b"slow")
    stream = pipeline.open(1, "chat", [], 1 << 16)
    pipeline.attach(payer, 1, stream, -1, 1 << 16)
    pipeline.attach(slow, 1, stream, -1, 1)
    writer = Writer(pipeline.out_memory)
    for number in range(60):
        token = encoder.encode([Text("x" * 1000)])
        writer.append(records.TOKENS, 1, number, number, token, records.WHOLE, 1)
    writer.publish()
    pipeline.fan_out()
    assert stream.heaped
    pipeline.deliver(payer)
    pipeline.sessions.credit(payer.client, 1, 60)
    pipeline.sessions.credit(slow.client, 1, 1)
    pipeline.deliver(slow)  # raises if there is a gap in it
    assert [subscription.client for subscription in pipeline.sessions.behind] == [slow.client]


def test_parts_of_a_large_token_are_given_back_at_once() -> None:
    """They are joined on the heap: a quarter of the ring must be free whatever is in it."""
    pipeline = Pipeline()
    pipeline.open(1, "chat", [], 1 << 16)
    writer = Writer(pipeline.out_memory)
    for part in range(7):
        flags = records.BEGIN if part == 0 else records.LAST if part == 6 else 0
        assert writer.append(records.TOKENS, 1, 0, 10, b"x" * 8000, flags, 1)
    writer.publish()
    assert pipeline.fan_out()
    reader = pipeline.broker_reader
    assert reader.free >= reader.capacity >> 2


def test_fragments_wait_for_their_last_in_the_ring() -> None:
    """A broker may die between two of them: its successor needs them all."""
    pipeline = Pipeline()
    stream = pipeline.open(1, "chat", [], 1 << 16)
    writer = Writer(pipeline.out_memory)

    def write(kind: int, payload: bytes, flags: int = records.WHOLE) -> None:
        while not writer.append(kind, 1, 0, 10, payload, flags, 1):
            writer.publish()
            assert pipeline.fan_out()

    token = encoder.encode([Text("x" * 9000)])
    for _ in range(500):  # nobody keeps these, and three quarters of the ring are full of them
        write(records.CHECKPOINT, b"x" * 64)
    write(records.TOKENS, token[:4000], records.BEGIN)
    write(records.TOKENS, token[4000:8000], 0)
    for _ in range(220):  # room is needed again; not half of the ring, or nothing is held so long
        write(records.CHECKPOINT, b"x" * 64)
    writer.publish()
    while pipeline.fan_out():
        pass
    assert stream.end == 0
    hand_over(pipeline.out_memory, consumer=True)
    assert writer.append(records.TOKENS, 1, 0, 10, token[8000:], records.LAST, 1)
    writer.publish()
    reader = Reader(pipeline.out_memory)
    successor = Sessions([Log(reader)])
    successor.add(Stream(1, b"%016d" % 1, "fake", "model", 0, 0, BackpressureController()))
    while batch := reader.poll():
        successor.ingest(successor.logs[0], batch)
    (kept,) = successor.streams[1].entries
    assert bytes(kept.payload) == token


def test_who_waits_for_a_token_that_never_comes_is_cut() -> None:
    """A gap in what the ring says is told to the reader: it must not wait for ever."""
    pipeline = Pipeline()
    reader = pipeline.connect(b"reader")
    stream = pipeline.open(1, "chat", [], 1 << 16)
    pipeline.attach(reader, 1, stream, -1, 1 << 16)
    writer = Writer(pipeline.out_memory)
    assert writer.append(records.TOKENS, 1, 5, 10, encoder.encode([Text("x")]), records.WHOLE, 1)
    writer.publish()
    assert pipeline.fan_out()
    assert [cut.client for cut in pipeline.cut] == [reader.client]
    assert (stream.first, stream.end) == (5, 6)
