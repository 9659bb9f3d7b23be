"""Questions and the steps of a count, by the rules of `broker.inquiries`."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ringcast.broker import protocol
from ringcast.broker.count_queue import COUNT_S, CountQueue
from ringcast.broker.inquiries import MAX_WAITING, Inquiries
from ringcast.errors import Code, RequestError
from ringcast.providers.commands import NOTHING, Answer, Ask, Command

CLIENT = b"client"
TEXT = msgspec.Raw(msgspec.msgpack.encode({"model": "up/m", "prompt": "hi"}))
ESTIMATE = {"tokens": 5, "accuracy": "estimate"}
EXACT = {"tokens": 4, "accuracy": "exact"}
THEIRS = {"tokens": 3, "accuracy": "provider"}


class Desk:
    """Who asks, and both kinds of process."""

    def __init__(self) -> None:
        self.usable = True
        self.asked: list[tuple[str, Ask]] = []
        self.inquiries = Inquiries(self._provider, 2, CountQueue(self._counter, self._is_usable))

    def _is_usable(self) -> bool:
        return self.usable

    def _provider(self, process: int, command: Command) -> bool:
        assert isinstance(command, Ask)
        self.asked.append(("provider", command))
        return True

    def _counter(self, question: Ask) -> bool:
        self.asked.append(("counter", question))
        return True

    def count(self, number: int = 1) -> None:
        self.inquiries.ask(CLIENT, number, Ask(0, "count", "up", "m", TEXT), 0.0)

    def say(self, who: str, data: Any, now: float = 0.0) -> protocol.Frame | None:
        """Answer the last question, which must have gone to `who`."""
        asked, question = self.asked[-1]
        assert asked == who
        answer = Answer(question.number, msgspec.Raw(msgspec.msgpack.encode(data)))
        told = self.inquiries.answered(answer, now)
        assert told is None or told[0] == CLIENT
        return told[1] if told else None


@pytest.fixture
def desk() -> Desk:
    return Desk()


def data(frame: protocol.Frame | None) -> Any:
    assert isinstance(frame, protocol.Result)
    return msgspec.msgpack.decode(frame.data)


def test_steps_1_and_3_who_cannot_count_does_not_get_the_text(desk: Desk) -> None:
    desk.count()
    assert desk.asked[-1][1].what == "can_count"
    assert desk.asked[-1][1].request == NOTHING
    assert desk.say("provider", False) is None
    assert desk.asked[-1][1].request == TEXT
    assert data(desk.say("counter", EXACT)) == EXACT
    assert len(desk.asked) == 2


def test_step_2_who_can_count_does(desk: Desk) -> None:
    desk.count()
    assert desk.say("provider", True) is None
    assert desk.asked[-1][1].request == TEXT
    assert data(desk.say("provider", THEIRS)) == THEIRS


def test_step_2_an_estimate_is_made_better(desk: Desk) -> None:
    desk.count()
    desk.say("provider", True)
    assert desk.say("provider", ESTIMATE) is None
    assert data(desk.say("counter", EXACT)) == EXACT


def test_step_2_an_estimate_that_cannot_be_made_better_is_the_answer(desk: Desk) -> None:
    desk.count()
    desk.say("provider", True)
    desk.usable = False
    assert data(desk.say("provider", ESTIMATE)) == ESTIMATE


def test_step_4_comes_first_without_ranks(desk: Desk) -> None:
    desk.usable = False
    desk.count()
    assert desk.asked[-1][1].what == "count"
    assert data(desk.say("provider", ESTIMATE)) == ESTIMATE


def test_step_4_comes_when_the_queue_is_full_meanwhile(desk: Desk) -> None:
    desk.count()
    desk.usable = False
    assert desk.say("provider", False) is None
    assert desk.asked[-1][1].request == TEXT
    assert data(desk.say("provider", ESTIMATE)) == ESTIMATE


@pytest.mark.parametrize("how", ["dies", "hangs"])
def test_step_4_comes_when_nobody_has_counted(desk: Desk, how: str) -> None:
    desk.count()
    desk.say("provider", False)
    if how == "dies":
        desk.inquiries.recount(1.0)
        assert [who for who, _ in desk.asked] == ["provider", "counter", "counter"]
        desk.inquiries.recount(2.0)
    else:
        desk.inquiries.look(COUNT_S + 1)
    assert desk.asked[-1][1].request == TEXT
    assert data(desk.say("provider", ESTIMATE)) == ESTIMATE


def test_an_answer_to_an_earlier_step_is_not_believed(desk: Desk) -> None:
    desk.count()
    _, first = desk.asked[0]
    late = Answer(first.number, msgspec.Raw(msgspec.msgpack.encode(True)))
    desk.say("provider", False)
    assert desk.inquiries.answered(late, 0.0) is None
    assert data(desk.say("counter", EXACT)) == EXACT


def test_a_new_provider_process_is_asked_its_own_questions_once_more(desk: Desk) -> None:
    desk.count(1)
    desk.say("provider", False)  # it is with the counting process now
    desk.count(2)
    question = desk.asked[-1]
    before = len(desk.asked)
    for process in (0, 1):
        desk.inquiries.repeat(process)
    assert desk.asked[before:] == [question]


def test_a_count_that_is_refused_is_refused(desk: Desk) -> None:
    desk.count(7)
    desk.say("provider", False)
    answer = Answer(desk.asked[-1][1].number, NOTHING, Code.BAD_REQUEST, "no")
    told = desk.inquiries.answered(answer, 0.0)
    assert told == (CLIENT, protocol.Refused(-1, Code.BAD_REQUEST, "no", {}, 7))


def test_who_is_gone_is_not_answered(desk: Desk) -> None:
    desk.count(1)
    desk.say("provider", False)
    desk.count(2)
    desk.say("provider", False)
    (_, first), (_, second) = desk.asked[1], desk.asked[2]
    assert second.what == "can_count"
    desk.inquiries.forget(CLIENT)
    exact = msgspec.Raw(msgspec.msgpack.encode(EXACT))
    assert desk.inquiries.answered(Answer(first.number, exact), 1.0) is None
    assert len(desk.asked) == 3  # the second is not counted any more


def test_too_many_questions_are_refused(desk: Desk) -> None:
    for number in range(MAX_WAITING):
        desk.inquiries.ask(CLIENT, number, Ask(0, "models", "up"), 0.0)
    with pytest.raises(RequestError, match="flood"):
        desk.count()
    desk.inquiries.ask(b"another", 1, Ask(0, "models", "up"), 0.0)
