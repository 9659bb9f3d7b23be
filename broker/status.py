"""What `ringcast status`, `ps` and `top` show of the daemon."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any

import msgspec

from ringcast.broker import protocol
from ringcast.broker.session import Sessions
from ringcast.broker.stream import Stream
from ringcast.config import Config
from ringcast.providers.commands import Ready
from ringcast.shm import counters, segment
from ringcast.shm.wiring import Wiring
from ringcast.workers import stream_metrics
from ringcast.workers.stream_metrics import Figures


class Status:
    """The daemon at one moment, over and over."""

    def __init__(
        self,
        sessions: Sessions,
        config: Config,
        wiring: Wiring,
        page: memoryview,
        ready: Mapping[int, Ready],
        started: float,
    ) -> None:
        """`page` is the counters'; `ready` each provider process's report; `started` in seconds."""
        self._sessions = sessions
        self._config = config
        self._wiring = wiring
        self._page = page
        self._ready = ready
        self._started = started

    def report(self, daemon: str, now: float) -> dict[str, Any]:
        """Return all of it; `daemon` is the broker's own name."""
        rows = counters.read(self._page)
        return {
            "daemon": daemon,
            "version": protocol.server(),
            "uptime_s": round(now - self._started, 3),
            "clients": len(self._sessions.clients),
            "streams": [_stream(one) for one in self._sessions.streams.values()],
            "providers": {name: self._provider(name) for name in self._config.providers},
            "counters": rows,
            "metrics": self._metrics(rows),
        }

    def _provider(self, name: str) -> str:
        for one in self._ready.values():
            if name in one.disabled:
                return one.disabled[name]
            if name in one.lacking:
                return f"ready, but {one.lacking[name]}"
        return "ready"

    def _metrics(self, rows: list[dict[str, int | str]]) -> Figures:
        """What all workers have noted since the daemon began, and the errors that we said."""
        with closing(segment.attach(self._wiring.metrics)) as page:
            figures = stream_metrics.of_all(page.memory)
        ours = sum(int(row["errors"]) for row in rows if row["role"] == "broker")
        return msgspec.structs.replace(figures, errors=figures.errors + ours)


def _stream(stream: Stream) -> dict[str, Any]:
    return {
        "id": stream.id.hex(),
        "provider": stream.provider,
        "model": stream.model,
        "state": stream.phase,
        "seq": stream.end - 1,
        "readers": len(stream.subscriptions),
    }
