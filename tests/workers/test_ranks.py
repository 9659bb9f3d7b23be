"""Rank files: where they are found, that only sound ones count, and what is made of them."""

from __future__ import annotations

import base64
import hashlib
import importlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import tiktoken
from fakes.ranks import ALPHABET, DATA, expect, forget, install, needs_ranks, own_data
from hypothesis import given
from hypothesis import strategies as st

from ringcast import config, config_file
from ringcast.bench.tokens import private_mib
from ringcast.errors import ConfigError
from ringcast.workers import ranks

ROOT = Path(__file__).parents[2]
public: Any = importlib.import_module("tiktoken_ext.openai_public")  # has no types


@pytest.mark.parametrize("name", ranks.RECIPES)
def test_recipes_are_tiktokens_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, str] = {}

    def load(url: str, expected_hash: str) -> dict[bytes, int]:
        asked.update(url=url, sha256=expected_hash)
        return {b"a": 0}

    monkeypatch.setattr(public, "load_tiktoken_bpe", load)
    theirs = public.ENCODING_CONSTRUCTORS[name]()
    recipe = ranks.RECIPES[name]
    file = ranks.FILES[recipe.file]
    assert recipe.pattern == theirs["pat_str"]
    assert recipe.special == theirs["special_tokens"]
    assert asked["sha256"] == file.sha256
    assert asked["url"].endswith(f"/{file.name}")
    assert hashlib.sha1(asked["url"].encode()).hexdigest() == file.cached_as


def test_the_configuration_knows_all_of_them() -> None:
    assert set(config.ENCODINGS) == set(ranks.RECIPES)
    known = config_file.parse(f"[workers]\nranks = {list(ranks.RECIPES)}").workers.ranks
    assert known == list(ranks.RECIPES)
    with pytest.raises(ConfigError, match=r"workers\.ranks: no encoding is called 'p50k_base'"):
        config_file.parse('[workers]\nranks = ["p50k_base"]')


def test_what_may_be_installed_is_seen_without_reading_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget(monkeypatch, tmp_path)
    assert not ranks.are_installed()
    (tmp_path / ranks.FILES["o200k_base"].name).write_bytes(b"QQ== 0\n")
    assert not ranks.are_installed()
    install(monkeypatch, tmp_path)
    assert ranks.are_installed()


def test_where_they_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our variable, the XDG cache, tiktoken's variable; under our name, then tiktoken's."""
    file = expect(monkeypatch)["o200k_base"]
    data = own_data("o200k_base")
    own, cache, theirs = (tmp_path / name for name in ("own", "cache", "theirs"))
    monkeypatch.setenv("RINGCAST_TIKTOKEN_DIR", str(own))
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(theirs))
    assert ranks.folders() == [own, cache / "ringcast/tokenizers", theirs]
    assert ranks.find(file) is None
    for folder in reversed(ranks.folders()):
        folder.mkdir(parents=True)
        for name in (file.cached_as, file.name):
            (folder / name).write_bytes(data)
            assert ranks.find(file) == folder / name
    monkeypatch.delenv("RINGCAST_TIKTOKEN_DIR")
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR")
    assert ranks.folders() == [cache / "ringcast/tokenizers"]
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert ranks.folders() == [Path("~/.cache/ringcast/tokenizers").expanduser()]


@pytest.mark.parametrize("wrong", [b"", DATA, DATA[:-1] + b"!", DATA * 9], ids=len)
def test_a_wrong_file_is_passed_over_and_left_alone(
    wrong: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tmp_path)
    file = ranks.FILES["o200k_base"]
    (tmp_path / file.name).write_bytes(wrong)
    assert ranks.encoding("o200k_base") is None
    (tmp_path / file.cached_as).write_bytes(own_data("o200k_base"))
    assert ranks.find(file) == tmp_path / file.cached_as
    assert ranks.encoding("o200k_base") is not None
    assert (tmp_path / file.name).read_bytes() == wrong


def test_loaded_once_and_when_they_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget(monkeypatch, tmp_path)
    assert ranks.encoding("cl100k_base") is None
    install(monkeypatch, tmp_path)
    with ThreadPoolExecutor(4) as pool:
        loaded = set(map(id, pool.map(ranks.encoding, ["cl100k_base"] * 8)))
    assert len(loaded) == 1
    harmony, plain = ranks.encoding("o200k_harmony"), ranks.encoding("o200k_base")
    assert harmony is not None
    assert plain is not None
    assert harmony.encode_single_token("<|return|>") == 200002
    assert plain.encode_ordinary(" ring") == harmony.encode_ordinary(" ring")


def whole() -> tiktoken.Encoding:
    """The small ranks in an encoding that tiktoken would have made."""
    table = {base64.b64decode(line.split()[0]): int(line.split()[1]) for line in DATA.splitlines()}
    pattern = ranks.RECIPES["o200k_base"].pattern
    return tiktoken.Encoding("whole", pat_str=pattern, mergeable_ranks=table, special_tokens={})


WHOLE = whole()
OURS = ranks.build("ours", DATA, ranks.RECIPES["o200k_base"].pattern, {})


@given(st.text(st.sampled_from(ALPHABET + "xyZ😀")))
def test_nothing_is_missed_of_what_was_dropped(text: str) -> None:
    ids = OURS.encode_ordinary(text)
    assert ids == WHOLE.encode_ordinary(text)
    assert OURS.decode(ids) == text


@pytest.mark.parametrize("data", [b"", b"\n", b"QQ==\n", b"QQ== 0 1\n", b"QQ= 0\n", b"QQ== x\n"])
def test_what_is_no_rank_file_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        ranks.build("none", data, ".", {})


def test_nothing_is_imported_before_it_is_needed() -> None:
    """Also by counting: without ranks there is no use for tiktoken, and never for httpx."""
    code = (
        "import ringcast, sys; assert ringcast.TokenDecoder;"
        "print(ringcast.count_tokens('m', 'hi'));"
        "print({'tiktoken', 'httpx', 'zmq', 'asyncio'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={"PYTHONPATH": str(ROOT / "ops"), "RINGCAST_TIKTOKEN_DIR": "/", "HOME": "/nowhere"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "TokenCount(tokens=1, accuracy='estimate')\nset()\n"


@needs_ranks
@pytest.mark.parametrize(
    ("name", "ids"),
    [
        ("cl100k_base", [83, 1609, 5963, 374, 2294, 0]),
        ("o200k_base", [83, 8251, 2488, 382, 2212, 0]),
        ("o200k_harmony", [83, 8251, 2488, 382, 2212, 0]),
    ],
)
def test_the_real_ones(name: str, ids: list[int]) -> None:
    """OpenAI's own example (Cookbook, "How to count tokens with tiktoken")."""
    encoding = ranks.encoding(name)
    assert encoding is not None
    assert encoding.encode_ordinary("tiktoken is great!") == ids


@needs_ranks
def test_a_fork_that_counts_takes_little_for_itself() -> None:
    """The tables are shared: they hold no Python objects whose counts would be written."""
    assert ranks.encoding("o200k_base") is not None
    assert private_mib("gpt-4o") < 2
