"""One request that this process was given, from its START to its STOP.

| state   | what is there                    | leaves it                                      |
|---------|----------------------------------|------------------------------------------------|
| waiting | a place in a queue, or a timer   | sent when the manager says so; refused         |
| sent    | an upstream                      | its end: waiting again, or over                |
| over    | END is written, or waits for room| UNSAID: waiting again, or spent; STOP: forgotten|

A request is sent again only while nothing of it was seen. If nothing of the body was written,
this process knows; if something was, the worker decodes it, and the broker tells with UNSAID.
OPEN is written before each sending, and before an END that comes without one.
"""

from __future__ import annotations

import asyncio

from ringcast.providers import commands
from ringcast.providers.flow import Flow
from ringcast.providers.request import Call
from ringcast.providers.traffic.plan import Plan
from ringcast.providers.traffic.rate_headers import NOTHING
from ringcast.providers.upstream import Upstream
from ringcast.providers.vendor import AnyRequest


class Errand:
    """One request. `plan` is null where an answer is read on that its provider keeps."""

    __slots__ = (
        "asked",
        "ended_twice",
        "flow",
        "known",
        "limits",
        "opened_ns",
        "over",
        "plan",
        "shapes",
        "since_ns",
        "start",
        "stopped",
        "timer",
        "transforms",
        "upstream",
        "waited",
    )

    def __init__(self, start: commands.Start | commands.Resume, flow: Flow, now_ns: int) -> None:
        """`flow` is where its body goes."""
        self.start = start
        self.flow = flow
        self.since_ns = now_ns
        self.plan: Plan | None = None
        self.asked: AnyRequest | None = None
        self.transforms = b""
        self.shapes: dict[str, tuple[str, Call]] = {}  # by target: the wire decoder and the call
        self.upstream: Upstream | None = None
        self.limits = NOTHING  # what the last answer's head said of the provider's limits
        self.timer: asyncio.TimerHandle | None = None
        self.waited = False  # whether the broker was told so
        self.opened_ns = 0  # when its last OPEN was written
        self.known = False  # whether its worker still has that one
        self.over = 0.0  # since when it is
        self.ended_twice = False
        self.stopped = False  # its last token is known

    @property
    def waiting(self) -> bool:
        """Whether it is not over, and not sent."""
        return not self.over and self.upstream is None

    @property
    def unseen(self) -> bool:
        """Whether this process knows that nothing of it was seen."""
        return bool(self.shapes) and not self.stopped and self.flow.untouched

    @property
    def live(self) -> commands.Live:
        """What a broker that asks is told of it."""
        start, target = self.start, self.plan.target if self.plan else None
        asked = (target.provider, target.model) if target else (start.provider, start.model)
        over = bool(self.over) and self.flow.finished
        return commands.Live(start.slot, start.stream, start.worker, *asked, self.flow.limit, over)

    def forget_request(self) -> None:
        """It is not sent again: 5 MB of prompt need not be kept."""
        self.asked, self.shapes = None, {}

    def cancel_timer(self) -> None:
        """It waits no longer."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
