"""Fan-out and crowd: small runs of both, and that they refuse what is not right."""

from __future__ import annotations

import msgspec
import pytest
import uvloop

from ringcast.bench import crowd, fanout
from ringcast.broker.protocol import Frame, Opened, Refused, Tokens
from ringcast.replay.numbered import numbered_tokens
from ringcast.shm.tokens import Done, Error, StreamToken, Text
from ringcast.soak.sequence import Tally

JOB = fanout.Job("", "", 1, 3, check=True)
TEXTS: list[StreamToken] = [Text(text) for text in numbered_tokens(3)]
DONE = Done("stop")


class NoDealer:
    """Takes credit and does nothing with it."""

    def send(self, frame: Frame) -> None:
        """Drop it."""


def outcome(*frames: Opened | Refused | Tokens) -> BaseException | None:
    """What a reader makes of these frames."""

    async def read() -> BaseException | None:
        reader = fanout.Reader(JOB, None)
        reader.dealer = NoDealer()  # type: ignore[assignment]
        for frame in frames:
            reader.take(frame)
        if reader.opened.done():
            reader.opened.exception()  # or asyncio complains that nobody asked
        assert reader.over.done()
        return reader.over.exception()

    return uvloop.run(read())


def test_a_reader_that_gets_all_is_content() -> None:
    assert outcome(Tokens([(1, 0, TEXTS[:1])]), Tokens([(1, 1, [*TEXTS[1:], DONE])])) is None


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (Tokens([(1, 1, [*TEXTS[1:], DONE])]), "token 0 is missing, 1 came"),
        (Tokens([(1, 0, [TEXTS[0], TEXTS[0]])]), "token 1 is"),
        (Tokens([(1, 0, [Error("interrupted", "gone")])]), "interrupted"),
        (Refused(1, "slow_consumer", "late"), "slow_consumer"),
    ],
)
def test_a_reader_that_misses_anything_says_so(frame: Refused | Tokens, text: str) -> None:
    error = outcome(frame)
    assert isinstance(error, AssertionError)
    assert text in str(error)


def test_a_stream_reaches_all_its_readers() -> None:
    found = fanout.run({1: 2000, 9: 1000}, 1)
    assert found.keys() == {1, 9}
    assert all(one["deliveries_per_s"] > 0 for one in found.values())


FIGURES = {"clients": 4.0, "status_max_ms": 20.0}
IDLE = crowd.Told(pings=3, pongs=3)


@pytest.mark.parametrize(
    ("busy", "idle", "figures", "text"),
    [
        (crowd.Told(tally=Tally(lost=1)), IDLE, {}, "tokens are wrong"),
        (crowd.Told(tally=Tally(failed=["ended"])), IDLE, {}, "ended"),
        (crowd.Told(), crowd.Told(pings=3, pongs=2), {}, "unanswered"),
        (crowd.Told(), crowd.Told(), {}, "unanswered"),
        (crowd.Told(), msgspec.structs.replace(IDLE, refused=["no"]), {}, "no"),
        (crowd.Told(), IDLE, {"clients": 3.0}, "3.0 clients"),
        (crowd.Told(), IDLE, {"status_max_ms": 1000.0}, "status took"),
    ],
)
def test_a_crowd_that_is_not_served_is_named(
    busy: crowd.Told, idle: crowd.Told, figures: dict[str, float], text: str
) -> None:
    crowd._judge([crowd.Told()], [IDLE], FIGURES, 4)
    with pytest.raises(AssertionError, match=text):
        crowd._judge([busy], [idle], FIGURES | figures, 4)


def test_a_small_crowd_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowd, "STATUS_LIMIT_S", 20.0)  # of a busy machine nothing is asked
    figures = crowd.run(streams=21, idle=30, seconds=2)
    assert figures["tokens"] == 21 * 2 * crowd.PACE
    assert figures["pings"] > 0
    assert figures["clients"] >= 32
