"""The function calls of an interaction: their arguments come in pieces, or only at their start.

https://ai.google.dev/api/interactions-api#Resource:FunctionCallStep
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from ringcast.providers.wire.interaction import Piece
from ringcast.providers.wire.partial_arguments import json_text
from ringcast.providers.wire.tool_calls import ToolCalls
from ringcast.shm.tokens import ToolCall


class StepCalls(msgspec.Struct, array_like=True):
    """The calls, and by step the arguments that were told at its start, unless pieces follow.

    What its methods yield is null where there is nothing new. They raise `WireError` as `ToolCalls`
    does, and for arguments that are nested too deeply.
    """

    tools: ToolCalls = msgspec.field(default_factory=ToolCalls)
    offered: dict[int, str] = {}

    def begin(self, piece: Piece, index: int) -> Iterator[ToolCall | None]:
        """The start of a step that is a call."""
        yield self.tools.piece(index, piece.get("id"), piece.get("name"), None, 0)
        self.offered[index] = json_text(piece.get("arguments") or {})

    def whole(self, piece: Piece, index: int) -> Iterator[ToolCall | None]:
        """A delta that is all of a call, as they were before May 2026."""
        self.offered.pop(index, None)
        arguments = json_text(piece.get("arguments") or {})
        yield self.tools.piece(index, piece.get("id"), piece.get("name"), arguments, 0)

    def go_on(self, arguments: str, index: int) -> Iterator[ToolCall | None]:
        """A piece of a known call's arguments, after which those of its start no longer count."""
        if arguments:
            self.offered.pop(index, None)
        yield self.tools.piece(index, None, None, arguments, 0)

    def end(self, index: int) -> Iterator[ToolCall | None]:
        """The arguments of its start, if a call ends without any others."""
        if arguments := self.offered.pop(index, None):
            yield self.tools.piece(index, None, None, arguments, 0)
