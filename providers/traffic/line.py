"""One provider's queue: what holds it or a lane of it back, how fast it moves, whom it refuses."""

from __future__ import annotations

from typing import Final

import msgspec

from ringcast.config import Queue
from ringcast.errors import Code, RequestError
from ringcast.providers.traffic.fair_queue import FairQueue
from ringcast.providers.traffic.limit_scopes import NOT_REFUSED, Refused
from ringcast.providers.traffic.limiter import Limit
from ringcast.providers.traffic.pace import Pace

LEAST_S: Final = 0.001  # that is told of a wait: 0 would be none
CERTAIN: Final = ("pause", "requests_per_min")  # of which nothing is given back meanwhile


class Hold(msgspec.Struct):
    """What holds requests back, and when its limiter is worth asking again."""

    at: float = 0.0
    refused: Refused = NOT_REFUSED

    @property
    def limit(self) -> Limit:
        """Return which limit it is, empty where that is not known."""
        return self.refused.bound.limit

    @property
    def text(self) -> str:
        """What a client is told of it."""
        if self.limit == "pause":
            return "the pause after a refusal"
        whose = "" if self.refused.whole else "its own "
        return whose + (self.limit or "limits")


class Line:
    """A provider's queue. Times are monotonic seconds."""

    def __init__(self, provider: str, settings: Queue, concurrency: int) -> None:
        """Nobody waits. `concurrency` is how many may be under way, 0 if that does not matter."""
        self.provider = provider
        self.queue = FairQueue(settings.length, settings.wait_s)
        self.hold = Hold()
        self.lanes: dict[str, Hold] = {}
        self.pace = Pace()
        self._concurrency = concurrency

    def held(self, lane: str, refused: Refused, now: float) -> None:
        """A limiter has refused a request of `lane`."""
        hold = Hold(now + refused.wait_s, refused)
        if refused.whole:
            self.hold = hold
        else:
            self.lanes[lane] = hold

    def hurry(self) -> None:
        """Have all limiters asked again: something has changed."""
        for hold in (self.hold, *self.lanes.values()):
            hold.at = 0.0

    def lane_at(self, lane: str) -> float:
        """Return when the limiter of a lane is worth asking again."""
        hold = self.lanes.get(lane)
        return hold.at if hold is not None else 0.0

    def holding(self, lane: str) -> Hold:
        """Return what holds a lane back for longest."""
        holds = self.hold, self.lanes.get(lane, self.hold)
        return max(holds, key=lambda hold: (hold.at, hold.limit != ""))

    def expected(self, lane: str, ahead: int, waited_s: float, now: float) -> float:
        """Return for about how many seconds a request waits on that has `ahead` before it."""
        hold = self.holding(lane)
        first_s, pace_s = max(hold.at - now, LEAST_S), self._pace_s(hold, now)
        if pace_s is None:  # nothing was seen yet: as long again as it has waited
            return max(first_s, waited_s)
        if hold.limit == "concurrency":  # the hold says only when to look again
            first_s = max(pace_s, LEAST_S)
        return first_s + ahead * pace_s

    def _pace_s(self, hold: Hold, now: float) -> float | None:
        """Return the seconds from one request to the next: seen, or as its limit has it."""
        if (seen := self.pace.seen(now)) is not None:
            return seen
        if hold.limit != "concurrency":
            return hold.refused.bound.pace_s
        took_s = self.pace.took_s
        return None if took_s is None else took_s / self._concurrency

    # whom it refuses

    def check(self, lane: str, now: float) -> None:
        """Raise `RequestError` (overloaded_local) if nothing of `lane` can go within `wait_s`."""
        hold, wait_s = self.holding(lane), self.queue.wait_s
        left_s = hold.at - now
        if left_s > wait_s and hold.limit in CERTAIN:
            text = f"has no room for {left_s:.0f} s, and a request may wait for {wait_s:g}"
            raise self._overloaded(hold, f"{text} (queue.wait_s)", left_s)

    def full(self, lane: str, now: float) -> RequestError:
        """Return what is told where no more may wait."""
        length, hold = len(self.queue), self.holding(lane)
        text = (
            f"{length} requests wait for {self.provider} already ({hold.text}), "
            f"{self.queue.length} may (queue.length)"
        )
        after_s = self.expected(lane, length, 0.0, now)
        return RequestError(Code.OVERLOADED_LOCAL, text, retry_after_s=round(after_s, 3))

    def late(self, lane: str, now: float) -> RequestError:
        """Return what is told to who has waited for too long, and lost its place."""
        text = f"left no room for it within {self.queue.wait_s:g} s (queue.wait_s)"
        after_s = self.expected(lane, len(self.queue), 0.0, now)
        return self._overloaded(self.holding(lane), text, after_s)

    def _overloaded(self, hold: Hold, text: str, after_s: float) -> RequestError:
        text = f"{self.provider} ({hold.text}) {text}"
        return RequestError(Code.OVERLOADED_LOCAL, text, retry_after_s=round(after_s, 3))
