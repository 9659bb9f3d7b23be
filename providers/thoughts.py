"""Earlier thoughts of a model, which its provider wants back with what came of them.

An assistant's message may have `reasoning`: what its Reasoning tokens told, in their order and as
they came or already joined, each an object with any of `content`, `block`, `signature`,
`encrypted` and `detail` (what `tokens.describe` gives). Without the proof that is in the last
three they are of no use to anyone, and are not sent.
"""

from __future__ import annotations

import msgspec

from ringcast.providers.chat_form import typed
from ringcast.providers.request import Json

_FIELD = "messages[].reasoning"


class Piece(msgspec.Struct, frozen=True):
    """What one token told."""

    content: str = ""
    block: int = 0
    signature: str | None = None
    encrypted: str | None = None
    detail: Json | None = None

    @property
    def parts(self) -> bool:
        """Whether this is the border between two parts of a summary."""
        return (self.detail or {}).get("type") == "summary_text"

    @property
    def proves(self) -> bool:
        """Whether this is the last piece of a thought."""
        return not self.parts and (self.signature or self.encrypted or self.detail) is not None


class Thought(msgspec.Struct, frozen=True):
    """A whole thought: its text in one or more parts, and its proof, if it is `proven`."""

    block: int
    texts: list[str]
    signature: str | None = None
    encrypted: str | None = None
    detail: Json | None = None
    proven: bool = False

    def is_a(self, kind: str) -> bool:
        """Return whether its proof is of a certain type."""
        return self.detail is not None and self.detail.get("type") == kind

    @property
    def text(self) -> str:
        """All of it; parts of a summary are paragraphs."""
        return "\n\n".join(self.texts)


def thoughts(message: Json) -> list[Thought]:
    """Return what a message's `reasoning` joins to, proven or not.

    A thought ends with its proof, or where another block begins. Raises `RequestError`
    (bad_request) if it is no list of such objects.
    """
    whole: list[list[Piece]] = []
    for piece in typed(message.get("reasoning") or [], list[Piece], _FIELD):
        if not whole or whole[-1][-1].proves or whole[-1][-1].block != piece.block:
            whole.append([])
        whole[-1].append(piece)
    return [_joined(pieces) for pieces in whole]


def _joined(pieces: list[Piece]) -> Thought:
    texts: list[list[str]] = [[]]
    for piece in pieces:
        if piece.parts:
            texts.append([])
        texts[-1].append(piece.content)
    last = pieces[-1]
    said = ["".join(text) for text in texts]
    if not last.proves:
        return Thought(last.block, said)
    return Thought(last.block, said, last.signature, last.encrypted, last.detail, proven=True)
