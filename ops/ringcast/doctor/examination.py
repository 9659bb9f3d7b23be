"""`ringcast doctor`: everything that may keep a daemon from working, and how to mend it."""

from __future__ import annotations

import ipaddress
import os
from collections import defaultdict
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from rich.console import Console
from rich.text import Text

from ringcast import __version__, child, config, config_file, inspection, rundir
from ringcast.config import Config, Provider
from ringcast.doctor import machine
from ringcast.doctor.finding import Finding, Level
from ringcast.errors import ConfigError, NotRunning, RingcastError, RunDirError
from ringcast.providers.registry import ProviderRegistry
from ringcast.providers.spending import usage_file
from ringcast.shm import layout
from ringcast.shm.segment import DIRECTORY, PREFIX

_COLOURS: Final = {"ok": "green", "note": "cyan", "warning": "yellow", "fault": "bold red"}


def examine(run_dir: Path, config_path: Path | None) -> list[Finding]:
    """Examine machine, configuration and daemon; nothing is changed, no key is shown.

    Keys are looked up as the daemon would: commands that print one are run.
    """
    findings, tree = _configuration(config_path)
    return [
        *machine.examine(tree),
        *findings,
        *_providers(tree),
        _usage_file(tree.usage),
        _run_directory(run_dir),
        _daemon(run_dir),
        _leftovers(DIRECTORY),
    ]


def print_findings(findings: list[Finding]) -> None:
    """Print a line each for people, with the way to mend it below."""
    console = Console(highlight=False)
    for finding in findings:
        line = Text(f"{finding.level:<8}", _COLOURS[finding.level])
        line.append(f" {finding.subject:<18} ", "bold").append(finding.text, "default")
        console.print(line, soft_wrap=True)
        if finding.mend:
            console.print(Text(f"{'':28}-> {finding.mend}", "dim"), soft_wrap=True)


def _configuration(path: Path | None) -> tuple[list[Finding], Config]:
    """Read the configuration; where it cannot be read, go on with the defaults."""
    chosen = path or config_file.default_path()
    try:
        tree = config_file.load(path)
    except ConfigError as error:
        faults = [Finding("fault", "configuration", line) for line in str(error).splitlines()]
        return faults, config.complete(Config())
    if path is None and not chosen.exists():
        text = f"no file at {chosen}: defaults, and keys from the usual variables"
        return [Finding("ok", "configuration", text)], tree
    return [Finding("ok", "configuration", str(chosen))], tree


def _providers(tree: Config) -> Iterator[Finding]:
    for name, provider in tree.providers.items():
        finding, provider = _access(name, provider)
        yield finding
        host = urlsplit(provider.base_url).hostname or ""
        if provider.base_url.startswith("http://") and not _loopback(host):
            text = f"base_url is http:// and {host} is not this machine: keys go unencrypted"
            yield Finding("warning", name, text, f"use https:// in providers.{name}.base_url")


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _access(name: str, provider: Provider) -> tuple[Finding, Provider]:
    """Return what is found, and the provider with what the machine says of it."""
    try:
        ways, missing = ProviderRegistry().create_all(name, provider)
    except ConfigError as error:
        return _missing(name, provider, str(error)), provider
    if missing:
        return _missing(name, provider, "; ".join(missing)), ways[0].config
    located, sources = ways[0].config, [way.credential.source for way in ways]
    return Finding("ok", name, _proof(provider, located, sources)), located


def _proof(provider: Provider, located: Provider, sources: list[str]) -> str:
    """Say by what a provider is told who asks."""
    if provider.keys:
        return f"{len(sources)} keys found ({', '.join(sources)})"
    if not sources[0]:
        return f"needs no key ({located.base_url})"
    if provider.key is not None:
        return f"key found ({sources[0]})"
    return f"{located.base_url}, by {sources[0]}"


def _missing(name: str, provider: Provider, why: str) -> Finding:
    key = provider.key
    if key is not None and key.env is not None:
        return Finding("note", name, f"no key: {why}", f"export {key.env}=..., then start")
    if provider.keys:
        return Finding("warning", name, f"a key is missing: {why}", f"see providers.{name}.keys")
    if key is None and name in config.FOUND:  # nobody has asked for it
        return Finding("note", name, why, f"see [providers.{name}] in the README")
    return Finding("warning", name, f"no key: {why}", f"see providers.{name}.key")


