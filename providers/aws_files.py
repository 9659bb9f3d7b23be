"""What AWS's tools leave on a machine: variables that point at keys, and two files of profiles.

Sources: docs.aws.amazon.com/sdkref/latest/guide (file-format, standardized-credentials).
"""

from __future__ import annotations

import configparser
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ringcast.errors import ConfigError

BEARER: Final = "AWS_BEARER_TOKEN_BEDROCK"
KEY_ID, SECRET_KEY, TOKEN = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"
_POINTERS: Final = (
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
# What a profile has that gives keys, itself or by way of others.
_GIVING: Final = (
    "aws_access_key_id",
    "credential_process",
    "login_session",
    "role_arn",
    "sso_session",
    "sso_start_url",
    "web_identity_token_file",
)
_MACHINE: Final = Path("/sys/class/dmi/id/sys_vendor")


class Files:
    """What AWS's shared files say of one profile."""

    def __init__(self, profile: str, environment: Mapping[str, str]) -> None:
        """Without a `profile` it is the environment's, or `default`."""
        home = Path(environment.get("HOME") or Path.home()) / ".aws"
        self.config = Path(environment.get("AWS_CONFIG_FILE") or home / "config").expanduser()
        self.credentials = Path(
            environment.get("AWS_SHARED_CREDENTIALS_FILE") or home / "credentials"
        ).expanduser()
        named = environment.get("AWS_PROFILE") or environment.get("AWS_DEFAULT_PROFILE")
        self.profile = profile or named or "default"
        self._section = self.profile if self.profile == "default" else f"profile {self.profile}"
        self._environment = environment

    def region(self) -> str:
        """Return the profile's region, or nothing."""
        return _ini(self.config).get(self._section, "region", fallback="")

    def source(self) -> str:
        """Say where keys should be found. Raises `ConfigError` if nothing looks like it."""
        if self._gives(self.config, self._section) or self._gives(self.credentials, self.profile):
            return f"profile {self.profile} of AWS"
        for name in _POINTERS:
            if self._environment.get(name):
                return name
        if _on_aws() and self._environment.get("AWS_EC2_METADATA_DISABLED") != "true":
            return "the instance's metadata"
        raise ConfigError(
            f"no credentials: neither {BEARER} nor {KEY_ID} with {SECRET_KEY} nor "
            f"{', '.join(_POINTERS)} is set, no profile {self.profile} in {self.config} "
            f"or {self.credentials} has any, and this is no EC2 instance"
        )

    def _gives(self, path: Path, section: str) -> bool:
        """Whether a section says more than a region: where keys are, or who has them."""
        ini = _ini(path)
        return ini.has_section(section) and any(ini.has_option(section, one) for one in _GIVING)


def _ini(path: Path) -> configparser.RawConfigParser:
    ini = configparser.RawConfigParser(strict=False, allow_no_value=True)
    try:
        ini.read(path, encoding="utf-8")
    except (configparser.Error, OSError, UnicodeDecodeError) as error:  # its text may show a key
        raise ConfigError(f"{path} cannot be read: {type(error).__name__}") from None
    return ini


def _on_aws() -> bool:
    try:
        return _MACHINE.read_text(encoding="ascii").startswith("Amazon EC2")
    except (OSError, UnicodeDecodeError):
        return False
