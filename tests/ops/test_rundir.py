"""The run directory: who may have it, and that only one daemon does."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from ringcast import rundir
from ringcast.errors import AlreadyRunning, NotRunning, RunDirError
from ringcast.rundir import Lock, ProcessState, State


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return rundir.prepare(tmp_path / "run")


def state(**more: object) -> State:
    return State(os.getpid(), 1, "0", "s", **more)  # type: ignore[arg-type]


def test_prepare_makes_it_closed_to_others(tmp_path: Path) -> None:
    path = rundir.prepare(tmp_path / "a" / "b")
    assert path.stat().st_mode & 0o777 == 0o700
    assert rundir.prepare(path) == path


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_open_to_others_is_refused(mode: int, place: Path) -> None:
    place.chmod(mode)
    with pytest.raises(RunDirError, match=f"has mode {mode:o}; run chmod 700 {place}"):
        rundir.prepare(place)


def test_a_link_is_refused(place: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(place)
    with pytest.raises(RunDirError, match="is not a directory"):
        rundir.prepare(tmp_path / "link")


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunDirError, match="is not a directory"):
        rundir.prepare(tmp_path / "file")
    with pytest.raises(RunDirError, match="Not a directory"):
        rundir.prepare(tmp_path / "file" / "run")


@pytest.mark.parametrize("name", rundir.SOCKETS)
@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_what_lies_where_a_socket_belongs_is_refused(name: str, kind: str, place: Path) -> None:
    way = place / name
    match kind:
        case "file":
            way.write_text("somebody's")
        case "directory":
            way.mkdir()
        case "link":
            way.symlink_to(place / "elsewhere")
    text = rf"{way} is in the way: not a socket \(links are not followed\)"
    for ask in (rundir.prepare, rundir.verify):
        with pytest.raises(RunDirError, match=text):
            ask(place)
    assert os.path.lexists(way)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
def test_another_owner_is_refused(place: Path) -> None:
    os.chown(place, 4711, -1)
    with pytest.raises(RunDirError, match="belongs to uid 4711, not 0"):
        rundir.verify(place)


@pytest.mark.parametrize("length", [100, 300], ids=["socket", "name"])
def test_a_long_path_is_refused_before_anything_is_made(length: int, tmp_path: Path) -> None:
    path = tmp_path / ("x" * length)
    for ask in (rundir.prepare, rundir.verify, rundir.running):
        with pytest.raises(RunDirError, match=r"the system allows 107; choose a shorter --run-dir"):
            ask(path)
    assert list(tmp_path.iterdir()) == []


def test_the_longest_path_is_not_refused(tmp_path: Path) -> None:
    room = rundir.MAX_PATH - len(str(tmp_path)) - len("//control.sock")
    assert rundir.prepare(tmp_path / ("x" * room)).is_dir()


def test_default_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    monkeypatch.setenv("RINGCAST_RUN_DIR", "/x")
    assert rundir.default() == Path("/x")
    monkeypatch.delenv("RINGCAST_RUN_DIR")
    assert rundir.default() == Path("/run/user/7/ringcast")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert rundir.default().name == f"ringcast-{os.getuid()}"


def test_one_lock_at_a_time(place: Path) -> None:
    first = Lock(place)
    rundir.write(place, state())
    text = rf"a daemon \(pid {os.getpid()}\) already serves {place}"
    with pytest.raises(AlreadyRunning, match=text):
        Lock(place)
    with pytest.raises(AlreadyRunning, match=text):
        rundir.refuse_second(place)
    first.release()
    rundir.refuse_second(place)
    Lock(place).release()


def test_a_lock_that_somebody_only_looks_at_can_be_taken(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([BlockingIOError(), BlockingIOError()])
    flock = fcntl.flock

    def busy(fd: int, operation: int) -> None:
        if (answer := next(answers, None)) is not None:
            raise answer
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", busy)
    Lock(place).release()
    assert next(answers, None) is None


def test_two_who_look_at_a_lock_see_no_daemon(place: Path) -> None:
    Lock(place).release()
    with (place / rundir.LOCK).open("w") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        assert not rundir.locked(place)


def test_a_lock_file_unlinked_before_we_lock_it_is_no_lock(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its holder ends between our open and our flock: the file that we hold is nobody's."""
    flock = fcntl.flock
    ends = [place / rundir.LOCK]

    def late(fd: int, operation: int) -> None:
        if ends:
            ends.pop().unlink()
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    lock = Lock(place)
    assert not ends
    assert os.path.samestat(os.fstat(lock.fd), (place / rundir.LOCK).stat())
    with pytest.raises(AlreadyRunning):
        Lock(place)
    lock.release()


def test_a_lock_that_is_a_link_is_refused(place: Path, tmp_path: Path) -> None:
    (place / rundir.LOCK).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunDirError, match=rf"lock {place}/ringcast\.lock: "):
        Lock(place)
    assert not (tmp_path / "elsewhere").exists()


def test_release_leaves_nothing(place: Path) -> None:
    lock = Lock(place)
    rundir.write(place, state())
    for name in rundir.SOCKETS:
        (place / name).touch()
    lock.release()
    assert list(place.iterdir()) == []


def test_state_is_read_as_written(place: Path) -> None:
    written = state(segments=["a"], processes=[ProcessState("worker", 0, 7, 1, 4.5)])
    rundir.write(place, written)
    assert rundir.read(place) == written
    assert (place / rundir.STATE).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"pid": "x"}', b"\xff"])
def test_a_broken_state_is_none(data: bytes, place: Path) -> None:
    (place / rundir.STATE).write_bytes(data)
    assert rundir.read(place) is None


def test_not_running(place: Path, tmp_path: Path) -> None:
    with pytest.raises(NotRunning, match="does not exist"):
        rundir.running(tmp_path / "nowhere")
    with pytest.raises(NotRunning, match="no daemon serves"):
        rundir.running(place)
    rundir.write(place, state())  # of one that was killed
    with pytest.raises(NotRunning, match="no daemon serves"):
        rundir.running(place)
    lock = Lock(place)
    assert rundir.running(place) == state()
    lock.release()
