"""The clocks of a request: what winds them, what stops them, and what never ends a stream falsely.

The rules are those of `ringcast.providers.http.clocks`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from typing import Literal

import pytest
from fakes.daemon import Daemon, ask, daemon, free_port, in_loop, replaying, take, take_some, texts
from fakes.frames import chunk, message
from fakes.pipeline import ring
from hypothesis import given
from hypothesis import strategies as st

from ringcast.config import Timeouts
from ringcast.errors import Code
from ringcast.providers.flow import Flow, Outlet
from ringcast.providers.http.clocks import LATE_S, TICK_S, Clocks, Sleep, boottime
from ringcast.providers.http.patience import Patience
from ringcast.providers.wire.liveness import LARGEST, keeps_alive
from ringcast.providers.wire.sse import SseFramer
from ringcast.replay.numbered import numbered_tokens
from ringcast.shm.ring import Writer
from ringcast.shm.tokens import Done

LIMITS = Timeouts(first_token_s=20.0, idle_s=10.0, total_s=60.0)


class Life:
    """Clocks, and a time of our own that they are looked at in."""

    def __init__(self, timeouts: Timeouts = LIMITS) -> None:
        self.now = 1000.0
        self.clocks = Clocks(timeouts, self.now)

    def run(self, seconds: float) -> Code | None:
        """Let time pass, with a look every tick; which clock has run out first, if any."""
        end = self.now + seconds
        while self.now < end:
            self.now += TICK_S
            if (run_out := self.clocks.run_out(self.now)) is not None:
                return run_out.code
        return None

    def answer(self) -> None:
        self.clocks.answered(self.now)
        self.clocks.token_seen()

    def event(self, *, alive_only: bool = False) -> None:
        self.clocks.came(self.now, not alive_only)


def test_each_clock_has_its_code_and_names_its_setting() -> None:
    """Rule 1."""
    silent, endless, wordless = Life(), Life(), Life()
    silent.answer()
    assert silent.run(10) is None
    assert silent.run(1) == Code.IDLE_TIMEOUT
    endless.answer()
    for _ in range(11):
        assert endless.run(5) is None
        endless.event()
    assert endless.run(6) == Code.TOTAL_TIMEOUT
    assert wordless.run(20) is None
    assert wordless.run(1) == Code.FIRST_TOKEN_TIMEOUT
    for life, setting in ((silent, "idle_s"), (endless, "total_s"), (wordless, "first_token_s")):
        run_out = life.clocks.run_out(life.now)
        assert run_out is not None
        seconds = getattr(LIMITS, setting)
        assert f"{seconds:g} s (timeouts.{setting})" in run_out.message


def test_a_clock_of_zero_seconds_is_off() -> None:
    life = Life(Timeouts(first_token_s=0, idle_s=0, total_s=0))
    life.clocks.answered(life.now)
    assert life.run(10_000) is None


def test_events_without_a_visible_token_do_not_stop_the_first_token_clock() -> None:
    life = Life()
    life.clocks.answered(life.now)
    for _ in range(4):
        assert life.run(5) is None
        life.event()
    assert life.run(1) == Code.FIRST_TOKEN_TIMEOUT


def test_p12_before_the_head_the_idle_clock_does_not_run() -> None:
    """The transport's first-byte clock does."""
    life = Life()
    assert life.run(LIMITS.idle_s + 5) is None


@pytest.mark.parametrize("apart", [0.5, 2.0])
def test_p13_p14_keep_alives_and_pieces_of_an_event_do_not_wind_the_idle_clock(
    apart: float,
) -> None:
    """Rule 2. The text says that something came."""
    life = Life()
    life.answer()
    code = None
    while code is None:
        life.event(alive_only=True)
        code = life.run(apart)
    assert code == Code.IDLE_TIMEOUT
    assert life.now <= 1000 + LIMITS.idle_s + apart + TICK_S
    run_out = life.clocks.run_out(life.now)
    assert run_out is not None
    assert run_out.message.startswith("no event, only keep-alives")


