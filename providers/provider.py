"""A provider in this process, without a daemon: nine methods over one configured upstream.

async with Provider("openai") as openai:
    answer = await openai.chat("gpt-4o", [{"role": "user", "content": "hi"}])
    async for token in openai.chat_stream("gpt-4o", answer.message() …):
        ...
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from types import TracebackType
from typing import Any, Final, Self

import httpx
import msgspec

from ringcast import config as settings
from ringcast.config import Config
from ringcast.errors import ConfigError, RingcastError
from ringcast.providers import credentials, inquiry, request
from ringcast.providers.count import TokenCount
from ringcast.providers.gateway import Gateway, open_gateway
from ringcast.providers.http.clocks import Clocks
from ringcast.providers.http.transport import open_client
from ringcast.providers.http_stream import BodyError, HttpStreamHandler
from ringcast.providers.inquiry import Health
from ringcast.providers.lookout import Lookout, RanOut
from ringcast.providers.request import Json
from ringcast.providers.response_ending import connection_ending
from ringcast.providers.traffic.failure import of_error
from ringcast.providers.traffic.retry import Again, RetryBudget, RetryPolicy
from ringcast.providers.vendor import AnyRequest, Capabilities, Model
from ringcast.providers.wire.body import Ending
from ringcast.providers.wire.token_reader import TokenReader
from ringcast.shm.answer import Answer, joined
from ringcast.shm.tokens import Error, StreamToken

_chance: Final = random.Random()


class AnswerError(RingcastError):
    """The provider did not answer well; `answer` has the error and what was said before it."""

    def __init__(self, answer: Answer) -> None:
        assert answer.error is not None
        super().__init__(f"{answer.error.code}: {answer.error.message}")
        self.code = answer.error.code
        self.answer = answer


class Provider:
    """One upstream by its name in the configuration, or of a kind of that name. Enter it first.

    What fails before its first token is sent again by the same rules as in a daemon (`[retry]`).
    """

    def __init__(
        self,
        name: str,
        config: settings.Provider | None = None,
        *,
        key: str | None = None,
        rest: Config | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`config` is a provider's section, `rest` the tree with limits and clocks.

        `key` overrules what the section says of one. Raises `ConfigError` for a name that is not
        configured, and naming what was looked at where a key is missing.
        """
        tree = rest or Config()
        if config is not None:
            tree = msgspec.structs.replace(tree, providers=tree.providers | {name: config})
        environment = os.environ if environment is None else environment
        self._config = settings.complete(tree)
        known = self._config.providers
        if name not in known:
            raise ConfigError(f"no provider {name!r}; known are {', '.join(sorted(known))}")
        self._name = name
        self._gateway: Gateway = open_gateway(name, known[name], environment, key)
        self._policy = RetryPolicy(self._config.retry)
        self._budget = RetryBudget(self._config.retry)

    async def __aenter__(self) -> Self:
        """Be ready to connect."""
        self._client = open_client(self._config)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close every connection."""
        await self._client.aclose()

    @property
    def name(self) -> str:
        """What it is called in the configuration."""
        return self._name

    async def health_check(self) -> Health:
        """Return whether it answers and takes our key."""
        return await inquiry.health(self._client, self._gateway, self._config)

    async def list_models(self) -> list[Model]:
        """Return its models. Raises `RequestError`."""
        return await inquiry.models(self._client, self._gateway, self._config)

    async def count_tokens(
        self,
        model: str,
        messages: list[Json] | None = None,
        *,
        prompt: str | None = None,
        **options: Any,
    ) -> TokenCount:
        """Return how many tokens a request has. Raises `RequestError`."""
        asked = self._asked(model, messages=messages, prompt=prompt, **options)
        return await inquiry.count(self._client, self._gateway, self._config, model, asked)

    def capabilities(self, model: str = "") -> Capabilities:
        """Return what can be asked for, of a certain model as far as its name tells."""
        return self._gateway.vendor.capabilities(model)

    async def chat(self, model: str, messages: list[Json], **options: Any) -> Answer:
        """Return the next message of a conversation, sent in one piece.

        `options` are the request's other fields. Raises `RequestError` for what cannot be asked,
        `AnswerError` if the provider fails.
        """
        return await self._answer(model, self._asked(model, messages=messages, **options))

    def chat_stream(
        self, model: str, messages: list[Json], **options: Any
    ) -> AsyncIterator[StreamToken]:
        """Yield the next message's tokens; the last is `Done` or `Error`. Raises `RequestError`."""
        return self._tokens(model, self._asked(model, messages=messages, **options))

    async def complete(self, model: str, prompt: str, **options: Any) -> Answer:
        """Return the continuation of a text; see `chat`."""
        return await self._answer(model, self._asked(model, prompt=prompt, **options))

    def complete_stream(
        self, model: str, prompt: str, **options: Any
    ) -> AsyncIterator[StreamToken]:
        """Yield the continuation's tokens; see `chat_stream`."""
        return self._tokens(model, self._asked(model, prompt=prompt, **options))

    def _asked(self, model: str, **fields: Any) -> AnyRequest:
        asked = request.of(model=f"{self._name}/{model}", **fields)
        if asked.transforms:
            why = "goes with a daemon; here, give transformers to a StreamPipelineBuilder"
            raise request.refuse("transforms", why)
        return asked

    async def _answer(self, model: str, asked: AnyRequest) -> Answer:
        whole = msgspec.structs.replace(asked, stream=False)
        answer = joined([token async for token in self._tokens(model, whole)], asked.model)
        if answer.error is not None:
            raise AnswerError(answer)
        return answer

    async def _tokens(self, model: str, asked: AnyRequest) -> AsyncIterator[StreamToken]:
        """Yield the tokens of the first sending of which any was seen; see `retry`."""
        total_s = self._config.timeouts.total_s
        deadline = time.monotonic() + (total_s or math.inf)
        self._budget.first(time.monotonic())
        for sent in itertools.count(1):
            failed: Error | None = None
            async with aclosing(self._sent(model, asked)) as tokens:
                first = await anext(tokens)
                if isinstance(first, Error):
                    failed = first
                else:
                    yield first
                    async for token in tokens:
                        yield token
            if failed is None:
                return
            decision = self._policy.decide(
                sent, of_error(failed), time.monotonic(), deadline, self._budget, _chance
            )
            if not isinstance(decision, Again):
                yield failed
                return
            await asyncio.sleep(decision.pause_s)

    async def _sent(self, model: str, asked: AnyRequest) -> AsyncGenerator[StreamToken, None]:
        limits, gateway = self._config.limits, self._gateway
        api, call = gateway.shape(model, asked)
        reader = TokenReader(
            api,
            kind=gateway.config.kind,
            compat=asked.compat or "",
            max_line_bytes=limits.max_line_bytes,
            max_event_bytes=limits.max_event_bytes,
        )
        clocks = Clocks(self._config.timeouts, time.monotonic())
        try:
            outgoing = gateway.request(self._client, call)
            async with Lookout(clocks):
                response = await credentials.send(self._client, outgoing, gateway.credential)
            stream = HttpStreamHandler(response, self._config, gateway.credential, clocks)
            async with aclosing(stream.into_stream()) as chunks:
                async for chunk in chunks:
                    for token in reader.read(chunk):
                        clocks.token_seen()
                        yield token
                    if reader.finished:
                        return
            ending = stream.head
        except BodyError as error:
            ending = error.ending
        except RanOut as error:
            ending = Ending("failed", error.code, error.message)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            ending = connection_ending(error, self._config.timeouts)
        for token in reader.end(ending):
            yield token
