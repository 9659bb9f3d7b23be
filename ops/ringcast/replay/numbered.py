"""Numbered streams: made as they are sent, for load, soak and proofs that nothing is lost.

A token is `<i>:<checksum>`, the checksum eight hex digits of a running CRC-32 over all numbers
so far, begun with a seed: a gap, a double or a swap anywhere shows in every later token.
With the clock a token is `t` and 19 digits: CLOCK_MONOTONIC in nanoseconds before its write.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator
from itertools import count
from typing import Final

import msgspec

NUMBERED: Final = "numbered"


class _Format(msgspec.Struct, frozen=True):
    """An API's stream around its tokens: `%d` in `last` takes their number."""

    first: bytes
    head: bytes
    tail: bytes
    last: bytes


# Sizes as the providers send them: 262 bytes and a token for OpenAI, 119 and a token for Anthropic.
_CHUNK: Final = (
    b'data: {"id":"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT","object":"chat.completion.chunk",'
    b'"created":1741569952,"model":"numbered-2024-08-06","system_fingerprint":"fp_44709d6fcb",'
    b'"choices":['
)
_FORMATS: Final = {
    "chat": _Format(
        first=_CHUNK + b'{"index":0,"delta":{"role":"assistant","content":"","refusal":null},'
        b'"logprobs":null,"finish_reason":null}]}\n\n',
        head=_CHUNK + b'{"index":0,"delta":{"content":"',
        tail=b'"},"logprobs":null,"finish_reason":null}]}\n\n',
        last=_CHUNK
        + b'{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]}\n\n'
        + _CHUNK
        + b'],"usage":{"prompt_tokens":1,"completion_tokens":%d,"total_tokens":%d}}\n\n'
        b"data: [DONE]\n\n",
    ),
    "messages": _Format(
        first=b'event: message_start\ndata: {"type":"message_start","message":{"id":'
        b'"msg_01XFDUDYJgAACzvnptvVoYEL","type":"message","role":"assistant","content":[],'
        b'"model":"numbered","stop_reason":null,"stop_sequence":null,"usage":'
        b'{"input_tokens":1,"output_tokens":1}}}\n\n'
        b'event: content_block_start\ndata: {"type":"content_block_start","index":0,'
        b'"content_block":{"type":"text","text":""}}\n\n',
        head=b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
        b'"delta":{"type":"text_delta","text":"',
        tail=b'"}}\n\n',
        last=b'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n'
        b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn",'
        b'"stop_sequence":null},"usage":{"output_tokens":%d}}\n\n'
        b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
    ),
}


def numbered_tokens(n: int, seed: int = 0) -> Iterator[str]:
    """The texts of a numbered stream of `n` tokens (0: endless), in order."""
    return (token.decode() for token in _numbers(n, seed))


def _numbers(n: int, seed: int) -> Iterator[bytes]:
    check, crc32 = seed, zlib.crc32
    for i in range(n) if n else count():
        number = b"%d" % i
        check = crc32(number, check)
        yield b"%b:%08x" % (number, check)


def _times(n: int) -> Iterator[bytes]:
    for _ in range(n) if n else count():
        yield b"t%019d" % time.monotonic_ns()


def speaks(api: str) -> bool:
    """Whether numbered streams exist in the format of `api`."""
    return api in _FORMATS


def numbered_events(api: str, n: int, seed: int, *, clock: bool) -> Iterator[bytes]:
    """The events of a numbered stream, each rendered when it is asked for."""
    shape = _FORMATS[api]
    yield shape.first
    head, tail = shape.head, shape.tail
    for token in _times(n) if clock else _numbers(n, seed):
        yield head + token + tail
    yield shape.last % ((n, n + 1) if api == "chat" else n)
