"""`TokenDecoder`: however ids are grouped, the text is the same, and no character comes in half."""

from __future__ import annotations

import base64
import itertools

import msgspec
import pytest
from fakes.ranks import DATA
from hypothesis import given
from hypothesis import strategies as st

from ringcast.shm.tokens import Delta
from ringcast.workers import ranks
from ringcast.workers.token_decoder import TokenDecoder

HIGH = 65536 + ord("A")  # what 16 bits would make an "A" of
SPECIAL = {"<|end|>": 2**32 - 1}
PATTERN = ranks.RECIPES["o200k_base"].pattern
ENCODING = ranks.build(
    "small", DATA + b"%s %d\n" % (base64.b64encode(b"high"), HIGH), PATTERN, SPECIAL
)

texts = st.text(st.sampled_from("a b1\n.ringé环😀\u0301"))
ids = st.lists(st.integers(0, 255), max_size=40)


def groups(data: st.DataObject, whole: list[int]) -> list[list[int]]:
    """Cut ids into groups, some of them empty."""
    places = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    edges = [0, *places, len(whole)]
    return [whole[a:b] for a, b in itertools.pairwise(edges)]


@given(texts, st.data())
def test_any_grouping_gives_the_text(text: str, data: st.DataObject) -> None:
    decoder = TokenDecoder(ENCODING)
    whole = ENCODING.encode_ordinary(text)
    pieces = [decoder.decode(group) for group in groups(data, whole)]
    assert "".join(pieces) == text
    assert decoder.flush() == ""
    assert decoder.statistics(0).total == len(whole)


@given(ids, st.data())
def test_any_bytes_in_any_grouping(whole: list[int], data: st.DataObject) -> None:
    """The small encoding's first 256 ids are the bytes, so any bytes can come, and be cut."""
    decoder = TokenDecoder(ENCODING)
    text = "".join(decoder.decode(group) for group in groups(data, whole)) + decoder.flush()
    assert text == bytes(whole).decode("utf-8", "replace")


def test_a_character_comes_once_it_is_complete() -> None:
    decoder = TokenDecoder(ENCODING)
    assert [decoder.decode([byte]) for byte in "é😀".encode()] == ["", "é", "", "", "", "😀"]


def test_flush_says_what_never_was_completed() -> None:
    decoder = TokenDecoder(ENCODING)
    assert decoder.decode(list("a😀".encode()[:4])) == "a"
    assert decoder.flush() == "\ufffd"
    assert decoder.flush() == ""
    assert decoder.decode([ord("b")]) == "b"


def test_ids_have_32_bits() -> None:
    assert TokenDecoder(ENCODING).decode([HIGH]) == "high"
    assert TokenDecoder(ENCODING, special=True).decode([2**32 - 1]) == "<|end|>"


def test_special_tokens_are_no_text() -> None:
    said = [ord("a"), 2**32 - 1, ord("b")]
    assert TokenDecoder(ENCODING).decode(said) == "ab"
    assert TokenDecoder(ENCODING, special=True).decode(said) == "a<|end|>b"


@pytest.mark.parametrize("unknown", [60000, -1, 2**32, 2**80])
def test_an_unknown_id_is_seen_and_counted(unknown: int) -> None:
    decoder = TokenDecoder(ENCODING)
    begun = "😀".encode()[0]
    assert decoder.decode([ord("a"), unknown, begun, unknown, ord("b")]) == "a\ufffd\ufffd\ufffdb"
    found = decoder.statistics(0)
    assert (found.total, found.unknown) == (5, 2)


@given(st.lists(st.integers(0, 400) | st.just(2**32 - 1), max_size=20))
def test_another_decoder_goes_on_at_any_id(whole: list[int]) -> None:
    straight = TokenDecoder(ENCODING)
    expected = "".join(straight.decode([one]) for one in whole) + straight.flush()
    decoder, text = TokenDecoder(ENCODING), ""
    for one in whole:
        text += decoder.decode([one])
        successor = TokenDecoder(ENCODING)
        successor.restore(decoder.state())
        decoder = successor
    assert text + decoder.flush() == expected
    assert decoder.statistics(0) == straight.statistics(0)


@pytest.mark.parametrize("state", [b"", b"\xc1", b"\x93\x01\x02\x03", b"\x90"])
def test_a_state_that_is_none(state: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        TokenDecoder(ENCODING).restore(state)


def test_rate_of_a_steady_stream() -> None:
    decoder = TokenDecoder(ENCODING, window_s=2.0)
    assert decoder.statistics(0).tokens_per_s == 0.0
    for i in range(1000):  # a hundred a second for ten seconds
        decoder.decode([97, 98], i * 20_000_000)
        if i >= 50:
            assert decoder.statistics(i * 20_000_000).tokens_per_s == pytest.approx(100, rel=0.1)
    assert decoder.statistics(21_000_000_000).tokens_per_s == pytest.approx(50, rel=0.2)
    assert decoder.statistics(30_000_000_000).tokens_per_s == 0.0
    assert decoder.statistics(30_000_000_000).total == 2000


def test_ids_without_a_time_are_not_in_the_rate() -> None:
    decoder = TokenDecoder(ENCODING)
    decoder.decode([97] * 1000)
    decoder.decode([97] * 10, 0)
    found = decoder.statistics(1_000_000_000)
    assert (found.total, found.tokens_per_s) == (1010, 10.0)


def test_deltas_of_a_server_that_sends_ids_only() -> None:
    decoder = TokenDecoder(ENCODING)
    euro = list("€".encode())
    assert decoder.fill(Delta("", 2, token_ids=euro[:2])) == Delta("", 2, token_ids=euro[:2])
    assert decoder.fill(Delta("", 2, token_ids=euro[2:])) == Delta("€", 2, token_ids=euro[2:])
    for delta in (Delta("said", token_ids=[97]), Delta("said"), Delta("", token_ids=[])):
        assert decoder.fill(delta) is delta
    assert decoder.statistics(0).total == 3
