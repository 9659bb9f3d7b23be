"""What a stage keeps back: an error before any token, as long as the request may be sent again.

Rules S5 and S7 of `workers.stage`.
"""

from __future__ import annotations

import msgspec
import pytest
from fakes.pipeline import ring, worker_counters

from ringcast.errors import Code
from ringcast.providers.commands import Adopted
from ringcast.providers.wire.body import Ending
from ringcast.replay.numbered import numbered_events, numbered_tokens
from ringcast.shm import records
from ringcast.shm.records import Open, encode_open
from ringcast.shm.ring import Reader, Record, Writer, hand_over
from ringcast.shm.tokens import Done, Error, StreamToken, Text, decode_error, decoder
from ringcast.workers.kept_back import KEPT_BACK, KeptBack
from ringcast.workers.outbox import again
from ringcast.workers.stage import Stage

EVENTS = list(numbered_events("chat", 3, 0, clock=False))
BODY = b"".join(EVENTS)
BROKEN = b'data: {"error":{"message":"it broke","type":"server_error"}}\n\n'
PING = b": ping\n\n"
DIED = Ending("failed", Code.INTERRUPTED, "died")
RESET = Ending("reset", Code.TRANSPORT, "reset")
PLAIN = records.WHOLE


class Bench:
    """A stage, with one stream in slot 1."""

    def __init__(self) -> None:
        self.in_memory, self.out_memory = ring(1 << 16), ring(1 << 16)
        self.source, self.sink = Writer(self.in_memory), Reader(self.out_memory)
        self.raw = 0
        self.begin(1)

    def begin(self, epoch: int) -> None:
        """A new worker on the same rings."""
        readers = [Reader(self.in_memory)]
        self.stage = Stage(readers, Writer(self.out_memory), worker_counters(), epoch)

    def replace_broker(self) -> None:
        """Another broker reads on, and what was said is gone."""
        self.sink.release(self.sink.position)
        hand_over(self.out_memory, consumer=True)
        self.sink = Reader(self.out_memory)

    def open(self, now_ns: int, *, final: bool = False) -> None:
        opened = encode_open(Open(b"%016d" % 1, "chat", "fake", "model", final=final))
        self.raw = 0
        self._put(records.OPEN, now_ns, opened)

    def data(self, *events: bytes, at: int = 8) -> None:
        for event in events:
            self.raw += len(event)
            self._put(records.DATA, at, event)

    def end(self, ending: Ending, now_ns: int = 9, *, final: bool = False) -> None:
        flags = records.TERMINAL if final else 0
        self._put(records.END, now_ns, msgspec.msgpack.encode(ending), flags)

    def _put(self, kind: int, a: int, payload: bytes, flags: int = 0) -> None:
        assert self.source.append(kind, 1, a, self.raw, payload, PLAIN | flags)

    def said(self) -> list[Record]:
        """What one round says of the stream, without its OPENs and CHECKPOINTs."""
        self.source.publish()
        self.stage.step(10)
        kinds = records.TOKENS, records.AGAIN
        return [one for one in self.sink.poll() if one.kind in kinds and (one.count or one.a)]


def tokens(said: list[Record]) -> list[StreamToken]:
    return [one for record in said if record.count for one in decoder.decode(record.payload)]


def is_whole(said: list[StreamToken]) -> bool:
    """Whether it is the answer from its first token to its last."""
    texts = [token.content for token in said if isinstance(token, Text)]
    return texts == list(numbered_tokens(3)) and isinstance(said[-1], Done)


@pytest.mark.parametrize(
    ("events", "ending", "code"),
    [
        ([BROKEN], Ending(), Code.PROVIDER_ERROR),
        ([PING, BROKEN, PING], Ending(), Code.PROVIDER_ERROR),
        ([PING], RESET, Code.TRANSPORT),
        ([], Ending("eof", status=200), Code.EMPTY_RESPONSE),
    ],
)
def test_an_error_before_any_token_is_kept_back(
    events: list[bytes], ending: Ending, code: str
) -> None:
    bench = Bench()
    bench.open(7)
    bench.data(*events)
    bench.end(ending)
    (kept,) = bench.said()
    assert (kept.kind, kept.flags, kept.a) == (records.AGAIN, PLAIN | records.UNSAID, 7)
    error = decode_error(kept.payload)
    assert error.code == code
    assert error.summary is not None
    assert not bench.stage.busy


def test_the_last_sendings_error_is_said() -> None:
    bench = Bench()
    bench.open(7, final=True)
    bench.data(BROKEN)
    (error,) = tokens(bench.said())
    assert isinstance(error, Error)


