"""Kinds of providers, built in and installed, and the ways to those that are configured."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeAlias, get_args

import pytest

import ringcast
from ringcast import config, config_file
from ringcast.config import Key, Provider
from ringcast.errors import ConfigError
from ringcast.providers import kinds, request
from ringcast.providers.credentials import Anonymous
from ringcast.providers.registry import ProviderRegistry

Install: TypeAlias = Callable[..., None]
REGISTRY: Final = ProviderRegistry()
URL: Final = "http://127.0.0.1:9/v1"
KEY: Final = "sk-canary-0123456789"
MINE: Final = """
import sys
from ringcast.errors import ConfigError
from ringcast.providers.openai import OpenAI
from ringcast.providers.vendor import Vendor

class Mine(OpenAI):
    apis = ("chat",)

class Picky(Mine):
    def __init__(self, config):
        raise LookupError("no moon")

class Half(Vendor):
    apis = ("chat",)

class Mute(Mine):
    apis = ("telepathy",)

NOT_A_CLASS = 7
"""
POINTS: Final = """
[ringcast.providers]
mine = its_vendor:Mine
picky = its_vendor:Picky
half = its_vendor:Half
mute = its_vendor:Mute
number = its_vendor:NOT_A_CLASS
absent = its_vendor:Absent
nowhere = no_such_module_of_theirs:X
openai = its_vendor:Mine
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a package beside the installed ones, as an installer would."""

    def put(name: str = "ringcast-mine") -> None:
        folder = tmp_path / name
        info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir(parents=True)
        (folder / "its_vendor.py").write_text(MINE)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(POINTS)
        monkeypatch.syspath_prepend(folder)

    kinds._installed.cache_clear()
    yield put
    kinds._installed.cache_clear()
    sys.modules.pop("its_vendor", None)


def refused(kind: str) -> str:
    with pytest.raises(ConfigError) as caught:
        REGISTRY.create("p", Provider(kind, URL), {})
    return str(caught.value)


def test_all_kinds_are_listed(install: Install) -> None:
    assert REGISTRY.list() == list(get_args(config.Kind))
    install()
    added = ["absent", "half", "mine", "mute", "nowhere", "number", "picky"]
    assert REGISTRY.list() == [*get_args(config.Kind), *added]


@pytest.mark.parametrize("kind", get_args(config.Kind))
def test_every_built_in_kind_has_a_vendor(kind: str) -> None:
    whole = Provider(kind, URL, project="p", location="l", region="us-east-1")
    assert kinds.vendor(whole).config == whole


def test_a_provider_is_opened_by_its_kind_alone() -> None:
    gateway = REGISTRY.create("groq", environment={"GROQ_API_KEY": KEY})
    assert gateway.config.base_url == config.BASE_URLS["groq"]
    assert (gateway.name, gateway.credential.source) == ("groq", "GROQ_API_KEY")


def test_several_of_one_kind() -> None:
    names = ["a", "b"]
    ways = [REGISTRY.create(n, Provider("openai-compatible", f"http://{n}/v1"), {}) for n in names]
    assert [way.config.base_url for way in ways] == ["http://a/v1", "http://b/v1"]
    assert [way.name for way in ways] == names


def test_an_installed_kind_is_imported_when_it_is_opened(install: Install) -> None:
    install()
    parsed = config_file.parse(f'[providers.p]\nkind = "mine"\nbase_url = "{URL}"')
    assert "its_vendor" not in sys.modules
    gateway = REGISTRY.create("p", parsed.providers["p"], {})
    assert type(gateway.vendor) is sys.modules["its_vendor"].Mine
    assert isinstance(gateway.credential, Anonymous)
    asked = request.of(model="p/m", messages=[{"role": "user", "content": "hi"}])
    api, call = gateway.shape("m", asked)
    assert (api, call.path) == ("chat", "/chat/completions")


def test_what_is_built_in_cannot_be_replaced(install: Install) -> None:
    install()
    assert "its_vendor" not in type(REGISTRY.create("p", Provider("openai", URL)).vendor).__module__


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("picky", "its_vendor:Picky of ringcast-mine cannot be opened: LookupError: no moon"),
        ("half", "its_vendor:Half of ringcast-mine lacks capabilities, generate, models, read_"),
        ("mute", "its_vendor:Mute of ringcast-mine has no apis; there are chat, "),
        ("number", "its_vendor:NOT_A_CLASS of ringcast-mine is no subclass of Vendor"),
        ("absent", "its_vendor:Absent of ringcast-mine cannot be imported: AttributeError: "),
        ("nowhere", "no_such_module_of_theirs:X of ringcast-mine cannot be imported: Module"),
    ],
)
def test_one_that_is_broken_is_named(kind: str, why: str, install: Install) -> None:
    install()
    assert refused(kind).startswith(f"kind {kind!r}: {why}")


def test_two_packages_with_one_kind(install: Install) -> None:
    install("ringcast-mine")
    install("ringcast-other")
    text = refused("mine")
    assert text == "kind 'mine' comes with ringcast-other and ringcast-mine: uninstall one of them"


def test_an_unknown_kind_names_the_nearest(install: Install) -> None:
    install()
    assert refused("antropic") == "unknown kind of provider 'antropic' (did you mean anthropic?)"
    assert refused("minne") == "unknown kind of provider 'minne' (did you mean mine?)"
    assert refused("zzz").startswith("unknown kind of provider 'zzz' (there are openai, ")


def test_the_configuration_names_file_setting_and_nearest_kind(
    install: Install, tmp_path: Path
) -> None:
    install()
    file = tmp_path / "config.toml"
    file.write_text(f'[providers.p]\nkind = "minne"\nbase_url = "{URL}"')
    with pytest.raises(ConfigError) as caught:
        config_file.load(file)
    text = f"{file}: providers.p.kind = 'minne': unknown (did you mean mine?)"
    assert str(caught.value) == text
    file.write_text('[providers.p]\nkind = "mine"')
    with pytest.raises(ConfigError, match=r"providers\.p\.base_url: needed for this kind"):
        config_file.load(file)


def test_a_way_for_each_key() -> None:
    provider = Provider("openai", keys=[Key(env="A"), Key(env="B")])
    environment = {"A": KEY, "B": KEY[::-1], "OPENAI_API_KEY": "sk-not-asked-for"}
    ways, missing = REGISTRY.create_all("openai", provider, environment)
    assert missing == []
    assert [way.name for way in ways] == ["openai#1", "openai#2"]
    assert [way.credential.source for way in ways] == ["A", "B"]
    assert ways[1].credential.mask(KEY[::-1].encode()) == b"[masked]"
    first = REGISTRY.create("openai", provider, environment)
    assert (first.name, first.credential.source) == ("openai", "A")
    assert KEY not in repr(ways)


def test_one_way_without_keys() -> None:
    assert [way.name for way in REGISTRY.create_all("ollama", environment={}).ways] == ["ollama"]


def test_a_key_that_is_missing_is_named_and_the_others_go_on() -> None:
    provider = Provider("openai", keys=[Key(env="A"), Key(env="B"), Key(env="C")])
    ways, missing = REGISTRY.create_all("openai", provider, {"A": KEY, "C": KEY})
    assert [(way.name, way.key) for way in ways] == [
        ("openai#1", "keys[0]"),
        ("openai#3", "keys[2]"),
    ]
    assert missing == ["keys[1]: B is not set"]


def test_without_any_of_its_keys_there_is_no_way() -> None:
    provider = Provider("openai", keys=[Key(env="A"), Key(env="B")])
    with pytest.raises(ConfigError, match=r"^keys\[0\]: A is not set; keys\[1\]: B is not set$"):
        REGISTRY.create_all("openai", provider, {})


def test_the_variables_of_all_keys_are_secret() -> None:
    provider = Provider("openai", keys=[Key(env="A"), Key(env="B")])
    assert config.secret_variables(config.Config({"p": provider})) == {"A", "B"}


def test_keys_stand_in_for_the_usual_variable() -> None:
    tree = config.complete(config_file.parse('[providers.openai]\nkind="openai"\nkeys=[{env="A"}]'))
    assert tree.providers["openai"].key is None


def test_it_is_public() -> None:
    assert ringcast.ProviderRegistry is ProviderRegistry
