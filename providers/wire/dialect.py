"""What a decoder of one API's events must offer to `body.Body`."""

from __future__ import annotations

from typing import Protocol

from ringcast.providers.wire.sse import SseEvent
from ringcast.shm.records import Cursor
from ringcast.shm.tokens import Error, StreamToken


class Dialect(Protocol):
    """Events of one API in, tokens out; pure and total: what is bad becomes an `Error` token."""

    changed: bool
    """Whether `state` has other things to say than when it was last asked."""
    oddities: int
    """How many irregularities were tolerated."""

    @property
    def complete(self) -> bool:
        """Whether the provider has said how the answer ended, so that the body may end."""

    @property
    def cursor(self) -> Cursor | None:
        """Where the provider can be asked to go on; null if it cannot, or all was said."""

    def feed(self, event: SseEvent) -> list[StreamToken]:
        """The tokens of one event. A terminal token, if any, is the last one."""

    def feed_block(self, block: bytes) -> list[StreamToken] | None:
        """The tokens of a block of whole events in the plain form, else null, nothing changed."""

    def whole(self, answer: bytes) -> list[StreamToken] | None:
        """The tokens of an answer that came in one piece of JSON, null if it is none."""

    def close(self, error: Error | None) -> list[StreamToken]:
        """The last tokens: what was held back, then `Done`, or `error` with usage and reason."""

    def state(self) -> bytes:
        """All that a successor needs to go on at the next block."""

    def restore(self, state: bytes) -> None:
        """Take over from `state`. Raises `msgspec.MsgspecError` if it is none."""