def test_a_pause_of_ours_does_not_count() -> None:
    """Rule 3, for every clock; and what was left before it is left after it."""
    life = Life()
    life.answer()
    assert life.run(9) is None
    life.clocks.pause(life.now)
    assert life.run(10_000) is None
    life.clocks.resume(life.now)
    assert life.run(0.75) is None
    assert life.run(0.5) == Code.IDLE_TIMEOUT


def test_bytes_of_a_read_already_made_end_no_pause() -> None:
    life = Life()
    life.answer()
    life.clocks.pause(life.now)
    for _ in range(1000):
        life.event()
        assert life.run(0.5) is None
    life.clocks.resume(life.now)
    assert life.run(LIMITS.idle_s) is None


def test_time_in_which_the_process_stood_still_is_given_back() -> None:
    """Rule 4: a stop, or a sleep on a system whose monotonic clock goes on in it."""
    life = Life()
    life.answer()
    assert life.run(9.5) is None
    life.now += 3600
    assert life.clocks.run_out(life.now) is None  # what came meanwhile is read first
    assert life.run(0.5) is None
    assert life.run(0.5) == Code.IDLE_TIMEOUT


def test_what_is_read_first_after_a_standstill_winds_the_clock_as_ever() -> None:
    life = Life()
    life.answer()
    assert life.run(9.5) is None
    life.now += 3600
    life.event()
    assert life.run(10) is None
    assert life.run(0.5) == Code.IDLE_TIMEOUT


Step = Literal["tick", "stop", "pause", "keep-alive", "event"]
STEPS: list[Step] = ["tick", "stop", "pause", "keep-alive", "event"]


@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(1, 40)), max_size=60))
def test_whatever_happens_a_clock_runs_out_when_its_time_was_lived(
    story: list[tuple[Step, int]],
) -> None:
    life = Life()
    life.answer()
    lived = progress = 0.0
    for what, ticks in story:
        seconds = ticks * TICK_S
        match what:
            case "tick":
                code = life.run(seconds)
                lived += seconds
                late = lived - progress > LIMITS.idle_s or lived > LIMITS.total_s
                assert (code is not None) == late
                if late:
                    return
            case "stop":
                life.now += LATE_S + seconds
                assert life.clocks.run_out(life.now) is None
            case "pause":
                life.clocks.pause(life.now)
                assert life.run(seconds) is None
                life.clocks.resume(life.now)
            case _:
                life.event(alive_only=what == "keep-alive")
                progress = progress if what == "keep-alive" else lived


# a machine that sleeps


def test_a_sleep_is_what_only_one_of_two_clocks_has_lived() -> None:
    sleep = Sleep(100.0, 5000.0)
    assert not sleep.slept(130.0, 5030.2)
    assert sleep.slept(131.0, 5031.2 + 28_800)
    assert not sleep.slept(132.0, 5032.2 + 28_800)


def test_a_process_that_was_only_stopped_has_not_slept() -> None:
    assert not Sleep(100.0, 5000.0).slept(9100.0, 14_000.0)


def test_both_clocks_of_this_machine_go_alike() -> None:
    sleep = Sleep(time.monotonic(), boottime())
    assert not sleep.slept(time.monotonic(), boottime())


# a wait of the transport's


@in_loop
async def test_patience_ends() -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        async with Patience(0.3):
            await asyncio.Event().wait()
    assert time.monotonic() - began >= 0.29


@in_loop
async def test_without_a_limit_patience_does_not_end() -> None:
    async with Patience(None):
        await asyncio.sleep(0.01)


@in_loop
async def test_patience_outlasts_a_process_that_stands_still() -> None:
    """Rule 4: what became ready meanwhile is seen, and what was left of the time is still left."""
    ready = asyncio.Event()
    async with Patience(0.5):
        asyncio.get_running_loop().call_later(0.3, ready.set)
        time.sleep(LATE_S + 0.3)  # noqa: ASYNC251 - the loop stands still as in a stopped process
        await ready.wait()
        await asyncio.sleep(0.1)


