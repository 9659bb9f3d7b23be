"""HTTP/1.1 without sockets: any cut gives the same message, and what is bad is refused."""

from __future__ import annotations

import contextlib
import itertools

import h11
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringcast.config import Limits
from ringcast.providers.http.http1 import ResponseParser, check_request, encode_request

LIMITS = Limits(max_header_bytes=4096, max_headers=20)
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


def parse(*reads: bytes, bodyless: bool = False) -> tuple[ResponseParser, bytes]:
    """Feed the reads in turn; the body as `take` gives it."""
    parser = ResponseParser(LIMITS, bodyless=bodyless)
    body = b""
    for read in reads:
        parser.feed(memoryview(read))
        body += parser.take()
    return parser, body


def chunked(parts: list[bytes]) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges) if a < b]


def h11_body(message: bytes) -> bytes:
    """The body as another implementation reads it."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("host", "h")]))
    connection.receive_data(message)
    body = b""
    while not isinstance(event := connection.next_event(), h11.EndOfMessage):
        assert event is not h11.NEED_DATA
        if isinstance(event, h11.Data):
            body += event.data
    return body


@given(
    parts=st.lists(st.binary(min_size=1, max_size=40), max_size=12),
    places=st.lists(st.integers(min_value=0, max_value=10_000), max_size=30),
    interim=st.integers(min_value=0, max_value=3),
    framing=st.sampled_from(["chunked", "length"]),
)
def test_any_cut_gives_the_body_that_h11_reads(
    parts: list[bytes], places: list[int], interim: int, framing: str
) -> None:
    body = b"".join(parts)
    message = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * interim
    if framing == "chunked":
        message += CHUNKED + chunked(parts)
    else:
        message += OK + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    parser, got = parse(*cut(message, places))
    assert got == body == h11_body(message)
    assert (parser.status, parser.complete, parser.reusable) == (200, True, True)
    assert len(parser.headers) == 1


@given(data=st.binary(max_size=300), places=st.lists(st.integers(0, 300), max_size=5))
def test_garbage_raises_one_error_only(data: bytes, places: list[int]) -> None:
    with contextlib.suppress(httpx.RemoteProtocolError):
        parser, body = parse(*cut(CHUNKED + data, places))
        parser.end_of_input()
        assert len(body) <= len(data)


@pytest.mark.parametrize(
    ("read", "text"),
    [
        pytest.param(b"garbage\r\n\r\n", "bad response", id="P26-status-line"),
        pytest.param(b"<html>hello</html>", "bad response", id="P26-http-0.9"),
        pytest.param(b"HTTP/2.0 200 OK\r\n\r\n", "bad status line", id="http-2.0"),
        pytest.param(b"HTTP/1.1 099 No\r\n\r\n", "bad status line", id="P27-status-099"),
        pytest.param(b"HTTP/1.1 20 OK\r\n\r\n", "bad response", id="P27-two-digits"),
        pytest.param(OK + b"a: \0\r\n\r\n", "bad response", id="P25-nul"),
        pytest.param(OK + b"a: b\rc\r\n\r\n", "bad response", id="P25-cr"),
        pytest.param(OK + b"a b: c\r\n\r\n", "bad response", id="space-in-name"),
        pytest.param(OK + b"a: " + b"b" * 5000, "max_header_bytes", id="P23-endless-header"),
        pytest.param(OK + b"a: " + b"b" * 5000 + b"\r\n\r\n", "max_header_bytes", id="P23-long"),
        pytest.param(OK + b"a: b\r\n" * 21 + b"\r\n", "max_headers", id="P24-many"),
        pytest.param(
            b"HTTP/1.1 100 Continue\r\n\r\n" * 200, "max_header_bytes", id="P27-1xx-flood"
        ),
        pytest.param(
            b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
            "switched protocols",
            id="101",
        ),
        pytest.param(CHUNKED + b"zz\r\nab", "bad response", id="P38-bad-size"),
        pytest.param(CHUNKED + b"%x\r\n" % 2**70, "bad response", id="P38-huge-size"),
        pytest.param(CHUNKED + b"1\r\nab\r\n", "bad response", id="P38-no-crlf"),
        pytest.param(
            OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", "bad response", id="P39-two"
        ),
        pytest.param(OK + b"Content-Length: -1\r\n\r\n", "bad response", id="negative-length"),
        pytest.param(
            OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n", "unsupported", id="transfer-gzip"
        ),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_bad_responses_are_refused_at_any_cut(read: bytes, text: str, size: int) -> None:
    reads = [read[at : at + size] for at in range(0, len(read), size)]
    with pytest.raises(httpx.RemoteProtocolError, match=text):
        parse(*reads)


def test_endless_chunk_extensions_and_trailers_are_bounded() -> None:
    endless = [b"x" * 1000] * 6
    with pytest.raises(httpx.RemoteProtocolError, match="max_header_bytes"):
        parse(CHUNKED, b"5;", *endless)
    with pytest.raises(httpx.RemoteProtocolError, match="max_header_bytes"):
        parse(CHUNKED, b"0\r\nt: ", *endless)


def test_trailers_are_ignored() -> None:
    parser, body = parse(CHUNKED + b"2\r\nhi\r\n0\r\nx-a: b\r\nx-c: d\r\n\r\n")
    assert (body, parser.complete, parser.reusable) == (b"hi", True, True)
    assert [name for name, _ in parser.headers] == [b"Transfer-Encoding"]


def test_both_framings_are_read_as_chunked_and_end_the_connection() -> None:
    parser, body = parse(OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello")
    parser.feed(memoryview(b"\r\n0\r\n\r\n"))
    assert (body, parser.complete, parser.reusable) == (b"hello", True, False)


@pytest.mark.parametrize("surplus", [b"H", b"HTTP/1.1 200 OK\r\n\r\n", b"\0"])
@pytest.mark.parametrize("head", [b"", b"Connection: close\r\n"])
def test_bytes_after_the_message_are_not_parsed(head: bytes, surplus: bytes) -> None:
    parser, body = parse(OK + head + b"Content-Length: 2\r\n\r\nhi" + surplus)
    assert (body, parser.complete, parser.reusable, parser.status) == (b"hi", True, False, 200)
    assert len(parser.headers) == 1 + bool(head)


@pytest.mark.parametrize(
    ("message", "reusable"),
    [
        (OK + b"Content-Length: 0\r\n\r\n", True),
        (OK + b"Connection: close\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n", True),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n", True),
    ],
)
def test_what_ends_at_once_and_keeps_the_connection(message: bytes, reusable: bool) -> None:
    parser, body = parse(message)
    assert (body, parser.complete, parser.reusable) == (b"", True, reusable)


def test_head_ends_with_its_head() -> None:
    parser, body = parse(OK + b"Content-Length: 10\r\n\r\n", bodyless=True)
    assert (body, parser.complete, parser.reusable) == (b"", True, False)


@pytest.mark.parametrize("version", [b"HTTP/1.0 200 OK\r\n\r\n", OK + b"\r\n"])
def test_without_framing_the_body_ends_at_eof(version: bytes) -> None:
    parser, body = parse(version + b"abc", b"def")
    assert not parser.complete
    parser.end_of_input()
    assert (body, parser.complete, parser.reusable) == (b"abcdef", True, False)


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (b"", "without sending a response"),
        (b"HTTP/1.1 2", "inside the response head"),
        (CHUNKED + b"5\r\nhel", "incomplete chunked read"),
        (OK + b"Content-Length: 100\r\n\r\nhello", "received 5 bytes, expected 100"),
    ],
)
def test_eof_in_the_middle_is_an_error(read: bytes, text: str) -> None:
    parser, _ = parse(*([read] if read else []))
    with pytest.raises(httpx.RemoteProtocolError, match=text):
        parser.end_of_input()


def test_request_is_framed_by_content_length() -> None:
    request = httpx.Request("POST", "http://h/v1?q=1", headers={"X": "y"}, content=b"body")
    head, _, body = encode_request(request, b"body").partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1?q=1 HTTP/1.1\r\nHost: h\r\n")
    assert (head.lower().count(b"content-length: 4"), body) == (1, b"body")
    assert b"length" not in encode_request(httpx.Request("GET", "http://h/"), b"").lower()


@pytest.mark.parametrize(
    "headers", [{"x": "a\r\nb: c"}, {"x": "a\nb"}, {"x": "a\0"}, {"a b": "c"}, {"a\r\n": "c"}]
)
def test_requests_that_would_break_their_lines_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(httpx.LocalProtocolError) as caught:
        check_request(httpx.Request("GET", "http://h/", headers=headers))
    assert headers.get("x", "none") not in str(caught.value)
