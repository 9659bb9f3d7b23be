"""The counting process's answers; what becomes of it is in `test_counting`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fakes.ranks import install

from ringcast.errors import Code
from ringcast.providers import commands, request
from ringcast.providers.commands import Ask
from ringcast.workers.counter import answer
from ringcast.workers.token_count import SEARCH, SLICE, count_request

ASK = commands.encode(Ask(7, "count", "up", "gpt-4o"))


@pytest.fixture(autouse=True)
def small(tmp_path: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        install(patch, tmp_path)
        yield


def asked(text: str) -> dict[str, Any]:
    return {"model": "up/gpt-4o", "messages": [{"role": "user", "content": text}]}


def test_it_counts_as_the_library_does_and_beats_on_the_way() -> None:
    beats: list[None] = []
    fields = asked("hello ring " * 9000)
    said = answer(ASK, msgspec.msgpack.encode(fields), lambda: beats.append(None))
    assert said.number == 7
    counted = count_request(request.of(**fields))
    assert counted.accuracy == "exact"
    assert msgspec.msgpack.decode(said.data) == msgspec.to_builtins(counted)
    assert len(beats) >= 99_000 // (SLICE + SEARCH)


@pytest.mark.parametrize("unit", ["a", " ", "環", "1", "\n"])
def test_text_without_a_place_to_cut_beats_as_often(unit: str) -> None:
    beats: list[None] = []
    text = unit * (1 << 18)
    said = answer(ASK, msgspec.msgpack.encode(asked(text)), lambda: beats.append(None))
    assert msgspec.msgpack.decode(said.data)["tokens"] > 0
    assert len(beats) >= len(text) // (SLICE + SEARCH)


def test_a_tool_of_any_depth_is_counted_or_refused() -> None:
    outcomes = set()
    for depth in (*range(1, 1200, 7), 3000, 12_000, 100_000):  # limits differ between Pythons
        head = msgspec.msgpack.encode(asked("hi"))[1:]
        tools = msgspec.msgpack.encode("tools") + b"\x91" + b"\x81\xa1a" * depth + b"\xc0"
        outcomes.add(answer(ASK, b"\x83" + head + tools, lambda: None).code)
    assert outcomes == {"", Code.BAD_REQUEST}


@pytest.mark.parametrize("text", [b"", b"\xc0", b"\x81\xa5model\x01", b"\x91" * 5000, b"\xff"])
def test_what_is_no_request_is_refused(text: bytes) -> None:
    said = answer(ASK, text, lambda: None)
    assert (said.number, said.code) == (7, Code.BAD_REQUEST)
    assert said.message
