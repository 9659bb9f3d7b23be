"""Google's token endpoint: it verifies what it is given, and its tokens run out."""

from __future__ import annotations

import base64
import functools
import time
import urllib.parse
from pathlib import Path
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from fakes.endpoint import Asked, reply

EMAIL = "tester@canary-project.iam.gserviceaccount.com"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
AUDIENCE = "https://oauth2.googleapis.com/token"
REFRESH_TOKEN = "1//canary-refresh-token"
CLIENT_SECRET = "canary-client-secret"
_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"


@functools.cache
def private_key() -> rsa.RSAPrivateKey:
    """A key made for this run."""
    return rsa.generate_private_key(65537, 2048)


class Google:
    """Gives tokens that live for `life_s`, and says that they do for `told_s`."""

    def __init__(self, life_s: float = 3600.0, told_s: float = 3600.0) -> None:
        self.life_s = life_s
        self.told_s = told_s
        self.refuses = ""
        self.grants: list[str] = []
        self._ends: dict[str, float] = {}

    def answer(self, asked: Asked) -> bytes:
        """Answer a request to `/token`."""
        form = dict(urllib.parse.parse_qsl(asked.body.decode()))
        fault = self.refuses or self._fault(form)
        self.grants.append(form.get("grant_type", ""))
        if fault:
            body = {"error": "invalid_grant", "error_description": fault}
            return reply(400, msgspec.json.encode(body), content_type="application/json")
        token = f"ya29.canary-token-{len(self.grants)}"
        self._ends[token] = time.time() + self.life_s
        granted = {"access_token": token, "expires_in": int(self.told_s), "token_type": "Bearer"}
        return reply(200, msgspec.json.encode(granted), content_type="application/json")

    def takes(self, asked: Asked) -> bool:
        """Whether a request has a token that is good."""
        token = asked.headers.get("authorization", "").removeprefix("Bearer ")
        return self._ends.get(token, 0.0) > time.time()

    def revoke(self) -> None:
        """No token is good any more."""
        self._ends.clear()

    def _fault(self, form: dict[str, str]) -> str:
        if form["grant_type"] == "refresh_token":
            known = (form["refresh_token"], form["client_secret"])
            return "" if known == (REFRESH_TOKEN, CLIENT_SECRET) else "Bad Request"
        return self._forged(form["assertion"]) if form["grant_type"] == _GRANT else "no such grant"

    def _forged(self, assertion: str) -> str:
        """What is wrong with a JWT (RFC 7523, 3); nothing if it is good."""
        signed, _, signature = assertion.rpartition(".")
        header, claims = (_json(part) for part in signed.split("."))
        try:
            private_key().public_key().verify(
                _unbase64(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256()
            )
        except InvalidSignature:
            return "Invalid JWT Signature."
        now = time.time()
        wanted = {"iss": EMAIL, "aud": AUDIENCE, "scope": SCOPE}
        if header["alg"] != "RS256" or wanted.items() - claims.items():
            return f"Invalid JWT: {claims}"
        if not claims["iat"] - 60 <= now < claims["exp"] <= claims["iat"] + 3600:
            return "Invalid JWT: Token must be a short-lived token"
        return ""


def service_account(path: Path, url: str) -> Path:
    """Write the file of a service account whose tokens come from `url`."""
    key = private_key().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return _write(
        path,
        type="service_account",
        project_id="canary-project",
        private_key_id="k1",
        private_key=key.decode(),
        client_email=EMAIL,
        token_uri=url,
    )


def authorized_user(path: Path, url: str) -> Path:
    """Write the file that `gcloud auth application-default login` leaves."""
    return _write(
        path,
        type="authorized_user",
        client_id="id.apps.googleusercontent.com",
        client_secret=CLIENT_SECRET,
        refresh_token=REFRESH_TOKEN,
        quota_project_id="paying-project",
        token_uri=url,
    )


def _write(path: Path, **fields: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.encode(fields))
    return path


def _json(part: str) -> dict[str, Any]:
    return msgspec.json.decode(_unbase64(part), type=dict[str, Any])


def _unbase64(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
