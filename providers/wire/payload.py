"""One event's JSON: decoded strictly by msgspec, and once more by the letter of JSON.parse.

The second look is for what a browser accepts and msgspec does not: halves of a surrogate pair
(a gateway cut an emoji in two) and integers of thousands of digits, which become null. The halves
are left only where the other one may follow; big integers are left, as the first look leaves them,
to `numbers` and, in what is handed on as it came, to `portable`.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final, NoReturn, TypeVar

import msgspec

from ringcast.errors import Code
from ringcast.providers.wire.portable import whole_text
from ringcast.providers.wire.printable import printable
from ringcast.providers.wire.sse import WireError

T = TypeVar("T")

MAX_INTEGER_DIGITS: Final = 300
_SHOWN_CHARS: Final = 80
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")
_BAD: Final = (msgspec.MsgspecError, ValueError, RecursionError, MemoryError)
_DELTAS: Final = frozenset(
    {
        *("completion", "content", "delta", "partial_json", "refusal", "stringValue", "text"),
        *("reasoning", "reasoning_content", "summary", "thinking"),
        *("generation", "outputText", "response"),
    }
)
_ARGUMENTS: Final = frozenset({"args", "arguments", "input"})


def decode(decoder: msgspec.json.Decoder[T], data: str | bytes) -> T:
    """The payload as `decoder`'s type. Raises `WireError` with code `bad_event`."""
    try:
        return decoder.decode(data)
    except RecursionError:
        raise bad_event("nested too deeply", data) from None
    except _BAD as error:
        if isinstance(error, UnicodeDecodeError) and isinstance(data, bytes):
            return decode(decoder, data.decode(errors="replace"))  # no SSE parser has seen it
        return _second_look(decoder.type, data, str(error))


def decode_lines(decoder: msgspec.json.Decoder[T], lines: bytes, count: int) -> list[T] | None:
    """The objects on `count` lines, null unless all of them are of `decoder`'s type at first look.

    With as many objects as lines, every line is one object if no JSON text has a line end inside.
    """
    try:
        objects = decoder.decode_lines(lines)
    except _BAD:
        return None
    return objects if len(objects) == count else None


def is_json(data: str) -> bool:
    """Whether `data` is one complete JSON text."""
    try:
        decode(_ANY, data)
    except WireError:
        return False
    return True


def parsed(data: bytes) -> Any:
    """The JSON in `data`, null if it is none."""
    try:
        return decode(_ANY, data)
    except WireError:
        return None


def loose(data: str) -> Any:
    """The JSON in `data`, or `data` itself if it is none."""
    try:
        return decode(_ANY, data)
    except WireError:
        return data


def bad_event(why: str, data: str | bytes) -> WireError:
    """The error for an event that can not be understood; it shows the event's beginning."""
    if isinstance(data, bytes):
        data = data[: 4 * _SHOWN_CHARS].decode(errors="replace")
    return WireError(Code.BAD_EVENT, f"bad event: {why}: {printable(data, _SHOWN_CHARS)}")


def convert(value: Any, into: type[T]) -> T:
    """Plain values as `into`. Raises `WireError` with code `bad_event`."""
    try:
        return msgspec.convert(value, into)
    except _BAD as error:
        raise bad_event(str(error), "") from None


def _second_look(into: type[T], data: str | bytes, why: str) -> T:
    text = data if isinstance(data, str) else data.decode(errors="replace")
    if not (_SURROGATE.search(text) or "out of range" in why):
        raise bad_event(why, data)
    try:
        value = json.loads(
            text, parse_int=_integer, parse_float=_finite, parse_constant=_no_constant
        )
        return msgspec.convert(_but_for_deltas(value), into)
    except _BAD:
        raise bad_event(why, data) from None


def _but_for_deltas(value: Any, field: str = "") -> Any:
    """A copy of `value` with whole text, but in the fields whose strings `surrogates.Halves` joins.

    The arguments of tools, which are told as JSON text, are left as they are too.
    """
    if isinstance(value, str):
        return value if field in _DELTAS else whole_text(value)
    if isinstance(value, dict):
        return {
            whole_text(key): item if key in _ARGUMENTS else _but_for_deltas(item, key)
            for key, item in value.items()
        }
    return [_but_for_deltas(item) for item in value] if isinstance(value, list) else value


def _integer(digits: str) -> int | None:
    return int(digits) if len(digits) <= MAX_INTEGER_DIGITS else None


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


_ANY: Final[msgspec.json.Decoder[Any]] = msgspec.json.Decoder(Any)
