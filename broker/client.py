"""The asyncio client. Needs pyzmq and msgspec, and nothing of the daemon's own weight.

async with ringcast.connect() as rc:
    stream = await rc.chat(model="openai/gpt-4o", messages=[{"role": "user", "content": "hi"}])
    async for token in stream:
        ...
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from ringcast import rundir
from ringcast.broker import protocol
from ringcast.broker.client_stream import ClientStream
from ringcast.broker.connection import Connection
from ringcast.broker.inbox import Inbox

__all__ = ["Client", "ClientStream", "connect"]

PROVIDER_S: Final = 60.0  # what asks a provider: the daemon gives up before, and says why


def connect(run_dir: Path | str | None = None, *, name: str = "") -> Client:
    """Return a client of the daemon in `run_dir` (this user's by default), to be entered."""
    return Client(Path(run_dir) if run_dir else rundir.default(), name=name)


class Client:
    """One connection to a daemon, for any number of streams. Enter it before use."""

    def __init__(self, run_dir: Path, *, name: str = "") -> None:
        """`run_dir` is the daemon's; `name` is shown in its status."""
        self.run_dir = run_dir
        self.name = name or Path(sys.argv[0]).name

    async def __aenter__(self) -> Self:
        """Connect. Raises `NotRunning` if no daemon serves the directory."""
        rundir.running(self.run_dir)
        self._connection = Connection(self.name, asyncio.get_running_loop())
        await self._connection.open(self.run_dir)
        self._exchange = self._connection.exchange
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Disconnect. Streams go on until their leases end."""
        self._connection.close()

    @property
    def daemon(self) -> str:
        """The name of the broker that has answered; its successor has another."""
        return self._connection.daemon

    async def chat(
        self,
        model: str,
        messages: list[dict[str, Any]],
        *,
        window: int = 0,
        waiting: bool = False,
        **options: Any,
    ) -> ClientStream:
        """Start a chat with `model`: "PROVIDER/model", or the name of a route.

        `options` are the request's other fields (max_tokens, temperature, tools, extra, …). With
        `waiting`, the stream has `Waiting` tokens too. Raises `RequestError` if the daemon refuses.
        """
        return await self._open({"model": model, "messages": messages, **options}, window, waiting)

    async def complete(
        self, model: str, prompt: str, *, window: int = 0, waiting: bool = False, **options: Any
    ) -> ClientStream:
        """Have a text continued, by the first API of the provider that takes a prompt."""
        return await self._open({"model": model, "prompt": prompt, **options}, window, waiting)

    async def attach(
        self, stream: bytes | str, *, after: int = -1, window: int = 0
    ) -> ClientStream:
        """Read a stream from the token after number `after`, whoever opened it.

        Raises `RequestError`: unknown_stream, offset_gone, bad_offset.
        """
        inbox = Inbox(self._exchange.number(), after, window)
        return await self._read(inbox, protocol.Attach(inbox.handle, _id(stream), after, window))

    async def cancel(self, stream: bytes | str) -> None:
        """End a stream for everybody."""
        self._exchange.say(protocol.Cancel(_id(stream)))

    async def models(self, provider: str = "") -> dict[str, Any]:
        """Return what a provider lists, or all of them; see `protocol.Models`.

        Raises `RequestError` with the provider's reason if that one does not tell.
        """
        question = protocol.Models(self._exchange.number(), provider)
        return await self._connection.ask(question, PROVIDER_S)

    async def count(
        self,
        model: str,
        messages: list[dict[str, Any]] | None = None,
        *,
        prompt: str | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Return how many tokens a request has: {"tokens", "accuracy"}.

        Raises `RequestError` if it is none, or with the provider's reason.
        """
        asked = {"model": model, "messages": messages, "prompt": prompt, **options}
        question = protocol.Count(self._exchange.number(), _raw(asked))
        return await self._connection.ask(question, PROVIDER_S)

    async def health(self, provider: str = "") -> dict[str, Any]:
        """Return whether a provider is well, or each of them; see `protocol.Health`."""
        question = protocol.Health(self._exchange.number(), provider)
        return await self._connection.ask(question, PROVIDER_S)

    async def capabilities(self, model: str) -> dict[str, Any]:
        """Return what a provider can be asked for, by its name or for one "PROVIDER/model"."""
        provider, _, name = model.partition("/")
        question = protocol.Capabilities(self._exchange.number(), provider, name)
        return await self._connection.ask(question)

    async def status(self) -> dict[str, Any]:
        """Return what the daemon does: clients, streams, counters of every process."""
        return await self._connection.ask(protocol.Status(self._exchange.number()))

    async def _open(self, request: dict[str, Any], window: int, waits: bool) -> ClientStream:
        inbox, stream = Inbox(self._exchange.number(), -1, window), os.urandom(protocol.ID_BYTES)
        return await self._read(
            inbox, protocol.Open(inbox.handle, _raw(request), window, stream, waits)
        )

    async def _read(self, inbox: Inbox, request: protocol.Open | protocol.Attach) -> ClientStream:
        stream = ClientStream(self._exchange, inbox)
        await self._connection.subscribe(inbox, request)
        return stream


def _id(stream: bytes | str) -> bytes:
    return bytes.fromhex(stream) if isinstance(stream, str) else stream


def _raw(request: dict[str, Any]) -> msgspec.Raw:
    return msgspec.Raw(protocol.encode(request))
