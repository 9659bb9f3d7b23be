"""Makes `fakes`, the tests' stand-ins, importable from every test folder; and a fixture of many."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import uvloop

sys.path.append(str(Path(__file__).parent))


@pytest.fixture(params=[uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def run(
    request: pytest.FixtureRequest,
) -> Iterator[Callable[[Coroutine[Any, Any, None]], None]]:
    """Runs a coroutine in both loops, and sees that no descriptor is left."""
    process = psutil.Process()
    with asyncio.Runner(loop_factory=request.param) as first:
        first.run(asyncio.sleep(0))  # libuv keeps a pipe for signals for ever
    gc.collect()
    gc.freeze()  # what lives now is not looked at again: 0.4 s a test, of all that is imported
    before = process.num_fds()
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield lambda main: runner.run(asyncio.wait_for(main, 60))
    gc.collect()
    assert process.num_fds() == before
