"""Whether, when and where a request goes upstream. Pure: no socket, no clock, no timer.

One dict of providers, and what is known of each: what it may be sent (admission), whether it is
left alone (breaker), what it was sent again (budget of retries), how fast it is, whether it was
well when last asked. Breakers and admission live in words that all provider processes share.

A request has a plan: its targets in order. What may be sent is asked of each, the first that may
be sent to at once gets it; where none may, it waits in the queue of the first.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Final

import msgspec

from ringcast.config import Config
from ringcast.errors import Code, RequestError
from ringcast.providers.inquiry import Health, Traffic
from ringcast.providers.spending.purse import Purse
from ringcast.providers.traffic.admission import Admission
from ringcast.providers.traffic.breaker import Closed, Outcome, Probe
from ringcast.providers.traffic.breakers import BUSY_S, Breakers
from ringcast.providers.traffic.failure import Failure, of_error
from ringcast.providers.traffic.plan import Plan, Send, Wait
from ringcast.providers.traffic.rate_headers import RateLimits
from ringcast.providers.traffic.repetition import Repetition
from ringcast.providers.traffic.routing import Routing, Target
from ringcast.providers.traffic.standing import Standing
from ringcast.shm.shared_words import RowBusy, SharedWords
from ringcast.shm.tokens import Error, Usage

FOREVER: Final = float("inf")


class ProviderManager:
    """All providers of one process."""

    def __init__(
        self,
        config: Config,
        keys: Mapping[str, int] | None = None,
        rows: SharedWords | None = None,
        process: int = 0,
        chance: random.Random | None = None,
    ) -> None:
        """`keys` counts each usable provider's keys, by default one for each that is configured.

        `rows` are shared with other processes; without them it is the only one.
        """
        if keys is None:
            keys = {name: len(one.keys) or 1 for name, one in config.providers.items()}
        rows = rows or SharedWords.private()
        self._config = config
        self._process = process
        self._chance = chance or random.Random()
        self._admission = Admission(rows, config, process)
        self._breakers = Breakers(rows, config.breaker)
        self._purse = Purse(rows, config, process)
        self._standing = Standing(config, keys, self._chance)
        self._repetition = Repetition(
            config.retry, self._standing, self._admission, self._breakers, self._chance
        )
        self._routing = Routing(config, keys, self._standing.speed, self._chance)

    def targets(self, provider: str, model: str) -> list[Target]:
        """Return where a request may go. Raises `RequestError` (provider_disabled)."""
        return self._routing.targets(provider, model)

    def plan(
        self,
        slot: int,
        provider: str,
        model: str,
        client: bytes,
        tokens: int,
        now: float,
        made: int = 0,
    ) -> Plan:
        """Begin a request of about `tokens`, of which the answer may have `made`.

        Raises `RequestError` (provider_disabled).
        """
        targets = self._routing.targets(provider, model)
        for target in targets:
            self._standing.used(target.provider, now)
        targets = sorted(targets, key=lambda target: self._standing.is_ill(target, now))
        total_s = self._config.timeouts.total_s
        return Plan(slot, targets, client, tokens, now + total_s if total_s else FOREVER, made)

    # what is known of providers

    def to_ask(self, now: float) -> list[str]:
        """Return the providers whose health is to be asked now, of those that are in use."""
        return self._standing.to_ask(now)

    def is_well(self, provider: str, health: Health) -> None:
        """Take what a provider answered: routes go to those first that are well."""
        self._standing[provider].health = health

    def traffic(self, provider: str, now: float) -> Traffic | None:
        """Return what was done here with a provider; None for one that is not usable."""
        if provider not in self._standing:
            return None
        traffic = self._standing.traffic(provider, self._breakers.state(provider, now))
        limits = self._config.providers[provider]
        return msgspec.structs.replace(
            traffic,
            process=self._process + 1,
            processes=self._config.processes.providers,
            queued=self._admission.queued(provider),
            requests_per_min=limits.requests_per_min,
            tokens_per_min=limits.tokens_per_min,
            concurrency=limits.concurrency,
        )

    def spent(self, cost: float | None, wall_s: float, *, so_far: float | None = None) -> None:
        """Count what a request cost, in dollars; `so_far` is what an earlier daemon spent today."""
        self._purse.spent(cost, wall_s, so_far=so_far)

    # before a sending

    def next(self, plan: Plan, now: float, wall_s: float) -> Send | Wait:
        """Say where it goes, or why not yet. Raises `RequestError`.

        circuit_open, budget_exceeded, overloaded_local: it is not sent at all.
        """
        candidates = plan.candidates
        if plan.admitted and plan.target is not None:  # the queue let it go there
            candidates = [plan.target, *(one for one in candidates if one != plan.target)]
        refused: list[RequestError] = []
        shortest = FOREVER
        for target in candidates:
            try:
                said = self._try(plan, target, now, wall_s)
            except RequestError as error:
                refused.append(error)
                continue
            if not isinstance(said, float):
                return said
            if said < shortest:
                shortest, plan.target = said, target
        if shortest == FOREVER or plan.target is None:
            nowhere = RequestError(Code.INTERNAL, "there is nowhere to send it")
            raise min(refused, key=_over_in, default=nowhere)
        if not (wait_s := self._ask(plan, plan.target, now)):  # a row was busy, and is not now
            plan.admitted = True
            return self._let_go(plan, plan.target, now, wall_s)
        return Wait(wait_s, self._admission.reason(plan), queued=True)

    def _try(self, plan: Plan, target: Target, now: float, wall_s: float) -> Send | Wait | float:
        """Let it go to `target`, or return for how long its limits have no room.

        Raises `RequestError`: circuit_open, budget_exceeded, overloaded_local.
        """
        if not plan.admitted:
            self._breakers.check(target.provider, now)
            self._purse.check(target.provider, target.model, wall_s)
            if wait_s := self._ask(plan, target, now):
                self._admission.withdraw(plan, now)
                return wait_s
            plan.admitted = True
        return self._let_go(plan, target, now, wall_s)

    def _ask(self, plan: Plan, target: Target, now: float) -> float:
        lane, tokens = target.lane, plan.tokens
        return self._admission.ask(plan, target.provider, lane, plan.client, tokens, now)

    def _let_go(self, plan: Plan, target: Target, now: float, wall_s: float) -> Send | Wait:
        """Its limits let it go: money and breaker have the last word. Raises `RequestError`."""
        try:
            permit = self._permit(plan, target, now, wall_s)
        except RowBusy:
            plan.target = target
            return Wait(BUSY_S, "")
        except RequestError:
            self._withdraw(plan, now)
            raise
        again = target.provider in {one.provider for one in plan.tried}
        self._standing.sent(target.provider, now, again=again)
        plan.permit, plan.target, plan.sent_at = permit, target, now
        plan.sent += 1
        plan.tried.add(target)
        return Send(target)

    def _permit(self, plan: Plan, target: Target, now: float, wall_s: float) -> Closed | Probe:
        """Hold what it may cost, and ask the breaker. Raises `RequestError`, `RowBusy`."""
        given = plan.tokens - plan.made
        held = self._purse.hold(target.provider, target.model, given, plan.made, wall_s)
        try:
            permit = self._breakers.ask(target.provider, now)
        except (RequestError, RowBusy):
            self._purse.release(held)
            raise
        plan.held = held
        return permit

    def still(self, plan: Plan, now: float) -> Wait | None:
        """Return for how long a queued request goes on to wait; None if it is not queued."""
        if not (wait_s := self._admission.wait_of(plan, now)):
            return None
        return Wait(wait_s, self._admission.reason(plan), queued=True)

    def may_fail(self, plan: Plan) -> bool:
        """Whether a failure of the sending under way may lead to another."""
        return self._repetition.may_follow(plan)

    def due(self, now: float) -> list[tuple[Plan, RequestError | None]]:
        """Who of the queued may go now, and who has waited too long."""
        gone = []
        for ticket, refused in self._admission.due(now):
            assert isinstance(ticket, Plan)
            ticket.admitted = refused is None
            gone.append((ticket, refused))
        return gone

    def next_at(self, now: float) -> float | None:
        """When `due` has something to say next; None while nobody is queued."""
        return self._admission.next_at(now)

    # after a sending

    def heard(self, plan: Plan, limits: RateLimits, now: float) -> None:
        """Learn from the head of an answer that is no refusal."""
        assert plan.target is not None
        self._standing[plan.target.provider].limits = limits
        self._admission.learn(plan.target.provider, plan.target.lane, limits, now)

    def began(self, plan: Plan, now: float) -> None:
        """A first token has come: the provider is well, and this fast."""
        if plan.begun or plan.target is None:
            return
        plan.begun = True
        self._standing.began(plan.target, now - plan.sent_at)
        if isinstance(plan.permit, Probe):  # others wait for what it says
            self._judge(plan, "success", now)

    def failed(
        self, plan: Plan, failure: Failure, limits: RateLimits, now: float
    ) -> Wait | Failure:
        """It failed before a token: wait and come again (`next`), or it ends by this.

        `limits` is what the head of the refusal said.
        """
        target = plan.target
        assert target is not None
        if failure.throttled:
            lane = target.lane
            self._admission.throttled(target.provider, lane, failure.after_s, now, limits)
        self._standing[target.provider].limits = limits
        self._give_back(plan, 0, now)
        self._judge(plan, failure.outcome, now)
        self._standing.failed(target, failure, now)
        plan.said[target] = failure
        return self._repetition.decide(plan, failure, now)

    def ended(self, plan: Plan, usage: Usage | None, error: Error | None, now: float) -> None:
        """Its last token is known; whatever it still holds is given back."""
        if plan.permit is not None or plan.begun:
            outcome = of_error(error).outcome if error else "success"
            # Whoever ended it, a provider that had begun to answer was well.
            self._judge(plan, "success" if plan.begun and outcome == "neither" else outcome, now)
        self._give_back(plan, used(usage), now)

    def withdraw(self, plan: Plan, now: float) -> None:
        """Nobody wants it any more, and it was not sent (again) yet."""
        self._withdraw(plan, now)
        self._judge(plan, "neither", now)

    def _withdraw(self, plan: Plan, now: float) -> None:
        plan.admitted = False
        self._admission.withdraw(plan, now)

    def _give_back(self, plan: Plan, tokens: int | None, now: float) -> None:
        self._purse.release(plan.held)
        plan.held = 0.0
        if plan.admitted:
            plan.admitted = False
            self._admission.settle(plan, tokens, now)
        else:
            self._admission.withdraw(plan, now)

    def _judge(self, plan: Plan, outcome: Outcome, now: float) -> None:
        permit, plan.permit = plan.permit, None
        if plan.target is None or (permit is None and outcome != "failure"):
            return
        self._standing[plan.target.provider].failures += outcome == "failure"
        self._breakers.record(plan.target.provider, outcome, now, permit)


def used(usage: Usage | None) -> int | None:
    """Return the tokens that a limit counts; None if the provider did not tell."""
    if usage is None:
        return None
    if usage.total_tokens is not None:
        return usage.total_tokens
    parts = [usage.input_tokens, usage.output_tokens]
    return sum(part or 0 for part in parts) if any(part is not None for part in parts) else None


def _over_in(refused: RequestError) -> float:
    """Return in how many seconds a refusal may be over."""
    after_s = refused.detail.get("retry_after_s")
    return after_s if isinstance(after_s, float) else FOREVER
