"""What an address is: public, private, or a cloud machine's metadata. Pure.

Sources: the IANA registries of special-purpose addresses (RFC 6890), RFC 1918 and 4193 (private),
6598 (shared), 6052 (NAT64), 3056 (6to4), 4291 §2.5.5.2 (IPv4-mapped). Not private here is
198.18.0.0/15 (benchmarks): local proxies answer with it for every public name.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Final, Literal, TypeAlias
from urllib.parse import urlsplit

Kind: TypeAlias = Literal["public", "private", "metadata"]
Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

# Who asks one of these is given the machine's credentials: AWS, Azure, Google, Oracle and others at
# 169.254.169.254, AWS's containers at 169.254.170.2, Alibaba's at 100.100.100.200.
_METADATA: Final = tuple(
    map(
        ipaddress.ip_network,
        ("169.254.0.0/16", "100.100.100.200", "fe80::/10", "fd00:ec2::254", "fd20:ce::254"),
    )
)
_PRIVATE: Final = tuple(
    map(
        ipaddress.ip_network,
        (
            *("0.0.0.0/8", "127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
            *("100.64.0.0/10", "::/128", "::1/128", "fc00::/7"),
        ),
    )
)
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
# RFC 6761, 6762, 8375; `.internal` is reserved by ICANN, `.lan` is what routers say.
_PRIVATE_NAMES: Final = (".localhost", ".local", ".internal", ".lan", ".home.arpa")


def kind_of(address: Address) -> Kind:
    """Return what an address is, or the IPv4 address within it."""
    inner = _inner(address)
    if any(inner in network for network in _METADATA):
        return "metadata"
    return "private" if any(inner in network for network in _PRIVATE) else "public"


def literal(host: str) -> Address | None:
    """Return the address that a host is, None for a name; 127.1 and 0x7f000001 are addresses."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, UnicodeEncodeError):
        return None


def meant_private(host: str) -> bool:
    """Whether a host says itself that it is no public one: `localhost`, `10.0.0.5`, `gpu.lan`."""
    address = literal(host)
    if address is not None:
        return kind_of(address) == "private"
    name = host.rstrip(".").lower()
    return "." not in name or name.endswith(_PRIVATE_NAMES)


def is_metadata(url: str) -> bool:
    """Whether a URL leads to a metadata address without a name being looked up."""
    try:
        address = literal(urlsplit(url).hostname or "")
    except ValueError:  # no URL: whoever sends to it says so
        return False
    return address is not None and kind_of(address) == "metadata"


def _inner(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 one stands for, or else itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or address
