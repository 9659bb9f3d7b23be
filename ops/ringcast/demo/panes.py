"""The demo's live view: a pane for each lane, its text growing, and what it took below."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.layout import Layout
from rich.panel import Panel
from rich.text import Text as Styled

from ringcast.demo.playback import Playback, Playlist, Result
from ringcast.shm.tokens import Delta, FunctionCall, Reasoning, Refusal, StreamToken, Text, ToolCall

# A pane is readable from this size on; more of them side by side where there is room.
PANE_WIDTH: Final = 38
PANE_HEIGHT: Final = 5
MOST_COLUMNS: Final = 4
_BARS: Final = 2  # the lines above and below the panes
# What a model says must not move the cursor: C0 and C1 controls but the line feed.
_CONTROLS: Final = dict.fromkeys([*range(10), *range(11, 32), *range(127, 160)])


class Grid:
    """How many panes fit a terminal: `columns` x `rows`; none if it is too small."""

    def __init__(self, width: int, height: int, wanted: int) -> None:
        """Sizes in characters; `wanted` panes are enough."""
        self.columns = min(width // PANE_WIDTH, MOST_COLUMNS, wanted)
        most = max(0, height - _BARS) // PANE_HEIGHT
        self.rows = min(most, -(-wanted // self.columns)) if self.columns else 0

    @property
    def panes(self) -> int:
        """The number of panes."""
        return self.columns * self.rows


class Panes:
    """Renders the playlist as it is now; `rich.live` asks again and again."""

    def __init__(self, playlist: Playlist, grid: Grid) -> None:
        """`grid` has at least as many panes as the playlist has lanes."""
        self._layout = Layout()
        rows = [Layout() for _ in range(grid.rows)]
        head, foot = Layout(Head(), size=1), Layout(Foot(playlist), size=1)
        self._layout.split_column(head, *rows, foot)
        for row, layout in enumerate(rows):
            lanes = range(row * grid.columns, (row + 1) * grid.columns)
            layout.split_row(*(Layout(Pane(playlist, lane)) for lane in lanes))

    def __rich__(self) -> RenderableType:
        """The screen."""
        return self._layout


class Head:
    """The line above: the way that every token takes."""

    def __rich__(self) -> RenderableType:
        """One line."""
        return Styled.assemble(
            (" ringcast ", "bold reverse"),
            ("  HTTP > provider > ring > worker > ring > broker > you", "dim"),
            no_wrap=True,
            overflow="ellipsis",
        )


class Foot:
    """The line below: how far everything is."""

    def __init__(self, playlist: Playlist) -> None:
        """Counts all of the playlist, not only what is seen."""
        self._playlist = playlist

    def __rich__(self) -> RenderableType:
        """One line."""
        played = self._playlist.playbacks
        ended = len(self._playlist.results)
        tokens = sum(len(one.tokens) for one in played)
        seconds = time.monotonic() - self._playlist.began
        text = f" {ended}/{len(played)} streams ended   {tokens} tokens   {seconds:.1f} s"
        return Styled(f"{text}   Ctrl-C ends it", style="dim", no_wrap=True, overflow="ellipsis")


class Pane:
    """One lane: title, the end of the text as far as it fits, status."""

    def __init__(self, playlist: Playlist, lane: int) -> None:
        """A lane that the playlist does not have stays empty."""
        self._lanes = playlist.lanes
        self._lane = lane

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """A panel of exactly the size that there is."""
        height = options.height or PANE_HEIGHT
        playback = self._lanes[self._lane] if self._lane < len(self._lanes) else None
        if playback is None:
            yield Panel("", height=height, border_style="dim")
            return
        width = options.max_width - 4
        lines = _text(playback.tokens, width * height).wrap(console, width)[2 - height :]
        yield Panel(
            Styled("\n").join(lines),
            title=Styled(playback.model, "bold", overflow="ellipsis"),
            title_align="left",
            subtitle=_status(playback),
            subtitle_align="right",
            height=height,
            border_style=_colour(playback.result),
        )


def _text(tokens: list[StreamToken], characters: int) -> Styled:
    """The last so many characters, thoughts, text and calls on lines of their own."""
    text, before = Styled(overflow="fold"), ""
    for style, piece in reversed(list(_last(tokens, characters))):
        if text and style != before and not text.plain.endswith("\n"):
            text.append("\n")
        text.append(piece, style)
        before = style
    text.rstrip()
    return text


def _last(tokens: list[StreamToken], characters: int) -> Iterator[tuple[str, str]]:
    """The styled pieces that end the text, last one first: as many as may be seen."""
    for index in range(len(tokens) - 1, -1, -1):
        style, piece = _piece(tokens[index])
        if piece:
            yield style, piece.translate(_CONTROLS)
            characters -= len(piece)
            if characters <= 0:
                return


def _piece(token: StreamToken) -> tuple[str, str]:
    match token:
        case Text(content) | Delta(content, 0) | Refusal(content, 0):
            return "", content
        case Reasoning(content, 0):
            return "dim italic", content
        case ToolCall(_, _, name, arguments, 0) | FunctionCall(name, arguments, 0):
            return "cyan", f"[{name}] {arguments}" if name else arguments
        case _:
            return "", ""


def _colour(result: Result | None) -> str:
    if result is None:
        return "blue"
    return "green" if result.identical else "red"


def _status(playback: Playback) -> Styled:
    result = playback.result
    if result is None:
        count = len(playback.tokens)
        rate = count / max(time.monotonic() - playback.began, 0.001)
        return Styled(f"{count} tokens  {rate:.0f}/s", "blue")
    first, speed = shown(result.first_token_ms, ".0f"), shown(result.tokens_per_s, ".0f")
    text = f"{result.tokens} tokens  first {first} ms  {speed}/s"
    return Styled(f"{'✓' if result.identical else '✗'} {text}", _colour(result))


def shown(value: float | None, form: str) -> str:
    """A figure as text; a dash where there is none."""
    return "-" if value is None else format(value, form)