def _usage_file(settings: config.Usage) -> Finding:
    """Whether what is used can be written down; with a budget it must be known after a restart."""
    if not settings.keep:
        return Finding("ok", "usage file", "nothing is written down (usage.keep = false)")
    path = usage_file.path_of(settings.file)
    mend = "move it away, or name another as usage.file"
    level: Level = "fault" if settings.daily_usd else "warning"
    try:
        usage_file.read(path, date.today().isoformat())
    except usage_file.UsageFileError as error:
        return Finding(level, "usage file", str(error), mend)
    nearest = next(one for one in (path, *path.parents) if one.exists())
    if not os.access(nearest, os.W_OK):
        return Finding(level, "usage file", f"{path}: {nearest} is not ours to write", mend)
    text = str(path) if nearest == path else f"{path} will be made by the first request"
    return Finding("ok", "usage file", text)


def _run_directory(path: Path) -> Finding:
    try:
        rundir.measure(path)
        if not os.path.lexists(path):
            return Finding("ok", "run directory", f"{path} will be made by the first start")
        rundir.verify(path)
    except RunDirError as error:
        return Finding("fault", "run directory", str(error), "or choose another with --run-dir")
    return Finding("ok", "run directory", f"{path}, mode 0700, ours")


def _daemon(path: Path) -> Finding:
    try:
        report = inspection.status(path)
    except NotRunning as error:
        return _silent(path, str(error))
    except RunDirError:
        return Finding("note", "daemon", "cannot run before the run directory is in order")
    except RingcastError as error:
        return Finding("fault", "daemon", str(error), "ringcast stop, then ringcast start")
    text = f"pid {report['pid']} is {report['status']}, version {report['version']}"
    if report["version"] != __version__:
        mend = "ringcast stop, then ringcast start"
        return Finding("warning", "daemon", f"{text}, but this is {__version__}", mend)
    return Finding("ok", "daemon", text)


def _silent(path: Path, why: str) -> Finding:
    """No answer: nothing runs, or something hangs, or something was killed."""
    state = rundir.read(path)
    if rundir.locked(path):
        mend = f"kill {state.pid}" if state else "look again: it may be starting"
        return Finding("fault", "daemon", f"{path / rundir.LOCK} is held, but {why}", mend)
    if state is not None or (path / rundir.LOCK).exists():
        who = f"a daemon (pid {state.pid})" if state else "a daemon"
        text = f"{who} was killed here and left its lock; nobody holds it"
        return Finding("note", "daemon", text, "ringcast start, which cleans up")
    return Finding("note", "daemon", "not running", "ringcast start")


def _leftovers(directory: Path) -> Finding:
    """Find segments of this user whose owner is dead (their rings say who it is)."""
    families: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(directory.glob(f"{PREFIX}-{os.getuid()}-*-*")):
        families[path.name.rpartition("-")[0]].append(path)
    dead = {name: paths for name, paths in families.items() if not _owned(paths)}
    if not dead:
        return Finding("ok", "segments", f"none left behind ({len(families)} daemons have theirs)")
    names = ", ".join(path.name for paths in dead.values() for path in paths)
    mend = "rm " + " ".join(f"{directory}/{name}-*" for name in dead)
    return Finding("warning", "segments", f"left behind by dead daemons: {names}", mend)


def _owned(paths: list[Path]) -> bool:
    """Whether the owner of one daemon's segments is alive, or not told yet (they are new)."""
    owners = [owner for path in paths if (owner := _owner(path))]
    return not owners or any(child.start_time(pid) == start for pid, start in owners)


def _owner(path: Path) -> tuple[int, int] | None:
    """Pid and start time in a ring's header (R1); None for what is no ring, or gone meanwhile."""
    try:
        with path.open("rb") as file:
            words = memoryview(file.read(layout.DATA)).cast("Q")
    except (OSError, TypeError):  # TypeError: fewer bytes than words
        return None
    if len(words) < layout.W_DATA or words[layout.W_MAGIC] != layout.MAGIC:
        return None
    return words[layout.W_OWNER_PID], words[layout.W_OWNER_START]
