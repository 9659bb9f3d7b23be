"""One configured provider: which calls it takes, and what proves who asks."""

from __future__ import annotations

from collections.abc import Mapping

import httpx
import msgspec

from ringcast.config import Provider
from ringcast.providers import access
from ringcast.providers.credentials import Credential
from ringcast.providers.http.offer import HTTP2
from ringcast.providers.http.reach import REACH, Reach
from ringcast.providers.kinds import vendor
from ringcast.providers.request import Call, refuse
from ringcast.providers.vendor import AnyRequest, Vendor
from ringcast.shm.records import Cursor


def open_gateway(
    name: str, config: Provider, environment: Mapping[str, str], key: str | None = None
) -> Gateway:
    """Return the way to a configured provider; `key` comes before the first configured one.

    Raises `ConfigError` saying what is missing and where it was looked for.
    """
    if config.keys:
        config = msgspec.structs.replace(config, key=config.keys[0], keys=[])
    located, credential = access.grant(name, config, environment, key)
    return Gateway(located, credential, vendor(located), name)


class Gateway(msgspec.Struct, frozen=True):
    """How a provider is spoken to, by one of its keys if it has several (`openai#2`, `keys[1]`)."""

    config: Provider
    credential: Credential
    vendor: Vendor
    name: str
    key: str = ""

    def headers(self) -> dict[str, str]:
        """Return the headers of every request; a call's and the configured ones come over it."""
        return {"content-type": "application/json", "accept": "text/event-stream"}

    def request(self, client: httpx.AsyncClient, call: Call) -> httpx.Request:
        """Return what is sent for `call`; a path that begins with a scheme is the whole URL.

        Raises `RequestError` (bad_request) for a body that JSON cannot say, `httpx.InvalidURL`.
        """
        try:
            content = msgspec.json.encode(call.body) if call.method == "POST" else None
        except (TypeError, ValueError, RecursionError) as error:  # msgpack can say more than JSON
            raise refuse("request", f"cannot be sent as JSON: {error}") from None
        elsewhere = call.path.startswith(("https://", "http://"))
        return client.build_request(
            call.method,
            call.path if elsewhere else self.config.base_url + call.path,
            content=content,
            headers=self.headers() | call.headers | self.config.headers,
            extensions={
                REACH: Reach.PRIVATE if self.config.allow_private else Reach.PUBLIC,
                HTTP2: self.config.http2,
            },
        )

    def shape(self, model: str, request: AnyRequest) -> tuple[str, Call]:
        """Return the wire decoder's name and the call.

        Raises `RequestError` (bad_request) naming a field that the provider cannot be told.
        """
        try:
            return self.vendor.api(request), self.vendor.generate(model, request)
        except RecursionError:
            raise refuse("request", "is nested too deeply") from None

    def count(self, model: str, request: AnyRequest) -> Call | None:
        """Return the call that counts a request's tokens; None where nothing does.

        Raises `RequestError` (bad_request), as `shape` does.
        """
        try:
            return self.vendor.count(model, request)
        except RecursionError:
            raise refuse("request", "is nested too deeply") from None

    def reattach(self, api: str, cursor: Cursor) -> Call:
        """Return the call that goes on with an answer behind `cursor`."""
        return self.vendor.reattach(api, cursor)

    def recall(self, api: str, cursor: Cursor) -> Call:
        """Return the call that makes the provider stop an answer."""
        return self.vendor.recall(api, cursor)
