"""End to end: tokens through the real daemon, HTTP in, Python client out.

Upstream and client share core 0, the daemon may use every core. Scenarios (as in published
comparisons of gateways): `flat1` and `flat100` stream as fast as they can; `light` is 100
streams at 20 tokens/s, `paced20` and `paced50` are 1,000 streams at 20 and 50, each token
in a TCP segment of its own. Paced tokens carry the upstream's CLOCK_MONOTONIC reading, so
what is reported as latency is from its `send` to the client's hands.

The upstream is a C program where its source and a compiler are found
(`$RINGCAST_MOCK_C`), else ringcast's own replay server, which is said.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import psutil
import uvloop

from ringcast import rundir
from ringcast.broker.client import Client, ClientStream, connect
from ringcast.providers.wire.summary import decode, summarize
from ringcast.replay import process as replay
from ringcast.shm.tokens import StreamToken, Text

WARM_UP_S: Final = 1.0
WINDOW_S: Final = 3.0
MOCK_SOURCE: Final = Path(__file__).resolve().parents[2].parent / "shared" / "bench" / "mock.c"


class Scenario(msgspec.Struct, frozen=True):
    """`streams` at `rate` tokens/s each; 0 is flat out, `batch` events a write."""

    streams: int
    rate: int
    batch: int


SCENARIOS: Final = {
    "flat1": Scenario(1, 0, 16),
    "flat100": Scenario(100, 0, 16),
    "light": Scenario(100, 20, 1),
    "paced20": Scenario(1000, 20, 1),
    "paced50": Scenario(1000, 50, 1),
}


class Upstream(msgspec.Struct, frozen=True):
    """Where tokens come from. `model` builds a model name from count, rate and batch."""

    kind: str
    port: int
    template: str

    def model(self, count: int, scenario: Scenario) -> str:
        """Return the model that streams `count` tokens (0: for ever)."""
        return self.template.format(n=count, r=scenario.rate, c=scenario.batch)


@contextmanager
def upstream() -> Iterator[Upstream]:
    """Run the C upstream on core 0, or our own."""
    source = Path(os.environ.get("RINGCAST_MOCK_C", MOCK_SOURCE))
    compiler = shutil.which("cc")
    if not source.exists() or compiler is None:
        with replay.spawned(knobs="pace=0") as ours:
            _pin(ours.pid)
            template = "numbered;n={n};pace={r};clock=1"
            yield Upstream("ringcast replay (Python)", ours.port, template)
        return
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory) / "mock"
        subprocess.run(
            [compiler, "-O3", "-march=native", "-o", str(program), str(source)], check=True
        )
        port = _free_port()
        with subprocess.Popen(
            [str(program)], env=os.environ | {"MOCK_PORT": str(port)}, stderr=subprocess.DEVNULL
        ) as child:
            try:
                _pin(child.pid)
                _await_port(port)
                yield Upstream("C mock", port, "mock-n{n}-r{r}-c{c}")
            finally:
                child.terminate()


def _free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _await_port(port: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            httpx.get(f"http://127.0.0.1:{port}/stats", timeout=1)
            return
        except httpx.HTTPError:
            time.sleep(0.02)
    raise RuntimeError("the mock upstream does not listen")


def _pin(pid: int) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(pid, {min(os.sched_getaffinity(0))})


@contextmanager
def daemon(port: int, settings: str = "", usage: str = "[usage]\nkeep = false\n") -> Iterator[Path]:
    """Run a daemon with one provider, `mock`, and yield its run directory."""
    with tempfile.TemporaryDirectory(prefix="rc-") as name:
        directory = Path(name)
        (directory / "config.toml").write_text(
            f'[providers.mock]\nkind = "openai"\nbase_url = "http://127.0.0.1:{port}/v1"\n'
            'key = {env = "RINGCAST_BENCH_KEY"}\n' + usage + settings
        )
        run_dir = directory / "run"
        arguments = [sys.executable, "-P", "-m", "ringcast", "serve"]
        arguments += ["--run-dir", str(run_dir), "--config", str(directory / "config.toml")]
        with subprocess.Popen(arguments, env=os.environ | {"RINGCAST_BENCH_KEY": "none"}) as child:
            try:
                await_daemon(run_dir, child)
                yield run_dir
            finally:
                child.terminate()


def await_daemon(run_dir: Path, child: subprocess.Popen[bytes]) -> None:
    """Wait until a daemon is ready. Raises RuntimeError if it does not become so."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and child.poll() is None:
        state = rundir.read(run_dir)
        if state is not None and state.status == "running":
            return
        time.sleep(0.02)
    raise RuntimeError("the daemon did not start")


def processes(run_dir: Path) -> list[psutil.Process]:
    """Return all processes of the daemon."""
    state = rundir.running(run_dir)
    supervisor = psutil.Process(state.pid)
    return [supervisor, *supervisor.children(recursive=True)]


def cpu_seconds(group: list[psutil.Process]) -> float:
    """Return the CPU time that the processes have used, user and system."""
    return sum(sum(process.cpu_times()[:2]) for process in group)


