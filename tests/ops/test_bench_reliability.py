"""The reliability bench: its judgement must find what it is there to find, and small runs pass."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import msgspec
import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from ringcast.bench.reliability import run as bench
from ringcast.bench.reliability.load import Shape
from ringcast.bench.reliability.report import Report, judge, line, report
from ringcast.bench.reliability.scenario import SCENARIOS, Seen
from ringcast.bench.reliability.service import Victim, service
from ringcast.bench.reliability.tally import Check, Promise, Tally
from ringcast.bench.reliability.watch import Outages, Silent, Watch, spread
from ringcast.broker.dispatch import ATTEMPTS
from ringcast.errors import Code
from ringcast.replay.numbered import numbered_tokens
from ringcast.replay.process import Spawned, spawned
from ringcast.shm.tokens import Done, Error, StreamToken, Summary, Text

N = 50
TOKENS: list[StreamToken] = [Text(text) for text in numbered_tokens(N, 7)]
DONE: list[StreamToken] = [Done("stop")]


def checked(tokens: list[StreamToken], promise: Promise = "whole", deaths: int = 0) -> Tally:
    """What is counted when a stream was these tokens."""
    tally = Tally()
    check = Check(N, 7, tally)
    for token in tokens:
        check.take([token])
    check.close(promise, deaths)
    return tally


def wrong(tally: Tally) -> tuple[int, int, int]:
    """The three ways of being wrong."""
    return tally.lost, tally.doubled, tally.changed


def interrupted(tokens: int, *, retryable: bool = True, summary: bool = True) -> list[StreamToken]:
    """An interrupted stream's first tokens, and its end."""
    told = Summary(tokens) if summary else None
    end = Error(Code.INTERRUPTED, "gone", retryable=retryable, summary=told)
    return [*TOKENS[:tokens], end]


# the tally


def test_a_whole_stream_is_sound() -> None:
    tally = checked(TOKENS + DONE)
    assert tally.sound
    assert (tally.tokens, tally.whole, tally.interrupted) == (N, 1, 0)


@given(st.integers(0, N - 1), st.integers(1, 9))
def test_lost_tokens_are_counted(at: int, count: int) -> None:
    tally = checked(TOKENS[:at] + TOKENS[at + count :] + DONE)
    assert wrong(tally) == (min(count, N - at), 0, 0)
    assert not tally.sound


@given(st.integers(1, N), st.data())
def test_doubled_tokens_are_counted(at: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, at))
    tally = checked(TOKENS[:at] + TOKENS[at - count :] + DONE)
    assert wrong(tally) == (0, count, 0)
    assert not tally.sound


@given(st.integers(0, N - 1), st.sampled_from(["", "hello", "3:00000000", "999:12345678"]))
def test_a_changed_token_is_counted(at: int, text: str) -> None:
    tally = checked([*TOKENS[:at], Text(text), *TOKENS[at + 1 :], *DONE])
    assert wrong(tally) == (0, 0, 1)
    assert not tally.sound


@given(st.integers(0, N - 2))
def test_swapped_tokens_are_one_lost_and_one_doubled(at: int) -> None:
    first, second = TOKENS[at : at + 2]
    assert wrong(checked([*TOKENS[:at], second, first, *TOKENS[at + 2 :], *DONE])) == (1, 1, 0)


def test_an_answer_begun_anew_is_doubled() -> None:
    assert wrong(checked(TOKENS[:20] + TOKENS + DONE)) == (0, 20, 0)


def test_a_reader_may_begin_in_the_middle() -> None:
    tally = Tally()
    check = Check(N, 7, tally, 30)
    check.take(TOKENS[30:] + DONE)
    check.close()
    assert tally.sound
    assert tally.tokens == N - 30


@pytest.mark.parametrize(
    ("tokens", "promise", "text"),
    [
        (TOKENS, "whole", "ended with None"),
        (interrupted(5), "whole", "ended with Error"),
        ([*TOKENS, Error(Code.INTERNAL, "oh")], "gone", "ended with Error"),
        (TOKENS + DONE + DONE, "whole", "came behind"),
        (TOKENS + DONE + TOKENS[:1], "whole", "came behind"),
        (interrupted(5) + interrupted(0), "kept", "came behind"),
        (interrupted(5, summary=False), "kept", "had 5 tokens, and its summary is None"),
        ([*TOKENS[:4], interrupted(5)[-1]], "kept", "had 4 tokens, and its summary is"),
        (interrupted(5, retryable=False), "kept", "cannot be asked again"),
        (interrupted(5, retryable=False), "gone", "cannot be asked again"),
        (interrupted(0), "kept", "was not asked again"),
    ],
)
def test_a_wrong_end_is_a_fault(tokens: list[StreamToken], promise: Promise, text: str) -> None:
    tally = checked(tokens, promise, deaths=ATTEMPTS - 1)
    (fault,) = tally.faults
    assert text in fault


@pytest.mark.parametrize(
    ("tokens", "promise"),
    [
        (interrupted(5), "kept"),
        (interrupted(0), "kept"),  # it was sent three times
        (interrupted(0), "gone"),
        (interrupted(5, summary=False), "gone"),
    ],
)
def test_what_was_promised_may_be_interrupted(tokens: list[StreamToken], promise: Promise) -> None:
    tally = checked(tokens, promise, deaths=ATTEMPTS)
    assert tally.sound
    assert tally.interrupted == 1


def test_what_is_missing_before_an_interruption_is_lost() -> None:
    assert wrong(checked(TOKENS[:3] + interrupted(9)[5:], "gone")) == (2, 0, 0)


# the watch


