"""`ringcast tokenizers`: rank files from every form they come in, and nothing else."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from fakes.ranks import expect, forget, install, own_data

from ringcast import tokenizers
from ringcast.tokenizers import RanksError
from ringcast.workers import ranks

ROOT = Path(__file__).parents[2]
KEYS = tuple(ranks.FILES)
DATA = {key: own_data(key) for key in KEYS}
CACHED = {key: file.cached_as for key, file in ranks.FILES.items()}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where rank files are installed: the small ones are known, and not there yet."""
    forget(monkeypatch, tmp_path / "home")
    expect(monkeypatch)
    return tmp_path / "home"


def as_npm(data: bytes) -> bytes:
    """Ranks as npm's tiktoken has them: runs of tokens behind the rank of the first."""
    tokens = [line.split()[0].decode() for line in data.splitlines()]
    runs = [f"! {i} {' '.join(tokens[i : i + 50])}" for i in range(0, len(tokens), 50)]
    return json.dumps({"pat_str": ".", "bpe_ranks": "\n".join(runs)}).encode()


def folder(path: Path) -> Path:
    for key, data in DATA.items():
        (path / "deep" / key).mkdir(parents=True)
        (path / "deep" / key / "of any name").write_bytes(data)
    (path / "deep" / "dangling").symlink_to("nowhere")
    return path


def npm_folder(path: Path) -> Path:
    (path / "encoders").mkdir(parents=True)
    for key, data in DATA.items():
        (path / "encoders" / f"{key}.json").write_bytes(as_npm(data))
    return path


