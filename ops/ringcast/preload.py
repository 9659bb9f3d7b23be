"""Everything the children need, imported once in the supervisor before it forks them.

Imports only: no ZeroMQ context, no event loop, no thread may exist before a fork. A child
then starts in milliseconds and shares these modules' pages; freezing the heap keeps the
collector from touching, and thereby copying, them.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from typing import Any

# httpx imports its command line, and with it rich and pygments, if click is there: 5 MB.
_modules: dict[str, Any] = sys.modules
_modules["httpx._main"] = None

import ringcast.broker.process  # noqa: E402
import ringcast.providers.process  # noqa: E402
import ringcast.workers.counter  # noqa: E402
import ringcast.workers.process  # noqa: E402
from ringcast.providers.spending import prices  # noqa: E402
from ringcast.workers import ranks  # noqa: E402

broker = ringcast.broker.process.run
provider = ringcast.providers.process.run
worker = ringcast.workers.process.run
counter = ringcast.workers.counter.run


def _freeze() -> None:
    gc.collect()
    gc.freeze()


def tokenizers(names: Sequence[str]) -> list[str]:
    """Load encodings, so that all children share them; return those whose rank files are not there.

    `o200k_base` takes 0.25 s and 61 MB, of which a child that counts writes to less than 2.
    """
    missing = [name for name in names if ranks.encoding(name) is None]
    _freeze()
    return missing


prices.bundled()  # 3 ms, which no request should wait for
_freeze()
