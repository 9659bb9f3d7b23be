"""Whole events that only say that the provider lives: they reach the worker, and wind no clock.

Anthropic's `ping` (docs.anthropic.com/en/docs/build-with-claude/streaming), the Responses API's
`keepalive`, a `ping` with `{}` or nothing as proxies add it, a comment as data (Vertex's partner
models), and what the event stream itself has: comments, blank lines, `id` and `retry` alone.
Bedrock's InvokeModelWithResponseStream has the same events in AWS messages, as base64
(`{"bytes": ...}`). Converse and NDJSON have nothing of the kind.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from ringcast.providers.wire.eventstream import messages
from ringcast.providers.wire.sse import WireError

# Pings come one by one and have 40 to 200 bytes; a block of text in one read is mostly larger.
LARGEST: Final = 512
_PING: Final = rb"""\{\s*+ "type"\s*+:\s*+ "(?: ping | keepalive )" [^{}\r\n]*+ \}"""
_ping = re.compile(_PING, re.VERBOSE).fullmatch
_alive = re.compile(
    rb"""(?:
        (?: : [^\r\n]*+
          | (?: id | retry ) : [^\r\n]*+
          | event:\ ? (?: ping | keepalive )
          | data:\ ? (?: %b | \{\} | :[^\r\n]*+ )?+
        )?+
        \ *+ [\r\n]
    )*+"""
    % _PING,
    re.VERBOSE,
).fullmatch
_MESSAGE: Final = 0  # the first byte of a message of less than 16 MiB, and of no text


class _Chunk(msgspec.Struct, gc=False):
    data: bytes = msgspec.field(name="bytes")  # from base64


_decode_chunk = msgspec.json.Decoder(_Chunk).decode


def keeps_alive(block: bytes) -> bool:
    """Whether all events of a block are keep-alives; a large block is not looked at."""
    if len(block) > LARGEST:
        return False
    return _alive(block) is not None or (block[0] == _MESSAGE and _are_pings(block))


def _are_pings(block: bytes) -> bool:
    """Whether all of a block of AWS messages are chunks that hold a ping."""
    try:
        return all(_ping(_decode_chunk(payload).data) for _, payload in messages(block))
    except (WireError, msgspec.DecodeError):  # exceptions and all other events have no bytes
        return False
