"""The client protocol, version 1: one msgpack frame each way, a tagged array.

A client opens a ZeroMQ DEALER socket to `ipc://RUN_DIR/client.sock` and sends HELLO first.
Every frame is a msgpack array whose first item is the frame's name; fields follow in the
order given below, later versions append fields, and both ends ignore what they do not know.

A stream has 16 random bytes as its id, by which anybody of the same user can attach to it.
On one connection it is known by its `handle`, a number that the client chooses when it
opens or attaches. Tokens are numbered from 0 within their stream; a client that was cut
off attaches again with the number of the last token it has, and drops what it gets twice.

Credit: the daemon lets a stream be `window` bytes ahead of what its readers have
processed. A client says with CREDIT how many tokens of a stream it is done with
(cumulatively, so a CREDIT may be lost or repeated); without, the stream stands still.

ZeroMQ connects again by itself when the daemon's broker was replaced; a socket monitor
tells. What was under way is then lost, so a client says HELLO once more, ATTACH for each
stream behind the last token it has, CANCEL where it had said so, and repeats an OPEN that was
not answered: with an id of its own in `stream`, asking twice starts one stream.

    client                                       daemon
    ["hello", 1, "my-editor", 4711]          ->
                                             <-  ["welcome", 1, "0.1.0", "<daemon id>", 5.0]
    ["open", 7, {"model": "openai/gpt-4o",
                 "messages": [...]}]         ->
                                             <-  ["opened", 7, <16 bytes>, "openai", "gpt-4o"]
                                             <-  ["tokens", [[7, 0, [["text", "Hi"],
                                                                         ["text", "!"]]]]]
    ["credit", [[7, 2]]]                     ->
                                             <-  ["tokens", [[7, 2, [["done", "stop", ...]]]]]
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import msgspec

from ringcast.errors import Code, RequestError
from ringcast.shm.tokens import StreamToken

VERSION: Final = 1
ID_BYTES: Final = 16


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """Any frame."""


class Hello(Frame, frozen=True, tag="hello"):
    """First frame of a connection. `name` and `pid` are shown by `ringcast status`."""

    version: int
    name: str = ""
    pid: int = 0


class Open(Frame, frozen=True, tag="open"):
    """Start a stream. `request` is a map: model, messages or prompt, and their options.

    `window` — bytes that may be under way to this client, 0 for the daemon's default.
    `stream` — 16 random bytes as its id, so that asking again is safe when no answer came:
    an id that is known is attached to. Without, the daemon chooses. With `waits`, WAITING tells
    why the request is not sent yet.
    Answered by OPENED or ERROR, both with the same `handle`.
    """

    handle: int
    request: msgspec.Raw
    window: int = 0
    stream: bytes = b""
    waits: bool = False


class Attach(Frame, frozen=True, tag="attach"):
    """Read a stream from the token after number `after` (-1: from the first).

    The same again on one connection is answered again, and changes nothing.
    """

    handle: int
    stream: bytes
    after: int = -1
    window: int = 0


class Credit(Frame, frozen=True, tag="credit"):
    """`grants` — [handle, processed] pairs: tokens below number `processed` are done with."""

    grants: list[tuple[int, int]]


class Cancel(Frame, frozen=True, tag="cancel"):
    """End a stream for everybody; the provider's connection is closed at once."""

    stream: bytes


class Detach(Frame, frozen=True, tag="detach"):
    """Stop reading; the stream goes on until its lease ends."""

    handle: int


class Status(Frame, frozen=True, tag="status"):
    """Ask what the daemon does. Answered by RESULT with the same `request`."""

    request: int


class Models(Frame, frozen=True, tag="models"):
    """Ask which models a provider has, or all of them if `provider` is empty.

    Answered by RESULT with the same `request`: {"models": [{"provider", "id", ...}], "errors":
    {provider: {"code", "message"}}}; or by ERROR with the same `request`.
    """

    request: int
    provider: str = ""


class Count(Frame, frozen=True, tag="count"):
    """Ask how many tokens a request (as in OPEN) has before it is sent.

    Answered by RESULT: {"tokens", "accuracy"}, where accuracy is "provider", "exact" or
    "estimate".
    """

    request: int
    asked: msgspec.Raw


