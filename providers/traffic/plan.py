"""One request's plan: where it may go, what was tried, what it holds of limits and breakers."""

from __future__ import annotations

import msgspec

from ringcast.providers.traffic.breaker import Closed, Probe
from ringcast.providers.traffic.failure import Failure
from ringcast.providers.traffic.routing import Target


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


class Plan:
    """One request: where it may go, what was tried, and what it holds."""

    __slots__ = (
        "admitted",
        "begun",
        "client",
        "deadline",
        "earlier",
        "held",
        "made",
        "permit",
        "said",
        "sent",
        "sent_at",
        "slot",
        "target",
        "targets",
        "tokens",
        "tried",
    )

    def __init__(
        self,
        slot: int,
        targets: list[Target],
        client: bytes,
        tokens: int,
        deadline: float,
        made: int = 0,
    ) -> None:
        """`tokens` is what it is charged until its usage is known, `made` the answer's part."""
        self.slot = slot
        self.targets = targets
        self.client = client
        self.tokens = tokens
        self.made = made
        self.deadline = deadline
        self.earlier = 0  # sendings by processes that died meanwhile
        self.sent = 0
        self.sent_at = 0.0
        self.target: Target | None = None  # where it was last sent, or is queued
        self.tried: set[Target] = set()
        self.said: dict[Target, Failure] = {}  # what each failed by last, the newest last
        self.admitted = False  # the limiter has been charged for it
        self.permit: Closed | Probe | None = None  # of a breaker that waits for the outcome
        self.held = 0.0  # dollars of the day that its sending may cost
        self.begun = False

    @property
    def candidates(self) -> list[Target]:
        """Where it may go next: what was not asked yet, or else what may do better."""
        fresh = [target for target in self.targets if target not in self.tried]
        return fresh or [target for target in self.targets if self.said[target].retryable]

    @property
    def soonest(self) -> tuple[Target, Failure]:
        """The failed target that may do better first; where none may, the last that failed."""
        passing = [(target, said) for target, said in self.said.items() if said.retryable]
        last = next(reversed(self.said.items()))
        return min(passing, key=lambda pair: pair[1].after_s or 0.0, default=last)
