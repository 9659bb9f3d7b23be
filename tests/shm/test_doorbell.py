"""The doorbell: an eventfd, or a pipe where there is none (R9)."""

from __future__ import annotations

import multiprocessing
import os
import select
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from ringcast.shm.doorbell import Doorbell

WAIT_S = 60


@pytest.fixture(params=["eventfd", "pipe"])
def bell(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Doorbell]:
    if request.param == "pipe":
        monkeypatch.delattr(os, "eventfd")
    bell = Doorbell.create()
    yield bell
    bell.close()


def heard(bell: Doorbell, wait_s: float = 0) -> bool:
    return bool(select.select([bell], [], [], wait_s)[0])


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_heard_once_however_often_rung(bell: Doorbell) -> None:
    assert not heard(bell)
    for times in (1, 5, 1000):
        for _ in range(times):
            bell.ring()
        assert heard(bell)
        bell.clear()
        assert not heard(bell)


def test_ringing_and_clearing_never_block(bell: Doorbell) -> None:
    """20,000 rings are more than a pipe of 64 KiB holds; one clear takes them all."""
    bell.clear()
    for _ in range(20_000):
        bell.ring()
    bell.clear()
    assert not heard(bell)


def test_a_ring_before_the_wait_is_not_lost(bell: Doorbell) -> None:
    bell.ring()
    assert heard(bell, WAIT_S)


def test_a_full_eventfd_is_still_heard() -> None:
    bell = Doorbell.create()
    os.eventfd_write(bell.fileno(), (1 << 64) - 2)
    bell.ring()
    assert heard(bell)
    bell.close()


def test_descriptors_are_not_inherited(bell: Doorbell) -> None:
    assert not os.get_inheritable(bell.fileno())


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_child_that_is_being_started_gets_it(
    bell: Doorbell, method: Literal["forkserver", "spawn"]
) -> None:
    """Both descriptors: the parent hears the child's ring, the child takes the parent's."""
    context: Any = multiprocessing.get_context(method)
    for deed, before, after in ((bell.ring, False, True), (bell.clear, True, False)):
        assert heard(bell) == before
        child = context.Process(target=deed)
        child.start()
        child.join(WAIT_S)
        assert child.exitcode == 0
        assert heard(bell) == after


def test_no_descriptor_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_descriptors()
    for _ in range(50):
        Doorbell.create().close()
    monkeypatch.delattr(os, "eventfd")
    for _ in range(50):
        Doorbell.create().close()
    assert open_descriptors() == before
