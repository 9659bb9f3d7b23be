"""`TokenDecoder`: token ids to text, for servers that stream ids. Pure."""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from ringcast.shm.tokens import Delta

if TYPE_CHECKING:
    from tiktoken import Encoding

BUCKETS: Final = 20  # of a window: the rate is off by a twentieth at most
_FOREIGN: Final = b"\xff"  # no byte of UTF-8: becomes U+FFFD, after what was incomplete before it


class DecoderStatistics(msgspec.Struct, frozen=True):
    """Ids so far, those of them that the encoding does not have, and ids a second."""

    total: int
    unknown: int
    tokens_per_s: float


class _State(msgspec.Struct, frozen=True, array_like=True):
    pending: bytes
    total: int
    unknown: int


class TokenDecoder:
    """Turns the ids of one choice into text; a character is given once it is complete.

    `encoding` is any of tiktoken's (see `ranks.encoding`, `ranks.build`), with ids of 32 bits.
    Special tokens are no text and are left out, unless `special`. An id that the encoding does
    not have becomes U+FFFD, and so do bytes that are not UTF-8.

    Time comes as `now_ns`, of any clock that does not go backwards.
    """

    def __init__(self, encoding: Encoding, *, special: bool = False, window_s: float = 5.0) -> None:
        self._encoding = encoding
        names = () if special else encoding.special_tokens_set
        self._skipped = frozenset(encoding.encode_single_token(name) for name in names)
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")
        self._total = 0
        self._unknown = 0
        self._rate = _Rate(int(window_s * 1e9))

    def decode(self, ids: Sequence[int], now_ns: int | None = None) -> str:
        """Return the text that these ids complete; without a time they are not in the rate."""
        self._total += len(ids)
        if now_ns is not None:
            self._rate.add(len(ids), now_ns)
        return self._characters.decode(self._bytes(ids))

    def fill(self, delta: Delta, now_ns: int | None = None) -> Delta:
        """Return a delta with the text of its ids, if it came without text."""
        if delta.content or not delta.token_ids:
            return delta
        return msgspec.structs.replace(delta, content=self.decode(delta.token_ids, now_ns))

    def flush(self) -> str:
        """Return what is left at the end: U+FFFD for a character that was never completed."""
        return self._characters.decode(b"", final=True)

    def statistics(self, now_ns: int) -> DecoderStatistics:
        """Return the counts, and the rate over the last `window_s` or since the first id."""
        return DecoderStatistics(self._total, self._unknown, self._rate.per_s(now_ns))

    def state(self) -> bytes:
        """Return what another decoder needs to go on from here; the rate is not part of it."""
        pending, _ = self._characters.getstate()
        return msgspec.msgpack.encode(_State(pending, self._total, self._unknown))

    def restore(self, state: bytes) -> None:
        """Go on where a decoder of the same encoding was. Raises `msgspec.DecodeError`."""
        known = msgspec.msgpack.decode(state, type=_State)
        self._characters.setstate((known.pending, 0))
        self._total, self._unknown = known.total, known.unknown

    def _bytes(self, ids: Sequence[int]) -> bytes:
        if not self._skipped.isdisjoint(ids):
            ids = [one for one in ids if one not in self._skipped]
        try:
            return self._encoding.decode_bytes(ids)
        except (KeyError, OverflowError):
            return b"".join(map(self._single, ids))

    def _single(self, one: int) -> bytes:
        try:
            return self._encoding.decode_single_token_bytes(one)
        except (KeyError, OverflowError):  # OverflowError: below zero, or beyond 32 bits
            self._unknown += 1
            return _FOREIGN


class _Rate:
    """Counts over a sliding window, in buckets: bounded memory at any speed."""

    def __init__(self, window_ns: int) -> None:
        self._bucket_ns = max(window_ns // BUCKETS, 1)
        self._buckets: deque[tuple[int, int]] = deque(maxlen=BUCKETS)  # number, count
        self._first_ns: int | None = None

    def add(self, count: int, now_ns: int) -> None:
        if self._first_ns is None:
            self._first_ns = now_ns
        number = now_ns // self._bucket_ns
        if self._buckets and self._buckets[-1][0] == number:
            count += self._buckets.pop()[1]
        self._buckets.append((number, count))

    def per_s(self, now_ns: int) -> float:
        if self._first_ns is None:
            return 0.0
        oldest = now_ns // self._bucket_ns - BUCKETS + 1
        counted = sum(count for number, count in self._buckets if number >= oldest)
        began_ns = max(self._first_ns, oldest * self._bucket_ns)
        return counted * 1e9 / max(now_ns - began_ns, self._bucket_ns)
