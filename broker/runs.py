"""Runs of tokens: what a TOKENS record holds, and parts of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ringcast.shm import records
from ringcast.shm.ring import Record
from ringcast.shm.tokens import Error, decoder, encoder


def run_of(error: Error, slot: int, number: int, raw: int, end: int) -> Record:
    """Return a record, as if it ended at `end` of its ring, by which a stream ends."""
    flags = records.WHOLE | records.TERMINAL
    payload = memoryview(encoder.encode([error]))
    return Record(records.TOKENS, flags, 1, slot, number, raw, payload, end)


def fitted(record: Record, number: int) -> Record | None:
    """Return what a record adds to a stream that has all tokens below `number`, if anything.

    A successor of the worker says again what it must. If it lost an event on the way, its end
    has a number that was given before.
    """
    end = record.a + record.count
    if end > number:
        return _behind(record, number)
    return _last(record, number) if record.flags & records.TERMINAL else None


def rescued(wanted: Iterable[Record]) -> list[Record]:
    """Return the newest records, in one piece, that decode, on the heap."""
    kept: list[Record] = []
    for record in wanted:
        payload = bytes(record.payload)
        try:
            decoder.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            kept.clear()
        else:
            kept.append(msgspec.structs.replace(record, payload=memoryview(payload)))
    return kept


def _behind(record: Record, number: int) -> Record:
    """Return what a record holds from token `number` on."""
    rest = decoder.decode(record.payload)[number - record.a :]
    payload = memoryview(encoder.encode(rest))
    return msgspec.structs.replace(record, a=number, count=len(rest), payload=payload)


def _last(record: Record, number: int) -> Record:
    """Return the last token of a record, as number `number`."""
    payload = memoryview(encoder.encode(decoder.decode(record.payload)[-1:]))
    return msgspec.structs.replace(record, a=number, count=1, payload=payload)
