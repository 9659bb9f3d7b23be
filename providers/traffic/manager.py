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

from ringcast.config import Config
from ringcast.errors import Code, RequestError
from ringcast.providers.inquiry import Health, Traffic
from ringcast.providers.spending.purse import Purse
from ringcast.providers.traffic.admission import Admission
from ringcast.providers.traffic.breaker import Outcome
from ringcast.providers.traffic.breakers import BUSY_S, Breakers
from ringcast.providers.traffic.failure import Failure, of_error
from ringcast.providers.traffic.plan import Plan, Send, Wait
from ringcast.providers.traffic.rate_headers import RateLimits
from ringcast.providers.traffic.retry import Again, RetryPolicy
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
        keys: Mapping[str, int],
        rows: SharedWords,
        process: int = 0,
        chance: random.Random | None = None,
    ) -> None:
        """`keys` counts each usable provider's keys; `rows` are shared with other processes."""
        self._config = config
        self._chance = chance or random.Random()
        self._admission = Admission(rows, config, process)
        self._breakers = Breakers(rows, config.breaker)
        self._purse = Purse(rows, config.usage)
        self._policy = RetryPolicy(config.retry)
        self._standing = Standing(config, keys, self._chance)
        self._routing = Routing(config, keys, self._standing.speed, self._chance)

    def targets(self, provider: str, model: str) -> list[Target]:
        """Return where a request may go. Raises `RequestError` (provider_disabled)."""
        return self._routing.targets(provider, model)

    def plan(
        self, slot: int, provider: str, model: str, client: bytes, tokens: int, now: float
    ) -> Plan:
        """Begin a request. Raises `RequestError` (provider_disabled)."""
        targets = self._routing.targets(provider, model)
        for target in targets:
            self._standing.used(target.provider, now)
        well = [one for one in targets if self._standing.healthy(one.provider)]
        ill = [one for one in targets if one not in well]
        total_s = self._config.timeouts.total_s
        return Plan(slot, well + ill, client, tokens, now + total_s if total_s else FOREVER)

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
        return self._standing.traffic(provider, self._breakers.state(provider, now))

    def spent(self, cost: float | None, wall_s: float, *, so_far: float | None = None) -> None:
        """Count what a request cost, in dollars; `so_far` is what an earlier daemon spent today."""
        self._purse.spent(cost, wall_s, so_far=so_far)

    # before a sending

    def next(self, plan: Plan, now: float, wall_s: float) -> Send | Wait:
        """Say where it goes, or why not yet. Raises `RequestError`.

        circuit_open, budget_exceeded, overloaded_local: it is not sent at all.
        """
        self._purse.check(wall_s)
        candidates = plan.candidates
        if plan.admitted and plan.target is not None:  # the queue let it go there
            candidates = [plan.target, *(one for one in candidates if one != plan.target)]
        refused: RequestError | None = None
        shortest = FOREVER
        for target in candidates:
            try:
                said = self._try(plan, target, now)
            except RequestError as error:
                refused = error
                continue
            if not isinstance(said, float):
                return said
            if said < shortest:
                shortest, plan.target = said, target
        if shortest == FOREVER or plan.target is None:
            raise refused or RequestError(Code.INTERNAL, "there is nowhere to send it")
        if not (wait_s := self._ask(plan, plan.target, now)):  # a row was busy, and is not now
            plan.admitted = True
            return self._let_go(plan, plan.target, now)
        return Wait(wait_s, f"rate limit of {plan.target.provider}", queued=True)

    def _try(self, plan: Plan, target: Target, now: float) -> Send | Wait | float:
        """Let it go to `target`, or return for how long its limits have no room.

        Raises `RequestError`: circuit_open, overloaded_local.
        """
        if not plan.admitted:
            self._breakers.check(target.provider, now)
            if wait_s := self._ask(plan, target, now):
                self._admission.withdraw(plan, now)
                return wait_s
            plan.admitted = True
        return self._let_go(plan, target, now)

    def _ask(self, plan: Plan, target: Target, now: float) -> float:
        lane, tokens = _lane(target), plan.tokens
        return self._admission.ask(plan, target.provider, lane, plan.client, tokens, now)

    def _let_go(self, plan: Plan, target: Target, now: float) -> Send | Wait:
        """Its limits let it go: the breaker has the last word. Raises `RequestError`."""
        try:
            permit = self._breakers.ask(target.provider, now)
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

    def may_fail(self, plan: Plan) -> bool:
        """Whether a failure of the sending under way may lead to another."""
        more = any(target not in plan.tried for target in plan.targets)
        return more or plan.sent < self._config.retry.attempts

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
        self._admission.learn(plan.target.provider, _lane(plan.target), limits, now)

    def began(self, plan: Plan, now: float) -> None:
        """A first token has come: the provider is well, and this fast."""
        if plan.begun or plan.target is None:
            return
        plan.begun = True
        self._standing.began(plan.target, now - plan.sent_at)
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
            lane = _lane(target)
            self._admission.throttled(target.provider, lane, failure.after_s, now, limits)
        record = self._standing[target.provider]
        record.limits = limits
        self._give_back(plan, 0, now)
        self._judge(plan, failure.outcome, now)
        if not failure.retryable:
            plan.lost.add(target)
        if failure.elsewhere and any(one not in plan.tried for one in plan.targets):
            return Wait(0.0, failure.code)
        decision = self._policy.decide(
            plan.sent, failure, now, plan.deadline, record.budget, self._chance
        )
        if isinstance(decision, Again):
            return Wait(decision.pause_s, failure.code)
        return decision.failure

    def ended(self, plan: Plan, usage: Usage | None, error: Error | None, now: float) -> None:
        """Its last token is known; whatever it still holds is given back."""
        if plan.permit is not None or plan.begun:
            outcome = of_error(error).outcome if error else "success"
            if not (plan.begun and outcome == "success"):  # that it knows
                self._judge(plan, outcome, now)
        self._give_back(plan, used(usage), now)

    def withdraw(self, plan: Plan, now: float) -> None:
        """Nobody wants it any more, and it was not sent (again) yet."""
        self._withdraw(plan, now)
        self._judge(plan, "neither", now)

    def _withdraw(self, plan: Plan, now: float) -> None:
        plan.admitted = False
        self._admission.withdraw(plan, now)

    def _give_back(self, plan: Plan, tokens: int | None, now: float) -> None:
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


def _lane(target: Target) -> str:
    """What a provider's limits hold for: a model, asked by one key."""
    return f"{target.key}/{target.model}"
