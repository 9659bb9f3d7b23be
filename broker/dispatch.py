"""What is said to the provider processes, and how a stream goes on that lost its connection.

Everything said may be lost with a process that dies. Its successor reports what it has under
way, and `reconcile` says again what follows from the difference.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Final, Literal

import msgspec

from ringcast.broker.credit import BackpressureController, Budget
from ringcast.broker.session import Sessions
from ringcast.broker.stream import Again, Stream, Unsaid
from ringcast.config import Config
from ringcast.errors import Code
from ringcast.providers import commands
from ringcast.shm.records import Cursor, decode_checkpoint, decode_open
from ringcast.shm.tokens import Error

ATTEMPTS: Final = 3  # sendings of one request, each by another provider process
RESUMES: Final = 5  # attempts to go on with one answer: 0, 0.5, 1.5, 3.5 and 7.5 s apart
RESUME_PAUSE_S: Final = 0.5
FIRST_WINDOW: Final = 32 << 10  # bytes: more than a client processes before it gives credit


class Dispatch:
    """The broker's side of the provider processes. `ready` holds each one's last report."""

    def __init__(
        self,
        sessions: Sessions,
        config: Config,
        send: Callable[[int, commands.Command], bool],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """`send` gives a command to a process by its index, or returns False if it is gone."""
        self._sessions = sessions
        self._loop = loop
        self._largest = config.credit.window_max_bytes
        self._stall_s = config.credit.stall_s
        self._budget = Budget(config.credit.budget_bytes, config.credit.window_min_bytes)
        self.send = send
        self.ready: dict[int, commands.Ready] = {}
        self.pauses: dict[int, asyncio.TimerHandle] = {}  # streams that go on in a while

    def window(self) -> BackpressureController:
        """Open a stream's window."""
        return self._budget.open(self._largest, initial=FIRST_WINDOW, clock=self._loop.time)

    def grant(self, streams: Iterable[Stream]) -> None:
        """Tell limits that have moved, in one message for each process."""
        limits: dict[int, list[tuple[int, int]]] = {}
        for stream in streams:
            limits.setdefault(stream.process, []).append((stream.slot, stream.window.told))
        for process, told in limits.items():
            self.send(process, commands.Grant(told))

    def look_at_windows(self, now: float) -> None:
        """Let the windows of quiet streams adapt, and end those whose readers take nothing."""
        limit_s = self._stall_s
        for stream in self._sessions.streams.values():
            if stream.terminal:
                continue
            if stream.window.processed(stream.window.released):
                self._sessions.granted.append(stream)
            if stream.stalled(now) > limit_s > 0:
                text = f"nobody took a token for {limit_s:g} s (credit.stall_s)"
                fail = commands.Fail(stream.slot, Code.BACKPRESSURE_TIMEOUT, text)
                self.send(stream.process, fail)

    def began(self, streams: Iterable[Stream]) -> None:
        """Tell of first tokens, in one message for each process."""
        slots: dict[int, list[int]] = {}
        for stream in streams:
            stream.waiting = "", 0.0
            slots.setdefault(stream.process, []).append(stream.slot)
        for process, begun in slots.items():
            self.send(process, commands.Began(begun))

    def stop(self, stream: Stream, *, cancel: bool) -> None:
        """Have a stream's connection closed, at once or when it is drained."""
        last = stream.last_token
        usage, error = (last.usage if last else None), (last if isinstance(last, Error) else None)
        command = commands.Stop(stream.slot, cancel, stream.terminal, usage, error)
        self.send(stream.process, command)

    def cancel(self, stream: Stream) -> None:
        """End a stream that nobody wants, wherever it is, and its answer if that is kept."""
        stream.cancelled = True
        if stream.terminal:
            return
        if (pause := self.pauses.pop(stream.slot, None)) is not None:
            pause.cancel()
            self.abandon(stream, "cancelled")
        else:
            self.stop(stream, cancel=True)
        if stream.state and (cursor := decode_checkpoint(stream.state).cursor) is not None:
            self.send(stream.process, commands.Recall(stream.provider, stream.api, cursor))

    def abandon(self, stream: Stream, how: Literal["interrupted", "for good", "cancelled"]) -> None:
        """Have the end of a stream written that has no connection."""
        self.send(stream.process, commands.Abandon([(stream.slot, stream.worker)], how))

    def reconcile(self, index: int) -> None:
        """Compare what a provider process has under way with what it should have.

        What died with its predecessor is ended by the new one, through the in-ring, behind
        all that was received: so the worker says what the stream still had, or that it can go
        on. An end too many is ignored.
        """
        live = {one.slot for one in self.ready[index].live}
        streams = self._sessions.streams.values()
        ours = [stream for stream in streams if stream.process == index]
        left = [(s.slot, s.worker) for s in ours if not s.terminal and s.slot not in live]
        if left:
            self.send(index, commands.Abandon(left))
        for stream in ours:
            if stream.terminal and stream.slot in live:
                self.stop(stream, cancel=True)

    def go_on(self, again: Again) -> None:
        """A stream has lost its connection: go on with another, or say why not."""
        stream = again.stream
        if not again.lost and again.ended_ns < stream.again_ns:  # another end was answered since
            return
        if again.cursor is not None:
            self._resume(stream, again.cursor, again.raw)
        elif stream.cancelled:
            self._sessions.fail(stream, Error(Code.CANCELLED, "cancelled by the client"))
        elif again.lost:
            text = "the worker and the broker died at once, and with them what was decoded"
            self._sessions.fail(stream, Error(Code.WORKER_LOST, text, retryable=True))
        else:
            self._ask_again(stream)

    def unsaid(self, failed: Unsaid) -> None:
        """A stream failed before its first token: whoever sent the request may send it again."""
        stream = failed.stream
        if stream.end or stream.opened_ns != failed.opened_ns:  # of old: a predecessor has asked
            return
        stream.unsaid = failed.error
        # Ends written since then are not its own: a process has died that does not hear of this.
        stream.again_ns = max(stream.again_ns, failed.opened_ns)
        self._begin_anew(stream)
        limit = stream.window.told
        command = commands.Unsaid(stream.slot, stream.worker, failed.opened_ns, failed.error, limit)
        self.send(stream.process, command)  # a process that is gone will report, and so ask

    def spent(self, slot: int) -> None:
        """It is not sent again: what was kept back is said now."""
        stream = self._sessions.streams.get(slot)
        if stream is None or stream.unsaid is None or stream.end or stream.opened:
            return
        cancelled = Error(Code.CANCELLED, "cancelled by the client")
        self._sessions.fail(stream, cancelled if stream.cancelled else stream.unsaid)

    def _begin_anew(self, stream: Stream) -> None:
        stream.raw = stream.paid = 0
        stream.window.close()
        stream.window = self.window()

    def _ask_again(self, stream: Stream) -> None:
        """Send a request once more whose first sending made no visible token."""
        if stream.start is not None and stream.attempts < ATTEMPTS:
            stream.attempts += 1
            stream.again_ns = time.monotonic_ns()  # ends written before this are answered by it
            self._begin_anew(stream)
            sent = decode_open(stream.opened).attempt if stream.opened else stream.start.sent
            limit = stream.window.told
            stream.start = msgspec.structs.replace(stream.start, limit=limit, sent=sent)
            self.send(stream.process, stream.start)  # one that is gone will report, and so ask
            return
        text = "the provider process died, and the connection with it"
        self._sessions.fail(stream, Error(Code.INTERRUPTED, text, retryable=True))

    def _resume(self, stream: Stream, cursor: Cursor, raw: int) -> None:
        """Ask the provider for the rest of an answer that it keeps.

        At once, then in pauses that double; given up after `RESUMES` without a new token.
        """
        if stream.slot in self.pauses:  # two processes that died have each written its end
            return
        if stream.end > stream.resumed_at:
            stream.attempts, stream.resumed_at = 1, stream.end
        if stream.cancelled or stream.attempts > RESUMES:
            self.abandon(stream, "cancelled" if stream.cancelled else "for good")
            return
        pause_s = RESUME_PAUSE_S * ((1 << stream.attempts - 1) - 1)
        stream.attempts += 1
        self.pauses[stream.slot] = self._loop.call_later(
            pause_s, self._resume_now, stream, cursor, raw
        )

    def _resume_now(self, stream: Stream, cursor: Cursor, raw: int) -> None:
        del self.pauses[stream.slot]
        if stream.terminal:  # an earlier process had written more than we knew
            return
        stream.again_ns = time.monotonic_ns()
        command = commands.Resume(
            stream.slot, stream.id, stream.worker, stream.provider, stream.model, stream.api,
            cursor, raw, stream.window.told,
        )  # fmt: skip
        self.send(stream.process, command)  # a process that is gone will report, and so ask
