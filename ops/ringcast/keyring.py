"""Key variables on their way to the provider processes, in an unlinked file of memory.

The daemon's command collects them, drops them from the environment and replaces itself
(exec), so that neither the supervisor nor the broker and the workers forked from it ever
hold a key: they have a descriptor, which all but the provider processes close unread.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping

import msgspec

from ringcast.config import Config, secret_variables

MAX_BYTES = 1 << 20


def pack(config: Config, environment: Mapping[str, str]) -> int:
    """Return an inheritable descriptor of the variables that `config` takes secrets from."""
    named = secret_variables(config) & environment.keys()
    taken = {name: os.fsencode(environment[name]) for name in named}
    fd = _memory_file()
    os.write(fd, msgspec.msgpack.encode(taken))
    os.set_inheritable(fd, True)
    return fd


def without(config: Config, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without those variables."""
    named = secret_variables(config)
    return {name: value for name, value in environment.items() if name not in named}


def unpack(fd: int) -> dict[str, str]:
    """Read the variables; the descriptor stays usable for the next process."""
    taken = msgspec.msgpack.decode(os.pread(fd, MAX_BYTES, 0), type=dict[str, bytes])
    return {name: os.fsdecode(value) for name, value in taken.items()}


def _memory_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("ringcast-keys", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
