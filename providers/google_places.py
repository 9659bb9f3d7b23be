"""Where Google's own tools look on a machine: variables, credentials files, gcloud's folder.

Application Default Credentials in their order: a file named by the configuration or by
`GOOGLE_APPLICATION_CREDENTIALS`, the one that gcloud keeps, the metadata server.
Source: cloud.google.com/docs/authentication/application-default-credentials
"""

from __future__ import annotations

import configparser
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from ringcast.config import Provider
from ringcast.errors import ConfigError

VARIABLE: Final = "GOOGLE_APPLICATION_CREDENTIALS"
MAX_FILE_BYTES: Final = 64 << 10
_PROJECTS: Final = ("GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT", "ANTHROPIC_VERTEX_PROJECT_ID")
_LOCATIONS: Final = ("GOOGLE_CLOUD_LOCATION", "GOOGLE_CLOUD_REGION", "CLOUD_ML_REGION")
_MACHINE: Final = Path("/sys/class/dmi/id/product_name")


class File(msgspec.Struct, frozen=True):
    """What of a credentials file is no secret."""

    type: str = ""
    project_id: str = ""
    quota_project_id: str = ""


class Places:
    """Where Google's own tools look on this machine."""

    def __init__(self, provider: Provider, environment: Mapping[str, str]) -> None:
        """The configuration's own file comes before all others."""
        home = Path(environment.get("HOME") or Path.home())
        self.folder = Path(environment.get("CLOUDSDK_CONFIG") or home / ".config" / "gcloud")
        self.kept = self.folder / "application_default_credentials.json"
        self.named = provider.credentials or environment.get(VARIABLE, "")
        self._environment = environment

    def file(self) -> Path | None:
        """Return the credentials file, or None for the metadata server. Raises `ConfigError`."""
        if self.named:
            return Path(self.named).expanduser()
        if self.kept.is_file():
            return self.kept
        if any(self._environment.get(name) for name in ("GCE_METADATA_HOST", "K_SERVICE")):
            return None
        if _on_google():
            return None
        raise ConfigError(
            f"no credentials: neither the setting credentials nor {VARIABLE} is given, there is no "
            f"{self.kept} (gcloud auth application-default login), and this is no Google machine"
        )

    def project(self, said: File) -> str:
        """Return the project. Raises `ConfigError` if nothing names one."""
        named = next(filter(None, map(self._environment.get, _PROJECTS)), "")
        project = named or said.project_id or said.quota_project_id or self._gcloud()
        if not project:
            raise ConfigError(
                f"no project: neither the setting project nor {', '.join(_PROJECTS)} is given, and "
                f"neither the credentials file nor {self.folder} has one"
            )
        return project

    def location(self) -> str:
        """Return the location; all models that need none are at `global`."""
        return next(filter(None, map(self._environment.get, _LOCATIONS)), "global")

    def _gcloud(self) -> str:
        """Return the project of gcloud's active configuration."""
        parser = configparser.RawConfigParser(strict=False)
        name = self._environment.get("CLOUDSDK_ACTIVE_CONFIG_NAME") or "default"
        try:
            parser.read(self.folder / "configurations" / f"config_{name}", encoding="utf-8")
        except (configparser.Error, OSError, UnicodeDecodeError):
            return ""
        return parser.get("core", "project", fallback="")


def _on_google() -> bool:
    try:
        return _MACHINE.read_text(encoding="ascii").startswith("Google")
    except (OSError, UnicodeDecodeError):
        return False


def read(path: Path) -> tuple[File, dict[str, Any]]:
    """Read a credentials file. Raises `ConfigError`, which shows nothing of it."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES)
        said = msgspec.json.decode(data, type=File)
        return said, msgspec.json.decode(data, type=dict[str, Any])
    except OSError as error:
        raise ConfigError(f"credentials file {path}: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise ConfigError(f"credentials file {path} is not one: no JSON of that form") from None
