"""Gemini's streamed arguments: values with their JSON paths in, the text of one object out.

The model writes its arguments from left to right, so the text can be told as it comes; only the
way down to the value that is being written is remembered, and the keys beside that way.
https://ai.google.dev/api/caching#FunctionCall (`partialArgs`)
"""

from __future__ import annotations

import json
import re
from itertools import takewhile
from typing import Any, Final

import msgspec

from ringcast.providers.wire.payload import bad_event
from ringcast.providers.wire.portable import HALF, whole_text
from ringcast.providers.wire.tool_calls import argument_text

MAX_DEPTH: Final = 64
MAX_PATH_CHARS: Final = 4096
MAX_GAP: Final = 256  # array elements left out in one go, because there is nothing in them

_STEP: Final = re.compile(
    r"""\.(?P<name>[^.\[\]]+)|\[(?P<index>\d{1,9})\]|\[(?P<quoted>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")\]"""
)
_ESCAPED: Final = re.compile(r"""\\'|\\.|\"""", re.DOTALL)


class PartialArguments(msgspec.Struct, array_like=True):
    """The open end of one call's arguments.

    `path` leads to the value that is being written, `keys[i]` are those used so far where `path[i]`
    is one of them. `end` is what still has to be written of the value: a quote, or all of it.
    """

    path: list[str | int] = []
    keys: list[list[str]] = []
    end: str = ""

    def write(self, path: str, value: Any) -> str:
        """The text that comes with a value, a piece of a string or another scalar, at `path`.

        Raises `WireError` (bad_event) if there is no such place any more, or never was.
        """
        steps = _steps(path)
        if steps == self.path:
            return self._go_on(value, path)
        text = self._move(steps, path)
        if isinstance(value, str):
            self.end = '"'
            return f'{text}"{_inside(value)}'
        self.end = json_text(value)
        return text

    def close(self) -> str:
        """The rest of the text: at least `{}`."""
        rest = self.end + self._closers(0) if self.path else "{}"
        self.path, self.keys, self.end = [], [], ""
        return rest

    def _go_on(self, value: Any, path: str) -> str:
        """More of the string that is open, or the scalar once more: the last one counts."""
        if isinstance(value, str) != (self.end == '"'):
            raise bad_event("a tool call's argument has values of two types", path)
        if isinstance(value, str):
            return _inside(value)
        self.end = json_text(value)
        return ""

    def _move(self, steps: list[str | int], path: str) -> str:
        """Close what `steps` does not share with the present path, and open what is new."""
        pairs = zip(self.path, steps, strict=False)
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        if shared == len(steps) or (self.path and shared == len(self.path)):
            raise bad_event("a tool call's argument is both a value and an object", path)
        text = ""
        if self.path:
            text = self.end + self._closers(shared + 1) + self._beside(steps[shared], shared, path)
            del self.path[shared:], self.keys[shared + 1 :]
        else:
            text = self._into(steps[0], path)
        self.path.append(steps[shared])
        for step in steps[shared + 1 :]:
            text += self._into(step, path)
            self.path.append(step)
        return text

    def _closers(self, depth: int) -> str:
        return "".join("}" if isinstance(s, str) else "]" for s in reversed(self.path[depth:]))

    def _into(self, step: str | int, path: str) -> str:
        """Open an object at its first key, or an array at its first element."""
        if isinstance(step, str):
            self.keys.append([step])
            return "{" + json_text(step, quoted=True) + ":"
        self.keys.append([])
        return "[" + _nulls(step, path)

    def _beside(self, step: str | int, depth: int, path: str) -> str:
        """Go on in the object or array at `depth`."""
        before = self.path[depth]
        if isinstance(step, str) and isinstance(before, str) and step not in self.keys[depth]:
            self.keys[depth].append(step)
            return "," + json_text(step, quoted=True) + ":"
        if isinstance(step, int) and isinstance(before, int) and step > before:
            return "," + _nulls(step - before - 1, path)
        raise bad_event("a tool call's arguments came out of order", path)


def json_text(value: Any, *, quoted: bool = False) -> str:
    """A value as JSON.stringify writes it; text is JSON already unless it is to be `quoted`.

    Raises `WireError` (bad_event) for one nested too deeply.
    """
    text = json.dumps(value, ensure_ascii=False) if quoted else argument_text(value) or "null"
    return HALF.sub(_escape, text)


def _inside(text: str) -> str:
    """A piece of a string without its quotes; halves of an emoji stay halves in their escapes."""
    return json_text(text, quoted=True)[1:-1]


def _escape(half: re.Match[str]) -> str:
    return f"\\u{ord(half[0]):04x}"


def _nulls(count: int, path: str) -> str:
    if count > MAX_GAP:
        raise bad_event(f"a tool call's argument leaves out more than {MAX_GAP} elements", path)
    return "null," * count


def _steps(path: str) -> list[str | int]:
    """The steps of a JSON path such as `$.a.b[0]['c']`: keys and indexes, a key first."""
    at, steps = 1, list[str | int]()
    while path[:1] == "$" and at < len(path) <= MAX_PATH_CHARS and len(steps) < MAX_DEPTH:
        step = _STEP.match(path, at)
        if step is None:
            break
        if step["index"]:
            steps.append(int(step["index"]))
        else:
            steps.append(step["name"] or _unquoted(step["quoted"], path))
        at = step.end()
    if at != len(path) or not steps or isinstance(steps[0], int):
        raise bad_event("no path of a tool call's argument", path)
    return steps


def _unquoted(name: str, path: str) -> str:
    """The key in a quoted step, whose escapes are JSON's and one for the single quote."""
    text = _ESCAPED.sub(lambda found: _REQUOTED.get(found[0], found[0]), name[1:-1])
    try:
        return whole_text(json.loads(f'"{text}"', strict=False))
    except ValueError:
        raise bad_event("no path of a tool call's argument", path) from None


_REQUOTED: Final = {"\\'": "'", '"': '\\"'}
