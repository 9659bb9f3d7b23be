"""What `ringcast doctor` finds out about the machine: interpreter, kernel, limits, packages."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from ringcast.config import Config
from ringcast.doctor.finding import Finding
from ringcast.shm import counters, layout
from ringcast.shm.ledger import LEDGER_BYTES
from ringcast.shm.segment import DIRECTORY
from ringcast.shm.shared_words import TABLE_BYTES
from ringcast.workers import ranks

PACKAGES: Final = ("pyzmq", "msgspec", "uvloop", "httpx", "httptools", "psutil", "tiktoken")
_PR_GET_PDEATHSIG: Final = 2
_CLOCK: Final = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
_SLOW_CLOCKS: Final = ("hpet", "acpi_pm", "jiffies")
_SPARE_FDS: Final = 64  # rings, doorbells, sockets and logs of one process


def examine(config: Config) -> Iterator[Finding]:
    """Examine the machine for a daemon with this configuration."""
    yield _python()
    yield from _packages()
    yield _ranks(config)
    yield from _kernel()
    yield _shared_memory(config)
    yield _descriptors(config)
    yield _clock()


def _python() -> Finding:
    text = f"{platform.python_implementation()} {platform.python_version()} on {sys.platform}"
    if platform.python_implementation() != "CPython":
        mend = "use CPython: the rings rely on its aligned 8-byte stores"
        return Finding("warning", "python", text, mend)
    return Finding("ok", "python", text)


def _packages() -> Iterator[Finding]:
    for name in PACKAGES:
        try:
            text = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding("fault", name, "not installed", f"pip install {name}")
            continue
        if name == "pyzmq":
            import zmq

            text += f" with libzmq {zmq.zmq_version()}"
        yield Finding("ok", name, text)


def _ranks(config: Config) -> Finding:
    """Whether tokens can be counted here, as exactly as their model's encoding allows."""
    files = ranks.FILES.values()
    missing = [file for file in files if ranks.find(file) is None]
    if not missing:
        folders = dict.fromkeys(str(path.parent) for file in files if (path := ranks.find(file)))
        names = " and ".join(file.name for file in files)
        return Finding("ok", "token ranks", f"{names} in {', '.join(folders)}")
    text = f"no {' and no '.join(file.name for file in missing)}: tokens are estimated"
    if wrong := [str(path) for file in missing for path in ranks.candidates(file)]:
        text += f" (not the known files: {', '.join(wrong)})"
    mend = "ringcast tokenizers install [--from FILE|DIR|WHEEL|TGZ]"
    wanted = {ranks.RECIPES[name].file for name in config.workers.ranks}
    if wanted & {key for key, file in ranks.FILES.items() if file in missing}:
        return Finding("warning", "token ranks", f"{text}, but workers.ranks asks for them", mend)
    return Finding("note", "token ranks", text, mend)


def _kernel() -> Iterator[Finding]:
    """Try what the daemon uses. What Python lacks has a fallback, what the kernel refuses not."""
    features: tuple[tuple[str, Callable[[], int] | None, str], ...] = (
        ("eventfd", _eventfd, "a pipe is the doorbell of a ring"),
        ("pidfd_open", _pidfd, "a pipe tells of a process's end"),
        ("memfd_create", _memfd, "an unlinked file carries the keys"),
    )
    for name, attempt, fallback in features:
        if attempt is None or not hasattr(os, name):
            yield Finding("note", name, f"not on this system: {fallback}")
            continue
        try:
            os.close(attempt())
        except OSError as error:
            mend = "Linux 5.3 or newer is needed, and a sandbox that allows this call"
            yield Finding("fault", name, f"refused: {error.strerror}", mend)
        else:
            yield Finding("ok", name, "works")
    yield _death_signal()


def _eventfd() -> int:
    return os.eventfd(0)


def _pidfd() -> int:
    return os.pidfd_open(os.getpid())


def _memfd() -> int:
    return os.memfd_create("ringcast-doctor")


def _death_signal() -> Finding:
    """PR_SET_PDEATHSIG, prctl(2): asking for it shows whether it is there."""
    fallback = "children watch a pipe for the supervisor's end"
    if sys.platform != "linux":
        return Finding("note", "PDEATHSIG", f"not on this system: {fallback}")
    number = ctypes.c_int()
    if ctypes.CDLL(None).prctl(_PR_GET_PDEATHSIG, ctypes.byref(number), 0, 0, 0):
        return Finding("note", "PDEATHSIG", f"refused: {fallback}")
    return Finding("ok", "PDEATHSIG", "works")


def ring_bytes(config: Config) -> int:
    """Return the shared memory that a daemon with this configuration takes."""
    counts, rings = config.processes, config.rings
    ins = counts.providers * counts.workers * layout.size_of(rings.in_bytes)
    outs = counts.workers * layout.size_of(rings.out_bytes)
    pages = counters.page_bytes(counts.providers, counts.workers)
    pages += counts.workers * counters.METRICS_BYTES
    return ins + outs + pages + LEDGER_BYTES + TABLE_BYTES


def _shared_memory(config: Config) -> Finding:
    needed = ring_bytes(config) >> 10
    subject = str(DIRECTORY)
    try:
        info = os.statvfs(DIRECTORY)
    except OSError as error:
        if sys.platform != "linux":
            return Finding("note", "shared memory", f"the rings take {needed:,} KiB")
        return Finding(
            "fault", subject, error.strerror or str(error), f"mount a tmpfs at {subject}"
        )
    free, size = (blocks * info.f_frsize >> 10 for blocks in (info.f_bavail, info.f_blocks))
    text = f"{free:,} of {size:,} KiB free; the rings take {needed:,} KiB"
    if free < needed:
        mend = f"enlarge {subject} (docker: --shm-size) or lower rings.in_bytes, rings.out_bytes"
        return Finding("fault", subject, text, mend)
    return Finding("ok", subject, text)


def _descriptors(config: Config) -> Finding:
    """The daemon raises its soft limit itself; only the hard one counts."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        return Finding("ok", "descriptors", "no limit")
    wanted = config.limits.max_streams + _SPARE_FDS
    text = f"at most {hard:,} a process, {wanted:,} for limits.max_streams"
    if hard < wanted:
        mend = "raise the hard limit (ulimit -Hn, systemd: LimitNOFILE) or lower limits.max_streams"
        return Finding("warning", "descriptors", text, mend)
    return Finding("ok", "descriptors", text)


def _clock() -> Finding:
    """Time is read for every batch: a clock outside the processor costs a microsecond each."""
    try:
        source = _CLOCK.read_text(encoding="ascii").strip()
    except OSError:
        return Finding("ok", "clock", "the system's monotonic clock")
    if source in _SLOW_CLOCKS:
        mend = "boot with clocksource=tsc if the processor's counter is stable"
        return Finding("note", "clock", f"{source}, which is slow to read", mend)
    return Finding("ok", "clock", source)
