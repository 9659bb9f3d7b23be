"""One body's whole way in one process: bytes as they come in, tokens out. Pure.

The daemon parts this between two processes, a framer where the bytes are read and a `Body` where
they are decoded; these are the same two, back to back.
"""

from __future__ import annotations

from ringcast.providers.wire.body import Body, Ending, cut_short, open_body
from ringcast.providers.wire.dialect import Recall
from ringcast.providers.wire.framing import framer
from ringcast.providers.wire.sse import MAX_EVENT_BYTES, MAX_LINE_BYTES, Bytes, WireError
from ringcast.shm.tokens import StreamToken


class TokenReader:
    """Reads one body. Its last token is `Done` or `Error`; what follows that is dropped."""

    def __init__(
        self,
        api: str,
        *,
        kind: str = "",
        compat: str = "",
        max_line_bytes: int = MAX_LINE_BYTES,
        max_event_bytes: int = MAX_EVENT_BYTES,
    ) -> None:
        """Take the form of an API; the rest is as for `open_body`.

        Raises `KeyError` for an API without a dialect.
        """
        self._framer = framer(api, max_line_bytes=max_line_bytes, max_event_bytes=max_event_bytes)
        self._body: Body = open_body(
            api,
            kind=kind,
            compat=compat,
            max_line_bytes=max_line_bytes,
            max_event_bytes=max_event_bytes,
        )
        self._recall: Recall | None = None  # for chunks that need no framer

    @property
    def finished(self) -> bool:
        """Whether the terminal token was given."""
        return self._body.finished

    @property
    def oddities(self) -> int:
        """How many irregularities of the provider were tolerated."""
        return self._body.oddities

    def read(self, chunk: Bytes) -> list[StreamToken]:
        """Return the tokens of the events that `chunk` completes; it may be cut anywhere.

        A body that breaks its format or a limit ends here, with an `Error` of the code.
        """
        known = self._recall
        if known and type(chunk) is bytes and (tokens := known(chunk)) is not None:
            return tokens
        if self._body.finished:
            return []
        try:
            block = self._framer.feed(chunk)
        except WireError as error:
            return self._broken(error, Ending())
        tokens = self._body.feed(block) if block else []
        # A framer that gives back what it is given has nothing left.
        self._recall = self._body.recall if block is chunk else None
        return tokens

    def end(self, ending: Ending | None = None) -> list[StreamToken]:
        """Return the last tokens of a body that ended so: by itself, unless `ending` is given."""
        self._recall = None
        if self._body.finished:
            return []
        ending = ending or Ending()
        try:
            tail = self._body.tail(self._framer.rest()) if ending.kind == "eof" else []
        except WireError as error:
            return self._broken(error, ending)
        return tail + self._body.end(ending)

    def _broken(self, error: WireError, ending: Ending) -> list[StreamToken]:
        """Return what was whole before the fault, and the fault."""
        tokens = self._body.feed(error.block) if error.block else []
        return tokens + self._body.end(cut_short(ending, error))
