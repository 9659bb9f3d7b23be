"""One stream inside a worker: its decoder, its numbering and its clock readings."""

from __future__ import annotations

from typing import Final

import msgspec

from ringcast.providers.commands import Adopted
from ringcast.providers.wire.body import Body, Ending, open_body
from ringcast.shm import records
from ringcast.shm.records import decode_open
from ringcast.shm.tokens import Done, Error, Reasoning, Refusal, StreamToken, Summary, Text
from ringcast.workers.transform_catalog import open_transforms

# The provider process has held the body to the configured limits already.
UNLIMITED: Final = {"max_line_bytes": 1 << 62, "max_event_bytes": 1 << 62}

decode_ending = msgspec.msgpack.Decoder(Ending).decode


class Stream:
    """Turns the records of one stream into tokens, numbered from 0."""

    __slots__ = ("body", "first_ns", "next_seq", "opened", "opened_ns", "raw", "transforms")

    def __init__(self, opened: bytes, opened_ns: int) -> None:
        """`opened` is the payload of its OPEN; `opened_ns` is when the request was sent."""
        self.opened = opened
        said = decode_open(opened)
        self.body: Body = open_body(said.api, kind=said.kind, compat=said.compat, **UNLIMITED)
        self.transforms = open_transforms(said.transforms)
        self.next_seq = 0
        self.opened_ns = opened_ns
        self.first_ns = 0
        self.raw = 0

    @classmethod
    def adopt(cls, left: Adopted) -> Stream:
        """Go on with a stream where a worker that died left it."""
        stream = cls(left.opened, left.opened_ns)
        stream.next_seq, stream.raw = left.next_seq, left.raw
        if left.state:
            saved = records.decode_checkpoint(left.state)
            stream.first_ns = saved.first_ns
            said = decode_open(left.opened)
            stream.body = Body.restore(
                said.api, saved.body, kind=said.kind, compat=said.compat, **UNLIMITED
            )
            if stream.transforms is not None:
                stream.transforms.restore(saved.transforms)
        return stream

    def state(self) -> bytes:
        """Return the payload of a CHECKPOINT: what a successor needs beside its header."""
        body, state = self.body, self.transforms.state() if self.transforms else b""
        return records.encode(records.Checkpoint(self.first_ns, body.state(), body.cursor, state))

    @property
    def dirty(self) -> bool:
        """Whether `state` has other things to say than when it was last asked."""
        return self.body.dirty or (self.transforms is not None and self.transforms.changed)

    def transformed(self, tokens: list[StreamToken], now_ns: int) -> list[StreamToken]:
        """Return what the decoder said as it is to be seen; what ends the stream ends the body."""
        if self.transforms is not None and tokens:
            tokens = self.transforms.feed(tokens, now_ns)
            self.body.finished |= self.transforms.finished
        return tokens

    def overdue(self, now_ns: int) -> list[StreamToken]:
        """Return what has been held back for long enough."""
        if self.transforms is None or (due := self.transforms.due_ns) is None or due > now_ns:
            return []
        tokens = self.transforms.idle(now_ns)
        self.body.finished |= self.transforms.finished
        return tokens

    def finish(self, tokens: list[StreamToken], now_ns: int) -> list[StreamToken]:
        """Put the stream's figures into its terminal token, which is the last of `tokens`."""
        count = self.next_seq + len(tokens) - 1
        total_ms = (now_ns - self.opened_ns) / 1e6
        first_ms = (self.first_ns - self.opened_ns) / 1e6 if self.first_ns else None
        streaming_s = (now_ns - self.first_ns) / 1e9 if self.first_ns else 0.0
        summary = Summary(
            tokens=count,
            first_token_ms=first_ms,
            total_ms=total_ms,
            tokens_per_s=count / streaming_s if streaming_s > 0 else None,
            oddities=self.body.oddities,
        )
        last = tokens[-1]
        assert isinstance(last, Done | Error)
        return [*tokens[:-1], msgspec.structs.replace(last, summary=summary)]


def split(token: StreamToken, limit: int) -> list[StreamToken]:
    """Cut a text token whose content is over `limit` characters into several.

    Other tokens come back as they are: their parts would mean something else.
    """
    if not isinstance(token, Text | Reasoning | Refusal) or len(token.content) <= limit:
        return [token]
    pieces = [token.content[i : i + limit] for i in range(0, len(token.content), limit)]
    if isinstance(token, Text):
        return [Text(piece) for piece in pieces]
    rest = msgspec.structs.replace(token, content="")
    head: list[StreamToken] = [type(token)(piece, token.index) for piece in pieces[:-1]]
    return [*head, msgspec.structs.replace(rest, content=pieces[-1])]
