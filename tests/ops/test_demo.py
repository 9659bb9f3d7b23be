"""`ringcast demo`: identical streams, honest verdicts, and nothing left behind."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import uvloop
from rich.cells import cell_len
from rich.console import Console

from ringcast import inspection, rundir
from ringcast.broker.client import connect
from ringcast.demo import playback, sandbox
from ringcast.demo.panes import Grid, Panes
from ringcast.demo.playback import Playback, Playlist, Result, paced, playable
from ringcast.replay.recording import Recording, bundled
from ringcast.shm.segment import DIRECTORY
from ringcast.shm.tokens import Reasoning, Text, ToolCall

ROOT = Path(__file__).parents[2]
CORPUS = Path(os.environ.get("RINGCAST_CORPUS", ROOT.parent / "shared" / "corpus"))
needs_corpus = pytest.mark.skipif(
    not (CORPUS / "INDEX.tsv").is_file(), reason=f"no corpus of recordings in {CORPUS}"
)
PLAYABLE = playable(bundled())
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLUMNS, LINES = 80, 24
CHAT_BODY = (
    b'data: {"id":"c","object":"chat.completion.chunk","model":"m","choices":'
    b'[{"index":0,"delta":{"content":"%b"},"finish_reason":null}]}\n\n'
    b'data: {"id":"c","object":"chat.completion.chunk","model":"m","choices":'
    b'[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
)


@pytest.fixture
def runtime() -> Iterator[Path]:
    """A runtime directory of our own: what uses it can be found, and so can what is left."""
    path = Path(tempfile.mkdtemp(prefix="rt-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


def command(runtime: Path, *arguments: str) -> dict[str, Any]:
    """How to start a demo below `runtime`, for subprocess."""
    environment = os.environ | {"XDG_RUNTIME_DIR": str(runtime), "TERM": "xterm-256color"}
    environment |= {"PYTHONPATH": str(ROOT / "ops"), "PYTHONUTF8": "1"}
    for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
        environment.pop(name, None)
    return {"args": [sys.executable, "-m", "ringcast", "demo", *arguments], "env": environment}


def demo(runtime: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a demo to its end, with pipes."""
    return subprocess.run(
        **command(runtime, *arguments), capture_output=True, text=True, timeout=60, check=False
    )


def processes_of(runtime: Path) -> list[psutil.Process]:
    """Everything that was started below `runtime` and lives."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("XDG_RUNTIME_DIR") == str(runtime):
                found.append(process)
        except psutil.Error:
            continue
    return found


def until(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Wait for something that another process does; return it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError("it did not happen")


def segments_left(pid: int) -> list[str]:
    """Names of the rings that a supervisor made and nobody removed (their sixth word)."""
    left = []
    for path in DIRECTORY.glob(f"rc-{os.getuid()}-*"):
        try:
            head = path.read_bytes()[:64]
        except FileNotFoundError:  # another test's daemon ended
            continue
        if head.startswith(b"ringcast") and struct.unpack("=8Q", head)[5] == pid:
            left.append(path.name)
    return left


def test_json_report(runtime: Path) -> None:
    done = demo(runtime, "--json", "--pace", "2000")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    report = json.loads(done.stdout)
    assert [one["recording"] for one in report["streams"]] == [one.name for one in PLAYABLE]
    assert all(one["identical"] and not one["differences"] for one in report["streams"])
    assert all(one["first_token_ms"] > 0 for one in report["streams"])
    assert report["identical"] == len(PLAYABLE)
    assert report["tokens"] == sum(one["tokens"] for one in report["streams"])
    assert 0 < report["latency"]["p50_ms"] <= report["latency"]["p99_ms"]
    assert report["throughput"]["intact"]
    assert report["throughput"]["tokens_per_s"] > 10_000
    roles = [one["role"] for one in report["processes"]]
    assert sorted(roles) == ["broker", "provider", "supervisor", "worker"]
    assert report["uss_bytes"] == sum(one["uss_bytes"] for one in report["processes"])
    assert not list(runtime.iterdir())
    assert not processes_of(runtime)
    assert not segments_left(report["processes"][0]["pid"])


def test_pipe_gets_plain_lines(runtime: Path) -> None:
    done = demo(runtime, "--pace", "2000")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    for one in PLAYABLE:
        assert re.search(
            rf"^{re.escape(one.name)} .* identical( \(ends in \w+\))?$", done.stdout, re.MULTILINE
        )
    assert re.search(r"^nothing lost +14 of 14 streams", done.stdout, re.MULTILINE)
    for figure in ("private memory", "with shared", "ready within", "added latency", "flat out"):
        assert re.search(rf"^{figure} +\S", done.stdout, re.MULTILINE)


def test_terminal_shows_panes(runtime: Path) -> None:
    output = until_end_on_a_terminal(command(runtime, "--pace", "400"))
    assert output.count("\x1b[?1049h") == output.count("\x1b[?1049l") == 1
    screen, after = output.partition("\x1b[?1049h")[2].split("\x1b[?1049l")
    frames = [ESCAPE.sub("", one).rstrip("\r\n") for one in screen.split("\x1b[H")]
    full = [frame for frame in frames if "streams ended" in frame]
    assert len(full) >= 2  # 130 events at 400 a second take longer than one frame
    for frame in full:
        lines = frame.splitlines()
        assert len(lines) == LINES
        assert max(cell_len(line) for line in lines) <= COLUMNS
    titles = {one.model for one in paced(PLAYABLE, 0, 8, 1).playbacks}
    assert sum(title[:20] in screen for title in titles) == len(titles)
    assert re.search(r"✓ \d+ tokens", screen)
    assert "nothing lost" in after
    assert not list(runtime.iterdir())


def until_end_on_a_terminal(how: dict[str, Any]) -> str:
    """Everything that a command writes to a terminal of 80x24; it must succeed."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    with subprocess.Popen(**how, stdin=theirs, stdout=theirs, stderr=theirs) as child:
        os.close(theirs)
        output = bytearray()
        try:
            while piece := os.read(ours, 65536):
                output += piece
        except OSError:  # Linux says EIO when the last writer is gone
            pass
        os.close(ours)
    assert child.returncode == 0, output.decode()
    return output.decode()


