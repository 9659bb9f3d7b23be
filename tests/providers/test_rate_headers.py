"""What heads of answers tell about limits, and what is ignored (P44)."""

from __future__ import annotations

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringcast.providers.traffic.rate_headers import NOTHING, RateLimits, Window, parse

WALL_S = 1_767_225_600.0  # 2026-01-01T00:00:00Z


def told(**headers: str) -> RateLimits:
    """Parse headers given with underscores for hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return parse(httpx.Headers(named), WALL_S)


def test_openai_tells_when_buckets_are_full_again() -> None:
    limits = told(
        x_ratelimit_limit_requests="5000",
        x_ratelimit_remaining_requests="4999",
        x_ratelimit_reset_requests="12ms",
        x_ratelimit_limit_tokens="800000",
        x_ratelimit_remaining_tokens="399985",
        x_ratelimit_reset_tokens="30.001s",
    )
    assert limits.requests == Window(5000, 4999, 0.012, 60)
    assert limits.tokens == Window(800_000, 399_985, 30.001, 60)
    assert limits.bad == 0


def test_groq_tells_requests_of_a_day() -> None:
    limits = told(
        x_ratelimit_limit_requests="14400",
        x_ratelimit_remaining_requests="14370",
        x_ratelimit_reset_requests="2m59.56s",
        x_ratelimit_limit_tokens="18000",
        x_ratelimit_remaining_tokens="17997",
        x_ratelimit_reset_tokens="7.66ms",
    )
    assert limits.requests == Window(14400, 14370, 179.56, 86400)
    assert limits.tokens is not None
    assert limits.tokens.period_s == 60
    assert limits.bad == 0


def test_openai_tells_requests_of_a_day_that_hardly_began() -> None:
    limits = told(
        x_ratelimit_limit_requests="10000",
        x_ratelimit_remaining_requests="9999",
        x_ratelimit_reset_requests="8.64s",
    )
    assert limits.requests == Window(10000, 9999, 8.64, 86400)


def test_azure_tells_numbers_and_periods() -> None:
    limits = told(
        x_ratelimit_limit_requests="250",
        x_ratelimit_remaining_requests="249",
        x_ratelimit_reset_requests="0",
        x_ratelimit_renewalperiod_requests="10",
        x_ratelimit_limit_tokens="250000",
        x_ratelimit_remaining_tokens="249000",
        x_ratelimit_reset_tokens="60",
    )
    assert limits == RateLimits(Window(250, 249, 0, 10), Window(250_000, 249_000, 60, 60))


def test_xai_tells_no_reset() -> None:
    limits = told(x_ratelimit_limit_requests="480", x_ratelimit_remaining_requests="479")
    assert limits == RateLimits(Window(480, 479, None, 60))


def test_anthropic_tells_times_by_its_own_clock() -> None:
    headers = {
        "date": "Thu, 01 Jan 2026 00:10:00 GMT",  # ours is 10 minutes behind
        "anthropic-ratelimit-requests-limit": "50",
        "anthropic-ratelimit-requests-remaining": "49",
        "anthropic-ratelimit-requests-reset": "2026-01-01T00:10:01Z",
        "anthropic-ratelimit-tokens-limit": "40000",
        "anthropic-ratelimit-tokens-remaining": "10000",
        "anthropic-ratelimit-tokens-reset": "2026-01-01T00:10:45Z",
    }
    limits = parse(headers, WALL_S)
    assert limits.requests == Window(50, 49, 1, 60)
    assert limits.tokens == Window(40_000, 10_000, 45, 60)
    assert parse(headers | {"date": "soon"}, WALL_S + 600) == limits


@pytest.mark.parametrize(
    ("input_left", "output_left", "window"),
    [
        (None, 200, Window(8000, 200)),
        (9000, 7000, Window(40_000, 9000)),
        (39_000, 1000, Window(8000, 1000)),
        (40_000, 8000, Window(8000, 8000)),
    ],
)
def test_of_anthropics_input_and_output_the_tighter_one_is_taken(
    input_left: int | None, output_left: int, window: Window
) -> None:
    headers = {
        "anthropic-ratelimit-output-tokens-limit": "8000",
        "anthropic-ratelimit-output-tokens-remaining": str(output_left),
    }
    if input_left is not None:
        headers["anthropic-ratelimit-input-tokens-limit"] = "40000"
        headers["anthropic-ratelimit-input-tokens-remaining"] = str(input_left)
    assert parse(headers, WALL_S).tokens == window
    both = {"anthropic-ratelimit-tokens-limit": "48000"}
    assert parse(headers | both, WALL_S).tokens == Window(48_000)


def test_openrouter_tells_milliseconds_since_1970() -> None:
    limits = told(
        x_ratelimit_limit="20",
        x_ratelimit_remaining="0",
        x_ratelimit_reset=f"{(WALL_S + 42) * 1000:.0f}",
    )
    assert limits == RateLimits(Window(20, 0, 42, 60))


def test_nothing_is_told_by_other_headers() -> None:
    assert told(content_type="text/event-stream") is NOTHING
    assert told(x_ratelimit_reset_requests="1s", anthropic_ratelimit_tokens_limit="0") == NOTHING


@pytest.mark.parametrize(
    ("remaining", "reset", "window", "bad"),
    [
        ("-5", "6s", Window(60, None, 6), 1),
        ("abc", "6s", Window(60, None, 6), 1),
        ("61", "6s", Window(60, None, 6), 1),
        ("٣", "6s", Window(60, None, 6), 1),
        ("5", "2025-12-31T23:59:00Z", Window(60, 5), 1),
        ("5", "2026-01-01T00:00:00", Window(60, 5), 1),
        ("5", "9999-12-31T23:59:59Z", Window(60, 5), 1),
        ("5", "1e99", Window(60, 5), 1),
        ("5", "nan", Window(60, 5), 1),
        ("", "-1s", Window(60), 2),
        ("9" * 5000, "9" * 5000 + "h", Window(60), 2),
    ],
)
def test_p44_bad_values_are_ignored_and_counted(
    remaining: str, reset: str, window: Window, bad: int
) -> None:
    headers = {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": remaining,
        "x-ratelimit-reset-requests": reset,
    }
    assert parse(headers, WALL_S) == RateLimits(window, bad=bad)


@pytest.mark.parametrize("limit", ["-1", "abc", "", "nan", "1e9", "9" * 16])
def test_p44_a_bad_limit_tells_nothing_else(limit: str) -> None:
    told_ = told(x_ratelimit_limit_tokens=limit, x_ratelimit_remaining_tokens="1")
    assert told_ == RateLimits(bad=1)


@given(
    st.dictionaries(
        st.sampled_from(
            [
                f"{vendor}{what}{unit}"
                for vendor in ("x-ratelimit-", "anthropic-ratelimit-requests-")
                for what in ("limit", "remaining", "reset", "renewalperiod")
                for unit in ("", "-requests", "-tokens")
            ]
        ),
        st.one_of(
            st.text(max_size=20),
            st.integers().map(str),
            st.from_regex(r"[0-9]{1,4}[dhms.]{1,2}[0-9]{0,3}m?s?", fullmatch=True),
            st.datetimes().map(lambda time: time.isoformat() + "Z"),
        ),
    )
)
@settings(max_examples=50, deadline=None)
def test_p44_nothing_a_head_may_say_is_an_error(headers: dict[str, str]) -> None:
    limits = parse(headers, WALL_S)
    for window in (limits.requests, limits.tokens):
        if window is not None:
            assert window.limit > 0
            assert window.remaining is None or 0 <= window.remaining <= window.limit
            assert window.reset_s is None or 0 <= window.reset_s <= 32 * 86400
            assert window.period_s > 0
