"""A filter of what a stream says: matches of patterns are replaced, however tokens cut them.

What could still become a match is held back, and no more than that. A match is the longest one at
the leftmost place, of at most `longest` bytes of UTF-8, and no two overlap. So what comes out
depends on the text alone, not on how it was cut. The time is linear, whatever the patterns: RE2
looks at a byte again only while it is held back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Final, TypeAlias, get_args

import msgspec
from msgspec.structs import replace

from ringcast.providers import pattern
from ringcast.providers.transform_spec import LONGEST_BYTES, Part
from ringcast.shm.tokens import (
    Delta,
    FunctionCall,
    Reasoning,
    Refusal,
    StreamToken,
    Text,
    ToolCall,
)
from ringcast.workers.transform import BatchTransformer

SLICE_CHARACTERS: Final = 1024  # of a long text at a time, so that little is searched again
# Places where only a match that is too long begins, each of which costs a search that may take
# 0.6 ms: from then on such a match is replaced if it is there as a whole.
MAX_TOO_LONG: Final = 1000

# What is one text: the part of the answer, and two numbers that tell its texts apart.
_Channel: TypeAlias = tuple[Part, int, int]


class _Held(msgspec.Struct, frozen=True, array_like=True):
    """The end of a text: what is held back of it, and the byte before, for `\\b` and `^`."""

    before: bytes = b""
    text: bytes = b""


class _State(msgspec.Struct, array_like=True):
    held: list[tuple[_Channel, _Held]] = []
    removed: int = 0


_PARTS: Final = frozenset(get_args(Part))
_NOTHING: Final = _Held()
_MAIN: Final[_Channel] = ("text", 0, 0)
_decode_state = msgspec.msgpack.Decoder(_State).decode


class ContentFilter(BatchTransformer):
    """Replaces what matches any of `patterns` (RE2's syntax) in the parts of an answer.

    `parts` are of text, reasoning, refusal and arguments (of tool calls, as the JSON text that
    they are; there the replacement is escaped). Log-probabilities and token ids go with a token
    whose text is changed, a signature stays. Citations and sources are not filtered. What is held
    back may come behind tokens of other parts. `removed` counts matches.
    """

    def __init__(
        self,
        patterns: Iterable[str],
        replacement: str = "",
        parts: Iterable[Part] = ("text",),
        longest: int = LONGEST_BYTES,
    ) -> None:
        """Raises `PatternError`, `ConfigError` where RE2 is not installed, and `ValueError`.

        That is for a part that there is not, and for patterns or parts that are a string: its
        characters would be taken for them.
        """
        if isinstance(patterns, str) or isinstance(parts, str):
            raise ValueError("patterns and parts are lists, not a string")
        self._patterns = pattern.compiled(tuple(patterns), longest)
        plain = replacement.encode()
        self._replacement = plain, msgspec.json.encode(replacement)[1:-1]
        self._parts = frozenset(parts)
        if unknown := sorted(self._parts - _PARTS):
            known = ", ".join(sorted(_PARTS))
            raise ValueError(f"{unknown[0]!r} is no part of an answer; those are {known}")
        self._longest = longest
        self._held: dict[_Channel, _Held] = {}
        self._too_long = 0
        self.changed = False
        self.removed = 0

    def feed(self, tokens: Sequence[StreamToken], now_ns: int) -> list[StreamToken]:
        """Return what is left of tokens; those of one text that follow each other may be joined."""
        after: list[StreamToken] = []
        for kind, alike in groupby(tokens, type):
            if kind is Text and "text" in self._parts:  # by far the commonest: 0.1 us, not 0.65
                run = [token for token in alike if isinstance(token, Text)]
                self._join(_MAIN, run, "".join([token.content for token in run]), after)
                continue
            for channel, parts in groupby(alike, self._channel):
                if channel is None:
                    after += parts
                else:
                    self._filter(channel, list(parts), after)
        return after

    def flush(self, now_ns: int) -> list[StreamToken]:
        """Return what was held back, without the matches that end where the text ends."""
        after: list[StreamToken] = []
        for channel in list(self._held):
            text, _ = self._scan(channel, "", final=True)
            if text:
                after.append(_token(channel, text))
        self._held.clear()
        return after

    def state(self) -> bytes:
        """Return what is held back, and the count."""
        self.changed = False
        return msgspec.msgpack.encode(_State(list(self._held.items()), self.removed))

    def restore(self, state: bytes) -> None:
        """Go on from a `state`. Raises `msgspec.MsgspecError`."""
        saved = _decode_state(state)
        self._held, self.removed = dict(saved.held), saved.removed

    def _channel(self, token: StreamToken) -> _Channel | None:
        """Return the text that a token belongs to, None if it is not to be filtered."""
        channel: _Channel
        match token:
            case Text():
                channel = _MAIN
            case Delta():
                channel = ("text", token.index, 0)
            case Reasoning():
                channel = ("reasoning", token.index, token.block)
            case Refusal():
                channel = ("refusal", token.index, 0)
            case ToolCall():
                channel = ("arguments", token.choice, token.index)
            case FunctionCall():
                channel = ("arguments", token.index, -1)
            case _:
                return None
        return channel if channel[0] in self._parts else None

    def _filter(self, channel: _Channel, run: list[StreamToken], after: list[StreamToken]) -> None:
        """Filter tokens of one text as one, if they are nothing but text."""
        if len(run) > 1 and not all(map(_plain, run)):
            for token in run:
                self._filter(channel, [token], after)
            return
        self._join(channel, run, "".join(map(_text, run)), after)

    def _join(
        self, channel: _Channel, run: Sequence[StreamToken], said: str, after: list[StreamToken]
    ) -> None:
        text, same = self._scan(channel, said)
        if same:
            after += run
        elif text or not _plain(_changed(run[0], text)):
            after.append(_changed(run[0], text))

    def _scan(self, channel: _Channel, said: str, *, final: bool = False) -> tuple[str, bool]:
        """Return what is certain by now of a text, and whether that is just what was said."""
        if len(said) > SLICE_CHARACTERS:
            steps = range(0, len(said), SLICE_CHARACTERS)
            pieces = [self._scan(channel, said[at : at + SLICE_CHARACTERS])[0] for at in steps]
            return "".join(pieces), False
        held = self._held.get(channel, _NOTHING)
        data = held.before + held.text + said.encode("utf-8", "surrogatepass")
        removed = self.removed
        left, rest = self._replaced(data, len(held.before), channel[0] == "arguments", final)
        before = data[max(rest - 1, 0) : rest] if self._patterns.asserts else b""
        now = _Held(before, data[rest:])
        if now != held or removed != self.removed:
            self._held[channel] = now
            self.changed = True
            if now == _NOTHING:
                del self._held[channel]
        if removed == self.removed and not held.text and not now.text:
            return said, True
        return left.decode("utf-8", "surrogatepass"), False

    def _replaced(self, data: bytes, at: int, escaped: bool, final: bool) -> tuple[bytes, int]:
        """Return what is certain of `data` from `at` on, and where the uncertain rest begins.

        Matches are looked for with one byte more, but at the end of the text, so that it is not
        mistaken for the end of what is there by now.
        """
        programs, more = self._patterns, 0 if final else 1
        find = programs.last.search if final else programs.inside.search
        rest = len(data) if final else self._rest(data, at)
        left: list[bytes] = []
        begin = at
        while len(data) - at >= programs.width + more:  # RE2 is 1 us, and most tokens are short
            found = find(data, at)
            if found is None or (start := found.start()) >= rest:
                break
            end = found.end() - more
            if end - start > self._longest:
                end = self._shortened(data, start) or self._too_long_to(end)
            at = end or start + 1
            if end:
                left += data[begin:start], self._replacement[escaped]
                begin = at
                self.removed += 1
            if at > rest:
                rest = self._rest(data, at)
        return b"".join([*left, data[begin:rest]]), rest

    def _rest(self, data: bytes, at: int) -> int:
        """Return where the first match may begin of which the text's end may be a part."""
        found = self._patterns.begun.search(data, max(at, len(data) - self._longest))
        assert found is not None  # the end itself is the beginning of anything
        return found.start()

    def _shortened(self, data: bytes, start: int) -> int:
        """Return the end of the longest match at `start` that is not too long, 0 without one."""
        first = max(start - 1, 0)
        part = data[first : start + self._longest + 1]
        found = self._patterns.inside.match(part, start - first)
        return 0 if found is None else first + found.end() - 1

    def _too_long_to(self, end: int) -> int:
        self._too_long += 1
        return end if self._too_long > MAX_TOO_LONG else 0


def _plain(token: StreamToken) -> bool:
    """Say whether a token is text and nothing else, so that several may become one."""
    match token:
        case Text():
            return True
        case Delta():
            return token.logprob is None and token.token_ids is None
        case Refusal():
            return token.logprob is None
        case Reasoning():
            return token.signature is None and token.encrypted is None and token.detail is None
        case ToolCall():
            return token.id is None and token.name is None
        case FunctionCall():
            return token.name is None
    return False


def _text(token: StreamToken) -> str:
    if isinstance(token, ToolCall | FunctionCall):
        return token.arguments
    assert isinstance(token, Text | Delta | Reasoning | Refusal)
    return token.content


def _changed(token: StreamToken, text: str) -> StreamToken:
    """Return a token with another text, without what says in numbers what it was."""
    match token:
        case Text():
            return Text(text)
        case ToolCall() | FunctionCall():
            return replace(token, arguments=text)
        case Delta():
            return replace(token, content=text, logprob=None, token_ids=None)
        case Refusal():
            return replace(token, content=text, logprob=None)
    return replace(token, content=text)


def _token(channel: _Channel, text: str) -> StreamToken:
    """Return the token that says what was held back."""
    part, first, second = channel
    match part:
        case "reasoning":
            return Reasoning(text, first, second)
        case "refusal":
            return Refusal(text, first)
        case "arguments" if second < 0:
            return FunctionCall(None, text, first)
        case "arguments":
            return ToolCall(second, None, None, text, first)
    return Delta(text, first) if first else Text(text)