@needs_corpus
def test_corpus_is_identical(runtime: Path) -> None:
    with (CORPUS / "INDEX.tsv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    streamed = (row for row in rows if not row["file"].endswith(".json"))
    expected = sum(row["api"] != "InvokeModelWithResponseStream" for row in streamed)
    done = demo(runtime, "--corpus", str(CORPUS), "--pace", "0", "--json")
    report = json.loads(done.stdout)
    assert [one for one in report["streams"] if not one["identical"]] == []
    assert done.returncode == 0
    assert report["identical"] == len(report["streams"]) == expected > 50
    assert any(one["error"] for one in report["streams"])  # errors are compared as well


def test_difference_is_told(runtime: Path, tmp_path: Path) -> None:
    """Two recordings of one name: the upstream plays the first for both."""
    (tmp_path / "openai").mkdir()
    (tmp_path / "openai" / "twin.sse").write_bytes(CHAT_BODY % b"one")
    (tmp_path / "openai-twin.sse").write_bytes(CHAT_BODY % b"two")
    row = "{}\topenai\tchat\t200\ttext/event-stream\tapi.openai.com/v1/chat/completions"
    head = "file\tprovider\tapi\thttp_status\tcontent_type\trecorded_url"
    lines = [head, row.format("openai/twin.sse"), row.format("openai-twin.sse"), ""]
    (tmp_path / "INDEX.tsv").write_text("\n".join(lines))
    done = demo(runtime, "--corpus", str(tmp_path), "--pace", "0")
    assert done.returncode == 1
    assert "1 of 2 streams" in done.stdout
    assert "openai/twin: text: 'one' streamed, 'two' decoded" in done.stdout


def test_no_recordings_in_folder(runtime: Path, tmp_path: Path) -> None:
    done = demo(runtime, "--corpus", str(tmp_path))
    assert done.returncode == 78
    assert done.stderr.startswith("ringcast: no recordings in")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_cleans_up(runtime: Path, number: signal.Signals) -> None:
    """A terminal's Ctrl-C goes to the whole group, a `kill` to one process."""
    child = subprocess.Popen(
        **command(runtime, "--pace", "10"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    state = until(lambda: running_state(runtime))
    until(lambda: any(s["seq"] > 2 for s in inspection.processes(state[0])["streams"]))
    if number == signal.SIGINT:
        os.killpg(child.pid, number)
    else:
        child.send_signal(number)
    _, said = child.communicate(timeout=30)
    assert child.returncode == 128 + number
    assert said == ""
    assert not list(runtime.iterdir())
    assert not processes_of(runtime)
    assert not [name for name in state[1].segments if (DIRECTORY / name).exists()]


def running_state(runtime: Path) -> tuple[Path, rundir.State] | None:
    """The demo's run directory and what its daemon says, once it runs."""
    for path in runtime.iterdir():
        state = rundir.read(path)
        if state is not None and state.status == "running":
            return path, state
    return None


def test_killed_demo_leaves_no_process(runtime: Path) -> None:
    child = subprocess.Popen(**command(runtime, "--pace", "10", "--json"), stdout=subprocess.PIPE)
    state = until(lambda: running_state(runtime))
    child.kill()
    child.communicate(timeout=10)
    until(lambda: not processes_of(runtime))
    assert not [name for name in state[1].segments if (DIRECTORY / name).exists()]


def test_stream_that_hangs_is_a_difference(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setattr(playback, "STALLED_S", 2.0)
    stuck = Playback(PLAYABLE[0], 0)
    stuck.request += ";stall_at=2000"

    async def play(run_dir: Path) -> Result:
        async with connect(run_dir) as client:
            return await stuck.play(client)

    with sandbox.opened(PLAYABLE, None) as run_dir:
        result = uvloop.run(play(run_dir))
    assert result.differences == ["no token for 2 s"]
    assert not result.identical
    assert stuck.tokens
    assert not list(runtime.iterdir())


def recorded(provider: str, api: str) -> Recording:
    return Recording(f"{provider}/x", provider, api, "/", "text/event-stream", 200, "sse", b"")


@pytest.mark.parametrize(
    ("provider", "api", "name", "kind"),
    [
        ("openai", "chat", "openai", "openai"),
        ("openai", "completions", "openai", "openai"),
        ("groq", "chat", "groq", "groq"),
        ("azure", "chat", "azure", "openai-compatible"),
        ("anthropic", "messages", "anthropic", "anthropic"),
        ("anthropic", "complete", "anthropic", "anthropic"),
        ("vertex", "messages", "vertex-messages", "anthropic"),
        ("anthropic", "chat", "anthropic-chat", "openai-compatible"),
        ("openai", "responses", "openai", "openai"),
        ("gemini", "generate", "gemini", "gemini"),
        ("vertex", "generate", "vertex-generate", "gemini"),
        ("bedrock", "converse", "bedrock", "bedrock"),
        ("bedrock", "responses", "bedrock-responses", "openai-compatible"),
        ("ollama", "native", "ollama", "ollama"),
        ("local", "native", "local-native", "ollama"),
    ],
)
def test_gateway_speaks_the_recordings_api(provider: str, api: str, name: str, kind: str) -> None:
    assert sandbox.gateway(recorded(provider, api)) == (name, kind)


def test_long_bodies_are_sped_up() -> None:
    long = Recording(
        "openai/long", "openai", "chat", "/", "text/event-stream", 200, "sse", b"data: 1\n\n" * 6000
    )
    short, fast = (Playback(one, 60.0) for one in (PLAYABLE[0], long))
    playlist = paced([PLAYABLE[0], long], None, 2, 10.0)
    assert playlist.playbacks[0].request == short.request
    assert playlist.playbacks[1].request == fast.request.replace("pace=60", "pace=600")
    assert "pace=7" in paced([long], 7, 2, 10.0).playbacks[0].request


@pytest.mark.parametrize(
    ("width", "height", "columns", "rows"),
    [
        (80, 24, 2, 4),
        (160, 50, 4, 2),
        (120, 40, 3, 3),
        (40, 24, 1, 4),
        (80, 6, 2, 0),
        (30, 50, 0, 0),
    ],
)
def test_grid(width: int, height: int, columns: int, rows: int) -> None:
    grid = Grid(width, height, 8)
    assert (grid.columns, grid.rows) == (columns, rows)
    assert grid.panes == columns * rows


def test_pane_keeps_control_characters_from_the_terminal() -> None:
    played = Playback(PLAYABLE[0], 0)
    played.tokens = [
        Reasoning("think\x1b]0;gotcha\x07ing"),
        Text("safe\x9b31m\r\x08text"),
        ToolCall(0, "id", "run", '{"a": 1}'),
    ]
    playlist = Playlist([played], 1)
    playlist.lanes[0] = played
    file = io.StringIO()
    console = Console(width=60, height=12, file=file, color_system=None)
    console.print(Panes(playlist, Grid(60, 12, 1)), height=12)
    shown = file.getvalue()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", shown)
    thought, text, call = (shown.index(s) for s in ("think]0;gotchaing", "safe31mtext", "[run] {"))
    assert len({shown.count("\n", 0, at) for at in (thought, text, call)}) == 3
