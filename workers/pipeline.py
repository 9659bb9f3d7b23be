"""The library without a daemon: bytes of a provider's answer in, tokens out, in this process.

pipeline = StreamPipelineBuilder().with_model("openai/gpt-4o").build()
async for token in pipeline.process_stream(chunks):
    ...

Framers, decoders, transformers, windows and metrics are the daemon's own classes.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Final, Self, TypeAlias

import msgspec

from ringcast.config import Provider
from ringcast.errors import Code, ConfigError, RingcastError
from ringcast.providers import kinds, request
from ringcast.providers.http_stream import BodyError
from ringcast.providers.request import Api
from ringcast.providers.wire.body import Ending
from ringcast.providers.wire.sse import Bytes
from ringcast.providers.wire.token_reader import TokenReader
from ringcast.shm.tokens import Done, Error, StreamToken
from ringcast.workers.read_ahead import STALL_S, InStep, ReadAhead, Window
from ringcast.workers.stream_metrics import Metrics, NoMetrics, Stopwatch, StreamMetrics
from ringcast.workers.transform import StreamTransformer
from ringcast.workers.transforms import Transforms

Source: TypeAlias = InStep | ReadAhead
OpenSource: TypeAlias = Callable[[AsyncIterable[bytes]], AbstractAsyncContextManager[Source]]
MakeTransformer: TypeAlias = Callable[[], StreamTransformer]

_TERMINAL: Final = (Done, Error)
# A caller's word is not needed to choose a decoder, but the form of a request is.
_ANYTHING: Final = [{"role": "user", "content": ""}]


class StreamingPipeline:
    """Turns one body into tokens, the last of them `Done` or `Error` with the stream's `summary`.

    Its times run from when it was built: build it just before the request is sent.
    """

    def __init__(
        self,
        reader: TokenReader,
        metrics: Metrics,
        chain: Sequence[StreamTransformer] = (),
        source: OpenSource = InStep,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """`StreamPipelineBuilder` puts one together; `clock` gives nanoseconds."""
        self.metrics = metrics
        self.finished = False  # set with the terminal token
        self._reader = reader
        self._transforms = Transforms(chain) if chain else None
        self._source = source
        self._clock = clock
        self._watch = Stopwatch(metrics, clock())

    async def process_stream(
        self, chunks: AsyncIterable[bytes], head: Ending | None = None
    ) -> AsyncGenerator[StreamToken, None]:
        """Yield the tokens of a body, cut anywhere into `chunks`; at the end they are closed.

        `head` says how a body ends that ends by itself (`HttpStreamHandler.head`). One that breaks
        off with `BodyError`, another `RingcastError` or `OSError` ends with `Error`; whatever else
        `chunks` raises is their author's affair and goes through.
        """
        async with self._source(chunks) as source:
            while not self.finished:
                chunk = await self._take(source, head or Ending())
                tokens = self.finish(chunk) if isinstance(chunk, Ending) else self._process(chunk)
                handed_ns = self._clock()
                for token in tokens:
                    yield token
                if tokens:
                    self.metrics.took("deliver", self._clock() - handed_ns)
                if not isinstance(chunk, Ending):
                    source.done(len(chunk))

    def process_chunk(self, chunk: Bytes) -> list[StreamToken]:
        """Return the tokens that `chunk` completes; say `finish` after the last one."""
        if self.finished:
            return []
        began_ns = self._clock()
        tokens = self._reader.read(chunk)
        return self._transformed(tokens, began_ns, len(chunk))

    def finish(self, ending: Ending | None = None) -> list[StreamToken]:
        """Return the last tokens of a body that ended by itself, or as `ending` says."""
        if self.finished:
            return []
        began_ns = self._clock()
        return self._transformed(self._reader.end(ending), began_ns)

    def idle(self) -> list[StreamToken]:
        """Return what transformers have held back for long enough; `process_stream` sees to it."""
        if self._transforms is None or self._transforms.due_ns is None:
            return []
        now_ns = self._clock()
        return self._counted(self._transforms.idle(now_ns), now_ns)

    def _process(self, chunk: bytes) -> list[StreamToken]:
        tokens = self.process_chunk(chunk) if chunk else []
        late = self.idle()
        return tokens + late if late else tokens

    async def _take(self, source: Source, head: Ending) -> bytes | Ending:
        """Return the next chunk, nothing if a transformer cannot wait for it, or how all ended."""
        due_ns = None if self._transforms is None else self._transforms.due_ns
        patience_s = None if due_ns is None else max(0, due_ns - self._clock()) / 1e9
        try:
            chunk = await source.take(patience_s)
        except (RingcastError, OSError) as error:
            return _ending(error)
        return head if chunk is None else chunk

    def _transformed(
        self, tokens: list[StreamToken], began_ns: int, size: int = 0
    ) -> list[StreamToken]:
        now_ns = self._clock()
        self._watch.decoded(now_ns - began_ns, size)
        if self._transforms is not None and tokens:
            decoded_ns = now_ns
            tokens = self._transforms.feed(tokens, decoded_ns)
            now_ns = self._clock()
            self._watch.transformed(now_ns - decoded_ns)
        return self._counted(tokens, now_ns)

    def _counted(self, tokens: list[StreamToken], now_ns: int) -> list[StreamToken]:
        """Count tokens, and put the stream's figures into the terminal one."""
        if not tokens:
            return tokens
        if type(end := tokens[-1]) not in _TERMINAL:
            self._watch.emitted(len(tokens), now_ns)
            return tokens
        assert isinstance(end, Done | Error)
        self.finished = True
        if isinstance(end, Error):
            self.metrics.failed()
        if len(tokens) > 1:
            self._watch.emitted(len(tokens) - 1, now_ns)
        summary = self._watch.summary(now_ns, self._reader.oddities)
        return [*tokens[:-1], msgspec.structs.replace(end, summary=summary)]


