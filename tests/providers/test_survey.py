"""How a provider is of which there are several keys."""

from __future__ import annotations

from ringcast.providers.inquiry import Health
from ringcast.providers.survey import of_all_keys

WELL = Health(True, 2.0)
REVOKED = Health(False, 3.0, "auth", "no")
SLOW = Health(False, 4.0, "total_timeout", "late")


def test_one_way_says_it_all() -> None:
    assert of_all_keys({"": WELL}) is WELL
    assert of_all_keys({"": REVOKED}) is REVOKED


def test_a_provider_is_well_if_one_of_its_keys_is() -> None:
    said = of_all_keys({"keys[0]": REVOKED, "keys[1]": WELL})
    assert said == Health(True, 2.0, message="keys[0]: auth: no")
    assert of_all_keys({"keys[0]": WELL, "keys[1]": WELL}) == WELL


def test_what_is_wrong_with_each_is_told() -> None:
    said = of_all_keys({"keys[0]": REVOKED, "keys[1]": SLOW})
    assert said == Health(False, 3.0, "auth", "keys[0]: auth: no; keys[1]: total_timeout: late")


def test_a_key_that_is_missing_is_told_with_the_others() -> None:
    said = of_all_keys({"keys[0]": WELL}, "keys[1]: B is not set")
    assert said == Health(True, 2.0, message="keys[1]: B is not set")
    said = of_all_keys({"keys[0]": REVOKED}, "keys[1]: B is not set")
    assert said.message == "keys[0]: auth: no; keys[1]: B is not set"
