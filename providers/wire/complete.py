"""Anthropic's legacy text completions, whose events are a few of a message's.

https://docs.anthropic.com/en/api/complete
"""

from __future__ import annotations

from ringcast.providers.wire.anthropic import Messages
from ringcast.providers.wire.message import Event
from ringcast.providers.wire.payload import decode
from ringcast.providers.wire.portable import string
from ringcast.providers.wire.sse import WireError
from ringcast.shm.tokens import StreamToken, Text


class Complete(Messages):
    """Decodes the legacy `POST /v1/complete`, whose end marker is a `stop_reason`."""

    def feed_block(self, block: bytes) -> list[StreamToken] | None:
        """There is no plain form: nobody streams much through this API any more."""
        return None

    def whole(self, answer: bytes) -> list[StreamToken] | None:
        """A non-streamed completion."""
        try:
            event = decode(self._event, answer)
        except WireError:
            return None
        text = isinstance(event.completion, str)
        return self._ended(self._tokens([event])) if text else None

    def _is_last(self, event: Event, tokens: list[StreamToken]) -> bool:
        if text := self._joined("text", event.completion):
            tokens.append(Text(text))
        if self._seen.id is None and (name := string(event.id)):
            self._seen.id, self._seen.model, self.changed = name, string(event.model), True
        if event.stop_reason:
            self._stop(event.stop_reason, event.stop)
        return bool(event.stop_reason)
