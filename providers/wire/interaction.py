"""Events of Gemini's Interactions streams as typed structs, in both of their vocabularies.

https://ai.google.dev/api/interactions-api. Until May 2026 an answer was a list of contents
(`content.start`, `interaction.complete`), since then it is one of steps (`step.start`,
`interaction.completed`); what is in a delta is much the same.
"""

from __future__ import annotations

from typing import Any

import msgspec

Piece = dict[str, Any]


class Interaction(msgspec.Struct, gc=False):
    """The resource, whole or as far as an event tells it; `errors` are of a failed one."""

    id: Any = None
    status: Any = None
    model: Any = None
    agent: Any = None
    usage: Any = None
    steps: list[Piece] | None = None
    outputs: list[Piece] | None = None
    errors: Any = None


class Metadata(msgspec.Struct, gc=False):
    """What may come with any event."""

    total_usage: Any = None


class OwnStep(msgspec.Struct, array_like=True):
    """A step of one of Google's tools that is open: its start has the id, its delta all else."""

    index: int
    said: Piece
    told: bool = False

    def with_delta(self, delta: Piece) -> Piece:
        """The step as far as a delta tells it."""
        return self.said | {key: value for key, value in delta.items() if value not in (None, "")}


class Event(msgspec.Struct, gc=False):
    """Any event. `event_id` is there where the stream can be resumed after it."""

    event_type: Any = None
    event_id: Any = None
    index: Any = None
    interaction: Interaction | None = None
    interaction_id: Any = None
    status: Any = None
    step: Piece | None = None
    content: Piece | None = None
    delta: Piece | None = None
    usage: Any = None
    metadata: Metadata | None = None
    error: Any = None
