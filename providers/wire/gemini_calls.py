"""Gemini's function calls: whole ones, and those whose arguments come in pieces with paths.

https://ai.google.dev/api/caching#FunctionCall
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from ringcast.providers.wire.generation import FunctionCall, PartialArgument
from ringcast.providers.wire.partial_arguments import PartialArguments, json_text
from ringcast.providers.wire.payload import convert
from ringcast.providers.wire.tool_calls import ToolCalls
from ringcast.shm.tokens import ToolCall


class CandidateCalls(msgspec.Struct, array_like=True):
    """The calls of one candidate, and the open end of the newest one's arguments if it has one.

    What its methods yield is null where there is nothing new. They raise `WireError`, after what
    could be told, for arguments that can not be understood and at the limits of `ToolCalls`.
    """

    tools: ToolCalls = msgspec.field(default_factory=ToolCalls)
    open: PartialArguments | None = None

    @property
    def newest(self) -> int:
        """Our index of the newest call; that of the first to come before there is one."""
        return max(len(self.tools.calls) - 1, 0)

    def begin(self, call: FunctionCall, candidate: int) -> Iterator[ToolCall | None]:
        """End the call before, and begin another one, which may be all there already."""
        yield from self.end(candidate)
        streamed = call.args is None and bool(call.partial_args or call.will_continue)
        arguments = "" if streamed else json_text({} if call.args is None else call.args)
        number = len(self.tools.calls)
        yield self.tools.piece(number, call.id, call.name, arguments, candidate)
        self.open = PartialArguments() if streamed else None

    def go_on(self, call: FunctionCall, candidate: int) -> Iterator[ToolCall | None]:
        """More of the call that is open, and its end unless it says that there will be more."""
        partial = self.open or PartialArguments()
        pieces = convert(call.partial_args or [], list[PartialArgument])
        values = ((piece.json_path, _value(piece)) for piece in pieces)
        text = "".join([partial.write(path, value) for path, value in values if value is not _NONE])
        yield self._more(text, candidate)
        if call.will_continue is not True:
            yield from self.end(candidate)

    def end(self, candidate: int) -> Iterator[ToolCall | None]:
        """The rest of the call that is open, if one is."""
        if self.open is not None:
            rest, self.open = self.open.close(), None
            yield self._more(rest, candidate)

    def _more(self, text: str, candidate: int) -> ToolCall | None:
        return self.tools.piece(self.newest, None, None, text, candidate)


_NONE = msgspec.UNSET


def _value(piece: PartialArgument) -> Any:
    """The value of a piece, which is one of four; UNSET if it has none."""
    if piece.null_value is not _NONE:
        return None
    values = (piece.string_value, piece.number_value, piece.bool_value)
    return next((value for value in values if value is not _NONE), _NONE)
