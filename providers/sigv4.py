"""AWS Signature Version 4, pure: a request and keys in, a header out.

Source: docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html, for
services other than S3: the path, encoded already, is encoded once more.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime
from typing import Final
from urllib.parse import quote

import msgspec

ALGORITHM: Final = "AWS4-HMAC-SHA256"
STAMP: Final = "%Y%m%dT%H%M%SZ"


class Keys(msgspec.Struct, frozen=True):
    """An access key; `token` belongs to temporary ones."""

    access_key: str
    secret_key: str
    token: str = ""

    def __repr__(self) -> str:
        """Show nothing."""
        return "Keys(***)"


class Scope(msgspec.Struct, frozen=True):
    """What a signature is good for."""

    region: str
    service: str

    def on(self, stamp: str) -> str:
        """Return the credential scope of a day."""
        return f"{stamp[:8]}/{self.region}/{self.service}/aws4_request"


def sign(
    method: str,
    target: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    scope: Scope,
    keys: Keys,
    at: datetime,
) -> dict[str, str]:
    """Return the headers to add: `x-amz-date`, the token if there is one, `authorization`.

    `target` is the encoded path with the query as they are sent, `headers` what is to be signed
    (`host` at least), `at` the time in UTC.
    """
    stamp = at.strftime(STAMP)
    added = {"x-amz-date": stamp} | ({"x-amz-security-token": keys.token} if keys.token else {})
    signed = {name.lower(): " ".join(value.split()) for name, value in headers.items()} | added
    digest = hashlib.sha256(canonical(method, target, signed, body).encode()).hexdigest()
    text = "\n".join((ALGORITHM, stamp, scope.on(stamp), digest))
    signature = _hmac(_signing_key(keys.secret_key, stamp, scope), text).hex()
    credential = f"{keys.access_key}/{scope.on(stamp)}"
    names = ";".join(sorted(signed))
    value = f"{ALGORITHM} Credential={credential}, SignedHeaders={names}, Signature={signature}"
    return added | {"authorization": value}


def canonical(method: str, target: str, headers: Mapping[str, str], body: bytes) -> str:
    """Return the canonical request; `headers` are trimmed, their names in lower case."""
    path, _, query = target.partition("?")
    lines = [method.upper(), _path(path), _query(query)]
    lines += [f"{name}:{headers[name]}" for name in sorted(headers)]
    lines += ["", ";".join(sorted(headers)), hashlib.sha256(body).hexdigest()]
    return "\n".join(lines)


def _path(path: str) -> str:
    """Resolve `.`, `..` and empty segments (RFC 3986, 5.2.4), and encode what is encoded."""
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            kept = kept[:-1]
        elif segment not in ("", "."):
            kept.append(segment)
    last = "/" if kept and path.endswith("/") else ""
    return quote("/" + "/".join(kept) + last, safe="/~")


def _query(query: str) -> str:
    pairs = sorted(pair.partition("=")[::2] for pair in query.split("&")) if query else []
    return "&".join(f"{name}={value}" for name, value in pairs)


def _signing_key(secret_key: str, stamp: str, scope: Scope) -> bytes:
    key = f"AWS4{secret_key}".encode()
    for part in (stamp[:8], scope.region, scope.service, "aws4_request"):
        key = _hmac(key, part)
    return key


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")
