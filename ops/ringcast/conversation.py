"""`ringcast chat`: one question, its answer streamed to the terminal."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol, TextIO

from ringcast.broker.client import connect
from ringcast.errors import Code, RequestError
from ringcast.shm.tokens import (
    Delta,
    Done,
    Error,
    Reasoning,
    Refusal,
    StreamToken,
    Text,
    ToolCall,
    Waiting,
    describe,
)

# sysexits: what a script may want to tell apart.
EX_UNAVAILABLE: Final = 69
EX_TEMPFAIL: Final = 75
EX_NOPERM: Final = 77
SIGINT_EXIT: Final = 130
_EXIT: Final[dict[str, int]] = {
    Code.AUTH: EX_NOPERM,
    Code.BILLING: EX_NOPERM,
    Code.RATE_LIMITED: EX_TEMPFAIL,
    Code.OVERLOADED: EX_TEMPFAIL,
    Code.BAD_REQUEST: 1,
    Code.CONTEXT_LENGTH: 1,
    Code.MODEL_NOT_FOUND: 1,
    Code.CANCELLED: SIGINT_EXIT,
}
DIM, PLAIN = "\x1b[2m", "\x1b[0m"


def chat(
    directory: Path,
    model: str,
    messages: list[dict[str, Any]],
    options: dict[str, Any],
    as_json: bool,
) -> int:
    """Stream an answer to standard output; return the exit status.

    Raises `NotRunning` and `RequestError`. Ctrl-C cancels upstream and still shows what the
    daemon says about it.
    """
    return asyncio.run(_chat(directory, model, messages, options, as_json))


async def _chat(
    directory: Path,
    model: str,
    messages: list[dict[str, Any]],
    options: dict[str, Any],
    as_json: bool,
) -> int:
    async with connect(directory, name="ringcast chat") as client:
        stream = await client.chat(model, messages, waiting=not as_json, **options)
        cancel_on_interrupt(stream)
        show = _show_json if as_json else Screen(sys.stdout).show
        last: StreamToken | None = None
        async for token in stream:
            if isinstance(token, Waiting):
                _show_wait(token)
                continue
            show(token)
            last = token
    if isinstance(last, Error):
        if not as_json:
            print(f"ringcast: {last.code}: {last.message}", file=sys.stderr)
        return _EXIT.get(last.code, EX_UNAVAILABLE)
    return 0


class Cancellable(Protocol):
    """What Ctrl-C ends."""

    async def cancel(self) -> None:
        """End it."""


def cancel_on_interrupt(stream: Cancellable) -> None:
    """Let the first Ctrl-C cancel the stream; a second one ends the program as usual."""
    loop = asyncio.get_running_loop()
    tasks: list[asyncio.Task[None]] = []  # the loop keeps only weak references

    def interrupted() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        tasks.append(loop.create_task(stream.cancel()))

    loop.add_signal_handler(signal.SIGINT, interrupted)


def cancel(directory: Path, stream_id: bytes) -> None:
    """End a stream by its id. Raises `NotRunning`, `RequestError` (unknown_stream)."""

    async def ask() -> None:
        async with connect(directory, name="ringcast cancel") as client:
            streams = (await client.status())["streams"]
            if stream_id.hex() not in {stream["id"] for stream in streams}:
                raise RequestError(Code.UNKNOWN_STREAM, "no such stream, or it left the log")
            await client.cancel(stream_id)

    asyncio.run(ask())


def _show_wait(wait: Waiting) -> None:
    if wait.seconds:
        print(f"ringcast: waiting {wait.seconds:.1f} s: {wait.reason}", file=sys.stderr)


def _show_json(token: StreamToken) -> None:
    print(json.dumps(describe(token), ensure_ascii=False), flush=True)


class Screen:
    """Prints tokens for a person: text plain, thoughts dim, tool calls on lines of their own."""

    def __init__(self, out: TextIO) -> None:
        """Colours only on a terminal."""
        self._out = out
        self._colour = out.isatty()
        self._mode = ""

    def show(self, token: StreamToken) -> None:
        """Print one token at once."""
        match token:
            case Text(content) | Delta(content, 0) | Refusal(content, 0):
                self._switch("text")
                self._out.write(_visible(content))
            case Reasoning(content) if content:
                self._switch("reasoning")
                self._out.write(_visible(content))
            case ToolCall(_, _, name, arguments):
                self._switch("tool")
                self._out.write(_visible(f"\n[{name}] {arguments}" if name else arguments))
            case Done() | Error():
                self._switch("")
                self._out.write("\n")
            case _:
                return
        with suppress(ValueError):
            self._out.flush()

    def _switch(self, mode: str) -> None:
        if mode == self._mode:
            return
        if self._mode == "reasoning":
            self._out.write("\n\n")
        if self._colour:
            self._out.write(DIM if mode == "reasoning" else PLAIN)
        self._mode = mode


def _visible(text: str) -> str:
    """Take escape sequences out of what a model says: a terminal would obey them."""
    return "".join(c for c in text if c in "\n\t" or c.isprintable() or ord(c) > 0x9F)
