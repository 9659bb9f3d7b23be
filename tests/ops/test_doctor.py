"""`ringcast doctor`: each fault is provoked, seen, and its mending named."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from ringcast import config, config_file, rundir
from ringcast.doctor import machine
from ringcast.doctor.finding import Finding
from ringcast.shm.segment import DIRECTORY
from ringcast.workers import ranks
from ringcast.workers.ranks import RankFile

ROOT = Path(__file__).parents[2]
CANARY: Final = "sk-canary-0123456789"
KEYLESS: Final = dict.fromkeys(config.KEY_VARIABLES.values(), "")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a path short enough for a run directory."""
    path = Path(tempfile.mkdtemp(prefix="dr-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


def ringcast(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command; an empty variable is taken out of the environment."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "ops")} | KEYLESS | variables
    return subprocess.run(
        [sys.executable, "-m", "ringcast", *arguments],
        env={name: value for name, value in environment.items() if value},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def doctor(place: Path, text: str = "", **variables: str) -> tuple[int, list[dict[str, str]]]:
    """Exit status and findings for a run directory `run` and a configuration."""
    path = place / "config.toml"
    path.write_text(text)
    done = ringcast(
        "doctor", "--json", "--run-dir", str(place / "run"), "--config", str(path), **variables
    )
    assert done.stderr == ""
    assert CANARY not in done.stdout
    return done.returncode, json.loads(done.stdout)


def about(findings: list[dict[str, str]], subject: str) -> list[dict[str, str]]:
    return [one for one in findings if one["subject"] == subject]


def one(findings: list[dict[str, str]], subject: str) -> dict[str, str]:
    found = about(findings, subject)
    assert len(found) == 1, findings
    return found[0]


def test_healthy_machine(place: Path) -> None:
    status, findings = doctor(place)
    assert status == 0
    assert {f["level"] for f in findings} <= {"ok", "note", "warning"}
    assert one(findings, "daemon")["level"] == "note"
    assert one(findings, "run directory")["level"] == "ok"
    for subject in ("python", "pyzmq", "uvloop", "eventfd", "pidfd_open", "memfd_create"):
        assert one(findings, subject)["level"] == "ok"


def test_lines_for_people(place: Path) -> None:
    done = ringcast("doctor", "--run-dir", str(place / "run"))
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("note     openai "))
    assert lines[at + 1].strip() == "-> export OPENAI_API_KEY=..., then start"


def test_keys_are_found_and_not_shown(place: Path) -> None:
    secret, open_to_all = place / "key", place / "open"
    for path, mode in ((secret, 0o600), (open_to_all, 0o644)):
        path.write_text(CANARY)
        path.chmod(mode)
    text = f"""
        [providers.filed]
        kind = "openai"
        key = {{file = "{secret}"}}
        [providers.readable]
        kind = "openai"
        key = {{file = "{open_to_all}"}}
        [providers.printed]
        kind = "groq"
        key = {{command = ["sh", "-c", "echo {CANARY}"]}}
        [providers.failing]
        kind = "groq"
        key = {{command = ["sh", "-c", "echo {CANARY} >&2; exit 3"]}}
    """
    status, findings = doctor(place, text, OPENAI_API_KEY=CANARY)
    assert status == 0
    assert one(findings, "openai") == {
        "level": "ok",
        "subject": "openai",
        "text": "key found (OPENAI_API_KEY)",
        "mend": "",
    }
    assert one(findings, "anthropic")["text"] == "no key: ANTHROPIC_API_KEY is not set"
    assert one(findings, "anthropic")["level"] == "note"
    assert one(findings, "filed")["text"] == f"key found ({secret})"
    assert one(findings, "readable")["level"] == "warning"
    assert "chmod 600" in one(findings, "readable")["text"]
    assert one(findings, "printed")["level"] == "ok"
    assert "status 3" in one(findings, "failing")["text"]


def test_each_of_several_keys_is_found_or_missed(place: Path) -> None:
    text = """
        [providers.team]
        kind = "openai"
        keys = [{env = "KEY_ONE"}, {env = "KEY_TWO"}]
    """
    status, findings = doctor(place, text, KEY_ONE=CANARY, KEY_TWO=CANARY)
    assert status == 0
    assert one(findings, "team")["text"] == "2 keys found (KEY_ONE, KEY_TWO)"
    status, findings = doctor(place, text, KEY_ONE=CANARY)
    assert status == 0
    assert one(findings, "team") == {
        "level": "warning",
        "subject": "team",
        "text": "a key is missing: keys[1]: KEY_TWO is not set",
        "mend": "see providers.team.keys",
    }


def test_a_usage_file_that_takes_nothing_is_found(place: Path) -> None:
    file = place / "usage"
    settings = f"[usage]\nfile = {json.dumps(str(file))}\n"
    finding = one(doctor(place, settings)[1], "usage file")
    assert (finding["level"], finding["text"]) == (
        "ok",
        f"{file} will be made by the first request",
    )
    file.mkdir()
    finding = one(doctor(place, settings)[1], "usage file")
    assert (finding["level"], finding["text"]) == ("warning", f"{file}: not a regular file")
    assert one(doctor(place, f"{settings}daily_usd = 1")[1], "usage file")["level"] == "fault"


def test_what_the_vendors_own_tools_know(place: Path) -> None:
    variables = {
        "AWS_ACCESS_KEY_ID": "AKID00000000",
        "AWS_SECRET_ACCESS_KEY": CANARY,
        "AWS_REGION": "us-east-1",
        "HOME": str(place),
    }
    _, findings = doctor(place, "", **variables)
    assert one(findings, "bedrock")["level"] == "ok"
    assert one(findings, "bedrock")["text"] == (
        "https://bedrock-runtime.us-east-1.amazonaws.com, "
        "by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    )
    assert one(findings, "azure")["level"] == "note"
    assert one(findings, "azure")["text"].startswith("no endpoint: ")
    assert one(findings, "ollama")["text"] == "needs no key (http://127.0.0.1:11434)"


def test_every_error_of_the_configuration_is_a_fault(place: Path) -> None:
    status, findings = doctor(place, "[processes]\nworkers = 99\n[limits]\nmax_streams = -1\n")
    assert status == 1
    faults = about(findings, "configuration")
    assert [f["level"] for f in faults] == ["fault", "fault"]
    assert "processes.workers" in faults[0]["text"]
    assert "limits.max_streams" in faults[1]["text"]
    assert one(findings, "openai")["level"] == "note"  # the rest was looked at all the same


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("http://example.com/v1", True),
        ("http://192.168.1.7:8000/v1", True),
        ("http://127.example.com/v1", True),
        ("https://example.com/v1", False),
        ("http://127.0.0.1:8000/v1", False),
        ("http://127.9.9.9:8000/v1", False),
        ("http://localhost:8000/v1", False),
        ("http://[::1]:8000/v1", False),
    ],
)
def test_unencrypted_way_to_another_host(place: Path, url: str, warned: bool) -> None:
    text = f'[providers.near]\nkind = "openai-compatible"\nbase_url = "{url}"\n'
    status, findings = doctor(place, text)
    warnings = [f for f in about(findings, "near") if f["level"] == "warning"]
    assert len(warnings) == warned
    assert status == 0


def test_run_directory_open_to_others(place: Path) -> None:
    (place / "run").mkdir(mode=0o755)
    status, findings = doctor(place)
    assert status == 1
    assert one(findings, "run directory")["level"] == "fault"
    assert "chmod 700" in one(findings, "run directory")["text"]
    assert one(findings, "daemon")["level"] == "note"


def test_run_directory_too_long(place: Path) -> None:
    done = ringcast("doctor", "--json", "--run-dir", str(place / ("x" * 100)))
    assert done.returncode == 1
    assert "107" in one(json.loads(done.stdout), "run directory")["text"]


def test_lock_held_by_what_does_not_answer(place: Path) -> None:
    (place / "run").mkdir(mode=0o700)
    lock = rundir.Lock(place / "run")
    status, findings = doctor(place)
    lock.release()
    assert status == 1
    assert one(findings, "daemon")["level"] == "fault"
    assert rundir.LOCK in one(findings, "daemon")["text"]


def test_lock_left_behind(place: Path) -> None:
    (place / "run").mkdir(mode=0o700)
    (place / "run" / rundir.LOCK).touch(mode=0o600)
    status, findings = doctor(place)
    assert status == 0
    assert "nobody holds it" in one(findings, "daemon")["text"]


def test_running_then_killed_then_mended(place: Path) -> None:
    run_dir = place / "run"
    daemon = subprocess.Popen(
        [sys.executable, "-m", "ringcast", "serve", "--run-dir", str(run_dir)],
        env=os.environ | {"PYTHONPATH": str(ROOT / "ops")},
        stderr=subprocess.DEVNULL,
    )
    try:
        state = until_running(run_dir)
        status, findings = doctor(place)
        assert status == 0
        assert f"pid {state.pid} is running" in one(findings, "daemon")["text"]
        assert not left(findings, state)
        sizes = [(DIRECTORY / name).stat().st_size for name in state.segments]
        assert sum(sizes) == machine.ring_bytes(config.Config())
    finally:
        daemon.kill()
        daemon.wait()
    until(lambda: not rundir.locked(run_dir))  # a dying child may hold its descriptor
    status, findings = doctor(place)
    assert status == 0
    assert f"pid {state.pid}" in one(findings, "daemon")["text"]
    assert one(findings, "segments")["level"] == "warning"
    assert left(findings, state) == state.segments
    assert ringcast("start", "--run-dir", str(run_dir)).returncode == 0
    assert ringcast("stop", "--run-dir", str(run_dir)).returncode == 0
    status, findings = doctor(place)
    assert not left(findings, state)
    assert one(findings, "daemon")["text"] == "not running"


def left(findings: list[dict[str, str]], state: rundir.State) -> list[str]:
    """Those segments of a daemon that are reported as left behind."""
    return [name for name in state.segments if name in one(findings, "segments")["text"]]


def until_running(run_dir: Path) -> rundir.State:
    """Wait for a daemon that was just started."""

    def running() -> bool:
        state = rundir.read(run_dir)
        return state is not None and state.status == "running"

    until(running)
    return rundir.running(run_dir)


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_too_little_shared_memory(place: Path) -> None:
    text = "[processes]\nproviders = 16\nworkers = 16\n[rings]\nin_bytes = 268435456\n"
    free = os.statvfs(DIRECTORY)
    if free.f_bavail * free.f_frsize > machine.ring_bytes(config_file.parse(text)):
        pytest.skip("so much shared memory that 64 GiB of rings fit")
    status, findings = doctor(place, text)
    assert status == 1
    assert "rings.in_bytes" in one(findings, str(DIRECTORY))["mend"]


def test_few_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    def limits(_: int) -> tuple[int, int]:
        return 256, 256

    monkeypatch.setattr(resource, "getrlimit", limits)
    found = [f for f in machine.examine(config.Config()) if f.subject == "descriptors"]
    assert [f.level for f in found] == ["warning"]


@pytest.mark.parametrize("name", ["eventfd", "pidfd_open", "memfd_create"])
def test_kernel_refuses_a_call(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an old kernel or a strict sandbox does: Python has the call, so nothing falls back."""

    def refuse(*_: Any) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, name, refuse)
    found = [f for f in machine.examine(config.Config()) if f.subject == name]
    assert [(f.level, f.text) for f in found] == [("fault", "refused: Function not implemented")]


@pytest.mark.parametrize("name", ["eventfd", "pidfd_open", "memfd_create"])
def test_system_without_a_call(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, name)
    found = [f for f in machine.examine(config.Config()) if f.subject == name]
    assert [f.level for f in found] == ["note"]
    assert found[0].text.startswith("not on this system: ")


def test_token_ranks(place: Path) -> None:
    empty = {"RINGCAST_TIKTOKEN_DIR": str(place), "XDG_CACHE_HOME": str(place)}
    _, findings = doctor(place, TIKTOKEN_CACHE_DIR="", **empty)
    found = one(findings, "token ranks")
    assert found["level"] == "note"
    assert found["text"] == (
        "no o200k_base.tiktoken and no cl100k_base.tiktoken: tokens are estimated"
    )
    assert found["mend"].startswith("ringcast tokenizers install")


def test_token_ranks_of_another_kind(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file counts by its hash: what only bears the name is named, and is not deleted."""
    for name, value in (("RINGCAST_TIKTOKEN", place), ("TIKTOKEN_CACHE", place / "cache")):
        monkeypatch.setenv(f"{name}_DIR", str(value))
    monkeypatch.setenv("XDG_CACHE_HOME", str(place))
    data = b"QQ== 0\n"
    sound = RankFile("sound.tiktoken", len(data), hashlib.sha256(data).hexdigest(), "0123")
    monkeypatch.setattr(ranks, "FILES", {"sound": sound})
    (place / "cache").mkdir()
    (place / "sound.tiktoken").write_bytes(b"QQ== 1\n")

    def finding() -> Finding:
        (found,) = (f for f in machine.examine(config.Config()) if f.subject == "token ranks")
        return found

    assert finding().level == "note"
    assert str(place / "sound.tiktoken") in finding().text
    (place / "cache" / "0123").write_bytes(data)
    assert finding() == Finding("ok", "token ranks", f"sound.tiktoken in {place}/cache")
    assert (place / "sound.tiktoken").read_bytes() == b"QQ== 1\n"


def test_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "PACKAGES", ("msgspec", "no-such-package"))
    found = {f.subject: f for f in machine.examine(config.Config())}
    assert found["msgspec"].level == "ok"
    assert found["no-such-package"].level == "fault"
    assert found["no-such-package"].mend == "pip install no-such-package"
