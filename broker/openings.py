"""Streams that are asked for: checked, given to a provider process, held until there is one."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from ringcast.broker import protocol
from ringcast.broker.addressee import addressee
from ringcast.broker.dispatch import Dispatch
from ringcast.broker.session import Sessions
from ringcast.broker.stream import Client, Stream
from ringcast.config import Config
from ringcast.errors import Code, RequestError
from ringcast.providers import commands
from ringcast.providers.request import refuse
from ringcast.shm.counters import Block

HOLD_S: Final = 5.0  # how long a request waits for a provider process


class Held(NamedTuple):
    """A request that waits for a provider process, and since when."""

    client: Client
    frame: protocol.Open
    since: float

    def check(self, now: float) -> None:
        """Raise `RequestError` if it has waited long enough."""
        if now - self.since > HOLD_S:
            text = f"no provider process was ready for {HOLD_S:g} s"
            raise RequestError(Code.INTERRUPTED, text)


class Openings:
    """Gives each stream its slot, its provider process and its worker, in turn."""

    def __init__(
        self, sessions: Sessions, dispatch: Dispatch, config: Config, counters: Block
    ) -> None:
        """Slots go on from what the counters say of a predecessor's."""
        self._sessions = sessions
        self._dispatch = dispatch
        self._config = config
        self._counters = counters
        self._held: list[Held] = []
        self.last_slot = counters.get(counters.slot("streams"))

    def open(self, client: Client, frame: protocol.Open, since: float) -> Stream | None:
        """Return the stream that a request begins, or None if it is held (since when).

        Raises `RequestError`.
        """
        if frame.handle in client.subscriptions:
            raise RequestError(Code.DUPLICATE_REQUEST, f"handle {frame.handle} is in use")
        live = sum(not stream.terminal for stream in self._sessions.streams.values())
        if live >= (limit := self._config.limits.max_streams):
            text = f"{limit} streams are live (limits.max_streams)"
            raise RequestError(Code.TOO_MANY_STREAMS, text)
        provider, model = addressee(frame.request, self._config)
        stream = self._begin(frame, provider, model, client.route, since)
        if stream is None:  # its provider process starts, or is being replaced
            self._held.append(Held(client, frame, since))
        return stream

    def known(self, frame: protocol.Open) -> Stream | None:
        """Return the stream of a request that was heard before. Raises `RequestError`."""
        if frame.stream and len(frame.stream) != protocol.ID_BYTES:
            raise refuse("stream", f"has {len(frame.stream)} bytes, not {protocol.ID_BYTES}")
        return self._sessions.by_id.get(frame.stream)

    def _begin(
        self, frame: protocol.Open, provider: str, model: str, route: bytes, since: float
    ) -> Stream | None:
        process = self.last_slot % self._config.processes.providers
        ready = self._dispatch.ready.get(process)
        if ready is None:
            return None
        if provider in ready.disabled:
            text = f"provider {provider}: {ready.disabled[provider]}"
            raise RequestError(Code.PROVIDER_DISABLED, text)
        slot = self.last_slot + 1
        identity = frame.stream or secrets.token_bytes(protocol.ID_BYTES)
        worker = slot % len(self._sessions.logs)
        window = self._dispatch.window()
        stream = Stream(slot, identity, provider, model, process, worker, window)
        start = commands.Start(
            slot, identity, worker, provider, model, frame.request, window.told, route,
            int(since * 1e9),
        )  # fmt: skip
        if not self._dispatch.send(process, start):
            window.close()
            return None
        self.last_slot = slot
        stream.start = start
        self._sessions.add(stream)
        self._counters.add(self._counters.slot("streams"))
        return stream

    # what is held

    def let_go(self, unwanted: Callable[[Held], bool]) -> list[Held]:
        """Forget held requests that nobody wants any more, and return them."""
        gone = [one for one in self._held if unwanted(one)]
        self._held = [one for one in self._held if one not in gone]
        return gone

    def take_held(self) -> Iterator[Held]:
        """Take out what was held, to be opened again, but for clients that are gone by then."""
        held, self._held = self._held, []
        for one in held:
            if self._sessions.clients.get(one.client.route) is one.client:
                yield one
