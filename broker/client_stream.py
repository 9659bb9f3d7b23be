"""The stream that a caller of the client iterates over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final, Self

from ringcast.broker.exchange import Exchange
from ringcast.broker.inbox import Inbox
from ringcast.shm.answer import Answer, joined
from ringcast.shm.tokens import StreamToken

# Tokens processed before credit is given at once; what is less waits for the next beat, so
# that a thousand slow streams cost a few frames a second and not one a token.
PROMPT_TOKENS: Final = 64


class ClientStream:
    """A stream of tokens: iterate over it. `seq` is the number of the last token taken.

    The iteration ends after the terminal token, `Done` or `Error`. It raises `RequestError`
    when this reader was cut off (slow_consumer) and `ConnectionLost` when the daemon is gone.
    """

    def __init__(self, exchange: Exchange, inbox: Inbox) -> None:
        """Made by `Client.chat`, `complete` and `attach`."""
        self.seq = inbox.next - 1
        self._exchange = exchange
        self._inbox = inbox
        inbox.arrived = self._wake
        self._batch: list[StreamToken] = []
        self._index = 0
        self._granted = inbox.next
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None

    @property
    def id(self) -> bytes:
        """What the daemon knows it by, 16 bytes; `Client.attach` takes it."""
        return self._inbox.id

    @property
    def provider(self) -> str:
        """The provider that was asked for, or `route`."""
        return self._inbox.provider

    @property
    def model(self) -> str:
        """The provider's model, or the name of the route."""
        return self._inbox.model

    def __aiter__(self) -> Self:
        """Iterate over tokens."""
        return self

    async def __anext__(self) -> StreamToken:
        """Return the next token, waiting for it."""
        while True:
            index = self._index
            if index < len(self._batch):
                self._index = index + 1
                self.seq += 1
                return self._batch[index]
            if waits := self._inbox.waits:
                return waits.pop(0)
            if not await self._refill():
                raise StopAsyncIteration

    async def batches(self) -> AsyncIterator[list[StreamToken]]:
        """Iterate over tokens as they came, a list at a time (cheaper than one by one)."""
        while True:
            batch = self._batch[self._index :]
            if batch:
                self._index = len(self._batch)
                self.seq += len(batch)
                yield batch
            if waits := self._inbox.waits:
                self._inbox.waits = []
                yield waits
            if not await self._refill():
                return

    async def answer(self) -> Answer:
        """Read to the end, and return all tokens from here on as one answer."""
        tokens = [token async for batch in self.batches() for token in batch]
        return joined(tokens, f"{self.provider}/{self.model}")

    async def cancel(self) -> None:
        """End the stream for everybody; its last token will be `Error(cancelled)`."""
        self._exchange.cancel(self._inbox)

    async def detach(self) -> None:
        """Stop reading; the stream goes on until its lease ends, and can be attached again."""
        self._exchange.detach(self._inbox)

    async def _refill(self) -> bool:
        """Take the next batch; return False after the last one."""
        self._give_credit()
        inbox = self._inbox
        while not inbox.batches:
            if inbox.waits:
                return True
            if inbox.ended:
                return False
            if inbox.failure is not None:
                raise inbox.failure
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._batch = inbox.take()
        self._index = 0
        return True

    def _give_credit(self) -> None:
        processed = self.seq + 1
        if processed > self._granted:
            prompt = processed - self._granted >= PROMPT_TOKENS or self._inbox.ended
            self._exchange.credit(self._inbox, processed, prompt=prompt)
            if prompt:
                self._granted = processed

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
