"""The replay upstream's server: finds the recording that a request asks for, and serves it.

POST any provider's path   `model` names a recording (`openai/chat-text-usage`), maybe with
                           knobs (`;pace=0;cut=7`: see `behaviour.Behaviour`), or is
                           `numbered;n=1000`; any other model gets the first that fits
GET  .../responses/NAME    the rest of a numbered answer that is kept (see `kept`); also
                           .../interactions/NAME, and POST .../NAME/cancel
GET  .../models            the recordings, as OpenAI lists models
GET  /_stats               `Stats` as JSON
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Final

import msgspec

from ringcast.replay.answer import Ending, Reply, Seen
from ringcast.replay.behaviour import Behaviour, KnobError, turned
from ringcast.replay.exchange import Connection, Request
from ringcast.replay.kept import kept, kept_events
from ringcast.replay.kept import speaks as kept_speaks
from ringcast.replay.numbered import NUMBERED, numbered_events, speaks
from ringcast.replay.recording import Library, Recording, events
from ringcast.replay.route import Asked, endpoint, refusal
from ringcast.replay.wheel import Wheel

_BACKLOG: Final = 4096
# The kernel doubles it; with its own choice (up to 4 MB) a reader that stops goes unnoticed.
_SEND_BUFFER: Final = 128 << 10
_SEEN: Final = 2_000
# How we answer what is not replayed.
_AT_ONCE: Final = Behaviour(pace=0, length="length")


class Stats(msgspec.Struct):
    """Counters since the start; `open_streams` is how many answers are on their way now.

    `done`, `fin` and `rst` count endings as `Seen.ended` names them; `bytes_sent` counts
    bytes of bodies. Requests for the counters are not counted.
    """

    requests: int = 0
    open_streams: int = 0
    bytes_sent: int = 0
    done: int = 0
    fin: int = 0
    rst: int = 0


class Upstream:
    """The server. `seen` has the latest 2,000 requests, oldest first."""

    def __init__(
        self,
        recordings: Iterable[Recording],
        behaviour: Behaviour | None = None,
        *,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """`recordings` in order of preference; `loop`: the running one unless given."""
        self.loop = loop or asyncio.get_running_loop()
        self.wheel = Wheel(self.loop)
        self.stats = Stats()
        self.seen: deque[Seen] = deque(maxlen=_SEEN)
        self.connections: set[Connection] = set()
        self._library = Library(recordings)
        self._behaviour = behaviour or Behaviour()
        self._counted: set[int] = set()
        self._news = asyncio.Event()
        self._server: asyncio.Server | None = None

    @property
    def bytes_sent(self) -> int:
        """Bytes of bodies given to transports since the start."""
        return self.stats.bytes_sent

    @property
    def open_streams(self) -> int:
        """Answers on their way."""
        return self.stats.open_streams

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listen; returns the port (a free one for 0). Raises OSError."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        self._server = await self.loop.create_server(
            lambda: Connection(self), sock=sock, backlog=_BACKLOG
        )
        bound: int = sock.getsockname()[1]
        return bound

    async def stop(self) -> None:
        """Stop listening and drop every connection."""
        self.wheel.close()
        for connection in tuple(self.connections):
            connection.abort()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until `holds()`; looked at whenever a request came or an answer ended."""
        while not holds():
            self._news.clear()
            await self._news.wait()

    def reply_to(self, request: Request) -> tuple[Reply, Seen]:
        """Decide on the answer to a request, and note it in `seen`."""
        seen = request.seen()
        if request.path == "/_stats":
            return _whole(200, msgspec.json.encode(self.stats)), seen
        self.seen.append(seen)
        self.stats.requests += 1
        self.stats.open_streams += 1
        self._counted.add(id(seen))
        self._news.set()
        return self._reply(request, seen), seen

    def sent(self, seen: Seen, size: int) -> None:
        """Count so many bytes of a body that are about to be written."""
        seen.sent += size
        if id(seen) in self._counted:
            self.stats.bytes_sent += size

    def ended(self, seen: Seen, ended: Ending) -> None:
        """Note how an answer ended."""
        seen.ended, seen.ended_at = ended, self.loop.time()
        if id(seen) not in self._counted:
            return
        self._counted.remove(id(seen))
        self.stats.open_streams -= 1
        setattr(self.stats, ended, getattr(self.stats, ended) + 1)
        self._news.set()

    def _reply(self, request: Request, seen: Seen) -> Reply:
        at = endpoint(request.path)
        api = at.api if at else None
        if self._behaviour.key is not None and not request.carries(self._behaviour.key):
            return _refused(api, 401, "Incorrect API key provided.")
        if request.method == "GET" and request.path.endswith("/models"):
            return _whole(200, self._models())
        if (about := kept(request.path, request.query)) is not None:
            seen.model = about.model
            if about.cancels:
                return _whole(200, msgspec.json.encode({"id": request.path, "status": "cancelled"}))
            return self._answer(Asked(about.api, about.model, True, True, about.after))
        if at is None or request.method != "POST":
            return _refused(api, 404, f"Unknown request URL: {request.method} {request.path}.")
        try:
            asked = at.asked(request.path, bytes(request.body))
            seen.model = asked.model
            return self._answer(asked)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return _refused(api, 400, f"The body of the request is not as it should be: {error}.")
        except KnobError as error:
            return _refused(api, 400, str(error))

    def _answer(self, asked: Asked) -> Reply:
        name, _, knobs = asked.model.partition(";")
        behaviour = turned(self._behaviour, knobs)
        if name == NUMBERED and asked.stream and speaks(asked.api):
            reply = _numbered(asked.api, behaviour)
        elif name == NUMBERED and asked.stream and kept_speaks(asked.api):
            reply = _kept(asked, behaviour)
        elif found := self._library.find(name, asked.api, stream=asked.stream):
            reply = _replayed(found, behaviour)
        else:
            return _refused(asked.api, 404, f"The model `{name}` does not exist.")
        status = behaviour.status or reply.status
        if status >= 400 > reply.status:
            return _refused(asked.api, status, "The request asked for this error.", behaviour)
        return msgspec.structs.replace(reply, status=status)

    def _models(self) -> bytes:
        listed = [(r.name, r.provider) for r in self._library.recordings]
        models = [
            {"id": name, "object": "model", "created": 0, "owned_by": provider}
            for name, provider in [*listed, (NUMBERED, "ringcast")]
        ]
        return msgspec.json.encode({"object": "list", "data": models})


def _replayed(recording: Recording, behaviour: Behaviour) -> Reply:
    parts, size = events(recording.body, recording.framing), len(recording.body)
    return Reply(recording.status, recording.content_type, parts, behaviour, size)


def _numbered(api: str, behaviour: Behaviour) -> Reply:
    parts = numbered_events(api, behaviour.n, behaviour.seed, clock=behaviour.clock)
    return Reply(200, "text/event-stream; charset=utf-8", parts, behaviour)


def _kept(asked: Asked, behaviour: Behaviour) -> Reply:
    n, seed = behaviour.n, behaviour.seed
    parts = kept_events(asked.api, asked.model, n, seed, background=asked.background)
    rest = islice(parts, asked.after + 1, None)
    return Reply(200, "text/event-stream; charset=utf-8", rest, behaviour)


def _whole(status: int, body: bytes, behaviour: Behaviour = _AT_ONCE) -> Reply:
    return Reply(status, "application/json", [body], behaviour, len(body))


def _refused(api: str | None, status: int, message: str, behaviour: Behaviour = _AT_ONCE) -> Reply:
    return _whole(status, refusal(api, status, message), behaviour)
