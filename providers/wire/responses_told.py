"""What of a Responses answer was told already, for its events say everything up to four times.

A message or a thought comes in deltas, in the `.done` of its part, in its finished item, and in
the response at the end. Whatever comes first is told, the rest is not:

T1  An item of which a delta came is not told from anything later.
T2  Nor is any item, as long as deltas came and no further item was begun: servers are not to be
    trusted with `output_index`.
T3  Of the last event's response only seals are told, or all of it if nothing was told before.

OpenAI itself sends a short message without any delta; Azure seals thoughts in the last event only.
"""

from __future__ import annotations

from typing import Final

import msgspec

# Of more items than any answer has nothing is remembered, and nothing told but by deltas.
MAX_TOLD: Final = 1024


class Told(msgspec.Struct, array_like=True):
    """`items` by their `output_index`; `begun` is whether the newest has no delta yet."""

    items: set[int] = set()
    begun: bool = True
    sealed: bool = False

    def lacks(self, index: int) -> bool:
        """Whether an item must be told from what is not a delta."""
        return self.begun and index not in self.items and len(self.items) < MAX_TOLD

    def tell(self, index: int) -> bool:
        """An item is told now; whether that was not known."""
        if not self.begun and index in self.items:
            return False
        self.begun = False
        if len(self.items) < MAX_TOLD:
            self.items.add(index)
        return True
