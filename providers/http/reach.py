"""How far a request may go, decided by the addresses that its host's name has.

A public name that leads to a private address is a mistake or an attack (DNS rebinding: a name that
its owner lets point into our network). The decision is made between the name's resolution and the
connection, so that nothing can change in between.
"""

from __future__ import annotations

import ipaddress
from enum import IntEnum
from typing import Final

import httpx

from ringcast.addresses import kind_of, meant_private

REACH: Final = "ringcast.reach"  # the extension of a request that holds its `Reach`


class Reach(IntEnum):
    """The farthest that a request may go; without a word it is `PUBLIC`."""

    PUBLIC = 0
    """To public addresses; to private ones if the host is meant to be private."""
    PRIVATE = 1
    """Also if the host looks public: `providers.NAME.allow_private`."""
    METADATA = 2
    """Anywhere: a credential asks the machine that it runs on."""


class AddressRefused(httpx.ConnectError):
    """A name leads where its request may not go; a retry does not mend it."""


def refusal(host: str, address: str, reach: Reach) -> str:
    """Say why a request may not go to one of its host's addresses; nothing if it may."""
    match kind_of(ipaddress.ip_address(address)):
        case "metadata" if reach < Reach.METADATA:
            return f"{host} is at {address}, where machines keep their credentials: refused"
        case "private" if reach < Reach.PRIVATE and not meant_private(host):
            return (
                f"{host} is at {address}, a private address: refused unless "
                "providers.NAME.allow_private = true"
            )
        case _:
            return ""