def test_an_error_whose_end_is_final_is_said() -> None:
    """Who sent it has decided already."""
    bench = Bench()
    bench.open(7)
    bench.end(Ending("http", status=500), final=True)
    (error,) = tokens(bench.said())
    assert isinstance(error, Error)


@pytest.mark.parametrize("rounds", [1, 2])
def test_an_error_behind_a_token_is_said(rounds: int) -> None:
    bench = Bench()
    bench.open(7)
    bench.data(*EVENTS[:3])
    said = bench.said() if rounds == 2 else []
    bench.data(BROKEN)
    said += bench.said()
    *texts, error = tokens(said)
    assert texts
    assert all(isinstance(text, Text) for text in texts)
    assert isinstance(error, Error)


def test_the_next_sending_is_told_from_its_beginning() -> None:
    bench = Bench()
    bench.open(7)
    bench.data(PING, BROKEN)
    assert bench.said()[0].flags & records.UNSAID
    bench.end(Ending())
    bench.open(8, final=True)
    bench.data(BODY)
    said = bench.said()
    assert said[0].a == 0
    assert is_whole(tokens(said))


def test_a_successor_finds_a_sending_and_the_next_in_one_round() -> None:
    """Its predecessor died before it could release what it had kept back."""
    bench = Bench()
    bench.open(7)
    bench.data(BROKEN)
    bench.end(Ending())
    bench.open(8)
    bench.data(BODY)
    assert is_whole(tokens(bench.said()))


@pytest.mark.parametrize("rounds", [1, 2])
@pytest.mark.parametrize("own_end", [False, True])
def test_what_was_kept_back_is_asked_for_again_when_its_process_dies(
    rounds: int, own_end: bool
) -> None:
    """Whoever was to hear of it is gone, and its successor knows nothing of the request."""
    bench = Bench()
    bench.open(7)
    bench.data(BROKEN)
    if own_end:
        bench.end(Ending())
    said = bench.said() if rounds == 2 else []
    bench.end(DIED, 11)
    said += bench.said()
    assert not tokens(said)
    assert (said[-1].kind, said[-1].flags, said[-1].a) == (records.AGAIN, PLAIN, 11)
    assert bool(said[0].flags & records.UNSAID) == (rounds == 2 or own_end)


def test_any_other_end_of_what_was_kept_back_says_nothing() -> None:
    bench = Bench()
    bench.open(7)
    bench.data(BROKEN)
    assert len(bench.said()) == 1
    bench.data(PING)
    bench.end(Ending())
    assert bench.said() == []


def test_another_broker_is_told_what_was_kept_back() -> None:
    """The one before may have died before it could ask for another sending."""
    bench = Bench()
    bench.open(7)
    bench.data(BROKEN)
    (kept,) = bench.said()
    bench.replace_broker()
    (again,) = bench.said()
    assert (again.a, again.flags) == (kept.a, kept.flags)


def test_another_broker_is_not_told_what_was_sent_again() -> None:
    bench = Bench()
    bench.open(7)
    bench.data(BROKEN)
    assert len(bench.said()) == 1
    bench.open(11)
    assert bench.said() == []
    bench.replace_broker()
    assert bench.said() == []


def test_a_successor_takes_nothing_of_an_earlier_sending_for_the_next() -> None:
    """It stands behind an event of another stream that is not complete, so nobody released it."""
    bench = Bench()
    bench.open(7)
    bench.data(BROKEN)
    bench.end(DIED)
    bench.open(11)
    opened = encode_open(Open(b"%016d" % 1, "chat", "fake", "model", final=False))
    left = Adopted(1, opened, 11, 0, 0, b"")
    readers = [Reader(bench.in_memory)]
    writer = Writer(bench.out_memory)
    bench.stage = Stage(readers, writer, worker_counters(), 2, [left])
    assert bench.said() == []
    bench.data(BODY, at=12)
    assert is_whole(tokens(bench.said()))


def test_a_successor_keeps_back_the_same_again() -> None:
    """The first died behind its publish: what it had read was not released."""
    bench = Bench()
    bench.open(7)
    bench.data(BROKEN)
    bench.end(Ending())
    bench.source.publish()
    unread = bytes(bench.in_memory)
    told = bench.said()
    bench.in_memory[:] = unread
    bench.begin(2)
    told += bench.said()
    assert [(one.a, one.flags) for one in told] == [(7, PLAIN | records.UNSAID)] * 2


def test_of_too_many_the_oldest_is_forgotten() -> None:
    kept = KeptBack()
    for slot in range(KEPT_BACK + 2):
        kept.add(slot, again(slot, slot))
    kept.sent_again(7)
    kept.sent_again(0)  # which is forgotten
    slots = [slot for _, slot, *_ in kept]
    assert slots == [slot for slot in range(2, KEPT_BACK + 2) if slot != 7]
