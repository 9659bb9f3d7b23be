"""A small rank file of our own, put where OpenAI's would be, and the mark of who needs the real."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import msgspec
import pytest

from ringcast.workers import ranks

ALPHABET = "ab 1\n.,'/\t环"
WORDS = ("ring", " ring", " buffer", "user", "hello", "  ", "\n\n", "    ")

needs_ranks = pytest.mark.skipif(
    any(ranks.find(file) is None for file in ranks.FILES.values()),
    reason="no rank files: ringcast tokenizers install",
)


def rank_file() -> bytes:
    """All bytes, all pairs of `ALPHABET`, and some words with every beginning of theirs."""
    tokens = [bytes([byte]) for byte in range(256)]
    tokens += [(a + b).encode() for a in ALPHABET for b in ALPHABET]
    tokens += [word[:end].encode() for word in WORDS for end in range(2, len(word) + 1)]
    unique = dict.fromkeys(tokens)
    return b"".join(b"%s %d\n" % (base64.b64encode(t), i) for i, t in enumerate(unique))


DATA = rank_file()


def forget(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let `folder` be the only place of rank files, and forget what was loaded."""
    patch.setenv("RINGCAST_TIKTOKEN_DIR", str(folder))
    patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    patch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
    patch.setattr(ranks, "_loaded", {})


def expect(patch: pytest.MonkeyPatch, data: bytes = DATA) -> dict[str, ranks.RankFile]:
    """Let these bytes be the sound ones of each rank file, each with a line of its own more."""
    files = {}
    for key, file in ranks.FILES.items():
        own = own_data(key, data)
        sha256 = hashlib.sha256(own).hexdigest()
        files[key] = msgspec.structs.replace(file, size=len(own), sha256=sha256)
    patch.setattr(ranks, "FILES", files)
    return files


def own_data(key: str, data: bytes = DATA) -> bytes:
    """The bytes of one rank file: they differ, as the real ones do."""
    return data + b"%s %d\n" % (base64.b64encode(key.encode()), data.count(b"\n"))


def install(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Put the small rank files where they are looked for."""
    forget(patch, folder)
    for key, file in expect(patch).items():
        (folder / file.name).write_bytes(own_data(key))
