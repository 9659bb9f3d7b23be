"""Where provider keys come from. Only a provider process calls this.

A key is a str subclass that prints as stars, so that no traceback or log shows it.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path

from ringcast.config import SECRET_VARIABLES, Key, Provider
from ringcast.errors import ConfigError

COMMAND_TIMEOUT_S = 10
MAX_FILE_BYTES = 4096
MASK = b"[masked]"
# Shorter ones ("none", "ollama", "key") stand for no key at all, and are parts of words.
LEAST_MASKED = 8


class Secret:
    """A key. Only `reveal` gives it away, and `mask` takes it out of what others say."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        """Keep `value` out of every repr."""
        self._value = value

    def reveal(self) -> str:
        """Return the key itself."""
        return self._value

    def mask(self, said: bytes) -> bytes:
        """Return `said` without the key: some providers repeat it when they refuse it."""
        if len(self._value) < LEAST_MASKED:
            return said
        return said.replace(self._value.encode(), MASK)

    def __repr__(self) -> str:
        """Show nothing."""
        return "Secret(***)"


def resolve(name: str, provider: Provider, environment: Mapping[str, str]) -> Secret | None:
    """Return a provider's key, or None if it needs none.

    Raises `ConfigError` saying where the key was looked for, never what was found.
    """
    key = provider.key
    if key is None:
        return None
    return sound(*_read(name, key, environment))


def sound(where: str, value: str) -> Secret:
    """Return what was read as a key, without the space around it. Raises `ConfigError`."""
    value = value.strip().strip("\ufeff")
    if not value:
        raise ConfigError(f"{where} is empty")
    if not value.isascii() or not value.isprintable() or " " in value or value[0] in "\"'":
        raise ConfigError(f"{where} holds characters that no key has (quotes, spaces, controls?)")
    return Secret(value)


def _read(name: str, key: Key, environment: Mapping[str, str]) -> tuple[str, str]:
    if key.env is not None:
        if key.env not in environment:
            raise ConfigError(f"{key.env} is not set")
        return key.env, environment[key.env]
    if key.file is not None:
        return f"key file {key.file}", _read_file(Path(key.file).expanduser())
    command = key.command or _keyring_command(name, key.keyring or "")
    return f"key command {command[0]}", _run(command)


def _read_file(path: Path) -> str:
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):
            raise ConfigError(f"key file {path} is not a regular file")
        if info.st_mode & 0o077:
            mode = stat.S_IMODE(info.st_mode)
            raise ConfigError(f"key file {path} has mode {mode:o}; run chmod 600 {path}")
        if info.st_size > MAX_FILE_BYTES:
            raise ConfigError(f"key file {path} is larger than {MAX_FILE_BYTES} bytes")
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ConfigError(f"key file {path}: {error.strerror}") from None


def _keyring_command(name: str, service: str) -> list[str]:
    """Read the system keyring in a short-lived helper: its D-Bus stack costs 12 MB."""
    program = shutil.which("keyring")
    if program is None:
        raise ConfigError("key = {keyring=...} needs the `keyring` command (pip install keyring)")
    return [program, "get", service or "ringcast", name]


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
            env=bare_environment(),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"key command {command[0]}: {type(error).__name__}") from None
    if done.returncode != 0:
        raise ConfigError(f"key command {command[0]} ended with status {done.returncode}")
    return done.stdout.decode("utf-8", "replace")


def bare_environment() -> dict[str, str]:
    """Return the environment for a command that gives one secret: it gets no other."""
    secret = {name for names in SECRET_VARIABLES.values() for name in names}
    return {
        name: value
        for name, value in os.environ.items()
        if name not in secret and not name.endswith("_API_KEY")
    }
