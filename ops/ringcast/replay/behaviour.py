"""How the replay upstream behaves: its knobs, and the cutting of a body that they ask for.

The faults are Toxiproxy's, named by what they do: latency (`delay_s`, `pace`), slicer (`cut`),
bandwidth (`drip`), timeout (`stall_at`, `stall_s`), limit_data (`eof_at`), reset_peer (`reset_at`).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Annotated, Final, Literal

import msgspec

from ringcast.errors import RingcastError

Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400)]
Count = Annotated[int, msgspec.Meta(ge=0)]

# Pieces closer together than this are joined again by TCP on their way to the reader.
CUT_PAUSE_S: Final = 0.001
_CUT_MAX: Final = 64


class KnobError(RingcastError):
    """A request asked for behaviour that does not exist; the text names the knob."""

    exit_code = 2


class Behaviour(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Defaults of an upstream; a request changes them by `NAME;knob=value;…` as its model.

    Offsets count bytes of the body, without head and chunk framing.
    """

    pace: Annotated[float, msgspec.Meta(ge=0, le=1_000_000)] = 60.0
    """Events per second and stream; 0 is as fast as the reader takes them."""
    cut: Count = 0
    """Size in bytes of the pieces that the body leaves in, each a segment of its own. The
    pieces follow one another after a millisecond, whatever the pace; 0 sends whole events."""
    cut_seed: int | None = None
    """Draws the sizes of the pieces from 1 to `cut` (to 64 without `cut`)."""
    drip: Seconds = 0.0
    """Seconds between single bytes; 0 does not drip. Comes before `cut` and `pace`."""
    stall_at: Count | None = None
    stall_s: Seconds = 3600.0
    """At this offset nothing is sent for so long."""
    reset_at: Count | None = None
    """At this offset the connection is reset (RST)."""
    eof_at: Count | None = None
    """At this offset the connection is closed (FIN), without the closing chunk."""
    delay_s: Seconds = 0.0
    """Seconds from the request to the head of the answer."""
    status: Annotated[int, msgspec.Meta(ge=200, le=999)] | None = None
    """Another status; from 400 the body becomes the provider's error, unless it is one."""
    retry_after: Seconds | None = None
    """Value in seconds of a Retry-After header."""
    content_type: str | None = None
    length: Literal["chunked", "close", "length"] = "chunked"
    """How the body's end is told: chunked transfer, end of connection, or Content-Length."""
    n: Count = 100
    """Tokens of a numbered stream; 0 goes on for ever."""
    seed: Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)] = 0
    """Seed of a numbered stream's checksums."""
    clock: bool = False
    """A numbered stream's tokens carry the time of sending instead of their number."""
    key: str | None = None
    """Only requests that carry this key are answered. Not to be set by a request."""

    @property
    def piecewise(self) -> bool:
        """Whether the body leaves in pieces that are not whole events."""
        return bool(self.cut or self.drip) or self.cut_seed is not None

    @property
    def interval_s(self) -> float:
        """Seconds between two pieces; 0 for no pause at all."""
        if self.piecewise:
            return self.drip or CUT_PAUSE_S
        return 1 / self.pace if self.pace else 0.0

    @property
    def ends_at(self) -> int | None:
        """The offset at which the body breaks off, if it does."""
        return min((at for at in (self.reset_at, self.eof_at) if at is not None), default=None)

    @property
    def resets(self) -> bool:
        """Whether breaking off is a reset (the earlier of the two faults wins)."""
        return self.reset_at is not None and self.reset_at == self.ends_at


def turned(behaviour: Behaviour, knobs: str) -> Behaviour:
    """`behaviour` with `knob=value;knob=value` applied. Raises KnobError."""
    values = msgspec.structs.asdict(behaviour)
    for knob in filter(None, knobs.split(";")):
        name, _, value = knob.partition("=")
        if name not in values or name == "key":
            raise KnobError(f"no such knob: {name!r}")
        values[name] = value
    try:
        return msgspec.convert(values, Behaviour, strict=False)
    except msgspec.ValidationError as error:
        raise KnobError(str(error)) from error


def pieces(events: Iterable[bytes], behaviour: Behaviour) -> Iterator[bytes]:
    """What is written one after the other: the events, or cut as `behaviour` wants them.

    A piece always ends where the body stalls, and nothing follows where it breaks off.
    """
    parts = iter(events)
    if behaviour.piecewise:
        parts = _recut(parts, behaviour)
    if behaviour.stall_at:
        parts = _parted(parts, behaviour.stall_at)
    if behaviour.ends_at is not None:
        parts = _ended(parts, behaviour.ends_at)
    return parts


def _recut(parts: Iterator[bytes], behaviour: Behaviour) -> Iterator[bytes]:
    sizes = _sizes(behaviour)
    size, rest = next(sizes), b""
    for part in parts:
        rest += part
        at = 0
        while len(rest) - at >= size:
            yield rest[at : at + size]
            at += size
            size = next(sizes)
        rest = rest[at:]
    if rest:
        yield rest


def _sizes(behaviour: Behaviour) -> Iterator[int]:
    if behaviour.drip or behaviour.cut_seed is None:
        size = 1 if behaviour.drip else behaviour.cut
        while True:
            yield size
    draw = random.Random(behaviour.cut_seed)
    while True:
        yield draw.randint(1, behaviour.cut or _CUT_MAX)


def _parted(parts: Iterator[bytes], at: int) -> Iterator[bytes]:
    before = 0
    for part in parts:
        if before < at < before + len(part):
            yield part[: at - before]
            yield part[at - before :]
        else:
            yield part
        before += len(part)


def _ended(parts: Iterator[bytes], at: int) -> Iterator[bytes]:
    for part in parts:
        if at <= 0:
            return
        yield part[:at]
        at -= len(part)
