"""Rank files of tiktoken's encodings: where they are looked for, and what is made of them.

They are never downloaded here. tiktoken's own loader is not used: it deletes a file whose hash is
not the expected one and fetches another without a timeout, by default into a folder of /tmp that
everybody may write to. A file counts by its SHA-256, wherever it lies and whoever put it there.

Hashes, patterns and special tokens: tiktoken 0.14.0, `tiktoken_ext/openai_public.py`.
"""

from __future__ import annotations

import base64
import ctypes
import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from tiktoken import Encoding


class RankFile(msgspec.Struct, frozen=True):
    """A file of `BASE64 RANK` lines. `cached_as` is tiktoken's name for it, its address's SHA-1."""

    name: str
    size: int
    sha256: str
    cached_as: str

    def is_in(self, data: bytes) -> bool:
        """Return whether these bytes are the file's."""
        return len(data) == self.size and hashlib.sha256(data).hexdigest() == self.sha256


class Recipe(msgspec.Struct, frozen=True):
    """What an encoding takes beside its ranks: how text is cut into pieces, and ids of no text."""

    file: str
    pattern: str
    special: dict[str, int]


FILES: Final = {
    "o200k_base": RankFile(
        "o200k_base.tiktoken",
        3_613_922,
        "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
        "fb374d419588a4632f3f557e76b4b70aebbca790",
    ),
    "cl100k_base": RankFile(
        "cl100k_base.tiktoken",
        1_681_126,
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
        "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
    ),
}

_UPPER: Final = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER: Final = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_ENDING: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_O200K: Final = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_ENDING}"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_ENDING}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CL100K: Final = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
_HARMONY: Final = {
    "<|startoftext|>": 199998,
    "<|endoftext|>": 199999,
    "<|return|>": 200002,
    "<|constrain|>": 200003,
    "<|channel|>": 200005,
    "<|start|>": 200006,
    "<|end|>": 200007,
    "<|message|>": 200008,
    "<|call|>": 200012,
    "<|endofprompt|>": 200018,
}
_RESERVED: Final = (200000, 200001, 200004, 200009, 200010, 200011, *range(200013, 201088))
RECIPES: Final = {
    "o200k_base": Recipe(
        "o200k_base", _O200K, {"<|endoftext|>": 199999, "<|endofprompt|>": 200018}
    ),
    # gpt-oss: the ids of the Harmony format come on top; 200018 has two names.
    "o200k_harmony": Recipe(
        "o200k_base", _O200K, _HARMONY | {f"<|reserved_{i}|>": i for i in _RESERVED}
    ),
    "cl100k_base": Recipe(
        "cl100k_base",
        _CL100K,
        {
            "<|endoftext|>": 100257,
            "<|fim_prefix|>": 100258,
            "<|fim_middle|>": 100259,
            "<|fim_suffix|>": 100260,
            "<|endofprompt|>": 100276,
        },
    ),
}

_loaded: dict[str, Encoding] = {}
_loading = threading.Lock()


def folders() -> list[Path]:
    """Return where rank files are looked for.

    `$RINGCAST_TIKTOKEN_DIR`, the XDG cache, and tiktoken's own cache if `$TIKTOKEN_CACHE_DIR` names
    one. The first of them is where they are installed.
    """
    named, cache = (os.environ.get(f"{who}_DIR") for who in ("RINGCAST_TIKTOKEN", "TIKTOKEN_CACHE"))
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    places = (named, f"{base}/ringcast/tokenizers", cache)
    return [Path(place).expanduser() for place in places if place]


def candidates(file: RankFile) -> Iterator[Path]:
    """Find files that bear one of a rank file's names, sound or not."""
    for folder in folders():
        for name in (file.name, file.cached_as):
            if (path := folder / name).is_file():
                yield path


def read(path: Path, file: RankFile) -> bytes | None:
    """Return a rank file's bytes; None if there are others, or it cannot be read."""
    try:
        with path.open("rb") as opened:
            data = opened.read(file.size + 1)
    except OSError:
        return None
    return data if file.is_in(data) else None


def find(file: RankFile) -> Path | None:
    """Return the path of a sound rank file."""
    return next((path for path in candidates(file) if read(path, file) is not None), None)


def are_installed() -> bool:
    """Return whether there is a file that looks like a rank file: 10 us, and nothing is read."""
    with suppress(OSError):  # it goes as we look
        return any(
            path.stat().st_size == file.size for file in FILES.values() for path in candidates(file)
        )
    return False


def encoding(name: str) -> Encoding | None:
    """Return an encoding of `RECIPES`, loaded once a process; None where its ranks are not.

    The first time takes 0.1 s (cl100k_base) to 0.25 s (o200k_base), so call it before a fork to
    share the tables: they hold no Python objects, and counting leaves their pages alone.
    """
    if (known := _loaded.get(name)) is not None:
        return known
    with _loading:
        if name not in _loaded and (data := _data(FILES[RECIPES[name].file])) is not None:
            recipe = RECIPES[name]
            _loaded[name] = build(name, data, recipe.pattern, recipe.special)
        return _loaded.get(name)


def _data(file: RankFile) -> bytes | None:
    found = (read(path, file) for path in candidates(file))
    return next((data for data in found if data is not None), None)


def build(name: str, data: bytes, pattern: str, special: dict[str, int]) -> Encoding:
    """Return the encoding of a rank file's bytes, OpenAI's or another's in the same format.

    Raises `ValueError` for what is no rank file. The encoding is for counting and decoding: it
    cannot be pickled.
    """
    from tiktoken import Encoding

    ranks: dict[bytes, int] = {}
    for line in data.splitlines():
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    made = Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)
    # 200,000 Python objects that only pickling needs: o200k_base takes 93 MiB with, 61 without.
    made._mergeable_ranks = {}
    del ranks
    _trim()
    return made


def _trim() -> None:
    """Give freed memory back to the system, where the C library can (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
