"""AWS's side of Signature Version 4: what a request must have been signed with, recomputed.

Nothing of it is shared with what is tested. Written after
docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
import urllib.parse
from datetime import UTC, datetime
from email.utils import format_datetime

import msgspec

from fakes.endpoint import Asked, reply

_FORM = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<id>[^/]+)/(?P<day>\d{8})/(?P<region>[^/]+)/"
    r"(?P<service>[^/]+)/aws4_request, SignedHeaders=(?P<names>[^,]+), Signature=(?P<sig>\w{64})"
)
TOLERANCE_S = 300


class Identity(msgspec.Struct):
    """Keys that are known; `ends_at` is when their token does, in seconds since 1970."""

    secret: str
    token: str = ""
    ends_at: float = float("inf")


class Aws:
    """Looks at requests by a clock of its own; `refusals` has the error types it answered with."""

    def __init__(
        self, identities: dict[str, Identity], region: str = "us-east-1", ahead_s: float = 0
    ) -> None:
        self.identities = identities
        self.region = region
        self.ahead_s = ahead_s
        self.refusals: list[str] = []
        self.accepted: list[Asked] = []

    @property
    def now(self) -> float:
        """What time it is here."""
        return time.time() + self.ahead_s

    def refusal(self, asked: Asked) -> bytes | None:
        """The answer to a request that is not signed well; None if it is."""
        fault = self._fault(asked)
        if fault is None:
            self.accepted.append(asked)
            return None
        kind, text = fault
        self.refusals.append(kind)
        return reply(
            403,
            msgspec.json.encode({"message": text}),
            content_type="application/json",
            x_amzn_errortype=f"{kind}:http://internal.amazon.com/coral/",
            date=format_datetime(datetime.fromtimestamp(self.now, UTC), usegmt=True),
        )

    def _fault(self, asked: Asked) -> tuple[str, str] | None:
        form = _FORM.fullmatch(asked.headers.get("authorization", ""))
        if form is None:
            return "MissingAuthenticationTokenException", "Missing Authentication Token"
        identity = self.identities.get(form["id"])
        if identity is None:
            return (
                "UnrecognizedClientException",
                "The security token included in the request is invalid.",
            )
        if asked.headers.get("x-amz-security-token", "") != identity.token:
            return "UnrecognizedClientException", "The security token is not that of this key."
        signed = datetime.strptime(asked.headers["x-amz-date"], "%Y%m%dT%H%M%SZ")
        off_s = self.now - signed.replace(tzinfo=UTC).timestamp()
        if abs(off_s) > TOLERANCE_S:
            state = "expired" if off_s > 0 else "not yet current"
            return "InvalidSignatureException", f"Signature {state}: {asked.headers['x-amz-date']}"
        if self.now > identity.ends_at:
            text = "The security token included in the request is expired"
            return "ExpiredTokenException", text
        expected = self._canonical(asked, form["names"].split(";"))
        if not self._holds(form, identity, asked.headers["x-amz-date"], expected):
            text = "The request signature we calculated does not match the signature you provided."
            return "InvalidSignatureException", f"{text} The Canonical String: {expected!r}"
        return None

    def _canonical(self, asked: Asked, names: list[str]) -> str:
        assert names == sorted(names)
        assert {"host", "x-amz-date"} <= set(names)
        assert "x-amz-security-token" in names or "x-amz-security-token" not in asked.headers
        url = urllib.parse.urlsplit("http://h" + asked.target)
        segments = [urllib.parse.quote(one, safe="-_.~") for one in url.path.split("/")]
        headers = "".join(f"{name}:{asked.headers[name].strip()}\n" for name in names)
        query = "&".join(sorted(url.query.split("&"))) if url.query else ""
        payload = hashlib.sha256(asked.body).hexdigest()
        path = "/".join(segments)
        return "\n".join((asked.method, path, query, headers, ";".join(names), payload))

    def _holds(self, form: re.Match[str], identity: Identity, date: str, canonical: str) -> bool:
        if (form["region"], form["service"], form["day"]) != (self.region, "bedrock", date[:8]):
            return False
        scope = f"{date[:8]}/{self.region}/bedrock/aws4_request"
        hashed = hashlib.sha256(canonical.encode()).hexdigest()
        key = b"AWS4" + identity.secret.encode()
        text = f"AWS4-HMAC-SHA256\n{date}\n{scope}\n{hashed}"
        for part in (*scope.split("/"), text):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        return hmac.compare_digest(key.hex(), form["sig"])
