"""What a failure means for the next sending: every status and code, by the rules F1–F5."""

from __future__ import annotations

import json
from typing import Any, Final

import httpx
import pytest

from ringcast.config import Timeouts
from ringcast.errors import Code, RequestError
from ringcast.providers.http.reach import AddressRefused
from ringcast.providers.http.tcp import Shortage
from ringcast.providers.http.transport import CutError
from ringcast.providers.response_ending import connection_ending
from ringcast.providers.traffic import failure
from ringcast.providers.traffic.failure import Blame, Failure
from ringcast.providers.traffic.retry_hints import retry_hints
from ringcast.providers.upstream import CANCELLED
from ringcast.providers.wire.body import Ending, last_error, open_body
from ringcast.shm.tokens import Error

HERE: Final = (True, True)
ELSEWHERE: Final = (False, True)
NOWHERE: Final = (False, False)


def refused(status: int, body: Any = "", **headers: str) -> Failure:
    """What an HTTP answer means, headers with _ for -."""
    raw = httpx.Headers({name.replace("_", "-"): value for name, value in headers.items()})
    hints = retry_hints(raw, 0.0)
    content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    ending = Ending(
        "http",
        status=status,
        body=content,
        retry_after_s=hints.after_s,
        fault=raw.get("x-amzn-errortype", ""),
        should_retry=hints.should_retry,
    )
    found = failure.of_ending(ending)
    assert found is not None
    told = open_body("chat").end(ending)[-1]
    assert isinstance(told, Error)
    assert (found.code, found.message) == (told.code, told.message)
    return found


def where(found: Failure) -> tuple[bool, bool]:
    return found.retryable, found.elsewhere


@pytest.mark.parametrize(
    ("status", "body", "blame", "next_"),
    [
        (400, {"error": {"message": "x"}}, "ours", NOWHERE),
        (400, {"error": {"code": "context_length_exceeded", "message": "x"}}, "ours", ELSEWHERE),
        (400, {"error": {"code": "invalid_api_key", "message": "x"}}, "ours", ELSEWHERE),
        (401, {"error": {"message": "x"}}, "ours", ELSEWHERE),
        (402, {"error": {"message": "x"}}, "ours", ELSEWHERE),
        (403, {"message": "x"}, "ours", ELSEWHERE),
        (404, {"error": {"message": "x"}}, "ours", ELSEWHERE),
        (405, "", "ours", ELSEWHERE),
        (408, "", "provider", HERE),
        (409, "", "ours", HERE),
        (413, "", "ours", NOWHERE),
        (422, "", "ours", NOWHERE),
        (424, "", "provider", HERE),
        (429, "", "limit", HERE),
        (429, {"error": {"code": "insufficient_quota", "message": "x"}}, "ours", ELSEWHERE),
        (499, "", "ours", ELSEWHERE),
        (500, "<html>", "provider", HERE),
        (502, "", "provider", HERE),
        (503, "", "provider", HERE),
        (504, "", "provider", HERE),
        (529, "", "provider", HERE),
        (307, "", "ours", ELSEWHERE),
        (204, "", "provider", ELSEWHERE),
    ],
)
def test_statuses(status: int, body: Any, blame: Blame, next_: tuple[bool, bool]) -> None:
    found = refused(status, body)
    assert (found.blame, where(found)) == (blame, next_)
    assert found.throttled is (status in (429, 503, 529) and blame != "ours")
    assert found.once is (status == 424)  # F5
    assert found.outcome == ("failure" if blame == "provider" else "neither")


@pytest.mark.parametrize(
    ("name", "status", "blame", "next_"),
    [
        ("ThrottlingException", 429, "limit", HERE),
        ("ModelNotReadyException", 429, "limit", HERE),
        ("ModelTimeoutException", 408, "provider", HERE),
        ("ModelErrorException", 424, "provider", HERE),
        ("InternalServerException", 500, "provider", HERE),
        ("ServiceUnavailableException", 503, "provider", HERE),
        ("ValidationException", 400, "ours", NOWHERE),
        ("AccessDeniedException", 403, "ours", ELSEWHERE),
        ("ResourceNotFoundException", 404, "ours", ELSEWHERE),
        ("ServiceQuotaExceededException", 400, "ours", NOWHERE),
    ],
)
def test_exceptions_of_aws(name: str, status: int, blame: Blame, next_: tuple[bool, bool]) -> None:
    found = refused(status, {"message": "x"}, x_amzn_errortype=name)
    assert (found.blame, where(found)) == (blame, next_)


