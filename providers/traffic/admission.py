"""Which request may go to a provider now, and which waits: limiters and queues tied together.

Who has to wait stands in the provider's queue. The head of each lane is asked for again when
its limiter has said, or sooner if something has changed in this process. With several keys the
caller puts the key into the model's name: limits hold for a key.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final, TypeAlias

import msgspec

from ringcast.config import Config
from ringcast.errors import RequestError
from ringcast.providers.traffic.limit_scopes import Change, LimitScopes
from ringcast.providers.traffic.limiter import AdaptiveRateLimiter
from ringcast.providers.traffic.line import Line
from ringcast.providers.traffic.rate_headers import NOTHING, RateLimits
from ringcast.shm.shared_words import SharedWords

ENDED: Final = 1024  # requests whose usage may still come
AT_ONCE: Final = 64  # requests of a queue that go before others of the process have a turn: 4 ms

Ticket: TypeAlias = Hashable


class Asked(msgspec.Struct, frozen=True):
    """What a ticket asked for, and when it was queued or sent."""

    provider: str
    model: str
    tokens: int
    at: float


class Admission:
    """The requests of one provider process, by ticket. Times are monotonic seconds."""

    def __init__(self, rows: SharedWords, config: Config, process: int) -> None:
        """Begin as number `process` of the daemon's provider processes."""
        self._scopes = LimitScopes(rows, config, process)
        self._settings = config.queue
        self._lines: dict[str, Line] = {}
        self._asked: dict[Ticket, Asked] = {}  # in a queue
        self._sent: dict[Ticket, Asked] = {}
        self._ended: OrderedDict[Ticket, Asked] = OrderedDict()

    def ask(
        self, ticket: Ticket, provider: str, model: str, client: bytes, tokens: int, now: float
    ) -> float:
        """Charge a request of at most `tokens` and return 0.0, or queue it for some seconds.

        Nobody overtakes who waits for the same. Raises `RequestError` (overloaded_local) when the
        queue is full, or nothing can go before `queue.wait_s` is over.
        """
        asked = Asked(provider, model, tokens, now)
        line = self._line(provider)
        queue = line.queue
        in_turn = not queue.occupied(model) and (not queue or line.hold.at <= now)
        if in_turn and self._admitted(asked, line, now):
            self._sent[ticket] = asked
            return 0.0
        line.check(model, now)
        if not queue.push(ticket, client, model, now):
            raise line.full(model, now)
        line.pace.waits(now, first=len(queue) == 1)
        self._asked[ticket] = asked
        return self._expected(ticket, line, now)

    def due(self, now: float) -> list[tuple[Ticket, RequestError | None]]:
        """Take out who may go now (None) and who has waited for too long (the error)."""
        self._scopes.store_noted(now)
        gone: list[tuple[Ticket, RequestError | None]] = []
        for line in self._lines.values():
            gone += [
                (ticket, line.late(self._asked.pop(ticket).model, now))
                for ticket in line.queue.expired(now)
            ]
            for _ in range(AT_ONCE):
                if (ticket := self._next(line, now)) is None:
                    break
                gone.append((ticket, None))
            for lane in [one for one in line.lanes if not line.queue.occupied(one)]:
                del line.lanes[lane]  # models are whatever clients ask for
        return gone

    def next_at(self, now: float) -> float | None:
        """Return when to call `due` next, None if nothing waits."""
        times = [] if self._scopes.store_at is None else [self._scopes.store_at]
        for line in self._lines.values():
            if (expires_at := line.queue.expires_at()) is not None:
                lanes = [line.lane_at(lane) for _, lane in line.queue.heads()]
                times += [expires_at, max(line.hold.at, min(lanes))]
        return max(min(times), now) if times else None

    def wait_of(self, ticket: Ticket, now: float) -> float:
        """Return for about how many seconds a request will wait, 0.0 if it is in no queue."""
        asked = self._asked.get(ticket)
        return self._expected(ticket, self._lines[asked.provider], now) if asked else 0.0

    def reason(self, ticket: Ticket) -> str:
        """Return what a queued request waits for: whose limit, and which. Raises `KeyError`."""
        asked = self._asked[ticket]
        return f"{asked.provider}: {self._lines[asked.provider].holding(asked.model).text}"

    def pause_of(self, provider: str, model: str, tokens: int, now: float) -> float:
        """Return for how many seconds a model has no room, as far as is known; nobody queues."""
        return self._scopes.wait(provider, model, tokens, now)

    def queued(self, provider: str) -> int:
        """Return how many requests to a provider wait for its limits."""
        line = self._lines.get(provider)
        return 0 if line is None else len(line.queue)

    def withdraw(self, ticket: Ticket, now: float) -> None:
        """Forget a request that is not sent; what it was charged is given back."""
        if (asked := self._asked.pop(ticket, None)) is not None:
            self._lines[asked.provider].queue.remove(ticket)
        elif (asked := self._sent.pop(ticket, None)) is not None:
            tokens = asked.tokens
            self._change_both(asked, lambda limiter: limiter.withdraw(tokens, now), now)

    def learn(self, provider: str, model: str, limits: RateLimits, now: float) -> None:
        """Take the head of an answer that is no refusal, whether or not it tells limits."""
        self._scopes.change(provider, model, lambda limiter: limiter.learn(limits, now), now)
        self._hurry(provider)

    def throttled(
        self,
        provider: str,
        model: str,
        retry_after_s: float | None,
        now: float,
        limits: RateLimits = NOTHING,
    ) -> None:
        """Take a refusal (429, 529) with its hint and what its head tells."""

        def refuse(limiter: AdaptiveRateLimiter) -> None:
            limiter.throttled(retry_after_s, now, limits)

        self._scopes.change(provider, model, refuse, now)

    def settle(self, ticket: Ticket, used: int | None, now: float) -> None:
        """End a request that was sent; one that was refused has used 0.

        Without `used` it stays charged, and may be settled again when its usage is known.
        """
        if (asked := self._sent.pop(ticket, None)) is not None:
            tokens = asked.tokens
            self._change_both(asked, lambda limiter: limiter.settle(tokens, used, now), now)
            self._lines[asked.provider].pace.ended(now - asked.at)
            if used is None:
                self._ended[ticket] = asked
                if len(self._ended) > ENDED:
                    self._ended.popitem(last=False)
        elif used is not None and (asked := self._ended.pop(ticket, None)) is not None:
            tokens, taken = asked.tokens, used
            self._change_both(asked, lambda limiter: limiter.correct(tokens, taken, now), now)

    def _line(self, provider: str) -> Line:
        line = self._lines.get(provider)
        if line is None:
            concurrency = self._scopes.concurrency(provider)
            line = self._lines[provider] = Line(provider, self._settings, concurrency)
        return line

    def _next(self, line: Line, now: float) -> Ticket | None:
        """Charge and take out the request whose turn it is and that may go, if there is one."""
        for ticket, lane in line.queue.heads():
            if line.hold.at > now:
                break
            if line.lane_at(lane) <= now and self._admitted(self._asked[ticket], line, now):
                line.queue.serve(ticket)
                line.pace.served(now, last=not line.queue)
                self._sent[ticket] = msgspec.structs.replace(self._asked.pop(ticket), at=now)
                return ticket
        return None

    def _admitted(self, asked: Asked, line: Line, now: float) -> bool:
        """Charge a request to its limiters, or note when to ask again."""
        refused = self._scopes.admit(asked.provider, asked.model, asked.tokens, now)
        if refused is None:
            line.lanes.pop(asked.model, None)
        else:
            line.held(asked.model, refused, now)
        return refused is None

    def _change_both(self, asked: Asked, change: Change, now: float) -> None:
        self._scopes.change_both(asked.provider, asked.model, change, now)
        self._hurry(asked.provider)

    def _hurry(self, provider: str) -> None:
        """Have a queue looked at again: something has changed."""
        if (line := self._lines.get(provider)) is not None:
            line.hurry()

    def _expected(self, ticket: Ticket, line: Line, now: float) -> float:
        asked = self._asked[ticket]
        return line.expected(asked.model, line.queue.ahead(ticket), now - asked.at, now)
