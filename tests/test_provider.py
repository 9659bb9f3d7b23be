"""A provider without a daemon: its nine methods, over a replayed and over a scripted upstream."""

from __future__ import annotations

import asyncio
import re

import pytest
from fakes.daemon import CANARY_KEY, free_port, in_loop, replaying
from fakes.raw import Script, answer, answering, events
from fakes.rest import Reply, resting

import ringcast
from ringcast import config
from ringcast.errors import Code, ConfigError, RequestError
from ringcast.providers.count import TokenCount
from ringcast.replay.numbered import numbered_tokens
from ringcast.shm.tokens import Done, Error, StreamToken, Text

PORT = free_port()
HI = [{"role": "user", "content": "hi"}]
WHOLE = {
    "id": "c1",
    "model": "m-1",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
}


def provider(kind: config.Kind = "openai-compatible", **clocks: float) -> ringcast.Provider:
    section = config.Provider(kind, f"http://127.0.0.1:{PORT}/v1")
    rest = config.Config(timeouts=config.Timeouts(**clocks))
    return ringcast.Provider("up", section, key=CANARY_KEY, rest=rest, environment={})


@pytest.mark.parametrize("kind", ["openai-compatible", "anthropic"])
@in_loop
async def test_a_stream(kind: config.Kind) -> None:
    async with replaying(PORT) as upstream, provider(kind) as up:
        tokens = [token async for token in up.chat_stream("numbered;n=50;cut=7", HI)]
        texts = [token.content for token in tokens if isinstance(token, Text)]
        assert texts == list(numbered_tokens(50))
        assert isinstance(tokens[-1], Done)
        assert upstream.seen[0].headers["user-agent"] == "ringcast/0.1"


def test_without_uvloop() -> None:
    async def run() -> list[StreamToken]:
        async with replaying(PORT), provider() as up:
            return [token async for token in up.chat_stream("numbered;n=500;cut=1000", HI)]

    tokens = asyncio.run(run())
    assert [t.content for t in tokens if isinstance(t, Text)] == list(numbered_tokens(500))


@in_loop
async def test_who_stops_reading_closes_the_connection() -> None:
    async with replaying(PORT) as upstream, provider() as up:
        stream = up.chat_stream("numbered;n=0;pace=1000", HI)
        async for token in stream:
            assert isinstance(token, Text)
            break
        await stream.aclose()  # type: ignore[attr-defined]  # it is a generator
        await upstream.until(lambda: upstream.open_streams == 0)


@in_loop
async def test_a_whole_answer() -> None:
    async with resting(PORT, {"POST /v1/chat/completions": Reply(WHOLE)}) as rest, provider() as up:
        said = await up.chat("m", HI, max_tokens=5)
    assert (said.text, said.finish_reason, said.id, said.model) == ("Hello.", "stop", "c1", "m-1")
    assert said.usage is not None
    assert said.usage.total_tokens == 5
    assert said.message() == {"role": "assistant", "content": "Hello."}
    _, headers, body = rest.seen[0]
    assert body == {"model": "m", "messages": HI, "max_tokens": 5} | (
        {"stream": False} if "stream" in body else {}
    )
    assert headers["authorization"] == f"Bearer {CANARY_KEY}"


@in_loop
async def test_thoughts_go_back_to_who_thought_them() -> None:
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "s"}
    body = {"type": "message", "content": [thought, {"type": "text", "text": "Hi."}]}
    replies = {"POST /v1/messages": Reply(body | {"stop_reason": "end_turn"})}
    async with resting(PORT, replies) as rest, provider("anthropic") as up:
        answer = await up.chat("claude", HI)
        await up.chat("claude", [*HI, answer.message(), *HI])
        await up.chat("claude", [*HI, answer.message() | {"model": "other/claude"}, *HI])
    sent = [body["messages"][1]["content"] for _, _, body in rest.seen[1:]]
    assert sent[0] == [thought, {"type": "text", "text": "Hi."}]
    assert sent[1] == "Hi."


@in_loop
async def test_a_completion() -> None:
    choice = {"index": 0, "text": " home", "finish_reason": "length"}
    replies = {"POST /v1/completions": Reply({"choices": [choice]})}
    async with resting(PORT, replies), provider() as up:
        said = await up.complete("m", "Go")
        assert (said.text, said.finish_reason) == (" home", "length")


@in_loop
async def test_an_answer_that_fails() -> None:
    body = b'{"error": {"message": "%b is no key", "type": "t"}}' % CANARY_KEY.encode()
    script = Script(answer("401 Unauthorized", body, "content-type: application/json"))
    async with answering(PORT, lambda _: script), provider() as up:
        with pytest.raises(ringcast.AnswerError) as caught:
            await up.chat("m", HI)
        assert str(caught.value) == "auth: [masked] is no key"
        tokens = [token async for token in up.chat_stream("m", HI)]
        assert tokens == [caught.value.answer.error]


@pytest.mark.parametrize(
    ("script", "code", "message"),
    [
        (Script(events(b'data: {"choices":[]}\n\n')), Code.STREAM_INCOMPLETE, "the stream ended"),
        (Script(events(b""), "hang"), Code.IDLE_TIMEOUT, "nothing came for 0.2 s"),
        (Script(answer("200 OK", b"x", "content-encoding: br")), Code.BAD_ENCODING, "the answer"),
        (Script(answer("302 Found", b"", "location: http://x/")), Code.UNEXPECTED_REDIRECT, "HTTP"),
        (Script(events(b"data: " + b"x" * 300_000)), Code.SSE_LINE_TOO_LONG, "a line of"),
    ],
)
@in_loop
async def test_a_stream_that_fails(script: Script, code: Code, message: str) -> None:
    section = config.Provider("openai-compatible", f"http://127.0.0.1:{PORT}/v1")
    limits, clocks = config.Limits(max_line_bytes=200_000), config.Timeouts(idle_s=0.2)
    rest = config.Config(limits=limits, timeouts=clocks)
    up = ringcast.Provider("up", section, rest=rest, environment={})
    async with answering(PORT, lambda _: script), up:
        tokens = [token async for token in up.chat_stream("m", HI)]
    last = tokens[-1]
    assert isinstance(last, Error)
    assert last.code == code
    assert last.message.startswith(message)


@in_loop
async def test_models_counts_and_health() -> None:
    replies = {"GET /v1/models": Reply({"data": [{"id": "m"}]})}
    async with resting(PORT, replies), provider() as up:
        assert up.name == "up"
        assert [model.id for model in await up.list_models()] == ["m"]
        assert await up.count_tokens("m", HI) == TokenCount(5, "estimate")
        assert (await up.health_check()).ok
        assert "chat" in up.capabilities().apis
    async with provider() as up:
        health = await up.health_check()
    assert (health.ok, health.code) == (False, Code.CONNECT_FAILED)


@in_loop
async def test_what_cannot_be_asked() -> None:
    async with provider() as up:
        with pytest.raises(RequestError, match="temperature: 9"):
            await up.chat("m", HI, temperature=9.0)
        with pytest.raises(RequestError, match="hurry"):
            await up.chat("m", HI, hurry=True)
        with pytest.raises(RequestError, match="request: "):
            await up.chat("m", [{"role": "user", "content": object()}])


def test_a_provider_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=re.escape("no provider 'nobody'; known are anthropic, ")):
        ringcast.Provider("nobody")
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        ringcast.Provider("openai", environment={})
