"""Where a chunk of a chat says that something went wrong: each server has its own place for it.

One choice of several may say so as well (OpenRouter); its chunk has text and counts all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ringcast.providers.wire.chunk import Chunk


def said_error(chunk: Chunk) -> Mapping[str, Any] | None:
    """The error in a chunk, null if there is none.

    At `error` (nearly all), in Groq's own object, flat (old vLLM and gateways), or in MiniMax's
    `base_resp`. An empty text or false is none, as in the SDKs.
    """
    if chunk.error is not None and chunk.error != "" and chunk.error is not False:
        return {"error": chunk.error, "code": chunk.code}
    if isinstance(chunk.x_groq, dict) and chunk.x_groq.get("error"):
        return {"error": chunk.x_groq["error"]}
    if _is_flat(chunk):
        return {"message": chunk.message, "type": chunk.type, "code": chunk.code}
    base = chunk.base_resp
    return base if isinstance(base, dict) and base.get("status_code") not in (None, 0) else None


def _is_flat(chunk: Chunk) -> bool:
    """Whether all of a chunk is an error: one that says so, or a message with a code, alone."""
    if "error" in (chunk.object, chunk.type):
        return True
    alone = chunk.choices is None and chunk.usage is None
    return alone and bool(chunk.code) and isinstance(chunk.message, str) and bool(chunk.message)
