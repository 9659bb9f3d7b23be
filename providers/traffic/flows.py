"""The flows of this process's requests, and the ends of those that wait for credit or room.

A flow that has ended is kept until its END is in the ring, whatever became of its request. The
next flow of its slot answers such an end: nobody waits for it any more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ringcast.errors import Code
from ringcast.providers import commands
from ringcast.providers.flow import Flow, Outlet
from ringcast.providers.upstream import CANCELLED
from ringcast.providers.wire.body import Ending
from ringcast.providers.wire.sse import SseFramer


class Flows:
    """All of them to all workers; iterate over the slots whose END waits."""

    def __init__(self, outlets: Sequence[Outlet]) -> None:
        """`outlets` are the in-rings, by worker."""
        self._outlets = outlets
        self._ending: dict[int, Flow] = {}

    def __iter__(self) -> Iterator[int]:
        return iter(self._ending)

    def __len__(self) -> int:
        return len(self._ending)

    def begin(self, start: commands.Start | commands.Resume, raw: int, limit: int) -> Flow:
        """Return a new flow behind `raw` bytes of the stream, that may write up to `limit`."""
        outlet = self._outlets[start.worker]
        self._ending.pop(start.slot, None)
        outlet.waiting.pop(start.slot, None)
        return Flow(start.slot, outlet, SseFramer(), limit, raw)

    def abandon(self, slot: int, worker: int, how: str, now_ns: int) -> Flow:
        """Return a flow that only has the end of a stream without a connection (any more)."""
        flow = Flow(slot, self._outlets[worker], SseFramer(), 0)
        text = "the connection to the provider is lost"
        ending = CANCELLED if how == "cancelled" else Ending("failed", Code.INTERRUPTED, text)
        flow.end(ending, now_ns, final=how != "interrupted")
        return flow

    def ending(self, slot: int) -> Flow | None:
        """Return the flow whose END waits, if one's does."""
        return self._ending.get(slot)

    def ended(self, flow: Flow) -> bool:
        """Whether an ended flow's END is in the ring; until it is, the flow is kept."""
        if flow.finished:
            self._ending.pop(flow.slot, None)
        else:
            self._ending[flow.slot] = flow
        return flow.finished
