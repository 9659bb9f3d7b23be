"""The run directory: the daemon's sockets, its lock, and the file that says what runs.

`$XDG_RUNTIME_DIR/ringcast`, else `/tmp/ringcast-UID`. It must be ours, a real directory and
closed to others (0700) before anything is bound in it: sockets have no other guard on
every system. The lock is an flock, because a second bind on a live ipc path silently
steals it, and because a lock dies with its holder where a pid file does not.
"""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
import time
from pathlib import Path
from typing import Final

import msgspec

from ringcast.errors import AlreadyRunning, NotRunning, RunDirError

LOCK: Final = "ringcast.lock"
STATE: Final = "state.json"
CLIENT_SOCKET: Final = "client.sock"
SHUT: Final = "client.shut"  # the same while nobody may come in
SOCKETS: Final = (CLIENT_SOCKET, "control.sock")
# sockaddr_un holds 108 bytes, the last of them zero.
MAX_PATH: Final = 107
# How often, and how far apart, a lock that is held is looked at: `locked` holds it too,
# for microseconds, and must not be taken for a daemon.
LOOKS: Final = 20
LOOK_S: Final = 0.005


class ProcessState(msgspec.Struct):
    """One process as the supervisor sees it."""

    role: str
    index: int
    pid: int
    restarts: int = 0
    ready_ms: float = 0.0


class State(msgspec.Struct):
    """What runs here, for commands and clients in any language (JSON)."""

    pid: int
    start_time: int
    version: str
    socket: str
    status: str = "starting"
    segments: list[str] = []
    reserve: str = ""  # a segment that the broker makes and removes as it needs it
    processes: list[ProcessState] = []


def default() -> Path:
    """Return the run directory of this user."""
    named = os.environ.get("RINGCAST_RUN_DIR")
    if named:
        return Path(named)
    base = os.environ.get("XDG_RUNTIME_DIR")
    if base:
        return Path(base) / "ringcast"
    return Path(tempfile.gettempdir()) / f"ringcast-{os.getuid()}"


def prepare(path: Path) -> Path:
    """Make the directory if it is missing, and refuse one that others could reach.

    Raises `RunDirError` naming owner, mode or length at fault.
    """
    measure(path)
    try:
        path.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        pass
    except OSError as error:
        raise RunDirError(f"run directory {path}: {error.strerror}") from None
    return verify(path)


def verify(path: Path) -> Path:
    """Check owner, mode, type and length, and what lies where. Raises `RunDirError`."""
    measure(path)
    try:
        info = path.lstat()
    except OSError as error:
        raise RunDirError(f"run directory {path}: {error.strerror}") from None
    if not stat.S_ISDIR(info.st_mode):
        raise RunDirError(f"run directory {path} is not a directory (links are not followed)")
    if info.st_uid != os.getuid():
        raise RunDirError(f"run directory {path} belongs to uid {info.st_uid}, not {os.getuid()}")
    if info.st_mode & 0o077:
        mode = stat.S_IMODE(info.st_mode)
        raise RunDirError(f"run directory {path} has mode {mode:o}; run chmod 700 {path}")
    for name in SOCKETS:
        _verify_socket(path / name)
    return path


def _verify_socket(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise RunDirError(f"{path} is in the way: not a socket (links are not followed)")


def measure(path: Path) -> None:
    """Raise `RunDirError` if the sockets' paths would be too long."""
    longest = path.absolute() / max(SOCKETS, key=len)
    if len(os.fsencode(longest)) > MAX_PATH:
        raise RunDirError(
            f"run directory {path}: socket paths would have {len(os.fsencode(longest))} bytes, "
            f"the system allows {MAX_PATH}; choose a shorter --run-dir"
        )


class Lock:
    """Holds the run directory for one daemon."""

    def __init__(self, path: Path) -> None:
        """Take the lock. Raises `AlreadyRunning` with the holder's pid, `RunDirError`."""
        self._path = path
        try:
            self.fd = _hold(path)
        except OSError as error:
            raise RunDirError(f"lock {path / LOCK}: {error.strerror}") from None

    def release(self) -> None:
        """Give the directory back; everything the daemon put there goes, the lock last."""
        for name in (*SOCKETS, SHUT, STATE, LOCK):
            (self._path / name).unlink(missing_ok=True)
        os.close(self.fd)


def _hold(path: Path) -> int:
    """Return a descriptor that holds the lock."""
    for _ in range(LOOKS):
        fd = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            time.sleep(LOOK_S)
            continue
        if _in_place(fd, path / LOCK):
            return fd
        os.close(fd)  # its last holder unlinked it after our open: nobody else will see it
    raise _taken(path)


def _in_place(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.lstat())
    except FileNotFoundError:
        return False


def _taken(path: Path) -> AlreadyRunning:
    holder = read(path)
    who = f" (pid {holder.pid})" if holder else ""
    return AlreadyRunning(f"a daemon{who} already serves {path}")


def refuse_second(path: Path) -> None:
    """Raise `AlreadyRunning` if a live daemon holds the directory."""
    if locked(path):
        raise _taken(path)


def locked(path: Path) -> bool:
    """Say whether a live daemon holds the directory."""
    try:
        fd = os.open(path / LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two who ask see no holder
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def write(path: Path, state: State) -> None:
    """Replace the state file in one step, mode 0600."""
    data = msgspec.json.format(msgspec.json.encode(state), indent=2)
    temporary = path / f"{STATE}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
    temporary.replace(path / STATE)


def read(path: Path) -> State | None:
    """Return what a daemon wrote here, or None."""
    try:
        return msgspec.json.decode((path / STATE).read_bytes(), type=State)
    except (OSError, msgspec.DecodeError):
        return None


def running(path: Path) -> State:
    """Return the state of the live daemon. Raises `NotRunning` or `RunDirError`."""
    measure(path)
    if not path.exists():
        raise NotRunning(f"no daemon: {path} does not exist; start one with `ringcast start`")
    verify(path)
    state = read(path)
    if state is None or not locked(path):
        raise NotRunning(f"no daemon serves {path}; start one with `ringcast start`")
    return state
