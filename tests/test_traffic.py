"""Whether, when and where a request goes: the real daemon against providers that fail."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import msgspec
import pytest
from fakes.daemon import Daemon, ask, daemon, free_port, in_loop, take, texts

from ringcast.errors import Code, RequestError
from ringcast.shm.tokens import Done, Error, Reasoning, StreamToken, Waiting

HELLO = (
    b'data: {"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
    b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"hello"}}]}\n\n'
    b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":1000,"completion_tokens":500}}\n\n'
    b"data: [DONE]\n\n"
)
ROLE = HELLO[: HELLO.index(b"\n\n") + 2]
OVERLOADED = b'data: {"error":{"message":"The engine is overloaded","type":"overloaded_error"}}\n\n'


class Answer(msgspec.Struct, frozen=True):
    """What an upstream says once; `cut` hangs up behind it, `after_s` is how long it takes."""

    status: int = 200
    body: bytes = HELLO
    headers: dict[str, str] = {}
    cut: bool = False
    after_s: float = 0.0


class Upstream:
    """Says its answers one after the other, and the last of them for ever."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.bodies: list[bytes] = []
        self.keys: list[str] = []
        self.at_once = self.most_at_once = 0
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Be one connection."""
        self.writers.append(writer)
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the daemon has hung up
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0] or 0)
        self.bodies.append(await reader.readexactly(length))
        self.keys.append(head.partition("authorization: bearer ")[2].partition("\r\n")[0])
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(answer.after_s)
        finally:
            self.at_once -= 1
        kind = "text/event-stream" if answer.status == 200 else "application/json"
        headers = {"content-type": kind, **answer.headers}
        lines = [f"HTTP/1.1 {answer.status} X", *(f"{k}: {v}" for k, v in headers.items())]
        size = len(answer.body) + answer.cut
        writer.write("\r\n".join([*lines, f"content-length: {size}", "", ""]).encode())
        writer.write(answer.body)
        await writer.drain()
        return not answer.cut


def failing(status: int, **headers: str) -> Answer:
    """A refusal."""
    body = b'{"error":{"message":"not now","type":"x"}}'
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, body, named)


@asynccontextmanager
async def upstream(port: int, *answers: Answer) -> AsyncIterator[Upstream]:
    """Serve `answers` on `port`."""
    served = Upstream(*answers)
    server = await asyncio.start_server(served.serve, "127.0.0.1", port)
    try:
        yield served
    finally:
        server.close()
        for writer in served.writers:  # kept connections are not for the next one
            writer.close()


FIRST, SECOND = free_port(), free_port()
CONFIG = f"""
[providers.up]
kind = "openai"
base_url = "http://127.0.0.1:{FIRST}/v1"
[providers.other]
kind = "openai"
base_url = "http://127.0.0.1:{SECOND}/v1"
[providers.keyed]
kind = "openai"
base_url = "http://127.0.0.1:{FIRST}/v1"
keys = [{{env = "KEY_ONE"}}, {{env = "KEY_TWO"}}]
[providers.narrow]
kind = "openai"
base_url = "http://127.0.0.1:{FIRST}/v1"
concurrency = 2
[routes.fast]
try = ["up/m", "other/n"]
[routes.refused]
try = ["up/r", "other/r"]
[routes.split]
try = ["up/split"]
transforms = [{{name = "think_tags"}}]
[retry]
pause_s = 0.05
budget_least = 1000
[queue]
length = 4
"""
PATIENT = "[breaker]\nfailures = 1000\nleast_calls = 1000\n"
STRICT = "[breaker]\nfailures = 4\nopen_s = 2\n"


@contextmanager
def fresh(more: str = "", **variables: str) -> Iterator[Daemon]:
    """A daemon whose providers have not failed yet."""
    with daemon(CONFIG + more, KEY_ONE="first", KEY_TWO="second", **variables) as running:
        yield running


@pytest.fixture(scope="module")
def shared() -> Iterator[Daemon]:
    """A daemon for what leaves nothing behind."""
    with fresh(PATIENT) as running:
        yield running


NUMBERS = itertools.count()


def new_model(provider: str = "up") -> str:
    """A model that was never asked: what a limiter knows of one says nothing about another."""
    return f"{provider}/m{next(NUMBERS)}"


async def asked(running: Daemon, model: str = "", **options: object) -> list[StreamToken]:
    """All tokens of one chat, by default with a model that was never asked."""
    async with running.connect() as client:
        return await take(await ask(client, model or new_model(), **options))


def done(tokens: list[StreamToken]) -> Done:
    """The last token, which must be no error."""
    assert texts(tokens) == ["hello"], tokens
    last = tokens[-1]
    assert isinstance(last, Done)
    return last


def error(tokens: list[StreamToken]) -> Error:
    """The only token."""
    assert len(tokens) == 1, tokens
    assert isinstance(tokens[0], Error)
    return tokens[0]


@pytest.mark.parametrize(
    "fault",
    [
        failing(500),
        failing(503, retry_after_ms="20"),
        failing(529),
        failing(408),
        failing(409),
        failing(400, x_should_retry="true"),
        Answer(cut=True, body=b""),
        Answer(cut=True, body=ROLE),
        Answer(body=OVERLOADED),
        Answer(body=b""),
    ],
    ids=[
        "500",
        "503",
        "529",
        "408",
        "409",
        "told to",
        "no body",
        "role only",
        "in-stream",
        "empty",
    ],
)
def test_what_passes_is_tried_again_before_the_first_token(shared: Daemon, fault: Answer) -> None:
    async def run() -> None:
        async with upstream(FIRST, fault, fault, Answer()) as up:
            model = new_model()
            summary = done(await asked(shared, model)).summary
            assert summary is not None
            assert summary.attempts == 3
            assert summary.served_by == model
            assert summary.waited_ms
            assert len(up.bodies) == 3
            assert len(set(up.bodies)) == 1

    in_loop(run)()


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (failing(401), Code.AUTH),
        (failing(404), Code.MODEL_NOT_FOUND),
        (failing(400), Code.BAD_REQUEST),
        (failing(503, x_should_retry="false"), Code.OVERLOADED),
        (
            Answer(429, b'{"error":{"message":"pay","code":"insufficient_quota"}}'),
            Code.BILLING,
        ),
    ],
)
def test_what_will_not_pass_is_told_at_once(shared: Daemon, fault: Answer, code: Code) -> None:
    async def run() -> None:
        async with upstream(FIRST, fault) as up:
            assert error(await asked(shared)).code == code
            assert len(up.bodies) == 1

    in_loop(run)()


def test_the_last_failure_is_told_as_the_provider_said_it(shared: Daemon) -> None:
    async def run() -> None:
        async with upstream(FIRST, failing(500)) as up:
            last = error(await asked(shared))
            assert (last.code, last.status, last.message) == (Code.HTTP_STATUS, 500, "not now")
            assert last.retryable
            assert last.summary is not None
            assert last.summary.attempts == 3
            assert len(up.bodies) == 3

    in_loop(run)()


def test_an_error_within_a_stream_is_told_whole_when_it_stays(shared: Daemon) -> None:
    async def run() -> None:
        async with upstream(FIRST, Answer(body=OVERLOADED)) as up:
            last = error(await asked(shared))
            assert last.code == Code.PROVIDER_ERROR
            assert last.type == "overloaded_error"
            assert len(up.bodies) == 3

    in_loop(run)()


def test_nothing_is_sent_again_once_a_token_was_seen(shared: Daemon) -> None:
    async def run() -> None:
        begun = HELLO[: HELLO.index(b'data: {"id":"c","choices":[{"index":0,"delta":{},')]
        async with upstream(FIRST, Answer(cut=True, body=begun)) as up:
            tokens = await asked(shared)
            assert texts(tokens) == ["hello"]
            assert isinstance(tokens[-1], Error)
            assert tokens[-1].code == Code.STREAM_INCOMPLETE
            assert len(up.bodies) == 1

    in_loop(run)()


def test_a_provider_that_asks_for_a_while_gets_it_and_the_client_is_told(shared: Daemon) -> None:
    async def run() -> None:
        async with upstream(FIRST, failing(429, retry_after="1"), Answer(after_s=0.3)) as up:
            began = time.monotonic()
            first, *rest = await asked(shared, waiting=True)
            assert time.monotonic() - began > 1
            assert isinstance(first, Waiting)
            assert 1 <= first.seconds < 3
            waits = [token for token in rest if isinstance(token, Waiting)]
            assert waits[-1] == Waiting("", 0.0)
            done([token for token in rest if not isinstance(token, Waiting)])
            assert len(up.bodies) == 2

    in_loop(run)()


def test_a_provider_that_asks_for_ten_years_is_not_waited_for(shared: Daemon) -> None:
    async def run() -> None:
        async with upstream(FIRST, failing(429, retry_after="315360000")) as up:
            last = error(await asked(shared))
            assert last.code == Code.RATE_LIMITED
            assert "315360000 s, limit 120 (retry.max_retry_after_s)" in last.message
            assert len(up.bodies) == 1

    with fresh() as running:
        shared = running
        in_loop(run)()


def test_a_route_goes_on_to_the_next_model_and_says_which_one_served(shared: Daemon) -> None:
    async def run() -> None:
        async with upstream(FIRST, failing(500)) as up, upstream(SECOND, Answer()) as other:
            last = done(await asked(shared, "fast"))
            assert last.summary is not None
            assert last.summary.served_by == "other/n"
            assert len(up.bodies) == len(other.bodies) == 1
            assert b'"model":"n"' in other.bodies[0]
        async with upstream(FIRST, Answer()):
            last = done(await asked(shared, "fast"))
            assert last.summary is not None
            assert last.summary.served_by == "up/m"

    in_loop(run)()


def test_a_route_has_transforms_for_requests_that_name_none(shared: Daemon) -> None:
    async def run() -> None:
        thought = HELLO.replace(b"hello", b"<think>well</think>hello")
        async with upstream(FIRST, Answer(body=thought)):
            tokens = await asked(shared, "split")
            done(tokens)
            assert [one.content for one in tokens if isinstance(one, Reasoning)] == ["well"]
            named = await asked(shared, "split", transforms=[{"name": "accumulate"}])
            assert texts(named) == ["<think>well</think>hello"]

    in_loop(run)()


def test_questions_about_a_route_are_about_its_first_model(shared: Daemon) -> None:
    async def run() -> None:
        counted = Answer(body=b'{"object":"x","input_tokens":7}')
        async with upstream(FIRST, counted), shared.connect() as client:
            count = await client.count("fast", [{"role": "user", "content": "hi"}])
            assert count == {"tokens": 7, "accuracy": "provider"}
            assert (await client.capabilities("fast"))["tools"]

    in_loop(run)()


def test_a_route_none_of_whose_models_can_is_told_the_last_reason(shared: Daemon) -> None:
    async def run() -> None:
        async with upstream(FIRST, failing(401)), upstream(SECOND, failing(404)):
            assert error(await asked(shared, "refused")).code == Code.MODEL_NOT_FOUND

    in_loop(run)()


def test_an_unknown_route_is_named_with_those_there_are(shared: Daemon) -> None:
    async def run() -> None:
        with pytest.raises(RequestError, match=r"nor a route.*fast, refused, split"):
            await asked(shared, "slow")

    in_loop(run)()


def test_a_key_that_is_refused_gives_way_to_the_next(shared: Daemon) -> None:
    async def run() -> None:
        async with upstream(FIRST, failing(401), Answer()) as up:
            done(await asked(shared, new_model("keyed")))
            assert sorted(up.keys) == ["first", "second"]

    in_loop(run)()


def test_no_more_are_under_way_than_is_configured(shared: Daemon) -> None:
    async def run() -> None:
        async with upstream(FIRST, Answer(after_s=0.1)) as up:
            answers = await asyncio.gather(*(asked(shared, "narrow/m") for _ in range(6)))
            for tokens in answers:
                done(tokens)
            assert up.most_at_once == 2

    in_loop(run)()


def test_a_full_queue_refuses_with_its_length(shared: Daemon) -> None:
    async def run() -> None:
        async with upstream(FIRST, Answer(after_s=0.3)):
            answers = await asyncio.gather(*(asked(shared, "narrow/m") for _ in range(8)))
            refused = [error(tokens) for tokens in answers if isinstance(tokens[0], Error)]
            assert len(refused) == 2
            assert refused[0].code == Code.OVERLOADED_LOCAL
            assert "4 requests wait" in refused[0].message
            assert "queue.length" in refused[0].message

    in_loop(run)()


def test_who_waits_can_be_cancelled_and_is_never_sent(shared: Daemon) -> None:
    async def run() -> None:
        async with upstream(FIRST, failing(503, retry_after="60")) as up, shared.connect() as rc:
            stream = await ask(rc, new_model(), waiting=True)
            assert isinstance(await anext(stream), Waiting)
            await stream.cancel()
            assert error(await take(stream)).code == Code.CANCELLED
            assert len(up.bodies) == 1

    in_loop(run)()


def test_a_provider_that_fails_is_left_alone_and_tried_by_one_request() -> None:
    async def run() -> None:
        async with upstream(FIRST, failing(500)) as up:
            for _ in range(4):
                await asked(running)
            said = len(up.bodies)
            began = time.monotonic()
            last = error(await asked(running))
            assert last.code == Code.CIRCUIT_OPEN
            assert last.retryable
            assert last.retry_after_s is not None
            assert 0 < last.retry_after_s <= 2
            assert len(up.bodies) == said
            up.answers = [Answer(after_s=0.5)]
            await asyncio.sleep(began + last.retry_after_s - time.monotonic() + 0.05)
            answers = await asyncio.gather(*(asked(running) for _ in range(20)))
            assert len(up.bodies) == said + 1
            refused = [one for one in answers if isinstance(one[0], Error)]
            assert {error(one).code for one in refused} == {Code.CIRCUIT_OPEN}
            assert len(refused) == 19
            done(await asked(running))

    with fresh(STRICT + "[processes]\nproviders = 2\n") as running:
        in_loop(run)()


@pytest.mark.parametrize("role", ["provider", "broker", "worker"])
@pytest.mark.parametrize("fault", [failing(503, retry_after="1"), Answer(body=OVERLOADED)])
def test_a_request_that_waits_survives_whoever_is_killed(role: str, fault: Answer) -> None:
    async def run() -> None:
        async with upstream(FIRST, fault, Answer()), running.connect() as client:
            stream = await ask(client, "up/m")
            await asyncio.get_running_loop().run_in_executor(None, running.kill, role)
            done(await take(stream))

    with fresh("[timeouts]\nheartbeat_s = 1\n") as running:
        in_loop(run)()
