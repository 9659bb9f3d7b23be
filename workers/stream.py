"""One stream inside a worker: its decoder, its numbering and its clock readings."""

from __future__ import annotations

from typing import Final

import msgspec

from ringcast.config import ROUTE
from ringcast.errors import Code
from ringcast.providers.commands import Adopted
from ringcast.providers.spending.cost import cost
from ringcast.providers.wire.body import Body, Ending, open_body
from ringcast.shm import records
from ringcast.shm.records import Open, decode_open
from ringcast.shm.tokens import Done, Error, Reasoning, Refusal, StreamToken, Summary, Text, Usage
from ringcast.workers.transform_catalog import open_transforms

# The provider process has held the body to the configured limits already.
UNLIMITED: Final = {"max_line_bytes": 1 << 62, "max_event_bytes": 1 << 62}

# Work after which figures are worth a CHECKPOINT of their own: no more of them can be lost.
SAVED_NS: Final = 1_000_000

decode_ending = msgspec.msgpack.Decoder(Ending).decode


class Stream:
    """Turns the records of one stream into tokens, numbered from 0.

    `first_ns` and `last_ns` are when its first and its newest token were said. `work_ns` is the
    worker's time for its records, `transform_ns` the part of it that transformers took.
    """

    __slots__ = (
        "_save_ns",
        "body",
        "final",
        "first_ns",
        "last_ns",
        "next_seq",
        "opened",
        "opened_ns",
        "raw",
        "since_ns",
        "transform_ns",
        "transforms",
        "work_ns",
    )

    def __init__(self, opened: bytes, opened_ns: int) -> None:
        """`opened` is the payload of its OPEN; `opened_ns` is when the request was sent."""
        self.opened = opened
        said = decode_open(opened)
        self.body: Body = open_body(said.api, kind=said.kind, compat=said.compat, **UNLIMITED)
        self.transforms = open_transforms(said.transforms)
        self.final = said.final  # whatever comes of it, it is not sent again
        self.next_seq = 0
        self.opened_ns = opened_ns
        self.since_ns = said.since_ns or opened_ns
        self.first_ns = self.last_ns = 0
        self.work_ns = self.transform_ns = 0
        self._save_ns = SAVED_NS
        self.raw = 0

    @classmethod
    def adopt(cls, left: Adopted, now_ns: int) -> Stream:
        """Go on with a stream where a worker that died left it: what it waited for began now."""
        stream = cls(left.opened, left.opened_ns)
        stream.next_seq, stream.raw = left.next_seq, left.raw
        stream.last_ns = now_ns if left.next_seq else 0
        if left.state:
            saved = records.decode_checkpoint(left.state)
            stream.first_ns = saved.first_ns
            stream.work_ns, stream.transform_ns = saved.work_ns, saved.transform_ns
            stream._save_ns = saved.work_ns + SAVED_NS
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
        self._save_ns = self.work_ns + SAVED_NS
        times = self.work_ns, self.transform_ns
        return records.encode(
            records.Checkpoint(self.first_ns, body.state(), body.cursor, state, *times)
        )

    @property
    def dirty(self) -> bool:
        """Whether `state` has other things to say than when it was last asked."""
        return (
            self.body.dirty
            or (self.transforms is not None and self.transforms.changed)
            or self.work_ns >= self._save_ns
        )

    def overdue(self, now_ns: int) -> list[StreamToken]:
        """Return what has been held back for long enough."""
        if self.transforms is None or (due := self.transforms.due_ns) is None or due > now_ns:
            return []
        tokens = self.transforms.idle(now_ns)
        self.body.finished |= self.transforms.finished
        return tokens

    def fail(self, code: Code, text: str, *, retryable: bool = False) -> list[StreamToken]:
        """End by a fault of ours; return nothing if the body has had its end already."""
        if self.body.finished:
            return []
        self.body.finished = True
        return [Error(code, text, retryable=retryable)]

    def begin(self, now_ns: int) -> int:
        """Say the first token; return how long it took to come, in nanoseconds."""
        self.first_ns = now_ns
        return now_ns - self.since_ns

    def finish(self, last: StreamToken, now_ns: int) -> Done | Error:
        """Put the stream's figures into its terminal token, when all others have their numbers."""
        assert isinstance(last, Done | Error)
        said = decode_open(self.opened)
        summary = self._summary(said, self.next_seq, now_ns)
        return msgspec.structs.replace(last, usage=_priced(last.usage, said), summary=summary)

    def _summary(self, said: Open, tokens: int, now_ns: int) -> Summary:
        since_ns, first_ns = self.since_ns, self.first_ns
        streaming_s = (now_ns - first_ns) / 1e9 if first_ns else 0.0
        return Summary(
            tokens=tokens,
            first_token_ms=(first_ns - since_ns) / 1e6 if first_ns else None,
            total_ms=(now_ns - since_ns) / 1e6,
            tokens_per_s=tokens / streaming_s if streaming_s > 0 else None,
            oddities=self.body.oddities,
            decode_ms=(self.work_ns - self.transform_ns) / 1e6,
            transform_ms=None if self.transforms is None else self.transform_ns / 1e6,
            served_by=_served_by(said),
            attempts=said.attempt,
            waited_ms=(self.opened_ns - since_ns) / 1e6 if said.since_ns else None,
        )


def _served_by(said: Open) -> str | None:
    """Return who was asked last; nobody of a route whose targets are not known here."""
    return f"{said.provider}/{said.model}" if said.attempt and said.provider != ROUTE else None


def _priced(usage: Usage | None, said: Open) -> Usage | None:
    if usage is None:
        return None
    return msgspec.structs.replace(usage, cost=cost(usage, said.price, said.api))


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
