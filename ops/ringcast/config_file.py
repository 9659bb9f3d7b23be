"""The configuration file: where it is, and how TOML becomes the tree.

Unknown keys are refused with the nearest known one; every problem is reported, not only the first.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args, get_origin

import msgspec

from ringcast.config import Config, Key, complete
from ringcast.config_rules import nearest, problems_of
from ringcast.errors import ConfigError

Json: TypeAlias = dict[str, Any]
MAX_CONFIG_BYTES: Final = 1 << 20


def default_path() -> Path:
    """Return where the configuration is looked for: `$RINGCAST_CONFIG`, else the XDG place."""
    named = os.environ.get("RINGCAST_CONFIG")
    if named:
        return Path(named).expanduser()
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "ringcast" / "config.toml"


def load(path: Path | None = None) -> Config:
    """Read, check and complete the configuration; no file at the XDG place is fine.

    Raises `ConfigError` naming the file and every setting at fault.
    """
    chosen = path or default_path()
    if path is None and not os.environ.get("RINGCAST_CONFIG") and not chosen.exists():
        return complete(Config())
    config = parse(_read(chosen), str(chosen))
    return complete(config)


def _read(path: Path) -> str:
    try:
        if not path.is_file():
            raise ConfigError(
                f"{path}: {'not a regular file' if path.exists() else 'no such file'}"
            )
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    if len(data) > MAX_CONFIG_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 (byte {error.start})") from None


def parse(text: str, source: str = "config") -> Config:
    """Turn TOML into the tree. Raises `ConfigError` listing all problems at once."""
    try:
        tree = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also numbers of 5,000 digits, deep arrays
        raise ConfigError(f"{source}: {error}") from None
    problems: list[str] = []
    sound = _sifted(tree, Config, "", problems)
    config = msgspec.convert(sound, Config)
    problems += problems_of(config)
    if problems:
        raise ConfigError("\n".join(f"{source}: {problem}" for problem in problems))
    return config


def _sifted(tree: Json, shape: Any, where: str, problems: list[str]) -> Json | None:
    """Return what of a table fits `shape`, None if too little does; note what does not."""
    fields = {field.encode_name: field for field in msgspec.structs.fields(shape)}
    sound: Json = {}
    for name, value in tree.items():
        if name not in fields:
            problems.append(f"unknown setting {where}{name}{nearest(name, list(fields), where)}")
        elif (fitting := _fitting(value, fields[name].type, where + name, problems)) is not None:
            sound[name] = fitting
    needed = {name for name, field in fields.items() if field.required}
    problems += [f"{where}{name}: must be given" for name in sorted(needed - tree.keys())]
    return sound if needed <= sound.keys() else None


def _fitting(value: Any, type_: Any, where: str, problems: list[str]) -> Any:
    """Return a setting's value without what is wrong in it, None (TOML has none) for nothing."""
    shape = next((one for one in (type_, *get_args(type_)) if _is_table(one)), None)
    if shape is not None and isinstance(value, dict) and get_origin(type_) is not list:
        if get_origin(type_) is not dict:
            return _sifted(value, shape, f"{where}.", problems)
        inner = {k: _fitting(v, shape, f"{where}.{k}", problems) for k, v in value.items()}
        return {k: v for k, v in inner.items() if v is not None}
    try:
        return msgspec.convert(value, type_, strict=True)
    except msgspec.ValidationError as error:
        problems.append(f"{where}: {error}{_hint(type_, shape)}")
        return None


def _hint(type_: Any, shape: Any) -> str:
    """Return what a setting may be, where the decoder's own text does not say it."""
    if shape is Key:
        return ' (write { env = "NAME" }, or file, command, keyring; never the key itself)'
    if get_origin(type_) is Literal:
        return f" (must be one of {', '.join(get_args(type_))})"
    return ""


def _is_table(type_: Any) -> bool:
    return isinstance(type_, type) and issubclass(type_, msgspec.Struct)
