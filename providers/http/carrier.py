"""What carries exchanges: a connection of HTTP/1.1 one at a time, one of HTTP/2 many at once."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import httpx

from ringcast.providers.http.body import Body
from ringcast.providers.http.reach import Reach


class Origin(NamedTuple):
    """Scheme, host (ASCII, no brackets) and port: what may share a connection (RFC 6454).

    And how far the connection was allowed to reach, which not every request to it may, and whether
    it was offered HTTP/2.
    """

    scheme: str
    host: str
    port: int
    reach: Reach = Reach.PUBLIC
    http2: bool = False

    @property
    def address(self) -> str:
        """`host:port`, for error texts."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def of(cls, url: httpx.URL, reach: Reach = Reach.PUBLIC, *, http2: bool = False) -> Origin:
        """The origin of `url`. Raises `httpx.UnsupportedProtocol`."""
        if url.scheme not in ("http", "https"):
            raise httpx.UnsupportedProtocol(f"{url.scheme!r} is neither http nor https")
        port = url.port or (443 if url.scheme == "https" else 80)
        return cls(url.scheme, url.raw_host.decode("ascii"), port, reach, http2)


class Answer(NamedTuple):
    """The head of a response, and its body to come; `version` is `1.1`, `2`, …"""

    version: str
    status: int
    headers: list[tuple[bytes, bytes]]
    body: Body


class Unprocessed(httpx.ReadError):
    """The server has not begun with the request: it may be sent again, by another connection."""


class Carrier(Protocol):
    """One socket. Who wants to exchange takes a share first, then exchanges or gives it back."""

    origin: Origin
    kept: bool
    """Whether it has carried an exchange to its end."""

    @property
    def usable(self) -> bool:
        """Whether it may be given another exchange, as far as we know."""

    @property
    def room(self) -> bool:
        """Whether it can carry another exchange beside those it has."""

    @property
    def idle(self) -> bool:
        """Whether it has none."""

    def take(self) -> None:
        """Reserve room for one exchange."""

    def give_back(self) -> None:
        """Nobody will use what was taken."""

    async def exchange(
        self, request: httpx.Request, content: bytes, timeout_s: float | None
    ) -> Answer:
        """Send `request`, and wait for the head of its answer at most `timeout_s`.

        Raises `Unprocessed`, `httpx.ReadTimeout`, `httpx.ReadError` and
        `httpx.RemoteProtocolError`; then, and when cancelled, nothing of the exchange is left.
        """

    def retire(self) -> None:
        """Carry nothing new, and close as soon as nothing is carried."""

    def abort(self) -> None:
        """Close the socket at once, unsent bytes and TLS goodbyes included."""

    def close(self) -> None:
        """As `abort`, but whoever waits for an exchange gets `httpx.CloseError`."""


class Owner(Protocol):
    """Who keeps carriers: the pool."""

    def made(self, carrier: Carrier) -> None: ...
    def known(self, carrier: Carrier) -> None: ...
    def release(self, carrier: Carrier) -> None: ...
    def lost(self, carrier: Carrier) -> None: ...
