"""The offer of HTTP/2: where it is made, and what is spoken once the handshake has told."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from ringcast.config import HTTP2_NEEDS, Config
from ringcast.errors import ConfigError
from ringcast.providers.http.carrier import Origin
from ringcast.providers.http.connection import Connection

if TYPE_CHECKING:
    from ringcast.providers.http.multiplex import Multiplex


HTTP2: Final = "ringcast.http2"  # the extension of a request that may be sent by HTTP/2


class Offer(NamedTuple):
    """HTTP/2 before HTTP/1.1, for requests that may be sent by it; the server chooses.

    `context` is for these only, as its ALPN says what is offered (RFC 7301).
    """

    context: ssl.SSLContext
    speak: type[Multiplex]

    def to(self, origin: Origin) -> bool:
        """Whether it is made to `origin`; without TLS it never is."""
        return origin.scheme == "https" and origin.http2


def offer_of(config: Config) -> Offer | None:
    """Return what it takes to offer it, if any provider asks for that; only then h2 is imported.

    Raises `ConfigError` where it is not installed.
    """
    if not any(provider.http2 for provider in config.providers.values()):
        return None
    if find_spec("h2") is None:
        raise ConfigError(f"http2 {HTTP2_NEEDS}")
    from ringcast.providers.http.multiplex import Multiplex

    return Offer(ssl.create_default_context(), Multiplex)


class Greeting(asyncio.Protocol):
    """Has the socket until the handshake is done, and hands it to who speaks what was agreed."""

    def __init__(self, own: Connection, speak: Callable[[], Multiplex]) -> None:
        """`own` speaks HTTP/1.1, and what `speak` makes HTTP/2."""
        self.carrier: Connection | Multiplex = own
        self._speak = speak

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if transport.get_extra_info("ssl_object").selected_alpn_protocol() == "h2":
            self.carrier = self._speak()
        cast(asyncio.Transport, transport).set_protocol(self.carrier)
        self.carrier.connection_made(transport)

    def abort(self) -> None:
        """Close the socket at once."""
        self.carrier.abort()
