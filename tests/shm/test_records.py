"""What the records say about themselves."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringcast.shm import layout, records
from ringcast.shm.records import BEGIN, LAST, REST, TERMINAL, WHOLE, Open, is_whole
from ringcast.shm.ring import Reader, Writer

CAPACITY = 1 << 10


def test_kinds_and_flags_fit_their_byte_and_differ() -> None:
    assert sorted(records.NAMES) == list(range(1, len(records.NAMES) + 1))
    assert len(set(records.NAMES.values())) == len(records.NAMES)
    for number, name in records.NAMES.items():
        assert getattr(records, name) == number
    flags = (BEGIN, LAST, REST, TERMINAL)
    assert sum(flags) == BEGIN | LAST | REST | TERMINAL < 256


@pytest.mark.parametrize("other", [0, REST, TERMINAL, REST | TERMINAL])
def test_r4_whole_is_begin_and_last(other: int) -> None:
    """R4: a payload is whole only if it both begins and ends in the record."""
    assert is_whole(WHOLE | other)
    assert not any(is_whole(flags | other) for flags in (0, BEGIN, LAST))


@given(st.binary(max_size=64), st.text(max_size=9), st.text(max_size=9), st.text(max_size=9))
def test_open_round_trip(identity: bytes, api: str, provider: str, model: str) -> None:
    opened = Open(identity, api, provider, model)
    assert records.decode_open(records.encode_open(opened)) == opened


def test_a_newer_open_is_understood_and_a_broken_one_refused() -> None:
    """Fields are only ever added at the end."""
    known = [b"i" * 16, "openai.chat", "openai", "m", "kind", "", b"", 0, 1, True, None]
    newer = msgspec.msgpack.encode([*known, "new"])
    assert records.decode_open(newer) == Open(b"i" * 16, "openai.chat", "openai", "m", "kind")
    for broken in (b"", b"\xc1", msgspec.msgpack.encode([b"i", "api"])):
        with pytest.raises(msgspec.DecodeError):
            records.decode_open(broken)


@given(st.binary(min_size=1, max_size=700))
def test_r4_a_larger_payload_crosses_in_fragments(payload: bytes) -> None:
    """R4: BEGIN on the first, LAST on the last, and nothing but order joins them."""
    memory = memoryview(bytearray(layout.size_of(CAPACITY)))
    layout.initialise(memory, CAPACITY)
    writer, reader = Writer(memory), Reader(memory)
    starts = range(0, len(payload), writer.max_payload)
    for at in starts:
        flags = BEGIN * (at == 0) | LAST * (at == starts[-1])
        part = payload[at : at + writer.max_payload]
        assert writer.append(records.DATA, 1, 0, 0, part, flags)
    writer.publish()
    parts = reader.poll()
    assert b"".join(part.payload for part in parts) == payload
    assert [bool(part.flags & BEGIN) for part in parts] == [at == 0 for at in starts]
    assert [bool(part.flags & LAST) for part in parts] == [at == starts[-1] for at in starts]
    assert is_whole(parts[0].flags) == (len(parts) == 1)
