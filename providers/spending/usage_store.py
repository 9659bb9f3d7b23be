"""Keeps what was used, without a stream ever waiting for a disk.

A provider process adds what each request used to a bounded queue; one thread of its own takes what
is there, adds it up by day, provider and model, and writes it in one transaction. Another process
that holds the file is waited for. A process that is killed loses what its thread had not written
yet, usually some milliseconds. A file that cannot be written is told once on stderr; what it does
not take is counted in `lost`, told at the end, and nobody else notices.
"""

from __future__ import annotations

import math
import queue
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import date
from typing import Final

import msgspec

from ringcast import config
from ringcast.providers.spending.usage_file import (
    MICRO,
    Spent,
    UsageFile,
    UsageFileError,
    is_busy,
    path_of,
    read,
)
from ringcast.shm.tokens import Usage

WAITING: Final = 10_000  # requests; at 1,000 a second a disk may stand still for 10 s
GATHER_S: Final = 0.02  # so that 1,000 requests a second make 50 transactions
RETRY_S: Final = 0.5
CLOSE_S: Final = 2.0
# What a row can hold of one request, whatever a provider says: 2**63 is 8 million of these.
MOST: Final = 1 << 40
NAME_LENGTH: Final = 200


class Used(msgspec.Struct, frozen=True):
    """One request that has ended: `usage` is None where its provider told none.

    `failed` is not said of one that its user cancelled; `begun`, if something of an answer came.
    """

    provider: str
    model: str
    usage: Usage | None
    failed: bool
    begun: bool = True


def say(text: str) -> None:
    """Tell the daemon's log."""
    print(f"ringcast: {text}", file=sys.stderr, flush=True)


class UsageStore:
    """`add` is for the event loop; it never blocks and never raises."""

    def __init__(
        self,
        settings: config.Usage,
        *,
        wall: Callable[[], float] = time.time,
        tell: Callable[[str], None] = say,
    ) -> None:
        """`wall` is a clock in seconds since the epoch; days are those of the local time zone."""
        self.lost = 0  # requests that never came into the file
        self._added = self._done = 0  # each is counted by one thread
        self._keep = settings.keep
        self._bounded = settings.daily_usd > 0
        self._path = path_of(settings.file)
        self._wall, self._tell = wall, tell
        self._told = self._closing = False
        self._queue: queue.Queue[Spent | None] = queue.Queue(WAITING)
        self._thread: threading.Thread | None = None

    def add(self, used: Used) -> None:
        """Have what a request used written down."""
        if not self._keep or self._closing:
            return
        try:
            if self._thread is None:
                self._thread = self._started()
            self._queue.put_nowait(row(used, day(self._wall())))
            self._added += 1
        except (queue.Full, RuntimeError):  # no room, or no thread to be had
            self.lost += 1

    def _started(self) -> threading.Thread:
        thread = threading.Thread(target=self._write_all, name="usage", daemon=True)
        thread.start()
        return thread

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Write what is left, for at most `timeout_s`, and tell what is lost."""
        if self._closing:
            return
        self._closing = True
        if self._thread is not None:
            with suppress(queue.Full):  # then the thread is not waiting, and sees `_closing`
                self._queue.put_nowait(None)
            self._thread.join(timeout_s)
        self.lost += self._added - self._done
        if self.lost:
            self._tell(f"usage is lost (requests: {self.lost}): {self._path} did not take it")

    def spent_today(self, now: float) -> float:
        """Return the US dollars of the day that `now` (s since the epoch) is in; 0 if unknown."""
        try:
            today = day(now)
            rows = read(self._path, today) if self._keep else []
        except UsageFileError as error:
            self._complain(error, "; usage.daily_usd counts from 0" if self._bounded else "")
            return 0.0
        return sum(spent.cost_micro for spent in rows if spent.day == today) / MICRO

    def _write_all(self) -> None:
        file = UsageFile(self._path)
        waiting: dict[tuple[str, str, str], Spent] = {}
        while self._gather(waiting) or waiting:
            if self._written(file, list(waiting.values())):
                waiting.clear()
            else:
                time.sleep(RETRY_S)
        file.close()

    def _gather(self, waiting: dict[tuple[str, str, str], Spent]) -> bool:
        """Add up what is in the queue, waiting for the first; say whether more may come."""
        if not waiting and not self._take(waiting, block=not self._closing):
            return False
        if not self._closing:
            time.sleep(GATHER_S)
        while len(waiting) < WAITING and self._take(waiting, block=False):
            pass
        return not self._closing

    def _take(self, waiting: dict[tuple[str, str, str], Spent], *, block: bool) -> bool:
        try:
            spent = self._queue.get(block)
        except queue.Empty:
            return False
        if spent is None:
            return False
        if spent.key in waiting:
            waiting[spent.key].add(spent)
        else:
            waiting[spent.key] = spent
        return True

    def _written(self, file: UsageFile, rows: list[Spent]) -> bool:
        """Write rows, or count them as lost; False says that they shall be tried again."""
        try:
            file.add(rows)
        except Exception as error:  # whatever is wrong with a file must not end the thread
            if is_busy(error):
                return False
            self.lost += sum(spent.requests for spent in rows)
            self._complain(error)
        self._done += sum(spent.requests for spent in rows)
        return True

    def _complain(self, error: Exception, besides: str = "") -> None:
        if not self._told:
            self._told = True
            named = str(error) if str(self._path) in str(error) else f"{self._path}: {error}"
            self._tell(f"usage is not kept: {named}{besides}")


def day(now: float) -> str:
    """Return the local day of a time, as `2026-11-20`."""
    return date.fromtimestamp(now).isoformat()


def row(used: Used, day: str) -> Spent:
    """Return what one request adds to its row."""
    usage = used.usage or Usage()
    cost = usage.cost if usage.cost is not None and 0 <= usage.cost < math.inf else None
    return Spent(
        day,
        _name(used.provider),
        _name(used.model),
        requests=1,
        errors=int(used.failed),
        input=_count(usage.input_tokens),
        output=_count(usage.output_tokens),
        cache_read=_count(usage.cache_read_tokens),
        cache_write=_count(usage.cache_write_tokens),
        reasoning=_count(usage.reasoning_tokens),
        cost_micro=_count(round(min(cost or 0.0, MOST) * MICRO)),
        # What was cut off before anything came, and used nothing, has no price to be missed.
        unpriced=int(cost is None and (used.begun or used.usage is not None)),
    )


def _count(number: int | None) -> int:
    return min(max(number or 0, 0), MOST)


def _name(name: str) -> str:
    """Return a name as SQLite can hold it: no lone surrogates, and not a novel."""
    return name[:NAME_LENGTH].encode("utf-8", "replace").decode()
