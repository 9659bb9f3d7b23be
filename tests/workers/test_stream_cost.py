"""The last token says what an answer cost, who gave it, and since when its client has waited."""

from __future__ import annotations

import pytest

from ringcast.shm.records import Open, encode_open
from ringcast.shm.tokens import Done, Error, Summary, Usage
from ringcast.workers.stream import Stream

MS = 1_000_000
SENT_NS = 5_000 * MS
PRICE = (3.0, 15.0, 0.3, 3.75)
USAGE = Usage(1000, 100, cache_read_tokens=2000, cache_write_tokens=400)
COST = (1000 * 3 + 100 * 15 + 2000 * 0.3 + 400 * 3.75) / 1e6


def finished(end: Done | Error, opened: Open) -> Done | Error:
    """The last token of a stream whose first came after 10 ms, and the last after 30."""
    stream = Stream(encode_open(opened), SENT_NS)
    stream.first_ns = SENT_NS + 10 * MS
    last = stream.finish(end, SENT_NS + 30 * MS)
    assert isinstance(last, Done | Error)
    return last


def opening(
    price: tuple[float, float, float, float] | None = PRICE, since_ns: int = 0, attempt: int = 1
) -> Open:
    return Open(
        b"0" * 16,
        "messages",
        "mine",
        "claude-sonnet-4-5",
        since_ns=since_ns,
        attempt=attempt,
        price=price,
    )


def summary(last: Done | Error) -> Summary:
    assert last.summary is not None
    return last.summary


@pytest.mark.parametrize("end", [Done("stop", usage=USAGE), Error("interrupted", "", usage=USAGE)])
def test_the_cost_stands_in_the_usage(end: Done | Error) -> None:
    usage = finished(end, opening()).usage
    assert usage is not None
    assert usage.cost == pytest.approx(COST)
    assert usage.input_tokens == 1000


def test_without_a_price_there_is_none() -> None:
    assert finished(Done("stop", usage=USAGE), opening(None)).usage == USAGE
    assert finished(Done("stop"), opening()).usage is None


def test_what_the_provider_charged_is_not_touched() -> None:
    told = Usage(1000, 100, cost=0.5)
    assert finished(Done("stop", usage=told), opening()).usage == told


def test_the_summary_names_who_served() -> None:
    said = summary(finished(Done("stop"), opening()))
    assert said.served_by == "mine/claude-sonnet-4-5"
    assert said.attempts == 1
    assert said.waited_ms is None
    assert (said.first_token_ms, said.total_ms) == (10.0, 30.0)


def test_times_run_from_when_the_request_came() -> None:
    """200 ms in a queue and in earlier sendings are the client's time as well."""
    said = summary(finished(Done("stop"), opening(since_ns=SENT_NS - 200 * MS, attempt=3)))
    assert said.attempts == 3
    assert said.waited_ms == 200.0
    assert (said.first_token_ms, said.total_ms) == (210.0, 230.0)


def test_what_was_never_sent_was_served_by_nobody() -> None:
    said = summary(finished(Error("circuit_open", "x"), opening(attempt=0)))
    assert (said.served_by, said.attempts) == (None, 0)


def test_a_whole_body_ends_with_its_cost() -> None:
    stream = Stream(encode_open(Open(b"0" * 16, "chat", "p", "m", price=PRICE)), SENT_NS)
    chunk = (
        b'data: {"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":"stop"}],'
        b'"usage":{"prompt_tokens":10,"completion_tokens":2,"total_tokens":12}}\n\n'
        b"data: [DONE]\n\n"
    )
    last = stream.finish(stream.body.feed(chunk)[-1], SENT_NS + MS)
    assert isinstance(last, Done)
    assert last.usage == Usage(10, 2, 12, cost=(10 * 3 + 2 * 15) / 1e6)
