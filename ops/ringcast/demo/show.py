"""`ringcast demo`: the whole daemon at work on recorded answers, without key or network.

Every recording is streamed through all processes and compared with its offline decoding;
then latency, throughput and memory are measured. Nothing stays behind, whatever ends it.
"""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

import msgspec
import uvloop
from rich.console import Console
from rich.live import Live
from rich.table import Table

from ringcast import inspection
from ringcast.broker.client import connect
from ringcast.demo import gauge, sandbox
from ringcast.demo.gauge import Latency, Throughput
from ringcast.demo.panes import Grid, Panes, shown
from ringcast.demo.playback import Playlist, Result, paced, playable
from ringcast.replay import recording

LANES: Final = 8
FRAMES_PER_S: Final = 15
# Time for the streams: a glance, or as long as somebody watches a whole corpus.
GLANCE_S: Final = 5.0
CORPUS_S: Final = 24.0
NEXT: Final = """
With a key of your own: export OPENAI_API_KEY=..., then
  ringcast start && ringcast chat -m openai/gpt-4o-mini "Say hello\""""
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Report(msgspec.Struct, frozen=True):
    """Everything that the demo found out; `processes` as in `ringcast ps --json`."""

    streams: list[Result]
    tokens: int
    identical: int
    latency: Latency
    throughput: Throughput
    processes: list[dict[str, Any]]
    uss_bytes: int
    pss_bytes: int
    seconds: float

    @property
    def good(self) -> bool:
        """Whether nothing was lost anywhere."""
        return self.identical == len(self.streams) and self.throughput.intact


def run(corpus: Path | None, pace: float | None, as_json: bool) -> int:
    """Show the demo; return 0 if every stream is identical, else 1.

    `pace` is in events a second, 0 for as fast as it goes, None for natural but not too long.
    Signals end it with 128 + their number. Raises `ConfigError` (no recordings in `corpus`),
    `StartupError`, `RunDirError`.
    """
    console = Console(highlight=False)
    grid = Grid(*console.size, LANES)
    live = not as_json and grid.panes > 0 and _can_draw(console)
    recordings = playable(recording.corpus(corpus) if corpus else recording.bundled())
    lanes = grid.panes if live else LANES
    playlist = paced(recordings, pace, lanes, CORPUS_S if corpus else GLANCE_S)
    with _ended_by_signals():
        view = Panes(playlist, grid) if live else None
        report = _perform(playlist, corpus, view, None if as_json else console)
    if as_json:
        print(json.dumps(msgspec.to_builtins(report), ensure_ascii=False))
    else:
        _print(console, report, streams=live and corpus is None)
    return 0 if report.good else 1


def _can_draw(console: Console) -> bool:
    draws = console.is_terminal and not console.is_dumb_terminal
    return draws and console.encoding.startswith("utf")


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Leave by SystemExit on the first signal; later ones do not disturb the cleaning up."""

    def end(number: int, _: FrameType | None) -> NoReturn:
        for one in SIGNALS:
            signal.signal(one, signal.SIG_IGN)
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _perform(
    playlist: Playlist, corpus: Path | None, view: Panes | None, console: Console | None
) -> Report:
    began = time.monotonic()
    if view is not None and console is not None:
        console.print("[dim]Starting a daemon, and recorded providers for it ...[/]")
    recordings = [one.recording for one in playlist.playbacks]
    with sandbox.opened(recordings, corpus) as run_dir:
        latency, throughput = uvloop.run(_stream(run_dir, playlist, view, console))
        processes = inspection.processes(run_dir)["processes"]
    results = playlist.results
    return Report(
        streams=results,
        tokens=sum(result.tokens for result in results),
        identical=sum(result.identical for result in results),
        latency=latency,
        throughput=throughput,
        processes=processes,
        uss_bytes=sum(row["uss_bytes"] or 0 for row in processes),
        pss_bytes=sum(row["pss_bytes"] or 0 for row in processes),
        seconds=round(time.monotonic() - began, 2),
    )


async def _stream(
    run_dir: Path, playlist: Playlist, view: Panes | None, console: Console | None
) -> tuple[Latency, Throughput]:
    async with connect(run_dir, name="ringcast demo") as client:
        if view is not None and console is not None:
            async with _screen(view, console) as frames:
                await playlist.play(client, lambda result: None, frames.next)
            console.print("[dim]Measuring latency and throughput ...[/]")
        else:
            await playlist.play(client, _line(console))
        gc.collect()  # what was drawn: a full collection amid the timed tokens takes 20 ms
        return await gauge.latency(client), await gauge.throughput(client)


class _Frames:
    """The frames of a screen that is drawn every now and then."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._drawn = asyncio.Event()

    def draw(self) -> None:
        """Draw one."""
        self._live.refresh()
        self._drawn.set()
        self._drawn = asyncio.Event()

    async def next(self) -> None:
        """Wait until one was drawn from now on."""
        await self._drawn.wait()


