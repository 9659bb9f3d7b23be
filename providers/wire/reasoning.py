"""Thinking text under its many names, told once, with what must be sent back unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from ringcast.providers.wire.numbers import whole
from ringcast.providers.wire.portable import portable, string
from ringcast.shm.tokens import Reasoning

THOUGHTS: Final = ("thinking", "reasoning")  # the types of parts of a content that are none of it

_SUMMARY: Final = {"type": "reasoning_summary"}  # Claude's signature, but not in its own place
_TEXT: Final = {"reasoning.text": "text", "reasoning.summary": "summary"}


def openai_reasoning(texts: tuple[Any, ...], details: Any, index: int) -> list[Reasoning]:
    """From the first of `texts` that is one, else the texts in `reasoning_details`.

    OpenRouter sends the same text as `reasoning` and in its details: where both are there, the
    details give only signatures and encrypted blocks.
    https://openrouter.ai/docs/use-cases/reasoning-tokens
    """
    tokens = []
    for text in texts:
        if text and isinstance(text, str):
            tokens.append(Reasoning(text, index))
            break
    told = bool(tokens)
    found = [_detail(detail, index, told=told) for detail in _objects(details)]
    return tokens + [token for token in found if token is not None]


def thinking_blocks(blocks: Any, index: int, *, told: bool) -> list[Reasoning]:
    """From Claude's blocks, which LiteLLM sends beside `reasoning_content`.

    Where the text was `told` there, they give only signatures and encrypted blocks.
    https://docs.litellm.ai/docs/reasoning_content
    """
    tokens = []
    for block in _objects(blocks):
        said = block.get("thinking")
        text = said if isinstance(said, str) and not told else ""
        signature, encrypted = string(block.get("signature")), string(block.get("data"))
        if text or signature or encrypted:
            tokens.append(Reasoning(text, index, 0, signature, encrypted))
    return tokens


def thinking_parts(content: Any, index: int) -> list[Reasoning]:
    """From the parts of a content: Mistral's `thinking`, the `reasoning` of Databricks' Claude.

    https://docs.mistral.ai/capabilities/reasoning
    """
    return [
        Reasoning(text, index, signature=signature, detail=_SUMMARY if signature else None)
        for part in _objects(content)
        if part.get("type") in THOUGHTS
        for text, signature in _said(part.get("thinking") or part.get("summary"))
        if text or signature
    ]


def _said(thought: Any) -> Iterator[tuple[str, str | None]]:
    """The texts of a thought, which is one or has parts, each with its signature."""
    if isinstance(thought, str):
        yield thought, None
    for part in _objects(thought):
        text = part.get("text")
        yield text if isinstance(text, str) else "", string(part.get("signature"))


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


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
