"""Roo-Code's handlers of OpenAI's Responses; see `roo`."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ringcast.providers.wire.payload import decode
from ringcast.providers.wire.responses import Responses
from ringcast.providers.wire.responses_event import Answer, Event, Item
from ringcast.providers.wire.roo_handler import Handler
from ringcast.providers.wire.sse import SseEvent
from ringcast.shm.tokens import StreamToken, Text

_CUSTOM: Final = "custom_tool_call"


class Xai(Responses):
    """`XAIHandler`: calls of custom tools, whose input is free text, are left out."""

    def _tell(self, event: Event, tokens: list[StreamToken]) -> list[StreamToken] | None:
        kind = event.type
        if isinstance(kind, str) and kind.startswith("response.custom_tool_call_input."):
            return None
        return super()._tell(event, tokens)

    def _begin(self, index: int, item: Item, tokens: list[StreamToken]) -> None:
        if item.type != _CUSTOM:
            super()._begin(index, item, tokens)

    def _item(self, index: int, item: Item, tokens: list[StreamToken]) -> None:
        if item.type != _CUSTOM:
            super()._item(index, item, tokens)


class _Answer(Answer, gc=False):
    output: Any = None


class _Event(Event, gc=False):
    response: _Answer | None = None


class _Told(msgspec.Struct, array_like=True):
    """Where text was seen so far."""

    deltas: bool = False
    items: bool = False


_event: Final = msgspec.json.Decoder(_Event)


class OpenAiNative(Handler[Any], Xai):
    """`OpenAiNativeHandler`: each piece of a refusal is marked as one and shown as text.

    From servers that send no deltas it takes the text of whole items, or of the whole answer.
    """

    _own: _Told

    def __init__(self) -> None:
        super().__init__()
        self._own = _Told()

    def feed_block(self, block: bytes) -> list[StreamToken] | None:
        """Plain form: text deltas only."""
        tokens = super().feed_block(block)
        if tokens:
            self._see_deltas()
        return tokens

    def _read(self, event: SseEvent) -> list[Event]:
        payload = decode(_event, event.data)
        if payload.error is None:
            payload.type = payload.type or event.event
        return [payload]

    def _tell(self, event: Event, tokens: list[StreamToken]) -> list[StreamToken] | None:
        match event.type:
            case "response.output_text.delta":
                self._see_deltas()
            case "response.output_item.done" if event.item and not self._own.deltas:
                self._untold(event.item.type, event.item.content, tokens)
            case "response.completed" if isinstance(event.response, _Answer):
                if self._own == _Told():
                    for item in _objects(event.response.output):
                        self._untold(item.get("type"), item.get("content"), tokens)
        return super()._tell(event, tokens)

    def _see_deltas(self) -> None:
        self.changed |= not self._own.deltas
        self._own.deltas = True

    def _untold(self, kind: Any, content: Any, tokens: list[StreamToken]) -> None:
        for part in _objects(content) if kind == "message" else ():
            if part.get("type") in ("text", "output_text"):
                self._content(part.get("text"), 0, None, tokens)
                self._own.items = self.changed = True

    def _refusal(self, text: Any, tokens: list[StreamToken]) -> None:
        if text := self._joined("refusal", text):
            tokens.append(Text(f"[Refusal] {text}"))


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
