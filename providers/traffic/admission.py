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
from ringcast.errors import Code, RequestError
from ringcast.providers.traffic.fair_queue import FairQueue
from ringcast.providers.traffic.limit_scopes import Change, LimitScopes
from ringcast.providers.traffic.limiter import AdaptiveRateLimiter
from ringcast.providers.traffic.rate_headers import NOTHING, RateLimits
from ringcast.shm.shared_words import SharedWords

ENDED: Final = 1024  # requests whose usage may still come
AT_ONCE: Final = 64  # requests of a queue that go before others of the process have a turn: 4 ms
FIRST_PACE_S: Final = 0.1  # from one request of a queue to the next, before one was seen
_NEWEST: Final = 0.25  # how much the last gap counts in the mean

Ticket: TypeAlias = Hashable


class Asked(msgspec.Struct, frozen=True):
    """What a ticket asked for."""

    provider: str
    model: str
    tokens: int


class Line(msgspec.Struct):
    """A provider's queue, and when its limiter, or that of a lane, is worth asking again."""

    queue: FairQueue
    at: float = 0.0
    lanes: dict[str, float] = {}
    served: float | None = None
    pace_s: float = FIRST_PACE_S


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

        Nobody overtakes who waits for the same. Raises `RequestError` when the queue is full.
        """
        asked = Asked(provider, model, tokens)
        line = self._line(provider)
        queue = line.queue
        in_turn = not queue.occupied(model) and (not queue or line.at <= now)
        if in_turn and self._admitted(asked, line, now):
            self._sent[ticket] = asked
            return 0.0
        if not queue.push(ticket, client, model, now):
            raise _full(provider, queue)
        self._asked[ticket] = asked
        return self._expected(ticket, line, now)

    def due(self, now: float) -> list[tuple[Ticket, RequestError | None]]:
        """Take out who may go now (None) and who has waited for too long (the error)."""
        self._scopes.store_noted(now)
        gone: list[tuple[Ticket, RequestError | None]] = []
        for provider, line in self._lines.items():
            for ticket in line.queue.expired(now):
                del self._asked[ticket]
                gone.append((ticket, _late(provider, line.queue)))
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
                lanes = [line.lanes.get(lane, 0.0) for _, lane in line.queue.heads()]
                times += [expires_at, max(line.at, min(lanes))]
        return max(min(times), now) if times else None

    def wait_of(self, ticket: Ticket, now: float) -> float:
        """Return for about how many seconds a request will wait, 0.0 if it is in no queue."""
        asked = self._asked.get(ticket)
        return self._expected(ticket, self._lines[asked.provider], now) if asked else 0.0

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
            queue = FairQueue(self._settings.length, self._settings.wait_s)
            line = self._lines[provider] = Line(queue)
        return line

    def _next(self, line: Line, now: float) -> Ticket | None:
        """Charge and take out the request whose turn it is and that may go, if there is one."""
        for ticket, lane in line.queue.heads():
            if line.at > now:
                break
            if line.lanes.get(lane, 0.0) <= now and self._admitted(self._asked[ticket], line, now):
                line.queue.serve(ticket)
                self._served(line, now)
                self._sent[ticket] = self._asked.pop(ticket)
                return ticket
        return None

    def _served(self, line: Line, now: float) -> None:
        """Note the pace at which the queue moves, as long as it is one."""
        if line.served is not None:
            line.pace_s += _NEWEST * (now - line.served - line.pace_s)
        line.served = now if line.queue else None

    def _admitted(self, asked: Asked, line: Line, now: float) -> bool:
        """Charge a request to its limiters, or note when to ask again."""
        refused = self._scopes.admit(asked.provider, asked.model, asked.tokens, now)
        if refused is None:
            line.lanes.pop(asked.model, None)
        elif refused.whole:
            line.at = now + refused.wait_s
        else:
            line.lanes[asked.model] = now + refused.wait_s
        return refused is None

    def _change_both(self, asked: Asked, change: Change, now: float) -> None:
        self._scopes.change_both(asked.provider, asked.model, change, now)
        self._hurry(asked.provider)

    def _hurry(self, provider: str) -> None:
        """Have a queue looked at again: something has changed."""
        if (line := self._lines.get(provider)) is not None:
            line.at = 0.0
            line.lanes.clear()

    def _expected(self, ticket: Ticket, line: Line, now: float) -> float:
        asked = self._asked[ticket]
        first_s = max(line.at, line.lanes.get(asked.model, 0.0)) - now
        return max(first_s, 0.001) + line.queue.ahead(ticket) * line.pace_s


def _full(provider: str, queue: FairQueue) -> RequestError:
    text = (
        f"{len(queue)} requests wait for {provider}'s rate limit already, "
        f"{queue.length} may (queue.length)"
    )
    return RequestError(Code.OVERLOADED_LOCAL, text, length=len(queue), limit=queue.length)


def _late(provider: str, queue: FairQueue) -> RequestError:
    text = f"{provider}'s rate limit left no room for it within {queue.wait_s:g} s (queue.wait_s)"
    return RequestError(Code.OVERLOADED_LOCAL, text, limit=queue.wait_s)
