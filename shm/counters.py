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
# Room for one worker's stream metrics (`workers.stream_metrics`), which have a page of their own:
# 1,370 words, and the rest of the last line of 128 bytes.
METRICS_BYTES: Final = 86 * 128
ROLES: Final = ("none", "supervisor", "provider", "worker", "broker", "counter")

NAMES: Final[dict[str, tuple[str, ...]]] = {
    "none": (),
    "supervisor": ("restarts",),
    "provider": (
        "requests",
        "streams",
        "ring_full",
        "cancelled",
        "reattached",
        "waiting",  # requests that are not sent now
        "waited",  # how often one was not
        "sent_again",
        "bad_limits",  # values of rate-limit headers that say nothing
        "connections_open",
        "connections_idle",
        "connections_awaited",  # requests that wait for a place (limits.max_connections_per_host)
        "faults",  # exceptions that nobody expected, see `ringcast.fault`
    ),
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
        "errors",  # by which it ended streams itself; the workers count their own
        *(f"error.{code}" for code in Code),
    ),
    "counter": ("counts",),  # the process that counts the tokens of texts
}
_FIRST: Final = 4  # words 0..3: role, pid, heartbeat, epoch


class Block:
    """One process's own words."""

    def __init__(self, page: memoryview, number: int, role: str, *, pid: int = 0) -> None:
        """Claim block `number` of `page`. Counters go on from what a predecessor left."""
        start = number * BLOCK_BYTES
        self.words = page[start : start + BLOCK_BYTES].cast("Q")  # by `slot`, for the hottest path
        self._index = {name: _FIRST + i for i, name in enumerate(NAMES[role])}
        self.words[1] = pid
        self.words[3] += 1
        self.starts: int = self.words[3]  # how often the block was claimed: an epoch
        self.words[0] = ROLES.index(role)

    def slot(self, name: str) -> int:
        """Return the word of `name`, for `add` on a hot path."""
        return self._index[name]

    def add(self, slot: int, amount: int = 1) -> None:
        """Add to one counter; it wraps at 2**64."""
        words = self.words
        words[slot] = (words[slot] + amount) & 0xFFFF_FFFF_FFFF_FFFF

    def set(self, slot: int, value: int) -> None:
        """Store a gauge."""
        self.words[slot] = value

    def get(self, slot: int) -> int:
        """Read a word back, as a successor does."""
        return self.words[slot]

    def beat(self, now_ns: int) -> None:
        """Store the heartbeat: CLOCK_MONOTONIC in nanoseconds."""
        self.words[2] = now_ns

    def close(self) -> None:
        """Give the view of the page back."""
        self.words.release()


def page_bytes(providers: int, workers: int) -> int:
    """Return the size of a daemon's page: supervisor, broker and counter are in it too."""
    return (3 + providers + workers) * BLOCK_BYTES


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
