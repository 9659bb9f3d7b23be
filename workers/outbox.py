"""What a stage has to say and has not appended to its out-ring yet: records, in their order.

1. A record's payload has a largest size. A list of tokens that is over it is halved until its
   parts fit, and a single text that is over it becomes several tokens.
2. Any other token that is too large stays one token, in fragments from BEGIN to LAST; so does a
   decoder's state.
3. Tokens get their numbers here, in the order in which they are packed.
4. What a stream says in one round is a step: all records of it but the last have MORE, so that
   who reads them goes by all of them or by none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from ringcast.providers.wire.portable import UNPORTABLE, portable
from ringcast.shm import records
from ringcast.shm.layout import HEADER
from ringcast.shm.tokens import Done, Error, StreamToken, encoder
from ringcast.workers.stream import Stream, split

# What `Writer.append` takes: kind, stream, a, b, payload, flags, count.
Waiting: TypeAlias = tuple[int, int, int, int, bytes, int, int]

TERMINAL: Final = (Done, Error)
_NO_TOKENS: Final = b"\x90"  # an empty array


class Outbox(list[Waiting]):
    """The records that wait, the first to be appended first.

    It is a list, so that a record that is ready to be appended costs no call of ours.
    """

    def __init__(
        self, largest: int, batch_tokens: int, text_characters: int, odd: Callable[[], None]
    ) -> None:
        """Bound a record by `largest` bytes of payload, or `batch_tokens` in it.

        A text that does not fit is cut into tokens of `text_characters`. `odd` is told of each
        list with a token that cannot be encoded and is changed until it can.
        """
        super().__init__()
        self._largest = largest
        self._batch_tokens = batch_tokens
        self._text_characters = text_characters
        self._odd = odd

    @property
    def size(self) -> int:
        """The room in a ring that they need at most, in bytes, without a PAD."""
        return sum(len(payload) + HEADER + 7 for _, _, _, _, payload, _, _ in self)

    def tokens(self, slot: int, stream: Stream, tokens: list[StreamToken]) -> None:
        """Number tokens (at least one) and pack them into records that fit (rules 1 to 3)."""
        try:
            payload = encoder.encode(tokens)
        except UNPORTABLE:  # a dialect let something pass: better a changed token than a death
            self._odd()
            tokens = portable(tokens)
            payload = encoder.encode(tokens)
        count = len(tokens)
        if len(payload) <= self._largest and count <= self._batch_tokens:
            number, flags = stream.next_seq, records.WHOLE | _mark(tokens[-1])
            self.append((records.TOKENS, slot, number, stream.raw, payload, flags, count))
            stream.next_seq = number + count
        elif count > 1:
            self.tokens(slot, stream, tokens[: count // 2])
            self.tokens(slot, stream, tokens[count // 2 :])
        elif len(pieces := split(tokens[0], self._text_characters)) > 1:
            self.tokens(slot, stream, pieces)
        else:
            self.fragments(records.TOKENS, slot, stream, payload, _mark(tokens[0]), 1)
            stream.next_seq += 1

    def silence(self, slot: int, stream: Stream) -> None:
        """Say how much of the body is dealt with, though no token came of it."""
        number, raw = stream.next_seq, stream.raw
        self.append((records.TOKENS, slot, number, raw, _NO_TOKENS, records.WHOLE, 0))

    def fragments(
        self, kind: int, slot: int, stream: Stream, payload: bytes, flags: int = 0, count: int = 0
    ) -> None:
        """Cut a payload over as many records as it needs (rule 2); the broker joins it again."""
        step = self._largest
        for at in range(0, len(payload), step):
            piece = payload[at : at + step]
            mark = (0 if at else records.BEGIN) | (records.LAST if at + step >= len(payload) else 0)
            self.append((kind, slot, stream.next_seq, stream.raw, piece, mark | flags, count))

    def join(self, first: int) -> None:
        """Make one step of the records from number `first` on (rule 4)."""
        self[first:-1] = [
            (kind, slot, a, b, payload, flags | records.MORE, count)
            for kind, slot, a, b, payload, flags, count in self[first:-1]
        ]


def start(epoch: int, broker: int) -> Waiting:
    """START: which worker this is, and which broker it speaks to."""
    return records.START, 0, epoch, broker, b"", records.WHOLE, 0


def opened(slot: int, stream: Stream, flags: int = 0) -> Waiting:
    """OPEN, as it came in."""
    return records.OPEN, slot, stream.opened_ns, 0, stream.opened, records.WHOLE | flags, 0


def again(slot: int, at_ns: int, raw: int = 0, payload: bytes = b"", flags: int = 0) -> Waiting:
    """AGAIN: the stream may yet go on, behind `raw` bytes of what ended at `at_ns`.

    With UNSAID it failed, and `payload` is the error; with TERMINAL it is lost.
    """
    return records.AGAIN, slot, at_ns, raw, payload, records.WHOLE | flags, 0


def _mark(last: StreamToken) -> int:
    return records.TERMINAL if type(last) in TERMINAL else 0