@pytest.mark.parametrize("status", [400, 401, 404, 409, 429, 500])
@pytest.mark.parametrize("word", [True, False])
def test_the_provider_has_the_last_word_on_asking_again(status: int, word: bool) -> None:  # F1
    found = refused(status, {"error": {"message": "x"}}, x_should_retry=str(word).lower())
    assert found.retryable is word


@pytest.mark.parametrize("error", [Shortage("no descriptor"), AddressRefused("inside")])
def test_what_never_left_this_machine_is_nobodys_fault(error: httpx.ConnectError) -> None:  # F3
    found = failure.of_ending(connection_ending(error, Timeouts()))
    assert found is not None
    assert (found.blame, found.outcome, found.retryable) == ("nobody", "neither", False)


def test_the_client_is_told_the_same() -> None:  # F1
    assert last_error(Ending("http", status=500, should_retry=False)).retryable is False
    assert last_error(Ending("http", status=400, should_retry=True)).retryable is True


@pytest.mark.parametrize(
    ("status", "headers", "after_s"),
    [
        (529, {"retry_after": "7"}, 7.0),
        (503, {"retry_after_ms": "250"}, 0.25),
        (408, {}, None),
        (409, {"retry_after": "0"}, 0.0),
        (503, {"x_amz_retry_after": "1500"}, 1.5),
    ],
)
def test_passing_faults_keep_their_hint(  # P45
    status: int, headers: dict[str, str], after_s: float | None
) -> None:
    found = refused(status, **headers)
    assert found.retryable
    assert found.after_s == after_s


def gemini(quota: str) -> dict[str, Any]:
    details = [
        {
            "@type": "type.googleapis.com/google.rpc.QuotaFailure",
            "violations": [{"quotaId": quota}],
        },
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "48.9s"},
    ]
    said = {"code": 429, "message": "x", "status": "RESOURCE_EXHAUSTED", "details": details}
    return {"error": said}


def test_a_limit_by_the_minute_passes() -> None:
    found = refused(429, gemini("GenerateRequestsPerMinutePerProjectPerModel"))
    assert (found.blame, found.after_s, where(found)) == ("limit", 48.9, HERE)


@pytest.mark.parametrize(
    "body",
    [
        gemini("GenerateRequestsPerDayPerProjectPerModel-FreeTier"),
        {"error": {"message": "Rate limit reached for gpt-4o on requests per day (RPD): Limit 9"}},
        {"error": {"message": "Rate limit reached on tokens per day (TPD): Limit 9, used 9"}},
        {"error": {"message": "Rate limit exceeded: free-models-per-day", "code": 429}},
    ],
    ids=["gemini", "openai", "groq", "openrouter"],
)
def test_a_limit_of_a_day_is_not_waited_for(body: Any) -> None:  # F2
    found = refused(429, body)
    assert (found.blame, found.throttled, where(found)) == ("limit", True, ELSEWHERE)


def test_ways_that_lead_nowhere_are_tried_again() -> None:
    for error in (
        httpx.ConnectError("refused"),
        httpx.ConnectTimeout(""),
        httpx.ReadTimeout(""),
        httpx.ReadError("reset"),
        CutError("cut"),
    ):
        found = failure.of_ending(connection_ending(error, Timeouts()))
        assert found is not None
        assert (found.blame, where(found)) == ("provider", HERE)


def test_a_certificate_is_not_asked_for_twice() -> None:  # F3
    found = failure.of_ending(Ending("failed", code=Code.TLS_ERROR, message="m"))
    assert found is not None
    assert (found.blame, where(found)) == ("nobody", ELSEWHERE)


