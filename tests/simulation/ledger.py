"""What is known of each stream from outside, and by it what may and may not be seen of it."""

from __future__ import annotations

from ringcast.broker.dispatch import ATTEMPTS, RESUMES
from ringcast.errors import Code
from ringcast.shm.tokens import Done, Error, StreamToken

from . import failure
from .answer import LARGE, Answer
from .failure import Failure

REPLACED = "the daemon was restarted and the stream is gone"  # said by the client itself


class Violation(Exception):
    """The daemon has broken its word."""


class Deaths:
    """How many processes of each kind have died."""

    def __init__(self) -> None:
        self.worker = self.broker = self.provider = self.client = 0
        self.at_once = False  # a worker and a broker, so that less is promised

    def counts(self) -> dict[str, int]:
        """By kind."""
        kinds = ("broker", "client", "provider", "worker")
        return {kind: getattr(self, kind) for kind in kinds}


class Entry:
    """One stream."""

    def __init__(self, answer: Answer, deaths: Deaths, failures: list[Failure]) -> None:
        """Its first sendings end in `failures`, one after the other."""
        self.answer = answer
        self.deaths = deaths
        self.failures = failures
        self.met: list[Failure] = []
        self.sent = 0  # how often the request was
        self.id = b""
        self.taken = 0  # by all readers
        self.acked = 0  # tokens that any reader has said it is done with, or began behind
        self.seen = -1  # the highest number of a token that anybody took, but for the last
        self.terminal: tuple[int, str] | None = None  # its number, and how it ended
        self.asked = 0  # how often a provider was, for an answer or the rest of one
        self.breaks = 0  # of its connections
        self.provider_deaths = 0
        self.cancelled = False
        self.recalled = False
        self.alone = False  # there was a time when nobody read it
        self.left = False  # by a reader of its own will, or by one who died or stalled
        self.heap_lost = False  # a broker died with tokens of it on its heap
        self.start_lost = False  # a broker died before a provider was asked
        self.poisoned = 0  # workers that died within a record

    def leave(self) -> None:
        """One of its readers does not read it any more."""
        self.alone = self.left = True

    def ask(self) -> None:
        """A provider is asked. Raises `Violation` if no connection has ended since."""
        self.asked += 1
        most = 1 + self.breaks + len(self.met) + self.provider_deaths + self._is_forgotten
        self._check(self.asked <= most, "asked once too often")

    @property
    def _is_forgotten(self) -> bool:
        """Its OPEN may be repeated, after a broker's death, when all of it has been forgotten."""
        return self.deaths.broker > 0 and self.taken == 0 and self.alone

    def send(self) -> Failure | None:
        """Its request is sent; return how that fails, if it does. Raises `Violation`."""
        self.ask()
        self.sent += 1
        lives = min(1 + self.provider_deaths, ATTEMPTS) + self._is_forgotten
        self._check(self.sent <= lives * failure.ATTEMPTS, "sent once too often")
        unseen = self.seen < 0 and self.terminal is None
        self._check(unseen, "sent again although something of it was taken")
        if not self.failures:
            return None
        self.met.append(self.failures.pop(0))
        return self.met[-1]

    def most_granted(self, window: int) -> int:
        """The raw byte up to which its provider may write."""
        if self.answer.api != "chat":  # the bytes of a second connection are counted on
            return 1 << 62
        raw = self.answer.raw
        # A record's bytes are its round's, which were granted before it.
        return raw[min(self.acked, len(raw) - 1)] + 2 * window + self.answer.largest

    def see(self, number: int, token: StreamToken) -> None:
        """A reader takes token `number`. Raises `Violation` if it should not."""
        expected = self.answer.tokens
        self.taken += 1
        if isinstance(token, Done | Error):
            self._see_end(number, token)
        elif number >= len(expected) or token != expected[number]:
            raise Violation(f"{self.answer.name}: token {number} is {str(token)[:60]}")
        else:
            self.seen = max(self.seen, number)

    def _see_end(self, number: int, token: Done | Error) -> None:
        said = number, token.code if isinstance(token, Error) else "done"
        if isinstance(token, Error) and token.message == REPLACED:
            self._check(self.is_lost(number), f"the daemon forgot it at {number}")
            return
        # An end that a broker made by itself dies with it: the next one may find other words.
        if self.terminal is None or not (
            self.deaths.broker and "done" not in (*self.terminal, *said)
        ):
            same = self.terminal in (None, said)
            self._check(same, f"ended as {self.terminal}, then as {said}")
        self.terminal = said
        if isinstance(token, Done):
            last = self.answer.tokens[-1]
            assert isinstance(last, Done)
            same = number == self.answer.last and token.finish_reason == last.finish_reason
            self._check(same, f"done at {number} of {self.answer.last}")
        else:
            self._check(self._may_fail(number, token.code), f"{said}: {token.message}")

    def _may_fail(self, number: int, code: str) -> bool:
        """Say whether the stream may end with this error."""
        deaths, large = self.deaths, self.answer.largest > LARGE
        ends = self.breaks + self.provider_deaths
        if not number and any(code in one.codes for one in self.met):
            return self._is_spent
        match code:
            case Code.CANCELLED:
                return self.cancelled or self.alone
            case Code.INTERRUPTED | Code.WORKER_LOST if deaths.at_once:
                return True
            case Code.INTERRUPTED | Code.TRANSPORT if self.answer.api == "responses" and number:
                return ends > RESUMES
            case Code.INTERRUPTED if not number:
                # Or a broker had ended it, and died before its readers had seen that.
                ended = ends > 0 or (bool(self.met) and self._is_spent)
                return ends >= ATTEMPTS or (ended and deaths.broker > 0)
            case Code.INTERRUPTED:
                return self.provider_deaths > 0
            case Code.TRANSPORT:
                return self.breaks > 0 if number else self._is_spent
            case Code.WORKER_LOST:
                # Between the parts of an event others may have written: all of it counts.
                wide = large or self.answer.largest > LARGE >> 1
                return (wide and deaths.worker > 0) or deaths.at_once
            case Code.POISON_INPUT:
                return self.poisoned > 1
        return False

    @property
    def _is_spent(self) -> bool:
        """Whether it failed as often as it may, or as nothing can mend, or nobody wanted it."""
        often = len(self.met) + self.breaks >= failure.ATTEMPTS
        unwanted = self.cancelled or self.left
        return often or unwanted or any(one.for_good for one in self.met)

    def is_lost(self, number: int) -> bool:
        """Say whether token `number` may be gone: nobody was to keep it, or who did has died."""
        nowhere = self.seen < 0 and self.deaths.broker > 0 and self.provider_deaths > 0
        torn = self.answer.largest > LARGE and self.deaths.broker > 0
        rare = torn or self.deaths.at_once
        return number < self.acked or self.heap_lost or self.start_lost or nowhere or rare

    def _check(self, holds: bool, what: str) -> None:
        if not holds:
            raise Violation(f"{self.answer.name}: {what}")
