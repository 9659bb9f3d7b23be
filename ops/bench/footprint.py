"""Footprint: the private memory of a provider process before and after seven providers are used.

OpenAI, Anthropic, Gemini, Bedrock, Azure, xAI and Vertex, each at an upstream in this process that
answers everything: models are listed, one message is answered in one piece, and credentials are
made as they are for the real ones. What the process has of its own is unshared by its first
request, to a server that is none of the seven: `idle` is before that, `working` after it, and
`loaded` is what the seven add to it. Memory is what the process has written (Private_Dirty);
`mapped` adds the pages of libraries that only this process reads just now, which the system
may drop, and which count for less as soon as another program uses the same library.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psutil
import uvloop

import ringcast
from ringcast import rundir
from ringcast.bench.e2e import await_daemon
from ringcast.broker.client import Client

SEVEN: Final = ("openai", "anthropic", "gemini", "bedrock", "azure", "xai", "vertex")
FIRST: Final = "openai-compatible"
MODELS: Final = {
    "bedrock": "anthropic.claude-3-haiku-20240307-v1:0",
    "vertex": "gemini-2.5-flash",
}
WORD: Final = "Home."
# One body that each API finds its answer in.
ANSWER: Final = json.dumps(
    {
        "access_token": "ya29.bench",
        "expires_in": 3600,
        "token_type": "Bearer",
        "data": [],
        "models": [],
        "modelSummaries": [],
        "inferenceProfileSummaries": [],
        "publisherModels": [],
        "choices": [{"index": 0, "message": {"content": WORD}, "finish_reason": "stop"}],
        "type": "message",
        "content": [{"type": "text", "text": WORD}],
        "stop_reason": "end_turn",
        "candidates": [{"content": {"parts": [{"text": WORD}]}, "finishReason": "STOP"}],
        "output": {"message": {"role": "assistant", "content": [{"text": WORD}]}},
        "stopReason": "end_turn",
    }
).encode()


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            size = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(size or 0))
            kind = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
            writer.write(b"%bcontent-length: %d\r\n\r\n%b" % (kind, len(ANSWER), ANSWER))
    except (ConnectionError, asyncio.IncompleteReadError):
        writer.close()


def _settings(port: int, credentials: Path) -> str:
    url = f"http://127.0.0.1:{port}"
    more = {
        "bedrock": 'region = "us-east-1"',
        "azure": 'resource = "bench"',
        "vertex": f'project = "bench"\nlocation = "global"\ncredentials = "{credentials}"',
    }
    key = 'key = { env = "RINGCAST_BENCH_KEY" }'
    return "[usage]\nkeep = false\n" + "\n".join(
        f'[providers.{kind}]\nkind = "{kind}"\nbase_url = "{url}"\n'
        f"{more.get(kind, '')}\n{'' if kind in ('bedrock', 'vertex') else key}\n"
        for kind in (FIRST, *SEVEN)
    )


@contextmanager
def _daemon(port: int) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rc-") as name:
        directory = Path(name)
        credentials = directory / "google.json"
        user = {"type": "authorized_user", "client_id": "i", "client_secret": "s"}
        user |= {"refresh_token": "r", "token_uri": f"http://127.0.0.1:{port}/token"}
        credentials.write_text(json.dumps(user))
        credentials.chmod(0o600)
        (directory / "config.toml").write_text(_settings(port, credentials))
        run_dir = directory / "run"
        arguments = [sys.executable, "-P", "-m", "ringcast", "serve"]
        arguments += ["--run-dir", str(run_dir), "--config", str(directory / "config.toml")]
        keys = ("RINGCAST_BENCH_KEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        environment = os.environ | dict.fromkeys(keys, "bench-key")
        with subprocess.Popen(arguments, env=environment) as child:
            try:
                await_daemon(run_dir, child)
                yield run_dir
            finally:
                child.terminate()


async def _use(client: Client, kind: str) -> None:
    """Ask a provider what it can be asked. Raises AssertionError if it does not answer."""
    await client.models(kind)
    model = f"{kind}/{MODELS.get(kind, 'm')}"
    messages = [{"role": "user", "content": "Where does the river go?"}]
    answer = await (await client.chat(model, messages, stream=False)).answer()
    assert answer.text == WORD, (kind, answer)


def _written(pid: int) -> float:
    """Megabytes of memory that the process alone has, and has written to."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(rollup.partition("Private_Dirty:")[2].split()[0]) * 1024 / 1e6


async def _measure(run_dir: Path) -> dict[str, float]:
    pid = next(one.pid for one in rundir.running(run_dir).processes if one.role == "provider")
    process = psutil.Process(pid)
    taken = {"idle": _written(pid)}
    unshared = process.memory_full_info().uss / 1e6
    async with ringcast.connect(run_dir) as client:
        await _use(client, FIRST)
        taken["working"] = _written(pid)
        for kind in SEVEN:
            await _use(client, kind)
            taken[kind] = _written(pid)
    taken["loaded"] = taken[SEVEN[-1]] - taken["working"]
    taken["mapped"] = process.memory_full_info().uss / 1e6 - unshared
    return {name: round(megabytes, 2) for name, megabytes in taken.items()}


async def _run(repeat: int) -> list[dict[str, float]]:
    server = await asyncio.start_server(_serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    found = []
    for _ in range(repeat):
        with _daemon(port) as run_dir:
            found.append(await _measure(run_dir))
    return found


def run(repeat: int) -> dict[str, float]:
    """Return megabytes of private memory: at first, after each provider, and what all added."""
    runs = uvloop.run(_run(repeat))
    return {name: statistics.median(one[name] for one in runs) for name in runs[0]}


def main(arguments: list[str] | None = None) -> None:
    """Print the figures, for people or as JSON."""
    parser = argparse.ArgumentParser(prog="ringcast bench footprint", description=__doc__)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    found: dict[str, Any] = run(asked.repeat)
    if asked.json:
        print(json.dumps(found))
        return
    for name, megabytes in found.items():
        print(f"{name:10} {megabytes:6.2f} MB")


if __name__ == "__main__":
    main()