class Meter:
    """Counts tokens, and latencies while the window is open."""

    def __init__(self) -> None:
        """Nothing counted yet."""
        self.tokens = 0
        self.open = False
        self.latencies: list[int] = []

    async def read(self, stream: ClientStream, timed: bool) -> None:
        """Take a stream's tokens until it is cancelled."""
        async for batch in stream.batches():
            self.tokens += len(batch)
            if timed and self.open:
                self._time(batch)

    def _time(self, batch: list[StreamToken]) -> None:
        now = time.monotonic_ns()
        for token in batch:
            if type(token) is Text and token.content.startswith("t"):
                self.latencies.append(now - int(token.content[1:20]))


async def _measure(
    client: Client, source: Upstream, scenario: Scenario, group: list[psutil.Process]
) -> dict[str, float]:
    meter = Meter()
    model = "mock/" + source.model(0, scenario)
    opened = time.perf_counter()
    streams = [
        await client.chat(model, [{"role": "user", "content": "go"}])
        for _ in range(scenario.streams)
    ]
    open_s = time.perf_counter() - opened
    timed = scenario.rate > 0
    tasks = [asyncio.create_task(meter.read(stream, timed)) for stream in streams]
    await asyncio.sleep(WARM_UP_S)
    meter.open = True
    tokens, cpu, began = meter.tokens, cpu_seconds(group), time.perf_counter()
    await asyncio.sleep(WINDOW_S)
    elapsed = time.perf_counter() - began
    tokens, cpu = meter.tokens - tokens, cpu_seconds(group) - cpu
    meter.open = False
    pss = sum(process.memory_full_info().pss for process in group)
    for stream in streams:
        await stream.cancel()
    await asyncio.wait_for(asyncio.gather(*tasks), 30)  # raises if any stream had a gap
    figures = {
        "tokens_per_s": tokens / elapsed,
        "cpu_us_per_token": cpu / tokens * 1e6,
        "pss_mb": pss / 1e6,
        "open_ms_per_stream": open_s / scenario.streams * 1000,
    }
    if timed:
        ordered = sorted(meter.latencies)
        figures["reached"] = tokens / elapsed / (scenario.streams * scenario.rate)
        figures["p50_ms"] = ordered[len(ordered) // 2] / 1e6
        figures["p99_ms"] = ordered[len(ordered) * 99 // 100] / 1e6
    return figures


async def _check(client: Client, source: Upstream) -> None:
    """The same body, fetched directly and decoded offline, must give the same tokens."""
    model = source.model(2000, Scenario(1, 0, 16)).replace(";clock=1", "")
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "go"}]}
    url = f"http://127.0.0.1:{source.port}/v1/chat/completions"
    async with httpx.AsyncClient() as http:
        raw = (await http.post(url, json=body)).content
    wanted = summarize(decode("chat", [raw]))
    stream = await client.chat("mock/" + model, [{"role": "user", "content": "go"}])
    got = summarize([token async for token in stream])
    if got != wanted or len(got["text"]) < 2000:
        raise AssertionError(f"the daemon's answer differs: {got!r:.200} against {wanted!r:.200}")


async def _scenario(run_dir: Path, source: Upstream, name: str, repeat: int) -> dict[str, float]:
    group = processes(run_dir)
    async with connect(run_dir, name="bench") as client:
        await _check(client, source)
        runs = [await _measure(client, source, SCENARIOS[name], group) for _ in range(repeat)]
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def run(names: list[str], repeat: int, settings: str = "") -> dict[str, Any]:
    """Measure the named scenarios; medians of `repeat` windows each."""
    result: dict[str, Any] = {"scenarios": {}}
    with ExitStack() as stack:
        source = stack.enter_context(upstream())
        result["upstream"] = source.kind
        result["cores"] = os.cpu_count()
        for name in names:
            with daemon(source.port, settings) as run_dir:
                state = rundir.running(run_dir)
                result["ready_ms"] = {p.role: p.ready_ms for p in state.processes}
                _pin(0)
                result["scenarios"][name] = uvloop.run(_scenario(run_dir, source, name, repeat))
                os.sched_setaffinity(0, range(os.cpu_count() or 1))
    return result


def main(arguments: list[str] | None = None) -> None:
    """Print the figures, for people or as JSON."""
    parser = argparse.ArgumentParser(prog="ringcast bench e2e", description=__doc__)
    parser.add_argument("scenario", nargs="*", choices=[*SCENARIOS, []], default=[])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--set", default="", help="more configuration, TOML")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    result = run(asked.scenario or list(SCENARIOS), asked.repeat, asked.set)
    if asked.json:
        print(json.dumps(result, indent=2))
        return
    print(f"upstream: {result['upstream']}, {result['cores']} cores, ready {result['ready_ms']} ms")
    for name, figures in result["scenarios"].items():
        print(f"{name:8}", "  ".join(f"{key} {value:,.3g}" for key, value in figures.items()))


if __name__ == "__main__":
    main()
