"""Thinking text under its many names, told once, with what must be sent back unchanged."""

from __future__ import annotations

from typing import Any, Final

from ringcast.providers.wire.numbers import whole
from ringcast.providers.wire.portable import portable, string
from ringcast.shm.tokens import Reasoning

_TEXT: Final = {"reasoning.text": "text", "reasoning.summary": "summary"}


def openai_reasoning(content: Any, reasoning: Any, details: Any, index: int) -> list[Reasoning]:
    """From `reasoning_content`, else `reasoning`, else the texts in `reasoning_details`.

    OpenRouter sends the same text as `reasoning` and in its details: where both are there, the
    details give only signatures and encrypted blocks.
    https://openrouter.ai/docs/use-cases/reasoning-tokens
    """
    text = next((t for t in (content, reasoning) if isinstance(t, str) and t), "")
    tokens = [Reasoning(text, index)] if text else []
    if isinstance(details, list):
        tokens += [
            token
            for detail in details
            if isinstance(detail, dict)
            and (token := _detail(detail, index, told=bool(text))) is not None
        ]
    return tokens


def _detail(detail: dict[str, Any], index: int, *, told: bool) -> Reasoning | None:
    kind = detail.get("type")
    said = detail.get(_TEXT.get(kind, "")) if isinstance(kind, str) and not told else None
    text = said if isinstance(said, str) else ""
    signature, encrypted = string(detail.get("signature")), string(detail.get("data"))
    if not (text or signature or encrypted):
        return None
    about = None
    if signature or encrypted:
        keys = ("type", "id", "format", "index")
        about = {key: portable(detail[key]) for key in keys if detail.get(key) is not None}
    block = whole(detail.get("index")) or 0
    return Reasoning(text, index, block, signature, encrypted, about)
