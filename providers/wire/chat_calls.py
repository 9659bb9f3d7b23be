"""Pieces of tool calls as chunks of a chat have them, in every form that a server gives them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ringcast.providers.wire.chunk import ChoiceDelta, ToolCallPiece
from ringcast.providers.wire.portable import string


def pieces(delta: ChoiceDelta) -> Iterator[tuple[ToolCallPiece, int]]:
    """The pieces that say something; old TGI sends one without its list.

    Several that do not say which calls they are of go on with the last ones in their order: with
    each comes how many of these are after it.
    """
    said = delta.tool_calls
    found = [said] if isinstance(said, ToolCallPiece) else said or []
    sound = [piece for piece in found if piece is not None and piece != ToolCallPiece()]
    after = sum(map(_is_nameless, sound))
    for piece in sound:
        after -= _is_nameless(piece)
        yield piece, after if _is_nameless(piece) else 0


def told(piece: ToolCallPiece) -> tuple[Any, Any]:
    """The name and the arguments in a piece, of a function or of a tool of free text."""
    if piece.custom is not None:
        return piece.custom.name, piece.custom.input
    return (piece.function.name, piece.function.arguments) if piece.function else (None, None)


def google_signature(piece: ToolCallPiece) -> str | None:
    """What Gemini 3 wants back with a call.

    https://ai.google.dev/gemini-api/docs/thought-signatures#openai
    """
    extra = piece.extra_content
    google = extra.get("google") if isinstance(extra, dict) else None
    return string(google.get("thought_signature")) if isinstance(google, dict) else None


def _is_nameless(piece: ToolCallPiece) -> bool:
    function = piece.function
    return piece.index is None and not piece.id and function is not None and not function.name
