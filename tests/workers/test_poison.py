"""Poison: a record that two workers in a row died at, and no other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fakes.pipeline import worker_counters
from hypothesis import given
from hypothesis import strategies as st

from ringcast.shm.counters import Block
from ringcast.workers import poison


@pytest.mark.parametrize("deaths", [[], [16], [16, 32], [16, 32, 16], [16, 0, 0]])
def test_one_death_after_another_record_is_not_enough(deaths: list[int]) -> None:
    assert last(found(deaths)) == poison.NONE


@pytest.mark.parametrize("deaths", [[16, 16], [32, 16, 16], [16, 16, 0], [16, 16, 16], [16, 0, 16]])
def test_the_second_death_at_a_record_makes_it_poison(deaths: list[int]) -> None:
    """The worker between may have done much else: what it finds, it finds again."""
    assert last(found(deaths)) == 16


def test_another_record_takes_its_place() -> None:
    assert list(found([16, 16, 32, 32])) == [poison.NONE, 16, poison.NONE, 32]


@given(st.lists(st.sampled_from([0, 16, 32]), max_size=12))
def test_it_is_what_the_last_two_deaths_were_at(deaths: list[int]) -> None:
    noted = [at for at in deaths if at]
    same = len(noted) > 1 and noted[-1] == noted[-2]
    assert last(found(deaths)) == (noted[-1] if same else poison.NONE)


def found(deaths: list[int]) -> Iterator[int]:
    """What each successor finds, of workers of which each died at a record, or at none (0)."""
    counters: Block = worker_counters()
    for at in deaths:
        counters.set(counters.slot("at"), at)
        yield poison.find(counters)
        assert counters.get(counters.slot("at")) == 0


def last(each: Iterator[int]) -> int:
    return [poison.NONE, *each][-1]
