"""The course of errands, from one state to the next (`errand`): sent, failed, sent again, ended.

The manager decides; here it is done, with a connection, a timer, a record in the ring. A fault of
ours ends the errand that it is met in, and no other.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final

import httpx

from ringcast import fault
from ringcast.config import Config
from ringcast.errors import Code, RequestError
from ringcast.providers import commands
from ringcast.providers.flow import Flow
from ringcast.providers.gateway import Gateway
from ringcast.providers.traffic import rate_headers
from ringcast.providers.traffic.doorman import Doorman
from ringcast.providers.traffic.errand import Errand
from ringcast.providers.traffic.failure import Failure, of_ending
from ringcast.providers.traffic.flows import Flows
from ringcast.providers.traffic.manager import ProviderManager
from ringcast.providers.traffic.plan import Plan, Wait
from ringcast.providers.traffic.routing import Target
from ringcast.providers.traffic.sender import Sender
from ringcast.providers.wire.body import Ending
from ringcast.shm.counters import Block
from ringcast.shm.tokens import Error, Usage

THROTTLED: Final = (429, 503, 529)  # refusals for there being too much, see `failure`
TOLD_S: Final = 0.05  # shorter waits are not worth a word
TOLD_AGAIN_S: Final = 0.5  # not before: a queue that is guessed at is told once more, then rarer
_GIVEN_UP: Final = Ending("cancelled", Code.INTERRUPTED, "it is sent again")


class Course:
    """Moves errands on. Those that are over for good it takes out of `errands`, by slot."""

    def __init__(
        self,
        config: Config,
        manager: ProviderManager,
        gateways: Mapping[str, list[Gateway]],
        client: httpx.AsyncClient,
        counters: Block,
        report: Callable[[commands.Command], None],
        spend: Callable[[Target, Usage | None, Error | None, bool], None],
        errands: dict[int, Errand],
        flows: Flows,
    ) -> None:
        """`report` tells the broker; `spend` what a sent request used, and whether it had begun."""
        self._manager = manager
        self._counters = counters
        self._report = report
        self._spend = spend
        self._errands = errands
        self._flows = flows
        self._loop = asyncio.get_running_loop()
        self._sender = Sender(config, gateways, client, self._on_head, self._on_end)
        self._doorman = Doorman(manager, self._let_go, self._loop, time.monotonic)

    def begin(self, errand: Errand, start: commands.Start) -> None:
        """Find out where it may go, and what is sent there."""
        try:
            given, made = self._sender.read(errand, start)
            slot, client, now = start.slot, start.client, time.monotonic()
            plan = self._manager.plan(
                slot, start.provider, start.model, client, given + made, now, made
            )
            plan.earlier = start.sent
            self._sender.shape(errand, plan)
        except RequestError as error:
            self.refuse(errand, error)
        else:
            errand.plan = plan
            self.go_on(errand)

    def read_on(self, errand: Errand, resume: commands.Resume) -> None:
        """Ask for the rest of an answer that its provider keeps."""
        try:
            self._sender.resume(errand, resume)
        except (RequestError, httpx.InvalidURL) as error:
            self.refuse(errand, error)
        else:
            self._counters.add(self._counters.slot("reattached"))

    def go_on(self, errand: Errand) -> None:
        """It may be its turn."""
        errand.timer = None
        assert errand.plan is not None
        try:
            said = self._manager.next(errand.plan, time.monotonic(), time.time())
            if isinstance(said, Wait):
                self.wait(errand, said)
            else:
                self._send(errand, errand.plan, said.target)
        except (RequestError, httpx.InvalidURL) as error:
            self.refuse(errand, error)
        except Exception as error:  # a timer's or the doorman's call: it would wait for ever
            self.broke(errand, error)

    def wait(self, errand: Errand, wait: Wait) -> None:
        """It is not sent yet, or not again yet."""
        errand.opened_ns = 0  # there is no sending that could fail
        if wait.seconds >= TOLD_S:
            errand.waited = True
            self._counters.add(self._counters.slot("waited"))
            self._report(commands.Waiting(errand.flow.slot, wait.reason, wait.seconds))
        if wait.queued:
            self._tell_later(errand, wait)
            self._doorman.look()
        else:
            errand.timer = self._loop.call_later(wait.seconds, self.go_on, errand)

    def _tell_later(self, errand: Errand, wait: Wait) -> None:
        """What was told of a queue may turn out to be too little."""
        after_s = max(wait.seconds, TOLD_AGAIN_S)
        errand.timer = self._loop.call_later(after_s, self._tell_again, errand)

    def _tell_again(self, errand: Errand) -> None:
        errand.timer = None
        plan = errand.plan
        if plan is not None and (wait := self._manager.still(plan, time.monotonic())) is not None:
            errand.waited = True
            self._report(commands.Waiting(errand.flow.slot, wait.reason, wait.seconds))
            self._tell_later(errand, wait)

    def _let_go(self, plan: Plan, refused: RequestError | None) -> None:
        """Its turn in the queue has come, or it has waited for too long."""
        errand = self._errands[plan.slot]
        errand.cancel_timer()
        if refused is not None:
            self.refuse(errand, refused)
        else:
            self.go_on(errand)

    def _send(self, errand: Errand, plan: Plan, target: Target) -> None:
        """Raises `RequestError`, `httpx.InvalidURL`."""
        if errand.waited:
            errand.waited = False
            self._report(commands.Waiting(errand.flow.slot, "", 0.0))
        last = not self._manager.may_fail(plan)
        self._sender.send(errand, target, time.monotonic_ns(), final=last)
        if plan.sent > 1:
            self._counters.add(self._counters.slot("sent_again"))

    def _on_head(self, errand: Errand, status: int, headers: httpx.Headers) -> None:
        errand.limits = limits = rate_headers.parse(headers, time.time())
        if limits.bad:
            self._counters.add(self._counters.slot("bad_limits"), limits.bad)
        if errand.plan is not None and status not in THROTTLED:
            self._manager.heard(errand.plan, limits, time.monotonic())
            self._doorman.look()

    def _on_end(self, errand: Errand, ending: Ending) -> None:
        """Its connection is done with: it failed and goes again, or it is over."""
        errand.upstream = None
        try:
            verdict = self._verdict(errand, ending)
            if isinstance(verdict, Wait):
                self.wait(errand, verdict)
            else:
                self.end(errand, verdict)
        except Exception as error:  # nobody else will end it
            self.broke(errand, error)

    def _verdict(self, errand: Errand, ending: Ending) -> Wait | Ending:
        """Return when it goes again, or how it ends."""
        if errand.plan is None or not errand.unseen or ending.kind == "cancelled":
            return ending
        failure = of_ending(ending)
        if failure is None:
            return ending
        verdict = self.failed(errand, errand.plan, failure)
        if isinstance(verdict, Wait):
            return verdict
        return ending if verdict == failure else _ending(verdict)

    def failed(self, errand: Errand, plan: Plan, failure: Failure) -> Wait | Failure:
        """One sending failed before a token: return when it goes again, or what it ends by."""
        limits, errand.limits = errand.limits, rate_headers.NOTHING
        verdict = self._manager.failed(plan, failure, limits, time.monotonic())
        self._doorman.look()
        return verdict

    def cut(self, errand: Errand) -> None:
        """End what is still written of a sending that is decided on, for its worker to drop."""
        upstream, errand.upstream = errand.upstream, None
        if upstream is not None:
            upstream.drop()
            errand.flow.end(_GIVEN_UP, errand.opened_ns)  # so old that no broker asks for more

    # its end

    def broke(self, errand: Errand, error: Exception) -> None:
        """End it by a fault of ours, of which nobody is told more than type and place."""
        fault.report(error)
        if errand.over:
            return
        upstream, errand.upstream = errand.upstream, None
        if upstream is not None:
            upstream.drop()
        text = f"the request could not be carried out: {fault.named(error)}"
        self.end(errand, Ending("failed", Code.INTERNAL, text))

    def refuse(self, errand: Errand, error: RequestError | httpx.InvalidURL) -> None:
        """It is not sent (again)."""
        self.end(errand, _refusal(error))

    def end(self, errand: Errand, ending: Ending) -> None:
        """Write its end; it is over."""
        errand.cancel_timer()
        if not errand.known:
            self._sender.open_unsent(errand, time.monotonic_ns())
        if errand.plan is not None and errand.plan.permit is None and not errand.plan.begun:
            self._manager.withdraw(errand.plan, time.monotonic())
        errand.over = time.monotonic()
        # Whether to send again is decided, unless it is the worker who knows what went wrong.
        decided = ending.kind == "cancelled" or (errand.flow.untouched and ending.kind != "eof")
        errand.flow.end(ending, time.monotonic_ns(), final=decided)
        self.look_at(errand.flow)

    def settle(self, errand: Errand, usage: Usage | None, error: Error | None) -> None:
        """Its last token is known: give back what it holds, and note what it used."""
        errand.stopped = True
        plan, errand.plan = errand.plan, None
        if plan is not None:
            self._manager.ended(plan, usage, error, time.monotonic())
            if plan.target is not None and plan.sent:
                self._spend(plan.target, usage, error, plan.begun)
            self._doorman.look()
        if errand.over:
            self.look_at(errand.flow)

    def look_at(self, flow: Flow) -> None:
        """Forget an ended flow's request, once its END is in the ring and its last token known."""
        if not self._flows.ended(flow):
            return
        errand = self._errands.get(flow.slot)
        if errand is not None and errand.flow is flow and (errand.stopped or errand.plan is None):
            del self._errands[flow.slot]


def _ending(failure: Failure) -> Ending:
    """Return the end by what was decided, which is not what the last answer said."""
    return Ending(
        "failed",
        failure.code,
        failure.message,
        status=failure.status or 200,
        retry_after_s=failure.after_s,
        should_retry=failure.retryable,
    )


def _refusal(error: RequestError | httpx.InvalidURL) -> Ending:
    """Return how a request ends that was not sent."""
    if not isinstance(error, RequestError):
        return Ending("failed", Code.BAD_REQUEST, str(error))
    after_s, again = error.detail.get("retry_after_s"), error.detail.get("retryable")
    return Ending(
        "failed",
        error.code,
        error.message,
        retry_after_s=after_s if isinstance(after_s, float) else None,
        should_retry=again if isinstance(again, bool) else None,
    )
