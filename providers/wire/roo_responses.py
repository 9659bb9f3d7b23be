"""Roo-Code's handlers of OpenAI's Responses; see `roo`."""

from __future__ import annotations

from typing import Any, Final

from ringcast.providers.wire.responses import Responses
from ringcast.providers.wire.responses_event import Event, Item, Part
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


class OpenAiNative(Xai):
    """`OpenAiNativeHandler`: each piece of a refusal is marked as one and shown as text.

    Of items without any delta only the text is shown.
    """

    def _part(self, part: Part, tokens: list[StreamToken]) -> None:
        if part.type != "refusal":
            super()._part(part, tokens)

    def _refusal(self, text: Any, tokens: list[StreamToken]) -> None:
        if text := self._joined("refusal", text):
            tokens.append(Text(f"[Refusal] {text}"))
