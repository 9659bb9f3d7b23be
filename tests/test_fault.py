"""What is told of an exception that nobody expected: its type and its place, never its text."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from fakes.daemon import CANARY_KEY, ask, daemon, free_port, in_loop, replaying, take

import ringcast
from ringcast import fault
from ringcast.errors import Code, Fenced
from ringcast.shm.tokens import Done, Error

PORT = free_port()
FAULTY = """
from ringcast.providers.openai import OpenAI

class Faulty(OpenAI):
    def generate(self, model, request):
        if model == "broken":
            raise ValueError(f"{self.config.key} {request}")
        return super().generate(model, request)
"""
CONFIG = f"""
[providers.up]
kind = "faulty"
base_url = "http://127.0.0.1:{PORT}/v1"
key = {{ env = "CANARY" }}
"""
LINE = r"ringcast: fault: ValueError at [\w/]+\.py:\d+\n"


def broken(*_: object) -> None:
    """Cite a key."""
    raise ValueError(f"authorization: Bearer {CANARY_KEY}")


@pytest.fixture(autouse=True)
def hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the interpreter's hooks put back."""
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)


def test_the_place_is_the_innermost_frame_of_ours_or_of_all() -> None:
    module: dict[str, Any] = {"__name__": "ringcast.providers.somewhere", "json": json}
    exec("def work(text):\n    json.loads(text)", module)
    with pytest.raises(json.JSONDecodeError) as ours:
        module["work"](CANARY_KEY)
    assert fault.named(ours.value) == "JSONDecodeError at providers/somewhere.py:2"
    with pytest.raises(ValueError, match=CANARY_KEY) as theirs:
        broken()
    assert re.fullmatch(r"ValueError at [\w/]*test_fault\.py:\d+", fault.named(theirs.value))
    assert fault.named(ValueError(CANARY_KEY)) == "ValueError at ?"


def test_our_own_words_about_processes_are_told() -> None:
    assert fault.named(Fenced("epoch 3 is 4")) == "Fenced: epoch 3 is 4"


@in_loop
async def test_a_callback_a_task_and_a_report_are_one_line_each(
    capfd: pytest.CaptureFixture[str],
) -> None:
    counted: list[None] = []
    loop = asyncio.get_running_loop()
    fault.watch(loop, lambda: counted.append(None))

    async def work() -> None:
        broken()

    loop.call_soon(broken)
    watched, forgotten = loop.create_task(work()), loop.create_task(work())
    watched.add_done_callback(fault.of_task)
    await asyncio.wait([watched, forgotten])
    del watched, forgotten
    gc.collect()
    fault.report(ValueError(CANARY_KEY))
    said = capfd.readouterr().err
    assert re.fullmatch(f"({LINE}){{3}}ringcast: fault: ValueError at \\?\n", said)
    assert len(counted) == 4


@in_loop
async def test_what_is_no_exception_is_told_in_the_loops_words(
    capfd: pytest.CaptureFixture[str],
) -> None:
    loop = asyncio.get_running_loop()
    fault.watch(loop)
    loop.call_exception_handler({"message": "left behind", "key": CANARY_KEY})
    assert capfd.readouterr().err == "ringcast: asyncio: left behind\n"


@in_loop
async def test_a_task_that_is_cancelled_or_done_is_no_fault(
    capfd: pytest.CaptureFixture[str],
) -> None:
    loop = asyncio.get_running_loop()
    fault.watch(loop)
    done, cancelled = (loop.create_task(asyncio.sleep(delay)) for delay in (0, 60))
    for task in (done, cancelled):
        task.add_done_callback(fault.of_task)
    await done
    cancelled.cancel()
    await asyncio.wait([cancelled])
    await asyncio.sleep(0)
    assert capfd.readouterr().err == ""


def everything() -> None:
    """Go wrong in a thread, in a finalizer, and here."""
    thread = threading.Thread(target=broken)
    thread.start()
    thread.join()
    Finalized()
    broken()


class Finalized:
    """Breaks when nobody refers to it any more."""

    def __del__(self) -> None:
        broken()


def test_the_last_words_of_a_process_its_threads_and_finalizers(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended, fault.last_words():
        everything()
    assert ended.value.code == 1
    assert re.fullmatch(f"({LINE}){{3}}", capfd.readouterr().err)


def test_a_panic_that_is_no_exception_is_one_as_well(capfd: pytest.CaptureFixture[str]) -> None:
    class Panic(BaseException):
        """What extension modules raise."""

    with pytest.raises(SystemExit), fault.last_words():
        raise Panic(CANARY_KEY)
    assert CANARY_KEY not in capfd.readouterr().err


def test_who_ends_on_purpose_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, fault.last_words():
        sys.exit(7)
    assert ended.value.code == 7
    assert capfd.readouterr().err == ""


def installed(folder: Path) -> Path:
    """Put a package with a provider's kind into `folder`, as an installer would."""
    info = folder / "faulty-1.0.dist-info"
    info.mkdir()
    (folder / "faulty.py").write_text(FAULTY)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ringcast.providers]\nfaulty = faulty:Faulty\n")
    return folder


@in_loop
async def test_a_daemon_ends_one_stream_counts_one_fault_and_tells_no_secret(
    tmp_path: Path,
) -> None:
    there = str(installed(tmp_path))
    with daemon(CONFIG, CANARY=CANARY_KEY, PYTHONPATH=there) as running:
        async with replaying(PORT), ringcast.connect(run_dir=running.directory) as client:
            well = await ask(client, "up/numbered;n=200;pace=400")
            (error,) = await take(await ask(client, "up/broken"))
            assert isinstance((await take(well))[-1], Done)
            status = await client.status()
        assert isinstance(error, Error)
        assert error.code == Code.INTERNAL
        line = r"ValueError at providers/[\w/]+\.py:\d+"
        assert re.fullmatch(f"the request could not be carried out: {line}", error.message)
        assert re.search(f"^ringcast: fault: {line}$", running.said, re.MULTILINE)
        assert CANARY_KEY not in running.said
        assert sum(one.get("faults", 0) for one in status["counters"]) == 1
