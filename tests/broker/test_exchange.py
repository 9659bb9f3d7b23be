"""What a client says again to a broker that has never heard of it, and what it makes of answers."""

from __future__ import annotations

import pytest

from ringcast.broker import protocol
from ringcast.broker.exchange import Exchange
from ringcast.broker.inbox import Inbox
from ringcast.errors import Code, ConnectionLost, RequestError
from ringcast.providers.commands import NOTHING
from ringcast.shm.tokens import Done, Error, Text

ID = bytes(16)


class Wire:
    """An exchange, what it has said, and what it has passed on."""

    def __init__(self) -> None:
        self.said: list[protocol.Frame] = []
        self.answers: dict[int, object] = {}
        self.exchange = Exchange(self.said.append, self.answers.__setitem__)

    def asked(self) -> Inbox:
        """A reader whose stream is asked for."""
        inbox = Inbox(self.exchange.number())
        self.exchange.request(inbox, protocol.Open(inbox.handle, NOTHING, 0, ID))
        return inbox

    def opened(self) -> Inbox:
        """A reader whose stream is there, and has a token."""
        inbox = self.asked()
        self.exchange.heard(protocol.Opened(inbox.handle, ID, "up", "model"))
        self.exchange.heard(protocol.Tokens([(inbox.handle, 0, [Text("a")])]))
        return inbox

    def refuse(self, handle: int, code: Code, number: int = -1) -> bool:
        return self.exchange.heard(protocol.Refused(handle, code, "no", {}, number))

    def repeated(self) -> list[protocol.Frame]:
        self.said.clear()
        self.exchange.repeat()
        return self.said


@pytest.fixture
def wire() -> Wire:
    return Wire()


def test_what_is_not_answered_is_asked_again(wire: Wire) -> None:
    inbox = wire.asked()
    question = protocol.Status(wire.exchange.number())
    wire.exchange.ask(question)
    assert wire.repeated() == [inbox.request, question]
    wire.exchange.heard(protocol.Result(question.request, {"clients": 1}))
    assert wire.answers == {question.request: {"clients": 1}}
    assert wire.repeated() == [inbox.request]


def test_a_stream_is_read_on_behind_what_came_and_cancelled_again(wire: Wire) -> None:
    inbox = wire.opened()
    attach = protocol.Attach(inbox.handle, ID, 0, 0)
    assert wire.repeated() == [attach]
    wire.exchange.cancel(inbox)
    assert wire.repeated() == [attach, protocol.Cancel(ID)]


def test_a_stream_that_has_ended_is_not_asked_for_again(wire: Wire) -> None:
    inbox = wire.opened()
    wire.exchange.heard(protocol.Tokens([(inbox.handle, 1, [Done("stop")])]))
    assert wire.repeated() == []


def test_a_stream_that_died_with_its_daemon_ends_by_a_token(wire: Wire) -> None:
    inbox = wire.opened()
    assert wire.refuse(inbox.handle, Code.UNKNOWN_STREAM)
    *_, last = inbox.take()
    assert isinstance(last, Error)
    assert (last.code, last.retryable) == (Code.INTERRUPTED, True)


@pytest.mark.parametrize("again", [False, True])
def test_what_a_request_may_have_begun_is_cancelled_if_it_is_refused_the_second_time(
    wire: Wire, again: bool
) -> None:
    inbox = wire.asked()
    if again:
        wire.exchange.repeat()
    wire.said.clear()
    assert wire.refuse(inbox.handle, Code.TOO_MANY_STREAMS)
    assert isinstance(wire.answers[inbox.handle], RequestError)
    begun = [protocol.Detach(inbox.handle), protocol.Cancel(ID)]
    assert wire.said == (begun if again else [])


def test_a_refusal_of_nothing_that_is_under_way_is_somebody_elses(wire: Wire) -> None:
    wire.opened()
    assert not wire.refuse(-1, Code.HELLO_FIRST)
    assert not wire.refuse(77, Code.SLOW_CONSUMER)


def test_credit_waits_for_a_beat_and_is_said_for_all_at_once(wire: Wire) -> None:
    first, second = wire.opened(), wire.opened()
    wire.said.clear()
    wire.exchange.credit(first, 1, prompt=False)
    wire.exchange.credit(second, 1, prompt=False)
    assert not wire.said
    wire.exchange.beat()
    assert wire.said == [protocol.Credit([(first.handle, 1), (second.handle, 1)])]


def test_an_end_is_credited_though_nobody_asks_for_what_follows_it(wire: Wire) -> None:
    inbox = wire.opened()
    wire.exchange.heard(protocol.Tokens([(inbox.handle, 1, [Done("stop")])]))
    wire.said.clear()
    wire.exchange.beat()
    assert not wire.said, "its tokens are not taken yet"
    inbox.take()
    wire.exchange.beat()
    wire.exchange.beat()
    assert wire.said == [protocol.Credit([(inbox.handle, 2)])]


def test_a_lost_daemon_fails_every_reader_and_is_told_nothing_more(wire: Wire) -> None:
    inbox = wire.opened()
    wire.exchange.lose()
    assert isinstance(inbox.failure, ConnectionLost)
    wire.said.clear()
    with pytest.raises(ConnectionLost):
        wire.exchange.cancel(inbox)
    wire.exchange.credit(inbox, 1, prompt=True)
    assert not wire.said
