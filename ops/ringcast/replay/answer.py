"""One answer of the replay upstream, on its way: what is left of it, and when more is due."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from http import client
from typing import Final, Literal, Protocol, TypeAlias

import msgspec

from ringcast.replay.behaviour import Behaviour, pieces
from ringcast.replay.wheel import Wheel

# What a stream without a pace writes before the others have their turn.
_BURST: Final = 16 << 10
# A stream that fell behind its pace by more does not make up for it.
_LAG_S: Final = 1.0
# A reset discards what the peer has not been given yet: let the last bytes arrive before it.
_RESET_GRACE_S: Final = 0.02
_BODILESS: Final = frozenset({204, 205, 304})

Ending: TypeAlias = Literal["open", "done", "fin", "rst"]


class Seen(msgspec.Struct):
    """A request as the upstream saw it; headers that carry keys read `***`.

    `ended` is "done" once all that the upstream meant to send is written (a fault that was
    asked for included), "fin" or "rst" when the client closed or reset the connection before.
    `ended_at` is loop time in seconds; `sent` counts the body's bytes given to the transport.
    """

    path: str
    model: str
    headers: dict[str, str]
    body: bytes
    ended: Ending = "open"
    ended_at: float | None = None
    sent: int = 0


class Reply(msgspec.Struct):
    """What to answer: the body as events, and how to send them.

    `size` is the body's length in bytes, None where it is made while it is sent.
    """

    status: int
    content_type: str
    events: Iterable[bytes]
    behaviour: Behaviour
    size: int | None = None


class Channel(Protocol):
    """The connection as an answer sees it."""

    paused: bool

    def write(self, data: bytes) -> None:
        """Hand bytes to the transport; sets `paused` when it wants no more."""

    def finish(self, *, keep_alive: bool) -> None:
        """The answer is complete: go on with the next, or close after what is buffered."""

    def reset(self) -> None:
        """End the connection with an RST."""


class Answer:
    """Sends a reply step by step: the head, the pieces of the body, the ending."""

    def __init__(
        self,
        reply: Reply,
        seen: Seen,
        channel: Channel,
        wheel: Wheel,
        on_sent: Callable[[Seen, int], None],
        *,
        http11: bool,
        keep_alive: bool,
    ) -> None:
        """`http11`: the client understands chunks; `on_sent` counts a write in `sent`."""
        self.seen = seen
        self.parked = False
        self._behaviour = behaviour = reply.behaviour
        self._channel = channel
        self._wheel = wheel
        self._on_sent = on_sent
        self._framing = _framing(reply, http11=http11)
        self._chunked = self._framing.startswith("transfer-encoding")
        self._keep_alive = keep_alive and self._framing != _CLOSE
        self._head = _head(reply, self._framing, keep_alive=self._keep_alive)
        self._pieces = pieces(() if reply.status in _BODILESS else reply.events, behaviour)
        self._interval = behaviour.interval_s
        self._room = 1 if self._interval else _BURST
        self._stall_at = behaviour.stall_at
        self._due = time.monotonic() + behaviour.delay_s
        self._step = self._begin

    def start(self) -> None:
        """Send the head, now or when its delay is over."""
        if self._behaviour.delay_s:
            self._wheel.at(self._due, self.go_on)
        else:
            self.go_on()

    def go_on(self) -> None:
        """Take the next step; park while the client does not read, nothing once it is gone."""
        if self.seen.ended != "open":
            return
        self.parked = self._channel.paused
        if not self.parked:
            self._step()

    def _begin(self) -> None:
        self._channel.write(self._head)
        self._step = self._send
        self._next()

    def _send(self) -> None:
        sent, frames = self.seen.sent, []
        full, stall_at, chunked = sent + self._room, self._stall_at, self._chunked
        for piece in self._pieces:
            frames.append(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            sent += len(piece)
            if sent >= full or sent == stall_at:
                break
        else:
            self._step = self._end
        self._write(frames, sent - self.seen.sent)
        if self._step == self._end:
            self._step()
        else:
            self._next()

    def _write(self, frames: list[bytes], size: int) -> None:
        if frames:
            self._on_sent(self.seen, size)
            self._channel.write(b"".join(frames))

    def _next(self) -> None:
        """Have the next step taken when it is due."""
        now = time.monotonic()
        if self.seen.sent == self._stall_at:
            self._stall_at = None
            self._due = now + self._behaviour.stall_s
        elif not self._interval:
            self._wheel.soon(self.go_on)
            return
        elif self._behaviour.piecewise:
            self._due = now + self._interval
        else:
            self._due = max(self._due + self._interval, now - _LAG_S)
        self._wheel.at(self._due, self.go_on)

    def _end(self) -> None:
        if not self._broken_off():
            if self._chunked:
                self._channel.write(b"0\r\n\r\n")
            self._channel.finish(keep_alive=self._keep_alive)
        elif self._behaviour.resets:
            self._step = self._channel.reset
            self._wheel.at(time.monotonic() + _RESET_GRACE_S, self.go_on)
        else:
            self._channel.finish(keep_alive=False)

    def _broken_off(self) -> bool:
        at = self._behaviour.ends_at
        return at is not None and self.seen.sent >= at


_CHUNKED: Final = "transfer-encoding: chunked"
_CLOSE: Final = "connection: close"


def _framing(reply: Reply, *, http11: bool) -> str:
    """The header that tells how the body ends (RFC 9112, section 6.3); "" where there is none."""
    if reply.status in _BODILESS:
        return ""
    if reply.behaviour.length == "chunked" and http11:
        return _CHUNKED
    if reply.behaviour.length == "length" and reply.size is not None:
        return f"content-length: {reply.size}"
    return _CLOSE


def _head(reply: Reply, framing: str, *, keep_alive: bool) -> bytes:
    behaviour = reply.behaviour
    lines = [
        f"HTTP/1.1 {reply.status} {client.responses.get(reply.status, 'Unknown')}",
        f"content-type: {behaviour.content_type or reply.content_type}",
        "cache-control: no-cache",
        "server: ringcast-replay",
    ]
    if behaviour.retry_after is not None:
        lines.append(f"retry-after: {behaviour.retry_after:g}")
    if framing:
        lines.append(framing)
    if not keep_alive and framing != _CLOSE:
        lines.append(_CLOSE)
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")
