"""One configured provider with its key: which calls it takes, and how it is told who asks."""

from __future__ import annotations

from typing import Final

import msgspec

from ringcast.config import Provider
from ringcast.providers import anthropic, gemini, openai, responses
from ringcast.providers.keys import Secret
from ringcast.providers.request import Call, Request
from ringcast.shm.records import Cursor

# The API that a request means which names none.
MAIN: Final = {"anthropic": "messages", "gemini": "generate"}
# The header that carries the key, and what stands before it.
_CREDENTIALS: Final = {"anthropic": ("x-api-key", ""), "gemini": ("x-goog-api-key", "")}


class Gateway(msgspec.Struct, frozen=True):
    """How one provider is spoken to."""

    config: Provider
    key: Secret | None

    def headers(self) -> dict[str, str]:
        """Return the headers of every request; a call's and the configured ones come over it."""
        headers = {"content-type": "application/json", "accept": "text/event-stream"}
        if self.key is not None:
            name, scheme = _CREDENTIALS.get(self.config.kind, ("authorization", "Bearer "))
            headers[name] = scheme + self.key.reveal()
        return headers

    def shape(self, model: str, request: Request) -> tuple[str, Call]:
        """Return the wire decoder's name and the call.

        Raises `RequestError` (bad_request) naming a field that the provider cannot be told.
        """
        kind = self.config.kind
        api = request.api or MAIN.get(kind, "chat")
        if kind == "anthropic":
            return api, anthropic.shape(model, request, self.config.max_tokens)
        if kind == "gemini":
            return api, gemini.shape(model, request)
        return api, openai.shape(kind, model, request)

    def reattach(self, api: str, cursor: Cursor) -> Call:
        """Return the call that goes on with an answer behind `cursor`."""
        own = gemini if api == "interactions" else responses
        return Call(own.reattach(cursor), headers=_extra(api), method="GET")

    def recall(self, api: str, cursor: Cursor) -> Call:
        """Return the call that makes the provider stop an answer."""
        own = gemini if api == "interactions" else responses
        return Call(own.cancel_path(cursor), headers=_extra(api))


def _extra(api: str) -> dict[str, str]:
    return gemini.HEADERS if api == "interactions" else {}
