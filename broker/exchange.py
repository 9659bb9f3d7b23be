"""What a client has under way with the daemon: readers, questions, credit. Pure: frames in and out.

A broker that is replaced, or has given a silent client up, knows nothing of it any more: then
everything unanswered is said once more (`repeat`), and every stream is read on from where we are.
All of it may be heard twice.
"""

from __future__ import annotations

from collections.abc import Callable

from ringcast.broker import protocol
from ringcast.broker.inbox import Inbox
from ringcast.errors import Code, ConnectionLost, RequestError
from ringcast.shm.tokens import Error


class Exchange:
    """All readers and questions of one connection, which is `lost` or not."""

    def __init__(
        self,
        transmit: Callable[[protocol.Frame], None],
        answered: Callable[[int, object], None],
    ) -> None:
        """`answered` is told what came (or the exception) for a question, or a reader's request."""
        self._transmit = transmit
        self._answered = answered
        self._number = 0
        self._inboxes: dict[int, Inbox] = {}
        self._questions: dict[int, protocol.Frame] = {}
        self._credits: dict[int, int] = {}
        self.lost = False

    # what a client says

    def number(self) -> int:
        """Return a new number, for a handle or a question."""
        self._number += 1
        return self._number

    def say(self, frame: protocol.Frame) -> None:
        """Send a frame. Raises `ConnectionLost` if the daemon is gone."""
        if self.lost:
            raise ConnectionLost("the daemon is gone")
        self._transmit(frame)

    def ask(self, question: protocol.Question | protocol.Status) -> None:
        """Ask, and again until it is answered or `withdraw`n."""
        self.say(question)
        self._questions[question.request] = question

    def withdraw(self, number: int) -> None:
        """Nobody waits for the answer to a question any more."""
        self._questions.pop(number, None)

    def request(self, inbox: Inbox, request: protocol.Open | protocol.Attach) -> None:
        """Ask for a stream; what comes of it comes into `inbox`."""
        self.say(request)
        inbox.request = request
        self._inboxes[inbox.handle] = inbox

    def drop(self, inbox: Inbox) -> None:
        """Take nothing more in for a reader."""
        self._inboxes.pop(inbox.handle, None)
        self._credits.pop(inbox.handle, None)

    def detach(self, inbox: Inbox) -> None:
        """Read a stream no more."""
        self.drop(inbox)
        self.say(protocol.Detach(inbox.handle))
        inbox.end()

    def cancel(self, inbox: Inbox) -> None:
        """End a stream for everybody."""
        inbox.cancelled = True
        self.say(protocol.Cancel(inbox.id))

    def credit(self, inbox: Inbox, processed: int, *, prompt: bool) -> None:
        """Give credit for all tokens below number `processed`, at once or with the next beat."""
        self._credits[inbox.handle] = processed
        if prompt:
            self.flush()

    def flush(self) -> None:
        """Say what credit was given."""
        if self._credits and not self.lost:
            self.say(protocol.Credit(list(self._credits.items())))
            self._credits = {}

    def beat(self) -> None:
        """Give the credit that waited, also for ends: nobody may ever ask for what follows them."""
        for inbox in [one for one in self._inboxes.values() if one.ended and not one.batches]:
            del self._inboxes[inbox.handle]
            self._credits[inbox.handle] = inbox.next
        self.flush()

    # what the daemon says

    def heard(self, frame: protocol.DaemonFrame) -> bool:
        """Take what is meant for a reader or answers a question; return whether it was that."""
        match frame:
            case protocol.Tokens(runs):
                for handle, first, tokens in runs:
                    if (inbox := self._inboxes.get(handle)) is not None:
                        inbox.feed(first, tokens)
            case protocol.Waiting(handle, reason, seconds):
                if (inbox := self._inboxes.get(handle)) is not None:
                    inbox.wait(reason, seconds)
            case protocol.Opened(handle, stream, provider, model):
                if (inbox := self._inboxes.get(handle)) is not None:
                    inbox.opened(stream, provider, model)
                    self._answered(handle, None)
            case protocol.Result(request, data):
                self.withdraw(request)
                self._answered(request, data)
            case protocol.Refused():
                return self._refused(frame)
            case _:
                return False
        return True

    def _refused(self, frame: protocol.Refused) -> bool:
        if frame.request in self._questions:
            self.withdraw(frame.request)
            self._answered(frame.request, frame.error)
        elif (inbox := self._inboxes.get(frame.handle)) is not None:
            self._cut(inbox, frame.error)
        else:
            return False
        return True

    def repeat(self) -> None:
        """Say once more what is under way: whom we speak to has never heard of it."""
        for inbox in list(self._inboxes.values()):
            if inbox.request is not None:
                inbox.repeated = True
                self.say(inbox.request)
            elif not inbox.ended:
                after = inbox.next - 1
                self.say(protocol.Attach(inbox.handle, inbox.id, after, inbox.window))
                if inbox.cancelled:
                    self.say(protocol.Cancel(inbox.id))
        for question in self._questions.values():
            self.say(question)

    def lose(self) -> None:
        """The daemon is gone: end every reader, and say nothing more."""
        self.lost = True
        for inbox in self._inboxes.values():
            self._fail(inbox, ConnectionLost("the daemon stopped answering"))

    def _cut(self, inbox: Inbox, error: RequestError) -> None:
        """A reader was refused, or cut off."""
        self.drop(inbox)
        if error.code == Code.UNKNOWN_STREAM and inbox.id:  # lost with an earlier daemon
            text = "the daemon was restarted and the stream is gone"
            inbox.feed(inbox.next, [Error(Code.INTERRUPTED, text, retryable=True)])
            return
        self._fail(inbox, error)
        if inbox.repeated and isinstance(inbox.request, protocol.Open):
            # The first asking may have been heard: nobody will read what it began.
            self.say(protocol.Detach(inbox.handle))
            self.say(protocol.Cancel(inbox.request.stream))

    def _fail(self, inbox: Inbox, error: Exception) -> None:
        inbox.fail(error)
        self._answered(inbox.handle, error)
