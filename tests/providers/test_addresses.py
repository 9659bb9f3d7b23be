"""Where requests may go: kinds of addresses, what may be configured, where names may lead."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fakes.scripted import HELLO, Run, Upstream, answers, client_of
from hypothesis import given
from hypothesis import strategies as st

from ringcast import config_file
from ringcast.addresses import is_metadata, kind_of, literal, meant_private
from ringcast.config import Timeouts
from ringcast.errors import Code, ConfigError
from ringcast.providers.http import tcp
from ringcast.providers.http.carrier import Origin
from ringcast.providers.http.reach import REACH, Reach, refusal
from ringcast.providers.response_ending import connection_ending

METADATA = [
    "169.254.169.254",
    "169.254.170.2",
    "100.100.100.200",
    "fd00:ec2::254",
    "fd20:ce::254",
    "fe80::1",
    "fe80::1%eth0",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
]
PRIVATE = [
    "127.0.0.1",
    "127.8.8.8",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "100.64.0.1",
    "0.0.0.0",
    "::",
    "::1",
    "fc00::1",
    "fd12:3456::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
]
PUBLIC = [
    "8.8.8.8",
    "172.32.0.1",
    "198.18.0.1",
    "2001:4860::1",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
]


@pytest.mark.parametrize(
    ("kind", "address"),
    [
        *(("metadata", one) for one in METADATA),
        *(("private", one) for one in PRIVATE),
        *(("public", one) for one in PUBLIC),
    ],
)
def test_each_address_is_of_a_kind(kind: str, address: str) -> None:
    assert kind_of(ipaddress.ip_address(address)) == kind


@given(st.ip_addresses(v=4))
def test_an_address_inside_another_is_of_the_same_kind(inner: ipaddress.IPv4Address) -> None:
    kind = kind_of(inner)
    assert kind_of(ipaddress.ip_address(f"::ffff:{inner}")) == kind
    assert kind_of(ipaddress.IPv6Address((0x64FF9B << 96) | int(inner))) == kind


@given(st.ip_addresses(network="169.254.0.0/16") | st.ip_addresses(network="fe80::/10"))
def test_a_link_local_address_is_never_reached_for_a_request(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    for host in ("api.example.com", "localhost", "gpu.lan", str(address)):
        assert refusal(host, str(address), Reach.PUBLIC)
        assert refusal(host, str(address), Reach.PRIVATE)
        assert not refusal(host, str(address), Reach.METADATA)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("2852039166", "169.254.169.254"),
        ("0xa9fea9fe", "169.254.169.254"),
        ("0251.0376.0251.0376", "169.254.169.254"),
        ("::1", "::1"),
        ("api.example.com", None),
        ("1.2.3.4.5", None),
        ("", None),
        ("é", None),
    ],
)
def test_what_a_resolver_takes_for_an_address_is_one(host: str, address: str | None) -> None:
    assert str(literal(host)) == str(address)


@pytest.mark.parametrize(
    ("host", "meant"),
    [
        *((host, True) for host in ("localhost", "LOCALHOST.", "ollama", "gpu.lan")),
        *((host, True) for host in ("gpu.lan.", "LOCAL", "a.b.internal", "A.Internal")),
        *((host, True) for host in ("printer.local", "nas.home.arpa", "x.localhost", "127.1")),
        *((host, True) for host in ("192.168.0.9", "::1", "fd00::1", "0.0.0.0")),
        *((host, False) for host in ("api.openai.com", "lan.example", "notlocal.example.com")),
        *((host, False) for host in ("8.8.8.8", "169.254.169.254", "127.0.0.1.nip.io")),
    ],
)
def test_hosts_that_are_meant_to_be_private_say_so(host: str, meant: bool) -> None:
    assert meant_private(host) == meant


# the configuration


def configured(base_url: str) -> None:
    config_file.parse(f'[providers.it]\nkind = "openai-compatible"\nbase_url = "{base_url}"\n')


@pytest.mark.parametrize(
    "host",
    [
        *("169.254.169.254", "169.254.169.254:80", "user@169.254.169.254", "2852039166"),
        *(
            "0xa9.254.43518",
            "100.100.100.200",
            "[fd00:ec2::254]",
            "[::ffff:a9fe:a9fe]",
            "[fe80::1]",
        ),
    ],
)
def test_p21_a_metadata_address_is_refused_where_it_is_configured(host: str) -> None:
    with pytest.raises(ConfigError, match=r"providers\.it\.base_url: leads to where machines keep"):
        configured(f"http://{host}/v1")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8080/v1", "http://gpu.lan/v1", "http://[::1]/v1", "https://10.0.0.7"]
)
def test_p21_a_server_of_ones_own_may_be_configured(url: str) -> None:
    configured(url)


def test_what_is_no_url_is_no_metadata_address() -> None:
    assert not is_metadata("http://[half/")
    assert not is_metadata("http:///v1")


# names

Resolve = Callable[..., Any]


def leading_to(*addresses: str) -> Resolve:
    """A resolver that says these of every name; an address it leaves as it is."""
    resolve = asyncio.get_running_loop().getaddrinfo

    async def getaddrinfo(host: str, port: int, **hints: Any) -> list[tuple[Any, ...]]:
        if literal(host) is not None:
            return list(await resolve(host, port, **hints))
        families = [socket.AF_INET6 if ":" in one else socket.AF_INET for one in addresses]
        kinds = [(family, socket.SOCK_STREAM, 0, "") for family in families]
        return [(*kind, (one, port)) for kind, one in zip(kinds, addresses, strict=True)]

    return getaddrinfo


@pytest.mark.parametrize("address", [*METADATA, *PRIVATE])
def test_p21_a_public_name_may_not_lead_inside(address: str) -> None:
    """DNS rebinding. The text names host and address, and what lets a private one."""
    text = refusal("api.example.com", address, Reach.PUBLIC)
    assert text.startswith(f"api.example.com is at {address}, ")
    assert ("allow_private = true" in text) == (address in PRIVATE)
    assert bool(refusal("api.example.com", address, Reach.PRIVATE)) == (address in METADATA)


def test_p21_a_name_that_leads_inside_is_refused_before_connecting(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No SYN is sent."""
    tried: list[object] = []

    async def attempt(address: object) -> socket.socket:
        tried.append(address)
        raise OSError

    async def main() -> None:
        monkeypatch.setattr(tcp, "_attempt", attempt)
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", leading_to("10.0.0.1"))
        async with client_of() as (client, _):
            with pytest.raises(httpx.ConnectError) as refused:
                await client.get("http://api.example.com/")
        ending = connection_ending(refused.value, Timeouts())
        assert ending.code == Code.ADDRESS_REFUSED
        assert ending.message.startswith("api.example.com is at 10.0.0.1, a private address")

    run(main())
    assert not tried


