"""What comes for a reader: each token once and in order, whatever is sent twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ringcast.broker.inbox import Inbox
from ringcast.errors import Code, RequestError
from ringcast.shm.tokens import Done, Error, StreamToken, Text, Waiting

TOKENS: list[StreamToken] = [*(Text(str(number)) for number in range(9)), Done("stop")]


@given(
    st.integers(0, len(TOKENS)),
    st.lists(st.tuples(st.integers(0, len(TOKENS)), st.integers(0, len(TOKENS)), st.booleans())),
)
def test_runs_that_overlap_give_each_token_once(
    start: int, runs: list[tuple[int, int, bool]]
) -> None:
    inbox = Inbox(1, start - 1)
    taken: list[StreamToken] = []
    for first, end, take in runs:
        if first > inbox.next:
            first = inbox.next
        inbox.feed(first, TOKENS[first:end])
        if take:
            taken += inbox.take()
    taken += inbox.take()
    assert taken == TOKENS[start : inbox.next]
    assert inbox.ended == bool(taken and inbox.next == len(TOKENS))
    assert inbox.failure is None


def test_a_gap_fails_behind_what_came() -> None:
    inbox = Inbox(1)
    inbox.feed(0, TOKENS[:2])
    inbox.feed(3, TOKENS[3:5])
    assert inbox.take() == TOKENS[:2]
    assert isinstance(inbox.failure, RequestError)
    assert inbox.failure.code == Code.OFFSET_GONE
    assert inbox.failure.detail == {"resume_after": 1}


def test_nothing_fails_behind_the_end() -> None:
    inbox = Inbox(1)
    inbox.feed(0, [Error(Code.CANCELLED, "cancelled")])
    inbox.fail(RequestError(Code.SLOW_CONSUMER, "too late"))
    assert inbox.failure is None


def test_whoever_waits_is_told_of_all_that_comes() -> None:
    inbox = Inbox(1)
    told: list[int] = []
    inbox.arrived = lambda: told.append(inbox.next)
    inbox.wait("rate limit", 2.0)
    inbox.feed(0, TOKENS[:2])
    inbox.feed(0, TOKENS[:1])
    inbox.end()
    assert told == [0, 2, 2], "but not of what it has already"
    assert inbox.waits == [Waiting("rate limit", 2.0)]
