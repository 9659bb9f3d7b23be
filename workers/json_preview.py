"""What the arguments of a tool call say while they still come, for editors that show them.

A fragment of a call may carry a `preview`: the JSON value of the arguments so far, without what is
cut off, but for the beginning of a string. Each is a beginning of the next: objects and arrays get
more members, the last string more text, and nothing is taken back (of a name that comes twice the
last value counts). So a number is not shown before it has ended.

 1. A text is parsed again when it has grown by an eighth, and when it ends: all the previews of a
    call take, in time and in bytes, about nine times what the last one takes.
 2. A text ends with its outermost object, array or string, or else with the stream.
 3. One that cannot become JSON any more, or that jiter does not read (half a surrogate pair alone,
    numbers of thousands of digits, 200 levels), has no more previews.
 4. Texts that have not ended are in the stream's CHECKPOINT, in every round that adds to them: a
    slow model's 32 KiB, ten characters a round, are 50 MB through the out-ring. So all of them
    have at most `MAX_BYTES`; a call that would take more has no more previews.

What msgpack cannot carry is null: integers of more than 64 bits, and what is over 64 levels deep.
https://github.com/pydantic/jiter is the parser, with `partial_mode="trailing-strings"`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, TypeAlias

import msgspec
from msgspec.structs import replace

from ringcast.errors import ConfigError
from ringcast.providers.transform_spec import PREVIEW_NEEDS
from ringcast.providers.wire.json_text import JsonText
from ringcast.providers.wire.portable import portable
from ringcast.shm.tokens import StreamToken, ToolCall
from ringcast.workers.transform import BatchTransformer

MAX_BYTES: Final = 32 << 10
GROWTH: Final = 8
_NUMBER: Final = b"+-.0123456789Ee"

_Key: TypeAlias = tuple[int, int]  # choice and index


class _Arguments(msgspec.Struct, array_like=True):
    """A text that has not ended, what is known of it, and its size at the last preview."""

    text: bytearray = msgspec.field(default_factory=bytearray)
    json: JsonText = msgspec.field(default_factory=JsonText)
    shown: int = 0

    @property
    def ended(self) -> bool:
        """Whether only space may follow."""
        return self.json.want == "next" and not self.json.open

    @property
    def due(self) -> bool:
        """Whether a preview would be worth its cost."""
        grown = len(self.text) - self.shown
        return self.ended or (grown > 0 and grown >= self.shown // GROWTH)


class _State(msgspec.Struct, array_like=True):
    under_way: list[tuple[_Key, _Arguments]] = []
    over: list[_Key] = []


_decode_state = msgspec.msgpack.Decoder(_State).decode


class JsonPreview(BatchTransformer):
    """Adds previews to fragments of tool calls; everything else goes on as it is.

    It belongs behind what changes arguments, as a content filter may.
    """

    def __init__(self) -> None:
        """Raises `ConfigError` where jiter is not installed."""
        self._parse = _parser()
        self._under_way: dict[_Key, _Arguments] = {}
        self._over: set[_Key] = set()  # calls that have no more previews
        self._bytes = 0
        self.changed = False

    def feed(self, tokens: Sequence[StreamToken], now_ns: int) -> list[StreamToken]:
        """Return the tokens, with previews where they are due."""
        return [self._seen(t) if type(t) is ToolCall and t.arguments else t for t in tokens]

    def flush(self, now_ns: int) -> list[StreamToken]:
        """Return what texts that the stream ends say beyond their last preview."""
        after: list[StreamToken] = []
        for (choice, index), its in self._under_way.items():
            if len(its.text) > its.shown and (value := self._value(its, final=True)) is not None:
                after.append(ToolCall(index, choice=choice, preview=value))
        self._under_way.clear()
        return after

    def state(self) -> bytes:
        """Return the texts that have not ended, and which calls have no more previews."""
        self.changed = False
        return msgspec.msgpack.encode(_State(list(self._under_way.items()), sorted(self._over)))

    def restore(self, state: bytes) -> None:
        """Go on from a `state`. Raises `msgspec.MsgspecError`."""
        saved = _decode_state(state)
        self._under_way, self._over = dict(saved.under_way), set(saved.over)
        self._bytes = sum(len(its.text) for its in self._under_way.values())

    def _seen(self, token: ToolCall) -> ToolCall:
        key = token.choice, token.index
        if key in self._over:
            return token
        its = self._take(key, token.arguments)
        value = self._value(its) if its.due else None
        if its.ended or not its.json.want or self._bytes > MAX_BYTES:
            self._leave(key)
        return token if value is None else replace(token, preview=value)

    def _take(self, key: _Key, arguments: str) -> _Arguments:
        its = self._under_way.setdefault(key, _Arguments())
        data = arguments.encode("utf-8", "replace")
        its.text += data
        its.json.feed(arguments)
        self._bytes += len(data)
        self.changed = True
        return its

    def _leave(self, key: _Key) -> None:
        self._bytes -= len(self._under_way.pop(key).text)
        self._over.add(key)

    def _value(self, its: _Arguments, *, final: bool = False) -> Any | None:
        """Return what a text says so far, None if that is nothing or it cannot be said."""
        text = _settled(its, final)
        if not text or len(text) > MAX_BYTES:
            return None
        try:
            value = portable(self._parse(text))
        except ValueError:
            its.json.want = ""
            return None
        its.shown = len(its.text)
        return value


def _settled(its: _Arguments, final: bool) -> bytes:
    """Return a text without a number that is cut, and nothing where no value has begun."""
    json, text = its.json, bytes(its.text)
    if not json.want or (json.want == "text" and json.piece[:1] != '"'):
        return text.strip() if final and json.want and json.whole else b""
    return text.rstrip(_NUMBER) if json.piece[:1] in tuple("-0123456789") else text


def _parser() -> Callable[[bytes], Any]:
    try:
        from jiter import from_json  # 0.7 MB that only this needs
    except ImportError:
        raise ConfigError(PREVIEW_NEEDS) from None
    return partial(from_json, partial_mode="trailing-strings", cache_mode="none")
