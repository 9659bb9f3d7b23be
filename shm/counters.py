"""The counters page: single-writer 64-bit words in shared memory (R16).

Each process owns one block of 128 words and is the only one to write there; anybody may
read. A block starts with the process's role and heartbeat; the meaning of the other words
is fixed by the role's list of names below.
"""

from __future__ import annotations

from typing import Final

from ringcast.errors import Code

BLOCK: Final = 128
BLOCK_BYTES: Final = BLOCK * 8
ROLES: Final = ("none", "supervisor", "provider", "worker", "broker")

NAMES: Final[dict[str, tuple[str, ...]]] = {
    "none": (),
    "supervisor": ("restarts",),
    "provider": ("requests", "streams", "ring_full", "cancelled", "reattached"),
    "worker": (
        "records",
        "bytes_in",
        "tokens",
        "streams",
        "errors",
        "oddities",
        "ring_full",
        "at",  # the record being decoded (position and ring), 0 between records
        "died_at",  # the one that a predecessor died at
        "deaths_at",  # how many did, one after the other
        "removed",  # matches that content filters have replaced
        *(f"error.{code}" for code in Code),
    ),
    "broker": (
        "clients",
        "streams",
        "tokens_in",
        "messages_out",
        "bytes_out",
        "bad_messages",
        "refused",
        "log_moved",
    ),
}
_FIRST: Final = 4  # words 0..3: role, pid, heartbeat, epoch


class Block:
    """One process's own words."""

    def __init__(self, page: memoryview, number: int, role: str, *, pid: int = 0) -> None:
        """Claim block `number` of `page`. Counters go on from what a predecessor left."""
        start = number * BLOCK_BYTES
        self._words = page[start : start + BLOCK_BYTES].cast("Q")
        self._index = {name: _FIRST + i for i, name in enumerate(NAMES[role])}
        self._words[1] = pid
        self._words[3] += 1
        self.starts: int = self._words[3]  # how often the block was claimed: an epoch
        self._words[0] = ROLES.index(role)

    def slot(self, name: str) -> int:
        """Return the word of `name`, for `add` on a hot path."""
        return self._index[name]

    def add(self, slot: int, amount: int = 1) -> None:
        """Add to one counter; it wraps at 2**64."""
        words = self._words
        words[slot] = (words[slot] + amount) & 0xFFFF_FFFF_FFFF_FFFF

    def set(self, slot: int, value: int) -> None:
        """Store a gauge."""
        self._words[slot] = value

    def get(self, slot: int) -> int:
        """Read a word back, as a successor does."""
        return self._words[slot]

    def beat(self, now_ns: int) -> None:
        """Store the heartbeat: CLOCK_MONOTONIC in nanoseconds."""
        self._words[2] = now_ns

    def close(self) -> None:
        """Give the view of the page back."""
        self._words.release()


def heartbeat_ns(page: memoryview, number: int) -> int:
    """Return the heartbeat of block `number`, 0 if there was none yet."""
    start = number * BLOCK_BYTES
    with page[start : start + BLOCK_BYTES].cast("Q") as words:
        beat: int = words[2]
        return beat


def read(page: memoryview) -> list[dict[str, int | str]]:
    """Return what every claimed block says, in order: role, pid, heartbeat_ns, counters.

    Of the errors only those that have happened.
    """
    blocks: list[dict[str, int | str]] = []
    with page[: len(page) // BLOCK_BYTES * BLOCK_BYTES].cast("Q") as words:
        for start in range(0, len(words), BLOCK):
            if not 0 < words[start] < len(ROLES):
                continue
            role = ROLES[words[start]]
            row: dict[str, int | str] = {
                "role": role,
                "pid": words[start + 1],
                "heartbeat_ns": words[start + 2],
                "starts": words[start + 3],
            }
            for number, name in enumerate(NAMES[role], start + _FIRST):
                if words[number] or not name.startswith("error."):
                    row[name] = words[number]
            blocks.append(row)
    return blocks
