"""Who reads which stream, from where, and what becomes of a stream that nobody reads."""

from __future__ import annotations

import asyncio

from ringcast.broker import protocol
from ringcast.broker.dispatch import Dispatch
from ringcast.broker.leases import Leases
from ringcast.broker.replies import Replies
from ringcast.broker.session import Sessions
from ringcast.broker.stream import Client, Stream, Subscription
from ringcast.config import Config
from ringcast.errors import Code, RequestError
from ringcast.providers.request import refuse


class Readers:
    """The clients' subscriptions, and the `leases` of streams without one."""

    def __init__(
        self,
        sessions: Sessions,
        dispatch: Dispatch,
        config: Config,
        replies: Replies,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """Readers are told of what they read by `replies`."""
        self._sessions = sessions
        self._dispatch = dispatch
        self._config = config
        self._replies = replies
        self._loop = loop
        self.leases = Leases(config.credit.lease_s, self._lease_over, loop)

    def find(self, stream_id: bytes) -> Stream:
        """Return a stream by its public name. Raises `RequestError` (unknown_stream)."""
        stream = self._sessions.by_id.get(stream_id)
        if stream is None:
            raise RequestError(Code.UNKNOWN_STREAM, "no such stream, or it left the log")
        return stream

    def window(self, asked: int) -> int:
        """Return the window of a reader, in bytes; 0 asks for the default."""
        if asked < 0:
            raise refuse("window", f"{asked} is negative")
        most = self._config.limits.max_window_bytes
        return min(asked, most) or self._config.credit.client_window_bytes

    def read(
        self,
        client: Client,
        handle: int,
        stream: Stream,
        after: int,
        window: int,
        *,
        waits: bool = False,
    ) -> None:
        """Have a client read a stream. Raises `RequestError`."""
        opened = protocol.Opened(handle, stream.id, stream.provider, stream.model)
        known = client.subscriptions.get(handle)
        if known is not None and known.stream is stream:  # asked twice on one connection
            self._replies.send(client.route, opened)
            return
        self._check_room(client)
        self._sessions.subscribe(client, handle, stream, after, window).waits = waits
        self.leases.withdraw(stream)
        self._replies.send(client.route, opened)  # before its tokens, sent by `flush`
        if waits and stream.waiting[0]:
            reason, until = stream.waiting
            left_s = max(0.0, until - self._loop.time())
            self._replies.send(client.route, protocol.Waiting(handle, reason, left_s))

    def waiting(self, slot: int, reason: str, seconds: float) -> None:
        """A request waits, or goes now: tell whoever wants to know."""
        stream = self._sessions.streams.get(slot)
        if stream is None:
            return
        stream.waiting = (reason, self._loop.time() + seconds) if seconds else ("", 0.0)
        for one in list(stream.subscriptions):  # who is gone is taken off
            if one.waits:
                self._replies.send(one.client.route, protocol.Waiting(one.handle, reason, seconds))

    def cut(self, subscription: Subscription) -> None:
        """Take a reader off that was left behind, and say where it can attach again."""
        stream, client, handle = subscription.stream, subscription.client, subscription.handle
        if client.subscriptions.get(handle) is not subscription:  # it has left meanwhile
            return
        self._replies.flush_client(client)
        self._replies.refuse(
            client.route,
            handle,
            Code.SLOW_CONSUMER,
            f"token {subscription.next} left the log before it was taken",
            resume_after=subscription.next - 1,
            first=stream.first,
        )
        self.unsubscribe(client, handle)

    def unsubscribe(self, client: Client, handle: int) -> None:
        """Take a reader off; if it was the last, its stream's lease begins."""
        stream = self._sessions.unsubscribe(client, handle)
        if stream is not None and stream.slot in self._sessions.streams:
            self.leases.begin(stream)

    def _lease_over(self, stream: Stream) -> None:
        self._dispatch.cancel(stream)
        self._sessions.abandon(stream)

    def _check_room(self, client: Client) -> None:
        """Raise `RequestError` if a client has as much as it may have."""
        readers, most = client.subscriptions.values(), self._config.limits.max_streams
        if len(readers) >= most:
            text = f"{most} readers are on this connection (limits.max_streams)"
            raise RequestError(Code.TOO_MANY_STREAMS, text, limit=most)
        limit = self._config.limits.max_window_bytes
        if (under_way := sum(one.outstanding for one in readers)) > limit:
            text = f"{under_way} bytes are under way to you, {limit} are allowed: take some first"
            raise RequestError(Code.SLOW_CONSUMER, f"{text} (limits.max_window_bytes)", limit=limit)
