"""What is installed: every package once, under its own name, and as light as it should be."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("httpx", "uvloop", "tiktoken", "psutil", "click", "rich", "multiprocessing")
NO_CODE = ("*.egg-info", ".*", "__pycache__", "build", "dist", "tests")


def setting(name: str) -> Any:
    """A table of pyproject.toml's [tool.setuptools]."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return project["tool"]["setuptools"][name]


def packages(folder: Path, name: str) -> Iterator[str]:
    """Names of the packages below a folder; what is behind a link belongs elsewhere."""
    if any(folder.glob("*.py")):
        yield name
    for inner in sorted(folder.iterdir()):
        if inner.is_dir() and not inner.is_symlink() and inner.name.isidentifier():
            yield from packages(inner, f"{name}.{inner.name}")


def test_every_package_is_listed() -> None:
    found = {
        package
        for name, folder in setting("package-dir").items()
        for package in packages(ROOT / folder, name)
    }
    assert found == set(setting("packages"))


def test_every_link_leads_to_the_folder_that_is_installed() -> None:
    links = {path.name: path for path in (ROOT / "ops/ringcast").iterdir() if path.is_symlink()}
    assert links.keys() == {"bench", "broker", "providers", "shm", "soak", "workers"}
    for name, link in links.items():
        assert not link.readlink().is_absolute()
        assert link.resolve() == ROOT / setting("package-dir")[f"ringcast.{name}"]


def imported(statement: str) -> set[str]:
    """Top-level modules that are loaded after a statement."""
    code = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={"PYTHONPATH": str(ROOT / "ops")},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return set(done.stdout.split())


def test_the_client_is_light() -> None:
    modules = imported("import ringcast; ringcast.connect")
    assert {"ringcast", "zmq", "msgspec"} <= modules
    assert modules.isdisjoint(HEAVY)


@pytest.mark.parametrize(
    ("module", "without"),
    [
        ("ringcast", ("zmq", "msgspec", "asyncio", *HEAVY)),
        ("ringcast.workers.process", ("httpx", "tiktoken", "zmq", "asyncio")),
        ("ringcast.broker.process", ("httpx", "tiktoken", "click", "rich")),
        ("ringcast.providers.process", ("tiktoken", "psutil")),
        ("ringcast.preload", ("tiktoken", "click", "rich", "pygments", "psutil")),
    ],
)
def test_a_process_imports_what_its_role_needs(module: str, without: tuple[str, ...]) -> None:
    assert imported(f"import {module}").isdisjoint(without)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names of the files in a wheel, built from a copy, so that the tree stays as it is."""
    pytest.importorskip("setuptools", minversion="77", reason="the build needs setuptools 77")
    place = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, place / "tree", symlinks=True, ignore=shutil.ignore_patterns(*NO_CODE))
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [*command, "--wheel-dir", str(place), str(place / "tree")], check=True, timeout=100
    )
    (built,) = place.glob("*.whl")
    return zipfile.ZipFile(built).namelist()


def test_a_wheel_holds_ringcast_and_nothing_else(wheel: list[str]) -> None:
    tops = {name.partition("/")[0] for name in wheel}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"ringcast"}
    assert len(wheel) == len(set(wheel))


def test_a_wheel_holds_every_module_and_what_goes_with_them(wheel: list[str]) -> None:
    expected = {"ringcast/py.typed", "ringcast/providers/spending/prices.toml"}
    for name in setting("packages"):
        folder = ROOT / "ops" / name.replace(".", "/")
        expected |= {f"{name.replace('.', '/')}/{path.name}" for path in folder.glob("*.py")}
    bodies = ROOT / "ops/ringcast/replay/bodies"
    expected |= {f"ringcast/replay/bodies/{path.name}" for path in bodies.iterdir()}
    assert {name for name in wheel if name.startswith("ringcast/")} == expected
