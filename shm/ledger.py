"""How far the readers of each stream are: single-writer words that outlive the broker (R16).

A new broker finds in the rings what was said, and here what of it nobody needs any more.
The table is direct-mapped by slot: of two streams that meet, the later one counts, and what
is known of the other is that nothing is known.
"""

from __future__ import annotations

from typing import Final

ENTRIES: Final = 8192  # twice as many streams as may be live
LEDGER_BYTES: Final = ENTRIES * 16
NOBODY: Final = (1 << 63) - 1  # nobody will ever read it again


class Ledger:
    """The table in `memory`."""

    def __init__(self, memory: memoryview) -> None:
        """Take over what a predecessor has noted."""
        self._words = memory[:LEDGER_BYTES].cast("Q")

    def note(self, slot: int, number: int) -> None:
        """Store that the tokens of `slot` below `number` are done with."""
        words, at = self._words, slot % ENTRIES << 1
        if words[at] != slot:
            words[at] = 0  # whoever dies here has said nothing
        words[at + 1] = number
        words[at] = slot

    def find(self, slot: int) -> int:
        """Return what was noted of `slot`, 0 if nothing was."""
        words, at = self._words, slot % ENTRIES << 1
        number: int = words[at + 1]
        return number if words[at] == slot else 0

    def close(self) -> None:
        """Give the view of the memory back."""
        self._words.release()
