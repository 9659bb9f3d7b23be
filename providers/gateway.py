"""One configured provider with its key: which calls it takes, and how it is told who asks."""

from __future__ import annotations

from typing import Final

import httpx
import msgspec

from ringcast.config import Kind, Provider
from ringcast.providers.anthropic import Anthropic
from ringcast.providers.gemini import Gemini
from ringcast.providers.keys import Secret
from ringcast.providers.openai import OpenAI
from ringcast.providers.request import Call, refuse
from ringcast.providers.vendor import AnyRequest, Vendor
from ringcast.shm.records import Cursor

_VENDORS: Final[dict[Kind, type[Vendor]]] = {"anthropic": Anthropic, "gemini": Gemini}
# The header that carries the key, and what stands before it.
_CREDENTIALS: Final = {"anthropic": ("x-api-key", ""), "gemini": ("x-goog-api-key", "")}


def vendor(config: Provider) -> Vendor:
    """Return what speaks for a configured provider; a kind without its own speaks as OpenAI."""
    return _VENDORS.get(config.kind, OpenAI)(config)


class Gateway(msgspec.Struct, frozen=True):
    """How one provider is spoken to."""

    config: Provider
    key: Secret | None
    vendor: Vendor

    def headers(self) -> dict[str, str]:
        """Return the headers of every request; a call's and the configured ones come over it."""
        headers = {"content-type": "application/json", "accept": "text/event-stream"}
        if self.key is not None:
            name, scheme = _CREDENTIALS.get(self.config.kind, ("authorization", "Bearer "))
            headers[name] = scheme + self.key.reveal()
        return headers

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
        )

    def shape(self, model: str, request: AnyRequest) -> tuple[str, Call]:
        """Return the wire decoder's name and the call.

        Raises `RequestError` (bad_request) naming a field that the provider cannot be told.
        """
        return self.vendor.api(request), self.vendor.generate(model, request)

    def reattach(self, api: str, cursor: Cursor) -> Call:
        """Return the call that goes on with an answer behind `cursor`."""
        return self.vendor.reattach(api, cursor)

    def recall(self, api: str, cursor: Cursor) -> Call:
        """Return the call that makes the provider stop an answer."""
        return self.vendor.recall(api, cursor)
