"""Whole events that only say that the provider lives: they reach the worker, and wind no clock.

Anthropic's `ping` (docs.anthropic.com/en/docs/build-with-claude/streaming), the Responses API's
`keepalive`, a `ping` with `{}` or nothing as proxies add it, and what the event stream itself has:
comments, blank lines, `id` and `retry` alone. Other framings have nothing of the kind, and none of
their blocks begins like a line of this one.
"""

from __future__ import annotations

import re
from typing import Final

# Pings come one by one and have 40 to 70 bytes; a block of text in one read is mostly larger.
LARGEST: Final = 512
_alive = re.compile(
    rb"""(?:
        (?: : [^\r\n]*+
          | (?: id | retry ) : [^\r\n]*+
          | event:\ ? (?: ping | keepalive )
          | data:\ ? (?: \{\s*+ "type"\s*+:\s*+ "(?: ping | keepalive )" [^{}\r\n]*+ \} | \{\} )?+
        )?+
        \ *+ [\r\n]
    )*+""",
    re.VERBOSE,
).fullmatch


def keeps_alive(block: bytes) -> bool:
    """Whether all events of a block are keep-alives; a large block is not looked at."""
    return len(block) <= LARGEST and _alive(block) is not None