@asynccontextmanager
async def _screen(view: Panes, console: Console) -> AsyncIterator[_Frames]:
    with Live(view, console=console, screen=True, auto_refresh=False) as live:
        frames = _Frames(live)
        task = asyncio.get_running_loop().create_task(_refresh(frames))
        try:
            yield frames
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def _refresh(frames: _Frames) -> None:
    while True:
        began = time.monotonic()
        frames.draw()
        # A large screen takes 20 ms to draw: leave the streams four fifths of the time.
        await asyncio.sleep(max(1 / FRAMES_PER_S, 4 * (time.monotonic() - began)))


def _line(console: Console | None) -> Callable[[Result], None]:
    """What prints a result as one line, for logs and pipes; nothing without a console."""

    def show(result: Result) -> None:
        if console is not None:
            name, tokens, first, speed, verdict = _row(result)
            text = f"{name:<32} {tokens:>5} tokens, first after {first} ms, {speed}/s: {verdict}"
            console.print(text, markup=False, soft_wrap=True)

    return show


def _row(result: Result) -> tuple[str, str, str, str, str]:
    verdict = "identical" if result.identical else "DIFFERS"
    if result.error is not None:
        verdict += f" (ends in {result.error})"
    first, speed = shown(result.first_token_ms, ".1f"), shown(result.tokens_per_s, ",.0f")
    return result.recording, f"{result.tokens:,}", first, speed, verdict


def _print(console: Console, report: Report, *, streams: bool) -> None:
    if streams:
        table = Table("stream", box=None, header_style="bold", pad_edge=False)
        for name in ("tokens", "first ms", "tokens/s"):
            table.add_column(name, justify="right")
        table.add_column("against decode")
        for result in report.streams:
            table.add_row(*_row(result))
        console.print(table)
    console.print()
    for name, text in _figures(report):
        console.print(f"[bold]{name:<14}[/] {text}", soft_wrap=True)
    for result in report.streams:
        for difference in result.differences:
            console.print(f"{result.recording}: {difference}", style="red", markup=False)
    if console.is_terminal:
        console.print(NEXT, style="dim", markup=False)


def _figures(report: Report) -> Iterator[tuple[str, str]]:
    """What was measured, a line each, in rich's markup."""
    rows, latency, flat = report.processes, report.latency, report.throughput
    yield "private memory", _memory(rows, "uss_bytes", report.uss_bytes)
    yield "with shared", _memory(rows, "pss_bytes", report.pss_bytes)
    ready = (f"{row['role']} {row['ready_ms']:.0f}" for row in rows if "ready_ms" in row)
    yield "ready within", f"{', '.join(ready)} ms"
    p50, p99 = latency.p50_ms, latency.p99_ms
    yield "added latency", f"p50 {p50:.2f} ms, p99 {p99:.2f} ms, from upstream's write to client"
    lost = "none lost" if flat.intact else "[red]not what was sent[/]"
    yield "flat out", f"{flat.tokens_per_s:,.0f} tokens/s, one stream of {flat.tokens:,}, {lost}"
    colour = "green" if report.identical == len(report.streams) else "red"
    count = f"{report.identical} of {len(report.streams)} streams ({report.tokens:,} tokens)"
    yield "nothing lost", f"[{colour}]{count} identical to `ringcast decode`[/]"


def _memory(rows: list[dict[str, Any]], name: str, total: int) -> str:
    known = ((row["role"], row[name]) for row in rows if row[name] is not None)
    each = ", ".join(f"{role} {size / 1e6:.1f}" for role, size in known)
    return f"{total / 1e6:.1f} MB: {each}"
