"""A client that was stopped for long: given up by the broker, greeted again, nothing lost."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ringcast import rundir
from ringcast.broker.client import connect
from ringcast.replay.numbered import numbered_tokens
from ringcast.replay.process import spawned
from ringcast.shm.tokens import Done, Text

HEARTBEAT_S = 0.2
COUNT = 300


@contextmanager
def daemon(url: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rj-") as name:
        config = Path(name) / "config.toml"
        config.write_text(
            f'[providers.local]\nkind = "openai-compatible"\nbase_url = "{url}/v1"\n'
            f"[timeouts]\nheartbeat_s = {HEARTBEAT_S}\n"
        )
        run_dir = Path(name) / "run"
        command = [sys.executable, "-P", "-m", "ringcast", "serve"]
        command += ["--config", str(config), "--run-dir", str(run_dir)]
        with subprocess.Popen(command) as child:
            try:
                while (state := rundir.read(run_dir)) is None or state.status != "running":
                    assert child.poll() is None
                    time.sleep(0.01)
                yield run_dir
            finally:
                child.terminate()


async def _stopped(run_dir: Path) -> tuple[list[str], int]:
    """Read a paced stream, standing still in the middle until the broker has given us up."""
    async with connect(run_dir) as sleeper, connect(run_dir) as witness:
        stream = await sleeper.chat(
            f"local/numbered;n={COUNT};pace=200", [{"role": "user", "content": "go"}]
        )
        connection = sleeper._connection
        texts: list[str] = []
        readers = 1
        async for token in stream:
            if isinstance(token, Text):
                texts.append(token.content)
            if len(texts) == 20 and readers == 1:
                connection._beat.cancel()  # as if the process were stopped: not a word from us
                while readers:
                    await asyncio.sleep(HEARTBEAT_S)
                    streams = (await witness.status())["streams"]
                    readers = streams[0]["readers"]
                connection._beat = asyncio.create_task(connection._keep_alive())
        assert isinstance(token, Done)
        return texts, readers


def test_a_client_that_was_given_up_reads_on_where_it_was() -> None:
    with spawned() as upstream, daemon(upstream.url) as run_dir:
        texts, readers = asyncio.run(asyncio.wait_for(_stopped(run_dir), 60))
    assert readers == 0
    assert texts == list(numbered_tokens(COUNT))
