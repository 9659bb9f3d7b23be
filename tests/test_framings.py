"""AWS messages, NDJSON and answers in one piece, through the real daemon and every process."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest
from fakes.daemon import (
    CANARY_KEY,
    RECORDINGS,
    Daemon,
    ask,
    daemon,
    free_port,
    in_loop,
    replaying,
    take,
)

from ringcast.errors import Code
from ringcast.providers.wire.summary import decode, summarize
from ringcast.replay.recording import Recording
from ringcast.shm.tokens import Done, Error

UP = free_port()
CONFIG = f"""
[providers.bedrock]
kind = "bedrock"
region = "us-east-1"
base_url = "http://127.0.0.1:{UP}"
key = {{ env = "CANARY" }}
[providers.ollama]
kind = "ollama"
base_url = "http://127.0.0.1:{UP}"
"""
ANSWERS = [r for r in RECORDINGS if r.api in ("converse", "invoke", "native")]
# What Bedrock's models take is told by their names; the upstream answers strangers by the API.
CLAUDE = "anthropic.claude-3-5-sonnet-20240620-v1:0"
BROKEN = "bedrock/converse-throttled"


@pytest.fixture(scope="module")
def running() -> Iterator[Daemon]:
    with daemon(CONFIG, CANARY=CANARY_KEY) as running:
        yield running
        assert CANARY_KEY not in running.said


def model(recording: Recording) -> str:
    name = CLAUDE if recording.api == "invoke" else recording.name
    return f"{recording.provider}/{name}"


@in_loop
async def test_answers_are_what_offline_decoding_makes_of_them(running: Daemon) -> None:
    """As recorded and cut into pieces, all at once, streamed or not."""
    assert {(recording.api, recording.streamed) for recording in ANSWERS} == {
        (api, streamed) for api in ("converse", "invoke", "native") for streamed in (True, False)
    }
    async with replaying(UP), running.connect() as client:
        for knobs in ("", ";cut=90;cut_seed=3"):
            streams = [
                await ask(client, model(r) + knobs, api=r.api, stream=r.streamed) for r in ANSWERS
            ]
            for recording, tokens in zip(
                ANSWERS, await asyncio.gather(*map(take, streams)), strict=True
            ):
                expected = summarize(decode(recording.api, [recording.body]))
                assert summarize(tokens) == expected, recording.name
                ended_well = recording.name != BROKEN
                assert isinstance(tokens[-1], Done if ended_well else Error), recording.name


@in_loop
async def test_a_body_that_is_cut_is_told_so(running: Daemon) -> None:
    async with replaying(UP), running.connect() as client:
        for provider, code in (
            ("bedrock/bedrock/converse-thinking", Code.AWS_TRUNCATED),
            ("ollama/ollama/native-thinking", Code.STREAM_INCOMPLETE),
        ):
            last = (await take(await ask(client, f"{provider};eof_at=3000;length=close")))[-1]
            assert isinstance(last, Error)
            assert (last.code, last.retryable) == (code, True)


@in_loop
async def test_a_worker_that_dies_between_two_messages_is_replaced(running: Daemon) -> None:
    """The next one goes on with the state that was published: nothing is lost or doubled."""
    recording = next(r for r in ANSWERS if r.name == "bedrock/converse-thinking")
    async with replaying(UP), running.connect() as client:
        stream = await ask(client, f"{model(recording)};pace=100")
        first = [await anext(stream) for _ in range(8)]
        os.kill(running.pid("worker"), signal.SIGKILL)
        tokens = first + await take(stream)
    assert summarize(tokens) == summarize(decode("converse", [recording.body]))
