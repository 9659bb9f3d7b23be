"""The pipeline in-process: what the daemon would say, whatever the cuts, and no more read ahead
than its window has room for."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from functools import partial
from itertools import islice, pairwise
from typing import Any

import httpx
import msgspec
import pytest
from fakes.daemon import free_port, in_loop, replaying
from hypothesis import given
from hypothesis import strategies as st

from ringcast.bench import pipeline as bench
from ringcast.broker.credit import BackpressureController
from ringcast.errors import Code, RequestError
from ringcast.providers.http_stream import BodyError, HttpStreamHandler
from ringcast.providers.wire.body import Ending
from ringcast.providers.wire.summary import decode
from ringcast.providers.wire.token_reader import TokenReader
from ringcast.replay.numbered import numbered_events, numbered_tokens
from ringcast.shm.tokens import Done, Error, StreamToken, Summary, Text
from ringcast.workers.pipeline import StreamingPipeline, StreamPipelineBuilder
from ringcast.workers.stream_metrics import NoMetrics, StreamMetrics
from ringcast.workers.token_accumulator import TokenAccumulator
from ringcast.workers.transform import (
    PASS,
    SKIP,
    Replace,
    StreamTransformer,
    TransformResult,
)

PORT = free_port()
BODY = b"".join(numbered_events("chat", 40, 0, clock=False))
BODIES = {
    "chat": BODY,
    "messages": b"".join(numbered_events("messages", 20, 0, clock=False)),
    "native": b'{"message":{"content":"a"}}\n{"message":{"content":"b"},"done":true}\n',
    "generate": b'data: {"candidates":[{"content":{"parts":[{"text":"hi"}]}}]}\n\nrubbish: {',
    "converse": b"\0\0\0\x10 no message of AWS's",
    "invoke": b"\0\0\0\x50\0\0",
    "responses": b'{"error": {"message": "no event stream", "type": "t"}}',
}


class Origin:
    """Chunks that come as fast as they are taken; how many were, and whether it was closed.

    Behind them comes `error`, or with `hang` nothing for ever.
    """

    def __init__(
        self, chunks: Iterable[bytes], error: Exception | None = None, *, hang: bool = False
    ) -> None:
        self.given = 0
        self.news = asyncio.Event()
        self.over = asyncio.Event()
        self._chunks = list(chunks)
        self._error = error
        self._hang = hang

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        try:
            for chunk in self._chunks:
                self.given += 1
                self.news.set()
                yield chunk
            if self._error:
                raise self._error
            if self._hang:
                await asyncio.Event().wait()
        finally:
            self.over.set()

    @property
    def closed(self) -> bool:
        return self.over.is_set()


class Hold(StreamTransformer):
    """Holds every text back until it is due."""

    def __init__(self, ns: int = 0) -> None:
        self.held: list[StreamToken] = []
        self.ns = ns

    def transform(self, token: StreamToken, now_ns: int) -> TransformResult:
        self.held.append(token)
        return SKIP

    def flush(self, now_ns: int) -> list[StreamToken]:
        held, self.held = self.held, []
        return held

    @property
    def due_ns(self) -> int | None:
        return self.ns if self.held else None

    def idle(self, now_ns: int) -> list[StreamToken]:
        return self.flush(now_ns)


class Loud(StreamTransformer):
    """Says everything louder, until it has had enough."""

    def __init__(self, enough: str = "") -> None:
        self.enough = enough

    def transform(self, token: StreamToken, now_ns: int) -> TransformResult:
        if not isinstance(token, Text):
            return PASS
        if token.content == self.enough:
            return Error("internal", "enough")
        return Replace([Text(token.content + "!")])


def cut(body: bytes, size: int) -> list[bytes]:
    return [body[i : i + size] for i in range(0, len(body), size)]


def plain(tokens: list[StreamToken]) -> list[StreamToken]:
    """Tokens without their summary."""
    return [
        msgspec.structs.replace(t, summary=None) if isinstance(t, Done | Error) else t
        for t in tokens
    ]


def texts(tokens: list[StreamToken]) -> list[str]:
    return [token.content for token in tokens if isinstance(token, Text)]


def of(api: str) -> StreamingPipeline:
    return StreamingPipeline(TokenReader(api), NoMetrics())


async def all_of(stream: AsyncIterator[StreamToken]) -> list[StreamToken]:
    return [token async for token in stream]


@given(st.sampled_from(sorted(BODIES)), st.lists(st.integers(0, 4000), max_size=8))
def test_any_cut_gives_what_the_daemon_gives(api: str, cuts: list[int]) -> None:
    body = BODIES[api]
    at = [0, *sorted(cuts), len(body)]
    chunks = [body[start:stop] for start, stop in pairwise(at)]
    pipeline = of(api)
    tokens = [token for chunk in chunks for token in pipeline.process_chunk(chunk)]
    tokens += pipeline.finish()
    assert plain(tokens) == decode(api, [body])
    assert pipeline.finished
    assert pipeline.process_chunk(body) == pipeline.finish() == []


@pytest.mark.parametrize("window", [False, True])
@pytest.mark.parametrize("size", [1, 7, 290, 4096, 1 << 20])
@in_loop
async def test_a_stream_of_chunks(size: int, window: bool) -> None:
    builder = StreamPipelineBuilder().with_model("openai/gpt-4o")
    if window:
        builder.with_backpressure(BackpressureController())
    origin = Origin([b"", *cut(BODY, size)])
    tokens = await all_of(builder.build().process_stream(origin))
    assert plain(tokens) == decode("chat", [BODY])
    assert origin.closed


@in_loop
async def test_the_summary_is_the_streams_own() -> None:
    tokens = await all_of(StreamPipelineBuilder().build().process_stream(Origin([BODY])))
    assert isinstance(tokens[-1], Done)
    summary = tokens[-1].summary
    assert isinstance(summary, Summary)
    assert summary.tokens == len(tokens) - 1
    assert summary.first_token_ms is not None
    assert summary.total_ms is not None
    assert summary.decode_ms is not None
    assert 0 < summary.decode_ms <= summary.total_ms
    assert summary.transform_ms is None
    assert 0 < summary.first_token_ms <= summary.total_ms


def test_times_are_those_of_the_clock() -> None:
    now = iter(range(0, 10**9, 10_000_000))
    metrics = StreamMetrics()
    clock = partial(next, now)
    pipeline = StreamingPipeline(TokenReader("chat"), metrics, [Loud()], clock=clock)
    begun = b"".join(numbered_events("chat", 2, 0, clock=False)).split(b"\n\n")
    pipeline.process_chunk(b"\n\n".join(begun[:2]) + b"\n\n")
    pipeline.process_chunk(begun[2] + b"\n\n")
    said = metrics.snapshot()
    assert (said.streams, said.chunks, said.tokens, said.errors) == (1, 2, 2, 0)
    assert said.first_token.mean_ms == 30.0  # built at 0, read from 10 to 20, transformed at 30
    assert said.gap.mean_ms == 30.0
    assert (said.decode.count, said.decode.mean_ms) == (2, 10.0)
    assert (said.transform.count, said.transform.mean_ms) == (2, 10.0)


@in_loop
async def test_metrics_of_several_streams() -> None:
    builder = StreamPipelineBuilder().enable_metrics()
    pipelines = [builder.build() for _ in range(3)]
    for pipeline in pipelines[:2]:
        await all_of(pipeline.process_stream(Origin(cut(BODY, 4000))))
    await all_of(pipelines[2].process_stream(Origin([BODY[:1000]])))
    said = pipelines[0].metrics.snapshot()
    chunks = 2 * len(cut(BODY, 4000)) + 1
    assert (said.streams, said.chunks, said.errors) == (3, chunks, 1)
    assert said.bytes == 2 * len(BODY) + 1000
    assert said.first_token.count == 3
    assert said.gap.count == said.tokens - 3
    assert said.deliver.count > 3


@pytest.mark.parametrize("window", [False, True])
@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ConnectionResetError(104, "Connection reset by peer"), Code.TRANSPORT, "the connection "),
        (BodyError(Ending("failed", Code.IDLE_TIMEOUT, "nothing")), Code.IDLE_TIMEOUT, "nothing"),
        (RequestError(Code.SHUTTING_DOWN, "bye"), Code.SHUTTING_DOWN, "bye"),
        (TimeoutError("slow"), Code.TRANSPORT, "the connection broke: slow"),
    ],
)
@in_loop
async def test_chunks_that_break_off(
    error: Exception, code: Code, message: str, window: bool
) -> None:
    builder = StreamPipelineBuilder()
    if window:
        builder.with_backpressure(BackpressureController())
    tokens = await all_of(builder.build().process_stream(Origin([BODY[:2000]], error)))
    assert texts(tokens) == list(numbered_tokens(40))[: len(texts(tokens))]
    assert isinstance(tokens[-1], Error)
    assert (len(texts(tokens)) > 2, tokens[-1].code) == (True, code)
    assert tokens[-1].message.startswith(message)


@pytest.mark.parametrize("window", [False, True])
@in_loop
async def test_a_fault_of_the_authors_goes_through(window: bool) -> None:
    builder = StreamPipelineBuilder()
    if window:
        builder.with_backpressure(BackpressureController())
    origin = Origin([BODY[:2000]], KeyError("mine"))
    with pytest.raises(KeyError, match="mine"):
        await all_of(builder.build().process_stream(origin))
    assert origin.closed


@in_loop
async def test_what_comes_behind_the_end_is_not_read() -> None:
    origin = Origin([BODY, b"data: more\n\n"], hang=True)
    tokens = await all_of(StreamPipelineBuilder().build().process_stream(origin))
    assert isinstance(tokens[-1], Done)
    assert (origin.given, origin.closed) == (1, True)


# transformers


@in_loop
async def test_transformers_in_their_order() -> None:
    builder = StreamPipelineBuilder().add_transformer(Loud()).add_transformer(Loud)
    tokens = await all_of(builder.build().process_stream(Origin(cut(BODY, 700))))
    assert texts(tokens) == [text + "!!" for text in numbered_tokens(40)]
    assert isinstance(tokens[-1], Done)


def test_a_transformer_serves_one_stream() -> None:
    StreamPipelineBuilder().add_transformer(Loud).build()
    builder = StreamPipelineBuilder().add_transformer(Loud())
    builder.build()
    with pytest.raises(ValueError, match="Loud serves one stream; give add_transformer a func"):
        builder.build()


@pytest.mark.parametrize("given", [5, "upper", lambda: None])
def test_what_is_no_transformer_is_refused(given: Any) -> None:
    with pytest.raises(TypeError, match="which is and makes no transformer"):
        StreamPipelineBuilder().add_transformer(given).build()


@in_loop
async def test_a_transformer_ends_the_stream() -> None:
    third = list(numbered_tokens(3))[2]
    origin = Origin(cut(BODY, 100), hang=True)
    pipeline = StreamPipelineBuilder().add_transformer(Loud(third)).enable_metrics().build()
    tokens = await all_of(pipeline.process_stream(origin))
    assert texts(tokens) == [text + "!" for text in numbered_tokens(2)]
    assert isinstance(tokens[-1], Error)
    assert tokens[-1].message == "enough"
    assert origin.closed
    assert pipeline.metrics.snapshot().errors == 1


@pytest.mark.parametrize("window", [False, True])
@in_loop
async def test_what_is_held_back_comes_when_it_is_due(window: bool) -> None:
    body = BODY[: BODY.index(b"\n\n", 1500) + 2]
    origin = Origin([body], hang=True)
    builder = StreamPipelineBuilder().add_transformer(Hold())
    if window:
        builder.with_backpressure(BackpressureController())
    stream = builder.build().process_stream(origin)
    said = decode("chat", [body])[:-1]
    assert [await anext(stream) for _ in said] == said
    await stream.aclose()
    assert origin.closed


@in_loop
async def test_a_wait_that_was_given_up_loses_no_chunk() -> None:
    gate = asyncio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        head, tail = BODY[:1500], BODY[1500:]
        yield head
        await gate.wait()
        yield tail

    stream = StreamPipelineBuilder().add_transformer(Hold()).build().process_stream(chunks())
    tokens = [await anext(stream)]
    gate.set()
    tokens += await all_of(stream)
    assert plain(tokens) == decode("chat", [BODY])


@in_loop
async def test_a_slow_stream_is_not_held_back() -> None:
    """The built-in accumulator waits for 20 characters, but not for ever."""
    body = BODY[: BODY.index(b"\n\n", 300) + 2]  # the first token, of 10 characters
    builder = StreamPipelineBuilder().add_transformer(TokenAccumulator(20, 200, idle_ms=1))
    stream = builder.build().process_stream(Origin([body], hang=True))
    assert [await anext(stream)] == decode("chat", [body])[:-1]
    await stream.aclose()


@pytest.mark.parametrize("size", [100, 1000, 1 << 20])
@in_loop
async def test_the_text_is_the_same_in_larger_pieces(size: int) -> None:
    builder = StreamPipelineBuilder().add_transformer(partial(TokenAccumulator, 50, 90))
    tokens = await all_of(builder.build().process_stream(Origin(cut(BODY, size))))
    assert "".join(texts(tokens)) == "".join(numbered_tokens(40))
    assert max(map(len, texts(tokens))) <= 90
    assert isinstance(tokens[-1], Done)


# backpressure


@in_loop
async def test_a_window_is_read_ahead_and_no_more() -> None:
    chunks = cut(BODY, 290)
    window = BackpressureController(1024, 1024, initial=1024)
    origin = Origin(chunks)
    stream = StreamPipelineBuilder().with_backpressure(window).build().process_stream(origin)
    await anext(stream)
    for _ in range(20):  # each round lets the reading task go on until it waits
        await asyncio.sleep(0)
    # The one whose token was taken has released its predecessors; one more waits for room.
    assert window.in_flight <= 1024
    assert 3 <= origin.given <= 6
    rest = await all_of(stream)
    assert isinstance(rest[-1], Done)
    assert window.in_flight == 0


@in_loop
async def test_who_takes_nothing_gets_what_was_read_and_an_error() -> None:
    window = BackpressureController(1024, 1024, initial=1024)
    builder = StreamPipelineBuilder().with_backpressure(window, stall_s=0.05)
    origin = Origin(cut(BODY, 290))
    stream = builder.build().process_stream(origin)
    tokens = [await anext(stream)]
    await origin.over.wait()  # it gives up by itself
    tokens += await all_of(stream)
    assert isinstance(tokens[-1], Error)
    assert (tokens[-1].code, tokens[-1].retryable) == (Code.BACKPRESSURE_TIMEOUT, True)
    assert texts(tokens) == list(numbered_tokens(40))[: len(texts(tokens))]
    assert len(texts(tokens)) >= 2
    assert window.in_flight == 0


@pytest.mark.parametrize("leave", ["close", "cancel"])
@in_loop
async def test_who_leaves_leaves_nothing(leave: str) -> None:
    window = BackpressureController(1024, 1024)
    origin = Origin(cut(BODY, 290), hang=True)
    stream = StreamPipelineBuilder().with_backpressure(window).build().process_stream(origin)
    before = asyncio.all_tasks()
    if leave == "close":
        await anext(stream)
        await stream.aclose()
    else:
        reader = asyncio.create_task(all_of(stream))
        await origin.news.wait()
        reader.cancel()
        await asyncio.wait([reader])
    assert (window.in_flight, origin.closed) == (0, True)
    assert asyncio.all_tasks() == before


@in_loop
async def test_several_share_a_window() -> None:
    window = BackpressureController(2000, 2000, initial=2000)
    builder = StreamPipelineBuilder().with_backpressure(window)
    peak = 0

    async def read() -> list[StreamToken]:
        nonlocal peak
        tokens = []
        async for token in builder.build().process_stream(Origin(cut(BODY, 290))):
            peak = max(peak, window.in_flight)
            tokens.append(token)
            await asyncio.sleep(0)
        return tokens

    for tokens in await asyncio.gather(*(read() for _ in range(4))):
        assert plain(tokens) == decode("chat", [BODY])
    assert 290 < peak <= 2000
    assert window.in_flight == 0


# models


@pytest.mark.parametrize(
    ("model", "options", "api"),
    [
        ("openai/gpt-4o", {}, "chat"),
        ("openai/gpt-5", {"api": "responses"}, "responses"),
        ("anthropic/claude-sonnet-4-5", {}, "messages"),
        ("vertex/claude-sonnet-4-5", {}, "messages"),
        ("vertex/gemini-2.5-pro", {}, "generate"),
        ("bedrock/amazon.nova-pro-v1:0", {"api": "invoke"}, "invoke"),
        ("box/llama", {"kind": "ollama"}, "native"),
    ],
)
def test_the_decoder_of_a_model(
    model: str, options: dict[str, str], api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def reader(name: str) -> TokenReader:
        opened.append(name)
        return TokenReader(name)

    monkeypatch.setattr("ringcast.workers.pipeline.TokenReader", reader)
    build: Callable[..., StreamPipelineBuilder] = StreamPipelineBuilder().with_model
    build(model, **options).build()
    assert opened == [api]


def test_a_model_that_says_nothing() -> None:
    with pytest.raises(ValueError, match=r"'box/llama' names no known provider \(openai, "):
        StreamPipelineBuilder().with_model("box/llama")
    with pytest.raises(RequestError, match="not messages"):
        StreamPipelineBuilder().with_model("openai/gpt-4o", api="messages")


# over a socket


@in_loop
async def test_the_answer_to_a_request() -> None:
    url = f"http://127.0.0.1:{PORT}/v1/chat/completions"
    asked = {"model": "numbered;n=300;cut=1000", "stream": True, "messages": []}
    async with replaying(PORT), httpx.AsyncClient(trust_env=False) as client:
        headers = {"accept-encoding": "identity"}
        async with client.stream("POST", url, json=asked, headers=headers) as response:
            handler = HttpStreamHandler(response)
            stream = (
                StreamPipelineBuilder().build().process_stream(handler.into_stream(), handler.head)
            )
            tokens = await all_of(stream)
    assert texts(tokens) == list(numbered_tokens(300))
    assert isinstance(tokens[-1], Done)


@in_loop
async def test_an_answer_that_is_a_page() -> None:
    page = httpx.Response(200, html="<p>Sign in</p>")
    handler = HttpStreamHandler(httpx.Response(200, headers=page.headers, stream=page.stream))
    pipeline = StreamPipelineBuilder().build()
    (last,) = await all_of(pipeline.process_stream(handler.into_stream(), handler.head))
    assert isinstance(last, Error)
    assert last.code == Code.NOT_EVENT_STREAM
    assert "text/html" in last.message


# memory


def test_a_long_stream_leaves_nothing_behind() -> None:
    pipeline = StreamPipelineBuilder().enable_metrics().build()
    events = numbered_events("chat", 0, 0, clock=False)

    def take(tokens: int) -> int:
        got = sum(len(pipeline.process_chunk(event)) for event in islice(events, tokens))
        gc.collect()
        return got

    tracemalloc.start()
    try:
        take(2000)
        before = tracemalloc.get_traced_memory()[0]
        assert take(4000) == 4000
        assert tracemalloc.get_traced_memory()[0] - before < 4096
    finally:
        tracemalloc.stop()


def test_the_bench_measures_what_is_right(capsys: pytest.CaptureFixture[str]) -> None:
    results = bench.run(json=True, tokens=300, many=10_000)
    assert msgspec.json.decode(capsys.readouterr().out) == results
    assert results["token"]["blocks"] == pytest.approx(2, abs=0.1)  # itself and its text
    assert results["flat"]["traced_bytes_grown"] < 4096


def test_the_bench_finds_what_is_wrong() -> None:
    reads = [bench._event(0), bench._event(2)]
    with pytest.raises(AssertionError, match="changed the texts"):
        bench._speed(StreamPipelineBuilder(), reads, bench._by_chunk)
    with pytest.raises(AssertionError, match="lost tokens"):
        bench._speed(StreamPipelineBuilder(), reads[:1], lambda *_: [])
