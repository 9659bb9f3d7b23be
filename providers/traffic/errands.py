"""The requests that this process was given, each from its START to its STOP.

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
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import httpx

from ringcast.config import ROUTE, Config
from ringcast.errors import Code, RequestError
from ringcast.providers import commands, request
from ringcast.providers.estimate import estimate
from ringcast.providers.flow import Flow, Outlet
from ringcast.providers.gateway import Gateway
from ringcast.providers.request import Call
from ringcast.providers.spending.prices import price_of
from ringcast.providers.traffic import rate_headers
from ringcast.providers.traffic.failure import Failure, of_ending, of_error
from ringcast.providers.traffic.manager import Plan, ProviderManager, Wait
from ringcast.providers.traffic.routing import Target
from ringcast.providers.transform_spec import encoded
from ringcast.providers.upstream import CANCELLED, Upstream
from ringcast.providers.vendor import AnyRequest
from ringcast.providers.wire.body import Ending
from ringcast.providers.wire.framing import framer
from ringcast.providers.wire.sse import SseFramer
from ringcast.shm import records
from ringcast.shm.counters import Block
from ringcast.shm.tokens import Error, Usage

THROTTLED: Final = (429, 503, 529)  # refusals for there being too much, see `failure`
TOLD_S: Final = 0.05  # shorter waits are not worth a word
# A broker that died says neither STOP nor UNSAID: then a second END lets its worker say all again.
UNHEARD_S: Final = 10.0
FORGOTTEN_S: Final = 300.0
_GIVEN_UP: Final = Ending("cancelled", Code.INTERRUPTED, "it is sent again")


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
        self.limits = (
            rate_headers.NOTHING
        )  # what the last answer's head said of the provider's limits
        self.timer: asyncio.TimerHandle | None = None
        self.waited = False  # whether the broker was told so
        self.opened_ns = 0  # when its last OPEN was written
        self.known = False  # whether its worker still has that one
        self.over = 0.0  # since when it is
        self.ended_twice = False
        self.stopped = False  # its last token is known


class Errands:
    """All of them, by slot."""

    def __init__(
        self,
        config: Config,
        manager: ProviderManager,
        gateways: Mapping[str, list[Gateway]],
        client: httpx.AsyncClient,
        outlets: Sequence[Outlet],
        counters: Block,
        report: Callable[[commands.Command], None],
        spend: Callable[[Target, Usage | None, Error | None], None],
    ) -> None:
        """`report` tells the broker; `spend` is told what every sent request used."""
        self._config = config
        self._manager = manager
        self._gateways = gateways
        self._client = client
        self._outlets = outlets
        self._counters = counters
        self._report = report
        self._spend = spend
        self._loop = asyncio.get_running_loop()
        self._errands: dict[int, Errand] = {}
        self._ending: dict[int, Flow] = {}  # ended flows whose END waits for credit or room
        self._doorman: asyncio.TimerHandle | None = None  # looks who of the queued may go

    @property
    def live(self) -> list[commands.Live]:
        """What is under way, for a broker that asks."""
        return [_live(one) for one in self._errands.values() if not one.stopped]

    @property
    def upstreams(self) -> list[Upstream]:
        """The connections in use."""
        return [one.upstream for one in self._errands.values() if one.upstream is not None]

    @property
    def waiting(self) -> int:
        """How many are not over, and not sent."""
        return sum(not one.over and one.upstream is None for one in self._errands.values())

    # what the broker says

    def start(self, start: commands.Start) -> None:
        """Begin a request."""
        if start.slot in self._errands:  # asked twice, as it was abandoned twice
            return
        errand = self._new(start, 0)
        self._counters.add(self._counters.slot("requests"))
        try:
            self._plan(errand, start)
        except RequestError as error:
            self._refuse(errand, error)
        else:
            self._go_on(errand)

    def _plan(self, errand: Errand, start: commands.Start) -> None:
        """Find out where it may go, and what is sent there. Raises `RequestError`."""
        errand.asked = asked = request.decode(start.request)
        route = self._config.routes.get(start.model) if start.provider == ROUTE else None
        chosen = asked.transforms or (route.transforms if route else None)
        errand.transforms = encoded(chosen or [], self._config.workers.transforms)
        tokens = estimate(asked) + (asked.max_tokens or 0)
        plan = self._manager.plan(
            start.slot, start.provider, start.model, start.client, tokens, time.monotonic()
        )
        self._shape(errand, plan, asked)
        errand.plan = plan

    def _shape(self, errand: Errand, plan: Plan, asked: AnyRequest) -> None:
        """Leave out who cannot be asked this. Raises `RequestError` if that is all."""
        refused: dict[str, RequestError] = {}
        for target in plan.targets:
            if target.name in errand.shapes or target.name in refused:
                continue
            try:
                shape = self._gateways[target.provider][target.key].shape(target.model, asked)
            except RequestError as error:
                refused[target.name] = error
            else:
                errand.shapes[target.name] = shape
        plan.targets = [one for one in plan.targets if one.name in errand.shapes]
        if not plan.targets:
            raise next(iter(refused.values()))

    def resume(self, resume: commands.Resume) -> None:
        """Go on with a stream whose connection is gone, behind what was decoded of it."""
        known = self._errands.get(resume.slot)
        if known is not None and not known.over:
            return
        errand = self._new(resume, resume.raw)
        errand.known = True
        if known is not None:  # what it holds is given back at the stream's end
            errand.plan, errand.opened_ns = known.plan, known.opened_ns
        try:
            if not (gateways := self._gateways.get(resume.provider)):
                text = f"{resume.provider} is not usable in this process"
                raise RequestError(Code.PROVIDER_DISABLED, text)
            target = errand.plan.target if errand.plan else None
            gateway = gateways[target.key if target else 0]  # an answer is kept for who asked
            outgoing = gateway.request(self._client, gateway.reattach(resume.api, resume.cursor))
        except (RequestError, httpx.InvalidURL) as error:
            self._refuse(errand, error)
            return
        self._counters.add(self._counters.slot("reattached"))
        self._connect(errand, gateway, outgoing, resume.api)

    def grant(self, slot: int, limit: int) -> None:
        """Let a body be written up to byte `limit`."""
        if (flow := self._ending.get(slot)) is not None:
            flow.grant(limit)
            self._look_at(flow)
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
        self._cut(errand)
        verdict = self._failed(errand, errand.plan, of_error(said.error))
        if not isinstance(verdict, Wait):
            errand.over, errand.shapes = time.monotonic(), {}
            self._look_at(errand.flow)
            self._report(commands.Spent(said.slot))
            return
        earlier, errand.flow = errand.flow, self._flow(errand.start, 0, said.limit)
        errand.flow.follow(earlier)
        errand.known, errand.over = False, 0.0
        self._wait(errand, verdict)

    def stop(self, stop: commands.Stop) -> None:
        """End a stream: nobody wants it, or it has had its last token."""
        if stop.cancel:
            self._counters.add(self._counters.slot("cancelled"))
        errand = self._errands.get(stop.slot)
        if errand is None:
            return
        if self._ending.get(stop.slot) is errand.flow:  # the rest waits; nobody wants it
            errand.flow.end(CANCELLED, time.monotonic_ns(), final=True)
            self._look_at(errand.flow)
        if stop.cancel:
            errand.shapes = {}  # whatever its worker says, it is not sent again
        if stop.ended:
            self._settle(errand, stop.usage, stop.error)
        if errand.over:
            return
        if errand.upstream is None:
            self._end(errand, CANCELLED)
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
        if slot in self._ending or (errand is not None and not errand.over):
            return  # it is ours, and has just begun
        flow = Flow(slot, self._outlets[worker], SseFramer(), 0)
        text = "the connection to the provider is lost"
        ending = CANCELLED if how == "cancelled" else Ending("failed", Code.INTERRUPTED, text)
        flow.end(ending, time.monotonic_ns(), final=how != "interrupted")
        self._look_at(flow)

    # time and room

    def moved(self, flow: Flow) -> None:
        """There was room in its ring again."""
        errand = self._errands.get(flow.slot)
        if self._ending.get(flow.slot) is flow:
            self._look_at(flow)
        elif errand is not None and errand.upstream is not None and errand.flow is flow:
            errand.upstream.adapt()

    def tick(self, now: float) -> None:
        """See to what a broker that died had to say: end once more, in the end forget."""
        for errand in list(self._errands.values()):
            if not errand.over or not errand.flow.finished:
                continue
            if now - errand.over > FORGOTTEN_S:
                self._settle(errand, None, None)
            elif now - errand.over > UNHEARD_S and not errand.ended_twice:
                errand.ended_twice = True
                self.abandon(errand.flow.slot, errand.start.worker, "interrupted")

    def close(self) -> None:
        """End everything."""
        for errand in list(self._errands.values()):
            if errand.upstream is not None:
                errand.upstream.cancel()
            elif not errand.over:
                self._end(errand, CANCELLED)

    # on its way

    def _new(self, start: commands.Start | commands.Resume, raw: int) -> Errand:
        flow = self._flow(start, raw, start.limit)
        errand = self._errands[start.slot] = Errand(start, flow, time.monotonic_ns())
        return errand

    def _flow(self, start: commands.Start | commands.Resume, raw: int, limit: int) -> Flow:
        outlet = self._outlets[start.worker]
        self._ending.pop(start.slot, None)  # an end that still waits for room is answered by this
        outlet.waiting.pop(start.slot, None)
        return Flow(start.slot, outlet, SseFramer(), limit, raw)

    def _go_on(self, errand: Errand) -> None:
        """It may be its turn."""
        errand.timer = None
        assert errand.plan is not None
        try:
            said = self._manager.next(errand.plan, time.monotonic(), time.time())
        except RequestError as error:
            self._refuse(errand, error)
            return
        if isinstance(said, Wait):
            self._wait(errand, said)
        else:
            self._send(errand, errand.plan, said.target)

    def _wait(self, errand: Errand, wait: Wait) -> None:
        errand.opened_ns = 0  # there is no sending that could fail
        if wait.seconds >= TOLD_S:
            errand.waited = True
            self._counters.add(self._counters.slot("waited"))
            self._report(commands.Waiting(errand.flow.slot, wait.reason, wait.seconds))
        if wait.queued:
            self._look_who_is_next()
        else:
            errand.timer = self._loop.call_later(wait.seconds, self._go_on, errand)

    def _look_who_is_next(self) -> None:
        """Let those go whose turn in the queue has come, now and whenever that is next."""
        now = time.monotonic()
        for plan, refused in self._manager.due(now):
            errand = self._errands[plan.slot]
            if refused is not None:
                self._refuse(errand, refused)
            else:
                self._go_on(errand)
        if self._doorman is not None:
            self._doorman.cancel()
        at = self._manager.next_at(now)
        self._doorman = None
        if at is not None:
            self._doorman = self._loop.call_later(max(at - now, 0.0), self._look_who_is_next)

    def _send(self, errand: Errand, plan: Plan, target: Target) -> None:
        """Write OPEN, and send it."""
        if errand.waited:
            errand.waited = False
            self._report(commands.Waiting(errand.flow.slot, "", 0.0))
        gateway = self._gateways[target.provider][target.key]
        api, call = errand.shapes[target.name]
        self._open(errand, target, api, gateway.config.kind, not self._manager.may_fail(plan))
        try:
            outgoing = gateway.request(self._client, call)
        except (RequestError, httpx.InvalidURL) as error:
            self._refuse(errand, error)
            return
        if plan.sent > 1:
            self._counters.add(self._counters.slot("sent_again"))
        self._connect(errand, gateway, outgoing, api)

    def _open(self, errand: Errand, target: Target, api: str, kind: str, final: bool) -> None:
        now_ns = time.monotonic_ns()
        plan, asked = errand.plan, errand.asked
        opened = records.Open(
            errand.start.stream, api, target.provider, target.model, kind,
            (asked.compat if asked else None) or "", errand.transforms, errand.since_ns,
            plan.sent if plan else 1, final, price_of(self._config, target.provider, target.model),
        )  # fmt: skip
        errand.opened_ns, errand.known = now_ns, True
        errand.flow.open(opened, now_ns)

    def _connect(self, errand: Errand, gateway: Gateway, outgoing: httpx.Request, api: str) -> None:
        limits = self._config.limits
        errand.flow.framer = framer(
            api, max_line_bytes=limits.max_line_bytes, max_event_bytes=limits.max_event_bytes
        )
        errand.upstream = Upstream(
            errand.flow,
            self._client,
            outgoing,
            self._config,
            gateway.credential,
            lambda _, ending: self._on_end(errand, ending),
            lambda status, headers: self._on_head(errand, status, headers),
        )

    def _on_head(self, errand: Errand, status: int, headers: httpx.Headers) -> None:
        errand.limits = limits = rate_headers.parse(headers, time.time())
        if limits.bad:
            self._counters.add(self._counters.slot("bad_limits"), limits.bad)
        if errand.plan is not None and status not in THROTTLED:
            self._manager.heard(errand.plan, limits, time.monotonic())
            self._look_who_is_next()

    def _on_end(self, errand: Errand, ending: Ending) -> None:
        """Its connection is done with: it failed and goes again, or it is over."""
        errand.upstream = None
        plan = errand.plan
        if plan is not None and errand.shapes and not errand.stopped and errand.flow.untouched:
            failure = of_ending(ending) if ending.kind != "cancelled" else None
            if failure is not None:
                verdict = self._failed(errand, plan, failure)
                if isinstance(verdict, Wait):
                    self._wait(errand, verdict)
                    return
                if verdict != failure:
                    ending = Ending("failed", verdict.code, verdict.message)
        self._end(errand, ending)

    def _failed(self, errand: Errand, plan: Plan, failure: Failure) -> Wait | Failure:
        limits, errand.limits = errand.limits, rate_headers.NOTHING
        verdict = self._manager.failed(plan, failure, limits, time.monotonic())
        self._look_who_is_next()
        return verdict

    def _cut(self, errand: Errand) -> None:
        """End what is still written of a sending that is decided on, for its worker to drop."""
        upstream, errand.upstream = errand.upstream, None
        if upstream is not None:
            upstream.drop()
            errand.flow.end(_GIVEN_UP, errand.opened_ns)  # so old that no broker asks for more

    # its end

    def _refuse(self, errand: Errand, error: RequestError | httpx.InvalidURL) -> None:
        code = error.code if isinstance(error, RequestError) else Code.BAD_REQUEST
        text = error.message if isinstance(error, RequestError) else str(error)
        detail = error.detail if isinstance(error, RequestError) else {}
        after_s, again = detail.get("retry_after_s"), detail.get("retryable")
        ending = Ending(
            "failed",
            code,
            text,
            retry_after_s=after_s if isinstance(after_s, float) else None,
            should_retry=again if isinstance(again, bool) else None,
        )
        self._end(errand, ending)

    def _end(self, errand: Errand, ending: Ending) -> None:
        """Write its end; it is over."""
        if errand.timer is not None:
            errand.timer.cancel()
            errand.timer = None
        if not errand.known:
            start = errand.start
            self._open(errand, Target(start.provider, 0, start.model), "chat", "", True)
        if errand.plan is not None and errand.plan.permit is None and not errand.plan.begun:
            self._manager.withdraw(errand.plan, time.monotonic())
        errand.over = time.monotonic()
        # Whether to send again is decided, unless it is the worker who knows what went wrong.
        decided = ending.kind == "cancelled" or (errand.flow.untouched and ending.kind != "eof")
        errand.flow.end(ending, time.monotonic_ns(), final=decided)
        self._look_at(errand.flow)

    def _settle(self, errand: Errand, usage: Usage | None, error: Error | None) -> None:
        """Its last token is known: give back what it holds, and note what it used."""
        errand.stopped = True
        plan, errand.plan = errand.plan, None
        if plan is not None:
            self._manager.ended(plan, usage, error, time.monotonic())
            if plan.target is not None and plan.sent:
                self._spend(plan.target, usage, error)
            self._look_who_is_next()
        if errand.over:
            self._look_at(errand.flow)

    def _look_at(self, flow: Flow) -> None:
        """Keep an ended flow until its END is in the ring."""
        if not flow.finished:
            self._ending[flow.slot] = flow
            return
        self._ending.pop(flow.slot, None)
        errand = self._errands.get(flow.slot)
        if errand is not None and errand.flow is flow and (errand.stopped or errand.plan is None):
            del self._errands[flow.slot]


def _live(errand: Errand) -> commands.Live:
    start, target = errand.start, errand.plan.target if errand.plan else None
    provider, model = (target.provider, target.model) if target else (start.provider, start.model)
    over = bool(errand.over) and errand.flow.finished
    limit = errand.flow.limit
    return commands.Live(start.slot, start.stream, start.worker, provider, model, limit, over)
