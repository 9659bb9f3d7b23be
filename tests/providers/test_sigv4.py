"""Signature Version 4 against AWS's own test suite, and against botocore as an oracle."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib import import_module
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringcast.providers.sigv4 import STAMP, Keys, Scope, sign

SUITE_KEYS = Keys("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
SUITE_TIME = datetime(2015, 8, 30, 12, 36, tzinfo=UTC)
SUITE_HOST = {"Host": "example.amazonaws.com"}


@pytest.mark.parametrize(
    ("method", "target", "signature"),
    [
        ("GET", "/", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("GET", "", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("GET", "//", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("GET", "/./", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        (
            "GET",
            "/example1/example2/../..",
            "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
        ),
        (
            "GET",
            "/?Param2=value2&Param1=value1",
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
        (
            "GET",
            "/?Param1=value1",
            "a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb",
        ),
        ("POST", "/", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
    ],
)
def test_the_test_suite_of_aws(method: str, target: str, signature: str) -> None:
    added = sign(
        method,
        target,
        SUITE_HOST,
        b"",
        scope=Scope("us-east-1", "service"),
        keys=SUITE_KEYS,
        at=SUITE_TIME,
    )
    assert added == {
        "x-amz-date": "20150830T123600Z",
        "authorization": "AWS4-HMAC-SHA256 "
        "Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
        f"SignedHeaders=host;x-amz-date, Signature={signature}",
    }


def test_the_example_of_the_documentation() -> None:
    added = sign(
        "GET",
        "/?Action=ListUsers&Version=2010-05-08",
        {
            "Content-Type": "application/x-www-form-urlencoded; charset=utf-8",
            "Host": "iam.amazonaws.com",
        },
        b"",
        scope=Scope("us-east-1", "iam"),
        keys=SUITE_KEYS,
        at=SUITE_TIME,
    )
    assert added["authorization"].endswith(
        "SignedHeaders=content-type;host;x-amz-date, "
        "Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
    )


def botocores(
    method: str,
    target: str,
    headers: dict[str, str],
    body: bytes,
    scope: Scope,
    keys: Keys,
    at: datetime,
) -> str:
    """The signature that botocore makes."""
    auth, awsrequest = import_module("botocore.auth"), import_module("botocore.awsrequest")
    credentials = import_module("botocore.credentials").Credentials(
        keys.access_key, keys.secret_key
    )
    signer = auth.SigV4Auth(credentials, scope.service, scope.region)
    url = f"https://{headers['host']}{target}"
    request = awsrequest.AWSRequest(method=method, url=url, headers=headers, data=body)
    request.headers["X-Amz-Date"] = request.context["timestamp"] = at.strftime(STAMP)
    if keys.token:
        request.headers["X-Amz-Security-Token"] = keys.token
    text = signer.string_to_sign(request, signer.canonical_request(request))
    return str(signer.signature(text, request))


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12)
ENCODED = WORDS.map(lambda word: quote(word, safe=""))
SEGMENTS = st.one_of(ENCODED, st.sampled_from([".", "..", "", "a%2Fb", "anthropic.claude-v1%3A0"]))
PATHS = st.lists(SEGMENTS, max_size=5).map(lambda segments: "/" + "/".join(segments))
PAIRS = st.tuples(ENCODED, ENCODED).map("=".join) | ENCODED
QUERIES = st.lists(PAIRS, max_size=4).map("&".join)
PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
SECRETS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)


@given(
    method=st.sampled_from(["GET", "POST"]),
    path=PATHS,
    query=QUERIES,
    content_type=PRINTABLE,
    more=PRINTABLE,
    body=st.binary(max_size=200),
    keys=st.builds(Keys, st.just("AKIDEXAMPLE"), SECRETS, st.just("") | SECRETS),
    region=st.sampled_from(["us-east-1", "eu-central-1"]),
    at=st.datetimes(datetime(2000, 1, 1), datetime(2099, 1, 1)),
)
def test_botocore_signs_the_same(
    method: str,
    path: str,
    query: str,
    content_type: str,
    more: str,
    body: bytes,
    keys: Keys,
    region: str,
    at: datetime,
) -> None:
    headers = {"host": "h.amazonaws.com", "content-type": content_type, "x-amz-meta": more}
    target = path + (f"?{query}" if query else "")
    scope = Scope(region, "bedrock")
    added = sign(method, target, headers, body, scope=scope, keys=keys, at=at)
    theirs = botocores(method, target, headers, body, scope, keys, at)
    assert added["authorization"].endswith(f", Signature={theirs}")
    assert added.get("x-amz-security-token", "") == keys.token


def test_keys_show_nothing() -> None:
    keys = Keys("AKIDEXAMPLE", "canary-secret", "canary-token")
    assert "canary" not in f"{keys} {keys!r} {[keys]}"
