"""What the end of a body means for its stream: it is over, or may yet go on.

| how the body ended                                             | shown so far | verdict  |
|----------------------------------------------------------------|--------------|----------|
| anyhow, and its END is final: who wrote it has decided         | any          | OVER     |
| by the connection's fault, of an answer that its provider keeps| any          | GO_ON    |
| interrupted: the provider process died                         | nothing      | ANEW     |
| in any other way                                               | any          | OVER     |

The first row that fits counts. Behind GO_ON comes the rest of the answer by another connection;
ANEW is a request that may be sent once more, since nobody has seen a token of its answer.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from ringcast.errors import Code
from ringcast.providers.wire.body import Ending

_BROKEN: Final = frozenset(
    {
        Code.INTERRUPTED,
        Code.TRANSPORT,
        Code.STREAM_INCOMPLETE,
        Code.CONNECT_FAILED,
        Code.CONNECT_TIMEOUT,
        Code.FIRST_BYTE_TIMEOUT,
    }
)


class Verdict(Enum):
    """How it is with a stream whose body has ended."""

    OVER = auto()
    GO_ON = auto()
    ANEW = auto()


def verdict(ending: Ending, *, final: bool, kept: bool, shown: bool) -> Verdict:
    """Judge an ending; `kept` says whether the provider keeps the answer."""
    if final:
        return Verdict.OVER
    if kept and _is_broken(ending):
        return Verdict.GO_ON
    if is_interrupted(ending) and not shown:
        return Verdict.ANEW
    return Verdict.OVER


def is_interrupted(ending: Ending) -> bool:
    """Say whether a body ended because the process that read it died."""
    return ending.code == Code.INTERRUPTED


def _is_broken(ending: Ending) -> bool:
    """Say whether a body ended by the connection's fault, and not by anybody's word."""
    return ending.kind in ("eof", "reset") or ending.code in _BROKEN
