"""What headers say about asking again, and what they only seem to say."""

from __future__ import annotations

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringcast.providers.traffic.retry_hints import LONGEST_HINT_S, RetryHints, retry_hints

NOW = 1445412480.0  # Wed, 21 Oct 2015 07:28:00 GMT


def said(*headers: tuple[str, str]) -> RetryHints:
    raw = [(name.encode(), value.encode()) for name, value in headers]
    return retry_hints(httpx.Headers(raw), NOW)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        (" 0 ", 0.0),
        ("1.5", 1.5),
        ("315360000", 315360000.0),
        ("9" * 4000, LONGEST_HINT_S),
        ("1e99", None),
        ("-1", None),
        ("+1", None),
        ("nan", None),
        ("inf", None),
        (".", None),
        ("", None),
        ("1_0", None),
        ("\u0661\u0662", None),
        ("Wed, 21 Oct 2015 07:28:30 GMT", 30.0),
        ("Wednesday, 21-Oct-15 07:28:30 GMT", 30.0),
        ("Wed Oct 21 07:28:30 2015", 30.0),
        ("Wed, 21 Oct 2015 07:27:00 GMT", 0.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 253402300799.0 - NOW),
        ("Fri, 31 Dec 99999999 23:59:59 GMT", None),
        ("Wed, \u0662\u0661 Oct 2015 07:28:30 GMT", None),
        ("tomorrow", None),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    assert said(("retry-after", value)).after_s == seconds


def test_nothing_is_said() -> None:
    assert said() == RetryHints(None, None)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([("retry-after-ms", "250"), ("retry-after", "9")], 0.25),
        ([("retry-after-ms", "0"), ("retry-after", "9")], 9.0),
        ([("retry-after-ms", "0")], None),
        ([("retry-after-ms", "soon"), ("retry-after", "9")], 9.0),
        ([("retry-after", "0"), ("x-amz-retry-after", "300")], 0.0),
        ([("x-amz-retry-after", "300")], 0.3),
        ([("retry-after", "7"), ("Retry-After", "9")], 9.0),
        ([("retry-after", "9, 7")], 9.0),
        ([("retry-after", "x"), ("retry-after", "7")], 7.0),
        ([("retry-after", "7"), ("retry-after", "Wed, 21 Oct 2015 07:28:30 GMT")], 30.0),
    ],
)
def test_which_header_counts(headers: list[tuple[str, str]], seconds: float | None) -> None:
    assert said(*headers).after_s == seconds


@pytest.mark.parametrize(
    ("value", "meant"),
    [("true", True), ("False", False), (" true ", True), ("yes", None), ("", None)],
)
def test_whether_to_ask_again(value: str, meant: bool | None) -> None:
    assert said(("x-should-retry", value)).should_retry is meant


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"])) | st.from_regex(r"[ -~]{0,40}"))
def test_whatever_is_said_is_a_wait_or_nothing(value: str) -> None:
    hints = said(("retry-after", value.replace("\n", " ")))
    assert hints.after_s is None or 0 <= hints.after_s <= LONGEST_HINT_S
