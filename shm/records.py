"""What the rings carry: kinds of records, their flags, and what `count`, `a`, `b` mean.

| kind       | stream | count   | a              | b               | payload             |
|------------|--------|---------|----------------|-----------------|---------------------|
| OPEN       | slot   | –       | sent at, ns    | –               | msgpack `Open`      |
| DATA       | slot   | –       | received, ns   | raw bytes so far| whole events        |
| END        | slot   | –       | received, ns   | raw bytes so far| msgpack ending      |
| TOKENS     | slot   | tokens  | first sequence | raw bytes so far| msgpack token array |
| CHECKPOINT | slot   | –       | next sequence  | raw bytes so far| decoder state       |
| START      | 0      | –       | worker's epoch | broker's epoch  | –                   |
| AGAIN      | slot   | –       | of its END, ns | raw bytes so far| msgpack `Cursor`    |

In-rings carry OPEN, DATA and END; out-rings OPEN, TOKENS, CHECKPOINT, START and AGAIN.
AGAIN answers an END behind which the stream may yet go on: with a cursor, its provider can
be asked for the rest of the answer; with no payload, no token of it is visible, so the
request may be sent once more. With UNSAID the stream ended by an error before any token, and
who sent it decides; `a` is then that of its OPEN. An END with TERMINAL is never answered so.
Sequence numbers count tokens within a stream, from 0. "Raw bytes so far" counts the
response body's bytes up to and including the record: it is what credit is measured in.
Hand-over: what a stream's last record without MORE says (next sequence, raw bytes), together
with its last CHECKPOINT, is where a successor of the worker goes on; input whose raw bytes
are not beyond that was dealt with. A TOKENS payload is already what a client receives, so
the broker forwards it undecoded.
A worker says START first, and again whenever another broker reads its out-ring: before it
stand OPEN and CHECKPOINT of every live stream, and AGAIN of what was kept back and not sent again
yet. OPEN also follows a stream's terminal TOKENS.
So whoever reads a ring from any point on, up to its own START, knows all that is in it.
"""

from __future__ import annotations

from typing import Final

import msgspec

OPEN: Final = 1
DATA: Final = 2
END: Final = 3
TOKENS: Final = 4
CHECKPOINT: Final = 5
START: Final = 6
AGAIN: Final = 7

NAMES: Final = {
    OPEN: "OPEN",
    DATA: "DATA",
    END: "END",
    TOKENS: "TOKENS",
    CHECKPOINT: "CHECKPOINT",
    START: "START",
    AGAIN: "AGAIN",
}

# Flags. A payload that needs several records has BEGIN on the first and LAST on the last
# of them; one that needs a single record has both.
BEGIN: Final = 1
LAST: Final = 2
WHOLE: Final = BEGIN | LAST
REST: Final = 4  # DATA: the unfinished event that was left when the body ended
# TOKENS: the last token is Done or Error; OPEN: behind these; END: whatever can go on; AGAIN: lost.
TERMINAL: Final = 8
MORE: Final = 16  # TOKENS, CHECKPOINT: the same step of the stream goes on in the next record
UNSAID: Final = 32  # AGAIN: the payload is the error that ended the stream before its first token


class Open(msgspec.Struct, frozen=True, array_like=True):
    """Payload of OPEN: what a worker and a new broker must know of a stream.

    `id` — the 16 random bytes clients know the stream by; `api` names the wire decoder. `compat`
    names another client whose tokens are wanted, which may depend on the provider's `kind`.
    `transforms` is what is done to the tokens, as msgpack. `since_ns` is when the request came
    (0: with this record), `attempt` counts its sendings; after the last, `final`, it is not sent
    again. `price` is in US dollars for a million tokens: input, output, cache read and write.
    """

    id: bytes
    api: str
    provider: str
    model: str
    kind: str = ""
    compat: str = ""
    transforms: bytes = b""
    since_ns: int = 0
    attempt: int = 1
    final: bool = True
    price: tuple[float, float, float, float] | None = None


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """Payload of AGAIN: where a provider that keeps an answer can be asked to go on with it.

    `id` is the answer's name at its provider, `after` the last of its events that was decoded
    (OpenAI: a background response and its `sequence_number`; Gemini: an interaction and its
    `event_id`). An empty `after` means from the beginning.
    """

    id: str
    after: str


class Checkpoint(msgspec.Struct, frozen=True, array_like=True):
    """Payload of CHECKPOINT: what a successor of the worker needs beside its header.

    `cursor` is for the broker: by what name an answer can be recalled. `work_ns` is what the
    stream's records took the worker so far, `transform_ns` the transformers' part of it.
    """

    first_ns: int
    body: bytes
    cursor: Cursor | None
    transforms: bytes = b""
    work_ns: int = 0
    transform_ns: int = 0


encode = msgspec.msgpack.Encoder().encode
decode_cursor = msgspec.msgpack.Decoder(Cursor).decode
decode_checkpoint = msgspec.msgpack.Decoder(Checkpoint).decode
encode_open = msgspec.msgpack.Encoder().encode
decode_open = msgspec.msgpack.Decoder(Open).decode


def is_whole(flags: int) -> bool:
    """Say whether a record carries its whole payload."""
    return flags & WHOLE == WHOLE
