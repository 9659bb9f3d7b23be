"""One recording played through the daemon, and compared with what decoding it offline gives."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, Final

import msgspec

from ringcast import offline
from ringcast.broker.client import Client, ClientStream
from ringcast.demo.sandbox import gateway
from ringcast.errors import RequestError
from ringcast.providers.wire.summary import summarize
from ringcast.replay.recording import Recording, events
from ringcast.shm.tokens import Done, Error, StreamToken, Summary

APIS: Final = (
    *("chat", "messages", "completions", "complete"),
    *("responses", "generate", "converse", "native"),
)
NATURAL_PACE: Final = 60.0
QUESTION: Final = [{"role": "user", "content": "Play the recording, please."}]
STALLED_S: Final = 20.0
_SHOWN: Final = 40


class Result(msgspec.Struct, frozen=True):
    """What one stream amounted to; milliseconds and rate as the worker measured them.

    `differences` names what is not as offline decoding has it, and is empty if nothing is.
    """

    recording: str
    model: str
    api: str
    tokens: int
    first_token_ms: float | None
    total_ms: float | None
    tokens_per_s: float | None
    error: str | None
    identical: bool
    differences: list[str]


class Playback:
    """One stream: `tokens` grows while it plays; `result` is there once it has ended.

    `request` is the model asked for, `model` the one that the recording names.
    """

    def __init__(self, recording: Recording, pace: float) -> None:
        """`pace` is in events a second; 0 is as fast as they are read."""
        self.recording = recording
        self.tokens: list[StreamToken] = []
        self.began = 0.0
        self.result: Result | None = None
        self._patience_s = STALLED_S + (1 / pace if pace else 0)
        decoded = offline.decode(recording.api, recording.body, None, None, recording.status)
        self._expected = summarize(decoded)
        self.request = f"{gateway(recording)[0]}/{recording.name};pace={pace:g}"
        end = decoded[-1]
        said = end.model if isinstance(end, Done) else None
        self.model = f"{recording.provider}/{said or recording.name.partition('/')[2]}"

    async def play(self, client: Client) -> Result:
        """Stream it from the daemon. Raises `ConnectionLost` if that goes away."""
        self.began = time.monotonic()
        fault = ""
        try:
            await self._read(await self._open(client))
        except RequestError as error:
            fault = f"refused: {error}"
        except TimeoutError:
            fault = f"no token for {self._patience_s:g} s"
        self.result = self._result(fault)
        return self.result

    async def _read(self, stream: ClientStream) -> None:
        """Take all tokens. Raises `TimeoutError`: a stream that hangs must not hang the demo."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._patience_s) as patience:
            async for batch in stream.batches():
                self.tokens += batch
                patience.reschedule(loop.time() + self._patience_s)

    async def _open(self, client: Client) -> ClientStream:
        api = self.recording.api
        if api in ("completions", "complete"):
            return await client.complete(self.request, QUESTION[0]["content"], api=api)
        return await client.chat(self.request, QUESTION, api=api)

    def _result(self, fault: str) -> Result:
        end = self.tokens[-1] if self.tokens else None
        summary = (end.summary if isinstance(end, Done | Error) else None) or Summary()
        differences = [fault] if fault else list(_differences(self.tokens, self._expected))
        return Result(
            recording=self.recording.name,
            model=self.model,
            api=self.recording.api,
            tokens=summary.tokens,
            first_token_ms=summary.first_token_ms,
            total_ms=summary.total_ms,
            tokens_per_s=summary.tokens_per_s,
            error=end.code if isinstance(end, Error) else None,
            identical=not differences,
            differences=differences,
        )


def _differences(tokens: list[StreamToken], expected: dict[str, Any]) -> Iterator[str]:
    got = summarize(tokens)
    for name in dict.fromkeys([*expected, *got]):
        ours, theirs = got.get(name), expected.get(name)
        if ours != theirs:
            yield f"{name}: {_brief(ours)} streamed, {_brief(theirs)} decoded"


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"


class Playlist:
    """Playbacks in a number of lanes: each lane plays one after the other."""

    def __init__(self, playbacks: Iterable[Playback], lanes: int) -> None:
        """`lanes` are shown as panes; what a lane played last stays until its next begins."""
        self.playbacks = list(playbacks)
        self.began = 0.0
        self.lanes: list[Playback | None] = [None] * min(lanes, len(self.playbacks))

    async def play(
        self,
        client: Client,
        on_end: Callable[[Result], None],
        seen: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Play everything; `on_end` is told each result. Raises `ConnectionLost`.

        What a lane has played stays until it was `seen`.
        """
        self.began = time.monotonic()
        waiting = iter(self.playbacks)
        lanes = range(len(self.lanes))
        await asyncio.gather(
            *(self._play_lane(lane, waiting, client, on_end, seen) for lane in lanes)
        )

    async def _play_lane(
        self,
        lane: int,
        waiting: Iterator[Playback],
        client: Client,
        on_end: Callable[[Result], None],
        seen: Callable[[], Awaitable[None]] | None,
    ) -> None:
        for playback in waiting:
            self.lanes[lane] = playback
            on_end(await playback.play(client))
            if seen is not None:
                await seen()

    @property
    def results(self) -> list[Result]:
        """The results so far, in the order of the list."""
        return [one.result for one in self.playbacks if one.result is not None]


def playable(recordings: Iterable[Recording]) -> list[Recording]:
    """Return those recordings that a daemon can be asked to stream."""
    return [one for one in recordings if one.streamed and one.api in APIS]


def paced(recordings: list[Recording], pace: float | None, lanes: int, total_s: float) -> Playlist:
    """Make the playlist. Without `pace` it is natural, faster only to end within `total_s`.

    A body plays for its lane's fair share of the time at the longest.
    """
    share_s = total_s * lanes / max(len(recordings), lanes)

    def own_pace(recording: Recording) -> float:
        return max(NATURAL_PACE, len(events(recording.body, recording.framing)) / share_s)

    playbacks = (Playback(one, own_pace(one) if pace is None else pace) for one in recordings)
    return Playlist(playbacks, lanes)
