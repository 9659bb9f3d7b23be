"""The requests that this process was given, by slot, and what the broker says of them.

Their states are in `errand`, their ways from one to the next in `course`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import httpx

from ringcast import fault
from ringcast.config import Config
from ringcast.providers import commands
from ringcast.providers.flow import Flow, Outlet
from ringcast.providers.gateway import Gateway
from ringcast.providers.traffic.course import Course
from ringcast.providers.traffic.errand import Errand
from ringcast.providers.traffic.failure import of_error
from ringcast.providers.traffic.flows import Flows
from ringcast.providers.traffic.manager import ProviderManager
from ringcast.providers.traffic.plan import Wait
from ringcast.providers.traffic.routing import Target
from ringcast.providers.upstream import CANCELLED, Upstream
from ringcast.shm.counters import Block
from ringcast.shm.tokens import Error, Usage

# A broker that died says neither STOP nor UNSAID: then a second END lets its worker say all again.
UNHEARD_S: Final = 10.0
FORGOTTEN_S: Final = 300.0
TICKS_NS: Final = 2_000_000  # the broker's clock reads whole milliseconds


class Errands:
    """All of them."""

    def __init__(
        self,
        config: Config,
        manager: ProviderManager,
        gateways: Mapping[str, list[Gateway]],
        client: httpx.AsyncClient,
        outlets: Sequence[Outlet],
        counters: Block,
        report: Callable[[commands.Command], None],
        spend: Callable[[Target, Usage | None, Error | None, bool], None],
    ) -> None:
        """`report` tells the broker; `spend` what a sent request used, and whether it had begun."""
        self._manager = manager
        self._counters = counters
        self._report = report
        self._errands: dict[int, Errand] = {}
        self._flows = Flows(outlets)
        self._course = Course(
            config, manager, gateways, client, counters, report, spend, self._errands, self._flows
        )

    @property
    def live(self) -> list[commands.Live]:
        """What is under way, for a broker that asks."""
        return [one.live for one in self._errands.values() if not one.stopped]

    @property
    def upstreams(self) -> list[Upstream]:
        """The connections in use."""
        return [one.upstream for one in self._errands.values() if one.upstream is not None]

    @property
    def waiting(self) -> int:
        """How many are not over, and not sent."""
        return sum(one.waiting for one in self._errands.values())

    # what the broker says

    def start(self, start: commands.Start) -> None:
        """Begin a request."""
        if start.slot in self._errands:  # asked twice, as it was abandoned twice
            return
        errand = self._new(start, 0, start.since_ns)
        self._count("requests")
        self._course.begin(errand, start)

    def resume(self, resume: commands.Resume) -> None:
        """Go on with a stream whose connection is gone, behind what was decoded of it."""
        known = self._errands.get(resume.slot)
        if known is not None and not known.over:
            return
        errand = self._new(resume, resume.raw)
        errand.known = True
        if known is not None:  # what it holds is given back at the stream's end
            errand.plan, errand.opened_ns = known.plan, known.opened_ns
        self._course.read_on(errand, resume)

    def grant(self, slot: int, limit: int) -> None:
        """Let a body be written up to byte `limit`."""
        if (flow := self._flows.ending(slot)) is not None:
            flow.grant(limit)
            self._course.look_at(flow)
        elif (errand := self._errands.get(slot)) is not None:
            errand.flow.grant(limit)
            if errand.upstream is not None:
                errand.upstream.adapt()

    def began(self, slot: int) -> None:
        """A first token is there: it is not sent again."""
        errand = self._errands.get(slot)
        if errand is None or errand.plan is None:
            return
        self._manager.began(errand.plan, time.monotonic())
        errand.asked, errand.shapes = None, {}
        if errand.upstream is not None:
            errand.upstream.token_seen()

    def unsaid(self, said: commands.Unsaid) -> None:
        """It failed before anything was seen of it: send it again, or say that it is not."""
        errand = self._errands.get(said.slot)
        if errand is None:  # a predecessor's, which the broker has abandoned
            return
        is_known = errand.opened_ns == said.opened_ns
        if errand.plan is None or (is_known and not errand.shapes):  # it can only be read on
            self._report(commands.Spent(said.slot))
            return
        if not is_known:  # told twice
            return
        self._course.cut(errand)
        verdict = self._course.failed(errand, errand.plan, of_error(said.error))
        if isinstance(verdict, Wait):
            self._begin_anew(errand, said.limit)
            self._course.wait(errand, verdict)
        else:
            errand.over, errand.shapes = time.monotonic(), {}
            self._course.look_at(errand.flow)
            self._report(commands.Spent(said.slot))

    def stop(self, stop: commands.Stop) -> None:
        """End a stream: nobody wants it, or it has had its last token."""
        if stop.cancel:
            self._count("cancelled")
        errand = self._errands.get(stop.slot)
        if errand is None:
            return
        if self._flows.ending(stop.slot) is errand.flow:  # the rest waits; nobody wants it
            errand.flow.end(CANCELLED, time.monotonic_ns(), final=True)
            self._course.look_at(errand.flow)
        if stop.cancel:
            errand.shapes = {}  # whatever its worker says, it is not sent again
        if stop.ended:
            self._course.settle(errand, stop.usage, stop.error)
        if errand.over:
            return
        if errand.upstream is None:
            self._course.end(errand, CANCELLED)
        elif stop.cancel:
            errand.upstream.cancel()
        else:
            errand.upstream.finish()

    def fail(self, slot: int, code: str, message: str) -> None:
        """End a stream behind all that came."""
        errand = self._errands.get(slot)
        if errand is not None and errand.upstream is not None:
            errand.upstream.fail(code, message)

    def abandon(self, slot: int, worker: int, how: str) -> None:
        """End a stream that has no connection (any more)."""
        errand = self._errands.get(slot)
        if self._flows.ending(slot) is not None or (errand is not None and not errand.over):
            return  # it is ours, and has just begun
        self._course.look_at(self._flows.abandon(slot, worker, how, time.monotonic_ns()))

    def broke(self, slot: int, error: Exception) -> None:
        """End a stream by a fault of ours."""
        if (errand := self._errands.get(slot)) is not None:
            self._course.broke(errand, error)
        else:
            fault.report(error)

    # time and room

    def moved(self, flow: Flow) -> None:
        """There was room in its ring again."""
        errand = self._errands.get(flow.slot)
        if self._flows.ending(flow.slot) is flow:
            self._course.look_at(flow)
        elif errand is not None and errand.upstream is not None and errand.flow is flow:
            errand.upstream.adapt()

    def tick(self, now: float) -> None:
        """See to what a broker that died had to say: end once more, in the end forget."""
        for errand in list(self._errands.values()):
            if not errand.over or not errand.flow.finished:
                continue
            if now - errand.over > FORGOTTEN_S:
                self._course.settle(errand, None, None)
            elif now - errand.over > UNHEARD_S and not errand.ended_twice:
                errand.ended_twice = True
                self.abandon(errand.flow.slot, errand.start.worker, "interrupted")

    def close(self) -> None:
        """End everything."""
        for errand in list(self._errands.values()):
            if errand.upstream is not None:
                errand.upstream.cancel()
            elif not errand.over:
                self._course.end(errand, CANCELLED)

    def _new(self, start: commands.Start | commands.Resume, raw: int, since_ns: int = 0) -> Errand:
        flow = self._flows.begin(start, raw, start.limit)
        if (now_ns := time.monotonic_ns()) - since_ns < TICKS_NS or not since_ns:
            since_ns = now_ns
        errand = self._errands[start.slot] = Errand(start, flow, since_ns)
        return errand

    def _begin_anew(self, errand: Errand, limit: int) -> None:
        earlier, errand.flow = errand.flow, self._flows.begin(errand.start, 0, limit)
        errand.flow.follow(earlier)
        errand.known, errand.over = False, 0.0

    def _count(self, name: str) -> None:
        self._counters.add(self._counters.slot(name))
