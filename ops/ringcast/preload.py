"""Everything the children need, imported once in the supervisor before it forks them.

Imports only: no ZeroMQ context, no event loop, no thread may exist before a fork. A child
then starts in milliseconds and shares these modules' pages; freezing the heap keeps the
collector from touching, and thereby copying, them.
"""

from __future__ import annotations

import gc
import sys
from typing import Any

# httpx imports its command line, and with it rich and pygments, if click is there: 5 MB.
_modules: dict[str, Any] = sys.modules
_modules["httpx._main"] = None

import ringcast.broker.process  # noqa: E402
import ringcast.providers.process  # noqa: E402
import ringcast.workers.process  # noqa: E402

broker = ringcast.broker.process.run
provider = ringcast.providers.process.run
worker = ringcast.workers.process.run

gc.collect()
gc.freeze()