@pytest.mark.parametrize("code", [Code.FIRST_TOKEN_TIMEOUT, Code.IDLE_TIMEOUT])
def test_silence_is_the_providers(code: str) -> None:
    found = failure.of_ending(Ending("failed", code=code, message="m"))
    assert found is not None
    assert (found.blame, where(found)) == ("provider", HERE)


def test_a_broken_connection_is_the_providers() -> None:
    found = failure.of_ending(Ending("reset"))
    assert found is not None
    assert (found.code, found.blame, where(found)) == (Code.TRANSPORT, "provider", HERE)


def test_nobody_is_to_blame_for_a_cancel() -> None:  # F3
    assert failure.of_ending(CANCELLED) == Failure(Code.CANCELLED, CANCELLED.message)


def test_only_a_worker_knows_how_a_whole_body_ended() -> None:
    assert failure.of_ending(Ending("eof")) is None
    assert failure.of_ending(Ending("eof", code=Code.STREAM_INCOMPLETE)) is None


@pytest.mark.parametrize(
    ("said", "blame", "throttled", "elsewhere"),
    [
        ({"type": "overloaded_error"}, "provider", True, True),
        ({"provider_code": 529}, "provider", True, True),
        ({"type": "rate_limit_error"}, "limit", True, True),
        ({"type": "RESOURCE_EXHAUSTED", "provider_code": 429}, "limit", True, True),
        ({"type": "api_error"}, "provider", False, True),
        ({"type": "server_error", "provider_code": "server_error"}, "provider", False, True),
        ({}, "provider", False, True),
        ({"type": "invalid_request_error"}, "ours", False, False),
        ({"provider_code": 400}, "ours", False, False),
        ({"provider_code": "context_length_exceeded"}, "ours", False, True),
        ({"type": "authentication_error"}, "ours", False, True),
        ({"type": "not_found_error"}, "ours", False, True),
        ({"type": "insufficient_quota", "provider_code": 429}, "ours", False, True),
        ({"provider_code": 14290}, "provider", False, True),
    ],
)
def test_errors_inside_a_stream(  # F4
    said: dict[str, Any], blame: Blame, throttled: bool, elsewhere: bool
) -> None:
    found = failure.of_error(Error(Code.PROVIDER_ERROR, "m", retryable=True, **said))
    assert (found.blame, found.throttled, found.elsewhere) == (blame, throttled, elsewhere)
    assert found.code == Code.PROVIDER_ERROR


@pytest.mark.parametrize(
    ("code", "elsewhere"),
    [
        (Code.CIRCUIT_OPEN, True),
        (Code.OVERLOADED_LOCAL, True),
        (Code.PROVIDER_DISABLED, True),
        (Code.BUDGET_EXCEEDED, False),
        (Code.SHUTTING_DOWN, False),
        (Code.BACKPRESSURE_TIMEOUT, False),
        (Code.INTERNAL, False),
    ],
)
def test_what_was_not_sent_is_not_sent_again_here(code: str, elsewhere: bool) -> None:  # F3
    error = RequestError(code, "m", retryable=True, retry_after_s=7.5)
    expected = Failure(code, "m", "nobody", elsewhere=elsewhere, after_s=7.5)
    assert failure.of_refusal(error) == expected


def test_the_answer_to_a_question_keeps_its_status() -> None:
    found = failure.of_refusal(RequestError(Code.HTTP_STATUS, "m", retryable=True, status=500))
    assert (found.blame, where(found), found.after_s) == ("provider", HERE, None)


def test_every_code_of_a_providers_answer_has_a_verdict() -> None:
    codes = list(Code)
    theirs = codes[: codes.index(Code.TOOL_CALL_LIMIT)]
    way = codes[codes.index(Code.CONNECT_FAILED) : codes.index(Code.CIRCUIT_OPEN)]
    for code in theirs + way:
        found = failure.of_error(Error(code, "m"))
        assert found.elsewhere is (code != Code.BAD_REQUEST), code