def test_silences_are_measured_over_all_streams_and_in_each() -> None:
    watch = Watch(10.0, range(3))
    for lane, now in ((0, 11.0), (0, 11.5), (1, 13.0), (0, 14.0)):
        watch.arrived(lane, 0.0, now)
    assert watch.silence == 1.5
    assert watch.nexts == [1.0, 3.0]
    assert watch.stalls == [2.5, 3.0]
    watch.close(18.0)
    assert watch.silence == 4.0
    assert watch.stalls == [4.0, 5.0, 8.0]


def test_only_new_streams_count_where_the_old_ones_must_end() -> None:
    watch = Watch(10.0, range(1), fresh=True)
    watch.arrived(0, 9.0, 10.5)
    watch.arrived(0, 13.0, 13.0)
    assert (watch.silence, watch.nexts) == (3.0, [3.0])


def test_all_are_heard_when_each_has_been_heard_from_then_on() -> None:
    async def watching() -> None:
        watch = Watch(0.0, range(2))
        watch.arrived(0, 0.0, 1.0)
        waiting = asyncio.ensure_future(watch.all_heard(20.0))
        await asyncio.sleep(0)
        for lane in (1, 1, 7):
            watch.arrived(lane, 0.0, 2.0)
        await asyncio.sleep(0)
        assert not waiting.done()
        watch.left(0)
        await waiting

    uvloop.run(watching())


def test_who_stays_silent_is_told() -> None:
    async def watching() -> None:
        watch = Watch(0.0, range(2))
        with pytest.raises(Silent, match="2 streams were silent"):
            await watch.all_heard(0.0)

    uvloop.run(watching())


def test_a_spread_of_none_is_none() -> None:
    assert spread([]) is None
    found = spread([number / 1000 for number in range(200, 0, -1)])
    assert found is not None
    assert (found.p50, found.p99, found.max) == pytest.approx((101.0, 199.0, 200.0))


# the report


def summed(tally: Tally, deaths: int = 3, name: str = "worker", *faults: str) -> Report:
    """The report of a run that has shown this."""
    return report(name, 77, Seen(deaths, tally, Outages([0.02], [0.02], [0.06])), [*faults], 1.0)


def test_a_sound_run_is_not_judged() -> None:
    found = summed(Tally(tokens=5, whole=1))
    judge(found)
    assert found.target == "stall p99 <= 50 ms: MISSED"  # which is no fault
    assert "20.0/20.0/20.0" in line(found)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Report) == found


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (summed(Tally(tokens=5, lost=1)), "lost 1, doubled 0, changed 0"),
        (summed(Tally(tokens=5, doubled=1)), "lost 0, doubled 1, changed 0"),
        (summed(Tally(tokens=5, changed=1)), "lost 0, doubled 0, changed 1"),
        (summed(Tally(tokens=5, faults=["odd"])), "odd"),
        (summed(Tally(tokens=5), 3, "daemon", "a file was left"), "a file was left"),
        (summed(Tally()), "prove nothing"),
        (summed(Tally(tokens=5), 0), "prove nothing"),
    ],
)
def test_what_is_wrong_is_raised_with_its_seed(found: Report, text: str) -> None:
    with pytest.raises(AssertionError, match=rf"{found.scenario}, seed 77:\n  .*{text}"):
        judge(found)


# the daemon and its processes


@pytest.fixture(scope="module")
def upstream() -> Iterator[Spawned]:
    with spawned(knobs="pace=0") as running:
        yield running


def test_only_children_of_the_daemon_are_struck() -> None:
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        with pytest.raises(ProcessLookupError, match="is no child of 1"):
            Victim(other.pid, 1)
        victim = Victim(other.pid, os.getpid())
        victim.strike(signal.SIGKILL)
        assert uvloop.run(victim.ended())
        victim.close()
    finally:
        other.communicate()


def test_what_a_daemon_leaves_behind_is_named(upstream: Spawned) -> None:
    with service(upstream.port) as one:
        one.start()
        uvloop.run(one.complete())
        state = one.state
        assert one.left_of(state)  # it has not ended
        (one.run_dir / "odd").touch()
        assert one.stop() == ["file odd was left behind"]
        assert one.stop()[0].startswith("the daemon had ended with 0")


SMALL = Shape(lanes=4, tokens=200)


@pytest.mark.parametrize("name", [name for name in SCENARIOS if not name.startswith("hang")])
def test_a_small_run_of_each_scenario(name: str, upstream: Spawned) -> None:
    seed = int.from_bytes(os.urandom(4))
    found = bench.run(name, 2, seed, SMALL, upstream.port)
    judge(found)
    assert found.deaths == 2
    assert found.outage_ms is not None


def test_a_daemon_that_gives_up_is_a_fault(
    upstream: Spawned, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ringcast.bench.reliability import service as module

    settings = module.CONFIG.replace("restarts = 1000000", "restarts = 0")
    monkeypatch.setattr(module, "CONFIG", settings)
    found = bench.run("worker", 1, 5, SMALL, upstream.port)
    with pytest.raises(AssertionError, match="worker, seed 5"):
        judge(found)
    assert any("giving up" in fault for fault in found.faults)


def test_the_command_prints_what_it_found(capsys: pytest.CaptureFixture[str]) -> None:
    bench.main(["--short", "--kills", "1", "--seed", "3", "--scenario", "worker", "--json"])
    said = capsys.readouterr()
    (found,) = msgspec.json.decode(said.out, type=list[Report])
    assert (found.scenario, found.seed, found.deaths) == ("worker", 3, 1)
    assert said.err == "seed 3\n"
