"""Tool calls: which call a piece belongs to, whatever the server does with `index` and `id`.

Servers send the index always as 0 for several ids (old Ollama), or not at all, the id in every
piece, only in a later one, or never, the name in every piece or cut in two (Gemini's compatible
API), and arguments in pieces, whole, as an object or null.
"""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec

from ringcast.errors import Code
from ringcast.providers.wire.numbers import whole
from ringcast.providers.wire.portable import string
from ringcast.providers.wire.sse import WireError
from ringcast.shm.tokens import ToolCall

MAX_TOOL_CALLS: Final = 256
MAX_ARGUMENT_CHARS: Final = 16 << 20
MAX_NAME_CHARS: Final = 256


class Call(msgspec.Struct, array_like=True):
    """What was seen of one call; `size` counts the characters of its arguments."""

    id: str | None = None
    name: str | None = None
    size: int = 0


class ToolCalls(msgspec.Struct, array_like=True):
    """The calls of one choice, in order of first appearance; the position is our index."""

    calls: list[Call] = []
    by_index: dict[int, int] = {}
    by_id: dict[str, int] = {}

    def piece(
        self, index: Any, id: Any, name: Any, arguments: Any, choice: int, back: int = 0
    ) -> ToolCall | None:
        """The fragment to forward, or null if it says nothing new.

        One that names no call at all goes on with the newest, or one that is `back` before it.
        Raises `WireError`: a negative index, too many calls, or arguments too long.
        """
        id, name = string(id), string(name)
        name = name and name[:MAX_NAME_CHARS]
        text = argument_text(arguments)
        known = len(self.calls)
        ours = self._ours(whole(index), id, name, back)
        call = self.calls[ours]
        new_id = id if call.id is None else None
        new_name = _renamed(call, name)
        self._grow(call, text)
        if ours < known and new_id is None and new_name is None and not text:
            return None
        if new_id is not None:
            call.id = new_id
            self.by_id[new_id] = ours
        call.name = new_name or call.name
        return ToolCall(ours, new_id, new_name, text, choice)

    def _ours(self, index: int | None, id: str | None, name: str | None, back: int) -> int:
        if index is None:
            return self._without_index(id, name, back)
        if index < 0:
            raise WireError(Code.BAD_EVENT, f"bad event: tool call index {index} out of range")
        ours = self.by_index.get(index)
        if ours is None or _is_of_another(self.calls[ours], id, name):
            other = self.by_id.get(id) if id and ours is not None else None
            ours = self.by_index[index] = self._new() if other is None else other
        return ours

    def _without_index(self, id: str | None, name: str | None, back: int) -> int:
        if id is not None:
            known = self.by_id.get(id)
            return self._new() if known is None else known
        last = len(self.calls) - 1
        if last < 0 or (name and self.calls[last].name):
            return self._new()
        return max(last - back, 0)

    def _new(self) -> int:
        if len(self.calls) >= MAX_TOOL_CALLS:
            raise WireError(Code.TOOL_CALL_LIMIT, f"more than {MAX_TOOL_CALLS} tool calls")
        self.calls.append(Call())
        return len(self.calls) - 1

    def _grow(self, call: Call, text: str) -> None:
        call.size += len(text)
        if call.size > MAX_ARGUMENT_CHARS:
            limit = f"arguments of a tool call are longer than {MAX_ARGUMENT_CHARS} characters"
            raise WireError(Code.TOOL_ARGS_LIMIT, limit)


def _is_of_another(call: Call, id: str | None, name: str | None) -> bool:
    """Whether a piece with the index of `call` is of another one: that index is always 0."""
    if id is not None and call.id is not None:
        return id != call.id
    return name is not None and call.size > 0 and call.name not in (None, name)


def _renamed(call: Call, name: str | None) -> str | None:
    """The whole name, if it is news; before any arguments, another one is the rest of it."""
    if not name or name == call.name:
        return None
    if call.name is None or call.size or name.startswith(call.name):
        return name
    return (call.name + name)[:MAX_NAME_CHARS]


def argument_text(arguments: Any) -> str:
    """Arguments as text: objects as JSON.stringify writes them, null as nothing.

    Raises `WireError` for an object nested too deeply.
    """
    if isinstance(arguments, str):
        return arguments
    if arguments is None:
        return ""
    try:
        return json.dumps(_numbers(arguments), ensure_ascii=False, separators=(",", ":"))
    except RecursionError:
        raise WireError(Code.BAD_EVENT, "bad event: arguments nested too deeply") from None


def _numbers(value: Any) -> Any:
    """JavaScript has one kind of number: 1.0 is written as 1."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return int(value)
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    return [_numbers(item) for item in value] if isinstance(value, list) else value
