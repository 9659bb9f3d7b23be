"""Deaths within a while."""

from __future__ import annotations

from ringcast.deaths import Deaths


def test_more_than_are_borne_within_the_window_are_too_many() -> None:
    deaths = Deaths(2, 10.0)
    assert [deaths.add(now) for now in (0.0, 1.0)] == [1, 2]
    assert not deaths.too_many(1.0)
    assert deaths.add(2.0) == 3
    assert deaths.too_many(10.0)


def test_old_deaths_are_forgotten() -> None:
    deaths = Deaths(0, 10.0)
    deaths.add(0.0)
    assert deaths.too_many(10.0)
    assert not deaths.too_many(10.1)
    assert deaths.add(11.0) == 1
