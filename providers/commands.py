"""What the broker, the provider processes and new workers say, one msgpack array a message."""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias

import msgspec

from ringcast.shm.records import Cursor
from ringcast.shm.tokens import Error, Usage

NOTHING: Final = msgspec.Raw(b"\xc0")  # null in msgpack
COUNTER: Final = b"c"  # the counting process's routing id


class Command(msgspec.Struct, frozen=True, array_like=True):
    """Any message of this link."""


class Start(Command, frozen=True, tag="start"):
    """Begin a stream: send `request` to `provider`, write what comes into `worker`'s ring.

    `provider` may be `config.ROUTE`, and `model` a route's name then. `limit` — raw bytes of the
    body that may be written before more is granted. `client` is who asked: clients wait in turn.
    `since_ns` is when it was asked (0: now), `sent` how often a process that died has sent it.
    """

    slot: int
    stream: bytes
    worker: int
    provider: str
    model: str
    request: msgspec.Raw
    limit: int
    client: bytes = b""
    since_ns: int = 0
    sent: int = 0


class Grant(Command, frozen=True, tag="grant"):
    """Raise limits: [slot, limit] pairs, cumulative, so that one may be lost or repeated."""

    limits: list[tuple[int, int]]


class Stop(Command, frozen=True, tag="stop"):
    """End a stream. `cancel`: close upstream now and say so; else it has had its end already.

    After its end the body is drained a little, so that its connection can be used again. With
    `ended` its last token is there, and `usage` what that told, and `error` it, if it was one.
    """

    slot: int
    cancel: bool
    ended: bool = False
    usage: Usage | None = None
    error: Error | None = None


class Began(Command, frozen=True, tag="began"):
    """Of these streams a first token is there: they cannot be sent again."""

    slots: list[int]


class Unsaid(Command, frozen=True, tag="unsaid"):
    """A stream failed before any token of it was seen: send it again, or answer SPENT.

    `opened_ns` tells which of its sendings failed. Its next one may write up to `limit`.
    """

    slot: int
    worker: int
    opened_ns: int
    error: Error
    limit: int


class Fail(Command, frozen=True, tag="fail"):
    """End a stream with an error: no more is read, but all that was read is passed on."""

    slot: int
    code: str
    message: str


class Abandon(Command, frozen=True, tag="abandon"):
    """Write the ends of streams that an earlier process left: [slot, worker] pairs.

    A worker answers such an end with what the stream has, or with AGAIN if it can go on. For
    good, it can not; cancelled, nobody wants it to.
    """

    streams: list[tuple[int, int]]
    how: Literal["interrupted", "for good", "cancelled"] = "interrupted"


class Resume(Command, frozen=True, tag="resume"):
    """Go on with a stream whose connection is gone: ask its provider for what is behind `cursor`.

    `raw` — bytes of the body that were decoded so far; the count goes on from there.
    """

    slot: int
    stream: bytes
    worker: int
    provider: str
    model: str
    api: str
    cursor: Cursor
    raw: int
    limit: int


class Recall(Command, frozen=True, tag="recall"):
    """Have `provider` stop making an answer that nobody wants: closing its stream is not enough."""

    provider: str
    api: str
    cursor: Cursor


class Ask(Command, frozen=True, tag="ask"):
    """Ask a provider something short, or all of them if `provider` is empty.

    `request` is what is to be counted, `model` of which the capabilities are asked, or whether
    the provider can count for it. The counting process gets `request` as a second part, for a
    long text need not be copied. Answer: ANSWER with the same `number`.
    """

    number: int
    what: Literal["models", "count", "can_count", "health", "capabilities"]
    provider: str
    model: str = ""
    request: msgspec.Raw = NOTHING


class Report(Command, frozen=True, tag="report"):
    """A new broker asks what the process has under way. Answer: READY with the same `nonce`."""

    nonce: int


class Welcome(Command, frozen=True, tag="welcome"):
    """Answer to READY: the broker knows the process, requests may come."""


class Live(msgspec.Struct, frozen=True, array_like=True):
    """A stream that a provider process has under way, and up to which byte it may write.

    It is `over` when its END is written, and may yet be sent again if a worker says so.
    """

    slot: int
    stream: bytes
    worker: int
    provider: str
    model: str
    limit: int
    over: bool = False


class Ready(Command, frozen=True, tag="ready"):
    """A provider process is up. `disabled` — provider names with the reason, `lacking` — what the
    others lack of several keys.

    `now_ns` is when it said so: an end that was written later is not known to it. `nonce` is
    that of the question, 0 if there was none: such a message may have waited for long.
    """

    index: int
    epoch: int
    disabled: dict[str, str]
    live: list[Live] = []
    now_ns: int = 0
    nonce: int = 0
    lacking: dict[str, str] = {}


class Answer(Command, frozen=True, tag="answer"):
    """What a provider said to ASK `number`: `data`, or an error's `code` and `message`."""

    number: int
    data: msgspec.Raw = NOTHING
    code: str = ""
    message: str = ""
    detail: dict[str, Any] = {}


class Waiting(Command, frozen=True, tag="waiting"):
    """A stream's request is not sent for about `seconds`, for this reason; 0: it is sent now."""

    slot: int
    reason: str
    seconds: float


class Spent(Command, frozen=True, tag="spent"):
    """Answer to UNSAID: it is not sent again."""

    slot: int


class Counting(Command, frozen=True, tag="counting"):
    """The counting process is up, and knows of nothing that another was asked."""


class Takeover(Command, frozen=True, tag="takeover"):
    """A worker stands in for one that died and asks where its streams are. Answer: ADOPT."""

    index: int


class Adopted(msgspec.Struct, frozen=True, array_like=True):
    """A stream as its last worker left it: go on at `next_seq`, behind `raw` bytes of the body.

    `opened` is its OPEN's payload, `state` the last CHECKPOINT's, empty if there was none. One that
    was kept back has no `opened`: then `state` is its error, as in the AGAIN that said so.
    """

    slot: int
    opened: bytes
    opened_ns: int
    next_seq: int
    raw: int
    state: bytes


class Adopt(Command, frozen=True, tag="adopt"):
    """The live streams of a worker that died."""

    streams: list[Adopted]


ToProvider: TypeAlias = (
    Start
    | Grant
    | Stop
    | Began
    | Unsaid
    | Fail
    | Abandon
    | Resume
    | Recall
    | Ask
    | Report
    | Welcome
)
ToBroker: TypeAlias = Ready | Answer | Waiting | Spent | Counting | Takeover

encode = msgspec.msgpack.Encoder().encode
decode_command = msgspec.msgpack.Decoder(ToProvider).decode
decode_ask = msgspec.msgpack.Decoder(Ask).decode
decode_adopt = msgspec.msgpack.Decoder(Adopt).decode
decode_report = msgspec.msgpack.Decoder(ToBroker).decode
