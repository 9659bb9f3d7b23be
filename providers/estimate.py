"""How many tokens a request has, roughly, for providers that do not count.

Four bytes of UTF-8 make a token: within a quarter for English, code and Chinese under the newer
tokenizers. A picture counts as the square root of its base64, at least for what it is worth.
"""

from __future__ import annotations

import math
from typing import Any, Final

import msgspec

from ringcast.providers.request import ChatRequest, CompletionRequest

BYTES_A_TOKEN: Final = 4
MESSAGE_TOKENS: Final = 4  # role and borders
LINKED_PICTURE_TOKENS: Final = 765  # 1024 x 1024 pixels in detail


def estimate(request: ChatRequest | CompletionRequest) -> int:
    """Return about how many tokens go to the model."""
    if isinstance(request, CompletionRequest):
        return _text(request.prompt) + _text(request.suffix or "")
    tokens = sum(MESSAGE_TOKENS + _value(message) for message in request.messages)
    return tokens + (_text(_json(request.tools)) if request.tools else 0)


def _value(value: Any) -> int:
    """Count the texts in a message, wherever they are."""
    if isinstance(value, str):
        return _picture(value) if value.startswith("data:") else _text(value)
    if isinstance(value, list):
        return sum(map(_value, value))
    if isinstance(value, dict):
        if value.get("type") == "image_url" and not _is_inline(value):
            return LINKED_PICTURE_TOKENS
        return sum(_value(inner) for key, inner in value.items() if key not in ("role", "type"))
    return 0


def _is_inline(part: dict[Any, Any]) -> bool:
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else image
    return isinstance(url, str) and url.startswith("data:")


def _picture(url: str) -> int:
    return math.ceil(math.sqrt(len(url)))


def _text(text: str) -> int:
    return math.ceil(len(text.encode(errors="replace")) / BYTES_A_TOKEN)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
