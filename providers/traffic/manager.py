"""Whether, when and where a request goes upstream. Pure: no socket, no clock, no timer.

One dict of providers, and what is known of each: what it may be sent (admission), whether it is
left alone (breaker), what it was sent again (budget of retries), how fast it is, whether it was
well when last asked. Breakers and admission live in words that all provider processes share.

A request has a plan: its targets in order. What may be sent is asked of each, the first that may
be sent to at once gets it; where none may, it waits in the queue of the first.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final

import msgspec

from ringcast.config import Config
from ringcast.errors import Code, RequestError
from ringcast.providers.inquiry import Health, Traffic
from ringcast.providers.spending.budget import DailyBudget
from ringcast.providers.traffic.admission import Admission
from ringcast.providers.traffic.breaker import CircuitBreaker, Closed, Open, Outcome, Probe, State
from ringcast.providers.traffic.failure import Failure, of_error
from ringcast.providers.traffic.rate_headers import NOTHING, RateLimits
from ringcast.providers.traffic.retry import Again, RetryBudget, RetryPolicy
from ringcast.providers.traffic.routing import Routing, Target
from ringcast.shm.shared_words import RowBusy, SharedWords
from ringcast.shm.tokens import Error, Usage

BUSY_S: Final = 0.01
FOREVER: Final = float("inf")
BUDGET: Final = "budget"
IN_USE_S: Final = 600.0  # whoever was asked nothing for so long is not asked how it is
MODELS: Final = 1000  # whose speeds are kept
SMOOTHING: Final = 0.3  # of speeds: the last five requests make five sixths of the mean


class Send(msgspec.Struct, frozen=True):
    """It goes now."""

    target: Target


class Wait(msgspec.Struct, frozen=True):
    """It does not go before about `seconds` have passed.

    `queued`: the queue says when (`ProviderManager.due`), else whoever asked comes again.
    """

    seconds: float
    reason: str
    queued: bool = False


class Record(msgspec.Struct):
    """What is known of one provider."""

    budget: RetryBudget
    requests: int = 0
    failures: int = 0
    sent_again: int = 0
    first_token_s: float | None = None
    limits: RateLimits = NOTHING
    used_at: float = 0.0
    look_at: float | None = None  # when its health is asked next; None: it is not in use
    health: Health | None = None


class Plan:
    """One request: where it may go, what was tried, and what it holds."""

    __slots__ = (
        "admitted",
        "begun",
        "client",
        "deadline",
        "lost",
        "permit",
        "sent",
        "sent_at",
        "slot",
        "target",
        "targets",
        "tokens",
        "tried",
    )

    def __init__(
        self, slot: int, targets: list[Target], client: bytes, tokens: int, deadline: float
    ) -> None:
        """`tokens` is what it is charged until its usage is known."""
        self.slot = slot
        self.targets = targets
        self.client = client
        self.tokens = tokens
        self.deadline = deadline
        self.sent = 0
        self.sent_at = 0.0
        self.target: Target | None = None  # where it was last sent, or is queued
        self.tried: set[Target] = set()
        self.lost: set[Target] = set()  # that will not do better
        self.admitted = False  # the limiter has been charged for it
        self.permit: Closed | Probe | None = None  # of a breaker that waits for the outcome
        self.begun = False

    @property
    def candidates(self) -> list[Target]:
        """Where it may go next: what was not asked yet, or else what may do better."""
        fresh = [target for target in self.targets if target not in self.tried]
        return fresh or [target for target in self.targets if target not in self.lost]


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
        self._rows = rows
        self._chance = chance or random.Random()
        self._admission = Admission(rows, config, process)
        self._policy = RetryPolicy(config.retry)
        self._owed = 0.0  # dollars that a busy row could not take yet
        self._records = {name: Record(RetryBudget(config.retry)) for name in keys}
        self._speeds: OrderedDict[str, float] = OrderedDict()  # of models, the latest last
        self._routing = Routing(config, keys, self._speeds.get, self._chance)

    def targets(self, provider: str, model: str) -> list[Target]:
        """Return where a request may go. Raises `RequestError` (provider_disabled)."""
        return self._routing.targets(provider, model)

    def plan(
        self, slot: int, provider: str, model: str, client: bytes, tokens: int, now: float
    ) -> Plan:
        """Begin a request. Raises `RequestError` (provider_disabled)."""
        targets = self._routing.targets(provider, model)
        for target in targets:
            record = self._records[target.provider]
            record.used_at = now
            record.look_at = record.look_at or self._next_look(now)
        well = [one for one in targets if self._is_well(one.provider)]
        ill = [one for one in targets if one not in well]
        total_s = self._config.timeouts.total_s
        return Plan(slot, well + ill, client, tokens, now + total_s if total_s else FOREVER)

    def _is_well(self, provider: str) -> bool:
        health = self._records[provider].health
        return health is None or health.ok

    # health

    def to_ask(self, now: float) -> list[str]:
        """Return the providers whose health is to be asked now, of those that are in use."""
        if not self._config.health.interval_s:
            return []
        names = []
        for name, known in self._records.items():
            if known.look_at is None or now < known.look_at:
                continue
            if now - known.used_at > IN_USE_S:
                known.look_at = known.health = None
            else:
                known.look_at = self._next_look(now)
                names.append(name)
        return names

    def _next_look(self, now: float) -> float:
        return now + self._config.health.interval_s * self._chance.uniform(0.75, 1.25)

    def is_well(self, provider: str, health: Health) -> None:
        """Take what a provider answered: routes go to those first that are well."""
        self._records[provider].health = health

    def traffic(self, provider: str, now: float) -> Traffic | None:
        """Return what was done here with a provider; None for one that is not usable."""
        if (known := self._records.get(provider)) is None:
            return None
        state: State = "closed"
        with suppress(RowBusy), self._breaker(provider) as breaker:
            state = breaker.state(now)
        told, first_s = known.limits, known.first_token_s
        return Traffic(
            state,
            known.requests,
            known.failures,
            known.sent_again,
            None if first_s is None else round(first_s * 1e3, 1),
            told.requests.remaining if told.requests else None,
            told.tokens.remaining if told.tokens else None,
        )

    # before a sending

    def next(self, plan: Plan, now: float, wall_s: float) -> Send | Wait:
        """Say where it goes, or why not yet. Raises `RequestError`.

        circuit_open, budget_exceeded, overloaded_local: it is not sent at all.
        """
        self._check_budget(wall_s)
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
            self._check_breaker(target.provider, now)
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
            with self._breaker(target.provider) as breaker:
                said = breaker.ask(now)
        except RowBusy:
            plan.target = target
            return Wait(BUSY_S, "")
        if isinstance(said, Open):
            self._withdraw(plan, now)
            raise said.refusal(target.provider, now)
        again = target.provider in {one.provider for one in plan.tried}
        record = self._records[target.provider]
        record.requests += 1
        if again:
            record.sent_again += 1
        else:
            record.budget.first(now)
        plan.permit, plan.target, plan.sent_at = said, target, now
        plan.sent += 1
        plan.tried.add(target)
        return Send(target)

    def _check_breaker(self, provider: str, now: float) -> None:
        """Raise `RequestError` (circuit_open) for a provider that is left alone; nobody queues."""
        said: Open | None = None
        with suppress(RowBusy), self._breaker(provider) as breaker:
            said = breaker.refusing(now)
        if said is not None:
            raise said.refusal(provider, now)

    @contextmanager
    def _breaker(self, provider: str) -> Iterator[CircuitBreaker]:
        """Hold a provider's breaker. Raises `RowBusy`."""
        with self._rows.row(f"breaker:{provider}", keep=True) as words:
            yield CircuitBreaker(words, self._config.breaker)

    def _check_budget(self, wall_s: float) -> None:
        """Raise `RequestError` (budget_exceeded) if today's money is spent."""
        if not self._config.usage.daily_usd:
            return
        with suppress(RowBusy), self._rows.row(BUDGET, keep=True) as words:
            DailyBudget(words, self._config.usage).check(wall_s)

    def spent(self, cost: float | None, wall_s: float, *, so_far: float | None = None) -> None:
        """Count what a request cost, in dollars; `so_far` is what an earlier daemon spent today."""
        if not self._config.usage.daily_usd:
            return
        self._owed += cost or 0.0
        with suppress(RowBusy), self._rows.row(BUDGET, keep=True) as words:
            budget = DailyBudget(words, self._config.usage)
            if so_far is not None:
                budget.begin(so_far, wall_s)
            budget.add(self._owed, wall_s)
            self._owed = 0.0

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
        self._records[plan.target.provider].limits = limits
        self._admission.learn(plan.target.provider, _lane(plan.target), limits, now)

    def began(self, plan: Plan, now: float) -> None:
        """A first token has come: the provider is well, and this fast."""
        if plan.begun or plan.target is None:
            return
        plan.begun = True
        name, took_s = plan.target.name, now - plan.sent_at
        record = self._records[plan.target.provider]
        record.first_token_s = _mean(record.first_token_s, took_s)
        self._speeds[name] = _mean(self._speeds.pop(name, None), took_s)
        if len(self._speeds) > MODELS:
            self._speeds.popitem(last=False)
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
        record = self._records[target.provider]
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
        self._records[plan.target.provider].failures += outcome == "failure"
        probe = permit if isinstance(permit, Probe) else None
        try:
            with self._breaker(plan.target.provider) as breaker:
                breaker.record(outcome, now, probe)
        except RowBusy:
            return  # one call is not counted; a probe's lease ends by itself


def used(usage: Usage | None) -> int | None:
    """Return the tokens that a limit counts; None if the provider did not tell."""
    if usage is None:
        return None
    if usage.total_tokens is not None:
        return usage.total_tokens
    parts = [usage.input_tokens, usage.output_tokens]
    return sum(part or 0 for part in parts) if any(part is not None for part in parts) else None


def _mean(known: float | None, newest: float) -> float:
    return newest if known is None else known + SMOOTHING * (newest - known)


def _lane(target: Target) -> str:
    """What a provider's limits hold for: a model, asked by one key."""
    return f"{target.key}/{target.model}"