@pytest.mark.parametrize("host", ["localhost", "gpu.lan", "api.example.com"])
def test_p21_a_metadata_address_is_refused_by_whatever_name(
    run: Run, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    """Also for a provider that may be private."""

    async def main() -> None:
        resolver = leading_to("169.254.169.254")
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolver)
        async with client_of() as (client, _):
            with pytest.raises(httpx.ConnectError, match="keep their credentials"):
                await client.get(f"http://{host}/", extensions={REACH: Reach.PRIVATE})

    run(main())


@pytest.mark.parametrize(
    ("host", "reach"),
    [
        ("gpu.lan", Reach.PUBLIC),
        ("ollama", Reach.PUBLIC),
        ("api.example.com", Reach.PRIVATE),
        ("metadata.example", Reach.METADATA),
    ],
)
def test_who_may_be_inside_is_reached_there(
    run: Run, monkeypatch: pytest.MonkeyPatch, host: str, reach: Reach
) -> None:
    async def main() -> None:
        async with Upstream(answers(HELLO)) as up, client_of() as (client, _):
            resolver = leading_to("127.0.0.1")
            monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolver)
            url = f"http://{host}:{up.port}/"
            assert (await client.get(url, extensions={REACH: reach})).content == b"hello"

    run(main())


def test_of_a_names_addresses_only_the_allowed_ones_are_tried(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[tuple[Any, ...]] = []

    async def attempt(address: tcp.Address) -> socket.socket:
        tried.append(address.sockaddr)
        raise OSError("nobody there")

    async def main() -> None:
        monkeypatch.setattr(tcp, "_attempt", attempt)
        mixed = leading_to("10.0.0.1", "192.0.2.1", "169.254.169.254", "192.0.2.2")
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", mixed)
        with pytest.raises(httpx.ConnectError, match="nobody there"):
            await tcp.connect("api.example.com", 443, Reach.PUBLIC)

    run(main())
    assert tried == [("192.0.2.1", 443), ("192.0.2.2", 443)]


def test_a_connection_that_may_be_inside_is_not_used_by_who_may_not(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with Upstream(answers(HELLO)) as up, client_of() as (client, transport):
            resolver = leading_to("127.0.0.1")
            monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolver)
            url = f"http://api.example.com:{up.port}/"
            await client.get(url, extensions={REACH: Reach.PRIVATE})
            assert transport.gauges.idle == 1
            with pytest.raises(httpx.ConnectError, match="a private address"):
                await client.get(url)

    run(main())


def test_an_origin_reaches_no_farther_than_it_is_told() -> None:
    assert Origin.of(httpx.URL("https://api.example.com/v1")).reach == Reach.PUBLIC
