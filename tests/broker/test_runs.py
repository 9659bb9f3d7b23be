"""What a record of tokens adds to what is there already."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from ringcast.broker.runs import fitted, rescued, run_of
from ringcast.errors import Code
from ringcast.shm import records
from ringcast.shm.ring import Record
from ringcast.shm.tokens import Done, Error, StreamToken, Text, decoder, encoder

END = Done("stop")


def run(first: int, tokens: list[StreamToken]) -> Record:
    flags = records.WHOLE | (records.TERMINAL if END in tokens else 0)
    payload = memoryview(encoder.encode(tokens))
    return Record(records.TOKENS, flags, len(tokens), 7, first, 100, payload, 200)


def texts(first: int, count: int) -> list[StreamToken]:
    return [Text(str(number)) for number in range(first, first + count)]


@given(first=st.integers(0, 5), count=st.integers(1, 5), number=st.integers(1, 12))
def test_only_what_is_new_is_taken(first: int, count: int, number: int) -> None:
    number = max(number, first + 1)
    news = fitted(run(first, texts(first, count)), number)
    wanted = texts(first, count)[number - first :]
    if not wanted:
        assert news is None
    else:
        assert news is not None
        assert (news.a, news.count) == (number, len(wanted))
        assert decoder.decode(news.payload) == wanted


@given(first=st.integers(0, 5), count=st.integers(0, 5), more=st.integers(0, 5))
def test_an_end_is_never_lost_though_its_number_was_given_before(
    first: int, count: int, more: int
) -> None:
    number = first + count + 1 + more
    news = fitted(run(first, [*texts(first, count), END]), number)
    assert news is not None
    assert (news.a, news.count) == (number, 1)
    assert decoder.decode(news.payload) == [END]


def test_what_does_not_decode_takes_with_it_what_was_before() -> None:
    torn = msgspec.structs.replace(run(2, texts(2, 1)), payload=memoryview(b"\x91\xc1"))
    kept = rescued([run(0, texts(0, 2)), torn, run(3, texts(3, 2)), run(5, texts(5, 1))])
    assert [record.a for record in kept] == [3, 5]
    assert [decoder.decode(record.payload) for record in kept] == [texts(3, 2), texts(5, 1)]


def test_an_error_of_our_own_is_a_run_of_one_and_the_last() -> None:
    error = Error(Code.INTERRUPTED, "it is over")
    record = run_of(error, 7, 3, 100, 200)
    assert decoder.decode(record.payload) == [error]
    assert (record.a, record.count, record.stream, record.b, record.end) == (3, 1, 7, 100, 200)
    assert record.flags == records.WHOLE | records.TERMINAL
