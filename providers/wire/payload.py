"""One event's JSON: decoded strictly by msgspec, and once more by the letter of JSON.parse.

The second look is for what a browser accepts and msgspec does not: halves of a surrogate pair
(a gateway cut an emoji in two) and integers of thousands of digits, which become null.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final, NoReturn, TypeVar

import msgspec

from ringcast.errors import Code
from ringcast.providers.wire.printable import printable
from ringcast.providers.wire.sse import WireError

T = TypeVar("T")

MAX_INTEGER_DIGITS: Final = 300
_SHOWN_CHARS: Final = 80
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")
_BAD: Final = (msgspec.MsgspecError, ValueError, RecursionError, MemoryError)


def decode(decoder: msgspec.json.Decoder[T], data: str | bytes) -> T:
    """The payload as `decoder`'s type. Raises `WireError` with code `bad_event`."""
    try:
        return decoder.decode(data)
    except RecursionError:
        raise bad_event("nested too deeply", data) from None
    except _BAD as error:
        return _second_look(decoder.type, data, str(error))


def is_json(data: str) -> bool:
    """Whether `data` is one complete JSON text."""
    try:
        decode(_ANY, data)
    except WireError:
        return False
    return True


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
    except msgspec.ValidationError as error:
        raise bad_event(str(error), "") from None


def _second_look(into: type[T], data: str | bytes, why: str) -> T:
    text = data if isinstance(data, str) else data.decode(errors="replace")
    if not (_SURROGATE.search(text) or "out of range" in why):
        raise bad_event(why, data)
    try:
        value = json.loads(
            text, parse_int=_integer, parse_float=_finite, parse_constant=_no_constant
        )
        return msgspec.convert(value, into)
    except _BAD:
        raise bad_event(why, data) from None


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
