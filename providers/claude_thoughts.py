"""What Claude thought, and what its API did on its own, as the blocks that go back to it.

Sources: docs.anthropic.com/en/docs/build-with-claude/extended-thinking and
/handling-stop-reasons#pause_turn. Calls of the API's own tools and summaries of compacted turns
came with the thoughts, each as its start and its deltas.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ringcast.providers.request import Json
from ringcast.providers.thoughts import Thought, thoughts

_OWN: Final = ("server_tool_use", "mcp_tool_use", "compaction", "fallback", "container_upload")
_FOUND: Final = "_tool_result"
# Of each kind of delta: its field, and that of the block which it adds to.
_DELTAS: Final = {
    "input_json_delta": ("partial_json", "input"),
    "compaction_delta": ("content", "content"),
}


def blocks(message: Json) -> list[Json]:
    """Return them in their order. Raises `RequestError` (bad_request) as `thoughts` does."""
    found: list[Json] = []
    for thought in thoughts(message):
        kind = str((thought.detail or {}).get("type", ""))
        if thought.detail is None:
            found += [_thinking(thought)] if thought.proven else []
        elif kind in _DELTAS and found:
            _add(found[-1], kind, thought.detail)
        elif kind in _OWN or kind.endswith(_FOUND):
            found.append(dict(thought.detail))
    return [block for block in map(_whole, found) if block is not None]


def _thinking(thought: Thought) -> Json:
    if thought.encrypted:
        return {"type": "redacted_thinking", "data": thought.encrypted}
    return {"type": "thinking", "thinking": thought.text, "signature": thought.signature}


def _add(block: Json, kind: str, delta: Json) -> None:
    source, target = _DELTAS[kind]
    before = block.get(target)
    block[target] = (before if isinstance(before, str) else "") + str(delta.get(source) or "")
    if sealed := delta.get("encrypted_content"):
        block["encrypted_content"] = sealed


def _whole(block: Json) -> Json | None:
    """Return a block with its input as an object, or null if that was cut."""
    if not isinstance(text := block.get("input"), str):
        return block
    try:
        return block | {"input": msgspec.json.decode(text, type=dict)}
    except msgspec.MsgspecError:
        return None