class StreamPipelineBuilder:
    """Puts a pipeline together, step by step; `build` one for each stream."""

    def __init__(self) -> None:
        """Begin with the form that most servers speak, OpenAI's chat, and nothing else."""
        self._api: Api = "chat"
        self._transformers: list[StreamTransformer | MakeTransformer] = []
        self._used = False
        self._source: OpenSource = InStep
        self._metrics: Metrics = NoMetrics()

    def with_model(self, model: str, *, api: Api | None = None, kind: str | None = None) -> Self:
        """Read the answers of `PROVIDER/model`, by another API than its main one if `api` is given.

        `kind` is what the provider is if it is not called so. Raises `ValueError` for none that is
        known, `RequestError` for an API that it does not have.
        """
        named = kind or model.partition("/")[0]
        asked = request.of(model=model, api=api, messages=_ANYTHING)
        try:
            self._api = kinds.vendor(Provider(named, "http://unasked")).api(asked)
        except ConfigError as error:
            known = ", ".join(kinds.names())
            text = f"{model!r} names no known provider ({known}), and no kind is given"
            raise ValueError(text) from error
        return self

    def add_transformer(self, transformer: StreamTransformer | MakeTransformer) -> Self:
        """Put a transformer behind those so far, or a function that makes one for each stream."""
        self._transformers.append(transformer)
        return self

    def with_backpressure(self, window: Window, stall_s: float = STALL_S) -> Self:
        """Read ahead of who takes the tokens, by as many bytes as `window` has permits.

        Pipelines that share one share its permits. Who takes nothing for `stall_s` seconds while
        more comes gets what was read, and then `Error` backpressure_timeout.
        """
        self._source = partial(ReadAhead, window=window, stall_s=stall_s)
        return self

    def enable_metrics(self, metrics: StreamMetrics | None = None) -> Self:
        """Tell `metrics`, or new ones, of every stream; see `StreamingPipeline.metrics`."""
        self._metrics = metrics or StreamMetrics()
        return self

    def build(self) -> StreamingPipeline:
        """Return a pipeline for one stream.

        Raises `ValueError` if another one has a transformer that was given itself, `TypeError` for
        what is no transformer and makes none.
        """
        fixed = [one for one in self._transformers if isinstance(one, StreamTransformer)]
        if fixed and self._used:
            text = "serves one stream; give add_transformer a function that makes one for each"
            raise ValueError(f"{type(fixed[0]).__name__} {text}")
        self._used = True
        chain = [_transformer(one) for one in self._transformers]
        return StreamingPipeline(TokenReader(self._api), self._metrics, chain, self._source)


def _transformer(given: StreamTransformer | MakeTransformer) -> StreamTransformer:
    if isinstance(given, StreamTransformer):
        return given
    made = given() if callable(given) else given
    if not isinstance(made, StreamTransformer):
        raise TypeError(f"add_transformer was given {given!r}, which is and makes no transformer")
    return made


def _ending(error: RingcastError | OSError) -> Ending:
    """Say how a body ended whose chunks raised `error`."""
    if isinstance(error, BodyError):
        return error.ending
    if isinstance(error, OSError):
        return Ending("reset", message=f"the connection broke: {error.strerror or error}")
    said: Any = error  # those that tell a peer or a reader from ourselves have a code
    code = getattr(said, "code", Code.INTERNAL)
    return Ending("failed", code, getattr(said, "message", str(said)))
