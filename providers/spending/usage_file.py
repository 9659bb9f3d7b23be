"""The file that says what was used: one SQLite row for each day, provider and model.

Several processes write to it at once, each by adding to a row (WAL, one short transaction a time).
Tokens are added up as each provider counts them; money is in millionths of a dollar, whole numbers,
so that no sum drifts. There is neither a prompt nor a key in it. The file is its owner's only
(0600), and so is its folder where we make it (0700).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import msgspec

from ringcast.errors import RingcastError

if TYPE_CHECKING:
    import sqlite3

VERSION: Final = 1
MICRO: Final = 1_000_000
# How long another process's transaction is waited for; one takes about a millisecond.
BUSY_S: Final = 2.0
NEWER: Final = (
    "written by a newer ringcast (version {}, this one knows {}); "
    "move it away, or name another as usage.file"
)

_CREATE: Final = """
CREATE TABLE spent (
    day TEXT NOT NULL, provider TEXT NOT NULL, model TEXT NOT NULL,
    requests INTEGER NOT NULL, errors INTEGER NOT NULL,
    input INTEGER NOT NULL, output INTEGER NOT NULL,
    cache_read INTEGER NOT NULL, cache_write INTEGER NOT NULL, reasoning INTEGER NOT NULL,
    cost_micro INTEGER NOT NULL, unpriced INTEGER NOT NULL,
    PRIMARY KEY (day, provider, model)
) WITHOUT ROWID
"""
_ADD: Final = """
INSERT INTO spent VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (day, provider, model) DO UPDATE SET
    requests = requests + excluded.requests, errors = errors + excluded.errors,
    input = input + excluded.input, output = output + excluded.output,
    cache_read = cache_read + excluded.cache_read, cache_write = cache_write + excluded.cache_write,
    reasoning = reasoning + excluded.reasoning,
    cost_micro = cost_micro + excluded.cost_micro, unpriced = unpriced + excluded.unpriced
"""


class UsageFileError(RingcastError):
    """The file cannot be used; the text names it and says why."""


class Spent(msgspec.Struct):
    """A row: what was used of a model on a day. `unpriced` counts requests of unknown cost."""

    day: str
    provider: str
    model: str
    requests: int = 0
    errors: int = 0
    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    reasoning: int = 0
    cost_micro: int = 0
    unpriced: int = 0

    @property
    def key(self) -> tuple[str, str, str]:
        """What there is one row for."""
        return self.day, self.provider, self.model

    @property
    def cost(self) -> float:
        """US dollars."""
        return self.cost_micro / MICRO

    def add(self, other: Spent) -> None:
        """Count what `other` counts as well."""
        for name in self.__struct_fields__[len(self.key) :]:
            setattr(self, name, getattr(self, name) + getattr(other, name))


def path_of(file: str) -> Path:
    """Return the file that `usage.file` names, else the XDG place."""
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(file or f"{base}/ringcast/usage.sqlite3").expanduser()


def read(path: Path, since: str = "") -> list[Spent]:
    """Return the rows of a day (`2026-11-20`) and later, oldest first; none if there is no file.

    Raises `UsageFileError`.
    """
    import sqlite3

    source = f"file:{quote(str(path.absolute()))}?mode=ro"
    asked = "SELECT * FROM spent WHERE day >= ? ORDER BY day, provider, model"
    try:
        if not path.exists():
            return []
        if not path.is_file():
            raise UsageFileError(f"{path}: not a regular file")
        with closing(sqlite3.connect(source, timeout=BUSY_S, uri=True)) as connection:
            if _version(connection, path) == 0:  # its maker has not got further yet
                return []
            return [Spent(*row) for row in connection.execute(asked, (since,))]
    except (OSError, sqlite3.Error) as error:
        raise UsageFileError(f"{path}: {error}") from None


class UsageFile:
    """A writer's hold on the file, of one thread. It is opened when something is written."""

    def __init__(self, path: Path) -> None:
        """`path` need not exist, nor its folder."""
        self.path = path
        self._connection: sqlite3.Connection | None = None
        self._inode = 0

    def add(self, rows: Sequence[Spent]) -> None:
        """Add rows in one transaction.

        Raises `UsageFileError`, `OSError` and `sqlite3.Error`: then nothing was added.
        """
        try:
            with self._transaction() as connection:
                if _version(connection, self.path) == 0:
                    connection.execute(_CREATE)
                    connection.execute(f"PRAGMA user_version = {VERSION}")
                connection.executemany(_ADD, [msgspec.structs.astuple(row) for row in rows])
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the file; `add` opens it again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._opened()
        connection.execute("BEGIN IMMEDIATE")
        yield connection
        connection.execute("COMMIT")

    def _opened(self) -> sqlite3.Connection:
        import sqlite3

        with suppress(FileNotFoundError):
            if self._connection is not None and self.path.stat().st_ino == self._inode:
                return self._connection
        self.close()  # somebody has taken the file away
        self._create()
        connection = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None)
        self._connection = connection
        # Survives the death of any process; only a power cut may take the last transactions.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    def _create(self) -> None:
        """Make the file if it is not there: SQLite would give it the mode of any other file."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._inode = os.fstat(handle).st_ino
        os.close(handle)


def is_busy(error: Exception) -> bool:
    """Say whether another process held the file for too long, so that it may work later."""
    import sqlite3

    busy = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    code = getattr(error, "sqlite_errorcode", 0)  # primary code in the lowest byte
    return isinstance(error, sqlite3.OperationalError) and code & 0xFF in busy


def _version(connection: sqlite3.Connection, path: Path) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise UsageFileError(f"{path}: {NEWER.format(version, VERSION)}")
    return version
