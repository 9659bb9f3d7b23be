"""What becomes of a request that has failed everywhere: it is sent again after a pause, or over.

The rules are those of `retry`; here they meet what else is known. A pause is as long as the
limits of those who are left have no room. Who would only hear then that nobody may be asked
(`circuit_open`), or that its time is over, hears at once what it failed by.
"""

from __future__ import annotations

import random

import msgspec

from ringcast.config import Retry
from ringcast.providers.traffic.admission import Admission
from ringcast.providers.traffic.breakers import Breakers
from ringcast.providers.traffic.failure import Failure
from ringcast.providers.traffic.plan import Plan, Wait
from ringcast.providers.traffic.retry import Again, RetryPolicy
from ringcast.providers.traffic.routing import Target
from ringcast.providers.traffic.standing import Standing


class Repetition:
    """Decides for all requests of one process; it keeps nothing of them."""

    def __init__(
        self,
        settings: Retry,
        standing: Standing,
        admission: Admission,
        breakers: Breakers,
        chance: random.Random,
    ) -> None:
        """`chance` draws the pauses."""
        self._settings = settings
        self._policy = RetryPolicy(settings)
        self._standing = standing
        self._admission = admission
        self._breakers = breakers
        self._chance = chance

    def may_follow(self, plan: Plan) -> bool:
        """Whether another sending may follow the one under way, if that fails."""
        more = any(target not in plan.tried for target in plan.targets)
        return more or plan.sent < self._settings.attempts

    def decide(self, plan: Plan, failure: Failure, now: float) -> Wait | Failure:
        """Return when it goes again, or what it ends by, now that `failure` has ended a sending."""
        target = plan.target
        assert target is not None
        if failure.elsewhere:
            if any(one not in plan.tried for one in plan.targets):
                return Wait(0.0, _reason(target, failure))
            target, failure = plan.soonest
        budget = self._standing[target.provider].budget
        decision = self._policy.decide(plan.sent, failure, now, plan.deadline, budget, self._chance)
        if not isinstance(decision, Again):
            return _last_word(plan, target, decision.failure)
        wait_s = max(decision.pause_s, self._full_for(plan, now))
        if now + wait_s >= plan.deadline or self._all_refuse(plan, now + wait_s):
            return _last_word(plan, target, failure)
        return Wait(wait_s, _reason(target, failure))

    def _full_for(self, plan: Plan, now: float) -> float:
        """Return for how many seconds the limits of nobody who is left have room for it."""
        return min(
            self._admission.pause_of(one.provider, one.lane, plan.tokens, now)
            for one in plan.candidates
        )

    def _all_refuse(self, plan: Plan, at: float) -> bool:
        """Whether everybody who is left is left alone at that time."""
        return all(self._breakers.refuses(one.provider, at) for one in plan.candidates)


def _reason(target: Target, failure: Failure) -> str:
    return f"{target.provider}: {failure.named}"


def _last_word(plan: Plan, target: Target, failure: Failure) -> Failure:
    """Name the target whose failure is told, if it is not the one that was asked last."""
    if target == plan.target:
        return failure
    return msgspec.structs.replace(failure, message=f"{target.name}: {failure.message}")
