"""Decoding a recorded body without a daemon, in the pieces that a socket might give."""

from __future__ import annotations

import random
from collections.abc import Iterator

from ringcast.providers.wire import summary
from ringcast.providers.wire.body import Ending
from ringcast.shm.tokens import StreamToken


def decode(
    api: str,
    body: bytes,
    cut: int | None,
    seed: int | None,
    status: int,
    *,
    kind: str = "",
    compat: str = "",
) -> list[StreamToken]:
    """Return the tokens of `body`, cut into `cut`-byte or seeded random pieces first.

    A `status` other than 200 makes it an error's body. `compat` "roo" gives the tokens that show
    what Roo-Code shows of a provider of this `kind`.
    """
    if status != 200:
        ending = Ending("http", status=status, body=body)
        return summary.decode(api, [], ending, kind=kind, compat=compat)
    return summary.decode(api, pieces(body, cut, seed), kind=kind, compat=compat)


def pieces(body: bytes, cut: int | None, seed: int | None) -> Iterator[bytes]:
    """Cut a body: whole, into equal pieces, or into random ones of 1 to 512 bytes."""
    if seed is not None:
        chance = random.Random(seed)
        start = 0
        while start < len(body):
            size = chance.randint(1, 512)
            yield body[start : start + size]
            start += size
    else:
        size = cut or len(body) or 1
        for start in range(0, len(body), size):
            yield body[start : start + size]
