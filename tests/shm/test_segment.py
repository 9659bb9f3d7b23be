"""Shared-memory segments (R15)."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringcast.errors import SegmentRefused
from ringcast.shm import layout, segment
from ringcast.shm.ring import Reader, Writer

CAPACITY = 1 << 12
SIZE = layout.size_of(CAPACITY)
OPS = Path(__file__).parents[2] / "ops"


@pytest.fixture
def name() -> Iterator[str]:
    name = f"{segment.family()}-7"
    yield name
    segment.remove(name)


def path(name: str) -> Path:
    return segment.DIRECTORY / name


def child(*command: str, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a Python of its own."""
    return subprocess.run(
        [*command, sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(OPS)} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_r15_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """R15 (S13): 64 random bits, and 30 characters for any uid and 100 segments."""
    assert len({segment.family() for _ in range(1000)}) == 1000
    assert segment.family().startswith(f"rc-{os.getuid()}-")
    monkeypatch.setattr(os, "getuid", lambda: (1 << 32) - 2)
    assert len(f"{segment.family()}-99") <= 30


def test_r15_mode_and_pages(name: str) -> None:
    """R15: 0600, and every page is there from the start."""
    created = segment.create(name, 1 << 20, setting="rings.in_bytes")
    info = path(name).stat()
    assert stat.S_IMODE(info.st_mode) == 0o600
    assert info.st_size == 1 << 20
    assert info.st_blocks * 512 >= 1 << 20
    created.close()


def test_r15_an_existing_name_is_never_opened(name: str, tmp_path: Path) -> None:
    """R15 (S11, S13): neither a segment nor what a link points to is touched."""
    path(name).write_bytes(b"somebody's")
    with pytest.raises(FileExistsError):
        segment.create(name, SIZE, setting="x")
    assert path(name).read_bytes() == b"somebody's"
    path(name).unlink()
    target = tmp_path / "precious"
    target.write_bytes(b"precious")
    target.chmod(0o600)
    path(name).symlink_to(target)
    with pytest.raises(FileExistsError):
        segment.create(name, SIZE, setting="x")
    with pytest.raises(SegmentRefused):
        segment.attach(name)
    assert target.read_bytes() == b"precious"


def test_two_mappings_are_one_memory(name: str) -> None:
    created = segment.create(name, SIZE, setting="x")
    layout.initialise(created.memory, CAPACITY)
    attached = segment.attach(name)
    writer, reader = Writer(created.memory), Reader(attached.memory)
    writer.append(2, 1, 0, 0, b"across")
    writer.publish()
    assert [bytes(record.payload) for record in reader.poll()] == [b"across"]
    writer.close()
    reader.close()
    attached.close()
    created.close()


def test_attaching_refuses_what_is_not_ours(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """R15 (S12): no such name, empty, open to others, another owner's."""
    with pytest.raises(SegmentRefused, match="No such file"):
        segment.attach(name)
    path(name).touch(0o600)
    with pytest.raises(SegmentRefused, match="empty"):
        segment.attach(name)
    path(name).write_bytes(bytes(SIZE))
    path(name).chmod(0o666)
    with pytest.raises(SegmentRefused, match="mode 666, not 600"):
        segment.attach(name)
    path(name).chmod(0o600)
    segment.attach(name).close()
    mine = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: mine + 1)
    with pytest.raises(SegmentRefused, match=f"uid {mine}, not {mine + 1}"):
        segment.attach(name)


def test_a_foreign_process_that_attaches_and_exits_takes_nothing_away(name: str) -> None:
    """R15 (S15): before Python 3.13 an attacher's resource tracker unlinked the segment."""
    created = segment.create(name, SIZE, setting="x")
    layout.initialise(created.memory, CAPACITY)
    code = (
        "import sys; from ringcast.shm import segment, ring\n"
        f"ring.Reader(segment.attach({name!r}).memory); print('attached')"
    )
    ended = child(code=code)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "attached\n", "")
    assert path(name).exists()
    created.close()


def test_a_creator_that_exits_leaves_the_name_to_its_owner(name: str) -> None:
    """R15: only `remove` unlinks, so that a successor can find the streams again."""
    code = (
        "from ringcast.shm import layout, segment\n"
        f"layout.initialise(segment.create({name!r}, {SIZE}, setting='x').memory, {CAPACITY})"
    )
    ended = child(code=code)
    assert (ended.returncode, ended.stderr) == (0, "")
    attached = segment.attach(name)
    assert layout.check(attached.memory) == CAPACITY
    attached.close()
    assert segment.remove(name) is True
    assert segment.remove(name) is False


def test_an_unlinked_segment_stays_usable(name: str) -> None:
    """R15 (S14): the mapping outlives the name."""
    created = segment.create(name, SIZE, setting="x")
    segment.remove(name)
    layout.initialise(created.memory, CAPACITY)
    assert layout.check(created.memory) == CAPACITY
    created.close()


def test_closing_under_live_views_says_so_and_can_be_repeated(name: str) -> None:
    """R8 (S16): records, then the ring's ends, then the segment."""
    created = segment.create(name, SIZE, setting="x")
    layout.initialise(created.memory, CAPACITY)
    writer, reader = Writer(created.memory), Reader(created.memory)
    writer.append(2, 1, 0, 0, b"held")
    writer.publish()
    (record,) = reader.poll()
    writer.close()
    reader.close()
    with pytest.raises(BufferError, match=f"{name}: views into it are still alive"):
        created.close()
    assert bytes(record.payload) == b"held"
    record.payload.release()
    del record, writer, reader
    created.close()


def test_cycles_leave_nothing_behind(name: str) -> None:
    """R15 (S23): neither names nor descriptors nor mappings."""

    def held() -> tuple[int, int, set[str]]:
        maps = Path("/proc/self/maps").read_text().count("/dev/shm/rc-")
        mine = {entry.name for entry in segment.DIRECTORY.glob(f"{name}*")}
        return len(list(Path("/proc/self/fd").iterdir())), maps, mine

    before = held()
    for _ in range(300):
        created = segment.create(name, SIZE, setting="x")
        segment.attach(name).close()
        created.close()
        segment.remove(name)
    assert held() == before


SMALL = """
import os, subprocess, sys
from ringcast.errors import StartupError
from ringcast.shm import segment
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", "/dev/shm"], check=True)
first = segment.create("rc-0-first", 128 << 10, setting="rings.in_bytes")
first.memory[:] = bytes([1]) * len(first.memory)
try:
    segment.create("rc-0-second", 1 << 20, setting="rings.out_bytes")
except StartupError as error:
    print(error)
print(sorted(os.listdir("/dev/shm")))
"""


def test_a_shared_memory_too_small_is_named_at_start(name: str) -> None:
    """R15 (S05): need, free and setting are named, the name is gone, nobody dies of SIGBUS."""
    if child("unshare", "-m", code="").returncode:
        pytest.skip("no right to a mount namespace, so no small /dev/shm")
    ended = child("unshare", "-m", code=SMALL)
    assert ended.returncode == 0, ended.stderr
    text, names = ended.stdout.splitlines()
    assert "rings.out_bytes needs 1024 KiB in /dev/shm, 128 KiB are free" in text
    assert names == "['rc-0-first']"