class Health(Frame, frozen=True, tag="health"):
    """Ask whether a provider can be reached and takes our key, or all of them.

    Answered by RESULT: {provider: {"ok", "latency_ms", "code", "message"}}.
    """

    request: int
    provider: str = ""


class Capabilities(Frame, frozen=True, tag="capabilities"):
    """Ask what a provider's APIs can be asked for; of a certain `model` as far as its name tells.

    Answered by RESULT: {"apis", "tools", "images", ...}, without asking the provider.
    """

    request: int
    provider: str
    model: str = ""


class Ping(Frame, frozen=True, tag="ping"):
    """Say that the client lives, at least every `heartbeat_s`; answered by PONG."""

    nonce: int = 0


class Bye(Frame, frozen=True, tag="bye"):
    """Leave: the leases of this connection's streams begin at once, and not on its silence."""


class Welcome(Frame, frozen=True, tag="welcome"):
    """Answer to HELLO. `daemon` changes with every start of the broker.

    A client that says nothing for three times `heartbeat_s` is taken for gone.
    """

    version: int
    server: str
    daemon: str
    heartbeat_s: float


class Opened(Frame, frozen=True, tag="opened"):
    """The stream's id, and where its tokens will come from."""

    handle: int
    stream: bytes
    provider: str
    model: str


class Tokens(Frame, frozen=True, tag="tokens"):
    """`runs` — [handle, number of the first token, tokens] triples, in order per stream."""

    runs: list[tuple[int, int, list[StreamToken]]]


class Waiting(Frame, frozen=True, tag="waiting"):
    """The stream's request is not sent for about `seconds`, because of `reason`; 0: it is now."""

    handle: int
    reason: str
    seconds: float


class Result(Frame, frozen=True, tag="result"):
    """Answer to a question (STATUS, MODELS, COUNT, HEALTH, CAPABILITIES)."""

    request: int
    data: Any


class Refused(Frame, frozen=True, tag="error"):
    """A frame was refused, or a reader was cut off.

    `handle` and `request` are -1 where none is concerned.

    `code` is one of `ringcast.errors.Code`; `detail` holds what helps to mend it
    (`resume_after`, `first`, `last`, `limit`, `setting`, `known`).
    """

    handle: int
    code: str
    message: str
    detail: dict[str, Any] = {}
    request: int = -1

    @property
    def error(self) -> RequestError:
        """What the caller is told."""
        return RequestError(self.code, self.message, **self.detail)


class Pong(Frame, frozen=True, tag="pong"):
    """Answer to PING."""

    nonce: int = 0


Question: TypeAlias = Models | Count | Health | Capabilities
ClientFrame: TypeAlias = (
    Hello | Open | Attach | Credit | Cancel | Detach | Status | Question | Ping | Bye
)
DaemonFrame: TypeAlias = Welcome | Opened | Tokens | Waiting | Result | Refused | Pong

encode = msgspec.msgpack.Encoder().encode
decode_client = msgspec.msgpack.Decoder(ClientFrame).decode
decode_daemon = msgspec.msgpack.Decoder(DaemonFrame).decode
tag_of = msgspec.msgpack.Decoder(list[Any]).decode

_TOKENS_HEAD: Final = b"\x92\xa6tokens"


def tokens_frame(runs: int, parts: list[bytes]) -> bytes:
    """Return a TOKENS frame of `runs` runs whose bytes are `parts`, joined, not re-encoded."""
    if runs < 16:
        head = bytes((0x90 | runs,))
    elif runs < 1 << 16:
        head = b"\xdc" + runs.to_bytes(2, "big")
    else:
        head = b"\xdd" + runs.to_bytes(4, "big")
    return b"".join((_TOKENS_HEAD, head, *parts))


def why_bad(data: bytes | memoryview, error: Exception) -> tuple[str, str]:
    """Tell a frame of an unknown type from a broken one."""
    known = {type_.__struct_config__.tag for type_ in ClientFrame.__args__}
    try:
        tag = tag_of(data)[0]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError, IndexError):
        return Code.BAD_MESSAGE, "the frame is not a msgpack array with a name"
    if isinstance(tag, str) and tag not in known:
        return Code.UNKNOWN_TYPE, f"no frame is called {tag[:40]!r}"
    return Code.BAD_MESSAGE, str(error)[:200]


def server() -> str:
    """Return our version, for WELCOME."""
    from ringcast import __version__

    return __version__
