"""Typed errors, small and closed: the class says whose fault it is, the code says what.

`Code` is the closed set of words that an Error token, an ERROR frame or an exit message
may carry. Exit statuses follow sysexits and LSB: 1 failure, 2 usage, 3 not running,
69 upstream unavailable, 73 cannot create, 77 permission, 78 configuration.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class Code(StrEnum):
    """Why a stream or a call ended; stable words that clients may match on."""

    # the provider's answer
    PROVIDER_ERROR = "provider_error"
    AUTH = "auth"
    MODEL_NOT_FOUND = "model_not_found"
    RATE_LIMITED = "rate_limited"
    OVERLOADED = "overloaded"
    BAD_REQUEST = "bad_request"
    CONTEXT_LENGTH = "context_length"
    BILLING = "billing"
    HTTP_STATUS = "http_status"
    UNEXPECTED_REDIRECT = "unexpected_redirect"
    BAD_RESPONSE = "bad_response"
    BAD_ENCODING = "bad_encoding"
    NOT_EVENT_STREAM = "not_event_stream"
    EMPTY_RESPONSE = "empty_response"
    STREAM_INCOMPLETE = "stream_incomplete"
    BAD_EVENT = "bad_event"
    SSE_LINE_TOO_LONG = "sse_line_too_long"
    SSE_EVENT_TOO_LONG = "sse_event_too_long"
    NDJSON_LINE_TOO_LONG = "ndjson_line_too_long"
    AWS_PRELUDE_CRC = "aws_prelude_crc"
    AWS_MESSAGE_CRC = "aws_message_crc"
    AWS_TOO_LONG = "aws_too_long"
    AWS_BAD_LENGTH = "aws_bad_length"
    AWS_HEADERS = "aws_headers"
    AWS_TRUNCATED = "aws_truncated"
    TOOL_CALL_LIMIT = "tool_call_limit"
    TOOL_ARGS_LIMIT = "tool_args_limit"
    # the way to the provider
    CONNECT_FAILED = "connect_failed"
    ADDRESS_REFUSED = "address_refused"
    CONNECT_TIMEOUT = "connect_timeout"
    TLS_ERROR = "tls_error"
    TRANSPORT = "transport"
    FIRST_BYTE_TIMEOUT = "first_byte_timeout"
    FIRST_TOKEN_TIMEOUT = "first_token_timeout"
    IDLE_TIMEOUT = "idle_timeout"
    TOTAL_TIMEOUT = "total_timeout"
    # ringcast itself
    CIRCUIT_OPEN = "circuit_open"
    OVERLOADED_LOCAL = "overloaded_local"
    BUDGET_EXCEEDED = "budget_exceeded"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    WORKER_LOST = "worker_lost"
    RING_CORRUPT = "ring_corrupt"
    POISON_INPUT = "poison_input"
    BACKPRESSURE_TIMEOUT = "backpressure_timeout"
    SHUTTING_DOWN = "shutting_down"
    INTERNAL = "internal"
    # the client's request
    UNKNOWN_PROVIDER = "unknown_provider"
    PROVIDER_DISABLED = "provider_disabled"
    UNKNOWN_STREAM = "unknown_stream"
    UNKNOWN_TYPE = "unknown_type"
    BAD_MESSAGE = "bad_message"
    BAD_CREDIT = "bad_credit"
    BAD_OFFSET = "bad_offset"
    OFFSET_GONE = "offset_gone"
    SLOW_CONSUMER = "slow_consumer"
    HELLO_FIRST = "hello_first"
    UNSUPPORTED_VERSION = "unsupported_version"
    DUPLICATE_REQUEST = "duplicate_request"
    TOO_MANY_CLIENTS = "too_many_clients"
    TOO_MANY_STREAMS = "too_many_streams"
    FLOOD = "flood"


class RingcastError(Exception):
    """Root of everything ringcast raises on purpose. `exit_code` is for the command line."""

    exit_code: ClassVar[int] = 1


class ConfigError(RingcastError):
    """The configuration is wrong; the text names every setting at fault."""

    exit_code = 78


class NotRunning(RingcastError):
    """No daemon serves the run directory."""

    exit_code = 3


class AlreadyRunning(RingcastError):
    """Another daemon holds the run directory's lock."""


class RunDirError(RingcastError):
    """The run directory has the wrong owner, mode or type, or its path is too long."""

    exit_code = 77


class StartupError(RingcastError):
    """A process did not become ready, or the machine lacks what the daemon needs."""

    exit_code = 73


class RequestError(RingcastError):
    """The daemon refused a request. `code` is a `Code`, `detail` what may help to mend it."""

    def __init__(self, code: str, message: str, **detail: object) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.detail = detail


class ConnectionLost(RingcastError):
    """The daemon stopped answering; streams can be attached again when it is back."""

    exit_code = 3


class RingError(RingcastError):
    """Something is wrong with a shared-memory ring."""


class RingNotReady(RingError):
    """The segment exists, but its creator has not stored `ready` yet."""


class RingVersionMismatch(RingError):
    """The segment was laid out by another version; the text names both."""


class RingCorrupt(RingError):
    """The segment is not a ring, or a word in it contradicts the contract."""


class SegmentRefused(RingError):
    """The segment has another owner, other permissions or another size than it must have."""


class FrameTooLarge(RingError):
    """A record is larger than an eighth of the ring (the caller must fragment)."""


class Fenced(RingError):
    """Another process took this side of the ring over: stop at once."""
