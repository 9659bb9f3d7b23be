"""What the README says of the providers is what they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from ringcast import config
from ringcast.providers.gateway import vendor
from ringcast.providers.request import ChatRequest, CompletionRequest

README = (Path(__file__).parents[1] / "README.md").read_text()
ROWS = dict(re.findall(r"^\| `([a-z-]+)` \| ([a-z, ]+) \| ", README, re.MULTILINE))


def test_every_kind_has_its_row() -> None:
    assert ROWS.keys() == set(get_args(config.Kind))


@pytest.mark.parametrize("kind", get_args(config.Kind))
def test_the_apis_of_a_kind(kind: config.Kind) -> None:
    assert ROWS[kind].split(", ") == list(vendor(config.Provider(kind, "http://x")).apis)


def test_the_fields_of_a_request_are_named() -> None:
    section = README.partition("**A request**")[2].partition("```sh")[0]
    named = set(re.findall(r"`([a-z_]+)`", section))
    fields = {*ChatRequest.__struct_fields__, *CompletionRequest.__struct_fields__}
    assert fields - named <= {"suffix"}


def test_the_settings_are_known() -> None:
    tables = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    assert len(tables) == 2
    for table in tables:
        config.parse(table, "README")
