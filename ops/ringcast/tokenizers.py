"""`ringcast tokenizers`: the rank files that are there, and their installation, also offline.

A file is taken for what its SHA-256 says, wherever it comes from: a rank file under any name, a
folder, wheel or tar archive that holds one (llama-index-core, litellm), or the `encoders/*.json`
of npm's tiktoken, which hold the same ranks in another form. No archive is unpacked to disk.
"""

from __future__ import annotations

import lzma
import os
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any, Final, TypeAlias

import httpx
import msgspec

from ringcast.errors import RingcastError
from ringcast.workers import ranks
from ringcast.workers.ranks import RankFile

URL: Final = "https://openaipublic.blob.core.windows.net/encodings/{}"
TIMEOUT_S: Final = 30.0  # without a byte
_MAX_JSON: Final = 8 << 20  # npm's o200k_base.json has 2.3 MB
_OTHERWISE: Final = (
    "without a network: `npm pack tiktoken` or `pip download --no-deps llama-index-core` "
    "elsewhere, then `ringcast tokenizers install --from FILE`"
)

# RuntimeError is zipfile's for what is encrypted.
_BROKEN: Final = (
    *(OSError, EOFError, RuntimeError, zipfile.BadZipFile, tarfile.TarError),
    *(zlib.error, lzma.LZMAError),
)

# A file somewhere: its name, its size, and how to read it.
Member: TypeAlias = tuple[str, int, Callable[[], IO[bytes] | None]]


class RanksError(RingcastError):
    """No rank file could be had; the text says why, and what would help."""


class _NpmRanks(msgspec.Struct):
    """npm's form: lines of `! RANK BASE64 BASE64 ...`, the ranks from there on."""

    bpe_ranks: str


def present() -> list[dict[str, Any]]:
    """Return each rank file with its encodings and, if it is there, its path."""
    return [
        {
            "file": file.name,
            "path": str(path) if (path := ranks.find(file)) else None,
            "encodings": [name for name, recipe in ranks.RECIPES.items() if recipe.file == key],
        }
        for key, file in ranks.FILES.items()
    ]


def install(
    source: Path | None = None, *, transport: httpx.BaseTransport | None = None
) -> list[Path]:
    """Install what a file, folder or archive holds, or without one what OpenAI's server has.

    Returns the paths of the installed files. Raises `RanksError`.
    """
    found = _found(source) if source else _downloaded(transport)
    folder = ranks.folders()[0]
    try:
        return [_stored(folder / file.name, data) for file, data in found.items()]
    except OSError as error:
        raise RanksError(f"{folder}: {error.strerror}") from None


def _stored(path: Path, data: bytes) -> Path:
    """Write a file under its name in one step: nobody finds half of it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink()
        raise
    return path


def _downloaded(transport: httpx.BaseTransport | None) -> dict[RankFile, bytes]:
    found = {}
    with httpx.Client(timeout=TIMEOUT_S, transport=transport) as client:
        for file in ranks.FILES.values():
            try:
                found[file] = _fetched(client, file)
            except httpx.HTTPError as error:
                why = str(error) or type(error).__name__
                raise RanksError(f"{URL.format(file.name)}: {why}; {_OTHERWISE}") from None
    return found


def _fetched(client: httpx.Client, file: RankFile) -> bytes:
    url, data = URL.format(file.name), bytearray()
    with client.stream("GET", url) as response:
        if response.status_code != 200:
            raise RanksError(f"{url}: HTTP status {response.status_code}; {_OTHERWISE}")
        for piece in response.iter_bytes():
            data += piece
            if len(data) > file.size:
                break
    if not file.is_in(bytes(data)):
        raise RanksError(f"{url}: not the known file (SHA-256 {file.sha256[:8]}…); {_OTHERWISE}")
    return bytes(data)


def _found(source: Path) -> dict[RankFile, bytes]:
    """Return the rank files in a source. Raises `RanksError` if there are none."""
    try:
        found = dict(_recognized(_members(source)))
    except _BROKEN as error:
        raise RanksError(f"{source}: {error}") from None
    if not found:
        wanted = " or ".join(
            f"{file.name} (SHA-256 {file.sha256[:8]}…)" for file in ranks.FILES.values()
        )
        raise RanksError(f"{source}: holds no {wanted}")
    return found


def _members(source: Path) -> Iterator[Member]:
    if source.is_dir():
        for folder, _, names in os.walk(source):
            yield from filter(None, (_plain(Path(folder, name)) for name in names))
    elif not source.is_file():  # of /dev/zero one would never see the end
        raise RanksError(f"{source}: is neither a file nor a folder")
    elif zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            for info in archive.infolist():
                yield info.filename, info.file_size, partial(archive.open, info)
    elif tarfile.is_tarfile(source):
        with tarfile.open(source) as archive:
            for member in filter(tarfile.TarInfo.isfile, archive):
                yield member.name, member.size, partial(archive.extractfile, member)
    else:
        yield source.name, source.stat().st_size, partial(_open, source)


def _plain(path: Path) -> Member | None:
    return (path.name, path.stat().st_size, partial(_open, path)) if path.is_file() else None


def _open(path: Path) -> IO[bytes]:
    return path.open("rb")


def _recognized(members: Iterator[Member]) -> Iterator[tuple[RankFile, bytes]]:
    for name, size, opened in members:
        for key, file in ranks.FILES.items():
            as_json = Path(name).name == f"{key}.json" and size <= _MAX_JSON
            if not (as_json or size == file.size) or (stream := opened()) is None:
                continue
            with stream:
                data = stream.read(size)
            if as_json:
                data = _converted(data)
            if file.is_in(data):
                yield file, data


def _converted(data: bytes) -> bytes:
    """Return npm's JSON as a rank file; nothing if it is another JSON."""
    try:
        lines = msgspec.json.decode(data, type=_NpmRanks).bpe_ranks.splitlines()
        return "".join(line for text in lines for line in _lines(text)).encode()
    except (msgspec.DecodeError, ValueError, RecursionError):
        return b""


def _lines(text: str) -> Iterator[str]:
    """Turn `! 7 QQ== Qg==` into `QQ== 7` and `Qg== 8`."""
    _, first, *tokens = text.split(" ")
    for rank, token in enumerate(tokens, int(first)):
        yield f"{token} {rank}\n"
