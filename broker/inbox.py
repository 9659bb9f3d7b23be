"""What has come for one reader of a client and is not taken yet. Pure: no socket, no clock.

| state  | what is there                | leaves it                                              |
|--------|------------------------------|--------------------------------------------------------|
| asked  | `request`, to be said again  | OPENED: open; ERROR: failed                            |
| open   | `id`                         | its terminal token: ended; a gap, or an ERROR: failed  |
| ended  | all that it will ever have   | –                                                      |
| failed | `failure`, behind the tokens | –                                                      |
"""

from __future__ import annotations

from collections.abc import Callable

from ringcast.broker.protocol import Attach, Open
from ringcast.errors import Code, RequestError
from ringcast.shm.tokens import Done, Error, StreamToken, Waiting


class Inbox:
    """One reader's tokens, in order and each once. `arrived` is called when something came."""

    def __init__(self, handle: int, after: int = -1, window: int = 0) -> None:
        """Expect the token after number `after`; `window` bytes (0: the default) are asked for."""
        self.handle = handle
        self.window = window
        self.next = after + 1  # the number expected from the daemon
        self.id = b""
        self.provider = ""
        self.model = ""
        self.batches: list[list[StreamToken]] = []
        self.waits: list[StreamToken] = []  # they have no number, and are not for the log
        self.request: Open | Attach | None = None  # until it is answered
        self.repeated = False  # asked again, over another connection
        self.cancelled = False
        self.ended = False
        self.failure: Exception | None = None
        self.arrived: Callable[[], None] = lambda: None

    def opened(self, stream: bytes, provider: str, model: str) -> None:
        """Take the answer to the request."""
        self.id, self.provider, self.model = stream, provider, model
        self.request = None

    def feed(self, first: int, tokens: list[StreamToken]) -> None:
        """Take a run from the daemon, dropping what came before (a resume sends whole runs)."""
        if first > self.next:
            text = f"token {self.next} is missing, {first} came"
            self.fail(RequestError(Code.OFFSET_GONE, text, resume_after=self.next - 1))
            return
        fresh = tokens[self.next - first :] if first < self.next else tokens
        if not fresh:
            return
        self.next += len(fresh)
        self.batches.append(fresh)
        if isinstance(fresh[-1], Done | Error):
            self.ended = True
        self.arrived()

    def wait(self, reason: str, seconds: float) -> None:
        """Take the word that the request is not sent for so long."""
        self.waits.append(Waiting(reason, seconds))
        self.arrived()

    def take(self) -> list[StreamToken]:
        """Return all tokens that came, as one batch."""
        batches = self.batches
        if len(batches) == 1:
            return batches.pop()
        taken = [token for batch in batches for token in batch]
        batches.clear()
        return taken

    def end(self) -> None:
        """Expect nothing more."""
        self.ended = True
        self.arrived()

    def fail(self, error: Exception) -> None:
        """Nothing more will come, and not for its end."""
        if not self.ended:
            self.failure = error
        self.arrived()