# what only keeps alive

PING = b'event: ping\ndata: {"type": "ping"}\n\n'


@pytest.mark.parametrize(
    "block",
    [
        PING,
        PING * 5,
        PING.replace(b"\n", b"\r\n"),
        b'event: keepalive\ndata: {"type":"keepalive","sequence_number":3}\n\n',
        b'data: {"type": "ping"}   \n\n',
        b"event: ping\ndata: {}\n\n",
        b"event: ping\n\n",
        b": keep-alive\n\n" + PING,
        b"id: 7\nretry: 100\n" + PING,
        b"data: : keepalive\n\n",
        chunk({"type": "ping"}),
        chunk({"type": "ping"}) * 2,
    ],
)
def test_pings_are_known(block: bytes) -> None:
    assert keeps_alive(block)


@pytest.mark.parametrize(
    "block",
    [
        b'event: error\ndata: {"type":"error"}\n\n',
        b"event: error\ndata: {}\n\n",
        b'data: {"type":"ping","x":{"a":1}}\n\n',
        b'data: {"type":"pings"}\n\n',
        b'data: {"choices":[{"delta":{"content":"ping"}}]}\n\n',
        PING + b'data: {"choices":[]}\n\n',
        b'data: {"choices":[]}\n\n' + PING,
        b"data: [DONE]\n\n",
        b'{"message":{"content":"ping"}}\n',
        b"\0\0\0\x10\0\0\0\0\x05\xc2\x48\xeb\x7d\x98\xc8\xff",
        PING * (LARGEST // len(PING) + 1),
        chunk({"type": "pings"}),
        chunk({"type": "ping"}) + chunk({"type": "message_stop"}),
        message({":message-type": "exception"}, b'{"message":"ping"}'),
    ],
)
def test_all_else_gets_on(block: bytes) -> None:
    """A block of many pings as well: it is not looked at."""
    assert not keeps_alive(block)


def test_pings_reach_the_worker_and_are_no_progress() -> None:
    flow = Flow(1, Outlet(Writer(ring(1 << 16)), lambda: None), SseFramer(), 1 << 30)
    assert flow.data(b'data: {"choices":[]}\n\n', 0)
    sent = flow.sent
    assert not flow.data(PING[:10], 0)
    assert not flow.data(PING[10:], 0)
    assert flow.sent == sent + len(PING)


# a provider process that is stopped

PORT = free_port()
CONFIG = f"""
[providers.up]
kind = "openai-compatible"
base_url = "http://127.0.0.1:{PORT}/v1"
[timeouts]
connect_s = 1.2
first_byte_s = 1.2
idle_s = 1.2
"""


@pytest.fixture(scope="module")
def running() -> Iterator[Daemon]:
    with daemon(CONFIG) as started:
        yield started


@in_loop
async def test_a_provider_process_that_is_stopped_and_continued_ends_nothing(
    running: Daemon,
) -> None:
    """Longer than any clock: one answer is awaited meanwhile, and one is on its way."""
    async with replaying(PORT) as upstream, running.connect() as client:
        awaited = await ask(client, "up/numbered;n=3;delay_s=0.8")
        under_way = await ask(client, "up/numbered;n=30;pace=20;seed=1")
        await upstream.until(lambda: len(upstream.seen) == 2)
        begun = await take_some(under_way, 3)
        pid = running.pid("provider")
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(1.8)
        finally:
            os.kill(pid, signal.SIGCONT)
        first, second = await take(awaited), begun + await take(under_way)
        assert texts(first) == list(numbered_tokens(3))
        assert texts(second) == list(numbered_tokens(30, 1))
        assert isinstance(first[-1], Done)
        assert isinstance(second[-1], Done)
        assert running.pid("provider") == pid