def wheel(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, data in DATA.items():
            archive.writestr(f"llama_index/core/_static/tiktoken_cache/{CACHED[key]}", data)
        archive.writestr("llama_index/__init__.py", "")
    return path


def tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("package/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return path


def npm_package(path: Path) -> Path:
    return tar(path, {f"package/encoders/{key}.json": as_npm(DATA[key]) for key in KEYS})


def outward(path: Path) -> Path:
    """An archive whose names lead elsewhere: they are never used as paths."""
    return tar(path, {f"../../{key}.tiktoken": DATA[key] for key in KEYS})


@pytest.mark.parametrize("source", [folder, npm_folder, wheel, npm_package, outward])
def test_installed_from(source: Callable[[Path], Path], home: Path, tmp_path: Path) -> None:
    made = source(tmp_path / "source")
    before = set(tmp_path.parent.iterdir())
    assert set(tokenizers.install(made)) == {home / f"{key}.tiktoken" for key in KEYS}
    for key in KEYS:
        assert (home / f"{key}.tiktoken").read_bytes() == DATA[key]
    assert len(list(home.iterdir())) == len(KEYS)
    assert set(tmp_path.parent.iterdir()) == before
    assert [file["path"] for file in tokenizers.present()] == [
        str(home / f"{key}.tiktoken") for key in KEYS
    ]
    assert ranks.encoding("cl100k_base") is not None


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="there is no endless file")
def test_an_endless_file_is_no_source(home: Path) -> None:
    with pytest.raises(RanksError, match="/dev/zero: is neither a file nor a folder"):
        tokenizers.install(Path("/dev/zero"))


def test_a_single_file(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "download(1)"
    path.write_bytes(DATA["cl100k_base"])
    assert tokenizers.install(path) == [home / "cl100k_base.tiktoken"]
    assert [bool(file["path"]) for file in tokenizers.present()] == [False, True]
    json_file = tmp_path / "o200k_base.json"
    json_file.write_bytes(as_npm(DATA["o200k_base"]))
    assert tokenizers.install(json_file) == [home / "o200k_base.tiktoken"]


def test_installing_again_mends_a_wrong_file(home: Path, tmp_path: Path) -> None:
    home.mkdir()
    (home / "o200k_base.tiktoken").write_bytes(b"wrong")
    tokenizers.install(folder(tmp_path / "source"))
    assert ranks.find(ranks.FILES["o200k_base"]) == home / "o200k_base.tiktoken"


def broken_archives(path: Path) -> Iterator[Path]:
    whole = npm_package(path / "whole.tgz").read_bytes()
    zipped = bytearray(wheel(path / "whole.whl").read_bytes())
    zipped[200:300] = bytes(100)
    for name, data in (
        ("cut.tgz", whole[: len(whole) // 2]),
        ("bad.whl", bytes(zipped)),
        ("cut.whl", bytes(zipped[:-40])),
    ):
        (path / name).write_bytes(data)
        yield path / name


def test_broken_archives_are_refused(home: Path, tmp_path: Path) -> None:
    for path in broken_archives(tmp_path):
        with pytest.raises(RanksError, match=path.name):
            tokenizers.install(path)
    assert not home.exists()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("o200k_base.tiktoken", DATA["o200k_base"][:-1] + b"\r"),
        ("empty", b""),
        ("o200k_base.json", b"[" * 100_000),
        ("o200k_base.json", b'{"bpe_ranks": 1}'),
        ("o200k_base.json", b'{"bpe_ranks": "! x QQ=="}'),
        ("o200k_base.json", b'{"bpe_ranks": "!"}'),
        ("o200k_base.json", b'{"bpe_ranks": "\xff"}'),
        ("o200k_base.json", as_npm(DATA["cl100k_base"])),
    ],
)
def test_other_files_are_refused(name: str, data: bytes, home: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(RanksError, match=r"holds no o200k_base\.tiktoken \(SHA-256 "):
        tokenizers.install(tmp_path / name)
    assert not home.exists()


def test_nothing_is_left_half_written(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> Path:
        raise OSError(28, "No space left on device")

    source = folder(tmp_path / "source")
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(RanksError, match=r"home: No space left on device"):
        tokenizers.install(source)
    assert list(home.iterdir()) == []


def test_a_home_that_is_no_folder(home: Path, tmp_path: Path) -> None:
    home.touch()
    with pytest.raises(RanksError, match=r"home: File exists"):
        tokenizers.install(folder(tmp_path / "source"))


def server(answer: Callable[[str], httpx.Response]) -> httpx.MockTransport:
    return httpx.MockTransport(lambda request: answer(request.url.path.rpartition("/")[2]))


def test_downloaded(home: Path) -> None:
    def answer(name: str) -> httpx.Response:
        return httpx.Response(200, content=DATA[name.removesuffix(".tiktoken")])

    paths = tokenizers.install(transport=server(answer))
    assert paths == [home / f"{key}.tiktoken" for key in KEYS]
    assert all(file["path"] for file in tokenizers.present())


class Endless(httpx.SyncByteStream):
    """A body without an end; says how far it was read."""

    read = 0

    def __iter__(self) -> Iterator[bytes]:
        while True:
            self.read += 1000
            yield bytes(1000)


def test_a_server_that_never_ends(home: Path) -> None:
    body = Endless()
    with pytest.raises(RanksError, match="not the known file"):
        tokenizers.install(transport=server(lambda _: httpx.Response(200, stream=body)))
    assert body.read < 100_000
    assert not home.exists()


@pytest.mark.parametrize(
    ("response", "text"),
    [
        (httpx.Response(404), "HTTP status 404"),
        (httpx.Response(302, headers={"location": "http://elsewhere/"}), "HTTP status 302"),
        (httpx.Response(200, content=b"<html>"), "not the known file"),
        (httpx.ConnectError("Name or service not known"), "Name or service not known"),
        (httpx.ReadTimeout(""), "ReadTimeout"),
    ],
)
def test_a_download_that_fails(response: httpx.Response | Exception, text: str, home: Path) -> None:
    def answer(_: str) -> httpx.Response:
        if isinstance(response, Exception):
            raise response
        return response

    with pytest.raises(RanksError, match=f"{text}.*without a network: .*--from FILE"):
        tokenizers.install(transport=server(answer))
    assert not home.exists()


def ringcast(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    places = {"RINGCAST_TIKTOKEN_DIR": str(home), "XDG_CACHE_HOME": str(home)}
    return subprocess.run(
        [sys.executable, "-m", "ringcast", "tokenizers", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT / "ops"), "TIKTOKEN_CACHE_DIR": ""} | places,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_listed_for_people_and_programs(tmp_path: Path) -> None:
    done = ringcast(home=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"{key + '.tiktoken':<20} not installed" for key in KEYS]
    (listed, _) = json.loads(ringcast("--json", home=tmp_path).stdout)
    assert listed == {
        "file": "o200k_base.tiktoken",
        "path": None,
        "encodings": ["o200k_base", "o200k_harmony"],
    }


def test_refusals_are_a_line_and_a_status(tmp_path: Path) -> None:
    junk = tmp_path / "junk"
    junk.write_bytes(base64.b64encode(b"junk"))
    done = ringcast("install", "--from", str(junk), home=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"ringcast: {junk}: holds no ")
    assert len(done.stderr.splitlines()) == 1
    assert ringcast("install", "--from", str(tmp_path / "no"), home=tmp_path).returncode == 2


def test_what_is_there_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path)
    assert [file["path"] for file in tokenizers.present()] == [
        str(tmp_path / f"{key}.tiktoken") for key in KEYS
    ]
